//! The limit: the least that a balancer with a connection table can do, written as tightly as we can. Parse, hash, match one
//! bucket line, verify one entry line, note in it that the connection is in use (or nobody could tell an idle one), rewrite
//! the MAC addresses, count. It checks nothing it does not need, has no states and could not open or end a connection
//! while packets pass: what it costs is what the memory costs.
//!
//! Without the note nothing is written to the table: what is then left is what reading costs.

use anyhow::Context;
use arrayvec::ArrayVec;
use dataplane::memory::{Region, prefetch};
use dataplane::time::Tick;
use dataplane::wire::{BURST, Burst, Frame, Wire};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use zerocopy::FromZeros;

use crate::traffic::{self, DIRECTOR, Phase, Protocol, SERVERS, Sender, Stream};

/// Slots of a bucket; a tag is a byte, and an empty slot has tag 0.
const SLOTS: usize = 8;

#[derive(FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    tags: AtomicU64,
    entries: [AtomicU32; SLOTS],
}

#[derive(FromZeros)]
#[repr(C, align(64))]
struct Entry {
    addresses: AtomicU64,
    ports: AtomicU32,
    server: AtomicU32,
    last_seen: AtomicU32,
}

/// Who talks to whom: both addresses, both ports, as they lie in the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    addresses: u64,
    ports: u32,
}

/// The loop and its table.
pub struct Limit<W> {
    wire: W,
    buckets: Region<Bucket>,
    entries: Region<Entry>,
    /// Frame headers of the servers.
    headers: Vec<[u8; 12]>,
    /// Packets and bytes of each server.
    counts: Vec<(u64, u64)>,
}

impl<W: Wire> Limit<W> {
    /// With these flows in its table, in as many buckets as director would have for them.
    pub fn new(wire: W, protocol: Protocol, flows: u32, buckets: usize) -> anyhow::Result<Self> {
        let header = |number| {
            let mut header = [0; 12];
            header[..6].copy_from_slice(&traffic::server(number).1.0);
            header[6..].copy_from_slice(&DIRECTOR.0);
            header
        };
        let mut limit = Self {
            wire,
            buckets: Region::new(buckets).context("no memory for the limit loop's buckets")?,
            entries: Region::new(flows as usize).context("no memory for the limit loop's entries")?,
            headers: (0..SERVERS).map(header).collect(),
            counts: vec![(0, 0); SERVERS.into()],
        };
        limit.fill(protocol, flows)?;
        Ok(limit)
    }

    fn fill(&mut self, protocol: Protocol, flows: u32) -> anyhow::Result<()> {
        let stream = Stream::new(protocol, Sender::Clients, Phase::Established, 60)?;
        let mut frame = stream.blank().to_vec();
        for index in 0..flows {
            stream.write(&mut frame, index);
            let key = parse(&frame).context("the limit loop does not know its own packets")?;
            let entry = &self.entries[index as usize];
            entry.addresses.store(key.addresses, Relaxed);
            entry.ports.store(key.ports, Relaxed);
            entry.server.store(index % u32::from(SERVERS), Relaxed);
            self.insert(hash(key), index)?;
        }
        Ok(())
    }

    fn insert(&self, hash: u64, index: u32) -> anyhow::Result<()> {
        for distance in 0..self.buckets.len() {
            let bucket = self.bucket_after(hash, distance);
            let mut tags = bucket.tags.load(Relaxed).to_le_bytes();
            if let Some(free) = tags.iter().position(|&taken| taken == 0) {
                tags[free] = tag(hash);
                bucket.tags.store(u64::from_le_bytes(tags), Relaxed);
                bucket.entries[free].store(index, Relaxed);
                return Ok(());
            }
        }
        anyhow::bail!("the limit loop's table is full")
    }

