//! No scheduler: nobody is ever chosen. In IPVS, a service may be without one (`ipvsadm -s none`).

use super::{Arrival, Scheduler};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct NoScheduler;

impl Scheduler for NoScheduler {
    fn schedule<'s>(&self, _: &'s Service, _: &Destinations, _: Arrival<'_>) -> Option<&'s Destination> {
        None
    }
}
