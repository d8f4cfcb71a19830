//! What lblc and lblcr remember: for each destination address, the servers that its connections go to.
//!
//! The kernel's table is one of linked lists under a lock, and grows with every address it meets. This one has a fixed
//! size and is shared by all workers without one ever waiting for another:
//!
//! - A *bucket* is a cache line: a claim and 15 tags. A tag is a hash of the address, and 0 where the entry is free.
//! - Who changes an entry claims its bucket first. Where another worker has it, the change is left undone: the
//!   connection goes where it was to go, and the next one to the address tries again. The kernel does the same where it
//!   has no memory for an entry.
//! - Who reads an entry sees by its version whether it was changed meanwhile, and then reads it again.
//! - A bucket that is full gives up the entry that has gone unused longest. There is room for nearly four times the
//!   16384 addresses that the kernel lets pass, so that this happens hardly ever below them.
//!
//! Servers are remembered by number. A number is given by address and port, once and for all: a server that was deleted
//! and comes back is the one it was, as in the kernel.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "control keeps its own part under a lock and may wait for a worker; no worker takes the lock or waits"
)]

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use arrayvec::ArrayVec;
use zerocopy::FromZeros;

use super::Slots;
use super::hash::{fold, multiplicative};
use crate::destination::Destinations;
use crate::service::{Destination, Service};
use crate::time::{TICKS_PER_SECOND, Tick};

/// The number of buckets, as a power of two.
const BUCKET_BITS: u32 = 12;
const WAYS: usize = 15;

/// With more entries than these, a sweep looks for such as are little used.
const MANY_ENTRIES: u32 = 16 << 10;
/// Time from one sweep to the next, in ticks.
const SWEEP_PERIOD: i32 = 60 * TICKS_PER_SECOND as i32;
/// One sweep in so many is for entries that have expired.
const FULL_SWEEP: u32 = 30;
/// How long an entry may go unused while there are many, in ticks.
const LITTLE_USED: i32 = 6 * 60 * TICKS_PER_SECOND as i32;

/// How often a reader tries again before it goes on as if there were no entry.
const ATTEMPTS: usize = 4;

#[derive(FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    /// Not 0 while somebody changes one of its entries.
    claim: AtomicU32,
    tags: [AtomicU32; WAYS],
}

#[derive(FromZeros)]
#[repr(C)]
struct Entry<const N: usize> {
    /// Odd while it is being changed, and another after each change.
    version: AtomicU32,
    /// The tick of the last connection to the address.
    last_use: AtomicU32,
    /// The tick at which a server was added to the set or taken out.
    changed: AtomicU32,
    count: AtomicU32,
    /// The address; IPv4 mapped into IPv6.
    address: [AtomicU64; 2],
    servers: [AtomicU32; N],
}

/// The servers of one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Set<const N: usize> {
    /// Their numbers, the one added last first.
    pub(super) servers: ArrayVec<u32, N>,
    /// When one was added or taken out.
    pub(super) changed: Tick,
}

impl<const N: usize> Set<N> {
    /// Adds a server, unless it is there. It takes the place of the one added first where there is no other.
    pub(super) fn insert(&mut self, server: u32, now: Tick) {
        if self.servers.contains(&server) {
            return;
        }
        if self.servers.is_full() {
            self.servers.pop();
        }
        self.servers.insert(0, server);
        self.changed = now;
    }

    /// Takes a server out.
    pub(super) fn remove(&mut self, server: u32, now: Tick) {
        self.servers.retain(|s| *s != server);
        self.changed = now;
    }
}

impl<const N: usize> Entry<N> {
    /// The set, if this is the address's. `Err` where it was changed while it was read.
    fn read(&self, address: [u64; 2]) -> Result<Option<Set<N>>, ()> {
        // Acquire: what is read below is not older than the version. Pairs with the Release at the end of `write`.
        let version = self.version.load(Ordering::Acquire);
        let set = self.contents(address);
        // What was read above is not newer than the version read below. Pairs with the fence in `write`.
        fence(Ordering::Acquire);
        let untouched = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        untouched.then_some(set).ok_or(())
    }

