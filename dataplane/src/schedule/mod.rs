//! Schedulers: which destination gets a new connection. One file each; each is named in [`SCHEDULERS`] and nowhere else.
//!
//! Meaning, arithmetic and tie-breaks are IPVS's. A scheduler's own state (whose turn it is, say) is in atomics, so that
//! a choice is one step over all workers, and it outlives the snapshots in which the service is published. What only
//! depends on the service's destinations is laid out by control when it publishes them ([`Slots`]). No scheduler ever
//! locks, waits, allocates or frees where a packet is on its way.

mod conhash;
mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod locality;
mod mh;
mod none;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
mod twos;
mod wlc;
mod wrr;

use std::fmt::Debug;
use std::iter::Sum;
use std::sync::Arc;

use crate::destination::{Destinations, Load};
use crate::packet::{ethernet, protocol, udp};
use crate::parse::{AnyFlow, AnyPacket};
use crate::service::{Destination, Service};
use crate::time::Tick;

/// Chooses a destination for each new connection of one service.
pub trait Scheduler: Debug + Send + Sync {
    /// The destination for the connection that `arrival` opens, or `None` where there is no candidate.
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination>;

    /// Lays out what follows from these destinations, the one added last first: slots for schedulers that look up a hash,
    /// say. Called by control before it publishes a service.
    fn slots(&self, destinations: &[Destination]) -> Slots {
        let _ = destinations;
        Slots::default()
    }

    /// Does what is due at `now`. Called by control, more often than once a minute.
    fn sweep(&self, now: Tick, settings: &Settings) {
        let _ = (now, settings);
    }

    /// One of the service's destinations was added, deleted or edited; this sums up those there are now. Called by control
    /// for every change, before it publishes them.
    fn changed(&self, destinations: Summary) {
        let _ = destinations;
    }
}

/// What a scheduler's state may depend on when destinations change. A sum of the destinations' own, so that it is known
/// after each of many changes without going over all destinations again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The sequence number of the one added last; 0 where there is none.
    newest: u32,
    /// The greatest common divisor of the weights; 0 where none is above 0.
    divisor: u32,
    /// The highest weight.
    highest: u32,
}

impl Summary {
    /// Of these destinations and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            newest: self.newest.max(other.newest),
            divisor: gcd(self.divisor, other.divisor),
            highest: self.highest.max(other.highest),
        }
    }
}

impl From<&Destination> for Summary {
    fn from(one: &Destination) -> Self {
        Self { newest: one.sequence, divisor: one.weight, highest: one.weight }
    }
}

impl Sum for Summary {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::and)
    }
}

/// What a choice may depend on besides the service and its destinations: the packet that opens the connection, when, and
/// what is set for all services.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'p> {
    /// Who talks to whom.
    pub flow: AnyFlow,
    /// The time.
    pub now: Tick,
    /// A UDP datagram's data as far as the frame's first segment holds it; empty for other protocols.
    pub datagram: &'p [u8],
    /// What is set for all services.
    pub settings: Settings,
}

impl<'p> Arrival<'p> {
    /// Of the packet that `frame`, from its Ethernet header on, was parsed as.
    #[inline]
    pub fn new(packet: &AnyPacket, frame: &'p [u8], now: Tick, settings: Settings) -> Self {
        let flow = packet.flow;
        let datagram = if flow.protocol() == protocol::UDP {
            let end = frame.len().min(ethernet::HEADER + packet.length);
            let start = ethernet::HEADER + packet.transport + udp::HEADER;
            frame.get(start..end).unwrap_or_default()
        } else {
            &[]
        };
        Self { flow, now, datagram, settings }
    }
}

/// The scheduler flags of a service (`-b`). What they mean is up to its scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(
    /// Bit 0 is flag 1, bit 1 flag 2, bit 2 flag 3.
    pub u8,
);

impl Flags {
    /// Flag 1: sh-fallback, mh-fallback, conhash-quic.
    pub const FIRST: Self = Self(1);
    /// Flag 2: sh-port, mh-port, conhash-port.
    pub const SECOND: Self = Self(2);
    /// Flag 3.
    pub const THIRD: Self = Self(4);

    /// True if every flag of `other` is set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What can be set about scheduling, for all services: IPVS's sysctls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `lblc_expiration`: how long lblc remembers a destination address that nobody asks for, in seconds.
    pub lblc_expiration: u32,
    /// `lblcr_expiration`: the same for lblcr, and how long a set of servers stays as it is before it loses one.
    pub lblcr_expiration: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lblc_expiration: 24 * 60 * 60, lblcr_expiration: 24 * 60 * 60 }
    }
}

