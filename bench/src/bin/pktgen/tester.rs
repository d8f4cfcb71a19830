//! The device under load: sends frames at a rate, takes back what comes, and says how it went.
//!
//! One thread does both, so that the time a frame was away is taken by one clock. It must never send more than it was told,
//! nor count as lost what the wire did not take.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dataplane::network::MacAddr;
use dpdk_sys::{BURST, Burst, EalHandle, Mempool, MempoolConfig, Port, PortConfig, RxQueue, TxQueue, tsc};

use crate::check::Checker;
use crate::flows::{Flows, Order};
use crate::frames::{Addressing, Frames, MAX_FLOWS, Phase, Side, Stamp, TICK_SHIFT};
use crate::outcome::Outcome;
use crate::pace::{Pacer, Pauses};
use crate::servers::Servers;

/// How long a link may take to come up.
const LINK_PATIENCE: Duration = Duration::from_secs(20);

/// After its link is up, the other end of a virtual wire may still be busy with setting up its queues.
const SETTLING: Duration = Duration::from_millis(100);

/// With nothing of ours received for so long, nothing more is expected.
const STRAGGLERS: Duration = Duration::from_millis(20);

/// What comes later than this is lost, whatever may still come.
const LATEST: Duration = Duration::from_secs(2);

/// Buffers that the thread keeps at hand.
const MBUF_CACHE: u32 = 256;

/// How a device is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// What DPDK calls it.
    pub name: String,
    /// Queues in each direction.
    pub queues: u16,
    /// Descriptors of each.
    pub descriptors: u16,
    /// Buffers; more than all queues of the device hold.
    pub mbufs: u32,
}

/// What is sent.
pub struct Load<'a> {
    /// How frames are addressed.
    pub addressing: &'a Addressing,
    /// Who sends.
    pub side: Side,
    /// What phase of the flows' life frames are of.
    pub phase: Phase,
    /// The number of flows.
    pub flows: u32,
    /// In which order they come.
    pub order: Order,
    /// Frames a second; `None` for as many as the wire takes.
    pub rate: Option<f64>,
    /// How long at most.
    pub seconds: f64,
    /// So many times a second a frame opens a flow that there was none of before.
    pub new_flows: Option<f64>,
    /// Verify the checksums of all that comes back.
    pub checksums: bool,
    /// By how many queues what servers send is off the queue that their clients' frames leave by.
    pub reply_shift: usize,
}

struct Queue {
    rx: RxQueue,
    tx: TxQueue,
    /// Written, and not yet taken by the wire.
    pending: Burst,
    /// How many of these, the first ones, open flows.
    opening: usize,
}

/// A device, open and started, and what is known of the flows that went through it.
pub struct Tester {
    port: Port,
    queues: Vec<Queue>,
    pool: Mempool,
    hertz: u64,
    run: u8,
    /// How many flows have been opened beyond those that loads name.
    opened: u32,
    /// Who the flows went to when they were opened.
    pub servers: Servers,
}

impl Tester {
    /// Opens a device and waits for its link.
    pub fn open(eal: &EalHandle, config: &DeviceConfig) -> anyhow::Result<Self> {
        let found = eal.probe(&config.name).context(
            "it cannot be attached; a device is a PCI address (0000:3b:00.0) or a driver with its options \
             (net_memif0,role=client,socket=NAME), and DPDK's own words are above",
        )?;
        let [id] = found[..] else { bail!("it has {} ports; name a device that has one", found.len()) };
        let mut port = Port::open(eal, id)?;
        let pool = MempoolConfig { count: config.mbufs, cache: MBUF_CACHE, ..MempoolConfig::default() };
        let pool = Mempool::create(eal, &format!("port{}", id.number()), &pool)
            .context("no memory for its buffers; --memory gives more, --mbufs asks for fewer")?;
        let settings = PortConfig {
            rx_queues: config.queues,
            tx_queues: config.queues,
            rx_descriptors: config.descriptors,
            tx_descriptors: config.descriptors,
            promiscuous: true,
            rss: config.queues > 1,
            ..PortConfig::default()
        };
        port.configure(&settings, &pool)?;
        port.start()?;
        await_link(&port)?;
        let queues = port.take_queues()?;
        let queue = |(rx, tx)| Queue { rx, tx, pending: Burst::new(), opening: 0 };
        let queues = queues.rx.into_iter().zip(queues.tx).map(queue).collect();
        let (hertz, servers) = (eal.tsc_hz(), Servers::default());
        Ok(Self { port, queues, pool, hertz, run: 0, opened: 0, servers })
    }

    /// The device's own MAC address.
    pub fn mac(&self) -> anyhow::Result<MacAddr> {
        Ok(MacAddr(self.port.mac_address()?))
    }

    /// Stops it and gives it back.
    pub fn close(self) -> anyhow::Result<()> {
        drop(self.queues);
        Ok(self.port.close()?)
    }

