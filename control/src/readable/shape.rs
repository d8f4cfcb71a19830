//! The JSON that lbctl prints. `docs/lbctl-json.md` describes it; a field once there stays what it is.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use serde::Serialize;

use super::name::ServiceName;
use crate::local;
use crate::model::{
    Announce, Family, ForwardingMethod, Granularity, Mss, PortRange, Protocol, Rates, Stats, Tunnel,
    VirtualService, scheduler_flags,
};
use crate::protocol::{DestinationEntry, ServiceEntry};
use crate::running::{ConnectionRow, EngineData};
use crate::snat::{SnatEntry, SnatRule, Translation};

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Its name, as commands take it.
    pub service: String,
    /// `None` for a mark.
    pub protocol: Option<Protocol>,
    /// `None` for a mark and for a range.
    pub address: Option<IpAddr>,
    /// `None` for a mark and for a range, 0 for every port.
    pub port: Option<u16>,
    /// The virtual addresses of a range.
    pub network: Option<IpNet>,
    /// The virtual ports of a range; 0 for every port.
    pub ports: Option<PortRange>,
    /// The firewall mark, if it is a service of one.
    pub mark: Option<u32>,
    /// The address family of its packets.
    pub family: Family,
    /// The scheduler's name.
    pub scheduler: String,
    /// The names of the scheduler's flags that are set.
    pub flags: Vec<String>,
    /// Persistence, if it is on.
    pub persistence: Option<Persistence>,
    /// The persistence engine's name, if it has one.
    pub engine: Option<String>,
    /// One-packet scheduling.
    pub one_packet: bool,
    /// How destinations by FULLNAT learn who their client is, if they do.
    pub announce: Option<Announce>,
    /// The most that connections may announce as their maximum segment size, if they are held to any.
    pub mss: Option<Mss>,
    /// Active connections of all its destinations.
    pub active: u64,
    /// Other connections.
    pub inactive: u64,
    /// Persistence templates.
    pub persistent: u64,
    /// Counted since it was made or zeroed.
    pub stats: Stats,
    /// Per second.
    pub rates: Rates,
    /// Its destinations, by address and port.
    pub destinations: Vec<Destination>,
}

/// Persistence of a service.
#[derive(Clone, Debug, Serialize)]
pub struct Persistence {
    /// How long a template lives after its last connection.
    pub timeout_seconds: u32,
    /// IPv4: which bits of a client's address count.
    pub mask: Option<IpAddr>,
    /// IPv6: how many bits of a client's address count.
    pub prefix_length: Option<u8>,
}

/// A destination.
#[derive(Clone, Debug, Serialize)]
pub struct Destination {
    /// Its service's name.
    pub service: String,
    /// Its address and port.
    pub destination: SocketAddr,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets reach it.
    pub method: ForwardingMethod,
    /// Its weight.
    pub weight: u32,
    /// Connections at which it is overloaded; 0 for never.
    pub upper_threshold: u32,
    /// Connections below which it no longer is.
    pub lower_threshold: u32,
    /// How packets are wrapped, if they are.
    pub tunnel: Option<Tunnel>,
    /// Active connections.
    pub active: u32,
    /// Other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Counted since it was made or zeroed.
    pub stats: Stats,
    /// Per second.
    pub rates: Rates,
}

/// A connection or a persistence template.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// `None` for a template of a firewall mark, and for a ping by SNAT.
    pub protocol: Option<Protocol>,
    /// IPVS's name of its state.
    pub state: String,
    /// Seconds until it ends if nothing more comes.
    pub expires_seconds: u32,
    /// The client; port 0 for a template.
    pub client: SocketAddr,
    /// The virtual address.
    #[serde(rename = "virtual")]
    pub virtual_address: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
    /// What the destination takes for the client, by FULLNAT and SNAT.
    pub local: Option<SocketAddr>,
    /// True for one by SNAT, which a server has opened: the server is the client, and the host outside both virtual address and
    /// destination.
    pub snat: bool,
    /// Of a template that a persistence engine made.
    pub engine: Option<EngineData>,
}

/// Local addresses for FULLNAT.
#[derive(Clone, Debug, Serialize)]
pub struct LocalAddresses {
    /// The addresses, as a network.
    pub addresses: IpNet,
    /// The ports to be used; `None` for 1024 to 65535.
    pub ports: Option<PortRange>,
    /// The name of the service that they are for, if they are for one only.
    pub service: Option<String>,
    /// The name of director's port by which the servers are reached that they are for, if they are for such only.
    pub port: Option<String>,
}

