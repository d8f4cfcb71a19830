//! The highest rate without loss, and how long frames are away: searched for several times by the generator, and never
//! left out silently.

use super::generator::Answer;
use crate::Bench;
use crate::report::{Report, Subject};

/// The modes it is done for, by their places in the order of turns: the yardstick and all that is director's.
pub const MODES: [usize; 4] = [0, 3, 4, 5];

/// Trials at one rate. The machine has pauses of its own, and frames lost in one say nothing of the rivals.
const ATTEMPTS: u32 = 3;

/// How long things take.
struct Pace {
    runs: usize,
    /// Seconds of a trial, and how exactly to search, in percent.
    trial: f64,
    precision: f64,
    /// Seconds that a search may take.
    deadline: f64,
    /// Seconds that latencies are taken for.
    latency: f64,
}

impl Pace {
    fn of(bench: &Bench) -> Self {
        if bench.quick {
            Self { runs: bench.runs.min(2), trial: 0.03, precision: 10.0, deadline: 1.0, latency: 0.1 }
        } else {
            Self { runs: bench.runs.min(5), trial: 0.15, precision: 2.0, deadline: 5.0, latency: 0.4 }
        }
    }
}

/// How often it is done.
pub fn runs(bench: &Bench) -> usize {
    Pace::of(bench).runs
}

/// Milliseconds that a run of all modes takes.
pub fn run(bench: &Bench) -> u64 {
    let Pace { deadline, latency, .. } = Pace::of(bench);
    // Where the machine is left alone, half of the time that a search may take.
    MODES.len() as u64 * ((deadline / 2.0 + latency) * 1e3 + 250.0) as u64
}

/// What came of all searches for one mode.
#[derive(Default)]
pub struct Searched {
    /// The rates found.
    rates: Vec<f64>,
    /// Where none was: the lowest and the highest that were tried.
    none_between: Vec<(f64, f64)>,
    /// Searches that were ended by their deadline.
    cut_short: usize,
    /// Searches that were ended by the generator, which was too slow or did not run.
    generators: usize,
    /// Quantiles of the time that frames were away, in microseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
    /// How often nothing came back when they were to be timed.
    untimed: usize,
}

/// Searches once, and times frames at half of `most`, which is all that the rival gets through. `job` has the generator do
/// something.
pub fn search(
    bench: &Bench,
    searched: &mut Searched,
    most: f64,
    mut job: impl FnMut(&str) -> anyhow::Result<Answer>,
) -> anyhow::Result<()> {
    let Pace { trial, precision, deadline, latency, .. } = Pace::of(bench);
    let answer = job(&format!(
        "--no-open --search --seconds {trial} --precision {precision} --attempts {ATTEMPTS} --deadline {deadline}"
    ))?;
    if let Some(found) = answer.search {
        searched.cut_short += usize::from(!found.complete);
        searched.generators += usize::from(found.generator_was_limit);
        match found.rate {
            Some(rate) => searched.rates.push(rate),
            None => searched.none_between.push((found.lowest, found.highest)),
        }
    }
    let answer = job(&format!("--no-open --rate {} --seconds {latency}", most / 2.0))?;
    match answer.latency {
        Some(latency) => {
            searched.p50.push(latency.p50_us);
            searched.p99.push(latency.p99_us);
            searched.p999.push(latency.p999_us);
        }
        None => searched.untimed += 1,
    }
    Ok(())
}

impl Searched {
    /// Adds the figures, and notes for those that there are not.
    pub fn report(self, subject: &Subject, report: &mut Report) {
        let Self { rates, none_between, cut_short, generators, p50, p99, p999, untimed } = self;
        let searches = rates.len() + none_between.len();
        let Subject { mode, protocol, flows, .. } = subject;
        let about = format!("wire: {mode}, {protocol}, {flows} flows");
        report.add(subject, "zero_loss_packets_per_second", "packets/s", rates);
        if !none_between.is_empty() {
            let lowest = none_between.iter().map(|(lowest, _)| *lowest).fold(f64::INFINITY, f64::min);
            let highest = none_between.iter().map(|(_, highest)| *highest).fold(0.0, f64::max);
            report.note(format!(
                "{about}: no rate without loss found between {:.3} and {:.3} M/s in {} of {searches} searches",
                lowest / 1e6,
                highest / 1e6,
                none_between.len(),
            ));
            let lowest = none_between.into_iter().map(|(lowest, _)| lowest).collect();
            report.add(subject, "lowest_rate_with_loss", "packets/s", lowest);
        }
        if cut_short > 0 {
            report.note(format!("{about}: {cut_short} of {searches} searches ended by their deadline"));
        }
        if generators > 0 {
            report.note(format!(
                "{about}: {generators} of {searches} searches ended by the generator, which was too slow or did not run: it may \
                 be more"
            ));
        }
        if untimed > 0 {
            report.note(format!(
                "{about}: no frame came back to take its latency in {untimed} of {searches} runs"
            ));
        }
        report.add(subject, "latency_p50", "us", p50);
        report.add(subject, "latency_p99", "us", p99);
        report.add(subject, "latency_p999", "us", p999);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::report::NONE;

    fn subject() -> Subject {
        Subject {
            part: "wire",
            mode: "dr",
            protocol: "udp",
            flows: 10_000,
            frame_bytes: 60,
            workers: 1,
            capacity: 0,
            scheduler: NONE,
        }
    }

    #[test]
    fn where_no_rate_is_found_it_is_said_in_the_notes_and_as_a_figure() {
        let searched = Searched {
            rates: vec![4e6, 5e6],
            none_between: vec![(0.25e6, 11e6), (0.125e6, 12e6)],
            cut_short: 1,
            generators: 3,
            p50: vec![10.0, 12.0],
            untimed: 2,
            ..Searched::default()
        };
        let mut report = Report::new(Machine::default());
        searched.report(&subject(), &mut report);
        let found = |metric| {
            let record = report.records().iter().find(|record| record.metric == metric);
            record.map(|record| (record.value, record.runs))
        };
        assert_eq!(found("zero_loss_packets_per_second"), Some((4.5e6, 2)));
        assert_eq!(found("lowest_rate_with_loss"), Some((187_500.0, 2)));
        assert_eq!(found("latency_p50"), Some((11.0, 2)));
        assert_eq!(found("latency_p99"), None);
        let table = report.table().replace("\n   ", "");
        for text in [
            "no rate without loss found between 0.125 and 12.000 M/s in 2 of 4 searches",
            "1 of 4 searches ended by their deadline",
            "3 of 4 searches ended by the generator",
            "no frame came back to take its latency in 2 of 4 runs",
        ] {
            assert!(table.contains(text), "{text} in\n{table}");
        }
    }

    #[test]
    fn where_all_is_found_there_is_nothing_to_note() {
        let mut report = Report::new(Machine::default());
        let p = || vec![1.0];
        let searched = Searched { rates: vec![4e6], p50: p(), p99: p(), p999: p(), ..Searched::default() };
        searched.report(&subject(), &mut report);
        assert_eq!(report.records().len(), 4);
        assert!(!report.table().contains("notes"));
    }
}
