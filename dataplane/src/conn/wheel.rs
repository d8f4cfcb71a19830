//! When a connection is to be looked at: a hierarchical timing wheel (Varghese and Lauck, 1987), one per worker.
//!
//! It holds entry indexes in chunks of a cache line and never moves them on its own. A timer of a higher level fires at
//! the beginning of its slot's span; whoever handles it sees that the connection's time is not up and arms it again,
//! then on a lower level. Nothing is done per packet. An entry remembers the tick at which the timer that counts for
//! it fires ([`super::entry`]); timers that fire at another tick are stale and are dropped.

use std::ops::Range;

use super::entry::Index;
use crate::time::Tick;

/// Slots of a level, as a power of two.
const SLOT_BITS: u32 = 7;
const SLOTS: usize = 1 << SLOT_BITS;
/// Four levels reach 2^28 ticks, 48 days; what is farther off is looked at then.
const LEVELS: usize = 4;
const REACH: u64 = 1 << (SLOT_BITS * LEVELS as u32);

/// The most slots that one call of [`Wheel::due`] visits, so that it returns soon after a long sleep, too.
const VISITS: usize = 64;

const NONE: u32 = u32::MAX;
const TIMERS: usize = 15;

/// A cache line of timers. Only the first chunk of a slot's list is not full.
#[repr(C, align(64))]
struct Chunk {
    next: u32,
    timers: [u32; TIMERS],
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    /// Timers in the first chunk.
    count: u8,
}

impl List {
    const EMPTY: List = List { first: NONE, count: 0 };
}

/// A timer that has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose it is.
    pub index: Index,
    /// The tick it was armed for.
    pub tick: Tick,
}

/// A worker's timers.
pub struct Wheel {
    levels: [[List; SLOTS]; LEVELS],
    chunks: Vec<Chunk>,
    free: u32,
    timers: usize,
    limit: usize,
    /// The first tick whose slots have not been begun, counted without wrapping.
    next: u64,
    /// What is left of the slot being emptied, and the tick it fires at.
    firing: List,
    firing_tick: u64,
    /// Levels of `firing_tick` that are still to be emptied. The lowest comes first: a timer that is armed meanwhile for a whole
    /// turn later goes into the same slot of it.
    firing_levels: Range<usize>,
}

/// How many chunks are enough for `limit` timers: every slot has at most one that is not full, and so has the list being emptied.
const fn chunks_for(limit: usize) -> usize {
    limit.div_ceil(TIMERS) + LEVELS * SLOTS + 1
}

impl Wheel {
    /// Bytes that a wheel for at most `limit` timers takes.
    #[cfg(test)]
    pub(super) const fn bytes(limit: usize) -> usize {
        size_of::<Self>() + chunks_for(limit) * size_of::<Chunk>()
    }

    /// A wheel at `now` for at most `limit` timers. Memory is reserved for all of them and taken as it is used.
    pub fn new(now: Tick, limit: usize) -> Self {
        Self {
            levels: [[List::EMPTY; SLOTS]; LEVELS],
            chunks: Vec::with_capacity(chunks_for(limit)),
            free: NONE,
            timers: 0,
            limit,
            next: u64::from(now.0),
            firing: List::EMPTY,
            firing_tick: 0,
            firing_levels: 0..0,
        }
    }

    /// True while another timer can be armed. Arming one that has just fired is always possible.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.timers < self.limit
    }

    /// How many timers are armed, stale ones included.
    pub fn len(&self) -> usize {
        self.timers
    }

    /// True where no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.timers == 0
    }

    /// When a timer for `deadline` would fire: never later, and not in the past.
    pub fn tick_for(&self, deadline: Tick) -> Tick {
        Tick(self.place(deadline).0 as u32)
    }

    /// The tick, level and slot for a deadline.
    fn place(&self, deadline: Tick) -> (u64, usize, usize) {
        let ahead = deadline.since(Tick(self.next as u32));
        let at = self.next + (ahead.max(0) as u64).min(REACH - (REACH >> SLOT_BITS));
        for level in 0..LEVELS {
            let shift = SLOT_BITS * level as u32;
            let span = at >> shift;
            if span - (self.next >> shift) < SLOTS as u64 {
                return (span << shift, level, span as usize % SLOTS);
            }
        }
        // Out of reach of all levels: not possible, because `at` was kept within it.
        let shift = SLOT_BITS * (LEVELS as u32 - 1);
        let span = (self.next >> shift) + SLOTS as u64 - 1;
        (span << shift, LEVELS - 1, span as usize % SLOTS)
    }

    /// Arms a timer for `deadline`. Nothing happens where there is no room ([`Wheel::has_room`]).
    pub fn arm(&mut self, index: Index, deadline: Tick) {
        let (_, level, slot) = self.place(deadline);
        let list = self.levels[level][slot];
        if let Some(list) = self.push(list, index) {
            self.levels[level][slot] = list;
            self.timers += 1;
        }
    }

    fn push(&mut self, mut list: List, index: Index) -> Option<List> {
        if list.first == NONE || usize::from(list.count) == TIMERS {
            let chunk = self.allocate()?;
            self.chunks[chunk as usize].next = list.first;
            list = List { first: chunk, count: 0 };
        }
        self.chunks[list.first as usize].timers[usize::from(list.count)] = index.0;
        list.count += 1;
        Some(list)
    }

    fn allocate(&mut self) -> Option<u32> {
        if self.free != NONE {
            let chunk = self.free;
            self.free = self.chunks[chunk as usize].next;
            return Some(chunk);
        }
        // Never beyond what was reserved: that would allocate on the packet's way.
        (self.chunks.len() < self.chunks.capacity()).then(|| {
            self.chunks.push(Chunk { next: NONE, timers: [NONE; TIMERS] });
            self.chunks.len() as u32 - 1
        })
    }

    /// The next timer that has fired by `now`, or `None`: none has, or enough slots have been visited for one call.
    pub fn due(&mut self, now: Tick) -> Option<Due> {
        for _ in 0..VISITS {
            if let Some(index) = self.pop_firing() {
                return Some(Due { index, tick: Tick(self.firing_tick as u32) });
            }
            if let Some(level) = self.firing_levels.next() {
                self.begin(level);
            } else if now.reached(Tick(self.next as u32)) {
                self.firing_tick = self.next;
                self.next += 1;
                // Level n has a slot that begins at this tick where its lowest 7n bits are 0.
                let levels = self.firing_tick.trailing_zeros() / SLOT_BITS;
                self.firing_levels = 0..LEVELS.min(1 + levels as usize);
            } else {
                return None;
            }
        }
        None
    }

    fn begin(&mut self, level: usize) {
        let span = self.firing_tick >> (SLOT_BITS * level as u32);
        self.firing = std::mem::replace(&mut self.levels[level][span as usize % SLOTS], List::EMPTY);
    }

    fn pop_firing(&mut self) -> Option<Index> {
        if self.firing.first == NONE {
            return None;
        }
        let first = self.firing.first;
        self.firing.count -= 1;
        let chunk = &mut self.chunks[first as usize];
        let index = chunk.timers[usize::from(self.firing.count)];
        if self.firing.count == 0 {
            let next = std::mem::replace(&mut chunk.next, self.free);
            self.free = first;
            self.firing = List { first: next, count: if next == NONE { 0 } else { TIMERS as u8 } };
        }
        self.timers -= 1;
        Some(Index(index))
    }
}

#[cfg(test)]
mod tests;
