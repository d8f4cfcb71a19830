//! Part `workers`: what two workers on two cores get through, and what it costs them that they share a table.
//!
//! Each has flows of its own, as receive-side scaling gives them out. Replies under NAT come to the worker that had the
//! request, or all to the other one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender as Channel, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use dataplane::conn::Method;
use dataplane::wire::{Burst, Wire};
use dpdk_sys::{EalHandle, Mbuf, Mempool, MempoolConfig, tsc};

use crate::director::{Director, Seat, Site, services};
use crate::generator::{Generator, Order};
use crate::inprocess::macswap;
use crate::progress::Progress;
use crate::report::{Report, Subject, median};
use crate::traffic::{Phase, Protocol, SERVERS, Sender, Stream};
use crate::{Bench, machine};

const SCHEDULER: &str = "rr";
const FRAME_BYTES: usize = 60;
const WORKERS: usize = 2;

/// Turns that a run is cut into.
const SLICES: usize = 5;

/// Flows that fit into a core's own caches, and flows that do not.
const FLOWS: [u32; 2] = [10_000, 1_000_000];
const QUICK_FLOWS: [u32; 2] = [10_000, 100_000];

/// How long one worker waits for the other to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No worker: MAC addresses are swapped. What the machine gives.
    Macswap,
    /// Direct routing.
    Dr,
    /// NAT, requests and replies in turn; the worker that has a connection's requests has its replies.
    NatOwn,
    /// NAT, requests and replies in turn; every reply comes to the other worker.
    NatCrossed,
}

impl Mode {
    const ALL: [Mode; 4] = [Mode::Macswap, Mode::Dr, Mode::NatOwn, Mode::NatCrossed];

    fn name(self) -> &'static str {
        match self {
            Mode::Macswap => "macswap",
            Mode::Dr => "dr",
            Mode::NatOwn => "nat-own",
            Mode::NatCrossed => "nat-crossed",
        }
    }

    /// What one worker alone is to do, to compare with. There is nobody else whose replies it could have.
    fn alone(self) -> Mode {
        if self == Mode::NatCrossed { Mode::NatOwn } else { self }
    }
}

/// The flows that each worker has, as far as they are among those the benchmark is for.
fn flows(bench: &Bench) -> Vec<u32> {
    let wanted = if bench.quick { QUICK_FLOWS } else { FLOWS };
    let chosen: Vec<_> = bench.flows.iter().copied().filter(|flows| wanted.contains(flows)).collect();
    if chosen.is_empty() { bench.flows.iter().copied().max().into_iter().collect() } else { chosen }
}

fn protocols(bench: &Bench) -> &[Protocol] {
    &bench.protocols[..if bench.quick { 1 } else { bench.protocols.len() }]
}

/// Milliseconds that it takes to open so many flows of each.
fn opening(flows: u32) -> u64 {
    50 + u64::from(flows) / 300
}

/// Milliseconds that a run of all modes takes.
fn one(bench: &Bench) -> u64 {
    bench.packets as u64 / 1500 + 1
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    let of = |flows| opening(flows) + bench.runs as u64 * one(bench);
    let of_protocol: u64 = flows(bench).into_iter().map(of).sum();
    protocols(bench).len() as u64 * of_protocol
}

/// Measures every combination and adds the figures to `report`.
pub fn run(bench: &Bench, eal: &EalHandle, report: &mut Report, progress: &Progress) {
    let config = MempoolConfig { count: 2047, ..MempoolConfig::default() };
    let outcome = Mempool::create(eal, "workers", &config).map_err(anyhow::Error::from).and_then(|pool| {
        let cores = bench.two_cores()?;
        for &protocol in protocols(bench) {
            for flows in flows(bench) {
                let what = || format!("workers: {} with {flows} flows", protocol.name());
                if !progress.allows(what, opening(flows) + one(bench)) {
                    continue;
                }
                // Turns begin anew with each worker's first flow.
                let flows = flows.next_multiple_of(u32::from(SERVERS));
                measure(bench, (protocol, flows), cores, eal, &pool, report, progress)
                    .with_context(|| format!("{} with {flows} flows each", protocol.name()))?;
            }
        }
        Ok(())
    });
    if let Err(error) = outcome.context("two workers") {
        report.fail(&error);
    }
}

