//! dh: hashing of the destination address (Linux, ip_vs_dh.c). For a service of many addresses: one by firewall mark.
//!
//! Destinations have a slot each in turn, whatever their weights. Where the one in the slot is no candidate, there is
//! nobody.

use super::hash::{fold, look_up, multiplicative};
use super::{Arrival, Scheduler, Slots, TableSizes};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct DestinationHashing {
    /// The number of slots, as a power of two.
    slot_bits: u32,
}

impl DestinationHashing {
    pub(super) fn new(sizes: &TableSizes) -> Self {
        Self { slot_bits: sizes.dh_bits.into() }
    }
}

impl Scheduler for DestinationHashing {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let address = fold(arrival.flow.destination().0);
        look_up(service, loads, false, |_| multiplicative(address, self.slot_bits))
    }

    fn slots(&self, destinations: &[Destination]) -> Slots {
        (0..destinations.len() as u32).cycle().take(1 << self.slot_bits).collect()
    }
}
