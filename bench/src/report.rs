//! What was measured: figures with their spread, as a table for people and as JSON for programs.
//!
//! It takes figures as they come and must never choose among them, nor know what they mean: a new part of the benchmark
//! needs nothing here.

use std::fs;
use std::path::Path;

use anyhow::Context;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::machine::Machine;

/// What stands for a property that a figure does not have.
pub const NONE: &str = "-";

/// What a figure is of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subject {
    /// The part of the benchmark.
    pub part: &'static str,
    /// What was measured: `dr`, `nat-in`, `nat-out`, `macswap`, and what else the part has.
    pub mode: &'static str,
    /// `udp` or `tcp`; [`NONE`] where no packets are sent.
    pub protocol: &'static str,
    /// Flows that packets are of, at random; for `newconn` the connections opened in a run.
    pub flows: u32,
    /// The frames' length without the frame check sequence; 0 where there are none.
    pub frame_bytes: usize,
    /// Workers that share the work.
    pub workers: usize,
    /// Connections that the table has room for.
    pub capacity: u32,
    /// What gives new connections to servers.
    pub scheduler: &'static str,
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// What it is of.
    #[serde(flatten)]
    pub subject: Subject,
    /// What was counted or timed.
    pub metric: &'static str,
    /// What the values are in.
    pub unit: &'static str,
    /// The median over the runs.
    pub value: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many runs there were.
    pub runs: usize,
    #[serde(flatten)]
    machine: Machine,
}

/// All figures of a run of the benchmark.
pub struct Report {
    machine: Machine,
    records: Vec<Record>,
    failures: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub fn new(machine: Machine) -> Self {
        Self { machine, records: Vec::new(), failures: Vec::new() }
    }

    /// Adds a figure: one value for each run. Without a run there is no figure.
    pub fn add(&mut self, subject: &Subject, metric: &'static str, unit: &'static str, mut runs: Vec<f64>) {
        runs.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (runs.first(), runs.last()) else { return };
        let (subject, machine, value) = (subject.clone(), self.machine.clone(), median(&runs));
        self.records.push(Record { subject, metric, unit, value, min, max, runs: runs.len(), machine });
    }

    /// Notes that something could not be measured: it has no figures, and is never tried again until it has.
    pub fn fail(&mut self, error: &anyhow::Error) {
        let chain: Vec<_> = error.chain().map(ToString::to_string).collect();
        self.failures.push(chain.join(": "));
    }

    /// What could not be measured, and why.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// All figures, in the order in which they were added.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Where they come from.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Writes all figures as a list of objects.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.records)?;
        write(path, &text)
    }

    /// All figures: a line for what they are of, a column for each metric of the part, in it the median and, where the
    /// runs differ, the least and the greatest.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        for part in distinct(self.records.iter().map(|record| record.subject.part)) {
            let records: Vec<_> = self.records.iter().filter(|record| record.subject.part == part).collect();
            let metrics = distinct(records.iter().map(|record| (record.metric, record.unit)));
            let names = [part, "protocol", "flows", "frame", "workers", "scheduler", "runs"];
            let metric_names = metrics.iter().map(|(metric, unit)| match *unit {
                "1" => format!("\n{}", broken(metric)),
                unit => format!("\n{}\n{unit}", broken(metric)),
            });
            let header = names.map(|name| format!("\n{name}")).into_iter().chain(metric_names);
            table.add_row(header.enumerate().map(|(column, text)| aligned(column, text)));
            for subject in distinct(records.iter().map(|record| &record.subject)) {
                let of_subject = || records.iter().filter(|record| record.subject == *subject);
                let runs = distinct(of_subject().map(|record| record.runs));
                let figures = metrics.iter().map(|metric| {
                    let found = of_subject().find(|record| (record.metric, record.unit) == *metric);
                    found.map_or_else(|| NONE.to_owned(), |record| record.figure())
                });
                let about = [
                    subject.mode.to_owned(),
                    subject.protocol.to_owned(),
                    count(subject.flows as usize),
                    count(subject.frame_bytes),
                    count(subject.workers),
                    subject.scheduler.to_owned(),
                    runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                ];
                let row = about.into_iter().chain(figures);
                table.add_row(row.enumerate().map(|(column, text)| aligned(column, text)));
            }
        }
        let lines = table.to_string();
        let lines: Vec<_> = lines.lines().map(str::trim_end).collect();
        format!("{}{}", self.machine, lines.join("\n"))
    }
}

impl Record {
    /// The median, and what the runs lie between.
    fn figure(&self) -> String {
        let Record { value, min, max, .. } = *self;
        let (scale, suffix) = if value >= 1e6 { (1e6, " M") } else { (1.0, "") };
        let (value, min, max) = (number(value / scale), number(min / scale), number(max / scale));
        if min == max { format!("{value}{suffix}") } else { format!("{value} ({min}..{max}){suffix}") }
    }
}

/// Writes a file, and makes its directory where it is missing.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The median of what is sorted; of an even number the mean of the two in the middle, and of none 0.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Each value once, in the order in which they come first.
pub fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// Names to the left, numbers to the right.
fn aligned(column: usize, text: String) -> Cell {
    let is_name = matches!(column, 0 | 1 | 5);
    let alignment = if is_name { CellAlignment::Left } else { CellAlignment::Right };
    Cell::new(text).set_alignment(alignment)
}

fn count(number: usize) -> String {
    if number == 0 { NONE.to_owned() } else { number.to_string() }
}

/// A long name in two lines, so that its column is not wider than its figures.
fn broken(name: &str) -> String {
    let middle = name.len() / 2;
    let breaks = name.match_indices('_').map(|(at, _)| at + 1).filter(|_| name.len() > 16);
    match breaks.min_by_key(|at| at.abs_diff(middle)) {
        Some(at) => format!("{}\n{}", &name[..at], &name[at..]),
        None => name.to_owned(),
    }
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        1.0.. => format!("{value:.2}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.6}"),
    }
}

#[cfg(test)]
mod tests;
