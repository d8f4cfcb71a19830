//! fo: failover: the highest weight; the first of equals (Linux, ip_vs_fo.c).

use super::{Arrival, Scheduler, highest_weight, is_candidate};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct Failover;

impl Scheduler for Failover {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        highest_weight(service.destinations().iter().filter(|d| is_candidate(d, loads)))
    }
}
