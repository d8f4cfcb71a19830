//! Part `wire`: the daemon as it is shipped, and testpmd, over the same kind of wire from the same generator.
//!
//! A memif joins `pktgen` on one core to one of them, or to a yardstick of ours, on another. Each has a generator and a wire of its own, and all but
//! those whose turn it is are stopped, so that turns are short and meet the same machine. Nothing here touches a packet.

mod director;
mod forwarder;
mod generator;
mod process;
mod search;
mod slices;
mod testpmd;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::progress::Progress;
use crate::report::{NONE, Report, Subject, median};
use crate::traffic::{Protocol, SERVERS};
use crate::{Bench, Mode, machine};
use director::{Director, Method};
use forwarder::Forwarder;
use generator::{Answer, Generator, Wire};
use process::End;
use search::Searched;
use testpmd::Testpmd;

const FRAME_BYTES: usize = 60;

/// The wire of one worker: as deep as a NIC's queues usually are.
const WIRE: Wire = Wire { queues: 1, depth: 10 };

/// Flows that are looked at, as far as they are among those the benchmark is for.
const FLOWS: &[u32] = &[1, 10_000, 1_000_000, 10_000_000];
const QUICK_FLOWS: &[u32] = &[10_000, 1_000_000];

/// Flows that a rate without loss is searched for at, and latencies are taken at.
const SEARCHED_FLOWS: &[u32] = &[10_000, 1_000_000];
const QUICK_SEARCHED_FLOWS: &[u32] = &[10_000];

/// Bytes that a connection takes at most, in entries, buckets and timers, rounded up.
const BYTES_PER_CONNECTION: u64 = 256;

/// One frame in how many may be lost while more is sent than can be forwarded. A wire that is full does not lose: the
/// generator waits. Losses come about on the way back, when the generator is late.
const TOLERATED: u64 = 10;

/// At what rates flows are opened: as fast as the wire takes them and, where more than one in a thousand is lost to a pause
/// of the machine, again and more slowly.
const OPENINGS: [&str; 4] = ["", "", "--open-rate 1M", "--open-rate 300k"];

/// Where the generator found the wire full in a smaller share of its offers, it was the generator that was the slower.
pub const GENERATOR_IS_LIMIT: f64 = 0.1;

/// What is measured, in the order of turns: the mode, whose it is, and what the generator is told.
const MODES: [(&str, Rival, &str); 6] = [
    ("testpmd", Rival::Testpmd, ""),
    ("macswap", Rival::Macswap, ""),
    ("limit", Rival::Limit, ""),
    ("dr", Rival::Direct, ""),
    ("nat-in", Rival::Nat, ""),
    ("nat-out", Rival::Nat, "--from servers"),
];

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rival {
    Testpmd,
    Macswap,
    Limit,
    Direct,
    Nat,
}

impl Rival {
    const ALL: [Rival; 5] = [Rival::Testpmd, Rival::Macswap, Rival::Limit, Rival::Direct, Rival::Nat];

    /// As messages name it.
    fn name(self) -> &'static str {
        match self {
            Rival::Testpmd => "testpmd",
            Rival::Macswap => "the MAC swap",
            Rival::Limit => "the limit loop",
            Rival::Direct => "director with direct routing",
            Rival::Nat => "director with NAT",
        }
    }

    fn start(self, to: &Start) -> anyhow::Result<Box<dyn End>> {
        let Start { cores, program, protocol, flows } = to;
        let director = |method| Director::start(program, *cores, &[cores.other], method, capacity(*flows));
        let forwarder = |mode| Forwarder::start(*cores, mode, *protocol, *flows);
        Ok(match self {
            Rival::Testpmd => Box::new(Testpmd::start(*cores)?),
            Rival::Macswap => Box::new(forwarder(Mode::Macswap)?),
            Rival::Limit => Box::new(forwarder(Mode::Limit)?),
            Rival::Direct => Box::new(director(Method::Direct)?),
            Rival::Nat => Box::new(director(Method::Nat)?),
        })
    }
}

