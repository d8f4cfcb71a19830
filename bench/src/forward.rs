//! A forwarder of our own at the server's end of a memif, in the daemon's place: the yardsticks `macswap` and `limit` of
//! part `inprocess` on a wire.
//!
//! Its device is set up exactly as the daemon sets up its own, so that the two differ in nothing but what is done to
//! packets. It must do nothing else to them.

use std::io::Write;

use anyhow::{Context, bail};
use dataplane::time::Clock;
use dataplane::wire::DpdkWire;
use dpdk_sys::{Eal, Mempool, MempoolConfig, Port, PortConfig, tsc};
use serde::{Deserialize, Serialize};

use crate::inprocess::macswap;
use crate::limit::Limit;
use crate::traffic::{DIRECTOR, Protocol};
use crate::{Mode, director};

/// What the daemon gives a port of its own accord: descriptors of a queue, buffers a thread keeps at hand.
const DESCRIPTORS: u16 = 1024;
const CACHE: u32 = 256;

/// What says that it forwards.
pub const READY: &str = "forwarding";

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// `macswap` or `limit`.
    pub mode: String,
    /// The name that the memif is served as.
    pub wire: String,
    /// Buffers.
    pub mbufs: u32,
    /// The core to forward on.
    pub core: usize,
    /// What the flows in the limit loop's table are of, and how many there are.
    pub protocol: String,
    /// See `protocol`.
    pub flows: u32,
}

impl Task {
    /// Does it, until the process is ended.
    pub fn run(&self) -> anyhow::Result<()> {
        // DPDK keeps its other threads off this core, as far as the process may run on others.
        let core = self.core.to_string();
        let mut arguments = vec!["-l", &core, "--no-pci", "--no-telemetry", "--log-level", "error"];
        arguments.extend(if dpdk_sys::free_huge_pages() > 0 {
            &["--in-memory"][..]
        } else {
            &["--no-huge", "--no-shconf", "-m", "96"]
        });
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        let eal = Eal::init(&arguments).context("DPDK does not start; its own words are above")?;
        let found = eal.probe(&format!("net_memif0,role=server,id=0,socket={},mac={DIRECTOR}", self.wire))?;
        let [id] = found[..] else { bail!("a memif has {} ports", found.len()) };
        let mut port = Port::open(&eal, id)?;
        let pool = MempoolConfig { count: self.mbufs, cache: CACHE, ..MempoolConfig::default() };
        let pool = Mempool::create(&eal, "wire", &pool)?;
        let settings = PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            ..PortConfig::default()
        };
        port.configure(&settings, &pool)?;
        port.start()?;
        let mut queues = port.take_queues()?;
        let (Some(rx), Some(tx)) = (queues.rx.pop(), queues.tx.pop()) else { bail!("a memif has no queues") };
        let mut wire = DpdkWire::new(rx, tx);
        let clock = Clock::new(tsc(), eal.tsc_hz());
        let ready = || {
            let mut output = std::io::stdout().lock();
            writeln!(output, "{READY}").and_then(|()| output.flush())
        };
        match self.mode.as_str() {
            mode if mode == Mode::Macswap.name() => {
                ready()?;
                loop {
                    macswap(&mut wire);
                }
            }
            mode if mode == Mode::Limit.name() => {
                let protocol = Protocol::named(&self.protocol)?;
                let buckets = director::buckets(self.flows.max(1024));
                let mut limit = Limit::new(wire, protocol, self.flows, buckets)?;
                ready()?;
                loop {
                    limit.poll::<true>(clock.tick(tsc()));
                }
            }
            mode => bail!("nothing forwards in mode {mode}"),
        }
    }
}
