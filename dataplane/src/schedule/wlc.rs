//! wlc: the least overhead for its weight; the first of equals (Linux, ip_vs_wlc.c).

use super::{Arrival, Scheduler, least_loaded};
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
        least_loaded(service, loads)
    }
}