/// How many slots the hashing schedulers have. A kernel's are chosen when it is built; where directors are to agree with
/// it, or with each other, theirs must be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// dh's, as a power of two: from 4 to 20 (CONFIG_IP_VS_DH_TAB_BITS).
    dh_bits: u8,
    /// sh's, likewise (CONFIG_IP_VS_SH_TAB_BITS).
    sh_bits: u8,
    /// mh's, as a place in [`Self::MH_SLOTS`].
    mh_place: u8,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self { dh_bits: 8, sh_bits: 8, mh_place: 4 }
    }
}

impl TableSizes {
    /// The fewest slots of dh and sh.
    pub const LEAST: u32 = 1 << 4;
    /// The most slots of dh and sh.
    pub const MOST: u32 = 1 << 20;
    /// The numbers of slots that mh can have, all prime (CONFIG_IP_VS_MH_TAB_INDEX from 8 on).
    pub const MH_SLOTS: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

    fn bits(slots: u32) -> Option<u8> {
        let fits = slots.is_power_of_two() && (Self::LEAST..=Self::MOST).contains(&slots);
        fits.then(|| slots.trailing_zeros() as u8)
    }

    /// With so many slots for dh; `None` unless a power of two from [`Self::LEAST`] to [`Self::MOST`].
    #[must_use]
    pub fn with_dh(self, slots: u32) -> Option<Self> {
        Some(Self { dh_bits: Self::bits(slots)?, ..self })
    }

    /// With so many slots for sh; `None` unless a power of two from [`Self::LEAST`] to [`Self::MOST`].
    #[must_use]
    pub fn with_sh(self, slots: u32) -> Option<Self> {
        Some(Self { sh_bits: Self::bits(slots)?, ..self })
    }

    /// With so many slots for mh; `None` unless one of [`Self::MH_SLOTS`].
    #[must_use]
    pub fn with_mh(self, slots: u32) -> Option<Self> {
        let place = Self::MH_SLOTS.iter().position(|known| *known == slots)?;
        Some(Self { mh_place: place as u8, ..self })
    }

    fn mh_slots(&self) -> u32 {
        Self::MH_SLOTS[usize::from(self.mh_place)]
    }

    /// Half of the kernel's CONFIG_IP_VS_MH_TAB_INDEX.
    fn mh_turn_bits(&self) -> u32 {
        (u32::from(self.mh_place) + 8) / 2
    }
}

/// What a scheduler has laid out for a service's destinations. For those that look up a hash, slot by slot the place of
/// the destination in it; for lblc and lblcr a number for each destination, by place; for wrr two numbers of the weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots(Box<[u32]>);

impl Slots {
    /// What is in the slot that `hash` falls into.
    #[inline]
    pub(crate) fn hashed(&self, hash: u32) -> Option<u32> {
        self.at(hash.checked_rem(self.count())? as usize)
    }

    /// What is in the slot numbered so.
    #[inline]
    pub(crate) fn at(&self, slot: usize) -> Option<u32> {
        self.0.get(slot).copied()
    }

    /// The first slot in which this is.
    pub(crate) fn position(&self, number: u32) -> Option<usize> {
        self.0.iter().position(|n| *n == number)
    }

    /// How many slots there are; 0 where there is nobody to put into them.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.0.len() as u32
    }
}

impl FromIterator<u32> for Slots {
    fn from_iter<I: IntoIterator<Item = u32>>(slots: I) -> Self {
        Self(slots.into_iter().collect())
    }
}

/// A scheduler's entry in the register.
pub struct Registered {
    /// What `-s` takes.
    pub name: &'static str,
    /// The names of its flags, flag 1 first.
    pub flags: &'static [&'static str],
    make: fn(&TableSizes) -> Arc<dyn Scheduler>,
}

const fn entry(
    name: &'static str,
    flags: &'static [&'static str],
    make: fn(&TableSizes) -> Arc<dyn Scheduler>,
) -> Registered {
    Registered { name, flags, make }
}

