//! The daemon's configuration file: read once, checked whole, then typed.
//!
//! What is in a [`Config`] needs no second look by those who use it. Reading it must never touch the machine: the
//! cores that may be used are an argument, and devices, users and groups are looked up by those who open them.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use dataplane::network::{MacAddr, PortId};
use dataplane::packet::vlan::{Tags, VlanId};
use dataplane::schedule::TableSizes;
use ipnet::IpNet;
use serde::Deserialize;

use crate::local::LocalAddresses;
use crate::mark::MarkRule;
use crate::snat::SnatRule;
use crate::sysctl;

mod check;
mod error;
mod raw;

pub use error::{ConfigError, Problem};

/// What the daemon was told to do. `docs/configuration.md` describes each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The socket `lbctl` speaks to.
    pub control: Control,
    /// What DPDK is started with.
    pub eal: Eal,
    /// The cores that workers run on, one worker each; never empty and none twice.
    pub cores: Vec<usize>,
    /// The size of the tables.
    pub connections: Connections,
    /// `[schedulers]`: how many slots dh, sh and mh have.
    pub schedulers: TableSizes,
    /// The sysctls that are named, with values they take.
    pub sysctls: Vec<(&'static str, sysctl::Value)>,
    /// `[[mark]]`: the marking rules, in the order in which they are asked; none twice.
    pub marks: Vec<MarkRule>,
    /// `[[local_address]]`: the local addresses for FULLNAT; none twice.
    pub local_addresses: Vec<LocalAddresses>,
    /// `[[snat]]`: the SNAT rules, in the order in which they are asked; none twice.
    pub snat: Vec<SnatRule>,
    /// The ports; a [`PortId`] is an index into this list and that of [the VLANs](Config::vlans) behind it. Never empty.
    pub ports: Vec<Port>,
    /// `[[vlan]]`: the VLANs, which are ports without a device of their own; none twice.
    pub vlans: Vec<Vlan>,
    /// Routes that leave by ports without a kernel interface.
    pub routes: Vec<Route>,
    /// Neighbours on ports without a kernel interface.
    pub neighbours: Vec<Neighbour>,
}

/// `[control]`: where the socket is and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The socket's absolute path.
    pub socket: PathBuf,
    /// The socket's permission bits, at most `0o777`.
    pub mode: u32,
    /// The group that the socket is given to; the daemon's own if `None`.
    pub group: Option<Account>,
    /// The users who may change something; others who can open the socket may only read.
    pub change: Vec<Account>,
}

/// A user or a group, by name or by number. Names are looked up when they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A uid or gid.
    Id(u32),
    /// A name in the user or group database.
    Name(String),
}

/// `[eal]`: what DPDK's environment abstraction layer is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eal {
    /// Passed on as they are, before what the daemon adds itself.
    pub arguments: Vec<String>,
    /// Whether memory comes from huge pages.
    pub huge_pages: HugePages,
}

/// Whether packet memory comes from huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// Use them if there are any, otherwise warn and go on without.
    #[default]
    Auto,
    /// Do not start without them.
    Require,
    /// Do not use them even if there are any.
    Off,
}

/// `[connections]`: the size of the connection table and of the table of destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Buckets of the connection table.
    pub buckets: u32,
    /// Most connections at once; from 1 to 2^31.
    pub capacity: u32,
    /// Most destinations (real servers, counted once for each virtual service) at once; from 1 to 2^31.
    pub destinations: u32,
}

/// One `[[port]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in this file, in lists and in metrics; unique.
    pub name: String,
    /// The DPDK device; unique.
    pub device: String,
    /// The devices that it bonds, where it is a bond; unique like it.
    pub members: Vec<String>,
    /// Descriptors of each queue; 1024 if `None`.
    pub descriptors: Option<NonZeroU16>,
    /// The MTU in bytes, without the Ethernet header; 1500 if `None`.
    pub mtu: Option<u16>,
    /// Whether frames for other MAC addresses are received too.
    pub promiscuous: bool,
    /// The name of the port's interface in Linux, if it is to have one.
    pub kernel_interface: Option<String>,
    /// Put on the kernel interface, with the length of their prefix; empty where there is no interface.
    pub addresses: Vec<IpNet>,
}

/// One `[[vlan]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its name in this file, in lists and in metrics; unique among VLANs and ports.
    pub name: String,
    /// The port by which its frames come and go: one with a device.
    pub port: PortId,
    /// Its id, and that of the outer tag where there are two; on one port each is one VLAN's.
    pub id: VlanId,
    /// What its frames are sent with.
    pub tags: Tags,
    /// The MTU in bytes, without Ethernet header and tags, no more than the port's; the port's if `None`.
    pub mtu: Option<u16>,
    /// The name of its interface in Linux, if it is to have one.
    pub kernel_interface: Option<String>,
    /// Put on the kernel interface, with the length of their prefix; empty where there is no interface.
    pub addresses: Vec<IpNet>,
}

/// One `[[route]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The prefix, without host bits.
    pub to: IpNet,
    /// The gateway; `None` where destinations are on the link.
    pub via: Option<IpAddr>,
    /// The source of packets that the director itself makes, where it has one to give.
    pub source: Option<IpAddr>,
    /// The port or VLAN to leave by; it has no kernel interface.
    pub port: PortId,
}

/// One `[[neighbour]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address; never a group address.
    pub mac: MacAddr,
    /// The port or VLAN whose link it is on; that has no kernel interface.
    pub port: PortId,
}

impl Config {
    /// Reads and checks `file`. `cores` are those this process may run on.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and what to do about it.
    pub fn load(file: &Path, cores: &[usize]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| ConfigError::new(file, Problem::Unreadable(e.to_string())))?;
        Self::parse(&text, file, cores)
    }

    /// Checks the `text` of a configuration file; `file` is only for errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &Path, cores: &[usize]) -> Result<Self, ConfigError> {
        let raw = toml::from_str(text).map_err(|e| ConfigError::from_toml(file, text, &e))?;
        check::check(raw, cores).map_err(|(at, problem)| ConfigError::at(file, text, at, problem))
    }

    /// The names of all ports and VLANs, in the order of their [ids](PortId), each with its interface in Linux.
    pub fn links(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        links(&self.ports, &self.vlans)
    }

    /// The port or VLAN of that name.
    pub fn port(&self, name: &str) -> Option<PortId> {
        self.links().position(|(known, _)| known == name).map(|i| PortId(i as u16))
    }
}

fn links<'c>(ports: &'c [Port], vlans: &'c [Vlan]) -> impl Iterator<Item = (&'c str, Option<&'c str>)> {
    let of_ports = ports.iter().map(|port| (&*port.name, port.kernel_interface.as_deref()));
    of_ports.chain(vlans.iter().map(|vlan| (&*vlan.name, vlan.kernel_interface.as_deref())))
}

#[cfg(test)]
mod tests;
