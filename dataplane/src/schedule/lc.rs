//! lc: the least overhead; the first of equals (Linux, ip_vs_lc.c).

use super::{Arrival, Scheduler, is_candidate, overhead};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct LeastConnections;

impl Scheduler for LeastConnections {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let candidates = service.destinations().iter().filter(|d| is_candidate(d, loads));
        candidates.min_by_key(|d| overhead(loads.load(d.id)))
    }
}
