//! One connection in one cache line. All fields are atomics: any worker, and whoever lists connections, may read a
//! line at any time. Plain loads and stores on the machines we run on.
//!
//! The addresses, ports, method and destination are written before the entry is published in a bucket and stay as
//! they are until it is free again. What changes in between: state, time last seen, timer, cached adjacencies.

use std::net::IpAddr;

#[cfg(not(loom))]
use zerocopy::FromZeros;

use super::life::Life;
use super::state::State;
use crate::network::AdjacencyId;
use crate::parse::{AnyFlow, Flow, Flow6};
use crate::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::time::Tick;

/// An entry's place in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Index(pub u32);

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the real server.
    ToServer,
    /// From the real server to the client; seen only where the method rewrites (NAT, FULLNAT).
    ToClient,
}

/// How packets reach the real server: IPVS's forwarding methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// LVS/NAT, "Masq": addresses are rewritten both ways.
    Nat = 0,
    /// LVS/DR, "Route": only the frame is readdressed.
    DirectRouting = 1,
    /// LVS/TUN, "Tunnel": the packet travels to the server inside another one ([`crate::forward::tunnel`]).
    Tunnel = 2,
    /// LVS/FULLNAT: addresses are rewritten both ways, the client's too, which the server sees as one of ours
    /// ([`super::inside`]).
    FullNat = 3,
    /// LVS/LOCALNODE, "Local": the packet is Linux's as it came. A real server at an address of this host is reached so
    /// by the other methods, too, whatever they are ([`crate::network::Network::is_local`]).
    Local = 4,
    /// Past a service without a server (cache_bypass): the packet goes on to its own address.
    Bypass = 5,
    /// SNAT, opened outward by a server: its address and port are replaced by one of ours on the way out, and put back on the
    /// way in ([`crate::snat`]). The server is the connection's client, and the host outside both its virtual address and its
    /// real server.
    Snat = 7,
}

impl Method {
    /// True where replies come back through the director and are looked up from the server's side.
    #[inline]
    pub fn sees_replies(self) -> bool {
        matches!(self, Method::Nat | Method::FullNat | Method::Snat)
    }

    /// True where more than the frame's bytes may change, or nothing of it.
    #[inline]
    pub(crate) fn takes_frames(self) -> bool {
        self as u8 >= Method::Tunnel as u8
    }
}

/// In the place of [`Method::FullNat`] in the entry of a connection whose packets do not stay as long as they are.
const RESIZING: u8 = 6;

/// What a connection is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewConnection {
    /// The client's flow, to the virtual address.
    pub flow: AnyFlow,
    /// The real server: address, port.
    pub server: (IpAddr, u16),
    /// How packets reach it.
    pub method: Method,
    /// Whose counters it counts for.
    pub destination: u32,
    /// Its first state.
    pub state: State,
}

/// An adjacency and the generation of the network in which it was looked up, in one word so that both are of one
/// moment. 0 is none, as no generation is.
#[inline]
fn cached(generation: u32, id: AdjacencyId) -> u64 {
    u64::from(generation) << 32 | u64::from(id.0)
}

/// The tick at which the one timer of an entry fires that counts, if there is one. It outlives the connection: whoever
/// uses the entry next takes it over, so that an entry that is used often does not leave a trail of timers.
///
/// Bits 1–31 the tick's lowest 31 bits, bit 0 set; or 0 for none. Timers are less than 2^29 ticks off, so that 31 bits
/// tell before from after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Armed(u32);

impl Armed {
    /// No timer counts.
    pub(super) const NONE: Armed = Armed(0);

    /// The timer that fires at `tick`.
    #[inline]
    pub(super) fn at(tick: Tick) -> Self {
        Self(tick.0 << 1 | 1)
    }

    /// True where a timer counts that fires no later than `deadline`.
    #[inline]
    pub(super) fn is_by(self, deadline: Tick) -> bool {
        self != Self::NONE && (self.0 & !1).wrapping_sub(deadline.0 << 1) as i32 <= 0
    }
}

/// What an entry is besides a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// A connection under the template in this entry.
    Under(Index),
    /// A persistence template.
    Template {
        /// How many ticks it stays after its last new connection.
        ticks: u32,
        /// Whether its service schedules each packet by itself (`-o`).
        one_packet: bool,
        /// The first entry of its [note](super::note), which must be of IPv6's flows, and the note's length in bytes.
        note: Option<(Index, usize)>,
    },
}

/// What else of a connection is in entries of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct More {
    /// Its addresses ([`super::wide`]).
    pub(super) extension: Option<Index>,
    /// The server's side of it ([`super::inside`]).
    pub(super) inside: Option<Index>,
}