/// Every scheduler there is.
pub const SCHEDULERS: [Registered; 15] = [
    entry("rr", &[], |_| Arc::<rr::RoundRobin>::default()),
    entry("wrr", &[], |_| Arc::<wrr::WeightedRoundRobin>::default()),
    entry("lc", &[], |_| Arc::new(lc::LeastConnections)),
    entry("wlc", &[], |_| Arc::new(wlc::WeightedLeastConnections)),
    entry("lblc", &[], |_| Arc::<lblc::LocalityLeastConnections>::default()),
    entry("lblcr", &[], |_| Arc::<lblcr::ReplicatedLeastConnections>::default()),
    entry("dh", &[], |sizes| Arc::new(dh::DestinationHashing::new(sizes))),
    entry("sh", &["sh-fallback", "sh-port"], |sizes| Arc::new(sh::SourceHashing::new(sizes))),
    entry("sed", &[], |_| Arc::new(sed::ShortestExpectedDelay)),
    entry("nq", &[], |_| Arc::new(nq::NeverQueue)),
    entry("fo", &[], |_| Arc::new(fo::Failover)),
    entry("ovf", &[], |_| Arc::new(ovf::Overflow)),
    entry("mh", &["mh-fallback", "mh-port"], |sizes| Arc::new(mh::MaglevHashing::new(sizes))),
    entry("twos", &[], |_| Arc::<twos::PowerOfTwo>::default()),
    entry("conhash", &["conhash-quic", "conhash-port"], |_| Arc::new(conhash::ConsistentHashing)),
];

/// The names of all schedulers.
pub const NAMES: [&str; SCHEDULERS.len()] = {
    let mut names = [""; SCHEDULERS.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = SCHEDULERS[n].name;
        n += 1;
    }
    names
};

/// A new scheduler of this name, with tables as large as the kernel's are by default.
pub fn by_name(name: &str) -> Option<Arc<dyn Scheduler>> {
    sized(name, &TableSizes::default())
}

/// A new scheduler of this name, with tables of these sizes.
pub fn sized(name: &str, sizes: &TableSizes) -> Option<Arc<dyn Scheduler>> {
    SCHEDULERS.iter().find(|s| s.name == name).map(|s| (s.make)(sizes))
}

/// What a service without a scheduler has: no connection gets a destination. It has no name here, being none.
pub fn none() -> Arc<dyn Scheduler> {
    Arc::new(none::NoScheduler)
}

/// The names of a scheduler's flags, flag 1 first.
pub fn flag_names(name: &str) -> &'static [&'static str] {
    SCHEDULERS.iter().find(|s| s.name == name).map_or(&[], |s| s.flags)
}

/// True where a destination may get a new connection.
#[inline]
fn is_candidate(destination: &Destination, loads: &Destinations) -> bool {
    destination.weight > 0 && !loads.load(destination.id).is_overloaded()
}

/// What a connection costs its server, as lc, wlc and their like count it: an active one as much as 256 inactive.
fn overhead(load: &Load) -> u64 {
    (u64::from(load.active()) << 8) + u64::from(load.inactive())
}

/// What sed and nq expect a new connection to wait for: active connections, itself among them.
fn delay(load: &Load) -> u64 {
    u64::from(load.active()) + 1
}

/// The highest weight, and the first of equals.
fn highest_weight<'s>(candidates: impl Iterator<Item = &'s Destination>) -> Option<&'s Destination> {
    candidates.reduce(|highest, other| if other.weight > highest.weight { other } else { highest })
}

/// The one with the least cost for its weight, and the first of equals. Weights of those given are above 0.
fn least_for_weight<'s>(costs: impl Iterator<Item = (u64, &'s Destination)>) -> Option<&'s Destination> {
    let exceeds = |least: &(u64, &Destination), other: &(u64, &Destination)| {
        // Without division: a/v > b/w where a*w > b*v. 40 bits of cost times 31 of weight.
        u128::from(least.0) * u128::from(other.1.weight) > u128::from(other.0) * u128::from(least.1.weight)
    };
    costs.reduce(|least, other| if exceeds(&least, &other) { other } else { least }).map(|(_, d)| d)
}

/// The candidate with the least overhead for its weight, and the first of equals: wlc's choice.
fn least_loaded<'s>(service: &'s Service, loads: &Destinations) -> Option<&'s Destination> {
    let candidates = service.destinations().iter().filter(|d| is_candidate(d, loads));
    least_for_weight(candidates.map(|d| (overhead(loads.load(d.id)), d)))
}

/// The greatest common divisor; 0 divides nothing and is divided by everything.
fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
