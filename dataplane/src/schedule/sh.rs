//! sh: hashing of the source address (Linux, ip_vs_sh.c).
//!
//! Destinations have as many slots in a row as their weight says, and one where it is 0, in turn until no slot is left.
//! Where the one in the slot is no candidate, there is nobody, or with `sh-fallback` (flag 1) the next that is one.
//! `sh-port` (flag 2) hashes the source port, too.

use super::hash::{look_up, multiplicative, source};
use super::{Arrival, Flags, Scheduler, Slots, TableSizes};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

#[derive(Debug)]
pub(super) struct SourceHashing {
    /// The number of slots, as a power of two.
    slot_bits: u32,
}

impl SourceHashing {
    pub(super) fn new(sizes: &TableSizes) -> Self {
        Self { slot_bits: sizes.sh_bits.into() }
    }
}

impl Scheduler for SourceHashing {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let source = source(service, &arrival);
        let slot = multiplicative(source, self.slot_bits);
        look_up(service, loads, service.flags().contains(Flags::FIRST), |offset| slot + offset)
    }

    fn slots(&self, destinations: &[Destination]) -> Slots {
        let row = |(place, d): (u32, &Destination)| std::iter::repeat_n(place, d.weight.max(1) as usize);
        (0..).zip(destinations).flat_map(row).cycle().take(1 << self.slot_bits).collect()
    }
}
