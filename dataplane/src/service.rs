//! Virtual services as workers see them: which flows are whose, and where they may go.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::conn::{Announce, Method};
use crate::counters::{Drop, Verdict};
use crate::mark::{Addresses, Rule};
use crate::network::PortId;
use crate::packet::{protocol, sip};
use crate::parse::AnyFlow;
use crate::schedule::{Flags, Scheduler, Slots};

mod ranges;

pub use ranges::RangeKey;
use ranges::Ranges;

/// A real server of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its number: where its counters are.
    pub id: u32,
    /// When it was added, relative to the others of its service: above 0, and higher than those of all before.
    pub sequence: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight; 0 takes no new connections.
    pub weight: u32,
    /// The weight it had last that was not 0; 0 where it was added with weight 0 and has had no other since.
    pub last_weight: u32,
    /// How packets reach it.
    pub method: Method,
}

/// Connections of one client, or of one network of clients, go to one destination (`-p`, `-M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a template stays after its last new connection, in ticks.
    pub ticks: u32,
    /// The bits of the client's address that count; of the service's family.
    pub mask: IpAddr,
}

impl Persistence {
    /// The network that shares the client's template.
    pub(crate) fn network(self, client: IpAddr) -> IpAddr {
        match (client, self.mask) {
            (IpAddr::V4(client), IpAddr::V4(mask)) => (client & mask).into(),
            (IpAddr::V6(client), IpAddr::V6(mask)) => (client & mask).into(),
            _ => client,
        }
    }
}

/// What finds in a packet what its connections are kept together by (`--pe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// SIP's Call-ID.
    Sip,
}

impl Engine {
    /// What it finds in a UDP datagram's data.
    pub(crate) fn data(self, datagram: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Sip => sip::call_id(datagram),
        }
    }
}

/// A virtual service.
#[derive(Debug)]
pub struct Service {
    destinations: Vec<Destination>,
    scheduler: Arc<dyn Scheduler>,
    flags: Flags,
    one_packet: bool,
    persistence: Option<Persistence>,
    engine: Option<Engine>,
    announce: Announce,
    slots: Slots,
}

impl Service {
    /// A service of these destinations, in any order. The kernel visits destinations from the one added last to the
    /// one added first; so do we.
    pub fn new(mut destinations: Vec<Destination>, scheduler: Arc<dyn Scheduler>) -> Self {
        destinations.sort_by_key(|d| std::cmp::Reverse(d.sequence));
        let slots = scheduler.slots(&destinations);
        let (flags, one_packet, persistence, engine, announce) = Default::default();
        Self { destinations, scheduler, flags, one_packet, persistence, engine, announce, slots }
    }

    /// The same service with these scheduler flags.
    #[must_use]
    pub fn with_flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }

    /// The same service with one-packet scheduling (`-o`) or without: each datagram is scheduled by itself, and no
    /// connection is kept. Means nothing for protocols other than UDP.
    #[must_use]
    pub fn with_one_packet(self, one_packet: bool) -> Self {
        Self { one_packet, ..self }
    }

    /// The destinations, the one added last first.
    #[inline]
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// What chooses among them.
    #[inline]
    pub fn scheduler(&self) -> &dyn Scheduler {
        &*self.scheduler
    }

    /// The scheduler's flags (`-b`).
    #[inline]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// True where each packet of this protocol is scheduled by itself.
    #[inline]
    pub fn is_one_packet(&self, protocol: u8) -> bool {
        self.one_packet && protocol == protocol::UDP
    }

    /// True where it was made [with one-packet scheduling](Service::with_one_packet).
    pub fn has_one_packet(&self) -> bool {
        self.one_packet
    }

    /// The same service with persistence or without.
    #[must_use]
    pub fn with_persistence(self, persistence: Option<Persistence>) -> Self {
        Self { persistence, ..self }
    }

    /// The same service with a persistence engine or without. It means nothing without persistence.
    #[must_use]
    pub fn with_engine(self, engine: Option<Engine>) -> Self {
        Self { engine, ..self }
    }

    /// The same service, whose destinations by FULLNAT learn of their clients so.
    #[must_use]
    pub fn with_announce(self, announce: Announce) -> Self {
        Self { announce, ..self }
    }

    /// How its destinations by FULLNAT learn of their clients.
    #[inline]
    pub fn announce(&self) -> Announce {
        self.announce
    }

    /// Its persistence engine.
    #[inline]
    pub fn engine(&self) -> Option<Engine> {
        self.engine
    }

    /// Its persistence.
    #[inline]
    pub fn persistence(&self) -> Option<Persistence> {
        self.persistence
    }

    /// The destination in the slot that `hash` falls into, if its scheduler has laid out slots and there is anybody to
    /// put into them.
    #[inline]
    pub(crate) fn in_slot(&self, hash: u32) -> Option<&Destination> {
        self.destinations.get(self.slots.hashed(hash)? as usize)
    }

    /// The number that its scheduler has given to a destination of this service, where it has numbered them.
    pub(crate) fn number(&self, destination: &Destination) -> Option<u32> {
        self.slots.at(self.destinations.partition_point(|d| d.sequence > destination.sequence))
    }

    /// The destination to which its scheduler has given this number.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Destination> {
        self.destinations.get(self.slots.position(number)?)
    }

    /// What its scheduler has laid out.
    #[inline]
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The place of the first destination that comes after the one numbered `sequence`; 0 stands for the place before
    /// all. The one numbered so need not be there any more.
    pub(crate) fn place_after(&self, sequence: u32) -> usize {
        if sequence == 0 { 0 } else { self.destinations.partition_point(|d| d.sequence >= sequence) }
    }
}

