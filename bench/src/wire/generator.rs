//! `pktgen` as a process that takes jobs.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::process::{Process, directory};
use super::{Cores, beside_us};

/// What it answers, as far as it is looked at; docs/benchmarks.md describes all of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Why it did not do it.
    error: Option<String>,
    /// Frames sent.
    pub sent: u64,
    /// Frames that did not come back.
    pub lost: u64,
    /// Frames of the job before that came back only now.
    pub stale: u64,
    /// Frames a second that came back.
    pub received_rate: f64,
    /// In which share of its offers the wire was full.
    pub wire_full: f64,
    /// Frames that came back changed.
    pub damaged: u64,
    /// The first of them.
    pub first_damage: Option<String>,
    /// What came of opening the flows.
    pub opening: Option<Opening>,
    /// What came of a search.
    pub search: Option<Search>,
    /// How long frames were away.
    pub latency: Option<Latency>,
}

/// What came of opening flows.
#[derive(Debug, Deserialize)]
pub struct Opening {
    /// Flows that were to be opened.
    pub flows: u64,
    /// Flows that came back.
    pub forwarded: u64,
    /// Places that they went to.
    pub servers: u64,
}

/// What came of a search.
#[derive(Debug, Deserialize)]
pub struct Search {
    /// The highest rate that passed, in frames a second.
    pub rate: Option<f64>,
    /// The lowest that was tried.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// Whether it came to its end before its deadline.
    pub complete: bool,
    /// Whether what it found is what the generator's own pauses or speed allow.
    pub generator_was_limit: bool,
}

/// How long frames were away, in microseconds.
#[derive(Debug, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_us: f64,
    /// 99 of 100 were faster.
    pub p99_us: f64,
    /// 999 of 1000 were faster.
    pub p999_us: f64,
}

/// How the generator's end of the wire is set up.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Queues in each direction: as many as the other end has workers.
    pub queues: usize,
    /// Frames that each holds, as a power of two.
    pub depth: u32,
}

/// A generator at the client's end of a memif.
pub struct Generator {
    process: Process,
    wire: String,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Generator {
    /// Starts one, and has it connect to the memif that is served as `wire`.
    ///
    /// It has a process of its own, because of DPDK 22.11's memif without copies there may be but one in a process: the
    /// first closes the file that the buffers of all are in.
    pub fn start(cores: Cores, name: &str, wire: Wire) -> anyhow::Result<Self> {
        let Wire { queues, depth } = wire;
        // Twice what the queues of both directions hold.
        let mbufs = (4 * queues * (1 << depth)).next_power_of_two() - 1;
        // Buffers of the usual size with all that belongs to them, and some to spare.
        let megabytes = 128 + mbufs * 3072 / (1 << 20);
        let numbers = [cores.ours, megabytes].map(|number| number.to_string());
        let arguments = ["batch", "--core", &numbers[0], "--memory", &numbers[1]];
        let mut process = Process::start(&beside_us("pktgen")?, arguments, cores, directory()?, true)?;
        let (Some(input), Some(output)) = process.take_pipes() else { bail!("pktgen has no pipes") };
        let wire = format!(
            "net_memif0,role=client,id=0,socket={name},rsize={depth},zero-copy=yes --queues {queues} --mbufs {mbufs}"
        );
        let mut generator = Self { process, wire, input, output: BufReader::new(output) };
        generator.job("--no-open --seconds 0").context("connecting")?;
        Ok(generator)
    }

    /// Has a job done.
    pub fn job(&mut self, options: &str) -> anyhow::Result<Answer> {
        let log = |process: &Process| format!("pktgen does not answer; it says:\n{}", process.log());
        let line = format!("--device {} {options}\n", self.wire);
        self.input.write_all(line.as_bytes()).with_context(|| log(&self.process))?;
        let mut answer = String::new();
        let length = self.output.read_line(&mut answer).with_context(|| log(&self.process))?;
        if length == 0 {
            bail!(log(&self.process));
        }
        let answer: Answer = serde_json::from_str(&answer).context("pktgen's answer cannot be read")?;
        if let Some(error) = answer.error {
            bail!("pktgen: {error}\n{}", self.process.log());
        }
        Ok(answer)
    }
}
