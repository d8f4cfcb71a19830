//! Where a packet leaves: routes, neighbours and the adjacencies made of them.
//!
//! A [`Network`] is immutable and part of the snapshot that workers read. Control mirrors Linux's routes and
//! neighbours into it (or takes them from the configuration file where a port has no kernel interface).
//! It must never resolve anything itself: an unknown neighbour is reported, and Linux does the asking.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

mod source;

pub use source::{LocalAddress, Sources};

/// A port of this director, counted from 0 in the order of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// A 48-bit Ethernet address, in the order of its bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address as the upper six bytes of a number, the first byte the lowest of them.
    #[inline]
    pub(crate) const fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([0, 0, a, b, c, d, e, f])
    }

    /// True for broadcast and multicast addresses (IEEE 802.3, the I/G bit).
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    /// Reads six hexadecimal bytes with colons between them.
    fn from_str(text: &str) -> Result<Self, InvalidMacAddr> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(InvalidMacAddr)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddr)?;
        }
        if parts.next().is_some() { Err(InvalidMacAddr) } else { Ok(Self(bytes)) }
    }
}

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMacAddr;

impl fmt::Display for InvalidMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address; write it as 02:00:00:00:00:01")
    }
}

impl std::error::Error for InvalidMacAddr {}

/// What a route says: the port to leave by, and the gateway if the destination is not on that link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The port to send from.
    pub port: PortId,
    /// The router to hand the packet to; `None` where the destination itself is the neighbour.
    pub gateway: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out by a port.
    Out(NextHop),
    /// To this host itself: the addresses are Linux's own.
    Local,
    /// By no port of this director: another interface of Linux, a blackhole.
    Elsewhere,
}

impl Way {
    /// The next hop, where there is one.
    #[inline]
    pub fn hop(self) -> Option<NextHop> {
        match self {
            Self::Out(hop) => Some(hop),
            Self::Local | Self::Elsewhere => None,
        }
    }
}

impl From<Option<NextHop>> for Way {
    fn from(hop: Option<NextHop>) -> Self {
        hop.map_or(Self::Elsewhere, Self::Out)
    }
}

/// A neighbour that can be sent to: the port to send from, and the frame header in front of every packet for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    addresses: [u8; 12],
    port: PortId,
}

impl Adjacency {
    /// The neighbour with the address `destination` on the link of `port`, whose own address is `source`.
    pub fn new(port: PortId, source: MacAddr, destination: MacAddr) -> Self {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&destination.0);
        addresses[6..].copy_from_slice(&source.0);
        Self { addresses, port }
    }

    /// The port to send from.
    #[inline]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// The port's own address.
    pub fn source(&self) -> MacAddr {
        let [.., a, b, c, d, e, f] = self.addresses;
        MacAddr([a, b, c, d, e, f])
    }

    /// The neighbour's address.
    pub fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = self.addresses;
        MacAddr([a, b, c, d, e, f])
    }

    /// Destination and source, as a frame begins.
    #[inline]
    pub fn addresses(&self) -> &[u8; 12] {
        &self.addresses
    }
}

/// A neighbour's place in [`Network`]. It names the same (port, address) in every later network of the same
/// [generation](Network::generation), whatever becomes of the neighbour's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjacencyId(pub u32);

/// Why a packet has no adjacency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No route leads to the destination from a port of this director: there is none, it leads away, or to [Linux](Way::Local).
    NoRoute,
    /// The route is known and the neighbour on it is not (yet) resolved.
    Unresolved {
        /// The port whose link the neighbour is on.
        port: PortId,
        /// The neighbour to be asked for: the gateway, or the destination itself.
        neighbour: IpAddr,
    },
}

/// Routes and neighbours at one moment.
#[derive(Clone, Debug)]
pub struct Network {
    /// Never 0.
    generation: u32,
    v4: PrefixMap<Ipv4Net, Way>,
    v6: PrefixMap<Ipv6Net, Way>,
    neighbours: HashMap<(PortId, IpAddr), AdjacencyId>,
    adjacencies: Vec<Option<Adjacency>>,
    sources: Sources,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            generation: 1,
            v4: PrefixMap::default(),
            v6: PrefixMap::default(),
            neighbours: HashMap::default(),
            adjacencies: Vec::default(),
            sources: Sources::default(),
        }
    }
}

