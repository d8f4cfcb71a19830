//! Part `memory`: what a connection takes of the machine's memory, all in, when the table is full.
//!
//! It is read from the kernel, which knows what this process holds, and not computed from sizes.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use dpdk_sys::Mempool;
use serde::{Deserialize, Serialize};

use crate::director::Director;
use crate::generator::{Generator, Order};
use crate::machine::{self, kilobytes};
use crate::progress::Progress;
use crate::report::{Report, Subject};
use crate::traffic::{Phase, Protocol, Sender, Stream};
use crate::{Bench, newconn};

/// The size of a bucket and of an entry: a cache line each.
const LINE: u64 = 64;

const PROTOCOL: Protocol = Protocol::Udp;

/// Bytes that a connection takes at most, rounded up: for the question whether there is enough memory to try.
const AT_MOST: u64 = 256;

/// As often as it takes to see that it is the same every time: it hardly differs, and takes long.
fn runs(bench: &Bench) -> usize {
    bench.runs.min(if bench.quick { 2 } else { 3 })
}

/// Milliseconds that a fill takes.
fn fill(bench: &Bench) -> u64 {
    200 + u64::from(bench.capacity) / 3000
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    (newconn::METHODS.len() * runs(bench)) as u64 * fill(bench)
}

/// Fills tables to capacity and adds the figures to `report`.
pub fn run(bench: &Bench, report: &mut Report, progress: &Progress) {
    for (mode, _) in newconn::METHODS {
        progress.say(format!("memory: filling a table, {mode}"));
        let outcome = measure(bench, mode, report, progress);
        if let Err(error) = outcome.with_context(|| format!("memory of connections, {mode}")) {
            report.fail(&error);
        }
    }
}

fn measure(
    bench: &Bench,
    mode: &'static str,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    let capacity = bench.capacity;
    let needed = u64::from(capacity) * AT_MOST;
    ensure!(
        machine::available_memory().is_none_or(|available| available > needed),
        "{capacity} connections may need {needed} bytes, which are not to be had"
    );
    let [mut held, mut buckets, mut rest, mut reserved, mut seconds] = [(); 5].map(|()| Vec::new());
    for _ in progress.runs("memory", runs(bench), fill(bench)) {
        let filled = Filled::in_another_process(mode, bench)?;
        let by_connection = |bytes: u64| bytes as f64 / filled.connections as f64;
        held.push(by_connection(filled.held));
        buckets.push(by_connection(filled.buckets * LINE));
        rest.push(by_connection(filled.held) - by_connection(filled.buckets * LINE) - LINE as f64);
        reserved.push(filled.reserved as f64 / f64::from(capacity));
        seconds.push(filled.construction_seconds);
    }
    let subject = Subject {
        part: "memory",
        mode,
        protocol: PROTOCOL.name(),
        flows: capacity,
        frame_bytes: newconn::FRAME_BYTES,
        workers: 1,
        capacity,
        scheduler: newconn::SCHEDULER,
    };
    let entries = vec![LINE as f64; held.len()];
    report.add(&subject, "bytes_per_connection", "bytes", held);
    report.add(&subject, "bytes_in_buckets", "bytes", buckets);
    report.add(&subject, "bytes_in_entry", "bytes", entries);
    report.add(&subject, "bytes_in_timers_and_rest", "bytes", rest);
    report.add(&subject, "reserved_per_connection", "bytes", reserved);
    report.add(&subject, "construction_seconds", "s", seconds);
    Ok(())
}

/// What it took to have a full table.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filled {
    connections: u64,
    buckets: u64,
    /// Bytes of memory, and of address space.
    held: u64,
    reserved: u64,
    construction_seconds: f64,
}

impl Filled {
    /// Has it done by this program in a process of its own. Memory that this one has had and given back could be used again
    /// there, and would not be seen.
    fn in_another_process(mode: &str, bench: &Bench) -> anyhow::Result<Self> {
        let (core, capacity) = (bench.core.to_string(), bench.capacity.to_string());
        let output = Command::new(std::env::current_exe()?)
            .args(["--fill", mode, "--core", &core, "--capacity", &capacity])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start this program once more")?;
        ensure!(output.status.success(), "the process that fills a table ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("the process that fills a table says something else")
    }

    /// Fills a table, in a process that has done nothing else.
    pub fn here(mode: &str, bench: &Bench, pool: &Mempool) -> anyhow::Result<Self> {
        let found = newconn::METHODS.into_iter().find(|(name, _)| *name == mode);
        let (_, method) = found.with_context(|| format!("there is no mode {mode}"))?;
        let capacity = bench.capacity;
        let stream = Stream::new(PROTOCOL, Sender::Clients, Phase::Opening, newconn::FRAME_BYTES)?;
        // The generator's buffers are no connection's.
        let generator = Generator::new(pool.clone(), stream.clone());
        generator.send(stream.clone(), Order::InTurn(0), 0)?;
        let before = Held::now()?;
        let start = Instant::now();
        let mut director = Director::new(method, newconn::SCHEDULER, capacity, generator, bench.hertz)?;
        let construction_seconds = start.elapsed().as_secs_f64();
        director.pass(stream.clone(), Order::InTurn(0), capacity as usize)?;
        let after = Held::now()?;
        let connections = director.connections();
        ensure!(connections * 20 > u64::from(capacity) * 19, "only {connections} of {capacity} were opened");
        Ok(Self {
            connections,
            buckets: director.buckets() as u64,
            held: after.memory.saturating_sub(before.memory),
            reserved: after.reserved.saturating_sub(before.reserved),
            construction_seconds,
        })
    }
}

/// What this process has of the machine's memory, in bytes.
struct Held {
    /// Pages, small, transparent huge and huge ones, and what the kernel keeps to find them.
    memory: u64,
    /// Addresses that there may be pages at.
    reserved: u64,
}

impl Held {
    fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/self/status")?;
        let bytes =
            |key: &str| kilobytes(&text, key).with_context(|| format!("/proc/self/status has no {key}"));
        Ok(Self {
            memory: bytes("VmRSS:")? + bytes("HugetlbPages:")? + bytes("VmPTE:")?,
            reserved: bytes("VmSize:")?,
        })
    }
}
