//! Measures director's fast path and prints what it found; docs/benchmarks.md says how to read it.
//!
//! It measures the dataplane's own code and must never have figures, or a way for packets, of its own.

mod check;
mod director;
mod forward;
mod generator;
mod inprocess;
mod limit;
mod machine;
mod memory;
mod newconn;
mod plot;
mod progress;
mod report;
mod silence;
mod startup;
mod traffic;
mod wire;
mod workers;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use dpdk_sys::{Eal, Mempool, MempoolConfig};

use crate::forward::Task;
use crate::machine::Machine;
use crate::memory::Filled;
use crate::progress::Progress;
use crate::report::Report;
use crate::traffic::{MAX_FLOWS, Protocol};
use crate::wire::Wanted;

/// What is done to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The MAC addresses are swapped: the yardstick.
    Macswap,
    /// The least that a balancer with a connection table can do, without a worker.
    Limit,
    /// The same without a note of when a connection was last used.
    LimitBare,
    /// Direct routing.
    Dr,
    /// NAT, from clients to real servers.
    NatIn,
    /// NAT, from real servers to clients.
    NatOut,
    /// Tunnelling by IP in IP.
    Tun,
    /// FULLNAT, from clients to real servers.
    FullnatIn,
    /// FULLNAT, from real servers to clients.
    FullnatOut,
}

impl Mode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Mode; 9] = [
        Mode::Macswap,
        Mode::Limit,
        Mode::LimitBare,
        Mode::Dr,
        Mode::NatIn,
        Mode::NatOut,
        Mode::Tun,
        Mode::FullnatIn,
        Mode::FullnatOut,
    ];

    /// Whether it is no worker, but what workers are measured against.
    pub fn is_yardstick(self) -> bool {
        matches!(self, Mode::Macswap | Mode::Limit | Mode::LimitBare)
    }

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Macswap => "macswap",
            Mode::Limit => "limit",
            Mode::LimitBare => "limit-bare",
            Mode::Dr => "dr",
            Mode::NatIn => "nat-in",
            Mode::NatOut => "nat-out",
            Mode::Tun => "tun",
            Mode::FullnatIn => "fullnat-in",
            Mode::FullnatOut => "fullnat-out",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Memory,
    Startup,
    Inprocess,
    Newconn,
    Workers,
    /// All that gets through; figures of part `wire`.
    Wire,
    /// The rate without loss, and latencies; figures of part `wire`.
    Loss,
    /// Two workers; figures of part `wire`.
    Slices,
    Silence,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Memory => "memory",
            Part::Startup => "startup",
            Part::Inprocess => "inprocess",
            Part::Newconn => "newconn",
            Part::Workers => "workers",
            Part::Wire => "wire",
            Part::Loss => "loss",
            Part::Slices => "slices",
            Part::Silence => "silence",
        }
    }
}

/// How long the parts may take with `--quick`: a minute, less what starting and writing take, and what cannot be cut short.
const QUICK: Duration = Duration::from_secs(50);

