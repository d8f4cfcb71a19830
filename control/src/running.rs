//! What control asks of the running dataplane, and what it is told.
//!
//! The trait keeps control free of DPDK: the daemon implements it over its workers, tests over memory. It must
//! never hand out anything that lives in a worker; every answer is a copy.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Protocol, Stats};
use crate::table::{DestinationId, ServiceTable};

/// What the dataplane counts for one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationCounts {
    /// Connections in a state that counts as active (TCP ESTABLISHED, SYN_SENT, SYN_RECV).
    pub active: u32,
    /// The other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Everything counted since the dataplane started. Never reset, whoever the id belongs to.
    pub stats: Stats,
}

impl DestinationCounts {
    /// True if no connection and no template leads to the destination.
    pub fn is_idle(&self) -> bool {
        self.active == 0 && self.inactive == 0 && self.persistent == 0
    }
}

/// The persistence engine's part of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineData {
    /// The engine's name.
    pub name: String,
    /// What it tells connections by.
    pub data: String,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Its protocol; `None` for a template of a firewall mark, and for a ping by SNAT.
    pub protocol: Option<Protocol>,
    /// IPVS's name of its state, such as `ESTABLISHED`.
    pub state: String,
    /// Seconds until it expires if nothing more comes.
    pub expires: u32,
    /// The client.
    pub client: SocketAddr,
    /// The virtual service's address.
    #[serde(rename = "virtual")]
    pub virtual_address: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
    /// What the destination takes for the client, by FULLNAT.
    #[serde(default)]
    pub local: Option<SocketAddr>,
    /// True for one by SNAT: its client is the server that has opened it, its virtual address and destination are both the host
    /// outside, and that knows it by the local address.
    #[serde(default)]
    pub snat: bool,
    /// Of a template that a persistence engine made.
    #[serde(default)]
    pub engine: Option<EngineData>,
}

/// The counters of one worker, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounters {
    /// The core the worker is pinned to.
    pub core: u32,
    /// Taken from ports.
    pub received: u64,
    /// Sent on to a destination or a client.
    pub forwarded: u64,
    /// Turned into ICMP errors for their senders; among `forwarded` once sent.
    #[serde(default)]
    pub unreachable: u64,
    /// Turned into ICMP errors that tell their senders how long a packet may be; among `forwarded` once sent.
    #[serde(default)]
    pub fragmentation_needed: u64,
    /// Turned into ICMP errors that tell their senders that their time to live has run out; among `forwarded` once sent.
    #[serde(default)]
    pub time_exceeded: u64,
    /// Made in addition, by fragmenting what was too long for its way. With them, `received` is all that went somewhere.
    #[serde(default)]
    pub fragments: u64,
    /// Given to Linux.
    pub to_kernel: u64,
    /// Taken from Linux and sent.
    pub from_kernel: u64,
    /// Taken from Linux and not sent, because the port's queue was full. Not among `dropped`.
    #[serde(default)]
    pub from_kernel_dropped: u64,
    /// Dropped, by the name of the reason. Reasons with a count of 0 may be left out.
    pub dropped: Vec<NamedCount>,
}

/// A counter with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCount {
    /// What is counted.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// One port of the director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// The port's name in the configuration.
    pub name: String,
    /// The device as the EAL knows it.
    pub device: String,
    /// The driver.
    pub driver: String,
    /// The MAC address, as text.
    pub mac: String,
    /// The kernel interface through which Linux uses the port, if it has one.
    pub kernel_interface: Option<String>,
    /// True if the link is up.
    pub link_up: bool,
    /// The link's speed in megabits per second; 0 if the driver does not know.
    pub speed_mbps: u32,
    /// Receive and transmit queues in use.
    pub queues: u16,
    /// The driver's own counters.
    pub counters: Vec<NamedCount>,
}

/// A route as workers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteInfo {
    /// The prefix.
    pub prefix: IpNet,
    /// The port it leaves by; `None` if that is none of director's.
    pub port: Option<String>,
    /// The gateway, unless destinations are on the port's link.
    pub gateway: Option<IpAddr>,
    /// The addresses are Linux's own.
    #[serde(default)]
    pub local: bool,
}

/// A neighbour as workers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourInfo {
    /// Its address.
    pub address: IpAddr,
    /// The port whose link it is on.
    pub port: String,
    /// Its MAC address, as text; `None` while it is not resolved.
    pub mac: Option<String>,
}

/// Where packets can go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// Routes, IPv4 first, by prefix.
    pub routes: Vec<RouteInfo>,
    /// Neighbours, by port and address.
    pub neighbours: Vec<NeighbourInfo>,
}

/// The running dataplane, as control sees it.
pub trait Dataplane {
    /// What was counted for `id`, summed over the workers. An id never used has counted nothing.
    fn destination_counts(&self, id: DestinationId) -> DestinationCounts;

    /// The number of buckets of the connection table: `size=` in a list's first line.
    fn connection_buckets(&self) -> usize;

    /// Shows `visit` every connection, in no particular order.
    fn connections(&self, visit: &mut dyn FnMut(ConnectionRow));

    /// The counters of every worker.
    fn counters(&self) -> Vec<WorkerCounters>;

    /// Every port.
    fn ports(&self) -> Vec<PortInfo>;

    /// Routes and neighbours.
    fn network(&self) -> NetworkInfo;

    /// The MTU of Linux's network interface of this name, in bytes; `None` if there is none.
    fn interface_mtu(&self, name: &str) -> Option<u32>;

    /// Makes `table` what the workers see. Returns when every worker has taken it; on an error, which says why
    /// in one line, the workers must still see what they saw before.
    fn publish(&mut self, table: &ServiceTable) -> Result<(), String>;

    /// True while fewer pages of memory for connections are left than `amemthresh` in the table published last.
    fn memory_is_scarce(&self) -> bool {
        false
    }

    /// Does what is due by time. To be called about once a second.
    fn tick(&mut self) {}
}
