//! Fragments without reassembly: what became of a datagram's first fragment, noted for those that follow it.
//!
//! Only the first fragment has ports. Whoever gets it looks it up as any packet, and notes here, under what all fragments of the
//! datagram have in common, what it led to. The others find the note, on whatever worker, and go the same way. Nothing is put
//! together: of a datagram there is the note, with a bit for every eight bytes of it that have passed. So fragments that overlap are
//! seen (RFC 1858, RFC 5722), and the note goes once all of the datagram has passed: an identification may be used again at once.
//!
//! There is room for a fixed number of notes, in buckets of a few. Who looks into a bucket claims it first, for as long as it
//! takes to read and write one note. Nobody ever waits for a claim: who finds the bucket claimed is [told so](Refused::Busy), keeps
//! the fragment and tries again later. In a bucket that is full the note that has gone unused longest gives way, because fragments
//! of a datagram come close together.
//!
//! A note says all there is to know. It needs neither the connection, which may have ended with the first fragment, nor the ports.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

#[cfg(not(loom))]
use zerocopy::FromZeros;

use crate::conn::key::multiply;
use crate::conn::table::seeds;
use crate::conn::{Direction, Index};
use crate::counters::{self, Verdict};
use crate::memory::Region;
use crate::parse::{AnyFlow, Flow, Flow6};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::time::{TICKS_PER_SECOND, Tick};

/// How many notes a director has: of so many datagrams some fragments have passed and others are still to come.
pub const NOTES: usize = 4096;

/// Notes in a bucket.
#[cfg(not(loom))]
const WAYS: usize = 8;
#[cfg(loom)]
const WAYS: usize = 1;

/// Bytes that a bit stands for, as fragments are cut (RFC 791 §3.1, RFC 8200 §4.5).
const UNIT: usize = 8;

/// The longest datagram is of 65535 bytes.
#[cfg(not(loom))]
const WORDS: usize = 65_536 / UNIT / 64;
#[cfg(loom)]
const WORDS: usize = 1;

/// How long fragments may follow the first one, in ticks: as long as Linux keeps fragments to put them together
/// (ipfrag_time, ip6frag_time).
const LIFETIME_IPV4: i32 = 30 * TICKS_PER_SECOND as i32;
const LIFETIME_IPV6: i32 = 60 * TICKS_PER_SECOND as i32;

/// When nothing has come of a datagram for so long, in ticks, another first fragment begins a new one under the same
/// identification, of which there are few over IPv4 (RFC 4963). Before, it is one too many.
const ABANDONED: i32 = TICKS_PER_SECOND as i32;

/// What all fragments of a datagram have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    source: u128,
    destination: u128,
    /// From the top: zero 16, identification 32, protocol 8, zero 7, and 1 for IPv6.
    rest: u64,
}

impl Datagram {
    const IPV6: u64 = 1;

    /// Over IPv4. Addresses as numbers.
    pub fn ipv4(source: u32, destination: u32, identification: u16, protocol: u8) -> Self {
        let rest = u64::from(identification) << 16 | u64::from(protocol) << 8;
        Self { source: source.into(), destination: destination.into(), rest }
    }

    /// Over IPv6, where fragments of a datagram need not agree in what protocol they say it is.
    pub fn ipv6(source: u128, destination: u128, identification: u32) -> Self {
        Self { source, destination, rest: u64::from(identification) << 16 | Self::IPV6 }
    }

    /// True over IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.rest & Self::IPV6 != 0
    }

    /// Its flow, as far as it is known from any fragment: without ports, and over IPv6 without a protocol.
    pub fn flow(&self) -> AnyFlow {
        if self.is_ipv6() {
            Flow6::new(0, (self.source, 0), (self.destination, 0)).into()
        } else {
            // Where they come from they were as long as that.
            let (source, destination) = (self.source as u32, self.destination as u32);
            Flow::new((self.rest >> 8) as u8, (source, 0), (destination, 0)).into()
        }
    }

    fn words(&self) -> [u64; 5] {
        let halves = |address: u128| [(address >> 64) as u64, address as u64];
        let ([a, b], [c, d]) = (halves(self.source), halves(self.destination));
        [a, b, c, d, self.rest]
    }

    fn lifetime(&self) -> i32 {
        if self.is_ipv6() { LIFETIME_IPV6 } else { LIFETIME_IPV4 }
    }
}