/// What a rival is started with.
struct Start {
    cores: Cores,
    program: PathBuf,
    protocol: Protocol,
    flows: u32,
}

/// What is wanted. Either needs all rivals and all flows, and has them anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that gets through.
    Rates,
    /// The rate without loss, and latencies.
    Loss,
}

impl Wanted {
    fn rivals(self) -> &'static [Rival] {
        match self {
            Wanted::Rates => &Rival::ALL,
            Wanted::Loss => &[Rival::Testpmd, Rival::Direct, Rival::Nat],
        }
    }
}

/// How long things take.
struct Pace {
    runs: usize,
    /// Seconds of a run, and before it.
    seconds: f64,
    warm_up: f64,
}

impl Pace {
    fn of(bench: &Bench) -> Self {
        if bench.quick {
            Self { runs: bench.runs.min(2), seconds: 0.1, warm_up: 0.03 }
        } else {
            Self { runs: bench.runs, seconds: 0.4, warm_up: 0.1 }
        }
    }

    /// Milliseconds that a run of all modes takes. Stragglers are waited for after each.
    fn run(&self) -> u64 {
        MODES.len() as u64 * (((self.seconds + self.warm_up) * 1e3) as u64 + 60)
    }
}

/// Milliseconds that it takes to start these rivals, and to open so many flows at each.
fn opening(wanted: Wanted, flows: u32) -> u64 {
    wanted.rivals().len() as u64 * (600 + u64::from(flows) / 1500)
}

/// Flows that are looked at: those of the benchmark that are among these, or the most.
fn flows(bench: &Bench, wanted: Wanted) -> Vec<u32> {
    let among: &[u32] = match wanted {
        Wanted::Rates if bench.quick => QUICK_FLOWS,
        Wanted::Rates => FLOWS,
        Wanted::Loss if bench.quick => QUICK_SEARCHED_FLOWS,
        Wanted::Loss => SEARCHED_FLOWS,
    };
    let chosen: Vec<_> = bench.flows.iter().copied().filter(|flows| among.contains(flows)).collect();
    if chosen.is_empty() { bench.flows.iter().copied().max().into_iter().collect() } else { chosen }
}

fn protocols(bench: &Bench) -> &[Protocol] {
    let count = if bench.quick { 1 } else { bench.protocols.len() };
    &bench.protocols[..count]
}

/// Milliseconds that a run takes, and how many runs there are.
fn durations(bench: &Bench, wanted: Wanted) -> (u64, usize) {
    match wanted {
        Wanted::Rates => (Pace::of(bench).run(), Pace::of(bench).runs),
        Wanted::Loss => (search::run(bench), search::runs(bench)),
    }
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench, wanted: Wanted) -> u64 {
    let (run, runs) = durations(bench, wanted);
    let of_protocol: u64 =
        flows(bench, wanted).into_iter().map(|flows| opening(wanted, flows) + runs as u64 * run).sum();
    protocols(bench).len() as u64 * of_protocol
}

/// Measures every combination and adds the figures to `report`. `director` is the daemon, where it is not beside us.
pub fn run(bench: &Bench, wanted: Wanted, director: Option<&Path>, report: &mut Report, progress: &Progress) {
    for &protocol in protocols(bench) {
        for flows in flows(bench, wanted) {
            let needed = 3 * u64::from(flows) * BYTES_PER_CONNECTION;
            if machine::available_memory().is_some_and(|available| available < needed) {
                report.note(format!("wire: {flows} flows left out; they need {needed} bytes of memory"));
                continue;
            }
            let what = || {
                let figures =
                    if wanted == Wanted::Loss { "rates without loss and latencies of " } else { "" };
                format!("wire: {figures}{} with {flows} flows", protocol.name())
            };
            if !progress.allows(what, opening(wanted, flows) + durations(bench, wanted).0) {
                continue;
            }
            let outcome = Lineup::start(bench, wanted, director, protocol, flows, progress)
                .and_then(|mut lineup| match wanted {
                    Wanted::Rates => rates(bench, &mut lineup, report, progress),
                    Wanted::Loss => without_loss(bench, &mut lineup, report, progress),
                })
                .with_context(|| format!("on a wire, {} with {flows} flows", protocol.name()));
            if let Err(error) = outcome {
                report.fail(&error);
            }
        }
    }
}

