//! A NIC port: its settings, its start and its end. It must never change under a queue that is in use: whatever needs the
//! queues at rest asks for all of them back first.

mod info;

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

pub use info::{Link, Offloads, PortId, PortInfo, PortStatistics};
use info::{check, device_info, socket};

use crate::eal::EalHandle;
use crate::error::{Direction, Errno, Error};
use crate::mempool::Mempool;
use crate::queue::{Queues, RxQueue, TxQueue};
use crate::raw;

/// How a port is to be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// How many receive queues, one for each worker.
    pub rx_queues: u16,
    /// How many transmit queues, one for each worker.
    pub tx_queues: u16,
    /// Packets a receive queue holds; moved to the nearest size the device has.
    pub rx_descriptors: u16,
    /// Packets a transmit queue holds; moved to the nearest size the device has.
    pub tx_descriptors: u16,
    /// Bytes of an IP packet at most; `None` for 1500 or the device's most, whichever is less.
    pub mtu: Option<u16>,
    /// Whether to receive frames for every address. A device that cannot choose is left as it is.
    pub promiscuous: bool,
    /// Whether to spread IP packets over the receive queues by their addresses and ports, as far as the device can.
    pub rss: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            promiscuous: false,
            rss: false,
        }
    }
}

/// A port, opened for this process alone. It may move between threads, but its calls are made by one at a time.
///
/// When it is dropped, and its queues are too, the port is stopped and closed, and its device detached.
#[derive(Debug)]
pub struct Port {
    open: Arc<OpenPort>,
    // Drivers need not allow two calls for the same port at once, not even ones that only read.
    _one_thread: PhantomData<Cell<()>>,
}

/// What queues share with their port. Only whoever has the sole reference, and so no queue, may change it or the port.
#[derive(Debug)]
pub(crate) struct OpenPort {
    id: PortId,
    state: State,
    eal: EalHandle,
}

#[derive(Debug, Clone)]
enum State {
    Open,
    Configured(Setup),
    Started(Setup),
    Closed,
}

#[derive(Debug, Clone)]
struct Setup {
    rx_queues: u16,
    tx_queues: u16,
    promiscuous: bool,
    offloads: Offloads,
    // The driver allocates from it for as long as it is set up.
    _pool: Mempool,
}

impl Port {
    /// Opens a port.
    ///
    /// # Errors
    /// There is no such port, or it is open.
    pub fn open(eal: &EalHandle, id: PortId) -> Result<Self, Error> {
        let mut control = eal.control();
        // SAFETY: takes any number.
        if unsafe { raw::rte_eth_dev_is_valid_port(id.number()) } == 0 {
            return Err(Error::UnknownPort(id));
        }
        if !control.open.insert(id) {
            return Err(Error::PortOpen(id));
        }
        let open = OpenPort { id, state: State::Open, eal: eal.clone() };
        Ok(Self { open: Arc::new(open), _one_thread: PhantomData })
    }

    /// Its number.
    pub fn id(&self) -> PortId {
        self.open.id
    }