/// Measures director's fast path: prints a table and writes the figures as JSON.
#[derive(Debug, Parser)]
struct Options {
    /// Ends within a minute, with fewer runs and less traffic.
    #[arg(long)]
    quick: bool,
    /// The parts to measure, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PART", value_enum,
        default_values_t = Part::value_variants().to_vec())]
    parts: Vec<Part>,
    /// What part `inprocess` does to packets of established connections, separated by commas [default: all of it]
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    modes: Vec<Mode>,
    /// The protocols to measure, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PROTOCOL", default_values = ["tcp", "udp"])]
    protocols: Vec<Protocol>,
    /// Numbers of flows, from 1 to 100000000, separated by commas [default: 1,1000,10000,100000,1000000,10000000; the last not with --quick]
    #[arg(long, value_delimiter = ',')]
    flows: Vec<u32>,
    /// Frame lengths of part `inprocess` in bytes without the frame check sequence, from 60 to 1514, separated by commas; the other
    /// parts have frames of 60 bytes.
    #[arg(long, value_delimiter = ',', value_name = "BYTES", default_values = ["60", "1500"])]
    frames: Vec<usize>,
    /// Runs, 1 or more. Of the parts `memory` and `silence` there are 3 at most, of `loss` and `slices` 5 (with --quick 2) [default: 7;
    /// 3 with --quick]
    #[arg(long, value_name = "NUMBER")]
    runs: Option<usize>,
    /// Packets of a run [default: 1000000; 200000 with --quick]
    #[arg(long)]
    packets: Option<usize>,
    /// Connections that the table has room for when new ones, memory and start-up are measured [default: 10000000; 1000000
    /// with --quick]
    #[arg(long)]
    capacity: Option<u32>,
    /// Connections opened in a run [default: a tenth of the capacity]
    #[arg(long)]
    new_connections: Option<u32>,
    /// Connections that expire in the same minute when silence is measured [default: 1000000; 100000 with --quick]
    #[arg(long)]
    expiring: Option<u32>,
    /// Services, with ten destinations each, that are published when silence is measured [default: 10000; 2000 with --quick]
    #[arg(long)]
    services: Option<u32>,
    /// Connections that are listed when silence is measured [default: 50000; 10000 with --quick]
    #[arg(long)]
    listed: Option<u32>,
    /// The daemon that is started in the parts `startup` and `wire` [default: director, where this program is]
    #[arg(long)]
    director: Option<PathBuf>,
    /// The core to run on [default: the last one]. What needs two takes the highest of the others as well.
    #[arg(long)]
    core: Option<usize>,
    /// Fills a table and says what it took: for the part `memory`, which needs a process for it.
    #[arg(long, hide = true)]
    fill: Option<String>,
    /// Forwards at one end of a wire: for the part `wire`, which needs a process for it.
    #[arg(long, hide = true)]
    forward: Option<String>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench/bench.json")]
    output: PathBuf,
}

/// What is to be measured, and how thoroughly.
pub struct Bench {
    /// Always with the MAC swap, which the others are compared with.
    modes: Vec<Mode>,
    quick: bool,
    protocols: Vec<Protocol>,
    flows: Vec<u32>,
    frames: Vec<usize>,
    runs: usize,
    packets: usize,
    capacity: u32,
    new_connections: u32,
    expiring: u32,
    services: u32,
    listed: u32,
    hertz: u64,
    /// The core that this runs on.
    core: usize,
    /// All that it may run on.
    cores: Vec<usize>,
}

impl Bench {
    fn new(options: &Options, hertz: u64, core: usize, cores: &[usize]) -> anyhow::Result<Self> {
        let quick = options.quick;
        let mut flows = options.flows.clone();
        if flows.is_empty() {
            flows = vec![1, 1_000, 10_000, 100_000, 1_000_000];
            flows.extend((!quick).then_some(10_000_000));
        }
        let capacity = options.capacity.unwrap_or(if quick { 1_000_000 } else { 10_000_000 });
        let is_wanted =
            |mode: &Mode| *mode == Mode::Macswap || options.modes.is_empty() || options.modes.contains(mode);
        let bench = Self {
            modes: Mode::ALL.into_iter().filter(is_wanted).collect(),
            quick,
            protocols: options.protocols.clone(),
            flows,
            frames: options.frames.clone(),
            runs: options.runs.unwrap_or(if quick { 3 } else { 7 }),
            packets: options.packets.unwrap_or(if quick { 200_000 } else { 1_000_000 }),
            capacity,
            new_connections: options.new_connections.unwrap_or(capacity / 10),
            expiring: options.expiring.unwrap_or(if quick { 100_000 } else { 1_000_000 }),
            services: options.services.unwrap_or(if quick { 2_000 } else { 10_000 }),
            listed: options.listed.unwrap_or(if quick { 10_000 } else { 50_000 }),
            hertz,
            core,
            cores: cores.to_vec(),
        };
        let numbers = [bench.capacity, bench.new_connections, bench.expiring, bench.listed];
        for &number in bench.flows.iter().chain(&numbers) {
            ensure!((1..=MAX_FLOWS).contains(&number), "{number} flows; there may be 1 to {MAX_FLOWS}");
        }
        ensure!(bench.new_connections <= capacity, "more new connections in a run than there is room for");
        ensure!((2..=100_000).contains(&bench.services), "there may be 2 to 100000 services");
        ensure!(bench.runs > 0 && bench.packets > 0, "there must be a run, and a packet in it");
        ensure!(bench.frames.iter().all(|bytes| (60..=1514).contains(bytes)), "frames have 60 to 1514 bytes");
        Ok(bench)
    }

