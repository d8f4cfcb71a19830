//! What was measured: figures with their spread, as a table for people and as JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::machine::Machine;

/// What a figure is of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subject {
    /// The part of the benchmark.
    pub part: &'static str,
    /// What was measured: `dr`, `nat-in`, `nat-out`, `macswap`.
    pub mode: &'static str,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// Flows that packets are of, at random; for `newconn` the connections opened in a run.
    pub flows: u32,
    /// The frames' length without the frame check sequence.
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
    #[serde(flatten)]
    subject: Subject,
    metric: &'static str,
    unit: &'static str,
    /// The median over the runs.
    value: f64,
    min: f64,
    max: f64,
    runs: usize,
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

    /// Adds a figure: one value for each run.
    pub fn add(&mut self, subject: &Subject, metric: &'static str, unit: &'static str, mut runs: Vec<f64>) {
        runs.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (runs.first(), runs.last()) else { return };
        let middle = runs.len() / 2;
        let value = if runs.len() % 2 == 1 { runs[middle] } else { (runs[middle - 1] + runs[middle]) / 2.0 };
        let (subject, machine) = (subject.clone(), self.machine.clone());
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

    /// Writes all figures as a list of objects.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let text = serde_json::to_string_pretty(&self.records)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// All figures, a line for each subject: cycles, what that makes in a second, and what else was measured.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "part", "mode", "protocol", "flows", "frame", "cycles", "min", "max", "M/s", "runs", "and",
        ]);
        for records in self.records.chunk_by(|a, b| a.subject == b.subject) {
            let Subject { part, mode, protocol, flows, frame_bytes, .. } = &records[0].subject;
            let [cycles, rate, others @ ..] = records else { continue };
            let other = |record: &Record| match record.unit {
                "1" => format!("{} {}", record.metric, number(record.value)),
                unit => format!("{} {} {unit}", record.metric, number(record.value)),
            };
            table.add_row([
                (*part).to_owned(),
                (*mode).to_owned(),
                (*protocol).to_owned(),
                flows.to_string(),
                frame_bytes.to_string(),
                number(cycles.value),
                number(cycles.min),
                number(cycles.max),
                number(rate.value / 1e6),
                cycles.runs.to_string(),
                others.iter().map(other).collect::<Vec<_>>().join(", "),
            ]);
        }
        for column in 3..10 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{}\n{table}", self.machine)
    }
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