    /// What its device is and can do.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn info(&self) -> Result<PortInfo, Error> {
        PortInfo::new(self.id(), &device_info(self.id())?)
    }

    /// Sets it up, with receive buffers from `pool`, on or off what was set up before. Checksums are verified and hashes
    /// given by the device as far as it can; see [`Port::offloads`].
    ///
    /// # Errors
    /// Queues or an MTU the device does not have, mbufs too small for it, queues that are out, a port that is started.
    pub fn configure(&mut self, config: &PortConfig, pool: &Mempool) -> Result<(), Error> {
        let id = self.id();
        let open = self.idle()?;
        if let State::Started(_) = open.state {
            return Err(Error::Order { port: id, action: "configure a port that is started" });
        }
        open.state = State::Open;

        let info = device_info(id)?;
        check_queues(id, Direction::Receive, config.rx_queues, info.max_rx_queues)?;
        check_queues(id, Direction::Transmit, config.tx_queues, info.max_tx_queues)?;
        if let Some(asked) = config.mtu
            && !(info.min_mtu..=info.max_mtu).contains(&asked)
        {
            return Err(Error::Mtu { port: id, asked, least: info.min_mtu, most: info.max_mtu });
        }

        let offloads = choose_offloads(config, &info, pool);
        configure_device(id, config, &info, offloads)?;
        set_up_queues(id, config, pool)?;
        open.state = State::Configured(Setup {
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            promiscuous: config.promiscuous,
            offloads,
            _pool: pool.clone(),
        });
        Ok(())
    }

    /// Starts it: packets arrive from now on. What is for groups does, too, as neighbour discovery and routing protocols need; a device
    /// that cannot be asked for this alone is made promiscuous.
    ///
    /// # Errors
    /// It is not configured, or started already, or the driver fails.
    pub fn start(&mut self) -> Result<(), Error> {
        let id = self.id();
        let open = self.idle()?;
        let State::Configured(setup) = &open.state else {
            return Err(Error::Order {
                port: id,
                action: "start a port that is not configured, or started already",
            });
        };
        let setup = setup.clone();
        // SAFETY: configured, with all its queues, and not started.
        check(id, "start it", unsafe { raw::rte_eth_dev_start(id.number()) })?;
        let promiscuous = setup.promiscuous;
        open.state = State::Started(setup);
        // SAFETY: takes any port number; drivers allow it on a port that is started.
        let result = unsafe { raw::rte_eth_allmulticast_enable(id.number()) };
        let has_groups = result != NOT_SUPPORTED;
        if has_groups {
            check(id, "receive what is for groups", result)?;
        }
        self.set_promiscuous(promiscuous || !has_groups)
    }

    /// The queues of a started port, once: until all of them are dropped there are no others.
    ///
    /// # Errors
    /// The port is not started, or they are out.
    pub fn take_queues(&mut self) -> Result<Queues, Error> {
        let id = self.id();
        let State::Started(setup) = &self.idle()?.state else {
            return Err(Error::Order { port: id, action: "take the queues of a port that is not started" });
        };
        let (rx, tx) = (setup.rx_queues, setup.tx_queues);
        Ok(Queues {
            rx: (0..rx).map(|queue| RxQueue::new(&self.open, queue)).collect(),
            tx: (0..tx).map(|queue| TxQueue::new(&self.open, queue)).collect(),
        })
    }

    /// Stops it; its settings stay, and it may be started again. Nothing happens if it is not started.
    ///
    /// # Errors
    /// Queues are out, or the driver fails.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.idle()?.stop()
    }

    /// Stops and closes it, and detaches its device if it has no other ports. Most drivers free the mbufs they
    /// hold; see [`Eal::cleanup`](crate::Eal::cleanup).
    ///
    /// # Errors
    /// Queues are out; the port closes with the last of them. Or the driver fails.
    pub fn close(mut self) -> Result<(), Error> {
        self.idle()?.close()
    }

    /// Its own Ethernet address.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn mac_address(&self) -> Result<[u8; 6], Error> {
        let mut address = raw::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: takes any port number; fills in the structure.
        let result = unsafe { raw::rte_eth_macaddr_get(self.id().number(), &raw mut address) };
        check(self.id(), "get the Ethernet address", result)?;
        Ok(address.addr_bytes)
    }

    /// Bytes of an IP packet at most.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn mtu(&self) -> Result<u16, Error> {
        let mut mtu = 0;
        // SAFETY: takes any port number; fills in the variable.
        let result = unsafe { raw::rte_eth_dev_get_mtu(self.id().number(), &raw mut mtu) };
        check(self.id(), "get the MTU", result)?;
        Ok(mtu)
    }

    /// The state of its link now.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn link(&self) -> Result<Link, Error> {
        Link::of(self.id())
    }

    /// Its counters now.
    ///
    /// # Errors
    /// The driver does not count.
    pub fn statistics(&self) -> Result<PortStatistics, Error> {
        PortStatistics::of(self.id())
    }

    /// Sets its counters to 0.
    ///
    /// # Errors
    /// The driver cannot.
    pub fn reset_statistics(&mut self) -> Result<(), Error> {
        // SAFETY: takes any port number.
        check(self.id(), "reset the statistics", unsafe { raw::rte_eth_stats_reset(self.id().number()) })
    }

    /// Whether it receives frames for every address.
    ///
    /// # Errors
    /// The port is gone.
    pub fn promiscuous(&self) -> Result<bool, Error> {
        // SAFETY: takes any port number.
        let result = unsafe { raw::rte_eth_promiscuous_get(self.id().number()) };
        check(self.id(), "get the promiscuous mode", result)?;
        Ok(result == 1)
    }

    /// Receive frames for every address, or not. A device that cannot choose, such as a virtual wire, is left as it is.
    ///
    /// # Errors
    /// The driver fails.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), Error> {
        let number = self.id().number();
        // SAFETY: takes any port number; drivers allow it while queues are in use.
        let result = unsafe {
            if on {
                raw::rte_eth_promiscuous_enable(number)
            } else {
                raw::rte_eth_promiscuous_disable(number)
            }
        };
        check(self.id(), "set the promiscuous mode", supported(result))
    }

    /// What the device does to packets, as configured; nothing before that.
    pub fn offloads(&self) -> Offloads {
        match &self.open.state {
            State::Configured(setup) | State::Started(setup) => setup.offloads,
            State::Open | State::Closed => Offloads::default(),
        }
    }

    /// The port with none of its queues out.
    fn idle(&mut self) -> Result<&mut OpenPort, Error> {
        let id = self.id();
        Arc::get_mut(&mut self.open).ok_or(Error::QueuesOut(id))
    }
}

impl OpenPort {
    pub(crate) fn id(&self) -> PortId {
        self.id
    }