/// The key of a service: IP protocol number, address, port (0 for every port).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// IP protocol number.
    pub protocol: u8,
    /// Virtual address.
    pub address: IpAddr,
    /// Virtual port; 0 for every port.
    pub port: u16,
}

impl ServiceKey {
    /// The whole key as one number, for IPv4.
    #[inline]
    fn word(&self) -> Option<u64> {
        let IpAddr::V4(address) = self.address else { return None };
        let protocol_and_port = u64::from(self.protocol) << 16 | u64::from(self.port);
        Some(u64::from(u32::from(address)) << 32 | protocol_and_port)
    }
}

impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Address(self.address).hash(state);
        state.write_u32(u32::from(self.protocol) << 16 | u32::from(self.port));
    }
}

/// An address that is hashed as the number it is: every new connection's is, and byte by byte takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address(IpAddr);

impl Hash for Address {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            IpAddr::V4(address) => state.write_u32(address.into()),
            IpAddr::V6(address) => state.write_u128(address.into()),
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl From<AnyFlow> for Family {
    fn from(flow: AnyFlow) -> Self {
        match flow {
            AnyFlow::V4(_) => Self::V4,
            AnyFlow::V6(_) => Self::V6,
        }
    }
}

/// FTP's ports, and the first one that servers choose for passive data (Linux's ip_unprivileged_port_start).
pub(crate) const FTP: u16 = 21;
const FTP_DATA: u16 = 20;
const UNPRIVILEGED: u16 = 1024;

/// The service that a packet is for, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Match<'s> {
    /// The service.
    pub service: &'s Service,
    /// The service's port; 0 for every port, for a mark and for a range.
    pub port: u16,
    /// What else it is for, where not for one address.
    pub wide: Option<Wide<'s>>,
}

/// What a service is for that has more than one address, or some of its ports.
#[derive(Clone, Copy, Debug)]
pub enum Wide<'s> {
    /// Packets with this mark.
    Mark(u32),
    /// Packets to this range.
    Range(&'s RangeKey),
}

impl Match<'_> {
    /// The port at which `destination` gets a connection of `flow`: its own where it has one, else the client's. A persistent
    /// service sends what came to another port than its own to that same port.
    pub(crate) fn server_port(&self, destination: &Destination, flow: AnyFlow) -> u16 {
        let (_, port) = flow.destination();
        let is_range = matches!(self.wide, Some(Wide::Range(_)));
        let own = is_range || self.service.persistence.is_none() || port == self.port;
        if own && destination.port != 0 { destination.port } else { port }
    }

    /// What becomes of a packet that would open a connection of `flow` where there is no destination for it. What only looks
    /// like data of an FTP service may be for another program of this machine.
    pub(crate) fn refusal(&self, flow: AnyFlow) -> Verdict {
        let (_, port) = flow.destination();
        if self.port == FTP && port != FTP {
            return Verdict::ToKernel;
        }
        Verdict::Drop(Drop::NoDestination)
    }
}

/// Servers by NAT: whose packets are somebody's replies.
#[derive(Debug, Default)]
pub struct Masqueraded(HashSet<(u8, IpAddr, u16)>);

impl Masqueraded {
    /// Of these: protocol (0 for those of a service by mark, which has no protocol), address, port.
    pub fn new(servers: impl IntoIterator<Item = (u8, IpAddr, u16)>) -> Self {
        Self(servers.into_iter().collect())
    }

    /// Whether there is a server at this end of packets of this protocol.
    pub fn contains(&self, protocol: u8, (address, port): (IpAddr, u16)) -> bool {
        [protocol, protocol::IP].iter().any(|protocol| self.0.contains(&(*protocol, address, port)))
    }
}

/// All services at one moment.
#[derive(Debug, Default)]
pub struct Services {
    rules: Vec<Rule>,
    by_mark: HashMap<(Family, u32), Arc<Service>>,
    /// Over IPv6.
    by_address: HashMap<ServiceKey, Arc<Service>>,
    /// The same over IPv4, by [`ServiceKey::word`]: every new connection is looked up here, and numbers are soon
    /// hashed and compared.
    by_word: HashMap<u64, Arc<Service>>,
    addresses: HashSet<Address>,
    ranges: Ranges,
}

