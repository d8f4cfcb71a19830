//! The ports: devices attached, set up with a queue pair for each worker, and started.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use control::config::{self, Config};
use control::running::{NamedCount, PortInfo};
use dataplane::network::MacAddr;
use dataplane::wire::DpdkWire;
use dataplane::worker::WAITING_FRAGMENTS;
use dpdk_sys::{Eal, Mempool, MempoolConfig, Port, PortConfig};

/// Descriptors of a queue, where the configuration does not say.
const DESCRIPTORS: u16 = 1024;

/// Frames in each queue between the workers and a kernel interface.
pub const KERNEL_QUEUE: usize = 1024;

/// The same for a VLAN, of which there may be many.
pub const VLAN_QUEUE: usize = 256;

/// The driver that makes one port of several.
const BONDING: &str = "net_bonding";

/// Mbufs that each thread keeps at hand.
const CACHE: u32 = 256;

/// Packets that may be elsewhere, for each worker: in a burst, waiting for a neighbour, on their way to another port; and
/// fragments that wait for the first ones of their datagrams.
const ELSEWHERE: u32 = 1024 + WAITING_FRAGMENTS as u32;

/// Room for a frame of the usual MTU with VLAN tags; drivers like powers of two.
const DATA_ROOM: u16 = 2048;

/// A frame's bytes beyond the MTU: Ethernet header, two VLAN tags, frame check sequence.
const FRAME_OVERHEAD: u16 = 26;

/// A port at work.
pub struct OpenPort {
    /// Its part of the configuration.
    pub config: config::Port,
    /// Its own address.
    pub mac: MacAddr,
    /// The longest IP packet it sends and receives, in bytes.
    pub mtu: u16,
    /// Where its frames come from.
    pub pool: Mempool,
    /// What is lost between Linux and the workers.
    pub lost: Arc<Lost>,
    port: Port,
    /// The ports that it bonds. They are closed after it.
    members: Vec<Port>,
}

/// Frames lost at a port's kernel interface.
#[derive(Debug, Default)]
pub struct Lost {
    /// Handed to Linux, and not taken: the interface is down, say.
    pub to_kernel: AtomicU64,
    /// Linux wanted to send them, and there was no buffer or no room in the queue.
    pub from_kernel: AtomicU64,
}

/// Attaches and starts the configuration's ports. Gives them, and for each its wires, one for each worker.
pub fn open(eal: &Eal, config: &Config) -> anyhow::Result<(Vec<OpenPort>, Vec<VecDeque<DpdkWire>>)> {
    let open = |(number, port): (usize, &config::Port)| {
        open_port(eal, config, number, port)
            .with_context(|| format!("port {}, device {}", port.name, port.device))
    };
    let opened = config.ports.iter().enumerate().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(opened.into_iter().unzip())
}

fn open_port(
    eal: &Eal,
    config: &Config,
    number: usize,
    wanted: &config::Port,
) -> anyhow::Result<(OpenPort, VecDeque<DpdkWire>)> {
    let member = |device: &String| attach(eal, device).with_context(|| format!("the bond's member {device}"));
    let members = wanted.members.iter().map(member).collect::<anyhow::Result<Vec<_>>>()?;
    let mut port = attach(eal, &bonded(&wanted.device, &members)?)?;
    let dpdk_sys::PortInfo { socket, driver, .. } = port.info()?;
    let pool =
        MempoolConfig { count: mbufs(config, number), cache: CACHE, data_room: data_room(wanted), socket };
    let pool = Mempool::create(eal, &format!("port{number}"), &pool)?;
    // As many of each as there are workers: checked by the configuration to be few.
    let queues = config.cores.len() as u16;
    let descriptors = wanted.descriptors.map_or(DESCRIPTORS, Into::into);
    port.configure(
        &PortConfig {
            rx_queues: queues,
            tx_queues: queues,
            rx_descriptors: descriptors,
            tx_descriptors: descriptors,
            mtu: wanted.mtu,
            promiscuous: wanted.promiscuous,
            rss: queues > 1,
        },
        &pool,
    )
    .with_context(|| {
        format!(
            "it cannot be set up with {queues} receive and transmit queues (one for each worker) and an MTU of {}; give \
             it more queues (net_af_packet: qpairs=, net_af_xdp: queue_count=) or use fewer cores, or another mtu",
            wanted.mtu.unwrap_or(1500)
        )
    })?;
    port.start()?;
    let mac = MacAddr(port.mac_address()?);
    let mtu = port.mtu()?;
    let queues = port.take_queues()?;
    let wire = match driver.as_str() {
        BONDING => DpdkWire::of_bond,
        _ => DpdkWire::new,
    };
    let wires = queues.rx.into_iter().zip(queues.tx).map(|(rx, tx)| wire(rx, tx)).collect();
    Ok((OpenPort { config: wanted.clone(), mac, mtu, pool, port, members, lost: Arc::default() }, wires))
}