    /// Our core, and another one.
    fn two_cores(&self) -> anyhow::Result<[usize; 2]> {
        let others = self.cores.iter().copied().filter(|core| *core != self.core);
        let other = others.max().context("this needs two cores, and there is only one that may be used")?;
        Ok([self.core, other])
    }
}

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(task) = &options.forward {
        return serde_json::from_str::<Task>(task).context("what to forward cannot be read")?.run();
    }
    let cores = machine::cores();
    let last = cores.iter().max().copied();
    let core = options.core.or(last).context("the system does not say which cores there are; use --core")?;
    let (eal, machine) = machine::start(core, cores.len())?;
    let bench = Bench::new(&options, eal.tsc_hz(), core, &cores)?;
    if let Some(mode) = &options.fill {
        let pool = pool(&eal)?;
        return say(&serde_json::to_string(&Filled::here(mode, &bench, &pool)?)?);
    }
    let report = measure(&options, &bench, &eal, machine)?;
    // Before the table, so that whoever stops reading it has the figures.
    report.write_json(&options.output)?;
    say(&report.table())?;
    say(&format!("\nwritten to {}", options.output.display()))?;
    let path = options.output.with_extension("svg");
    match plot::svg(&report)? {
        Some(plot) => {
            report::write(&path, &plot)?;
            say(&format!("plotted in {}", path.display()))?;
        }
        // One of an earlier run would be taken for this one's.
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        },
    }
    // Every mbuf must be back; an error that holds the EAL cannot leave this thread.
    eal.cleanup().map_err(|error| error.reason)?;
    let failures = report.failures();
    ensure!(failures.is_empty(), "not everything could be measured:\n  {}", failures.join("\n  "));
    Ok(())
}

/// A line to standard output. Nobody need read it to its end.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// What all generators on the first core take their buffers from.
fn pool(eal: &Eal) -> anyhow::Result<Mempool> {
    Ok(Mempool::create(eal, "bench", &MempoolConfig { count: 1023, ..MempoolConfig::default() })?)
}

/// Everything that holds on to the EAL is gone when this returns.
fn measure(options: &Options, bench: &Bench, eal: &Eal, machine: Machine) -> anyhow::Result<Report> {
    let pool = pool(eal)?;
    let parts: Vec<_> = Part::value_variants().iter().filter(|part| options.parts.contains(part)).collect();
    let expected = |part: &Part| match part {
        Part::Memory => memory::expected(bench),
        Part::Startup => startup::expected(bench),
        Part::Inprocess => inprocess::expected(bench),
        Part::Newconn => newconn::expected(bench),
        Part::Workers => workers::expected(bench),
        Part::Wire => wire::expected(bench, Wanted::Rates),
        Part::Loss => wire::expected(bench, Wanted::Loss),
        Part::Slices => wire::expected_of_slices(bench),
        Part::Silence => silence::expected(bench),
    };
    let limit = bench.quick.then_some(QUICK);
    let progress = Progress::new(parts.iter().map(|part| expected(part)).sum(), limit)?;
    let mut report = Report::new(machine);
    let director = options.director.as_deref();
    let (mut at, mut times) = (0, Vec::new());
    for part in parts {
        let start = Instant::now();
        match part {
            Part::Memory => memory::run(bench, &mut report, &progress),
            Part::Startup => startup::run(bench, director, &mut report, &progress),
            Part::Inprocess => inprocess::run(bench, &pool, &mut report, &progress),
            Part::Newconn => newconn::run(bench, &pool, &mut report, &progress),
            Part::Workers => workers::run(bench, eal, &mut report, &progress),
            Part::Wire => wire::run(bench, Wanted::Rates, director, &mut report, &progress),
            Part::Loss => wire::run(bench, Wanted::Loss, director, &mut report, &progress),
            Part::Slices => wire::run_slices(bench, director, &mut report, &progress),
            Part::Silence => silence::run(bench, &pool, &mut report, &progress),
        }
        at += expected(part);
        progress.at(at);
        times.push(format!("{} {:.1} s", part.name(), start.elapsed().as_secs_f64()));
    }
    report.note(format!("this took {:.1} s: {}", progress.finish().as_secs_f64(), times.join(", ")));
    let shortened = progress.shortened();
    if !shortened.is_empty() {
        report.note(format!("shortened, to end in time: {}", shortened.join("; ")));
    }
    Ok(report)
}