/// A connection's cache line.
#[derive(Default)]
#[cfg_attr(not(loom), derive(FromZeros))]
#[repr(C, align(64))]
pub struct Entry {
    /// Client address, virtual address: [`Flow::words`] of the client's flow. Of an IPv6 flow where its [note](super::note) or its
    /// [inside](super::inside) is, or 0.
    addresses: AtomicU64,
    /// Client port, virtual port, protocol.
    ports: AtomicU64,
    /// The server's address; where there is an [extension](super::wide) its index plus 1, else of an [inside](super::inside).
    pub(super) server_address: AtomicU32,
    /// The server's port; 0 where there is an [inside](super::inside), so that no packet that is anyone's is of this flow.
    pub(super) server_port: AtomicU16,
    pub(super) method: AtomicU8,
    /// In how many ticks packets have come, as far as anybody asks ([`Entry::busy_ticks`]).
    pub(super) busy_ticks: AtomicU8,
    life: AtomicU64,
    /// A cached adjacency; of a template, how many ticks it stays after its last new connection.
    to_server: AtomicU64,
    /// A cached adjacency; of a template, the connections under it ([`super::template`]).
    to_client: AtomicU64,
    /// The tick of the last packet.
    pub(super) last_seen: AtomicU32,
    /// When the timer fires that counts: [`Armed`].
    armed: AtomicU32,
    /// The destination; in a free entry, the next batch of free ones.
    pub(super) destination: AtomicU32,
    /// In a dead entry the next one on the same list. In a live one the entry of the template that the connection is under,
    /// plus 1; or 0.
    link: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    /// Writes a new connection into a free entry and brings it to life. Nobody else can see it yet. The entries of `more` have
    /// been filled ([`Entry::fill_extension`], [`Entry::fill_inside`]).
    #[inline]
    pub(super) fn fill(&self, new: &NewConnection, more: More, kind: Kind, now: Tick) {
        let (timeout, children, link, mark) = match kind {
            Kind::Plain => (0, 0, 0, 0),
            Kind::Under(template) => (0, 0, template.0 + 1, 0),
            Kind::Template { ticks, one_packet, note } => {
                let one_packet = if one_packet { Life::ONE_PACKET } else { 0 };
                let noted = if note.is_some() { Life::NOTED } else { 0 };
                (ticks, 1, 0, Life::TEMPLATE | one_packet | noted)
            }
        };
        let inside = more.inside.map_or(0, |Index(index)| index + 1);
        let [addresses, ports] = match (new.flow, kind) {
            (AnyFlow::V4(flow), _) => flow.words(),
            (AnyFlow::V6(flow), Kind::Template { note: Some((Index(first), length)), .. }) => {
                [u64::from(first + 1) << 32 | length as u64, flow.ports()]
            }
            (AnyFlow::V6(flow), _) => [u64::from(inside) << 32, flow.ports()],
        };
        let (server, wide) = match (more.extension, new.server.0) {
            (Some(Index(index)), _) => (index + 1, Life::WIDE),
            (None, _) if inside != 0 => (inside, 0),
            (None, IpAddr::V4(address)) => (address.into(), 0),
            // Does not come about: who opens it gives it an extension.
            (None, IpAddr::V6(_)) => (0, 0),
        };
        let (port, wide) = if inside == 0 { (new.server.1, wide) } else { (0, wide | Life::INSIDE) };
        self.addresses.store(addresses, Ordering::Relaxed);
        self.ports.store(ports, Ordering::Relaxed);
        self.server_address.store(server, Ordering::Relaxed);
        self.server_port.store(port, Ordering::Relaxed);
        self.method.store(new.method as u8, Ordering::Relaxed);
        self.to_server.store(timeout.into(), Ordering::Relaxed);
        self.to_client.store(children, Ordering::Relaxed);
        self.last_seen.store(now.0, Ordering::Relaxed);
        self.busy_ticks.store(1, Ordering::Relaxed);
        self.destination.store(new.destination, Ordering::Relaxed);
        self.link.store(link, Ordering::Relaxed);
        let generation = (self.life.load(Ordering::Relaxed) >> 32) + 1;
        let life = generation << 32 | wide | mark | Life::ALIVE | u64::from(new.state.code());
        // Release: a reader that sees this generation (`View`) sees what was written above.
        self.life.store(life, Ordering::Release);
    }

    /// The client's flow, to the virtual address, of a connection over IPv4; else [`super::ConnectionTable::flow`] tells.
    #[inline]
    pub fn flow(&self) -> Flow {
        Flow::from_words([self.addresses.load(Ordering::Relaxed), self.ports.load(Ordering::Relaxed)])
    }