impl From<local::LocalAddresses> for LocalAddresses {
    fn from(from: local::LocalAddresses) -> Self {
        let local::LocalAddresses { addresses, service, port, ports } = from;
        let service = service.map(|service| ServiceName(service).to_string());
        Self { addresses, ports, service, port }
    }
}

/// A SNAT rule.
#[derive(Clone, Debug, Serialize)]
pub struct Snat {
    /// Its place among the rules, from 1.
    pub position: usize,
    /// What connections' sources become: `none`, `masquerade`, or addresses.
    pub translate_to: Translation,
    /// The ports to be used; `None` for 1024 to 65535, and for masquerading 61000 to 65535.
    pub ports: Option<PortRange>,
    /// The protocol; `None` for each.
    pub protocol: Option<Protocol>,
    /// The network that connections come from; `None` for each.
    pub from: Option<IpNet>,
    /// The network that they go to; `None` for each.
    pub to: Option<IpNet>,
    /// The name of director's port by which they leave; `None` for each.
    pub out_port: Option<String>,
    /// Active connections.
    pub active: u32,
    /// Other connections.
    pub inactive: u32,
    /// Counted since it was added: `out` what servers send, `in` what they get.
    pub stats: Stats,
}

impl Snat {
    /// The rule at this place, from 0.
    pub fn new(place: usize, entry: SnatEntry) -> Self {
        let SnatEntry { rule, active, inactive, stats } = entry;
        let SnatRule { translate_to, protocol, from, to, out_port, ports } = rule;
        let position = place + 1;
        Self { position, translate_to, ports, protocol, from, to, out_port, active, inactive, stats }
    }
}

impl From<ServiceEntry> for Service {
    fn from(entry: ServiceEntry) -> Self {
        let ServiceEntry { service: spec, stats, rates, destinations } = entry;
        let name = ServiceName(spec.service).to_string();
        let (address, port, mark) = match spec.service {
            VirtualService::Address { address, port, .. } => (Some(address), Some(port), None),
            VirtualService::Range(_) => (None, None, None),
            VirtualService::Mark { mark, .. } => (None, None, Some(mark)),
        };
        let range = match spec.service {
            VirtualService::Range(range) => Some(range),
            _ => None,
        };
        let sum = |of: fn(&DestinationEntry) -> u32| destinations.iter().map(|d| u64::from(of(d))).sum();
        let (active, inactive) = (sum(|d| d.active), sum(|d| d.inactive));
        let persistent = sum(|d| d.persistent);
        let flags = scheduler_flags(&spec.scheduler).filter(|(flag, _)| spec.flags.contains(*flag));
        let mut destinations: Vec<_> = destinations.into_iter().map(|d| Destination::new(&name, d)).collect();
        destinations.sort_unstable_by_key(|d| (d.address, d.port));
        Self {
            service: name,
            protocol: spec.service.protocol(),
            address,
            port,
            network: range.map(|range| range.network),
            ports: range.map(|range| range.ports),
            mark,
            family: spec.service.family(),
            flags: flags.map(|(_, name)| name.to_owned()).collect(),
            scheduler: spec.scheduler,
            persistence: spec.persistence.map(|p| {
                let (mask, prefix_length) = match p.granularity {
                    Granularity::Mask(mask) => (Some(mask.into()), None),
                    Granularity::Prefix(length) => (None, Some(length)),
                };
                Persistence { timeout_seconds: p.timeout_seconds, mask, prefix_length }
            }),
            engine: spec.engine,
            one_packet: spec.one_packet,
            announce: spec.announce,
            mss: spec.mss,
            active,
            inactive,
            persistent,
            stats,
            rates,
            destinations,
        }
    }
}

impl Destination {
    fn new(service: &str, entry: DestinationEntry) -> Self {
        let DestinationEntry { destination: spec, active, inactive, persistent, stats, rates } = entry;
        Self {
            service: service.to_owned(),
            destination: SocketAddr::new(spec.address, spec.port),
            address: spec.address,
            port: spec.port,
            method: spec.method,
            weight: spec.weight,
            upper_threshold: spec.upper_threshold,
            lower_threshold: spec.lower_threshold,
            tunnel: (spec.method == ForwardingMethod::Tunnel).then_some(spec.tunnel),
            active,
            inactive,
            persistent,
            stats,
            rates,
        }
    }
}

impl From<ConnectionRow> for Connection {
    fn from(row: ConnectionRow) -> Self {
        let ConnectionRow {
            protocol,
            state,
            expires,
            client,
            virtual_address,
            destination,
            local,
            snat,
            engine,
        } = row;
        Self {
            protocol,
            state,
            expires_seconds: expires,
            client,
            virtual_address,
            destination,
            local,
            snat,
            engine,
        }
    }
}
