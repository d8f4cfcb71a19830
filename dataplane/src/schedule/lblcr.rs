//! lblcr: lblc with replication: an address's connections go to a set of servers, to the one with the least overhead for
//! its weight (Linux, ip_vs_lblcr.c).
//!
//! The set grows by the server that wlc would choose when its own is gone or crowded, and loses its busiest when it has
//! been as it is for longer than `lblcr_expiration`.

use super::locality::{Locality, Set, is_crowded};
use super::{Arrival, Scheduler, Settings, Slots, is_candidate, least_for_weight, least_loaded, overhead};
use crate::destination::Destinations;
use crate::service::{Destination, Service};
use crate::time::{TICKS_PER_SECOND, Tick};

/// The most servers of one address.
const SET: usize = 24;

#[derive(Debug, Default)]
pub(super) struct ReplicatedLeastConnections(Locality<SET>);

/// Those of the set that the service has, the one added to the set last first, each with its number.
fn present<'s>(set: &Set<SET>, service: &'s Service) -> impl Iterator<Item = (u32, &'s Destination)> {
    set.servers.iter().filter_map(|number| Some((*number, service.numbered(*number)?)))
}

/// The busiest for its weight, and the first of equals.
fn busiest(set: &Set<SET>, service: &Service, loads: &Destinations) -> Option<u32> {
    let weighed = present(set, service).filter(|(_, d)| d.weight > 0);
    let costs = weighed.map(|(number, d)| (number, overhead(loads.load(d.id)), d.weight));
    let most = costs.reduce(|most, other| {
        let less = u128::from(most.1) * u128::from(other.2) < u128::from(other.1) * u128::from(most.2);
        if less { other } else { most }
    });
    most.map(|(number, ..)| number)
}

impl Scheduler for ReplicatedLeastConnections {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let (address, now) = (arrival.flow.destination().0, arrival.now);
        if let Some(set) = self.0.find(address, now) {
            let candidates = present(&set, service).map(|(_, d)| d).filter(|d| is_candidate(d, loads));
            let least = least_for_weight(candidates.map(|d| (overhead(loads.load(d.id)), d)));
            let expiration = i64::from(arrival.settings.lblcr_expiration) * i64::from(TICKS_PER_SECOND);
            if set.servers.len() > 1 && i64::from(now.since(set.changed)) > expiration {
                self.0.update(address, now, |set| {
                    if let Some(busiest) = busiest(set, service, loads).filter(|_| set.servers.len() > 1) {
                        set.remove(busiest, now);
                    }
                });
            }
            if let Some(least) = least.filter(|d| !is_crowded(d, service, loads)) {
                return Some(least);
            }
        }
        let server = least_loaded(service, loads)?;
        if let Some(number) = service.number(server) {
            self.0.update(address, now, |set| set.insert(number, now));
        }
        Some(server)
    }

    fn slots(&self, destinations: &[Destination]) -> Slots {
        self.0.numbers(destinations)
    }

    fn sweep(&self, now: Tick, settings: &Settings) {
        self.0.sweep(now, settings.lblcr_expiration);
    }
}
