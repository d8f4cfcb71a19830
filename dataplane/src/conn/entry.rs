//! One connection in one cache line. All fields are atomics: any worker, and whoever lists connections, may read a
//! line at any time. Plain loads and stores on the machines we run on.
//!
//! The addresses, ports, method and destination are written before the entry is published in a bucket and stay as
//! they are until it is free again. What changes in between: state, time last seen, timer, cached adjacencies.

use std::net::IpAddr;

#[cfg(not(loom))]
use zerocopy::FromZeros;

use super::state::State;
use crate::network::AdjacencyId;
use crate::packet::tcp::Flags;
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
    /// From the real server to the client; seen only where the method rewrites (NAT).
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
}

impl Method {
    /// True where replies come back through the director and are looked up from the server's side.
    #[inline]
    pub fn sees_replies(self) -> bool {
        self == Method::Nat
    }
}

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

/// State, flags and generation in one word, so that a state changes only in a connection that is alive.
///
/// Bits 0–7 state, bit 8 alive, bit 9 a packet from the server has been seen, bit 12 (of a template) a client has got through
/// to the server, bit 13 (of a template) it counts no longer, bit 14 (of a template) its service schedules each packet by itself,
/// bit 15 it is a template, bit 16 whoever opens it is done, bit 17 there is an [extension](super::wide), bits 32–63 generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(u64);

impl Life {
    const ALIVE: u64 = 1 << 8;
    const REPLIED: u64 = 1 << 9;
    const ASSURED: u64 = 1 << 12;
    const INVALID: u64 = 1 << 13;
    const ONE_PACKET: u64 = 1 << 14;
    const TEMPLATE: u64 = 1 << 15;
    const COMPLETE: u64 = 1 << 16;
    const WIDE: u64 = 1 << 17;
    // The states in which most packets change nothing, by their codes: compared without a look into a table of states.
    const ESTABLISHED: u8 = State::Established.code();
    const UDP: u8 = State::Udp.code();
    const SCTP_ESTABLISHED: u8 = State::SctpEstablished.code();

    /// False once somebody has decided that the connection ends.
    #[inline]
    pub fn is_alive(self) -> bool {
        self.0 & Self::ALIVE != 0
    }

    /// True once a packet from the server has been seen.
    #[inline]
    pub fn has_replied(self) -> bool {
        self.0 & Self::REPLIED != 0
    }

    /// Of a template: true once a connection under it has been established.
    #[inline]
    pub fn is_assured(self) -> bool {
        self.0 & Self::ASSURED != 0
    }

    /// Of a template: true once its server may not be chosen any more. It stays until its time is up and leads nobody there.
    #[inline]
    pub fn is_invalid(self) -> bool {
        self.0 & Self::INVALID != 0
    }

    /// True for a persistence template.
    #[inline]
    pub fn is_template(self) -> bool {
        self.0 & Self::TEMPLATE != 0
    }

    /// True once it is found by all flows that it is to be found by. Until then nobody but who opens it may end it, or what
    /// ends would still be made known.
    #[inline]
    pub fn is_complete(self) -> bool {
        self.0 & Self::COMPLETE != 0
    }

    /// Of a template: true where what is under it is one packet each time, so that it is never assured.
    #[inline]
    pub fn is_for_one_packet(self) -> bool {
        self.0 & Self::ONE_PACKET != 0
    }