/// What one of the threads is told to do.
enum Job {
    /// Open the flows that are its own.
    Open,
    /// Do `mode`, with replies of the other's flows that were given to servers in these turns.
    Time { mode: Mode, turns: Vec<u8>, race: Arc<Race> },
}

/// What it says when it has done it.
enum Done {
    /// The servers that its flows were given to, in turn.
    Opened(Vec<u8>),
    /// Cycles per packet.
    Timed(f64),
}

/// The other end of a thread.
struct Hand {
    jobs: Channel<Job>,
    done: Receiver<anyhow::Result<Done>>,
}

impl Hand {
    fn wait(&self) -> anyhow::Result<Done> {
        self.done.recv().map_err(|_| anyhow!("a worker's thread has ended"))?
    }

    fn open(&self) -> anyhow::Result<Vec<u8>> {
        self.jobs.send(Job::Open).map_err(|_| anyhow!("a worker's thread has ended"))?;
        match self.wait()? {
            Done::Opened(turns) => Ok(turns),
            Done::Timed(_) => Err(anyhow!("not what was asked for")),
        }
    }
}

/// Cycles per packet of those of the `hands` that take part, each with the turns of the other.
fn time(hands: &[Hand], turns: &[Vec<u8>], mode: Mode, who: &[usize]) -> anyhow::Result<Vec<f64>> {
    let race = Arc::new(Race { runners: who.len(), ..Race::default() });
    for &number in who {
        let (race, turns) = (race.clone(), turns[WORKERS - 1 - number].clone());
        let job = Job::Time { mode, turns, race };
        hands[number].jobs.send(job).map_err(|_| anyhow!("a worker's thread has ended"))?;
    }
    // All are heard before an error is handed on: nobody is left running.
    let heard: Vec<_> = who.iter().map(|&number| hands[number].wait()).collect();
    let cycles = heard.into_iter().map(|done| match done? {
        Done::Timed(cycles) => Ok(cycles),
        Done::Opened(_) => Err(anyhow!("not what was asked for")),
    });
    cycles.collect()
}

