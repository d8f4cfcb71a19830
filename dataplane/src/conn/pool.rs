//! Which entries are free. Each worker keeps some at hand and trades them with the others in batches.
//!
//! An entry that others may have found is not free when it is taken out of its buckets: it waits until every worker
//! has passed a quiescent state. The lists run through the entries themselves, so that nothing is ever allocated.

use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;

use super::entry::Index;
use super::table::ConnectionTable;
use crate::quiescence::Grace;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Entries traded at once.
#[cfg(not(loom))]
const BATCH: usize = 64;
#[cfg(loom)]
const BATCH: usize = 1;

/// The most entries that one call of [`Pool::reclaim`] takes back, so that a burst is never long in coming.
const RECLAIM: usize = 64;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Free entries that no worker has at hand.
pub(super) struct Shared {
    capacity: u32,
    /// Entries from here on have never been used.
    fresh: AtomicU32,
    /// A stack of batches: the first entry of the first one, and above it a count of changes, which tells a stack
    /// that has been changed and changed back from one that has not.
    batches: AtomicU64,
    /// How many batches are on the stack, or just about to be. Orders nothing, so that no model has to know it.
    stacked: std::sync::atomic::AtomicU32,
}

impl Shared {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            fresh: AtomicU32::new(0),
            batches: AtomicU64::new(u64::from(NONE)),
            stacked: std::sync::atomic::AtomicU32::new(0),
        }
    }

    /// About how many entries are free, but for those that workers have at hand.
    pub(super) fn available(&self) -> usize {
        let fresh = self.capacity.saturating_sub(self.fresh.load(Ordering::Relaxed));
        fresh as usize + BATCH * self.stacked.load(Relaxed) as usize
    }

    /// How many entries have ever been used: those before this index.
    pub(super) fn touched(&self) -> usize {
        self.fresh.load(Ordering::Acquire) as usize
    }

    /// Puts the list that begins with `first` onto the stack.
    fn push(&self, table: &ConnectionTable, first: u32) {
        self.stacked.fetch_add(1, Relaxed);
        let mut head = self.batches.load(Ordering::Relaxed);
        loop {
            table.entry(Index(first)).next_batch().store(head as u32, Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(first);
            // Release: the batch's links are seen by who pops it.
            match self.batches.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes a batch off the stack: its first entry.
    fn pop(&self, table: &ConnectionTable) -> Option<u32> {
        let mut head = self.batches.load(Ordering::Acquire);
        loop {
            let first = head as u32;
            if first == NONE {
                return None;
            }
            // Another worker may have popped and reused this entry meanwhile; then what is read here is of no use, and
            // the count of changes makes the exchange fail.
            let next = table.entry(Index(first)).next_batch().load(Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.batches.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    self.stacked.fetch_sub(1, Relaxed);
                    return Some(first);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Takes up to a batch of entries that have never been used.
    fn take_fresh(&self) -> std::ops::Range<u32> {
        let mut from = self.fresh.load(Ordering::Relaxed);
        loop {
            let to = from.saturating_add(BATCH as u32).min(self.capacity);
            if from == to {
                return 0..0;
            }
            match self.fresh.compare_exchange_weak(from, to, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return from..to,
                Err(now) => from = now,
            }
        }
    }
}

/// A list through entries' links.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: List = List { first: NONE, last: NONE };

    fn is_empty(self) -> bool {
        self.first == NONE
    }

    fn append(&mut self, table: &ConnectionTable, more: List) {
        if self.is_empty() {
            *self = more;
        } else if !more.is_empty() {
            table.entry(Index(self.last)).link().store(more.first, Ordering::Relaxed);
            self.last = more.last;
        }
    }

    fn push(&mut self, table: &ConnectionTable, index: u32) {
        table.entry(Index(index)).link().store(NONE, Ordering::Relaxed);
        self.append(table, List { first: index, last: index });
    }

    fn pop(&mut self, table: &ConnectionTable) -> Option<u32> {
        let first = self.first;
        if first == NONE {
            return None;
        }
        self.first = table.entry(Index(first)).link().load(Ordering::Relaxed);
        if self.first == NONE {
            self.last = NONE;
        }
        Some(first)
    }
}

/// One worker's free and dying entries.
pub(super) struct Pool {
    free: ArrayVec<u32, { 2 * BATCH }>,
    /// What is left of a batch from the stack, for when there is nothing else.
    batch: List,
    /// Retired since the running grace period began.
    retired: List,
    /// Free when the running grace period has elapsed.
    waiting: List,
    /// Out of everybody's hands.
    ready: List,
    grace: Grace,
}

impl Pool {
    pub(super) fn new(table: &ConnectionTable) -> Self {
        Self {
            free: ArrayVec::new(),
            batch: List::EMPTY,
            retired: List::EMPTY,
            waiting: List::EMPTY,
            ready: List::EMPTY,
            grace: table.quiescence().grace(),
        }
    }

    /// A free entry; `None` where all are in use. The next one's line is asked for, so that it is there when the next connection
    /// opens. So a batch is not gone through at once either: each of its entries is known only from the one before.
    pub(super) fn allocate(&mut self, table: &ConnectionTable) -> Option<Index> {
        if self.free.is_empty() {
            if self.batch.is_empty()
                && let Some(first) = table.shared.pop(table)
            {
                self.batch = List { first, last: NONE };
            }
            if let Some(index) = self.batch.pop(table) {
                table.prefetch_entry(self.batch.first);
                return Some(Index(index));
            }
            self.free.extend(table.shared.take_fresh().rev());
        }
        let index = self.free.pop()?;
        if let Some(next) = self.free.last() {
            table.prefetch_entry(*next);
        }
        Some(Index(index))
    }

    /// Takes back an entry that nobody else can have found.
    pub(super) fn put_back(&mut self, table: &ConnectionTable, index: Index) {
        if self.free.is_full() {
            let mut batch = List::EMPTY;
            for spare in self.free.drain(BATCH..) {
                batch.push(table, spare);
            }
            table.shared.push(table, batch.first);
        }
        self.free.push(index.0);
    }

    /// Takes back an entry that is in no bucket any more, and may still be in others' hands.
    pub(super) fn retire(&mut self, table: &ConnectionTable, index: Index) {
        self.retired.push(table, index.0);
    }

    /// Frees what is out of everybody's hands by now. Once a burst.
    pub(super) fn reclaim(&mut self, table: &ConnectionTable) {
        if !self.waiting.is_empty() && table.quiescence().elapsed(&self.grace) {
            self.ready.append(table, self.waiting);
            self.waiting = List::EMPTY;
        }
        if self.waiting.is_empty() && !self.retired.is_empty() {
            self.waiting = self.retired;
            self.retired = List::EMPTY;
            table.quiescence().start(&mut self.grace);
        }
        for _ in 0..RECLAIM {
            let Some(index) = self.ready.pop(table) else { break };
            self.put_back(table, Index(index));
        }
    }
}
