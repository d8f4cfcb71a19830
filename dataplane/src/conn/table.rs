//! Buckets and entries: how a packet finds its connection, on whatever worker it is.
//!
//! A bucket is a cache line of slots. A slot names an entry and the direction in which it is to be found, and carries
//! enough of the hash that another connection's entry is hardly ever touched. A connection is in one slot by the
//! client's flow and, where replies come through the director, in another by the server's.
//!
//! A slot is empty, pending or live. Look-ups match live slots only. Of two workers that insert the same flow at once,
//! exactly one gets its slot live, by this rule: publish a pending slot, then look at all others for the flow; a live
//! one wins over us; a pending one is taken out, and whoever finds its own pending slot gone starts again. As each
//! publishes before it looks, at least one sees the other.

#[cfg(not(loom))]
use std::hash::{BuildHasher, RandomState};
use std::io;

#[cfg(not(loom))]
use zerocopy::FromZeros;

use super::entry::{Direction, Entry, Index};
use super::key::Key;
use super::pool::Shared;
use super::scan;
use crate::memory::{Region, prefetch};
use crate::quiescence::Quiescence;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Slots in a bucket.
#[cfg(not(loom))]
const SLOTS: usize = 7;
/// Fewer, so that a model has fewer steps.
#[cfg(loom)]
const SLOTS: usize = 2;

/// How many buckets after its own a flow may be put into when those before are full.
#[cfg(not(loom))]
const REACH: u32 = 7;
#[cfg(loom)]
const REACH: u32 = 1;

/// How often an insertion that another worker's insertion of the same flow has undone is tried again.
const ATTEMPTS: usize = 8;

/// What a slot holds. Bits 0–31 the entry, bits 32–33 the phase, bit 34 the direction, bits 35–63 the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    const EMPTY: Slot = Slot(0);
    const PENDING: u64 = 1 << 32;
    const LIVE: u64 = 2 << 32;
    const PHASE: u64 = 3 << 32;
    const TO_CLIENT: u64 = 1 << 34;
    const TAG: u64 = !0 << 35;

    #[inline]
    fn new(hash: Hash, direction: Direction, index: Index, phase: u64) -> Self {
        let direction = match direction {
            Direction::ToServer => 0,
            Direction::ToClient => Self::TO_CLIENT,
        };
        Self(hash.0 & Self::TAG | direction | phase | u64::from(index.0))
    }

    #[inline]
    fn live(self) -> Self {
        Self(self.0 & !Self::PHASE | Self::LIVE)
    }

    #[inline]
    fn is_live(self) -> bool {
        self.0 & Self::LIVE != 0
    }

    #[inline]
    fn has_tag_of(self, hash: Hash) -> bool {
        (self.0 ^ hash.0) & Self::TAG == 0
    }

    #[inline]
    fn index(self) -> Index {
        Index(self.0 as u32)
    }

    #[inline]
    fn direction(self) -> Direction {
        if self.0 & Self::TO_CLIENT == 0 { Direction::ToServer } else { Direction::ToClient }
    }

    #[inline]
    fn found(self) -> Found {
        Found { index: self.index(), direction: self.direction() }
    }

    /// The same entry, in the same direction, in whatever phase.
    #[inline]
    fn is_same_entry(self, other: Slot) -> bool {
        (self.0 ^ other.0) & !Self::PHASE == 0
    }
}

/// A cache line of slots.
#[cfg_attr(not(loom), derive(FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
struct Bucket {
    slots: [AtomicU64; SLOTS],
    /// How many slots that belong here are in the buckets after this one.
    overflow: AtomicU32,
    reserved: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The live slots with the tag of `hash`, a bit each.
    #[inline]
    fn candidates(&self, hash: Hash) -> u32 {
        scan::matches(&self.slots, hash.0 & Slot::TAG | Slot::LIVE, Slot::TAG | Slot::PHASE)
    }

    /// The slot of the lowest of `candidates`, of which there is one at least.
    #[inline]
    fn slot(&self, candidates: u32) -> Slot {
        // Acquire: what was written to the entry before the slot went live is seen. Pairs with the compare-and-swap to
        // live in `insert` and `replace`.
        // The remainder is the number itself, and shows the compiler that there is a slot, which saves a test.
        match self.slots.get(candidates.trailing_zeros() as usize % 8) {
            Some(slot) => Slot(slot.load(Ordering::Acquire)),
            None => Slot::EMPTY,
        }
    }
}

/// A flow's hash, of use in the table that made it: the top bits tell slots of a bucket apart, the lower half is the number of
/// the flow's own bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    #[inline]
    fn home(self) -> usize {
        self.0 as u32 as usize
    }
}