/// Attaches a device that has one port.
fn attach(eal: &Eal, device: &str) -> anyhow::Result<Port> {
    let found = eal.probe(device).context(
        "it cannot be attached; a device is a PCI address (0000:3b:00.0) or a driver with its options \
         (net_af_packet0,iface=eth1), and DPDK's own words are above",
    )?;
    let [id] = found[..] else {
        bail!("the device has {} ports; name one that has a single port", found.len());
    };
    Ok(Port::open(eal, id)?)
}

/// A device with the ports that it bonds among its options, as DPDK 22.11 calls them.
fn bonded(device: &str, members: &[Port]) -> anyhow::Result<String> {
    let mut device = device.to_owned();
    for member in members {
        device.push_str(",slave=");
        device.push_str(&member.info()?.name);
    }
    Ok(device)
}

/// How many mbufs a port needs so that it never runs out: what its queues hold, what threads keep at hand, and what is on
/// its way. One less than a power of two, which is what a mempool's ring has room for.
fn mbufs(config: &Config, number: usize) -> u32 {
    let port = &config.ports[number];
    let workers = config.cores.len() as u32;
    let descriptors = u32::from(port.descriptors.map_or(DESCRIPTORS, Into::into));
    // A bond has the queues of its members.
    let devices = |port: &config::Port| port.members.len().max(1) as u32;
    // Its frames may fill the transmit queues of every port.
    let queues = workers * descriptors * (devices(port) + config.ports.iter().map(devices).sum::<u32>());
    let vlans = config.vlans.iter().filter(|vlan| usize::from(vlan.port.0) == number).count();
    let kernel = 2 * (KERNEL_QUEUE + vlans * VLAN_QUEUE) as u32;
    let threads = (workers + 1) * (CACHE * 3 / 2 + ELSEWHERE);
    (queues + kernel + threads).next_power_of_two() - 1
}

fn data_room(port: &config::Port) -> u16 {
    DATA_ROOM.max(port.mtu.unwrap_or(0).saturating_add(FRAME_OVERHEAD))
}

/// The memory that all ports' mbufs need, in megabytes, with some to spare for rings and drivers.
pub fn memory(config: &Config) -> u64 {
    /// An mbuf's own fields, its headroom, and the mempool's header.
    const OVERHEAD: u64 = 128 + 128 + 64;
    let port = |(number, port): (usize, &config::Port)| {
        u64::from(mbufs(config, number)) * (u64::from(data_room(port)) + OVERHEAD)
    };
    64 + config.ports.iter().enumerate().map(port).sum::<u64>().div_ceil(1 << 20)
}

/// A counter by its name.
pub fn named((name, count): (&str, u64)) -> NamedCount {
    NamedCount { name: name.to_owned(), count }
}

impl OpenPort {
    /// What there is to say of it now.
    pub fn info(&self, queues: u16) -> PortInfo {
        // A driver that does not answer is shown as one that knows nothing; the list must not fail for its sake.
        let device = self.port.info().ok();
        let link = self.port.link().ok();
        let counters = self.port.statistics().map(|s| {
            vec![
                ("ipackets", s.ipackets),
                ("opackets", s.opackets),
                ("ibytes", s.ibytes),
                ("obytes", s.obytes),
                ("imissed", s.imissed),
                ("ierrors", s.ierrors),
                ("oerrors", s.oerrors),
                ("rx_nombuf", s.rx_nombuf),
                ("to_kernel_lost", self.lost.to_kernel.load(Ordering::Relaxed)),
                ("from_kernel_lost", self.lost.from_kernel.load(Ordering::Relaxed)),
                ("mbufs", u64::from(self.pool.capacity())),
                ("mbufs_in_use", u64::from(self.pool.in_use())),
            ]
        });
        PortInfo {
            name: self.config.name.clone(),
            device: self.config.device.clone(),
            driver: device.map(|d| d.driver).unwrap_or_default(),
            mac: self.mac.to_string(),
            kernel_interface: self.config.kernel_interface.clone(),
            link_up: link.is_some_and(|l| l.up),
            speed_mbps: link.and_then(|l| l.speed).unwrap_or(0),
            queues,
            counters: counters.unwrap_or_default().into_iter().map(named).collect(),
        }
    }

    /// Stops it and gives the device back. Its wires must be gone.
    pub fn close(self) -> Result<(), dpdk_sys::Error> {
        self.port.close()?;
        self.members.into_iter().try_for_each(Port::close)
    }
}
