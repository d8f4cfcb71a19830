//! Part `wire`: the daemon as it is shipped, and testpmd, over the same kind of wire from the same generator.
//!
//! A memif joins `pktgen` on one core to one of them on another. Each has a generator and a wire of its own, and all but
//! those whose turn it is are stopped, so that turns are short and meet the same machine. Nothing here touches a packet.

mod director;
mod generator;
mod process;
mod slices;
mod testpmd;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use indicatif::ProgressBar;

use crate::report::{NONE, Report, Subject};
use crate::traffic::{Protocol, SERVERS};
use crate::{Bench, machine};
use director::{Director, Method};
use generator::{Answer, Generator, Wire};
use testpmd::Testpmd;

const FRAME_BYTES: usize = 60;

/// The wire of one worker: as deep as a NIC's queues usually are.
const WIRE: Wire = Wire { queues: 1, depth: 10 };

/// Flows that are looked at, as far as they are among those the benchmark is for.
const FLOWS: [u32; 4] = [1, 10_000, 1_000_000, 10_000_000];

/// Bytes that a connection takes at most, in entries, buckets and timers, rounded up.
const BYTES_PER_CONNECTION: u64 = 256;

/// One frame in how many may be lost while more is sent than can be forwarded. A wire that is full does not lose: the
/// generator waits. Losses come about on the way back, when the generator is late.
const TOLERATED: u64 = 10;

/// Trials at one rate in a search. The machine has pauses of its own, and frames lost in one say nothing of the rivals.
const ATTEMPTS: u32 = 3;

/// What is measured, in the order of turns: the mode, whose it is, and what the generator is told.
const MODES: [(&str, Rival, &str); 4] = [
    ("testpmd", Rival::Testpmd, ""),
    ("dr", Rival::Direct, ""),
    ("nat-in", Rival::Nat, ""),
    ("nat-out", Rival::Nat, "--from servers"),
];

/// The modes that a rate without loss is searched for, and latencies taken at half of it.
const SEARCHED: usize = 2;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    Testpmd,
    Direct,
    Nat,
}

/// How long things take.
struct Pace {
    runs: usize,
    /// Seconds of a run, and before it.
    seconds: f64,
    warm_up: f64,
    /// Seconds of a trial, and how exactly to search, in percent.
    trial: f64,
    precision: f64,
    latency: f64,
}

impl Pace {
    fn of(bench: &Bench) -> Self {
        if bench.quick {
            let runs = bench.runs.min(2);
            Self { runs, seconds: 0.1, warm_up: 0.03, trial: 0.05, precision: 10.0, latency: 0.1 }
        } else {
            Self { runs: bench.runs, seconds: 0.5, warm_up: 0.1, trial: 0.5, precision: 1.0, latency: 2.0 }
        }
    }
}

fn flows(bench: &Bench) -> Vec<u32> {
    let chosen: Vec<_> = bench.flows.iter().copied().filter(|flows| FLOWS.contains(flows)).collect();
    if chosen.is_empty() { bench.flows.iter().copied().max().into_iter().collect() } else { chosen }
}

fn protocols(bench: &Bench) -> &[Protocol] {
    let count = if bench.quick { 1 } else { bench.protocols.len() };
    &bench.protocols[..count]
}

/// How many steps [`run`] makes `progress` go.
pub fn steps(bench: &Bench) -> u64 {
    let of_one = 1 + Pace::of(bench).runs + SEARCHED;
    (protocols(bench).len() * flows(bench).len() * of_one) as u64 + slices::steps(bench)
}

/// Measures every combination and adds the figures to `report`. `director` is the daemon, where it is not beside us.
pub fn run(bench: &Bench, director: Option<&Path>, report: &mut Report, progress: &ProgressBar) {
    for &protocol in protocols(bench) {
        for flows in flows(bench) {
            let needed = 2 * u64::from(flows) * BYTES_PER_CONNECTION;
            if machine::available_memory().is_some_and(|available| available < needed) {
                progress.suspend(|| eprintln!("{flows} flows left out: they need {needed} bytes of memory"));
                continue;
            }
            let outcome = Lineup::start(bench, director, protocol, flows, progress)
                .and_then(|mut lineup| measure(bench, &mut lineup, report, progress))
                .with_context(|| format!("on a wire, {} with {flows} flows", protocol.name()));
            if let Err(error) = outcome {
                report.fail(&error);
            }
        }
    }
    if let Err(error) = slices::run(bench, director, report, progress).context("two workers on a wire") {
        report.fail(&error);
    }
}

