//! Two workers on a wire, where there are only two cores: the generator cannot run beside them.
//!
//! So it does not. It fills the queues while the daemon is stopped, and sleeps while the daemon runs for less than a
//! millisecond; then the daemon is stopped again, and what came back is counted. Two such slices of different length give a
//! rate in which what it takes to wake the workers and to stop them is not contained, being in both.
//!
//! Caches are cold when a slice begins, so these rates must never be compared with others than these. One worker, which they
//! are compared with, has a queue as long and as many flows as each of the two.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::director::{Director, Method};
use super::generator::{Generator, Wire};
use super::process::End;
use super::{Cores, FRAME_BYTES, capacity, program, turns};
use crate::Bench;
use crate::progress::Progress;
use crate::report::{Report, Subject, median};

const PROTOCOL: &str = "udp";

/// Frames in a queue, as a power of two: more than a worker gets through in the longer slice.
const DEPTH: u32 = 13;

/// The slices.
const SHORT: Duration = Duration::from_micros(150);
const LONG: Duration = Duration::from_micros(450);

/// By how much a slice may be too long. One that the machine makes longer is thrown away: it says how long others had a core.
const OVERRUN: Duration = Duration::from_micros(300);

/// Slices that may be thrown away for one that is not.
const PATIENCE: usize = 30;

/// Thousands of flows opened in a second.
const OPENING_RATE: u64 = 300;

/// Pairs of slices in a run, of which the median counts.
const PAIRS: usize = 9;

/// A daemon that is measured: how packets reach the servers, and how many workers it has. Of one worker there is a daemon on
/// either core, because cores may differ.
const DAEMONS: [(Method, Place); 6] = [
    (Method::Direct, Place::Both),
    (Method::Direct, Place::Other),
    (Method::Direct, Place::Ours),
    (Method::Nat, Place::Both),
    (Method::Nat, Place::Other),
    (Method::Nat, Place::Ours),
];

/// What is measured: the mode, by which of the daemons, and what the generator is told.
const MEASURED: [(&str, usize, &str); 7] = [
    ("dr-slices", 0, ""),
    ("dr-slices", 1, ""),
    ("dr-slices", 2, ""),
    ("nat-out-slices", 3, "--from servers"),
    ("nat-out-slices", 4, "--from servers"),
    ("nat-out-slices", 5, "--from servers"),
    // Every reply arrives at the worker that has not seen the request.
    ("nat-crossed-slices", 3, "--from servers --reply-shift 1"),
];

/// Where the workers are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Both,
    Other,
    Ours,
}

impl Place {
    fn workers(self, Cores { ours, other }: Cores) -> Vec<usize> {
        match self {
            Place::Both => vec![other, ours],
            Place::Other => vec![other],
            Place::Ours => vec![ours],
        }
    }
}

/// How many of the daemons, and of what is measured.
fn counts(bench: &Bench) -> (usize, usize) {
    if bench.quick { (3, 3) } else { (DAEMONS.len(), MEASURED.len()) }
}

/// Flows of each worker.
fn flows(bench: &Bench) -> u32 {
    let most = if bench.quick { 100_000 } else { 1_000_000 };
    (bench.flows.iter().copied().filter(|flows| *flows <= most).max().unwrap_or(most) / 2).max(1)
}

fn runs(bench: &Bench) -> usize {
    if bench.quick { bench.runs.min(2) } else { bench.runs.min(5) }
}

/// Milliseconds that starting all takes, and a run of all.
fn durations(bench: &Bench) -> (u64, u64) {
    let (daemons, measured) = counts(bench);
    let opening = 500 + 2 * u64::from(flows(bench)) / OPENING_RATE;
    (daemons as u64 * opening, measured as u64 * PAIRS as u64 * 60)
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    let (start, run) = durations(bench);
    start + runs(bench) as u64 * run
}

