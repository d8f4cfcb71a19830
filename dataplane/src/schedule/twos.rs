//! twos: of two picked at random by weight, the one with less overhead for its weight (Linux, ip_vs_twos.c).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Arrival, Scheduler, is_candidate, least_for_weight, overhead};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

/// The state of its random numbers (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014). A number is one addition for all workers.
#[derive(Debug)]
pub(super) struct PowerOfTwo(AtomicU64);

impl Default for PowerOfTwo {
    fn default() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0)))
    }
}

impl PowerOfTwo {
    /// A number below `bound`.
    fn random(&self, bound: u64) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut word = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        ((u128::from(word) * u128::from(bound)) >> 64) as u64
    }
}

impl Scheduler for PowerOfTwo {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let candidates = || service.destinations().iter().filter(|d| is_candidate(d, loads));
        let total: u64 = candidates().map(|d| u64::from(d.weight)).sum();
        let pick = || {
            // Up to the total and not below it, as in the kernel: the first has one chance more than its weight.
            let mut left = self.random(total + 1);
            let picked = candidates().find(|d| {
                let found = left <= d.weight.into();
                left = left.saturating_sub(d.weight.into());
                found
            });
            // One that was counted in the total may be full by now.
            picked.or_else(|| candidates().next_back())
        };
        let picks = [pick(), pick()].into_iter().flatten();
        least_for_weight(picks.map(|d| (overhead(loads.load(d.id)), d)))
    }
}
