//! nq: never queue: the first without active connections, and where all have some, the shortest expected delay (Linux,
//! ip_vs_nq.c).

use super::{Arrival, Scheduler, delay, is_candidate, least_for_weight};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct NeverQueue;

impl Scheduler for NeverQueue {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let mut candidates = service.destinations().iter().filter(|d| is_candidate(d, loads));
        let idle = candidates.clone().find(|d| loads.load(d.id).active() == 0);
        idle.or_else(|| least_for_weight(candidates.by_ref().map(|d| (delay(loads.load(d.id)), d))))
    }
}