fn measure(
    bench: &Bench,
    (protocol, flows): (Protocol, u32),
    cores: [usize; WORKERS],
    eal: &EalHandle,
    pool: &Mempool,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    let message =
        |what: &str| progress.say(format!("workers {}: {flows} flows each, {what}", protocol.name()));
    message("opening");
    // A worker keeps some free entries at hand that the other cannot have.
    let capacity = WORKERS as u32 * flows + 1024;
    let needed = 2 * u64::from(capacity) * 256;
    ensure!(
        machine::available_memory().is_none_or(|available| available > needed),
        "they need {needed} bytes of memory"
    );
    let site = |method| {
        Site::new((method, services(method, SCHEDULER)?), capacity, 2 * usize::from(SERVERS), WORKERS)
    };
    let ((_dr, dr), (_nat, nat)) = (site(Method::DirectRouting)?, site(Method::Nat)?);
    let figures = thread::scope(|scope| {
        let mut hands = Vec::new();
        for (number, (seats, core)) in dr.into_iter().zip(nat).zip(cores).enumerate() {
            let (jobs, told) = channel();
            let (says, done) = channel();
            let (eal, pool, hertz, packets) =
                (eal.clone(), pool.clone(), bench.hertz, bench.packets / SLICES);
            thread::Builder::new().name(format!("bench-{number}")).spawn_scoped(scope, move || {
                let run = || {
                    machine::pin(core)?;
                    let _registration = eal.register_thread()?;
                    let mut lane = Lane::new(number, protocol, flows, packets, seats, &pool, hertz)?;
                    for job in told {
                        let outcome = lane.perform(job);
                        let failed = outcome.is_err();
                        if says.send(outcome).is_err() || failed {
                            break;
                        }
                    }
                    anyhow::Ok(())
                };
                if let Err(error) = run() {
                    // Nobody listens any more where the other thread has failed, too.
                    let _ = says.send(Err(error));
                }
            })?;
            hands.push(Hand { jobs, done });
        }
        let turns = hands.iter().map(Hand::open).collect::<anyhow::Result<Vec<_>>>()?;
        progress.done(opening(flows));
        let mut figures = Mode::ALL.map(|_| Figures::default());
        for run in progress.runs("workers", bench.runs, one(bench)) {
            for place in 0..Mode::ALL.len() {
                let which = (place + run) % Mode::ALL.len();
                let mode = Mode::ALL[which];
                message(mode.name());
                // Either alone and both together, in turns and in slices, so that what else the machine does meets all of
                // them. While one is alone, the other's core has nothing to do.
                let [mut alone, mut both] =
                    [[(); WORKERS].map(|()| Vec::new()), [(); WORKERS].map(|()| Vec::new())];
                for _ in 0..SLICES {
                    for (number, slices) in alone.iter_mut().enumerate() {
                        slices.extend(time(&hands, &turns, mode.alone(), &[number])?);
                    }
                    let cycles = time(&hands, &turns, mode, &[0, 1])?;
                    both.iter_mut().zip(cycles).for_each(|(slices, cycles)| slices.push(cycles));
                }
                figures[which].add(alone.map(typical), both.map(typical), bench.hertz as f64);
            }
        }
        anyhow::Ok(figures)
    })?;
    for (mode, figures) in Mode::ALL.into_iter().zip(figures) {
        let subject = |workers| Subject {
            part: "workers",
            mode: mode.name(),
            protocol: protocol.name(),
            flows,
            frame_bytes: FRAME_BYTES,
            workers,
            capacity,
            scheduler: SCHEDULER,
        };
        let [one, two] = figures.rates;
        let [cycles_one, cycles_two] = figures.cycles;
        report.add(&subject(1), "cycles_per_packet", "cycles", cycles_one);
        report.add(&subject(1), "packets_per_second", "packets/s", one);
        report.add(&subject(2), "cycles_per_packet", "cycles", cycles_two);
        report.add(&subject(2), "packets_per_second", "packets/s", two);
        report.add(&subject(2), "ratio_to_one", "1", figures.ratios);
    }
    Ok(())
}

/// One value for each run.
#[derive(Default)]
struct Figures {
    /// Cycles per packet of one worker, and of each of two.
    cycles: [Vec<f64>; 2],
    /// Packets per second of one worker, and of two together.
    rates: [Vec<f64>; 2],
    /// Two by one.
    ratios: Vec<f64>,
}

impl Figures {
    /// The cores may differ: one worker is as fast as the mean of either alone.
    fn add(&mut self, alone: [f64; WORKERS], both: [f64; WORKERS], hertz: f64) {
        let rate = |cycles: [f64; WORKERS]| cycles.iter().map(|cycles| hertz / cycles).sum::<f64>();
        let (one, two) = (rate(alone) / WORKERS as f64, rate(both));
        self.cycles[0].push(hertz / one);
        self.cycles[1].push(hertz * WORKERS as f64 / two);
        self.rates[0].push(one);
        self.rates[1].push(two);
        self.ratios.push(two / one);
    }
}

/// The median.
fn typical(mut slices: Vec<f64>) -> f64 {
    slices.sort_by(f64::total_cmp);
    median(&slices)
}

/// Those who run together: all begin together, and all stop when the first has enough.
#[derive(Default)]
struct Race {
    runners: usize,
    ready: AtomicUsize,
    over: AtomicBool,
}