/// All rivals, each with its generator. All are stopped but in their turns.
struct Lineup {
    protocol: Protocol,
    flows: u32,
    capacity: u32,
    testpmd: (Testpmd, Generator),
    direct: (Director, Generator),
    nat: (Director, Generator),
}

impl Lineup {
    fn start(
        bench: &Bench,
        director: Option<&Path>,
        protocol: Protocol,
        flows: u32,
        progress: &ProgressBar,
    ) -> anyhow::Result<Self> {
        progress.set_message(format!("wire {}: starting, {flows} flows", protocol.name()));
        let cores = Cores::of(bench)?;
        let program = program(director)?;
        let capacity = capacity(flows);
        let start = |method| {
            let director = Director::start(&program, cores, &[cores.other], method, capacity)?;
            let generator = Generator::start(cores, director.wire(), WIRE)?;
            director.process().stop()?;
            anyhow::Ok((director, generator))
        };
        let (direct, nat) = (start(Method::Direct)?, start(Method::Nat)?);
        let testpmd = Testpmd::start(cores)?;
        let testpmd_generator = Generator::start(cores, testpmd.wire(), WIRE)?;
        testpmd.process().stop()?;
        Ok(Self { protocol, flows, capacity, testpmd: (testpmd, testpmd_generator), direct, nat })
    }

    /// Lets `rival` run while its generator does a job.
    fn job(&mut self, rival: Rival, options: &str) -> anyhow::Result<Answer> {
        let (process, generator) = match rival {
            Rival::Testpmd => (self.testpmd.0.process(), &mut self.testpmd.1),
            Rival::Direct => (self.direct.0.process(), &mut self.direct.1),
            Rival::Nat => (self.nat.0.process(), &mut self.nat.1),
        };
        process.go_on()?;
        let common =
            format!("--protocol {} --flows {} --size {FRAME_BYTES}", self.protocol.name(), self.flows);
        let answer = generator.job(&format!("{common} {options}"));
        process.stop()?;
        let answer = answer?;
        if let Some(damage) = &answer.first_damage {
            anyhow::bail!("{} frames came back damaged; the first: {damage}", answer.damaged);
        }
        Ok(answer)
    }

    /// Opens all flows at one rival, with all checksums verified, and sees to it that they went where they should.
    fn open(&mut self, rival: Rival) -> anyhow::Result<()> {
        let options = if rival == Rival::Nat { "--answer --seconds 0.02" } else { "--seconds 0.02" };
        let answer = self.job(rival, options)?;
        let opening = answer.opening.context("the generator says nothing of the flows that it opened")?;
        ensure!(
            opening.forwarded + opening.flows / 1000 >= opening.flows,
            "of {} flows only {} were forwarded when they were opened",
            opening.flows,
            opening.forwarded
        );
        // Direct routing leaves the destination alone, as testpmd does.
        let places = if rival == Rival::Nat { u64::from(SERVERS).min(opening.flows) } else { 1 };
        ensure!(opening.servers == places, "flows went to {} places, and not to {places}", opening.servers);
        Ok(())
    }
}

/// The figures of a mode, one for each run.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    ratios: Vec<f64>,
    full: Vec<f64>,
}

