//! A packet generator for load balancers: see `--help`, and docs/benchmarks.md.
//!
//! It knows DPDK devices and the frames it sends, and must never know what it measures.

mod check;
mod flows;
mod frames;
mod job;
mod options;
mod outcome;
mod pace;
mod search;
mod servers;
mod tester;

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use dpdk_sys::Eal;

use crate::job::Done;
use crate::options::{Command, Job, Line, Options, Start};
use crate::tester::Tester;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> anyhow::Result<()> {
    let options = Options::parse();
    let eal = start(&options)?;
    // Whether a driver was used that does not give back what is in its rings.
    let mut keeps_buffers = false;
    let outcome = run(&options, &eal, &mut keeps_buffers);
    if let Err(left) = eal.cleanup()
        && !keeps_buffers
    {
        eprintln!("pktgen: DPDK is left as it is: {left}");
    }
    outcome
}

/// Everything that holds on to the EAL is gone when this returns.
fn run(options: &Options, eal: &Eal, keeps_buffers: &mut bool) -> anyhow::Result<()> {
    if let Some(Command::Batch(_)) = options.command {
        return batch(eal, keeps_buffers);
    }
    let job = options.job.as_ref().context("say what to send by: --device; --help tells more")?;
    *keeps_buffers = job.keeps_buffers();
    let mut tester = open(eal, job)?;
    let done = job::run(&mut tester, job);
    tester.close()?;
    let done = done?;
    let text = if job.json { serde_json::to_string_pretty(&done)? } else { done.to_string() };
    say(&text)?;
    done.check()
}

/// A line to standard output, at once: whoever asked waits for it. False where nobody reads any more, as with `| head`.
fn say(text: &str) -> anyhow::Result<bool> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

fn open(eal: &Eal, job: &Job) -> anyhow::Result<Tester> {
    Tester::open(eal, &job.device()).with_context(|| format!("device {}", job.device))
}

/// Does one job after the other. One that fails is answered with its error, and the next is read.
fn batch(eal: &Eal, keeps_buffers: &mut bool) -> anyhow::Result<()> {
    let mut devices = HashMap::new();
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let answer = match job_of(eal, &line, &mut devices, keeps_buffers) {
            Ok(Some(done)) => serde_json::to_string(&done)?,
            Ok(None) => "{}".to_owned(),
            Err(error) => serde_json::json!({ "error": format!("{error:#}") }).to_string(),
        };
        if !say(&answer)? {
            break;
        }
    }
    devices.into_values().try_for_each(Tester::close)
}

fn job_of(
    eal: &Eal,
    line: &str,
    devices: &mut HashMap<String, Tester>,
    keeps_buffers: &mut bool,
) -> anyhow::Result<Option<Done>> {
    let Line { job } = Line::try_parse_from(line.split_whitespace())?;
    *keeps_buffers |= job.keeps_buffers();
    if job.close {
        let tester = devices.remove(&job.device).context("the device is not open")?;
        tester.close()?;
        return Ok(None);
    }
    let tester = match devices.remove(&job.device) {
        Some(tester) => tester,
        None => open(eal, &job)?,
    };
    let tester = devices.entry(job.device.clone()).or_insert(tester);
    job::run(tester, &job).map(Some)
}

fn start(options: &Options) -> anyhow::Result<Eal> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let last = || cores.iter().map(|core| core.id).max();
    let Start { core, memory, eal, pci } = match &options.command {
        Some(Command::Batch(start)) => start,
        None => &options.start,
    };
    let core = core.or_else(last).context("the system does not say which cores there are; use --core")?;
    let is_pci = |device: &&String| device.split(',').next().is_some_and(|name| name.contains(':'));
    let pci: Vec<_> = pci.iter().chain(options.job.iter().map(|job| &job.device).filter(is_pci)).collect();

    let mut arguments: Vec<String> = vec!["-l".into(), core.to_string(), "--no-telemetry".into()];
    // Where several processes share buffers, DPDK wants to hand over few files.
    arguments.push("--single-file-segments".into());
    arguments.extend(["--log-level".into(), "error".into()]);
    if dpdk_sys::free_huge_pages() > 0 {
        arguments.push("--in-memory".into());
    } else {
        arguments.extend(["--no-huge", "--no-shconf", "-m"].map(String::from));
        arguments.push(memory.to_string());
    }
    if pci.is_empty() {
        arguments.push("--no-pci".into());
    }
    arguments.extend(pci.iter().flat_map(|device| ["-a".to_owned(), (*device).clone()]));
    arguments.extend(eal.iter().cloned());
    Eal::init(&arguments).context("DPDK does not start; its own words are above")
}
