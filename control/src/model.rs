//! What an operator configures: virtual services, their destinations, timeouts.
//!
//! These are plain values with IPVS's fields and defaults, the same in the service table, on the socket and in
//! `lbctl`. They must never know how they are stored, sent or printed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use dataplane::schedule;
use serde::{Deserialize, Serialize};

use crate::local::LocalAddresses;
use crate::mark::MarkRule;
use crate::snat::SnatRule;
use crate::sysctl;

mod mss;
mod range;

pub use mss::{Mss, NoMss};
pub use range::{NoPorts, PortRange, VirtualRange};

/// The scheduler of a service that names none (ipvsadm's default).
pub const DEFAULT_SCHEDULER: &str = "wlc";
/// The persistence timeout of `-p` without a number, in seconds (`IPVS_SVC_PERSISTENT_TIMEOUT`).
pub const DEFAULT_PERSISTENCE: u32 = 360;
/// Every scheduler there is by name: all of IPVS's, and director's own.
pub const SCHEDULERS: [&str; schedule::NAMES.len()] = schedule::NAMES;
/// The name of having no scheduler at all. A service may have it; no destination is ever chosen.
pub const NO_SCHEDULER: &str = "none";
/// Every persistence engine IPVS knows by name.
pub const ENGINES: [&str; 1] = ["sip"];

/// A transport protocol a virtual service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// The address family of a firewall-mark service, which has no address to tell it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// What names a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VirtualService {
    /// Packets to an address and port.
    Address {
        /// The protocol of the packets.
        protocol: Protocol,
        /// The virtual address.
        address: IpAddr,
        /// The virtual port; 0 stands for every port that no other service of the address has.
        port: u16,
    },
    /// Packets to a network's addresses, or some ports of one address: what no other service takes that is for less.
    Range(VirtualRange),
    /// Packets that carry a firewall mark.
    Mark {
        /// The mark, never 0.
        mark: u32,
        /// The family of the marked packets.
        family: Family,
    },
}

impl VirtualService {
    /// The address family of the service's packets.
    pub fn family(&self) -> Family {
        match *self {
            Self::Address { address, .. } => address.into(),
            Self::Range(range) => range.network.addr().into(),
            Self::Mark { family, .. } => family,
        }
    }

    /// The virtual port; 0 for a mark, and for more ports than one.
    pub fn port(&self) -> u16 {
        match *self {
            Self::Address { port, .. } => port,
            Self::Range(range) => range.port(),
            Self::Mark { .. } => 0,
        }
    }

    /// The protocol; a mark has none.
    pub fn protocol(&self) -> Option<Protocol> {
        match *self {
            Self::Address { protocol, .. } | Self::Range(VirtualRange { protocol, .. }) => Some(protocol),
            Self::Mark { .. } => None,
        }
    }
}

/// Which clients share a persistence template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// IPv4: the bits of the client's address that count. IPVS takes any mask, with holes or without.
    Mask(Ipv4Addr),
    /// IPv6: the length of the prefix that counts, 1 to 128.
    Prefix(u8),
}

impl Granularity {
    /// One template per client address.
    pub fn whole(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Mask(Ipv4Addr::BROADCAST),
            Family::Ipv6 => Self::Prefix(128),
        }
    }
}

/// Connections of one client go to one destination (ipvsadm's `-p` and `-M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// How long a template lives after its last connection, in seconds.
    pub timeout_seconds: u32,
    /// Which clients count as one.
    pub granularity: Granularity,
}

/// IPVS's three scheduler flags. What they mean is up to the scheduler: flag 1 is `sh-fallback` or
/// `mh-fallback`, flag 2 `sh-port` or `mh-port` (see [`schedule::flag_names`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchedulerFlags(
    /// Bit 0 is flag 1, bit 1 flag 2, bit 2 flag 3; the others are 0.
    pub u8,
);

impl SchedulerFlags {
    /// Flag 1.
    pub const FIRST: Self = Self(1);
    /// Flag 2.
    pub const SECOND: Self = Self(2);
    /// Flag 3.
    pub const THIRD: Self = Self(4);

    /// True if every flag of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags of both.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How destinations by [`ForwardingMethod::FullNat`] learn who their client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announce {
    /// By the TCP option that LVS and DPVS use, kind 254.
    Toa,
    /// By a header of the PROXY protocol, version 1.
    #[serde(rename = "proxy_v1")]
    ProxyV1,
    /// By one of version 2.
    #[serde(rename = "proxy_v2")]
    ProxyV2,
}

impl Announce {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Toa, Self::ProxyV1, Self::ProxyV2];

    /// The word for it in either of lbctl's languages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Toa => "toa",
            Self::ProxyV1 => "proxy-v1",
            Self::ProxyV2 => "proxy-v2",
        }
    }
}

