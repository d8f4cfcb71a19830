//! What was measured: figures with their spread, as a table for people and as JSON for programs.
//!
//! It takes figures as they come and must never choose among them, nor know what they mean: a new part of the benchmark
//! needs nothing here.

mod table;

use std::fs;
use std::path::Path;

use anyhow::Context;
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
    notes: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub fn new(machine: Machine) -> Self {
        Self { machine, records: Vec::new(), notes: Vec::new(), failures: Vec::new() }
    }

    /// Adds a figure: one value for each run. Without a run there is no figure.
    pub fn add(&mut self, subject: &Subject, metric: &'static str, unit: &'static str, mut runs: Vec<f64>) {
        runs.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (runs.first(), runs.last()) else { return };
        let (subject, machine, value) = (subject.clone(), self.machine.clone(), median(&runs));
        self.records.push(Record { subject, metric, unit, value, min, max, runs: runs.len(), machine });
    }

    /// Adds a line to be read with the figures: what is not among them, and why.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
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

    /// All figures, for people, and what is to be noted.
    pub fn table(&self) -> String {
        let parts = distinct(self.records.iter().map(|record| record.subject.part));
        let mut text = self.machine.to_string();
        for part in parts {
            let records: Vec<_> = self.records.iter().filter(|record| record.subject.part == part).collect();
            text += &format!("\n{}", table::of_part(part, &records));
        }
        if !self.notes.is_empty() {
            text += "\nnotes\n";
        }
        for note in &self.notes {
            text += &table::wrapped(note);
        }
        text.truncate(text.trim_end().len());
        text
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

#[cfg(test)]
mod tests;