fn measure(
    bench: &Bench,
    lineup: &mut Lineup,
    report: &mut Report,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let pace = Pace::of(bench);
    let say = |what: &str| {
        progress.set_message(format!("wire {}: {} flows, {what}", lineup.protocol.name(), lineup.flows));
    };
    say("opening them");
    let (name, flows, capacity) = (lineup.protocol.name(), lineup.flows, lineup.capacity);
    for rival in [Rival::Testpmd, Rival::Direct, Rival::Nat] {
        lineup.open(rival).with_context(|| format!("{rival:?}"))?;
    }
    progress.inc(1);

    let subject = |mode| Subject {
        part: "wire",
        mode,
        protocol: name,
        flows,
        frame_bytes: FRAME_BYTES,
        workers: 1,
        capacity: if mode == "testpmd" { 0 } else { capacity },
        scheduler: if mode == "testpmd" { NONE } else { "rr" },
    };
    let mut figures: [Figures; MODES.len()] = Default::default();
    for run in 0..pace.runs {
        progress.set_message(format!("wire {name}: {flows} flows, all they get through"));
        let mut rates = [0.0; MODES.len()];
        // There and back again.
        let mut turns: Vec<usize> = (0..MODES.len()).collect();
        if run % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let (mode, rival, options) = MODES[turn];
            let job = format!("--no-open --seconds {} --warm-up {} {options}", pace.seconds, pace.warm_up);
            let answer = lineup.job(rival, &job).context(mode)?;
            ensure!(
                answer.lost * TOLERATED <= answer.sent,
                "{mode} lost {} frames of {}",
                answer.lost,
                answer.sent
            );
            rates[turn] = answer.received_rate;
            figures[turn].full.push(answer.wire_full);
        }
        for (figures, rate) in figures.iter_mut().zip(rates) {
            figures.rates.push(rate);
            figures.ratios.push(rate / rates[0]);
        }
        progress.inc(1);
    }
    for ((mode, _, _), figures) in MODES.iter().zip(figures) {
        report.add(&subject(mode), "packets_per_second", "packets/s", figures.rates);
        report.add(&subject(mode), "ratio_to_testpmd", "1", figures.ratios);
        report.add(&subject(mode), "wire_full", "1", figures.full);
    }
    for (mode, rival, _) in MODES.into_iter().take(SEARCHED) {
        progress.set_message(format!("wire {name}: {flows} flows, {mode} without loss"));
        without_loss(lineup, rival, &pace, &subject(mode), report).context(mode)?;
        progress.inc(1);
    }
    Ok(())
}

/// The highest rate without loss, and the time that frames are away at half of it.
fn without_loss(
    lineup: &mut Lineup,
    rival: Rival,
    pace: &Pace,
    subject: &Subject,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Pace { trial, precision, latency, .. } = pace;
    let search =
        format!("--no-open --search --seconds {trial} --precision {precision} --attempts {ATTEMPTS}");
    let answer = lineup.job(rival, &search)?;
    let Some(rate) = answer.search.and_then(|search| search.rate) else {
        // No figure: on this machine, just now, something is lost at any rate.
        return Ok(());
    };
    report.add(subject, "zero_loss_packets_per_second", "packets/s", vec![rate]);
    let answer = lineup.job(rival, &format!("--no-open --rate {} --seconds {latency}", rate / 2.0))?;
    let Some(latency) = answer.latency else { return Ok(()) };
    report.add(subject, "latency_p50", "us", vec![latency.p50_us]);
    report.add(subject, "latency_p99", "us", vec![latency.p99_us]);
    report.add(subject, "latency_p999", "us", vec![latency.p999_us]);
    Ok(())
}

/// The cores of the two ends.
#[derive(Clone, Copy, Debug)]
struct Cores {
    /// Of the generator, and of whatever else is not measured.
    ours: usize,
    /// Of what is measured.
    other: usize,
}

impl Cores {
    fn of(bench: &Bench) -> anyhow::Result<Self> {
        let [ours, other] = bench.two_cores()?;
        Ok(Self { ours, other })
    }
}

/// Room for so many flows that no connection is refused: a packet lost to that is no loss on the wire.
fn capacity(flows: u32) -> u32 {
    flows + flows / 4 + 1024
}

/// The daemon: the one given, or the one beside us.
fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(given) => given.to_owned(),
        None => beside_us("director")?,
    };
    ensure!(program.is_file(), "{} is not there; build it, or name it with --director", program.display());
    Ok(program)
}

/// A program as built with this one.
fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}