impl Network {
    /// Never 0. Changes when what a destination's [`AdjacencyId`] is may have changed: on any change of a route, and when
    /// an id was given to another neighbour. A connection's cached id is good while this is what it was.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The adjacency `id` names; `None` while its neighbour is unresolved.
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0 as usize)?.as_ref()
    }

    /// The longest matching route for `destination`; `None` if there is none, or if it leads away from our ports.
    pub fn route(&self, destination: IpAddr) -> Option<NextHop> {
        self.way(destination).and_then(Way::hop)
    }

    /// True for an address of this host: what is for it is Linux's.
    pub fn is_local(&self, destination: IpAddr) -> bool {
        self.way(destination) == Some(Way::Local)
    }

    #[inline]
    fn way(&self, destination: IpAddr) -> Option<Way> {
        match destination {
            IpAddr::V4(a) => self.v4.get_lpm(&host_v4(a)).map(|(_, way)| *way),
            IpAddr::V6(a) => self.v6.get_lpm(&host_v6(a)).map(|(_, way)| *way),
        }
    }

    /// The address of this host that a packet of its own to `destination` has as its source, as Linux would choose it.
    /// `None` where no route leads there from our ports, and where there is no address of that family.
    pub fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        let (prefix, way) = match destination {
            IpAddr::V4(a) => self.v4.get_lpm(&host_v4(a)).map(|(prefix, way)| (IpNet::V4(prefix), *way))?,
            IpAddr::V6(a) => self.v6.get_lpm(&host_v6(a)).map(|(prefix, way)| (IpNet::V6(prefix), *way))?,
        };
        self.sources.choose(prefix, way.hop()?, destination)
    }

    /// Says which [`Network::source`] there is to choose from.
    pub fn set_sources(&mut self, sources: Sources) {
        self.sources = sources;
    }

    /// Route, then neighbour: the adjacency for packets to `destination`.
    #[inline]
    pub fn resolve(&self, destination: IpAddr) -> Result<AdjacencyId, Unreachable> {
        let hop = self.route(destination).ok_or(Unreachable::NoRoute)?;
        let neighbour = hop.gateway.unwrap_or(destination);
        match self.neighbours.get(&(hop.port, neighbour)) {
            Some(&id) if self.adjacency(id).is_some() => Ok(id),
            _ => Err(Unreachable::Unresolved { port: hop.port, neighbour }),
        }
    }

    /// Every route: its prefix, and where it leads. IPv4 first, each by prefix.
    pub fn routes(&self) -> impl Iterator<Item = (IpNet, Way)> + '_ {
        let v4 = self.v4.iter().map(|(prefix, way)| (IpNet::V4(prefix), *way));
        v4.chain(self.v6.iter().map(|(prefix, way)| (IpNet::V6(prefix), *way)))
    }

    /// Every neighbour that is or was known, in no particular order: its port and address, and its MAC address unless it
    /// is unresolved now.
    pub fn neighbours(&self) -> impl Iterator<Item = (PortId, IpAddr, Option<MacAddr>)> + '_ {
        self.neighbours
            .iter()
            .map(|(&(port, address), id)| (port, address, self.adjacency(*id).map(Adjacency::destination)))
    }

    fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(1);
    }

    /// Puts `routes` in the place of all routes there were. Of several for one prefix, the last one given counts.
    ///
    /// A route that leaves by no port of this director hides the shorter prefixes around it: what it covers has [no
    /// route](Unreachable::NoRoute).
    pub fn set_routes<W: Into<Way>>(&mut self, routes: impl IntoIterator<Item = (IpNet, W)>) {
        self.v4.clear();
        self.v6.clear();
        for (prefix, way) in routes {
            match prefix {
                IpNet::V4(p) => drop(self.v4.insert(p.trunc(), way.into())),
                IpNet::V6(p) => drop(self.v6.insert(p.trunc(), way.into())),
            }
        }
        self.begin_generation();
    }

    /// Makes `address` on `port` known, or gives it a new MAC address. Its id stays what it was.
    pub fn set_neighbour(&mut self, address: IpAddr, adjacency: Adjacency) {
        let key = (adjacency.port(), address);
        if let Some(id) = self.neighbours.get(&key) {
            self.adjacencies[id.0 as usize] = Some(adjacency);
        } else {
            self.neighbours.insert(key, AdjacencyId(self.adjacencies.len() as u32));
            self.adjacencies.push(Some(adjacency));
        }
    }

    /// Makes `address` on `port` unresolved. It keeps its id until [`Network::compact`].
    pub fn clear_neighbour(&mut self, port: PortId, address: IpAddr) {
        if let Some(id) = self.neighbours.get(&(port, address)) {
            self.adjacencies[id.0 as usize] = None;
        }
    }

    /// Takes back the ids of unresolved neighbours once there are more of them than of resolved ones, so that a
    /// link whose hosts come and go does not grow the table for ever. Changes the generation if it did anything.
    pub fn compact(&mut self) {
        let resolved = self.adjacencies.iter().flatten().count();
        if self.adjacencies.len() < 64 || self.adjacencies.len() < 2 * resolved {
            return;
        }
        let old = std::mem::take(&mut self.adjacencies);
        let adjacencies = &mut self.adjacencies;
        self.neighbours.retain(|_, id| match old[id.0 as usize] {
            Some(adjacency) => {
                *id = AdjacencyId(adjacencies.len() as u32);
                adjacencies.push(Some(adjacency));
                true
            }
            None => false,
        });
        self.begin_generation();
    }
}

fn host_v4(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn host_v6(address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::from(address)
}

#[cfg(test)]
mod tests;