impl Race {
    /// Waits, without sleeping, until everybody is there.
    fn begin(&self) -> anyhow::Result<()> {
        self.ready.fetch_add(1, Ordering::AcqRel);
        let start = Instant::now();
        while self.ready.load(Ordering::Acquire) < self.runners {
            ensure!(start.elapsed() < PATIENCE, "the other worker does not begin");
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// Cycles per packet until somebody has polled `packets` of them.
    fn cycles_of(&self, packets: usize, mut poll: impl FnMut() -> usize) -> f64 {
        let (mut done, start) = (0, tsc());
        while done < packets && !self.over.load(Ordering::Relaxed) {
            done += poll();
        }
        let cycles = tsc() - start;
        self.over.store(true, Ordering::Relaxed);
        cycles as f64 / done.max(1) as f64
    }
}

/// What one thread has: a worker of each director, and their generators.
struct Lane {
    protocol: Protocol,
    /// Of its own and of the other's flows: the first, and how many.
    own: (u32, u32),
    other: (u32, u32),
    packets: usize,
    swapper: Generator,
    dr: Director,
    nat: Director<BothSides>,
    servers: Generator,
}

impl Lane {
    fn new(
        number: usize,
        protocol: Protocol,
        flows: u32,
        packets: usize,
        (dr, nat): (Seat, Seat),
        pool: &Mempool,
        hertz: u64,
    ) -> anyhow::Result<Self> {
        let blank = Stream::new(protocol, Sender::Clients, Phase::Established, FRAME_BYTES)?;
        let generator = || Generator::new(pool.clone(), blank.clone());
        let (swapper, to_dr, clients, servers) = (generator(), generator(), generator(), generator());
        let both = BothSides { sides: [clients.clone(), servers.clone()], turn: 0 };
        let first = |number: usize| (number as u32 * flows, flows);
        Ok(Self {
            protocol,
            own: first(number),
            other: first(WORKERS - 1 - number),
            packets,
            swapper,
            dr: Director::on(dr, to_dr.clone(), to_dr, Method::DirectRouting, hertz),
            nat: Director::on(nat, both, clients, Method::Nat, hertz),
            servers,
        })
    }

    fn perform(&mut self, job: Job) -> anyhow::Result<Done> {
        let (first, count) = self.own;
        match job {
            Job::Open => {
                self.dr.open_some(self.protocol, first..first + count)?;
                self.nat.open_some(self.protocol, first..first + count)?;
                Ok(Done::Opened(self.nat.turns().to_vec()))
            }
            Job::Time { mode, turns, race } => self.time(mode, &turns, &race).map(Done::Timed),
        }
    }

    fn time(&mut self, mode: Mode, others_turns: &[u8], race: &Race) -> anyhow::Result<f64> {
        let established =
            |from: Sender<'_>| Stream::new(self.protocol, from, Phase::Established, FRAME_BYTES);
        let among = |(first, count)| Order::Among { first, count };
        let requests = established(Sender::Clients)?;
        let own_turns = self.nat.turns().to_vec();
        let (turns, whose) = match mode {
            Mode::NatCrossed => (others_turns, self.other),
            _ => (&own_turns[..], self.own),
        };
        let replies = established(Sender::Servers(turns))?;
        let endless = usize::MAX;
        match mode {
            Mode::Macswap => self.swapper.send(requests, among(self.own), endless)?,
            Mode::Dr => self.dr.generator().send(requests, among(self.own), endless)?,
            Mode::NatOwn | Mode::NatCrossed => {
                self.nat.generator().send(requests, among(self.own), endless)?;
                self.servers.send(replies, among(whose), endless)?;
            }
        }
        let Self { swapper, dr, nat, packets, .. } = self;
        let mut poll = || match mode {
            Mode::Macswap => macswap(swapper),
            Mode::Dr => dr.poll(),
            Mode::NatOwn | Mode::NatCrossed => nat.poll(),
        };
        // Bring back the caches that other modes have taken.
        let mut warm = 0;
        while warm < *packets / 8 {
            warm += poll();
        }
        race.begin()?;
        let cycles = race.cycles_of(*packets, poll);
        dr.few_lost()?;
        nat.few_lost()?;
        Ok(cycles)
    }
}

/// A wire with the clients on one side and the servers on the other, that receives from them in turn.
struct BothSides {
    sides: [Generator; 2],
    turn: usize,
}

impl Wire for BothSides {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        self.turn ^= 1;
        self.sides[self.turn].receive(burst);
        if burst.is_empty() {
            self.turn ^= 1;
            self.sides[self.turn].receive(burst);
        }
    }

    /// What is sent goes back to whose it is: a worker sends a whole burst before it receives another.
    #[inline]
    fn send(&mut self, burst: &mut Burst<Mbuf>) {
        Wire::send(&mut self.sides[self.turn], burst);
    }
}
