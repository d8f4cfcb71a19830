//! mh: Maglev hashing of the source address (Linux, ip_vs_mh.c; Eisenbud et al., "Maglev", NSDI 2016).
//!
//! Each destination has its own order in which it would take the slots, by its address and port; they take turns, those
//! of higher weight more at a time. So when one comes or goes, few slots of the others change hands. `mh-fallback`
//! (flag 1) asks other slots where the first has no candidate; `mh-port` (flag 2) hashes the source port, too.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::hash::{fold, look_up, source};
use super::{Arrival, Flags, Scheduler, Slots, TableSizes, gcd};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

/// The key for the first slot of a destination's order, and for sources.
const OFFSET_KEY: u64 = 2_654_435_761;

/// The key for the step of a destination's order.
const STEP_KEY: u64 = 2_654_446_892;

#[derive(Debug)]
pub(super) struct MaglevHashing {
    /// The number of slots, a prime.
    slots: u32,
    /// Turns at a time are less than 2 to this power.
    turn_bits: u32,
}

impl MaglevHashing {
    pub(super) fn new(sizes: &TableSizes) -> Self {
        Self { slots: sizes.mh_slots(), turn_bits: sizes.mh_turn_bits() }
    }

    /// Those that get slots, in the order in which they take them. A destination of weight 0 keeps the slots of its last
    /// weight, so that they are its own again once it is back.
    fn takers(&self, destinations: &[Destination]) -> Vec<Taker> {
        let unit = destinations.iter().fold(0, |all, d| gcd(all, d.last_weight));
        let highest = destinations.iter().map(|d| d.last_weight).max().unwrap_or(0).checked_div(unit);
        let bits = highest.map_or(0, |highest| u32::BITS - highest.leading_zeros());
        let shift = bits.saturating_sub(self.turn_bits);
        let taking = (0..).zip(destinations).filter(|(_, d)| d.last_weight > 0);
        taking
            .map(|(place, d)| {
                let value = fold(d.address).wrapping_add(d.port.into());
                Taker {
                    place,
                    slot: hash(value, OFFSET_KEY) % self.slots,
                    step: hash(value, STEP_KEY) % (self.slots - 1) + 1,
                    turns: ((d.last_weight / unit) >> shift).max(1),
                }
            })
            .collect()
    }
}

/// The kernel's hash of one 32-bit number: SipHash-1-3 cut to 32 bits, its key twice the same word.
#[inline]
fn hash(value: u32, key: u64) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&value.to_le_bytes());
    hasher.finish() as u32
}

/// A destination while slots are handed out.
struct Taker {
    place: u32,
    /// The next slot it would take.
    slot: u32,
    step: u32,
    /// How many slots it takes at a time.
    turns: u32,
}

impl Taker {
    /// Takes the next free slot of its order.
    fn take(&mut self, slots: &mut [Option<u32>]) {
        while slots[self.slot as usize].is_some() {
            self.slot = (self.slot + self.step) % slots.len() as u32;
        }
        slots[self.slot as usize] = Some(self.place);
    }
}

impl Scheduler for MaglevHashing {
    #[inline]
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let source = source(service, &arrival);
        let falls_back = service.flags().contains(Flags::FIRST);
        look_up(service, loads, falls_back, |offset| hash(source.wrapping_add(offset), OFFSET_KEY))
    }

    fn slots(&self, destinations: &[Destination]) -> Slots {
        let mut takers = self.takers(destinations);
        if takers.is_empty() {
            return Slots::default();
        }
        let mut slots = vec![None; self.slots as usize];
        let mut free = self.slots;
        while free > 0 {
            for taker in &mut takers {
                let turns = taker.turns.min(free);
                (0..turns).for_each(|_| taker.take(&mut slots));
                free -= turns;
            }
        }
        slots.into_iter().flatten().collect()
    }
}
