//! Two workers on a wire, where there are only two cores: the generator cannot run beside them.
//!
//! So it does not. It fills the queues while the daemon is stopped, and sleeps while the daemon runs for less than a
//! millisecond; then the daemon is stopped again, and what came back is counted. Two such slices of different length give a
//! rate in which what it takes to wake the workers and to stop them is not contained, being in both.
//!
//! Caches are cold when a slice begins, so these rates must never be compared with others than these.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;

use super::director::{Director, Method};
use super::generator::{Generator, Wire};
use super::process::hurry;
use super::{Cores, FRAME_BYTES, capacity, program};
use crate::Bench;
use crate::report::{Report, Subject, median};

const PROTOCOL: &str = "udp";
const WORKERS: usize = 2;

/// Frames in a queue, as a power of two: more than a worker gets through in the longer slice.
const DEPTH: u32 = 13;

/// The slices.
const SHORT: Duration = Duration::from_micros(150);
const LONG: Duration = Duration::from_micros(450);

/// By how much a slice may be too long. One that the machine makes longer is thrown away: it says how long others had a core.
const OVERRUN: Duration = Duration::from_micros(300);

/// Slices that may be thrown away for one that is not.
const PATIENCE: usize = 100;

/// Pairs of slices in a run, of which the median counts.
const PAIRS: usize = 9;

/// What is measured: the mode, its method, and what the generator is told.
const MODES: [(&str, Method, &str); 3] = [
    ("dr-slices", Method::Direct, ""),
    ("nat-out-slices", Method::Nat, "--from servers"),
    // Every reply arrives at the worker that has not seen the request.
    ("nat-crossed-slices", Method::Nat, "--from servers --reply-shift 1"),
];

fn modes(bench: &Bench) -> &'static [(&'static str, Method, &'static str)] {
    &MODES[..if bench.quick { 1 } else { MODES.len() }]
}

/// Flows of all workers together.
fn flows(bench: &Bench) -> u32 {
    let most = if bench.quick { 100_000 } else { 1_000_000 };
    bench.flows.iter().copied().filter(|flows| *flows <= most).max().unwrap_or(most).max(2)
}

fn runs(bench: &Bench) -> usize {
    if bench.quick { bench.runs.min(2) } else { bench.runs }
}

/// How many steps [`run`] makes a progress bar go.
pub fn steps(bench: &Bench) -> u64 {
    (modes(bench).len() * runs(bench)) as u64
}

/// Measures every mode and adds the figures to `report`.
pub fn run(
    bench: &Bench,
    director: Option<&Path>,
    report: &mut Report,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let (cores, program, flows) = (Cores::of(bench)?, program(director)?, flows(bench));
    progress.set_message(format!("wire {PROTOCOL}: two workers, {flows} flows"));
    let start = |&(_, method, _): &(_, _, _)| Sliced::start(&program, cores, method, flows);
    let mut daemons = modes(bench).iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    // Who wakes to end a slice, and who takes the signal, must not wait for a worker to have had its turn.
    let _ours = hurry(std::process::id())?;
    let _theirs =
        daemons.iter().map(|daemon| daemon.director.process().hurry()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut rates = vec![Vec::new(); daemons.len()];
    for run in 0..runs(bench) {
        let mut turns: Vec<_> = (0..daemons.len()).collect();
        if run % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let (mode, _, options) = modes(bench)[turn];
            rates[turn].push(daemons[turn].rate(options).context(mode)?);
            progress.inc(1);
        }
    }
    for ((mode, _, _), rates) in modes(bench).iter().zip(rates) {
        let subject = Subject {
            part: "wire",
            mode,
            protocol: PROTOCOL,
            flows,
            frame_bytes: FRAME_BYTES,
            workers: WORKERS,
            capacity: capacity(flows),
            scheduler: "rr",
        };
        report.add(&subject, "packets_per_second", "packets/s", rates);
    }
    Ok(())
}

/// A daemon that runs in slices.
struct Sliced {
    director: Director,
    generator: Generator,
    flows: u32,
    /// Frames in the queues that the daemon has not come to.
    waiting: u64,
}

impl Sliced {
    fn start(program: &Path, cores: Cores, method: Method, flows: u32) -> anyhow::Result<Self> {
        let workers: [usize; WORKERS] = [cores.other, cores.ours];
        let director = Director::start(program, cores, &workers, method, capacity(flows))?;
        let wire = Wire { queues: WORKERS, depth: DEPTH };
        let generator = Generator::start(cores, director.wire(), wire)?;
        let mut sliced = Self { director, generator, flows, waiting: 0 };
        // A worker shares the generator's core now, so that both get half of it; at this rate next to nothing is lost.
        let opening = sliced.job("--seconds 0 --open-rate 300k")?.opening;
        let forwarded = opening.map_or(0, |opening| opening.forwarded);
        ensure!(
            forwarded + u64::from(flows) / 100 >= u64::from(flows),
            "of {flows} flows only {forwarded} were forwarded when they were opened"
        );
        sliced.director.process().stop()?;
        Ok(sliced)
    }

    fn job(&mut self, options: &str) -> anyhow::Result<super::Answer> {
        let common = format!("--protocol {PROTOCOL} --flows {} --size {FRAME_BYTES}", self.flows);
        self.generator.job(&format!("{common} {options}"))
    }

    /// Packets a second of all workers: the median of several pairs of slices.
    fn rate(&mut self, options: &str) -> anyhow::Result<f64> {
        let mut rates = Vec::with_capacity(PAIRS);
        for _ in 0..PAIRS {
            let (short, long) = (self.slice(SHORT, options)?, self.slice(LONG, options)?);
            rates.push((long.0 - short.0) / (long.1 - short.1));
        }
        rates.sort_by(f64::total_cmp);
        Ok(median(&rates))
    }

    /// Lets the daemon run for about this long: how many frames it forwarded, and how many seconds it was.
    fn slice(&mut self, length: Duration, options: &str) -> anyhow::Result<(f64, f64)> {
        for _ in 0..PATIENCE {
            self.waiting += self.job(&format!("--no-open --fill {options}"))?.sent;
            let start = Instant::now();
            self.director.process().go_on()?;
            thread::sleep(length);
            self.director.process().stop()?;
            let taken = start.elapsed();
            let forwarded = self.job("--no-open --seconds 0")?.stale;
            let waiting = self.waiting;
            self.waiting = self.waiting.saturating_sub(forwarded);
            if taken > length + OVERRUN {
                continue;
            }
            ensure!(
                forwarded < waiting,
                "all {waiting} frames were forwarded in {taken:?}: this machine needs deeper queues"
            );
            return Ok((forwarded as f64, taken.as_secs_f64()));
        }
        bail!("the machine has no {length:?} without a pause for two workers")
    }
}