/// What a flow's bucket says before any entry has been looked at: the slot whose entry is most likely the flow's.
#[derive(Clone, Copy, Debug)]
pub struct Candidate(Slot);

impl Candidate {
    /// None.
    pub(crate) const NONE: Candidate = Candidate(Slot::EMPTY);
}

/// A connection that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The connection.
    pub index: Index,
    /// Which way the packet goes.
    pub direction: Direction,
}

/// Why a slot was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The flow is there already.
    Exists(Found),
    /// All slots within reach are taken, or other workers kept getting in the way.
    Full,
}

/// The table all workers share.
pub struct ConnectionTable {
    pub(super) seeds: [u64; 2],
    buckets: Region<Bucket>,
    pub(super) entries: Region<Entry>,
    pub(super) shared: Shared,
    quiescence: Quiescence,
}

impl ConnectionTable {
    /// A table of `buckets` buckets and room for `capacity` connections, for `workers` workers.
    /// The hash is seeded at random, so that nobody outside can choose flows that meet in one bucket.
    pub fn new(buckets: usize, capacity: u32, workers: usize) -> io::Result<Self> {
        Self::with_seeds(buckets, capacity, workers, seeds())
    }

    /// The same with a hash that is seeded with these numbers: for replays, which are to take the same way every time, and
    /// never where packets of strangers come in.
    pub fn with_seeds(buckets: usize, capacity: u32, workers: usize, seeds: [u64; 2]) -> io::Result<Self> {
        if buckets <= REACH as usize || buckets > 1 << 32 {
            let message = "the number of buckets is not between 8 and 2^32";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            seeds,
            buckets: Region::new(buckets)?,
            entries: Region::new(capacity as usize)?,
            shared: Shared::new(capacity),
            quiescence: Quiescence::new(workers),
        })
    }

    /// The buckets that a table with room for `capacity` connections does well with: three for five connections. One that is
    /// found from both sides is in two slots, and so a full table has 3⅓ of a bucket's seven slots taken, which leaves room for
    /// the unevenness of hashing.
    pub const fn buckets_for(capacity: u32) -> u32 {
        let buckets = (capacity as u64 * 3).div_ceil(5) as u32;
        if buckets > REACH { buckets } else { REACH + 1 }
    }

    /// How many buckets there are.
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// How many connections there is room for.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// How many entries have ever been used: those before this index.
    pub fn used(&self) -> usize {
        self.shared.touched().min(self.capacity())
    }

    /// About how many connections can still be opened: entries that workers have at hand are not among them.
    pub fn available(&self) -> usize {
        self.shared.available()
    }

    /// Which worker has passed a quiescent state when.
    pub fn quiescence(&self) -> &Quiescence {
        &self.quiescence
    }

    /// The entry at `index`, whoever's it is now.
    #[inline]
    pub fn entry(&self, index: Index) -> &Entry {
        &self.entries[index.0 as usize]
    }

    /// Asks the processor to load the entry with this number; none may have it.
    #[inline]
    pub(super) fn prefetch_entry(&self, number: u32) {
        prefetch(self.entries.as_ptr().wrapping_add(number as usize));
    }

    /// The flow's hash.
    #[inline]
    pub fn hash(&self, flow: impl Key) -> Hash {
        let digest = flow.digest(self.seeds);
        // As far into the buckets as the lower half is into its range: any number of buckets will do (Lemire, "Fast random
        // integer generation in an interval", 2019).
        let home = ((digest & u64::from(u32::MAX)) * self.buckets.len() as u64) >> 32;
        Hash(digest & Slot::TAG | home)
    }

    /// The bucket so many after the flow's own; after the last one comes the first.
    #[inline]
    fn bucket(&self, hash: Hash, distance: u32) -> &Bucket {
        let place = hash.home() + distance as usize;
        self.buckets.get(place).unwrap_or_else(|| &self.buckets[place - self.buckets.len()])
    }

    /// A number that nobody outside knows, another for each `n`.
    pub fn secret(&self, n: usize) -> u64 {
        crate::locals::mix(self.seeds[0] ^ self.seeds[1].rotate_left(32), n as u64)
    }

    /// Asks the processor to load the flow's bucket.
    #[inline]
    pub fn prefetch_bucket(&self, hash: Hash) {
        prefetch(self.buckets.as_ptr().wrapping_add(hash.home()));
    }

    /// What the flow's own bucket, which should have been prefetched, says; asks the processor to load the entry that it
    /// leads to. Of use until the worker passes its next quiescent state.
    #[inline]
    pub fn candidate(&self, hash: Hash) -> Candidate {
        let Some(bucket) = self.buckets.get(hash.home()) else { return Candidate::NONE };
        let candidates = bucket.candidates(hash);
        if candidates == 0 {
            return Candidate::NONE;
        }
        let slot = bucket.slot(candidates);
        self.prefetch_entry(slot.index().0);
        Candidate(slot)
    }

    /// Asks the processor to load the addresses of the candidate's connection, where they are not in its entry, which should have
    /// been prefetched.
    #[inline]
    pub fn prefetch_extension(&self, candidate: Candidate) {
        if candidate.0.is_live()
            && let Some(Index(index)) = self.entry(candidate.0.index()).extension()
        {
            self.prefetch_entry(index);
        }
    }

    /// The same for the server's side of the candidate's connection, where that is not in its entry.
    #[inline]
    pub fn prefetch_inside(&self, candidate: Candidate) {
        if candidate.0.is_live()
            && let Some(Index(index)) = self.entry(candidate.0.index()).inside()
        {
            self.prefetch_entry(index);
        }
    }

    /// The candidate, where it is what a packet of `flow` belongs to, which is so nearly always. `None` says only that it
    /// has to be [looked for](ConnectionTable::find).
    #[inline]
    pub fn confirm(&self, candidate: Candidate, flow: impl Key) -> Option<(Found, &Entry)> {
        let slot = candidate.0;
        if !slot.is_live() {
            return None;
        }
        // What was live when it became the candidate leads to an entry that nobody uses anew before our next quiescent
        // state.
        let (found, entry) = (slot.found(), self.entries.get(slot.index().0 as usize)?);
        (flow.matches(self, entry, found.direction) && entry.life().is_alive()).then_some((found, entry))
    }

    /// The live connection that a packet of `flow` belongs to. The caller may use the entry until its worker passes
    /// its next quiescent state.
    #[inline]
    pub fn find(&self, hash: Hash, flow: impl Key) -> Option<Found> {
        let home = self.bucket(hash, 0);
        let found = self.find_in(home, hash, flow);
        // Acquire: pairs with the Release in `insert`, which counts before it publishes.
        if found.is_some() || home.overflow.load(Ordering::Acquire) == 0 {
            return found;
        }
        (1..=REACH).find_map(|distance| self.find_in(self.bucket(hash, distance), hash, flow))
    }

    #[inline]
    fn find_in(&self, bucket: &Bucket, hash: Hash, flow: impl Key) -> Option<Found> {
        let mut candidates = bucket.candidates(hash);
        while candidates != 0 {
            let slot = bucket.slot(candidates);
            // It may have changed since it was a candidate.
            if slot.is_live() && slot.has_tag_of(hash) && self.is_flow(slot, flow) {
                return Some(slot.found());
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// True where the slot's entry is alive and of this flow.
    #[inline]
    fn is_flow(&self, slot: Slot, flow: impl Key) -> bool {
        let entry = self.entry(slot.index());
        flow.matches(self, entry, slot.direction()) && entry.life().is_alive()
    }

    /// Makes the entry at `index` found by `flow`, unless another is.
    pub(super) fn insert(&self, flow: impl Key, direction: Direction, index: Index) -> Result<(), Refused> {
        let hash = self.hash(flow);
        for _ in 0..ATTEMPTS {
            let pending = Slot::new(hash, direction, index, Slot::PENDING);
            let (slot, distance) = self.publish(hash, pending).ok_or(Refused::Full)?;
            // Publish first, look then; the same fence in the other worker makes sure that not both miss the other.
            fence(Ordering::SeqCst);
            let rival = self.oust_rivals(hash, flow, pending);
            if rival.is_none() && swap(slot, pending, pending.live()) {
                return Ok(());
            }
            // Either a rival is live, or one has taken our slot out; ours may still be there.
            swap(slot, pending, Slot::EMPTY);
            self.count_out(hash, distance);
            if let Some(found) = rival {
                return Err(Refused::Exists(found));
            }
        }
        Err(Refused::Full)
    }

    /// Puts `slot` into the first empty place within reach: the place, and how far it is from home.
    fn publish(&self, hash: Hash, slot: Slot) -> Option<(&AtomicU64, u32)> {
        for distance in 0..=REACH {
            if distance == 1 {
                // Counted before it is published: a look-up that would miss the slot for the count's sake is one that
                // came before. Release pairs with the Acquire in `find`.
                self.bucket(hash, 0).overflow.fetch_add(1, Ordering::Release);
            }
            for place in &self.bucket(hash, distance).slots {
                if place.load(Ordering::Relaxed) == Slot::EMPTY.0 && swap(place, Slot::EMPTY, slot) {
                    return Some((place, distance));
                }
            }
        }
        self.count_out(hash, REACH);
        None
    }

    fn count_out(&self, hash: Hash, distance: u32) {
        if distance > 0 {
            self.bucket(hash, 0).overflow.fetch_sub(1, Ordering::Release);
        }
    }

    /// Takes out every pending slot of the same flow but `ours`. A live one is given back: it has won.
    fn oust_rivals(&self, hash: Hash, flow: impl Key, ours: Slot) -> Option<Found> {
        // A rival counts itself as overflow before it publishes away from home.
        let reach = if self.bucket(hash, 0).overflow.load(Ordering::Acquire) == 0 { 0 } else { REACH };
        for distance in 0..=reach {
            let bucket = self.bucket(hash, distance);
            // All at once: hardly ever is there another slot with the tag than ours. Read after the fence in `insert`, as single slots
            // would be.
            let mut candidates = scan::matches(&bucket.slots, hash.0 & Slot::TAG, Slot::TAG);
            while candidates != 0 {
                if let Some(place) = bucket.slots.get(candidates.trailing_zeros() as usize)
                    && let Some(found) = self.oust_rival(place, hash, flow, ours)
                {
                    return Some(found);
                }
                candidates &= candidates - 1;
            }
        }
        None
    }

    /// The same for one place.
    #[inline]
    fn oust_rival(&self, place: &AtomicU64, hash: Hash, flow: impl Key, ours: Slot) -> Option<Found> {
        loop {
            let slot = Slot(place.load(Ordering::Acquire));
            let is_rival = slot != Slot::EMPTY
                && !slot.is_same_entry(ours)
                && slot.has_tag_of(hash)
                && self.is_flow(slot, flow);
            if !is_rival {
                return None;
            }
            if slot.is_live() {
                return Some(slot.found());
            }
            if swap(place, slot, Slot::EMPTY) {
                return None;
            }
        }
    }

    /// Makes the entry at `index` found by `flow`, also where another was: the newer connection gets the packets, as
    /// in the kernel, which puts a new connection at the head of its chain. False where there is no room.
    pub(super) fn replace(&self, flow: impl Key, direction: Direction, index: Index) -> bool {
        let hash = self.hash(flow);
        let live = Slot::new(hash, direction, index, Slot::LIVE);
        for distance in 0..=REACH {
            let bucket = self.bucket(hash, distance);
            let mut candidates = bucket.candidates(hash);
            while candidates != 0 {
                if let Some(place) = bucket.slots.get(candidates.trailing_zeros() as usize) {
                    let slot = Slot(place.load(Ordering::Acquire));
                    let is_older = slot.is_live()
                        && slot.direction() == direction
                        && slot.has_tag_of(hash)
                        && self.is_flow(slot, flow);
                    if is_older && swap(place, slot, live) {
                        return true;
                    }
                }
                candidates &= candidates - 1;
            }
            if self.bucket(hash, 0).overflow.load(Ordering::Relaxed) == 0 {
                break;
            }
        }
        self.publish(hash, live).is_some()
    }

    /// Takes the entry at `index` out of the bucket where `flow` led to it.
    pub(super) fn remove(&self, flow: impl Key, direction: Direction, index: Index) {
        let hash = self.hash(flow);
        let live = Slot::new(hash, direction, index, Slot::LIVE);
        for distance in 0..=REACH {
            for place in &self.bucket(hash, distance).slots {
                if place.load(Ordering::Relaxed) == live.0 && swap(place, live, Slot::EMPTY) {
                    self.count_out(hash, distance);
                    return;
                }
            }
        }
    }

    /// Slots taken, for tests and for who wants to know how full the table is. Reads every bucket.
    pub fn slots_in_use(&self) -> usize {
        let taken =
            |b: &Bucket| b.slots.iter().filter(|s| s.load(Ordering::Relaxed) != Slot::EMPTY.0).count();
        self.buckets.iter().map(taken).sum()
    }

    /// Slots away from home, as the buckets count them. Equal to what can be counted, at a quiet moment.
    #[cfg(test)]
    pub(super) fn overflow(&self) -> u32 {
        self.buckets.iter().map(|b| b.overflow.load(Ordering::Relaxed)).sum()
    }
}

/// Bytes that a table takes.
#[cfg(test)]
pub(super) const fn bytes(buckets: usize, capacity: usize) -> usize {
    size_of::<ConnectionTable>() + buckets * size_of::<Bucket>() + capacity * size_of::<Entry>()
}

/// Numbers that nobody outside knows.
#[cfg(not(loom))]
pub(crate) fn seeds() -> [u64; 2] {
    [(); 2].map(|()| RandomState::new().hash_one(0))
}

/// The same in every run, so that a model takes the same way when it is run again.
#[cfg(loom)]
pub(crate) fn seeds() -> [u64; 2] {
    [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]
}

#[inline]
fn swap(place: &AtomicU64, old: Slot, new: Slot) -> bool {
    place.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