    /// True where the connection's addresses are in an entry of their own.
    #[inline]
    pub(super) fn is_wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }

    /// The connection's state.
    #[inline]
    pub fn state(self) -> State {
        State::from_code(self.0 as u8)
    }

    /// False for nearly every packet, which changes nothing: one that neither opens nor closes anything, of an established
    /// connection.
    #[inline]
    pub fn may_change(self, direction: Direction, flags: Flags) -> bool {
        let is_steady = matches!(self.0 as u8, Self::ESTABLISHED | Self::UDP | Self::SCTP_ESTABLISHED);
        let is_first_reply = direction == Direction::ToClient && !self.has_replied();
        !is_steady || is_first_reply || flags.any(Flags::SYN | Flags::FIN | Flags::RST)
    }

    /// How many lives the entry has had; tells a stale reference.
    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same connection in another state.
    #[inline]
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        Self(self.0 & !0xff | u64::from(state.code()))
    }

    /// The same template, with a connection established under it.
    #[inline]
    #[must_use]
    pub(super) fn with_assurance(self) -> Self {
        Self(self.0 | Self::ASSURED)
    }

    /// The same template, which counts no longer.
    #[inline]
    #[must_use]
    pub(super) fn invalid(self) -> Self {
        Self(self.0 | Self::INVALID)
    }

    /// The same connection, with a packet from the server seen.
    #[inline]
    #[must_use]
    pub fn with_reply(self) -> Self {
        Self(self.0 | Self::REPLIED)
    }
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
    },
}

/// A connection's cache line.
#[derive(Default)]
#[cfg_attr(not(loom), derive(FromZeros))]
#[repr(C, align(64))]
pub struct Entry {
    /// Client address, virtual address: [`Flow::words`] of the client's flow. Of an IPv6 flow 0, and room for what later methods
    /// need.
    addresses: AtomicU64,
    /// Client port, virtual port, protocol.
    ports: AtomicU64,
    /// The server's address; where there is an [extension](super::wide) its index plus 1.
    server_address: AtomicU32,
    server_port: AtomicU16,
    method: AtomicU8,
    /// In how many ticks packets have come, as far as anybody asks ([`Entry::busy_ticks`]).
    busy_ticks: AtomicU8,
    life: AtomicU64,
    /// A cached adjacency; of a template, how many ticks it stays after its last new connection.
    to_server: AtomicU64,
    /// A cached adjacency; of a template, the connections under it ([`super::template`]).
    to_client: AtomicU64,
    /// The tick of the last packet.
    last_seen: AtomicU32,
    /// When the timer fires that counts: [`Armed`].
    armed: AtomicU32,
    /// The destination; in a free entry, the next batch of free ones.
    destination: AtomicU32,
    /// In a dead entry the next one on the same list. In a live one the entry of the template that the connection is under,
    /// plus 1; or 0.
    link: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    /// Writes a new connection into a free entry and brings it to life. Nobody else can see it yet. The entry at `extension` has
    /// been [filled](Entry::fill_extension) with its addresses.
    #[inline]
    pub(super) fn fill(&self, new: &NewConnection, extension: Option<Index>, kind: Kind, now: Tick) {
        let (timeout, children, link, mark) = match kind {
            Kind::Plain => (0, 0, 0, 0),
            Kind::Under(template) => (0, 0, template.0 + 1, 0),
            Kind::Template { ticks, one_packet: false } => (ticks, 1, 0, Life::TEMPLATE),
            Kind::Template { ticks, one_packet: true } => (ticks, 1, 0, Life::TEMPLATE | Life::ONE_PACKET),
        };
        let [addresses, ports] = match new.flow {
            AnyFlow::V4(flow) => flow.words(),
            AnyFlow::V6(flow) => [0, flow.ports()],
        };
        let (server, wide) = match (extension, new.server.0) {
            (Some(Index(index)), _) => (index + 1, Life::WIDE),
            (None, IpAddr::V4(address)) => (address.into(), 0),
            // Does not come about: who opens it gives it an extension.
            (None, IpAddr::V6(_)) => (0, 0),
        };
        self.addresses.store(addresses, Ordering::Relaxed);
        self.ports.store(ports, Ordering::Relaxed);
        self.server_address.store(server, Ordering::Relaxed);
        self.server_port.store(new.server.1, Ordering::Relaxed);
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

    /// The real server, where both it and the client are of IPv4: address as a number, port. Else
    /// [`super::ConnectionTable::server`] tells, and of this only the port is true.
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
            _ => Method::Tunnel,
        }
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
        self.to_server.store((second >> 64) as u64, Ordering::Relaxed);
        self.to_client.store(second as u64, Ordering::Relaxed);
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
            match self.change_life(life, Life(life.0 & !Life::ALIVE)) {
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
