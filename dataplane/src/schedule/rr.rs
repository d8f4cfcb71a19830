//! rr: the candidates in turn (Linux, ip_vs_rr.c).

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Arrival, Scheduler, Summary, is_candidate};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

/// Whose turn it was last: the destination's sequence number; 0 at first. A deleted destination's number still tells
/// where the turn had come to.
#[derive(Debug, Default)]
pub(super) struct RoundRobin(AtomicU32);

impl Scheduler for RoundRobin {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        _: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let (before, after) = service.destinations().split_at(service.place_after(last));
            let next = after.iter().chain(before).find(|d| is_candidate(d, loads))?;
            match self.0.compare_exchange_weak(last, next.sequence, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(now) => last = now,
            }
        }
    }

    /// Where the one deleted was the first of all, the next turn is the first one's again, be it new.
    fn changed(&self, destinations: Summary) {
        let last = self.0.load(Ordering::Relaxed);
        if destinations.newest < last {
            // Where a worker has been faster, turns go on from the one that it chose.
            let _ = self.0.compare_exchange(last, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