    /// Sends a load, waits for the last of it to come back, and says how it went. `seen` is shown every frame that came
    /// back whole, with its stamp.
    pub fn send(
        &mut self,
        load: &Load,
        mut seen: impl FnMut(&mut Servers, &[u8], Stamp),
    ) -> anyhow::Result<Outcome> {
        ensure!((1..=MAX_FLOWS).contains(&load.flows), "{} flows; there may be 1 to {MAX_FLOWS}", load.flows);
        self.run = self.run.wrapping_add(1);
        let mut run = Run::new(self, load)?;
        let start = tsc();
        let end = start.saturating_add((load.seconds * run.hertz as f64) as u64);
        let mut pacer = load.rate.map(|rate| Pacer::new(rate, start, run.hertz));
        let mut new_flows = load.new_flows.map(|rate| Pacer::new(rate, start, run.hertz));
        let mut queue = 0;
        let mut now = start;
        let mut pauses = Pauses::new(start, run.hertz);
        while now < end && !run.flows.is_over() {
            let any = run.receive(self, queue, now, &mut seen);
            let pending = self.queues[queue].pending.len();
            if pending == 0 {
                let due = pacer.as_mut().map_or(BURST, |pacer| pacer.take(now, BURST));
                let new = new_flows.as_mut().map_or(0, |pacer| pacer.take(now, due));
                run.write(self, queue, due, new, now);
            }
            let sent = run.transmit(self, queue);
            if !any && !sent {
                // Nothing to do until the other end has done something. Looking for it without a pause takes from it the
                // cache lines that it writes to.
                std::hint::spin_loop();
            }
            queue = if queue + 1 == self.queues.len() { 0 } else { queue + 1 };
            now = tsc();
            pauses.run(now);
        }
        if !run.flows.is_over() {
            pacer.iter_mut().chain(&mut new_flows).for_each(|pacer| pacer.end(end));
        }
        let seconds = now.saturating_sub(start) as f64 / run.hertz as f64;
        let during = run.checker.counts().received;
        self.drain(&mut run, &mut seen, &mut pauses);
        let skipped = pacer.map_or(0, |pacer| pacer.skipped());
        run.not_opened += new_flows.map_or(0, |pacer| pacer.skipped());
        Ok(run.outcome(seconds, during, skipped, &pauses, load))
    }

    /// Sends until every queue is full, and takes nothing back.
    pub fn fill(&mut self, load: &Load) -> anyhow::Result<Outcome> {
        self.run = self.run.wrapping_add(1);
        let mut run = Run::new(self, load)?;
        let start = tsc();
        for queue in 0..self.queues.len() {
            while self.queues[queue].pending.is_empty() {
                let before = run.written;
                run.write(self, queue, BURST, 0, tsc());
                if run.written == before {
                    break;
                }
                run.transmit(self, queue);
            }
            run.give_up(self, queue);
        }
        let now = tsc();
        let seconds = (now - start) as f64 / run.hertz as f64;
        Ok(run.outcome(seconds, 0, 0, &Pauses::new(now, run.hertz), load))
    }

    /// Sends what has been written, and takes back what is still under way.
    fn drain(
        &mut self,
        run: &mut Run,
        seen: &mut impl FnMut(&mut Servers, &[u8], Stamp),
        pauses: &mut Pauses,
    ) {
        let start = Instant::now();
        let mut last = start;
        while last.elapsed() < STRAGGLERS && start.elapsed() < LATEST {
            for queue in 0..self.queues.len() {
                run.transmit(self, queue);
                let now = tsc();
                // With nothing under way there is nothing to be too late for.
                if run.receive(self, queue, now, seen) {
                    pauses.run(now);
                    last = Instant::now();
                }
            }
        }
        for queue in 0..self.queues.len() {
            run.give_up(self, queue);
        }
    }
}