impl Services {
    /// Of these services.
    pub fn new(services: impl IntoIterator<Item = (ServiceKey, Arc<Service>)>) -> Self {
        let by_address: HashMap<_, _> = services.into_iter().collect();
        let addresses = by_address.keys().map(|key| Address(key.address)).collect();
        let (of_ipv4, by_address): (HashMap<_, _>, _) =
            by_address.into_iter().partition(|(key, _)| key.word().is_some());
        let by_word = of_ipv4.into_iter().filter_map(|(key, service)| Some((key.word()?, service))).collect();
        Self { by_word, by_address, addresses, ..Self::default() }
    }

    /// And of these services by mark, with the rules that give marks. The first rule that takes a packet marks it.
    #[must_use]
    pub fn with_marks(
        self,
        rules: Vec<Rule>,
        services: impl IntoIterator<Item = ((Family, u32), Arc<Service>)>,
    ) -> Self {
        Self { rules, by_mark: services.into_iter().collect(), ..self }
    }

    /// And of these services for ranges, whose keys differ.
    #[must_use]
    pub fn with_ranges(self, services: impl IntoIterator<Item = (RangeKey, Arc<Service>)>) -> Self {
        Self { ranges: Ranges::new(services), ..self }
    }

    fn find_by_mark(&self, flow: AnyFlow, port: PortId) -> Option<Match<'_>> {
        let mark = self.rules.iter().find(|rule| rule.takes(flow, port))?.mark;
        let service = self.by_mark.get(&(flow.into(), mark))?;
        Some(Match { service, port: 0, wide: Some(Wide::Mark(mark)) })
    }

    /// The service for a range that the flow is for, or, where that has more addresses than one, for the flow's address and every port
    /// ([`Services::find_by_any_port`]).
    #[cold]
    fn find_by_range<'s>(
        &'s self,
        flow: AnyFlow,
        on: impl Fn(u16) -> Option<Match<'s>>,
    ) -> Option<Match<'s>> {
        let range = self.ranges.find(flow.protocol(), flow.destination());
        let found = range.map(|(key, service)| Match { service, port: 0, wide: Some(Wide::Range(key)) });
        match range {
            Some((key, _)) if key.network.prefix_len() == key.network.max_prefix_len() => found,
            _ => self.find_by_any_port(flow, on).or(found),
        }
    }

    /// The service that a client's flow, received on the port `in_port`, is for: that of its mark, else that of its address
    /// and port, else that of its address and the fewest ports, up to every port, else that of the smallest network.
    pub fn find(&self, flow: AnyFlow, in_port: PortId) -> Option<Match<'_>> {
        if !self.by_mark.is_empty()
            && let Some(found) = self.find_by_mark(flow, in_port)
        {
            return Some(found);
        }
        let (address, port) = flow.destination();
        let on = |port| {
            let key = ServiceKey { protocol: flow.protocol(), address, port };
            let service = match key.word() {
                Some(word) => self.by_word.get(&word),
                None => self.by_address.get(&key),
            };
            service.map(|service| Match { service, port, wide: None })
        };
        if let Some(exact) = on(port) {
            return Some(exact);
        }
        if self.ranges.is_empty() {
            return self.find_by_any_port(flow, on);
        }
        self.find_by_range(flow, on)
    }

    /// The service of the flow's address and every port, where `on` finds the address's services by their ports.
    fn find_by_any_port<'s>(
        &'s self,
        flow: AnyFlow,
        on: impl Fn(u16) -> Option<Match<'s>>,
    ) -> Option<Match<'s>> {
        let (address, port) = flow.destination();
        if !self.addresses.contains(&Address(address)) {
            return None;
        }
        // What looks like FTP's data belongs to the service of its control connections. It can do nothing with it unless it
        // keeps a client's connections together.
        let may_be_data = flow.protocol() == protocol::TCP && (port == FTP_DATA || port >= UNPRIVILEGED);
        match on(FTP).filter(|_| may_be_data) {
            Some(ftp) => Some(ftp).filter(|ftp| ftp.service.persistence.is_some()),
            None => on(0),
        }
    }

    /// True for an address that some service has, or that packets are marked for which go to some service's.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        // A rule for all addresses says nothing of whose this one is.
        let is_marked = |rule: &Rule| {
            rule.destination != Addresses::default()
                && rule.destination.contains(address)
                && self.by_mark.contains_key(&(address.into(), rule.mark))
        };
        self.addresses.contains(&Address(address))
            || self.ranges.contains(address)
            || self.rules.iter().any(is_marked)
    }
}