    /// The real server, where both it and the client are of IPv4: address as a number, port. Else, and by FULLNAT,
    /// [`super::ConnectionTable::server`] tells; of this only the port is true over IPv6, and nothing by FULLNAT.
    #[inline]
    pub fn server(&self) -> (u32, u16) {
        (self.server_address.load(Ordering::Relaxed), self.server_port.load(Ordering::Relaxed))
    }

    /// How packets reach the real server.
    #[inline]
    pub fn method(&self) -> Method {
        match self.method.load(Ordering::Relaxed) {
            0 => Method::Nat,
            1 => Method::DirectRouting,
            2 => Method::Tunnel,
            4 => Method::Local,
            5 => Method::Bypass,
            7 => Method::Snat,
            _ => Method::FullNat,
        }
    }

    /// True by FULLNAT where packets do not stay as long as they are: the server is told who its client is, or is of the other family
    /// of IP.
    #[inline]
    pub(crate) fn resizes(&self) -> bool {
        self.method.load(Ordering::Relaxed) == RESIZING
    }

    /// Of a connection by FULLNAT that nobody finds yet: its packets do not stay as long as they are.
    pub(super) fn set_resizing(&self) {
        self.method.store(RESIZING, Ordering::Relaxed);
    }

    /// Whose counters the connection counts for.
    #[inline]
    pub fn destination(&self) -> u32 {
        self.destination.load(Ordering::Relaxed)
    }

    /// The flow of a packet that goes this way.
    #[inline]
    pub(super) fn flow_of(&self, direction: Direction) -> Flow {
        let flow = self.flow();
        match direction {
            Direction::ToServer => flow,
            Direction::ToClient => Flow::new(flow.protocol(), self.server(), flow.source()),
        }
    }

    /// The ports' word of the [IPv6 flow](Flow6::ports) of a packet that goes this way.
    #[inline]
    pub(super) fn ports_of(&self, direction: Direction) -> u64 {
        let ports = self.ports.load(Ordering::Relaxed);
        match direction {
            Direction::ToServer => ports,
            Direction::ToClient => {
                let server = u64::from(self.server_port.load(Ordering::Relaxed));
                server << 48 | (ports >> 48) << 32 | ports & 0xffff_ffff
            }
        }
    }

    /// True for a connection over IPv6, of which it is known that it is one.
    #[inline]
    pub(super) fn is_ipv6(&self) -> bool {
        Flow6::has_ports(self.ports.load(Ordering::Relaxed))
    }

    /// The entry that holds the connection's addresses, where this one does not.
    #[inline]
    pub(super) fn extension(&self) -> Option<Index> {
        let index = self.life().is_wide().then(|| self.server_address.load(Ordering::Relaxed))?;
        index.checked_sub(1).map(Index)
    }

    /// The entry that holds the server's side of the connection, where there is one.
    #[inline]
    pub(super) fn inside(&self) -> Option<Index> {
        let life = self.life();
        let place = match (life.has_inside(), life.is_wide()) {
            (false, _) => return None,
            (true, true) => (self.addresses.load(Ordering::Relaxed) >> 32) as u32,
            (true, false) => self.server_address.load(Ordering::Relaxed),
        };
        place.checked_sub(1).map(Index)
    }

    /// The IP protocol number of the connection's packets.
    #[inline]
    pub(super) fn protocol(&self) -> u8 {
        let ports = self.ports.load(Ordering::Relaxed);
        if Flow6::has_ports(ports) { (ports >> 16) as u8 } else { (ports >> 24) as u8 }
    }

    /// Of a template over IPv6: the first entry of its note, and the note's length in bytes.
    pub(super) fn note(&self) -> Option<(Option<Index>, usize)> {
        let word = self.addresses.load(Ordering::Relaxed);
        (word != 0).then(|| (((word >> 32) as u32).checked_sub(1).map(Index), word as u32 as usize))
    }

    /// Of an extension: the first 16 bytes.
    #[inline]
    pub(super) fn first_words(&self) -> u128 {
        let words = (self.addresses.load(Ordering::Relaxed), self.ports.load(Ordering::Relaxed));
        u128::from(words.0) << 64 | u128::from(words.1)
    }

    /// Of an extension: the second 16 bytes.
    #[inline]
    pub(super) fn second_words(&self) -> u128 {
        let words = (self.to_server.load(Ordering::Relaxed), self.to_client.load(Ordering::Relaxed));
        u128::from(words.0) << 64 | u128::from(words.1)
    }

    /// Of an extension: writes the second 16 bytes.
    pub(super) fn set_second_words(&self, words: u128) {
        self.to_server.store((words >> 64) as u64, Ordering::Relaxed);
        self.to_client.store(words as u64, Ordering::Relaxed);
    }