    /// As far into the buckets as the lower half of `hash` is into its range: their number is not always a power of two.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u64::from(hash as u32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn bucket_after(&self, hash: u64, distance: usize) -> &Bucket {
        &self.buckets[(self.home(hash) + distance) % self.buckets.len()]
    }

    /// A burst received, found, counted, readdressed and sent: how many packets it was. `NOTES` says whether it is noted when
    /// a connection was last used.
    #[inline]
    pub fn poll<const NOTES: bool>(&mut self, now: Tick) -> usize {
        let mut burst = Burst::new();
        self.wire.receive(&mut burst);
        let received = burst.len();

        let mut keys: ArrayVec<(Key, u64, usize, u64), BURST> = ArrayVec::new();
        for frame in &burst {
            let key = parse(frame.data()).unwrap_or(Key { addresses: 0, ports: 0 });
            let hash = hash(key);
            let home = self.home(hash);
            prefetch(&self.buckets[home]);
            keys.push((key, hash, home, 0));
        }
        for (_, hash, home, matching) in &mut keys {
            let bucket = &self.buckets[*home];
            *matching = matches(bucket.tags.load(Relaxed), tag(*hash));
            prefetch(&self.entries[bucket.first(*matching)]);
        }
        for (frame, (key, hash, home, matching)) in burst.iter_mut().zip(&keys) {
            let entry = &self.entries[self.buckets[*home].first(*matching)];
            let entry = if entry.is(*key) { Some(entry) } else { self.search(*key, *hash) };
            let Some(entry) = entry else { continue };
            if NOTES && entry.last_seen.load(Relaxed) != now.0 {
                entry.last_seen.store(now.0, Relaxed);
            }
            let server = entry.server.load(Relaxed) as usize;
            let length = frame.len();
            if let (Some(to), Some(header)) = (frame.data_mut().first_chunk_mut(), self.headers.get(server)) {
                *to = *header;
            }
            if let Some((packets, bytes)) = self.counts.get_mut(server) {
                *packets += 1;
                *bytes += length as u64;
            }
        }
        self.wire.send(&mut burst);
        received
    }

    /// Where the first slot with the right tag is not it.
    #[cold]
    fn search(&self, key: Key, hash: u64) -> Option<&Entry> {
        (0..self.buckets.len()).find_map(|distance| {
            let bucket = self.bucket_after(hash, distance);
            let entries = bucket.entries.iter().map(|index| &self.entries[index.load(Relaxed) as usize]);
            entries.into_iter().find(|entry| entry.is(key))
        })
    }

    /// Packets that have been found.
    pub fn found(&self) -> u64 {
        self.counts.iter().map(|(packets, _)| packets).sum()
    }

    /// What its wire is.
    pub fn wire(&self) -> &W {
        &self.wire
    }
}

impl Bucket {
    /// The entry of the lowest matching slot; of the last slot where none matches.
    #[inline]
    fn first(&self, matching: u64) -> usize {
        let slot = matching.trailing_zeros() as usize / 8 % SLOTS;
        self.entries[slot].load(Relaxed) as usize
    }
}

impl Entry {
    #[inline]
    fn is(&self, key: Key) -> bool {
        self.addresses.load(Relaxed) == key.addresses && self.ports.load(Relaxed) == key.ports
    }
}

/// `None` for anything but IPv4 without options.
#[inline]
fn parse(frame: &[u8]) -> Option<Key> {
    let frame: &[u8; 42] = frame.first_chunk()?;
    let (kind, addresses, ports) =
        (frame[12..15].first_chunk()?, frame[26..].first_chunk()?, frame[34..].first_chunk()?);
    (*kind == [0x08, 0x00, 0x45])
        .then(|| Key { addresses: u64::from_ne_bytes(*addresses), ports: u32::from_ne_bytes(*ports) })
}

#[inline]
fn hash(key: Key) -> u64 {
    let product = u128::from(key.addresses ^ 0x9e37_79b9_7f4a_7c15)
        * u128::from(u64::from(key.ports).wrapping_mul(0xd1b5_4a32_d192_ed03));
    product as u64 ^ (product >> 64) as u64
}

/// From the top of the hash, as the bucket is from its bottom; never 0.
#[inline]
fn tag(hash: u64) -> u8 {
    (hash >> 56) as u8 | 1
}

/// The high bit of each byte of `tags` that is `tag`. A byte above one that matches may seem to match, too.
#[inline]
fn matches(tags: u64, tag: u8) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = LOW << 7;
    let differs = tags ^ LOW.wrapping_mul(u64::from(tag));
    differs.wrapping_sub(LOW) & !differs & HIGH
}