/// The same address as one of IPv6.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Which part of a datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// In units, the end not included.
    start: u16,
    end: u16,
    is_last: bool,
}

impl Part {
    /// `length` bytes of the datagram, from byte `offset` on; `more` follow, or none. `None` for what cannot be: one without a byte,
    /// one that goes beyond the longest datagram, or one in the middle that does not end where another can begin.
    pub fn new(offset: usize, length: usize, more: bool) -> Option<Self> {
        let end = offset.checked_add(length).filter(|end| *end < 1 << 16)?;
        let is_sound = length > 0 && offset.is_multiple_of(UNIT) && (!more || length.is_multiple_of(UNIT));
        let units = |bytes: usize| bytes.div_ceil(UNIT) as u16;
        is_sound.then_some(Self { start: units(offset), end: units(end), is_last: !more })
    }

    /// True for the first one.
    pub fn is_first(self) -> bool {
        self.start == 0
    }

    fn units(self) -> u32 {
        u32::from(self.end - self.start)
    }

    /// Its bits: the number of each word, and the word.
    fn words(self) -> impl Iterator<Item = (usize, u64)> {
        let (start, end) = (usize::from(self.start), usize::from(self.end));
        (start / 64..end.div_ceil(64)).map(move |word| {
            let from = start.saturating_sub(word * 64);
            let to = (end - word * 64).min(64);
            (word, (u64::MAX >> (64 - (to - from))) << from)
        })
    }
}

/// Where the fragments of a datagram go that its connection has nothing to say about but their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Whose counters they count for.
    pub destination: u32,
    /// Which way they go.
    pub direction: Direction,
    /// True where they travel inside other packets, by the destination's tunnel.
    pub in_tunnel: bool,
    /// What becomes their source.
    pub source: Option<IpAddr>,
    /// The address they go on to, but by a tunnel.
    pub to: IpAddr,
    /// True where `to` becomes their destination.
    pub is_readdressed: bool,
    /// A hash of the datagram's flow.
    pub spread: u32,
    /// The first fragment's connection and its [generation](crate::conn::life::Life::generation): what is cached there is of
    /// use as long as it lives.
    pub connection: (Index, u32),
}

/// What the first fragment of a datagram decides for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They are forwarded.
    Forward(Course),
    /// They are not.
    Other(Verdict),
}

/// Why there is nothing to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The first fragment has not been seen, or is being looked up at this moment.
    Unknown,
    /// Another worker is looking at this note, or one beside it.
    Busy,
    /// It overlaps another fragment of its datagram, or goes beyond the datagram's end; or such a one has come before.
    Overlap,
}

/// A note that is this worker's to write: see [`Notes::decide`].
#[derive(Debug)]
#[must_use = "until there is a decision, the other fragments wait"]
pub struct Place(usize);

/// A note's first words are written under its bucket's claim, the decision by who has begun it.
#[cfg_attr(not(loom), derive(FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
struct Note {
    datagram: [AtomicU64; 5],
    /// The tick of the first fragment.
    begun: AtomicU32,
    /// The tick of the latest one.
    used: AtomicU32,
    /// How many units have passed; [`POISONED`] after an overlap.
    seen: AtomicU32,
    /// How many units the datagram has, once the last one has passed.
    total: AtomicU32,
    /// The end of those that have passed, in units.
    reach: AtomicU32,
    /// The decision: [`Outcome`].
    outcome: AtomicU32,
    destination: AtomicU32,
    spread: AtomicU32,
    connection: AtomicU64,
    source: [AtomicU64; 2],
    to: [AtomicU64; 2],
    /// A bit for every unit that has passed, as far as `reach`.
    units: [AtomicU64; WORDS],
}

const POISONED: u32 = u32::MAX;

/// What kind of decision there is. Bits 0–1 one of the first four, bit 2 a source is written, bit 3 a destination is, bit 4 by a tunnel,
/// bit 5 to the client, bits 8–15 the reason of a drop.
struct Outcome;

impl Outcome {
    const NONE: u32 = 0;
    const FORWARD: u32 = 1;
    const TO_KERNEL: u32 = 2;
    const DROP: u32 = 3;
    const KIND: u32 = 3;
    const SOURCE: u32 = 1 << 2;
    const DESTINATION: u32 = 1 << 3;
    const TUNNEL: u32 = 1 << 4;
    const TO_CLIENT: u32 = 1 << 5;
    const REASON: u32 = 8;
}

