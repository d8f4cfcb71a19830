//! wlc: the least overhead for its weight; the first of equals (Linux, ip_vs_wlc.c).

use super::{Arrival, Scheduler, is_candidate, overhead};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct WeightedLeastConnections;

impl Scheduler for WeightedLeastConnections {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let candidates = service.destinations().iter().filter(|d| is_candidate(d, loads));
        // Without division: a/v < b/w where a*w < b*v. 40 bits of overhead times 31 of weight.
        let weighed = candidates.map(|d| (u128::from(overhead(loads.load(d.id))), d));
        weighed
            .reduce(|least, other| {
                let less = least.0 * u128::from(other.1.weight) > other.0 * u128::from(least.1.weight);
                if less { other } else { least }
            })
            .map(|(_, destination)| destination)
    }
}
