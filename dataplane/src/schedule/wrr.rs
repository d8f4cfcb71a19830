//! wrr: in turn, those of higher weight more often (Linux, ip_vs_wrr.c).
//!
//! A threshold goes down from the highest weight to 0 in steps of the weights' greatest common divisor, and up again;
//! a turn goes to the next destination whose weight reaches the threshold.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Arrival, Scheduler, Slots, Summary, is_candidate};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

/// Whose turn it was last and the threshold, in one word.
#[derive(Debug, Default)]
pub(super) struct WeightedRoundRobin(AtomicU64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The sequence number of the destination that had the last turn; 0 before the first of a round.
    last: u32,
    /// What a destination's weight must reach.
    threshold: u32,
}

impl Mark {
    fn from_word(word: u64) -> Self {
        Self { last: (word >> 32) as u32, threshold: word as u32 }
    }

    fn to_word(self) -> u64 {
        u64::from(self.last) << 32 | u64::from(self.threshold)
    }

    /// The next turn, and the mark after it.
    fn advance<'s>(self, service: &'s Service, loads: &Destinations) -> (Option<&'s Destination>, Mark) {
        let destinations = service.destinations();
        let (step, top) = service.slots().at(0).zip(service.slots().at(1)).unwrap_or_default();
        if top == 0 {
            return (None, self);
        }
        let start = service.place_after(self.last);
        // Where we began: once all have been held against the lowest threshold, there is nobody.
        let stop_at = (self.last != 0).then(|| start.saturating_sub(1));
        let (mut place, mut threshold) = (start, i64::from(self.threshold));
        let (mut lowest, mut restarted, mut stop) = (false, false, None);
        loop {
            while let Some(destination) = destinations.get(place) {
                if is_candidate(destination, loads) && i64::from(destination.weight) >= threshold {
                    let mark = Mark { last: destination.sequence, threshold: threshold as u32 };
                    return (Some(destination), mark);
                }
                if stop == Some(place) {
                    let mark = Mark { last: destination.sequence, threshold: threshold as u32 };
                    return (None, mark);
                }
                place += 1;
            }
            place = 0;
            threshold = next_threshold(threshold, step, destinations, loads);
            if threshold <= 0 {
                threshold = i64::from(top);
                if lowest || stop_at.is_none() {
                    return (None, Mark { last: 0, threshold: top });
                }
                restarted = true;
            }
            lowest = threshold <= i64::from(step);
            if lowest && restarted {
                stop = stop_at;
            }
        }
    }
}

/// The threshold of the next round. The kernel goes down step by step; so many steps as nobody can reach, if the one of
/// highest weight is overloaded, say, are taken at once, but the lowest threshold above 0 is never left out.
fn next_threshold(threshold: i64, step: u32, destinations: &[Destination], loads: &Destinations) -> i64 {
    let candidates = destinations.iter().filter(|d| is_candidate(d, loads));
    let reachable = i64::from(candidates.map(|d| d.weight).max().unwrap_or(0).max(step));
    let (next, step) = (threshold - i64::from(step), i64::from(step));
    next - (next - reachable + step - 1).max(0) / step * step
}

/// The greatest common divisor of the weights, and the highest threshold that is a multiple of it above 0.
fn step_and_top(destinations: Summary) -> (u32, u32) {
    let step = destinations.divisor.max(1);
    (step, destinations.highest.saturating_sub(step - 1))
}

impl Scheduler for WeightedRoundRobin {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (destination, mark) = Mark::from_word(word).advance(service, loads);
            match self.0.compare_exchange_weak(word, mark.to_word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return destination,
                Err(now) => word = now,
            }
        }
    }

    /// Step and top, which a choice would else have to go over all destinations for.
    fn slots(&self, destinations: &[Destination]) -> Slots {
        <[u32; 2]>::from(step_and_top(destinations.iter().map(Summary::from).sum())).into_iter().collect()
    }

    /// The round begins again, and the threshold is kept where the new weights allow it.
    fn changed(&self, destinations: Summary) {
        let (step, top) = step_and_top(destinations);
        let adjust = |word| {
            let threshold = match Mark::from_word(word).threshold {
                0 => top,
                threshold if threshold > top => top,
                threshold if step > 1 => threshold / step * step + 1,
                threshold => threshold,
            };
            Some(Mark { last: 0, threshold }.to_word())
        };
        // The closure never declines, so there is always a new mark.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, adjust);
    }
}
