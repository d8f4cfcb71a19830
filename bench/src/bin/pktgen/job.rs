//! One measurement from its beginning to its end: the flows opened, the load sent once or until the highest rate is found.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use crate::flows::Order;
use crate::frames::{Addressing, IP, Phase, Protocol, Side, TRANSPORT};
use crate::options::Job;
use crate::outcome::Outcome;
use crate::search::Search;
use crate::tester::{Load, Tester};

/// How long opening all flows may take, in seconds.
const OPENING: f64 = 120.0;

/// Where the wire was full in a smaller share of the generator's offers, the generator was the slower.
const NEVER_FULL: f64 = 0.1;

/// What is to be read with a rate that is the generator's own.
const GENERATOR_WAS_LIMIT: &str =
    "the generator was the limit: it was too slow or did not run, so the other side may do more";

/// What came of a job.
#[derive(Debug, Serialize)]
pub struct Done {
    /// How the opening of the flows went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opening: Option<Opening>,
    /// How the search went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Searched>,
    /// How the load went; after a search, the trial at the rate that it found.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The opening of flows.
#[derive(Debug, Serialize)]
pub struct Opening {
    /// Flows that were to be opened.
    pub flows: u32,
    /// Flows whose first frame came back.
    pub forwarded: usize,
    /// How many servers they went to, by their addresses and ports.
    pub servers: usize,
}

/// A search for the highest rate.
#[derive(Debug, Serialize)]
pub struct Searched {
    /// The highest rate that passed, in frames a second; absent where none did.
    pub rate: Option<f64>,
    /// The loss allowed, in percent.
    pub loss_percent: f64,
    /// The lowest rate that was tried.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// Whether the search came to its end before its deadline.
    pub complete: bool,
    /// Whether it was the generator that ended it: what was found is what its own pauses, or its own speed, allow, and the other
    /// side may do more.
    pub generator_was_limit: bool,
    /// Every trial, in their order.
    pub trials: Vec<Trial>,
}

/// A trial of a search.
#[derive(Debug, Serialize)]
pub struct Trial {
    /// Frames a second that were due.
    pub rate: f64,
    /// Lost and refused frames, as a share of those that were due.
    pub loss: f64,
    /// Whether the generator could keep to the rate.
    pub kept_pace: bool,
    /// Whether it paused for so long that it may itself have lost the frames that were lost.
    pub paused: bool,
    /// Whether it passed.
    pub passed: bool,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Opening { flows, forwarded, servers }) = &self.opening {
            writeln!(f, "opened    {forwarded:>12}  of {flows} flows, to {servers} places")?;
        }
        if let Some(searched) = &self.search {
            let Searched { rate, loss_percent, complete, trials, .. } = searched;
            for Trial { rate, loss, kept_pace, paused, passed } in trials {
                let word = match (passed, kept_pace, paused) {
                    (true, _, _) => "passed",
                    (false, false, _) => "failed: the generator could not keep to the rate",
                    (false, true, true) => "failed: the generator paused, and may have lost frames itself",
                    (false, true, false) => "failed",
                };
                writeln!(f, "trial     {:>12.4} M/s  loss {:.6} %  {word}", rate / 1e6, loss * 100.0)?;
            }
            match rate {
                Some(rate) => {
                    writeln!(f, "highest   {:>12.4} M/s with a loss of at most {loss_percent} %", rate / 1e6)?
                }
                None => writeln!(f, "{}", searched.nothing_found())?,
            }
            if searched.generator_was_limit {
                writeln!(f, "{GENERATOR_WAS_LIMIT}")?;
            }
            if !complete {
                writeln!(f, "the search was ended by its deadline: it may be more")?;
            }
        }
        write!(f, "{}", self.outcome)
    }
}

impl Trial {
    /// At `rate`, with no more than `loss_percent` to be lost. The generator's receive queues hold so many frames.
    fn new(rate: f64, outcome: &Outcome, loss_percent: f64, queued: usize) -> Self {
        let (loss, kept_pace) = (outcome.loss, outcome.kept_pace());
        let passed = kept_pace && loss * 100.0 <= loss_percent;
        Self { rate, loss, kept_pace, paused: outcome.may_have_lost(queued), passed }
    }

    /// Whether it says anything of the other side.
    fn is_proof(&self) -> bool {
        self.passed || (self.kept_pace && !self.paused)
    }
}