    fn stop(&mut self) -> Result<(), Error> {
        if let State::Started(setup) = &self.state {
            // SAFETY: `&mut self` means that there are no queues, so no thread is in a burst.
            check(self.id, "stop it", unsafe { raw::rte_eth_dev_stop(self.id.number()) })?;
            self.state = State::Configured(setup.clone());
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        if let State::Closed = self.state {
            return Ok(());
        }
        self.stop()?;
        let mut control = self.eal.control();
        let device = device_info(self.id)?.device;
        // SAFETY: stopped, and without queues as in `stop`. Under the lock no one opens or attaches a port.
        check(self.id, "close it", unsafe { raw::rte_eth_dev_close(self.id.number()) })?;
        self.state = State::Closed;
        control.open.remove(&self.id);

        // SAFETY: `device` is compared, not read.
        let has_other_ports = unsafe { raw::rte_eth_find_next_of(0, device) } < raw::SHIM_MAX_PORTS;
        if has_other_ports || device.is_null() {
            return Ok(());
        }
        // SAFETY: closing a port does not free its device, and under the lock no one else removes it; it has no ports left
        // that anyone could use.
        check(self.id, "detach its device", unsafe { raw::rte_dev_remove(device) })
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        // Those who want to know call Port::close. A port that cannot be closed stays in the list of open ones.
        let _ = self.close();
    }
}

/// What a driver says that has no such setting: -ENOTSUP.
const NOT_SUPPORTED: i32 = -95;

/// A driver that has no such setting has nothing to set.
fn supported(result: i32) -> i32 {
    if result == NOT_SUPPORTED { 0 } else { result }
}

fn check_queues(port: PortId, direction: Direction, asked: u16, most: u16) -> Result<(), Error> {
    if (1..=most).contains(&asked) { Ok(()) } else { Err(Error::QueueCount { port, direction, asked, most }) }
}

/// Of what we can use, what the device has.
fn choose_offloads(config: &PortConfig, info: &raw::rte_eth_dev_info, pool: &Mempool) -> Offloads {
    // No checksums: a virtual device that is asked to look after them may leave them unfinished, and what is sent on must be
    // whole.
    let mut rx = 0;
    let frame = u32::from(config.mtu.unwrap_or(0)) + raw::SHIM_FRAME_OVERHEAD;
    if frame > u32::from(pool.data_room()) {
        rx |= raw::SHIM_RX_OFFLOAD_SCATTER;
    }
    // Not MBUF_FAST_FREE: it asks that all mbufs of a queue be of one pool, which nothing here makes sure of.
    let tx = raw::SHIM_TX_OFFLOAD_MULTI_SEGS;
    Offloads { rx: rx & info.rx_offload_capa, tx: tx & info.tx_offload_capa }
}

fn configure_device(
    id: PortId,
    config: &PortConfig,
    info: &raw::rte_eth_dev_info,
    offloads: Offloads,
) -> Result<(), Error> {
    // SAFETY: integers, booleans and raw pointers, for all of which zero is a value; to DPDK it is the default.
    let mut conf: raw::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
    conf.rxmode.offloads = offloads.rx;
    conf.txmode.offloads = offloads.tx;
    conf.rxmode.mtu = config.mtu.unwrap_or(0).into();
    let flows = raw::SHIM_RSS_FLOWS & info.flow_type_rss_offloads;
    if config.rss && flows != 0 {
        conf.rxmode.mq_mode = raw::SHIM_MQ_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = flows;
    }
    // SAFETY: the port is stopped and has no queues in use; `conf` is copied.
    let result = unsafe {
        raw::rte_eth_dev_configure(id.number(), config.rx_queues, config.tx_queues, &raw const conf)
    };
    check(id, "configure it", result)?;

    if let Some(mtu) = config.mtu {
        // Drivers on top of a kernel interface change its MTU only when told so apart; others have it from `conf`.
        // SAFETY: takes any port number and checks the MTU.
        let result = unsafe { raw::rte_eth_dev_set_mtu(id.number(), mtu) };
        check(id, "set the MTU", supported(result))?;
    }
    Ok(())
}

fn set_up_queues(id: PortId, config: &PortConfig, pool: &Mempool) -> Result<(), Error> {
    let (mut rx_size, mut tx_size) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: takes any port number; changes the two variables.
    let result =
        unsafe { raw::rte_eth_dev_adjust_nb_rx_tx_desc(id.number(), &raw mut rx_size, &raw mut tx_size) };
    check(id, "fit the number of descriptors", result)?;

    let node = socket(id).unwrap_or(raw::SHIM_SOCKET_ANY.cast_unsigned());
    let failed = |direction, queue, descriptors, result| Error::Queue {
        port: id,
        direction,
        queue,
        descriptors,
        errno: Errno::from_result(result),
    };
    for queue in 0..config.rx_queues {
        // SAFETY: the port is configured with this queue and stopped; the pool lives as long as the EAL, so longer than
        // the port; no configuration means the driver's default, with the offloads of the port.
        let result = unsafe {
            raw::rte_eth_rx_queue_setup(id.number(), queue, rx_size, node, ptr::null(), pool.as_ptr())
        };
        if result < 0 {
            return Err(failed(Direction::Receive, queue, rx_size, result));
        }
    }
    for queue in 0..config.tx_queues {
        // SAFETY: as above.
        let result = unsafe { raw::rte_eth_tx_queue_setup(id.number(), queue, tx_size, node, ptr::null()) };
        if result < 0 {
            return Err(failed(Direction::Transmit, queue, tx_size, result));
        }
    }
    Ok(())
}