/// Asking is what makes some drivers connect.
fn await_link(port: &Port) -> anyhow::Result<()> {
    let start = Instant::now();
    while !port.link()?.up {
        ensure!(
            start.elapsed() < LINK_PATIENCE,
            "its link is not up after {} s; is there anyone at the other end? (Of a memif, start the server first: DPDK's \
             client connects only once.)",
            LINK_PATIENCE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(SETTLING);
    Ok(())
}

/// The state of one load.
struct Run {
    established: Frames,
    opening: Frames,
    flows: Flows,
    new_flows: Flows,
    checker: Checker,
    hertz: u64,
    side: Side,
    reply_shift: usize,
    /// What the wire does not take when it is due counts as refused, and is not offered again.
    is_paced: bool,
    received: Burst,
    /// Frames that have been given a number.
    numbered: u64,
    /// Frames that the wire has taken, or has yet to take.
    written: u64,
    /// Frames that were due, and that the wire did not take.
    refused: u64,
    /// How often the wire was offered frames, and how often it did not take all.
    offers: u64,
    full: u64,
    /// Frames that open new flows: those that the wire has taken, and those that were due and were not written.
    opened: u64,
    not_opened: u64,
}

impl Run {
    fn new(tester: &Tester, load: &Load) -> anyhow::Result<Self> {
        let queues = tester.queues.len();
        let beyond = load.flows + tester.opened;
        Ok(Self {
            established: Frames::new(load.addressing, load.side, load.phase, tester.run)?,
            opening: Frames::new(load.addressing, load.side, Phase::Opening, tester.run)?,
            flows: Flows::new(0, load.flows, queues, load.order),
            new_flows: Flows::new(beyond, MAX_FLOWS.saturating_sub(beyond), queues, Order::InTurn),
            checker: Checker::new(load.addressing, tester.run, load.checksums)?,
            hertz: tester.hertz,
            side: load.side,
            reply_shift: load.reply_shift,
            is_paced: load.rate.is_some(),
            received: Burst::new(),
            numbered: 0,
            written: 0,
            refused: 0,
            offers: 0,
            full: 0,
            opened: 0,
            not_opened: 0,
        })
    }

    /// Takes back a burst of `queue`, and says whether any of it was whole and of this run.
    #[inline]
    fn receive(
        &mut self,
        tester: &mut Tester,
        queue: usize,
        now: u64,
        seen: &mut impl FnMut(&mut Servers, &[u8], Stamp),
    ) -> bool {
        let mut any = false;
        tester.queues[queue].rx.burst(&mut self.received);
        self.received.iter().for_each(dpdk_sys::Mbuf::prefetch);
        for mbuf in self.received.iter() {
            let frame = mbuf.data();
            if let Some(stamp) = self.checker.check(frame, mbuf.len(), self.numbered, now) {
                seen(&mut tester.servers, frame, stamp);
                any = true;
            }
        }
        self.received.clear();
        any
    }

    /// Writes `count` frames for `queue`, of which `new` open flows.
    #[inline]
    fn write(&mut self, tester: &mut Tester, queue: usize, count: usize, new: usize, now: u64) {
        let shift = if self.side == Side::Servers { self.reply_shift } else { 0 };
        let of = (queue + shift) % tester.queues.len();
        let Queue { pending, opening, .. } = &mut tester.queues[queue];
        if count == 0 || !tester.pool.alloc_bulk(pending, count) {
            // Without a buffer all are on the wire, which so takes no more.
            if self.is_paced {
                self.refused += count as u64;
            } else {
                self.not_opened += new as u64;
            }
            return;
        }
        let time = (now >> TICK_SHIFT) as u32;
        let mut written = 0;
        for (n, mbuf) in pending.iter_mut().enumerate() {
            let (frames, flows) = if n < new {
                (&self.opening, &mut self.new_flows)
            } else {
                (&self.established, &mut self.flows)
            };
            let (Some(flow), Some(frame)) = (flows.next(of), mbuf.append(frames.len())) else { break };
            // Only where it is asked for: with many flows it is a cache miss.
            let server = (self.side == Side::Servers).then(|| tester.servers.of(flow)).flatten();
            frames.write(frame, flow, self.numbered as u32, time, server);
            self.numbered += 1;
            written += 1;
        }
        pending.truncate(written);
        *opening = new.min(written);
        tester.opened = tester.opened.saturating_add(*opening as u32);
        self.written += written as u64;
    }

    /// Offers the wire what has been written, and says whether it took any of it. What it does not take is given up, or waits
    /// for the next time.
    #[inline]
    fn transmit(&mut self, tester: &mut Tester, queue: usize) -> bool {
        let Queue { tx, pending, opening, .. } = &mut tester.queues[queue];
        if pending.is_empty() {
            return false;
        }
        let sent = tx.burst(pending);
        let opened = sent.min(*opening);
        *opening -= opened;
        self.opened += opened as u64;
        self.offers += 1;
        if !pending.is_empty() {
            self.full += 1;
            if self.is_paced {
                self.refused += pending.len() as u64;
                self.give_up(tester, queue);
            }
        }
        sent > 0
    }

    /// What the wire has not taken was never sent.
    fn give_up(&mut self, tester: &mut Tester, queue: usize) {
        let Queue { pending, opening, .. } = &mut tester.queues[queue];
        self.written -= pending.len() as u64;
        pending.clear();
        *opening = 0;
    }

    fn outcome(&self, seconds: f64, during: u64, skipped: u64, pauses: &Pauses, load: &Load) -> Outcome {
        let ticks_per_us = self.hertz as f64 / f64::from(1 << TICK_SHIFT) / 1e6;
        Outcome::new(
            self.checker.counts(),
            crate::outcome::Sent {
                seconds,
                sent: self.written,
                refused: self.refused,
                skipped,
                opened: self.opened,
                not_opened: self.not_opened,
                paused: pauses.total() as f64 / self.hertz as f64,
                longest_pause: pauses.longest() as f64 / self.hertz as f64,
                full: if self.offers == 0 { 0.0 } else { self.full as f64 / self.offers as f64 },
                received_meanwhile: during,
                wanted_rate: load.rate,
                wanted_new: load.new_flows,
            },
            self.checker.latency(),
            ticks_per_us,
            self.checker.first_damage(),
        )
    }
}