/// Milliseconds that two workers take.
pub fn expected_of_slices(bench: &Bench) -> u64 {
    slices::expected(bench)
}

/// Measures two workers and adds the figures to `report`.
pub fn run_slices(bench: &Bench, director: Option<&Path>, report: &mut Report, progress: &Progress) {
    if let Err(error) = slices::run(bench, director, report, progress).context("two workers on a wire") {
        report.fail(&error);
    }
}

/// All rivals, each with its generator. All are stopped but in their turns.
struct Lineup {
    protocol: Protocol,
    flows: u32,
    rivals: Vec<(Rival, Box<dyn End>, Generator)>,
}

impl Lineup {
    /// Starts all that are wanted, and opens the flows at each.
    fn start(
        bench: &Bench,
        wanted: Wanted,
        director: Option<&Path>,
        protocol: Protocol,
        flows: u32,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        progress.say(format!("wire {}: starting, {flows} flows", protocol.name()));
        let to = Start { cores: Cores::of(bench)?, program: program(director)?, protocol, flows };
        let start = |rival: &Rival| {
            let end = rival.start(&to)?;
            let generator = Generator::start(to.cores, end.wire(), WIRE)?;
            end.process().stop()?;
            anyhow::Ok((*rival, end, generator))
        };
        let rivals = wanted.rivals().iter().map(start).collect::<anyhow::Result<_>>()?;
        let mut lineup = Self { protocol, flows, rivals };
        progress.say(format!("wire {}: {flows} flows, opening them", protocol.name()));
        for rival in wanted.rivals() {
            lineup.open(*rival).with_context(|| rival.name())?;
        }
        progress.done(opening(wanted, flows));
        Ok(lineup)
    }

    /// Lets `rival` run while its generator does a job.
    fn job(&mut self, rival: Rival, options: &str) -> anyhow::Result<Answer> {
        let common =
            format!("--protocol {} --flows {} --size {FRAME_BYTES}", self.protocol.name(), self.flows);
        let found = self.rivals.iter_mut().find(|(is, _, _)| *is == rival);
        let (_, end, generator) = found.context("it was not started")?;
        end.process().go_on()?;
        let answer = generator.job(&format!("{common} {options}"));
        end.process().stop()?;
        let answer = answer?;
        if let Some(damage) = &answer.first_damage {
            anyhow::bail!("{} frames came back damaged; the first: {damage}", answer.damaged);
        }
        Ok(answer)
    }

    /// Opens all flows at one rival, with all checksums verified, and sees to it that they went where they should.
    fn open(&mut self, rival: Rival) -> anyhow::Result<()> {
        let answers = if rival == Rival::Nat { "--answer" } else { "" };
        let mut seen = None;
        for rate in OPENINGS {
            let answer = self.job(rival, &format!("{answers} {rate} --seconds 0.02"))?;
            let opening = answer.opening.context("the generator says nothing of the flows that it opened")?;
            let all = opening.forwarded + opening.flows / 1000 >= opening.flows;
            seen = Some(opening);
            if all {
                break;
            }
        }
        let opening = seen.context("no flow was opened")?;
        ensure!(
            opening.forwarded + opening.flows / 1000 >= opening.flows,
            "of {} flows only {} were forwarded when they were opened, each of {} times",
            opening.flows,
            opening.forwarded,
            OPENINGS.len()
        );
        // All but NAT leave the destination alone.
        let places = if rival == Rival::Nat { u64::from(SERVERS).min(opening.flows) } else { 1 };
        ensure!(opening.servers == places, "flows went to {} places, and not to {places}", opening.servers);
        Ok(())
    }

