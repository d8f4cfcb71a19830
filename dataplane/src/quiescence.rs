//! Quiescent states: how an entry is known to be out of every worker's hands before it is used again.
//!
//! A worker says at each burst that it holds nothing from before. Who unlinks an entry takes a [`Grace`] of all
//! workers, and may reuse the entry once every one of them has passed such a point since. (The scheme is QSBR; see
//! "Performance of memory reclamation for lockless synchronization", Hart et al. 2007.)

use crossbeam::utils::CachePadded;

use crate::sync::{AtomicU64, Ordering, fence};

/// A worker that holds nothing and will look at nothing until it passes again: not started, or stopped.
const OFFLINE: u64 = 0;

/// How often each worker has passed a quiescent state.
pub struct Quiescence {
    passes: Box<[CachePadded<AtomicU64>]>,
}

/// What every worker's count was at one moment.
#[derive(Debug)]
pub struct Grace {
    passes: Box<[u64]>,
}

impl Quiescence {
    /// For this many workers, all of them offline.
    pub fn new(workers: usize) -> Self {
        Self { passes: (0..workers).map(|_| CachePadded::new(AtomicU64::new(OFFLINE))).collect() }
    }

    /// Room for a moment; elapsed until [`Quiescence::start`] is called with it.
    pub fn grace(&self) -> Grace {
        Grace { passes: self.passes.iter().map(|_| OFFLINE).collect() }
    }

    /// `worker` holds no reference into shared structures now. Once a burst.
    #[inline]
    pub fn pass(&self, worker: usize) {
        let cell = &self.passes[worker];
        // Release: what the worker has read of an entry comes before the entry's next life. Pairs with the Acquire in
        // `elapsed`.
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(1).max(1), Ordering::Release);
        // The look-ups that follow must not be done before the store is seen: else whoever unlinks between the two
        // would take this pass for one that came after. Pairs with the fence in `start`.
        fence(Ordering::SeqCst);
    }

    /// `worker` stops; nobody needs to wait for it any more.
    pub fn leave(&self, worker: usize) {
        self.passes[worker].store(OFFLINE, Ordering::Release);
    }

    /// Begins a grace period: whatever the caller has unlinked before is free once `grace` has elapsed.
    #[inline]
    pub fn start(&self, grace: &mut Grace) {
        // Pairs with the fence in `pass`: a worker either is counted before its pass, or sees what was unlinked.
        fence(Ordering::SeqCst);
        for (then, cell) in grace.passes.iter_mut().zip(&self.passes) {
            *then = cell.load(Ordering::Acquire);
        }
    }

    /// True once every worker has passed since `grace` started.
    #[inline]
    pub fn elapsed(&self, grace: &Grace) -> bool {
        grace
            .passes
            .iter()
            .zip(&self.passes)
            .all(|(&then, cell)| then == OFFLINE || cell.load(Ordering::Acquire) != then)
    }
}
