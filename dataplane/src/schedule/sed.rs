//! sed: the shortest expected delay: active connections, the new one among them, for its weight (Linux, ip_vs_sed.c).
//! The first of equals.

use super::{Arrival, Scheduler, delay, is_candidate, least_for_weight};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct ShortestExpectedDelay;

impl Scheduler for ShortestExpectedDelay {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let candidates = service.destinations().iter().filter(|d| is_candidate(d, loads));
        least_for_weight(candidates.map(|d| (delay(loads.load(d.id)), d)))
    }
}
