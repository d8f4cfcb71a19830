//! Measures director's fast path and prints what it found; docs/benchmarks.md says how to read it.
//!
//! It measures the dataplane's own code and must never have figures, or a way for packets, of its own.

mod check;
mod director;
mod generator;
mod inprocess;
mod limit;
mod machine;
mod newconn;
mod report;
mod traffic;

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use dpdk_sys::{Eal, Mempool, MempoolConfig};
use indicatif::{ProgressBar, ProgressStyle};

use crate::machine::Machine;
use crate::report::Report;
use crate::traffic::{MAX_FLOWS, Protocol};

/// What is done to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The MAC addresses are swapped: the yardstick.
    Macswap,
    /// The least that a balancer can do: see [`limit`].
    Limit,
    /// Direct routing.
    Dr,
    /// NAT, from clients to real servers.
    NatIn,
    /// NAT, from real servers to clients.
    NatOut,
}

impl Mode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Mode; 5] = [Mode::Macswap, Mode::Limit, Mode::Dr, Mode::NatIn, Mode::NatOut];

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Macswap => "macswap",
            Mode::Limit => "limit",
            Mode::Dr => "dr",
            Mode::NatIn => "nat-in",
            Mode::NatOut => "nat-out",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Inprocess,
    Newconn,
}

/// Measures director's fast path: prints a table and writes the figures as JSON.
#[derive(Debug, Parser)]
struct Options {
    /// Ends within a minute, with fewer runs and less traffic.
    #[arg(long)]
    quick: bool,
    /// The parts to measure.
    #[arg(long, value_delimiter = ',', default_values = ["inprocess", "newconn"])]
    parts: Vec<Part>,
    /// The protocols to measure.
    #[arg(long, value_delimiter = ',', default_values = ["tcp", "udp"])]
    protocols: Vec<Protocol>,
    /// Numbers of flows [default: 1,1000,10000,100000,1000000,10000000; the last not with --quick]
    #[arg(long, value_delimiter = ',')]
    flows: Vec<u32>,
    /// Frame lengths in bytes, without the frame check sequence.
    #[arg(long, value_delimiter = ',', default_values = ["60", "1500"])]
    frames: Vec<usize>,
    /// Runs of everything [default: 7; 3 with --quick]
    #[arg(long)]
    runs: Option<usize>,
    /// Packets of a run [default: 1000000; 200000 with --quick]
    #[arg(long)]
    packets: Option<usize>,
    /// Connections that the table has room for when new ones are measured [default: 10000000; 1000000 with --quick]
    #[arg(long)]
    capacity: Option<u32>,
    /// Connections opened in a run [default: a tenth of the capacity]
    #[arg(long)]
    new_connections: Option<u32>,
    /// The core to run on [default: the last one]
    #[arg(long)]
    core: Option<usize>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench/bench.json")]
    output: PathBuf,
}

/// What is to be measured, and how thoroughly.
pub struct Bench {
    protocols: Vec<Protocol>,
    flows: Vec<u32>,
    frames: Vec<usize>,
    runs: usize,
    packets: usize,
    capacity: u32,
    new_connections: u32,
    hertz: u64,
}

impl Bench {
    fn new(options: &Options, hertz: u64) -> anyhow::Result<Self> {
        let quick = options.quick;
        let mut flows = options.flows.clone();
        if flows.is_empty() {
            flows = vec![1, 1_000, 10_000, 100_000, 1_000_000];
            flows.extend((!quick).then_some(10_000_000));
        }
        let capacity = options.capacity.unwrap_or(if quick { 1_000_000 } else { 10_000_000 });
        let bench = Self {
            protocols: options.protocols.clone(),
            flows,
            frames: options.frames.clone(),
            runs: options.runs.unwrap_or(if quick { 3 } else { 7 }),
            packets: options.packets.unwrap_or(if quick { 200_000 } else { 1_000_000 }),
            capacity,
            new_connections: options.new_connections.unwrap_or(capacity / 10),
            hertz,
        };
        let numbers = bench.flows.iter().chain([&bench.capacity, &bench.new_connections]);
        for &number in numbers {
            ensure!((1..=MAX_FLOWS).contains(&number), "{number} flows; there may be 1 to {MAX_FLOWS}");
        }
        ensure!(bench.new_connections <= capacity, "more new connections in a run than there is room for");
        ensure!(bench.runs > 0 && bench.packets > 0, "there must be a run, and a packet in it");
        ensure!(bench.frames.iter().all(|bytes| (60..=1514).contains(bytes)), "frames have 60 to 1514 bytes");
        Ok(bench)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (eal, machine) = machine::start(options.core)?;
    let report = measure(&options, &eal, machine)?;
    println!("{}", report.table());
    report.write_json(&options.output)?;
    println!("written to {}", options.output.display());
    // Every mbuf must be back; an error that holds the EAL cannot leave this thread.
    eal.cleanup().map_err(|error| error.reason)?;
    let failures = report.failures();
    ensure!(failures.is_empty(), "not everything could be measured:\n  {}", failures.join("\n  "));
    Ok(())
}

/// Everything that holds on to the EAL is gone when this returns.
fn measure(options: &Options, eal: &Eal, machine: Machine) -> anyhow::Result<Report> {
    let bench = Bench::new(options, eal.tsc_hz())?;
    let pool = Mempool::create(eal, "bench", &MempoolConfig { count: 1023, ..MempoolConfig::default() })?;
    let has = |part| options.parts.contains(&part);
    let steps = if has(Part::Inprocess) { inprocess::steps(&bench) } else { 0 }
        + if has(Part::Newconn) { newconn::steps(&bench) } else { 0 };
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}")?;
    let progress = ProgressBar::new(steps).with_style(style);

    let mut report = Report::new(machine);
    if has(Part::Inprocess) {
        inprocess::run(&bench, &pool, &mut report, &progress);
    }
    if has(Part::Newconn) {
        newconn::run(&bench, &pool, &mut report, &progress);
    }
    progress.finish_and_clear();
    Ok(report)
}
