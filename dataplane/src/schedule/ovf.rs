//! ovf: overflow: the highest weight that is not exceeded by active connections, so that the next is used once one is
//! full; the first of equals (Linux, ip_vs_ovf.c).

use super::{Arrival, Scheduler, highest_weight, is_candidate};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct Overflow;

impl Scheduler for Overflow {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let candidates = service.destinations().iter().filter(|d| is_candidate(d, loads));
        highest_weight(candidates.filter(|d| loads.load(d.id).active() <= d.weight))
    }
}
