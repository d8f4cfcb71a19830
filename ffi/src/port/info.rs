//! What is known of a port: names, limits, link, counters. Copies taken at one moment; none of it changes the port.

use std::ffi::CStr;
use std::fmt;
use std::mem::MaybeUninit;

use crate::error::{Errno, Error};
use crate::raw;

/// The number DPDK gives a port. It says nothing about whether the port exists, or still is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u16);

impl PortId {
    /// The port of this number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number, as in [`Mbuf::port`](crate::Mbuf::port).
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A port's device: what it is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number.
    pub id: PortId,
    /// The device's name: a PCI address, or as given to [`EalHandle::probe`](crate::EalHandle::probe) before the comma.
    pub name: String,
    /// The driver's name, e.g. `net_af_packet`.
    pub driver: String,
    /// The NUMA node it is on, if that is known.
    pub socket: Option<u32>,
    /// The kernel's index of the interface it rests on, if there is one.
    pub interface_index: Option<u32>,
    /// How many receive queues it can have.
    pub max_rx_queues: u16,
    /// How many transmit queues it can have.
    pub max_tx_queues: u16,
    /// The least MTU, in bytes.
    pub min_mtu: u16,
    /// The most MTU, in bytes.
    pub max_mtu: u16,
    /// Entries of its table from hash to queue; 0 if it has none.
    pub reta_size: u16,
    /// What it can spread over queues by, as `RTE_ETH_RSS_*` bits; 0 if it cannot.
    pub rss_flows: u64,
    /// What it can do to packets by itself.
    pub offloads: Offloads,
}

impl PortInfo {
    /// Whether it can spread IP packets over receive queues.
    pub fn supports_rss(&self) -> bool {
        self.rss_flows & raw::SHIM_RSS_FLOWS != 0
    }

    pub(super) fn new(id: PortId, info: &raw::rte_eth_dev_info) -> Result<Self, Error> {
        let mut name = [0; raw::SHIM_PORT_NAME_LEN];
        // SAFETY: the port exists, since `info` is of it; the longest name and its NUL fit SHIM_PORT_NAME_LEN bytes.
        let result = unsafe { raw::rte_eth_dev_get_name_by_port(id.0, name.as_mut_ptr()) };
        check(id, "get the name", result)?;
        // SAFETY: filled in above, ends in NUL.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let driver = if info.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: a constant string of the driver, which stays loaded.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
        };
        Ok(Self {
            id,
            name,
            driver,
            socket: socket(id),
            interface_index: (info.if_index != 0).then_some(info.if_index),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            reta_size: info.reta_size,
            rss_flows: info.flow_type_rss_offloads,
            offloads: Offloads { rx: info.rx_offload_capa, tx: info.tx_offload_capa },
        })
    }
}

/// Work a device takes off the CPU; either what it can do or what it was told to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// On receipt, as `RTE_ETH_RX_OFFLOAD_*` bits.
    pub rx: u64,
    /// On sending, as `RTE_ETH_TX_OFFLOAD_*` bits.
    pub tx: u64,
}

impl Offloads {
    /// Receives packets longer than one mbuf.
    pub fn rx_scatter(self) -> bool {
        self.rx & raw::SHIM_RX_OFFLOAD_SCATTER != 0
    }

    /// Sends packets of several segments. Without it, linearize them first: drivers may send the first segment only.
    pub fn tx_segments(self) -> bool {
        self.tx & raw::SHIM_TX_OFFLOAD_MULTI_SEGS != 0
    }
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Mbit/s; `None` if not known or down. Virtual devices name a speed that means nothing.
    pub speed: Option<u32>,
}

impl Link {
    pub(super) fn of(id: PortId) -> Result<Self, Error> {
        let (mut up, mut speed) = (false, 0);
        // SAFETY: takes any port number; writes to the two variables.
        let result = unsafe { raw::shim_link(id.0, &raw mut up, &raw mut speed) };
        check(id, "get the link", result)?;
        let known = up && speed != 0 && speed != raw::SHIM_SPEED_UNKNOWN;
        Ok(Self { up, speed: known.then_some(speed) })
    }
}

/// A port's counters since it was started or they were reset, as its driver counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStatistics {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Packets the device had to drop because no one had emptied its queues.
    pub imissed: u64,
    /// Packets received in error.
    pub ierrors: u64,
    /// Packets that could not be sent.
    pub oerrors: u64,
    /// Times the driver found no free mbuf.
    pub rx_nombuf: u64,
}

impl PortStatistics {
    pub(super) fn of(id: PortId) -> Result<Self, Error> {
        let mut stats = MaybeUninit::<raw::rte_eth_stats>::zeroed();
        // SAFETY: takes any port number; fills in the structure.
        let result = unsafe { raw::rte_eth_stats_get(id.0, stats.as_mut_ptr()) };
        check(id, "get the statistics", result)?;
        // SAFETY: integers only, zeroed and then filled in.
        let stats = unsafe { stats.assume_init() };
        Ok(Self {
            ipackets: stats.ipackets,
            opackets: stats.opackets,
            ibytes: stats.ibytes,
            obytes: stats.obytes,
            imissed: stats.imissed,
            ierrors: stats.ierrors,
            oerrors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        })
    }
}

/// The NUMA node of a port, if it has one.
pub(super) fn socket(id: PortId) -> Option<u32> {
    // SAFETY: takes any port number.
    u32::try_from(unsafe { raw::rte_eth_dev_socket_id(id.0) }).ok()
}

pub(super) fn device_info(id: PortId) -> Result<raw::rte_eth_dev_info, Error> {
    let mut info = MaybeUninit::zeroed();
    // SAFETY: takes any port number; fills in the structure.
    let result = unsafe { raw::rte_eth_dev_info_get(id.0, info.as_mut_ptr()) };
    check(id, "get its description", result)?;
    // SAFETY: integers and raw pointers only, zeroed and then filled in.
    Ok(unsafe { info.assume_init() })
}

/// Turns a result of DPDK, negative for a reason, into ours.
pub(super) fn check(port: PortId, action: &'static str, result: i32) -> Result<(), Error> {
    if result < 0 { Err(Error::Port { port, action, errno: Errno::from_result(result) }) } else { Ok(()) }
}
