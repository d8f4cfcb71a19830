//! lblc: locality-based least connections: an address's connections stay with one server (Linux, ip_vs_lblc.c). For a
//! service of many addresses, caches say: one by firewall mark.
//!
//! The server is that with the least overhead for its weight when the address is new, or when the server before has more
//! active connections than its weight while another has less than half of that.

use super::locality::{Locality, is_crowded};
use super::{Arrival, Scheduler, Settings, Slots, least_loaded};
use crate::destination::Destinations;
use crate::service::{Destination, Service};
use crate::time::Tick;

#[derive(Debug, Default)]
pub(super) struct LocalityLeastConnections(Locality<1>);

impl Scheduler for LocalityLeastConnections {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let (address, now) = (arrival.flow.destination().0, arrival.now);
        let remembered = self.0.find(address, now).and_then(|set| set.servers.first().copied());
        let server = remembered.and_then(|number| service.numbered(number));
        // Thresholds do not move an address, as in the kernel.
        if let Some(server) = server.filter(|d| d.weight > 0 && !is_crowded(d, service, loads)) {
            return Some(server);
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
        self.0.sweep(now, settings.lblc_expiration);
    }
}