impl Searched {
    /// Whether the lowest rate that failed did so because of the generator alone.
    fn ended_by_generator(trials: &[Trial]) -> bool {
        let failed = trials.iter().filter(|trial| !trial.passed);
        // A rate of which one trial passed has passed.
        let failed =
            failed.filter(|failed| !trials.iter().any(|other| other.passed && other.rate >= failed.rate));
        let Some(lowest) = failed.map(|trial| trial.rate).min_by(f64::total_cmp) else { return false };
        trials.iter().filter(|trial| trial.rate == lowest).all(|trial| !trial.is_proof())
    }

    /// What there is to say where no rate passed.
    fn nothing_found(&self) -> String {
        let (lowest, highest) = (self.lowest / 1e6, self.highest / 1e6);
        format!(
            "no rate with a loss of at most {} % found between {lowest:.4} and {highest:.4} M/s",
            self.loss_percent
        )
    }
}

impl Done {
    /// An error where this is no measurement of what was asked for.
    pub fn check(&self) -> anyhow::Result<()> {
        let Outcome { damaged, skipped, opened, not_opened, .. } = self.outcome;
        ensure!(damaged == 0, "{damaged} frames came back damaged");
        if let Some(search) = &self.search {
            ensure!(search.rate.is_some(), search.nothing_found());
            let rate = search.rate.unwrap_or_default() / 1e6;
            ensure!(
                !search.generator_was_limit,
                "{rate:.4} M/s is no limit of the other side's. {GENERATOR_WAS_LIMIT}. Give it a core of its own (--core); \
                 with --rate, no more than that is asked for"
            );
        }
        ensure!(
            self.outcome.opened_enough(),
            "new flows could not be opened at the rate: {opened} of {} that were due. What the wire takes (--rate) must be \
             more than --new",
            opened + not_opened
        );
        ensure!(
            self.outcome.is_of_the_rate(),
            "the generator could not keep to the rate: it came too late for {skipped} frames of {}. Give it a core \
             of its own (--core), or a lower --rate",
            self.outcome.due()
        );
        Ok(())
    }
}

/// Does a job on its device.
pub fn run(tester: &mut Tester, job: &Job) -> anyhow::Result<Done> {
    let sane = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
    ensure!(sane(job.seconds) && sane(job.warm_up), "--seconds and --warm-up are numbers from 0 on");
    ensure!((0.0..100.0).contains(&job.loss), "--loss is a percentage from 0 on");
    ensure!(job.deadline.is_none_or(sane), "--deadline is a number of seconds");
    ensure!(job.precision > 0.0 && job.attempts > 0, "--precision and --attempts are above 0");
    let addressing = job.addressing(tester.mac()?);
    let opening = if job.no_open { None } else { Some(open(tester, job, &addressing)?) };
    if job.warm_up > 0.0 {
        let seconds = job.warm_up;
        tester.send(&Load { seconds, ..load(job, &addressing, job.rate) }, |_, _, _| {})?;
    }
    if job.fill {
        let outcome = tester.fill(&load(job, &addressing, None))?;
        return Ok(Done { opening, search: None, outcome });
    }
    if job.search {
        return search(tester, job, &addressing, opening);
    }
    let outcome = tester.send(&load(job, &addressing, job.rate), |_, _, _| {})?;
    Ok(Done { opening, search: None, outcome })
}

fn load<'a>(job: &Job, addressing: &'a Addressing, rate: Option<f64>) -> Load<'a> {
    Load {
        addressing,
        side: job.from,
        phase: Phase::Established,
        flows: job.flows,
        order: job.order(),
        rate,
        seconds: job.seconds,
        new_flows: job.new,
        checksums: job.checksums,
        reply_shift: job.reply_shift,
    }
}