    fn contents(&self, address: [u64; 2]) -> Option<Set<N>> {
        let is_it = self.address.iter().map(|word| word.load(Ordering::Relaxed)).eq(address);
        is_it.then(|| {
            let count = (self.count.load(Ordering::Relaxed) as usize).min(N);
            let servers = self.servers[..count].iter().map(|s| s.load(Ordering::Relaxed)).collect();
            Set { servers, changed: Tick(self.changed.load(Ordering::Relaxed)) }
        })
    }

    /// To be called by who has claimed the bucket.
    fn write(&self, address: [u64; 2], set: &Set<N>) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.address.iter().zip(address).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        self.servers.iter().zip(&set.servers).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
        self.count.store(set.servers.len() as u32, Ordering::Relaxed);
        self.changed.store(set.changed.0, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// How long it has gone unused, in ticks.
    fn idle(&self, now: Tick) -> i32 {
        now.since(Tick(self.last_use.load(Ordering::Relaxed)))
    }
}

/// What only control touches.
#[derive(Default)]
struct Control {
    numbers: HashMap<(IpAddr, u16), u32>,
    last_sweep: Option<Tick>,
    sweeps: u32,
    /// The bucket at which the last sweep stopped.
    rover: usize,
}

/// True for a destination that is to be left for another: it has more active connections than its weight, and somebody
/// has less than half as many as its own.
pub(super) fn is_crowded(destination: &Destination, service: &Service, loads: &Destinations) -> bool {
    let active = |d: &Destination| u64::from(loads.load(d.id).active());
    active(destination) > destination.weight.into()
        && service.destinations().iter().any(|d| active(d) * 2 < d.weight.into())
}

/// The servers of all addresses, at most `N` of each.
pub(super) struct Locality<const N: usize> {
    buckets: Box<[Bucket]>,
    entries: Box<[Entry<N>]>,
    count: AtomicU32,
    control: Mutex<Control>,
}

impl<const N: usize> Default for Locality<N> {
    /// Zeroed memory, which the system gives where it is touched. Without any, nothing is remembered.
    fn default() -> Self {
        let buckets = <[Bucket]>::new_box_zeroed_with_elems(1 << BUCKET_BITS);
        let entries = <[Entry<N>]>::new_box_zeroed_with_elems(WAYS << BUCKET_BITS);
        let (buckets, entries) = buckets.and_then(|b| Ok((b, entries?))).unwrap_or_default();
        Self { buckets, entries, count: AtomicU32::default(), control: Mutex::default() }
    }
}

impl<const N: usize> fmt::Debug for Locality<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locality").field("count", &self.count).finish_non_exhaustive()
    }
}

/// An address as the table looks for it.
#[derive(Clone, Copy)]
struct Key {
    address: [u64; 2],
    bucket: usize,
    tag: u32,
}

impl Key {
    fn new(address: IpAddr) -> Self {
        let folded = fold(address);
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let words = u128::from(mapped);
        Self {
            address: [(words >> 64) as u64, words as u64],
            bucket: multiplicative(folded, BUCKET_BITS) as usize,
            tag: folded.max(1),
        }
    }
}

impl<const N: usize> Locality<N> {
    fn bucket(&self, number: usize) -> Option<(&Bucket, &[Entry<N>])> {
        Some((self.buckets.get(number)?, self.entries.get(number * WAYS..(number + 1) * WAYS)?))
    }

    /// The servers of an address, which is used now.
    pub(super) fn find(&self, address: IpAddr, now: Tick) -> Option<Set<N>> {
        let key = Key::new(address);
        let (bucket, entries) = self.bucket(key.bucket)?;
        for (tag, entry) in bucket.tags.iter().zip(entries) {
            if tag.load(Ordering::Relaxed) != key.tag {
                continue;
            }
            let read = (0..ATTEMPTS).find_map(|_| entry.read(key.address).ok());
            if let Some(Some(set)) = read {
                entry.last_use.store(now.0, Ordering::Relaxed);
                return Some(set);
            }
        }
        None
    }