/// Measures every mode and adds the figures to `report`.
pub fn run(
    bench: &Bench,
    director: Option<&Path>,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    let (start, one) = durations(bench);
    if !progress.allows(|| "wire: two workers".to_owned(), start + one) {
        return Ok(());
    }
    let (cores, program, flows) = (Cores::of(bench)?, program(director)?, flows(bench));
    let (daemons, measured) = counts(bench);
    progress.say(format!("wire {PROTOCOL}: two workers, {flows} flows each"));
    let start_one =
        |&(method, place): &(_, Place)| Sliced::start(&program, cores, method, &place.workers(cores), flows);
    let mut daemons = DAEMONS[..daemons].iter().map(start_one).collect::<anyhow::Result<Vec<_>>>()?;
    progress.done(start);
    // Who wakes to end a slice, and who takes the signal, must not wait for a worker to have had its turn.
    daemons.iter().try_for_each(|daemon| daemon.director.process().defer("worker-"))?;
    // A rate of each for each run; none where the machine did not allow one.
    let mut rates = vec![Vec::new(); measured];
    for run in progress.runs("wire's slices", runs(bench), one) {
        for turn in turns(measured, run) {
            let (mode, daemon, options) = MEASURED[turn];
            rates[turn].push(daemons[daemon].rate(options).context(mode)?);
        }
    }
    tell(flows, &rates, report);
    Ok(())
}