    /// Of an extension: the third 16 bytes.
    #[inline]
    pub(super) fn third_words(&self) -> u128 {
        let [a, b, c] = [&self.server_address, &self.last_seen, &self.destination]
            .map(|word| word.load(Ordering::Relaxed));
        let d = u32::from(self.server_port.load(Ordering::Relaxed)) << 16
            | u32::from(self.method.load(Ordering::Relaxed)) << 8
            | u32::from(self.busy_ticks.load(Ordering::Relaxed));
        [a, b, c, d].into_iter().fold(0, |words, word| words << 32 | u128::from(word))
    }

    /// Makes a free entry an extension: 48 bytes in places where nothing is kept from one connection to the next.
    pub(super) fn set_words(&self, [first, second, third]: [u128; 3]) {
        self.addresses.store((first >> 64) as u64, Ordering::Relaxed);
        self.ports.store(first as u64, Ordering::Relaxed);
        self.set_second_words(second);
        self.server_address.store((third >> 96) as u32, Ordering::Relaxed);
        self.last_seen.store((third >> 64) as u32, Ordering::Relaxed);
        self.destination.store((third >> 32) as u32, Ordering::Relaxed);
        self.server_port.store((third >> 16) as u16, Ordering::Relaxed);
        self.method.store((third >> 8) as u8, Ordering::Relaxed);
        self.busy_ticks.store(third as u8, Ordering::Relaxed);
    }

    /// State, flags and generation.
    #[inline]
    pub fn life(&self) -> Life {
        // Acquire: pairs with the Release in `fill`.
        Life(self.life.load(Ordering::Acquire))
    }

    /// Puts `new` in the place of `old`; else what is there.
    #[inline]
    pub(super) fn change_life(&self, old: Life, new: Life) -> Result<(), Life> {
        self.life.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(Life)
    }

    /// Whoever opens the connection is done.
    #[inline]
    pub(super) fn complete(&self) {
        self.life.fetch_or(Life::COMPLETE, Ordering::AcqRel);
    }

    /// Ends the connection. The life it had goes to the one caller that ended it.
    pub(super) fn end(&self, mut life: Life) -> Option<Life> {
        while life.is_alive() {
            match self.change_life(life, life.ended()) {
                Ok(()) => return Some(life),
                Err(now) if now.generation() != life.generation() => return None,
                Err(now) => life = now,
            }
        }
        None
    }

    /// The tick of the last packet.
    #[inline]
    pub fn last_seen(&self) -> Tick {
        Tick(self.last_seen.load(Ordering::Relaxed))
    }

    /// A packet has come. Does not dirty the line twice within a tick.
    #[inline]
    pub fn seen(&self, now: Tick) {
        if self.last_seen.load(Ordering::Relaxed) != now.0 {
            self.last_seen.store(now.0, Ordering::Relaxed);
            let ticks = self.busy_ticks.load(Ordering::Relaxed);
            if ticks < u8::MAX {
                self.busy_ticks.store(ticks + 1, Ordering::Relaxed);
            }
        }
    }

    /// In how many ticks packets of the connection have come, 255 standing for more: what stands in for IPVS's count of its
    /// packets, which would be written with every one of them.
    pub fn busy_ticks(&self) -> u8 {
        self.busy_ticks.load(Ordering::Relaxed)
    }

    /// Of a template: how many ticks it stays after its last new connection.
    #[inline]
    pub(super) fn persistence(&self) -> &AtomicU64 {
        &self.to_server
    }

    /// Of a template: the connections under it.
    #[inline]
    pub(super) fn children(&self) -> &AtomicU64 {
        &self.to_client
    }

    #[inline]
    fn cache(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    /// The adjacency cached for this direction, if it was looked up in this generation of the network.
    #[inline]
    pub fn adjacency(&self, direction: Direction, generation: u32) -> Option<AdjacencyId> {
        let word = self.cache(direction).load(Ordering::Relaxed);
        ((word >> 32) as u32 == generation).then_some(AdjacencyId(word as u32))
    }

    /// Caches an adjacency.
    #[inline]
    pub fn set_adjacency(&self, direction: Direction, generation: u32, id: AdjacencyId) {
        self.cache(direction).store(cached(generation, id), Ordering::Relaxed);
    }

    /// When the timer fires that counts.
    #[inline]
    pub(super) fn armed(&self) -> Armed {
        Armed(self.armed.load(Ordering::Relaxed))
    }

    /// Makes the timer `new` the one that counts, where it was `old`.
    #[inline]
    pub(super) fn rearm(&self, old: Armed, new: Armed) -> bool {
        self.armed.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    #[inline]
    pub(super) fn link(&self) -> &AtomicU32 {
        &self.link
    }

    #[inline]
    pub(super) fn next_batch(&self) -> &AtomicU32 {
        &self.destination
    }
}