/// A virtual service as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What packets it takes.
    pub service: VirtualService,
    /// The scheduler's name, one of [`SCHEDULERS`].
    #[serde(default = "default_scheduler")]
    pub scheduler: String,
    /// The scheduler's flags.
    #[serde(default)]
    pub flags: SchedulerFlags,
    /// Persistence, if wanted.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// The persistence engine's name, one of [`ENGINES`].
    #[serde(default)]
    pub engine: Option<String>,
    /// One-packet scheduling: no connection is kept (UDP only).
    #[serde(default)]
    pub one_packet: bool,
    /// How destinations by [`ForwardingMethod::FullNat`] learn who their client is, if they are to (TCP only).
    #[serde(default)]
    pub announce: Option<Announce>,
    /// The most that its connections may announce as their maximum segment size, if they are held to any (TCP).
    #[serde(default)]
    pub mss: Option<Mss>,
}

impl ServiceSpec {
    /// `service` with every attribute at its default.
    pub fn new(service: VirtualService) -> Self {
        Self {
            service,
            scheduler: default_scheduler(),
            flags: SchedulerFlags::default(),
            persistence: None,
            engine: None,
            one_packet: false,
            announce: None,
            mss: None,
        }
    }
}

/// The flags that a service with the scheduler `name` can have, with their names: the scheduler's own, and of others what ipvsadm calls
/// them, which mean nothing.
pub fn scheduler_flags(name: &str) -> impl Iterator<Item = (SchedulerFlags, &'static str)> {
    let own = schedule::flag_names(name);
    let all = [
        (SchedulerFlags::FIRST, "flag-1"),
        (SchedulerFlags::SECOND, "flag-2"),
        (SchedulerFlags::THIRD, "flag-3"),
    ];
    all.into_iter()
        .enumerate()
        .map(|(number, (flag, general))| (flag, own.get(number).copied().unwrap_or(general)))
}

/// What the scheduler `name` does, in a few words.
pub fn scheduler_description(name: &str) -> &'static str {
    match name {
        "rr" => "each in turn",
        "wrr" => "each in turn, as often as its weight says",
        "lc" => "the one with the fewest connections",
        "wlc" => "the one with the fewest connections for its weight",
        "lblc" => "the same for each destination address, unless it is overloaded",
        "lblcr" => "one of a set for each destination address, which grows under load",
        "dh" => "by a hash of the destination address",
        "sh" => "by a hash of the source address",
        "sed" => "the one with the shortest expected delay: (active + 1) / weight",
        "nq" => "one without active connections, else as sed",
        "fo" => "the one of highest weight that is not overloaded",
        "ovf" => "the one of highest weight with no more active connections than that",
        "mh" => "by a Maglev hash of the source address",
        "conhash" => "by a consistent hash of the source address or QUIC connection id, with bounded load",
        "twos" => "the better one of two chosen at random by weight",
        _ => "",
    }
}

fn default_scheduler() -> String {
    DEFAULT_SCHEDULER.to_owned()
}

/// How packets reach a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardingMethod {
    /// To this machine itself. No command sets it; it is here because lists can print it.
    Local,
    /// Network address translation, both ways through director.
    Masquerade,
    /// Encapsulated; the reply goes past director.
    Tunnel,
    /// Only the frame's header changes; the reply goes past director.
    #[default]
    DirectRouting,
    /// Network address translation of both ends: the server sees a local address of director's, and answers that.
    #[serde(rename = "fullnat")]
    FullNat,
}

impl ForwardingMethod {
    /// True where the server may be of another address family than the service: in a tunnel each packet is inside one of the server's
    /// family, and by FULLNAT it becomes one.
    pub fn crosses_families(self) -> bool {
        matches!(self, Self::Tunnel | Self::FullNat)
    }

    /// True where the server may listen at another port than the service's, because ports are rewritten.
    pub fn translates(self) -> bool {
        matches!(self, Self::Masquerade | Self::FullNat)
    }
}

/// What a tunnelled packet is wrapped in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encapsulation {
    /// IP in IP (RFC 2003).
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// GRE (RFC 2784).
    Gre,
}

/// The checksum of the outer header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// A checksum of the whole outer packet.
    Full,
    /// GUE's remote checksum offload.
    Remote,
}

/// The tunnel options of a destination. They count only with [`ForwardingMethod::Tunnel`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    /// What the packet is wrapped in.
    pub encapsulation: Encapsulation,
    /// The outer UDP port (GUE); 0 for the others.
    pub port: u16,
    /// The outer checksum.
    pub checksum: TunnelChecksum,
}

/// A destination (real server) of a virtual service, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    /// The server's address. Only some methods [lead to the other address family](ForwardingMethod::crosses_families).
    pub address: IpAddr,
    /// The server's port.
    pub port: u16,
    /// How packets reach it.
    #[serde(default)]
    pub method: ForwardingMethod,
    /// Its share, 0 to 2147483647. At 0 it gets no new connection and keeps those it has.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Connections at which it counts as overloaded; 0 for never.
    #[serde(default)]
    pub upper_threshold: u32,
    /// Connections below which it no longer counts as overloaded; 0 for three quarters of the upper one.
    #[serde(default)]
    pub lower_threshold: u32,
    /// Tunnel options.
    #[serde(default)]
    pub tunnel: Tunnel,
}