/// Adds the figures of what was measured, and notes for those that there are not.
fn tell(flows: u32, rates: &[Vec<Option<f64>>], report: &mut Report) {
    let subject = |mode, workers| Subject {
        part: "wire",
        mode,
        protocol: PROTOCOL,
        flows,
        frame_bytes: FRAME_BYTES,
        workers,
        capacity: capacity(workers as u32 * flows),
        scheduler: "rr",
    };
    let known = |place: usize| -> Vec<f64> { rates[place].iter().copied().flatten().collect() };
    let ratios = |place: usize, to: &[Vec<Option<f64>>]| -> Vec<f64> {
        let of_run = |run: usize| {
            let to: Option<Vec<f64>> = to.iter().map(|rates| rates[run]).collect();
            let mean = to.map(|to| to.iter().sum::<f64>() / to.len() as f64);
            Some(rates[place][run]? / mean?)
        };
        (0..rates[place].len()).filter_map(of_run).collect()
    };
    for (place, (mode, daemon, _)) in MEASURED.iter().enumerate().take(rates.len()) {
        let (_, where_) = DAEMONS[*daemon];
        let workers = if where_ == Place::Both { 2 } else { 1 };
        let missing = rates[place].iter().filter(|rate| rate.is_none()).count();
        if missing > 0 {
            report.note(format!(
                "wire: {mode}, {workers} workers: in {missing} of {} runs there were no slices without a pause of the machine",
                rates[place].len()
            ));
        }
        match (where_, *mode) {
            (Place::Both, "nat-crossed-slices") => {
                report.add(&subject(mode, 2), "packets_per_second", "packets/s", known(place));
                report.add(&subject(mode, 2), "ratio_to_own", "1", ratios(place, &rates[3..4]));
                report.add(&subject(mode, 2), "ratio_to_one", "1", ratios(place, &rates[4..6]));
            }
            (Place::Both, _) => {
                report.add(&subject(mode, 2), "packets_per_second", "packets/s", known(place));
                report.add(
                    &subject(mode, 2),
                    "ratio_to_one",
                    "1",
                    ratios(place, &rates[place + 1..place + 3]),
                );
            }
            // Either alone is the same subject.
            (Place::Other, _) => {
                let either = [known(place), known(place + 1)].concat();
                report.add(&subject(mode, 1), "packets_per_second", "packets/s", either);
            }
            (Place::Ours, _) => {}
        }
    }
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
    fn start(
        program: &Path,
        cores: Cores,
        method: Method,
        workers: &[usize],
        flows_each: u32,
    ) -> anyhow::Result<Self> {
        let flows = workers.len() as u32 * flows_each;
        let director = Director::start(program, cores, workers, method, capacity(flows))?;
        let wire = Wire { queues: workers.len(), depth: DEPTH };
        let generator = Generator::start(cores, director.wire(), wire)?;
        let mut sliced = Self { director, generator, flows, waiting: 0 };
        // A worker may share the generator's core now, so that both get half of it; at this rate next to nothing is lost.
        let opening = sliced.job(&format!("--seconds 0 --open-rate {OPENING_RATE}k"))?.opening;
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

    /// Packets a second of all workers: the median of several pairs of slices; `None` where the machine does not leave them
    /// alone for so long.
    fn rate(&mut self, options: &str) -> anyhow::Result<Option<f64>> {
        let mut rates = Vec::with_capacity(PAIRS);
        for _ in 0..PAIRS {
            let (Some(short), Some(long)) = (self.slice(SHORT, options)?, self.slice(LONG, options)?) else {
                return Ok(None);
            };
            rates.push((long.0 - short.0) / (long.1 - short.1));
        }
        rates.sort_by(f64::total_cmp);
        Ok(Some(median(&rates)))
    }

    /// Lets the daemon run for about this long: how many frames it forwarded, and how many seconds it was.
    fn slice(&mut self, length: Duration, options: &str) -> anyhow::Result<Option<(f64, f64)>> {
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
                "all {waiting} frames were forwarded in {} us: this machine needs deeper queues",
                taken.as_micros()
            );
            return Ok(Some((forwarded as f64, taken.as_secs_f64())));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn ratios_are_taken_run_by_run_and_what_is_missing_is_said() {
        let some = |rates: &[f64]| rates.iter().map(|rate| Some(*rate)).collect::<Vec<_>>();
        let mut rates = vec![
            some(&[8.0, 9.0]),
            some(&[4.0, 5.0]),
            some(&[4.0, 4.0]),
            some(&[6.0, 6.0]),
            some(&[3.0, 3.0]),
            some(&[5.0, 3.0]),
            some(&[5.0, 4.5]),
        ];
        rates[5][1] = None;
        let mut report = Report::new(Machine::default());
        tell(1000, &rates, &mut report);
        let found = |mode, workers, metric| {
            let is = |subject: &Subject| (subject.mode, subject.workers) == (mode, workers);
            let mut records = report.records().iter();
            let record = records.find(|record| record.metric == metric && is(&record.subject));
            record.map(|record| (record.min, record.max, record.runs))
        };
        let rate = "packets_per_second";
        assert_eq!(found("dr-slices", 2, rate), Some((8.0, 9.0, 2)));
        assert_eq!(found("dr-slices", 1, rate), Some((4.0, 5.0, 4)));
        assert_eq!(found("dr-slices", 2, "ratio_to_one"), Some((2.0, 2.0, 2)));
        assert_eq!(found("nat-out-slices", 2, "ratio_to_one"), Some((1.5, 1.5, 1)));
        assert_eq!(found("nat-crossed-slices", 2, "ratio_to_own"), Some((0.75, 5.0 / 6.0, 2)));
        assert_eq!(found("nat-crossed-slices", 2, "ratio_to_one"), Some((1.25, 1.25, 1)));
        let table = report.table().replace("\n   ", "");
        let note = "wire: nat-out-slices, 1 workers: in 1 of 2 runs there were no slices without a pause";
        assert!(table.contains(note), "{table}");
    }

    #[test]
    fn the_places_of_what_is_compared_are_right() {
        for (place, (mode, daemon, _)) in MEASURED.iter().enumerate() {
            let (method, where_) = DAEMONS[*daemon];
            assert_eq!(method == Method::Direct, mode.starts_with("dr"), "{mode}");
            if where_ == Place::Both && *mode != "nat-crossed-slices" {
                let next = [1, 2].map(|more| MEASURED[place + more]);
                assert!(next.iter().all(|(other, _, _)| other == mode));
                let places = next.map(|(_, daemon, _)| DAEMONS[daemon].1);
                assert!(places == [Place::Other, Place::Ours]);
            }
        }
        assert_eq!(MEASURED[3].0, "nat-out-slices");
    }
}