/// Sends the first frames of every flow, and notes to whom the balancer sends them on.
fn open(tester: &mut Tester, job: &Job, addressing: &Addressing) -> anyhow::Result<Opening> {
    let addressing = Addressing { bytes: crate::frames::SHORTEST, ..*addressing };
    let first = |side, phase| Load {
        side,
        phase,
        order: Order::Once,
        seconds: OPENING,
        new_flows: None,
        checksums: true,
        ..load(job, &addressing, job.open_rate)
    };
    tester.servers.forget(job.flows);
    tester.send(&first(Side::Clients, Phase::Opening), |servers, frame, stamp| {
        let address = frame.get(IP + 16..IP + 20).and_then(|bytes| bytes.try_into().ok());
        let port = frame.get(TRANSPORT + 2..TRANSPORT + 4).and_then(|bytes| bytes.try_into().ok());
        if let (Some(address), Some(port)) = (address, port) {
            servers.learn(stamp.flow, (u32::from_be_bytes(address), u16::from_be_bytes(port)));
        }
    })?;
    if job.answer || job.from == Side::Servers {
        tester.send(&first(Side::Servers, Phase::Opening), |_, _, _| {})?;
    }
    if job.protocol == Protocol::Tcp {
        tester.send(&first(Side::Clients, Phase::Established), |_, _, _| {})?;
    }
    let (forwarded, servers) = tester.servers.counts();
    Ok(Opening { flows: job.flows, forwarded, servers })
}

fn search(
    tester: &mut Tester,
    job: &Job,
    addressing: &Addressing,
    opening: Option<Opening>,
) -> anyhow::Result<Done> {
    let flood = tester.send(&load(job, addressing, None), |_, _, _| {})?;
    let most = job.rate.unwrap_or(flood.received_rate);
    let is_generators = !flood.kept_pace() || flood.wire_full < NEVER_FULL;
    let queued = usize::from(job.queues) * usize::from(job.descriptors);
    ensure!(
        most > 0.0,
        "nothing comes back ({} frames were sent), so there is no rate to search for",
        flood.sent
    );
    let (start, deadline) = (Instant::now(), job.deadline.map(Duration::from_secs_f64));
    let in_time = || deadline.is_none_or(|deadline| start.elapsed() < deadline);
    let mut search = Search::new(most, job.precision / 100.0);
    let (mut best, mut trials) = (flood, Vec::<Trial>::new());
    // There is always a trial.
    while let Some(rate) = search.next_rate().filter(|_| trials.is_empty() || in_time()) {
        let mut any = false;
        for attempt in 0..job.attempts {
            if attempt > 0 && !in_time() {
                break;
            }
            let outcome = tester.send(&load(job, addressing, Some(rate)), |_, _, _| {})?;
            let trial = Trial::new(rate, &outcome, job.loss, queued);
            any = trial.passed;
            trials.push(trial);
            if any {
                best = outcome;
                break;
            }
        }
        search.record(rate, any);
    }
    // Where the highest rate of all passes, it is the highest that was asked for, or that there was when nobody asked.
    let is_all = search.result() == Some(most) && job.rate.is_none();
    let generator_was_limit = Searched::ended_by_generator(&trials) || (is_all && is_generators);
    let rates = || trials.iter().map(|trial| trial.rate);
    let searched = Searched {
        rate: search.result(),
        loss_percent: job.loss,
        lowest: rates().fold(most, f64::min),
        highest: rates().fold(0.0, f64::max),
        complete: search.next_rate().is_none(),
        generator_was_limit,
        trials,
    };
    Ok(Done { opening, search: Some(searched), outcome: best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_the_generator_ended_is_told_from_one_that_the_other_side_ended() {
        let trial = |rate, kept_pace, paused, passed| Trial { rate, loss: 0.0, kept_pace, paused, passed };
        let (passed, lost) = (|rate| trial(rate, true, false, true), |rate| trial(rate, true, false, false));
        let (late, paused) = (|rate| trial(rate, false, true, false), |rate| trial(rate, true, true, false));
        for (trials, expected) in [
            (vec![], false),
            (vec![passed(9.0)], false),
            (vec![lost(9.0), passed(4.0), lost(6.0), passed(5.0)], false),
            (vec![lost(9.0), passed(4.0), late(6.0), passed(5.0)], true),
            (vec![lost(9.0), passed(4.0), paused(6.0), late(6.0), passed(5.0)], true),
            // One of its trials is proof.
            (vec![lost(9.0), passed(4.0), late(6.0), lost(6.0), passed(5.0)], false),
            // Further up it does not matter.
            (vec![late(9.0), late(8.0), lost(6.0), passed(5.0)], false),
            (vec![late(9.0), passed(9.0)], false),
            (vec![late(9.0), late(4.0), paused(2.0)], true),
        ] {
            assert_eq!(Searched::ended_by_generator(&trials), expected, "{trials:?}");
        }
    }
}
