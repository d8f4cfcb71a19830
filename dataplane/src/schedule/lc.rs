//! lc: the least overhead; the first of equals (Linux, ip_vs_lc.c).

use super::{Scheduler, is_candidate, overhead};
use crate::destination::Destinations;
use crate::parse::Flow;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct LeastConnections;

impl Scheduler for LeastConnections {
    fn schedule<'s>(&self, service: &'s Service, loads: &Destinations, _: Flow) -> Option<&'s Destination> {
        let candidates = service.destinations().iter().filter(|d| is_candidate(d));
        candidates.min_by_key(|d| overhead(loads.load(d.id)))
    }
}