    fn subject(&self, mode: &'static str) -> Subject {
        let is_directors = matches!(mode, "dr" | "nat-in" | "nat-out");
        Subject {
            part: "wire",
            mode,
            protocol: self.protocol.name(),
            flows: self.flows,
            frame_bytes: FRAME_BYTES,
            workers: 1,
            capacity: if is_directors { capacity(self.flows) } else { 0 },
            scheduler: if is_directors { "rr" } else { NONE },
        }
    }
}

/// There in one run and back again in the next, so that whatever disturbs the machine meets all.
fn turns(count: usize, run: usize) -> Vec<usize> {
    if run.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}

/// The figures of a mode, one for each run.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    ratios: Vec<f64>,
    full: Vec<f64>,
}

fn rates(bench: &Bench, lineup: &mut Lineup, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
    let pace = Pace::of(bench);
    let mut figures: [Figures; MODES.len()] = Default::default();
    for run in progress.runs("wire", pace.runs, pace.run()) {
        progress.say(format!(
            "wire {}: {} flows, all they get through",
            lineup.protocol.name(),
            lineup.flows
        ));
        let mut rates = [0.0; MODES.len()];
        for turn in turns(MODES.len(), run) {
            let answer = all(&pace, lineup, turn)?;
            rates[turn] = answer.received_rate;
            figures[turn].full.push(answer.wire_full);
        }
        for (figures, rate) in figures.iter_mut().zip(rates) {
            figures.rates.push(rate);
            figures.ratios.push(rate / rates[0]);
        }
    }
    for ((mode, _, _), figures) in MODES.iter().zip(figures) {
        let subject = lineup.subject(mode);
        let mut full = figures.full.clone();
        full.sort_by(f64::total_cmp);
        if median(&full) < GENERATOR_IS_LIMIT {
            report.note(format!(
                "wire: {mode}, {}, {} flows: the generator was the limit, which found the wire full in {:.0} % of its offers",
                lineup.protocol.name(),
                lineup.flows,
                median(&full) * 100.0
            ));
        }
        let cycles = figures.rates.iter().map(|rate| bench.hertz as f64 / rate).collect();
        report.add(&subject, "packets_per_second", "packets/s", figures.rates);
        report.add(&subject, "cycles_per_packet", "cycles", cycles);
        report.add(&subject, "ratio_to_testpmd", "1", figures.ratios);
        report.add(&subject, "wire_full", "1", figures.full);
    }
    Ok(())
}

/// All that gets through in the mode that has this turn.
fn all(pace: &Pace, lineup: &mut Lineup, turn: usize) -> anyhow::Result<Answer> {
    let (mode, rival, options) = MODES[turn];
    let job = format!("--no-open --seconds {} --warm-up {} {options}", pace.seconds, pace.warm_up);
    let answer = lineup.job(rival, &job).context(mode)?;
    ensure!(answer.lost * TOLERATED <= answer.sent, "{mode} lost {} frames of {}", answer.lost, answer.sent);
    Ok(answer)
}

fn without_loss(
    bench: &Bench,
    lineup: &mut Lineup,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    let pace = Pace::of(bench);
    let mut searched: Vec<_> = search::MODES.into_iter().map(|turn| (turn, Searched::default())).collect();
    for run in progress.runs("wire's searches", search::runs(bench), search::run(bench)) {
        for place in turns(searched.len(), run) {
            let (turn, searched) = &mut searched[place];
            let (mode, rival, options) = MODES[*turn];
            let (name, flows) = (lineup.protocol.name(), lineup.flows);
            progress.say(format!("wire {name}: {flows} flows, {mode} without loss"));
            let most = all(&pace, lineup, *turn)?.received_rate;
            search::search(bench, searched, most, |job| {
                lineup.job(rival, &format!("{job} {options}")).context(mode)
            })?;
        }
    }
    for (turn, searched) in searched {
        searched.report(&lineup.subject(MODES[turn].0), report);
    }
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