    /// Changes the servers of an address, none to begin with. Left undone where another worker is at it.
    pub(super) fn update(&self, address: IpAddr, now: Tick, change: impl FnOnce(&mut Set<N>)) {
        let key = Key::new(address);
        let Some((bucket, entries)) = self.bucket(key.bucket) else { return };
        if !bucket.claim() {
            return;
        }
        let tags = bucket.tags.each_ref().map(|tag| tag.load(Ordering::Relaxed));
        let tagged = (0..WAYS).filter(|way| tags[*way] == key.tag);
        let known = tagged.filter_map(|way| Some((way, entries[way].contents(key.address)?))).next();
        let (way, mut set) = known.unwrap_or_else(|| {
            // A free one has gone unused for longer than any that is not.
            let idle = |way: usize| if tags[way] == 0 { i32::MAX } else { entries[way].idle(now) };
            ((0..WAYS).max_by_key(|way| idle(*way)).unwrap_or_default(), Set::default())
        });
        change(&mut set);
        if !set.servers.is_empty() {
            entries[way].write(key.address, &set);
            entries[way].last_use.store(now.0, Ordering::Relaxed);
            bucket.tags[way].store(key.tag, Ordering::Relaxed);
            if tags[way] == 0 {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        bucket.release();
    }

    /// The numbers of these destinations. By control.
    pub(super) fn numbers(&self, destinations: &[Destination]) -> Slots {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = |d: &Destination| {
            let next = control.numbers.len() as u32;
            *control.numbers.entry((d.address, d.port)).or_insert(next)
        };
        destinations.iter().map(&mut number).collect()
    }

    /// Forgets, every half hour, addresses that have gone unused for `expiration` seconds, and every minute, where there
    /// are many, some of those that are little used. By control, more often than once a minute.
    pub(super) fn sweep(&self, now: Tick, expiration: u32) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(*control.last_sweep.get_or_insert(now)) < SWEEP_PERIOD {
            return;
        }
        control.last_sweep = Some(now);
        control.sweeps += 1;
        let count = self.count.load(Ordering::Relaxed);
        let (goal, idle) = if control.sweeps.is_multiple_of(FULL_SWEEP) {
            let ticks = expiration.saturating_mul(TICKS_PER_SECOND);
            (u32::MAX, i32::try_from(ticks).unwrap_or(i32::MAX))
        } else if count > MANY_ENTRIES {
            (((count - MANY_ENTRIES) * 4 / 3).min(MANY_ENTRIES / 2), LITTLE_USED)
        } else {
            return;
        };
        let mut gone = 0;
        for _ in 0..self.buckets.len() {
            control.rover = (control.rover + 1) % self.buckets.len();
            gone += self.forget(control.rover, now, idle);
            if gone >= goal {
                break;
            }
        }
    }

    /// Frees a bucket's entries that have gone unused for `idle` ticks.
    fn forget(&self, number: usize, now: Tick, idle: i32) -> u32 {
        let Some((bucket, entries)) = self.bucket(number) else { return 0 };
        // Control may wait for a worker. It can be at it for a moment only.
        while !bucket.claim() {
            std::thread::yield_now();
        }
        let mut gone = 0;
        for (tag, entry) in bucket.tags.iter().zip(entries) {
            if tag.load(Ordering::Relaxed) != 0 && entry.idle(now) >= idle {
                tag.store(0, Ordering::Relaxed);
                gone += 1;
            }
        }
        bucket.release();
        self.count.fetch_sub(gone, Ordering::Relaxed);
        gone
    }
}

impl Bucket {
    /// Tries to become the only one to change its entries.
    fn claim(&self) -> bool {
        self.claim.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn release(&self) {
        self.claim.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn remember(table: &Locality<1>, n: u32, now: Tick) {
        table.update(address(n), now, |set| set.insert(n, now));
    }

    fn known(table: &Locality<1>, addresses: impl Iterator<Item = u32>, now: Tick) -> usize {
        let is_known = |n: &u32| table.find(address(*n), now).is_some_and(|set| set.servers[..] == [*n]);
        addresses.filter(is_known).count()
    }

    #[test]
    fn as_many_addresses_as_the_kernel_lets_pass_are_remembered() {
        let table = Locality::default();
        for n in 0..MANY_ENTRIES {
            remember(&table, n, Tick(n));
        }
        assert_eq!(known(&table, 0..MANY_ENTRIES, Tick(MANY_ENTRIES)), MANY_ENTRIES as usize);
        assert!(table.find("2001:db8::1".parse().unwrap(), Tick(0)).is_none());
    }

    #[test]
    fn a_full_table_gives_up_what_was_used_longest_ago() {
        let table = Locality::default();
        let room = (WAYS << BUCKET_BITS) as u32;
        for n in 0..2 * room {
            remember(&table, n, Tick(n));
            table.find(address(0), Tick(n));
        }
        let now = Tick(2 * room);
        assert_eq!(known(&table, 0..1, now), 1, "in use all the time");
        assert!(known(&table, 1..room / 2, now) == 0);
        assert!(known(&table, 2 * room - MANY_ENTRIES..2 * room, now) > MANY_ENTRIES as usize * 99 / 100);
        assert!(table.count.load(Ordering::Relaxed) <= room);
    }

    #[test]
    fn sweeps_forget_what_has_expired_and_in_need_what_is_little_used() {
        let minutes = |n: u32| Tick::from_seconds(60 * n);
        let table = Locality::default();
        table.sweep(minutes(0), 3600);
        remember(&table, 0, minutes(0));
        for n in 1..90 {
            remember(&table, 1, minutes(n));
            table.sweep(minutes(n), 3600);
        }
        assert_eq!(table.count.load(Ordering::Relaxed), 1, "unused for an hour at the second full sweep");
        assert_eq!(known(&table, 1..2, minutes(89)), 1);

        let table = Locality::default();
        table.sweep(minutes(0), 3600);
        let (old, new) = (0..MANY_ENTRIES, MANY_ENTRIES..MANY_ENTRIES + 300);
        old.clone().for_each(|n| remember(&table, n, minutes(0)));
        new.clone().for_each(|n| remember(&table, n, minutes(5)));
        table.sweep(minutes(5), 3600);
        assert_eq!(table.count.load(Ordering::Relaxed), MANY_ENTRIES + 300, "nobody unused for 6 minutes");
        table.sweep(minutes(6), 3600);
        let left = table.count.load(Ordering::Relaxed);
        assert!((MANY_ENTRIES - 115..=MANY_ENTRIES - 100).contains(&left), "4/3 of what is too many: {left}");
        assert_eq!(known(&table, new, minutes(6)), 300);
    }

    /// Two writers and two readers on one bucket: nobody ever sees the servers of another address.
    #[test]
    fn readers_see_whole_sets_while_writers_are_at_work() {
        let table = Locality::<8>::default();
        let in_one_bucket: Vec<u32> = (0..).filter(|n| Key::new(address(*n)).bucket == 7).take(40).collect();
        std::thread::scope(|scope| {
            for first in 0..2 {
                let (table, addresses) = (&table, &in_one_bucket);
                scope.spawn(move || {
                    for round in 0..20_000u32 {
                        let n = addresses[((round * 7 + first) % 40) as usize];
                        table.update(address(n), Tick(round), |set| {
                            let length = set.servers.len() as u32;
                            set.insert((n << 8) + (length + round) % 16, Tick(round));
                        });
                    }
                });
                scope.spawn(move || {
                    for round in 0..20_000u32 {
                        let n = addresses[(round % 40) as usize];
                        if let Some(set) = table.find(address(n), Tick(round)) {
                            assert!(set.servers.iter().all(|s| s >> 8 == n), "{n}: {set:?}");
                        }
                    }
                });
            }
        });
        assert!(table.count.load(Ordering::Relaxed) <= WAYS as u32);
    }
}