impl DestinationSpec {
    /// The server with every attribute at its default.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port,
            method: ForwardingMethod::default(),
            weight: default_weight(),
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel::default(),
        }
    }
}

fn default_weight() -> u32 {
    1
}

/// The connection timeouts that `--set` changes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Idle TCP connections in ESTABLISHED.
    pub tcp: u32,
    /// TCP connections in FIN_WAIT.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}

/// What a service or a destination has counted. Bytes are those of IP packets, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients that came through director.
    pub out_packets: u64,
    /// Bytes of `in_packets`.
    pub in_bytes: u64,
    /// Bytes of `out_packets`.
    pub out_bytes: u64,
}

impl Stats {
    /// `f` of each pair of counters.
    pub fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connections: f(self.connections, other.connections),
            in_packets: f(self.in_packets, other.in_packets),
            out_packets: f(self.out_packets, other.out_packets),
            in_bytes: f(self.in_bytes, other.in_bytes),
            out_bytes: f(self.out_bytes, other.out_bytes),
        }
    }

    /// The sum. Counters wrap as the kernel's do.
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::wrapping_sub)
    }
}

/// Counts per second, estimated as the kernel does (see [`crate::rates`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Connections per second.
    pub connections: u64,
    /// Packets from clients per second.
    pub in_packets: u64,
    /// Packets to clients per second.
    pub out_packets: u64,
    /// Bytes from clients per second.
    pub in_bytes: u64,
    /// Bytes to clients per second.
    pub out_bytes: u64,
}

/// Which end of the connection synchronisation a daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncRole {
    /// Sends connections.
    Master,
    /// Receives them.
    Backup,
}

impl fmt::Display for SyncRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Backup => "backup",
        })
    }
}

/// A connection synchronisation daemon. What is `None` is left to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncDaemon {
    /// Which end it is.
    pub role: SyncRole,
    /// The interface it multicasts on.
    pub interface: String,
    /// Tells several pairs on one network apart.
    #[serde(default)]
    pub sync_id: u8,
    /// The longest message, in bytes.
    #[serde(default)]
    pub max_length: Option<u16>,
    /// The multicast group.
    #[serde(default)]
    pub group: Option<IpAddr>,
    /// The UDP port.
    #[serde(default)]
    pub port: Option<u16>,
    /// The multicast TTL or hop limit.
    #[serde(default)]
    pub ttl: Option<u8>,
}

/// One change of the configuration. Each is done whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Adds a service.
    AddService(ServiceSpec),
    /// Replaces every attribute of a service; its destinations stay.
    EditService(ServiceSpec),
    /// Deletes a service with its destinations.
    DeleteService(VirtualService),
    /// Deletes every service.
    Clear,
    /// Adds a destination to a service.
    AddDestination {
        /// The service.
        service: VirtualService,
        /// The destination.
        destination: DestinationSpec,
    },
    /// Replaces every attribute of a destination.
    EditDestination {
        /// The service.
        service: VirtualService,
        /// The destination, named by its address and port.
        destination: DestinationSpec,
    },
    /// Deletes a destination. Its connections go on unseen until they end or it is added again.
    DeleteDestination {
        /// The service.
        service: VirtualService,
        /// The destination's address.
        address: IpAddr,
        /// The destination's port.
        port: u16,
    },
    /// Starts the counters of a service and its destinations at zero again.
    ZeroService(VirtualService),
    /// Starts every counter at zero again.
    ZeroAll,
    /// Sets timeouts; a 0 leaves one as it is.
    SetTimeouts(Timeouts),
    /// Sets a sysctl.
    SetSysctl {
        /// Its name, with or without `net.ipv4.vs.` before it.
        name: String,
        /// Its new value.
        value: sysctl::Value,
    },
    /// Gives every sysctl its default.
    ResetSysctls,
    /// Adds a marking rule, to be asked after all others.
    AddMark(MarkRule),
    /// Deletes a marking rule, named by all it says.
    DeleteMark(MarkRule),
    /// Deletes every marking rule.
    ClearMarks,
    /// Adds local addresses for FULLNAT.
    AddLocalAddresses(LocalAddresses),
    /// Deletes local addresses, named by all that was said of them. Connections that have them go on.
    DeleteLocalAddresses(LocalAddresses),
    /// Deletes all local addresses.
    ClearLocalAddresses,
    /// Adds a SNAT rule.
    AddSnat {
        /// The rule.
        rule: SnatRule,
        /// The place that it is to have, from 1; behind all others if `None`.
        #[serde(default)]
        position: Option<u32>,
    },
    /// Deletes a SNAT rule, named by all it says. Connections that it has opened go on.
    DeleteSnat(SnatRule),
    /// Deletes every SNAT rule.
    ClearSnat,
    /// Starts a synchronisation daemon.
    StartDaemon(SyncDaemon),
    /// Stops a synchronisation daemon.
    StopDaemon(SyncRole),
}