fn store(words: &[AtomicU64; 2], address: IpAddr) {
    let number = u128::from(mapped(address));
    words[0].store((number >> 64) as u64, Ordering::Relaxed);
    words[1].store(number as u64, Ordering::Relaxed);
}

fn load(words: &[AtomicU64; 2]) -> IpAddr {
    let [high, low] = [&words[0], &words[1]].map(|word| word.load(Ordering::Relaxed));
    Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).to_canonical()
}

impl Note {
    fn is_of(&self, datagram: &Datagram) -> bool {
        self.datagram.iter().map(|word| word.load(Ordering::Relaxed)).eq(datagram.words())
    }

    fn begin(&self, datagram: &Datagram, now: Tick) {
        let stale = (self.reach.load(Ordering::Relaxed) as usize).div_ceil(64).min(WORDS);
        self.units[..stale].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.datagram.iter().zip(datagram.words()).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        self.begun.store(now.0, Ordering::Relaxed);
        self.outcome.store(Outcome::NONE, Ordering::Relaxed);
        for count in [&self.seen, &self.total, &self.reach] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// A fragment has come. True where it may pass.
    fn pass(&self, part: Part, now: Tick) -> bool {
        self.used.store(now.0, Ordering::Relaxed);
        let (seen, total) = (self.seen.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        if seen == POISONED {
            return false;
        }
        let overlap: u32 = part
            .words()
            .filter_map(|(word, bits)| {
                Some((self.units.get(word)?.load(Ordering::Relaxed) & bits).count_ones())
            })
            .sum();
        if overlap == part.units() {
            // All of it has passed before: the network has doubled it (RFC 8200 §4.5), and one is enough.
            return false;
        }
        let (end, reach) = (u32::from(part.end), self.reach.load(Ordering::Relaxed));
        let beyond = total != 0 && (end > total || part.is_last) || part.is_last && reach > end;
        if overlap != 0 || beyond {
            self.seen.store(POISONED, Ordering::Relaxed);
            return false;
        }
        for (word, bits) in part.words() {
            let Some(word) = self.units.get(word) else { continue };
            word.store(word.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
        }
        self.seen.store(seen + part.units(), Ordering::Relaxed);
        self.reach.store(reach.max(end), Ordering::Relaxed);
        if part.is_last {
            self.total.store(end, Ordering::Relaxed);
        }
        true
    }

    /// True once all of the datagram has passed.
    fn is_complete(&self) -> bool {
        let total = self.total.load(Ordering::Relaxed);
        total != 0 && self.seen.load(Ordering::Relaxed) == total
    }

    fn is_expired(&self, datagram: &Datagram, now: Tick) -> bool {
        now.since(Tick(self.begun.load(Ordering::Relaxed))) > datagram.lifetime()
    }

    /// Ticks since a fragment came.
    fn idle(&self, now: Tick) -> i32 {
        now.since(Tick(self.used.load(Ordering::Relaxed)))
    }

    fn is_decided(&self) -> bool {
        self.outcome.load(Ordering::Acquire) != Outcome::NONE
    }

    fn decide(&self, decision: &Decision) {
        let outcome = match decision {
            Decision::Forward(course) => {
                self.destination.store(course.destination, Ordering::Relaxed);
                self.spread.store(course.spread, Ordering::Relaxed);
                let (Index(index), generation) = course.connection;
                let connection = u64::from(index) << 32 | u64::from(generation);
                self.connection.store(connection, Ordering::Relaxed);
                store(&self.to, course.to);
                if let Some(source) = course.source {
                    store(&self.source, source);
                }
                let flag = |is_set, bit| if is_set { bit } else { 0 };
                Outcome::FORWARD
                    | flag(course.source.is_some(), Outcome::SOURCE)
                    | flag(course.is_readdressed, Outcome::DESTINATION)
                    | flag(course.in_tunnel, Outcome::TUNNEL)
                    | flag(course.direction == Direction::ToClient, Outcome::TO_CLIENT)
            }
            Decision::Other(Verdict::ToKernel) => Outcome::TO_KERNEL,
            Decision::Other(Verdict::Drop(reason)) => Outcome::DROP | (*reason as u32) << Outcome::REASON,
        };
        // Release: who sees that there is a decision sees the whole of it. Pairs with the Acquire in `decision`.
        self.outcome.store(outcome, Ordering::Release);
    }

    fn decision(&self) -> Option<Decision> {
        let outcome = self.outcome.load(Ordering::Acquire);
        let has = |bit| outcome & bit != 0;
        match outcome & Outcome::KIND {
            Outcome::FORWARD => {
                let connection = self.connection.load(Ordering::Relaxed);
                Some(Decision::Forward(Course {
                    destination: self.destination.load(Ordering::Relaxed),
                    direction: if has(Outcome::TO_CLIENT) {
                        Direction::ToClient
                    } else {
                        Direction::ToServer
                    },
                    in_tunnel: has(Outcome::TUNNEL),
                    source: has(Outcome::SOURCE).then(|| load(&self.source)),
                    to: load(&self.to),
                    is_readdressed: has(Outcome::DESTINATION),
                    spread: self.spread.load(Ordering::Relaxed),
                    connection: (Index((connection >> 32) as u32), connection as u32),
                }))
            }
            Outcome::TO_KERNEL => Some(Decision::Other(Verdict::ToKernel)),
            Outcome::DROP => {
                let reason = counters::Drop::ALL.get((outcome >> Outcome::REASON) as usize)?;
                Some(Decision::Other(Verdict::Drop(*reason)))
            }
            _ => None,
        }
    }
}

#[cfg_attr(not(loom), derive(FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
struct Bucket {
    /// Not 0 while somebody looks at its notes.
    claim: AtomicU32,
    /// Of each note: a hash of its datagram, 0 where it is free.
    tags: [AtomicU32; WAYS],
}

/// A bucket that is ours until this is dropped.
struct Claim<'t> {
    bucket: &'t Bucket,
    notes: &'t [Note],
    /// The number of the first one.
    first: usize,
    tag: u32,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: what was done under the claim is seen by who has it next. Pairs with the Acquire in `claim`.
        self.bucket.claim.store(0, Ordering::Release);
    }
}

impl<'t> Claim<'t> {
    fn tag(&self, way: usize) -> &'t AtomicU32 {
        &self.bucket.tags[way]
    }

    /// The datagram's note, and which of the bucket's it is.
    fn find(&self, datagram: &Datagram) -> Option<(usize, &'t Note)> {
        let tags = self.bucket.tags.iter().zip(self.notes).enumerate();
        tags.filter(|(_, (tag, _))| tag.load(Ordering::Relaxed) == self.tag)
            .map(|(way, (_, note))| (way, note))
            .find(|(_, note)| note.is_of(datagram))
    }

    /// The note that a new datagram gets: a free one, else that which has gone unused longest. `None` while all wait for their
    /// decisions.
    fn vacate(&self, now: Tick) -> Option<(usize, &'t Note)> {
        let tags = self.bucket.tags.iter().zip(self.notes).enumerate();
        tags.filter_map(|(way, (tag, note))| {
            let age = match tag.load(Ordering::Relaxed) {
                0 => i32::MAX,
                // Whoever has begun it is about to write it, claim or no claim.
                _ if !note.is_decided() => return None,
                _ => note.idle(now),
            };
            Some((age, (way, note)))
        })
        .max_by_key(|(age, _)| *age)
        .map(|(_, found)| found)
    }
}

/// The notes of all workers.
pub struct Notes {
    /// Nobody outside knows them, so that nobody can choose datagrams that meet in one bucket.
    seeds: [u64; 2],
    buckets: Region<Bucket>,
    notes: Region<Note>,
    /// Counts the decisions, so that who waits for one sees with one load that there is none.
    decisions: AtomicU64,
}

impl Notes {
    /// Room for so many notes, in whole buckets.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn new(notes: usize) -> io::Result<Self> {
        let buckets = notes.div_ceil(WAYS).max(1);
        Ok(Self {
            seeds: seeds(),
            buckets: Region::new(buckets)?,
            notes: Region::new(buckets * WAYS)?,
            decisions: AtomicU64::new(0),
        })
    }

    /// Bytes that a table of so many notes takes.
    pub const fn bytes(notes: usize) -> usize {
        let buckets = notes.div_ceil(WAYS);
        buckets * (size_of::<Bucket>() + WAYS * size_of::<Note>())
    }

    /// 64 bits that depend on all of it, and on numbers that nobody outside knows; made as those of flows are.
    pub(crate) fn hash(&self, datagram: &Datagram) -> u64 {
        let ([a, b, c, d, rest], [x, y]) = (datagram.words(), self.seeds);
        let product = multiply(a ^ x, b ^ y);
        let product = multiply(product.0 ^ rest ^ x, product.1 ^ y);
        let product = multiply(product.0 ^ c ^ x, product.1 ^ d ^ y);
        product.0 ^ product.1
    }

    fn claim(&self, datagram: &Datagram) -> Result<Claim<'_>, Refused> {
        let hash = self.hash(datagram);
        // The bucket by the upper half, the tag by the lower.
        let number = (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize;
        let (bucket, first) = (&self.buckets[number], number * WAYS);
        let notes = &self.notes[first..first + WAYS];
        // Acquire: pairs with the Release of who has had it before.
        match bucket.claim.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Claim { bucket, notes, first, tag: hash as u32 | 1 }),
            Err(_) => Err(Refused::Busy),
        }
    }

    /// The first fragment of a datagram has come. Where it may pass, the note is the caller's, who [decides](Notes::decide) at once.
    ///
    /// # Errors
    /// [`Refused::Overlap`] where one has passed already, [`Refused::Busy`] where there is no place for a note at this moment.
    pub fn begin(&self, datagram: &Datagram, part: Part, now: Tick) -> Result<Place, Refused> {
        let claim = self.claim(datagram)?;
        let (way, note) = match claim.find(datagram) {
            Some((_, note)) if !note.is_decided() => return Err(Refused::Busy),
            Some((way, note)) if note.idle(now) >= ABANDONED || note.is_expired(datagram, now) => (way, note),
            // Its beginning has passed, so this is an overlap.
            Some((_, note)) => {
                note.pass(part, now);
                return Err(Refused::Overlap);
            }
            None => claim.vacate(now).ok_or(Refused::Busy)?,
        };
        note.begin(datagram, now);
        note.pass(part, now);
        claim.tag(way).store(claim.tag, Ordering::Relaxed);
        Ok(Place(claim.first + way))
    }

    /// What becomes of the datagram's fragments.
    pub fn decide(&self, Place(place): Place, decision: &Decision) {
        // Nobody else writes it: who finds it without a decision leaves it alone.
        self.notes[place].decide(decision);
        // Release: who sees the count finds the decision. Pairs with the Acquire in `decisions`.
        self.decisions.fetch_add(1, Ordering::Release);
    }

    /// How many decisions there have been: what is [`Refused::Unknown`] stays so until there is another one.
    pub fn decisions(&self) -> u64 {
        self.decisions.load(Ordering::Acquire)
    }

    /// A fragment has come that is not the first one. What it is to do, where it may pass.
    ///
    /// # Errors
    /// Where nothing is known, or it may not pass.
    pub fn follow(&self, datagram: &Datagram, part: Part, now: Tick) -> Result<Decision, Refused> {
        let claim = self.claim(datagram)?;
        let (way, note) = claim.find(datagram).ok_or(Refused::Unknown)?;
        let decision = note.decision().ok_or(Refused::Unknown)?;
        if note.is_expired(datagram, now) {
            claim.tag(way).store(0, Ordering::Relaxed);
            return Err(Refused::Unknown);
        }
        if !note.pass(part, now) {
            return Err(Refused::Overlap);
        }
        if note.is_complete() {
            claim.tag(way).store(0, Ordering::Relaxed);
        }
        Ok(decision)
    }

    /// Claims every bucket, as other workers might.
    #[cfg(test)]
    pub(crate) fn claim_all(&self) -> impl Sized {
        let claim = |bucket: &'_ Bucket| bucket.claim.store(1, Ordering::Relaxed);
        self.buckets.iter().for_each(claim);
        let claimed = |bucket| Claim { bucket, notes: &[], first: 0, tag: 0 };
        self.buckets.iter().map(claimed).collect::<Vec<_>>()
    }

    /// How many notes there are, for tests.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        let tags = self.buckets.iter().flat_map(|bucket| &bucket.tags);
        tags.filter(|tag| tag.load(Ordering::Relaxed) != 0).count()
    }
}

#[cfg(test)]
#[cfg(loom)]
mod models;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
