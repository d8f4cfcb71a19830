//! The machine that is measured on: its DPDK, its core, and what a reader of the figures must know of it.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::Context;
use core_affinity::CoreId;
use dpdk_sys::Eal;
use serde::Serialize;

/// Where figures come from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that the benchmark may use.
    pub cores: usize,
    /// Cycles of its time-stamp counter in a second. Figures in cycles are of these.
    pub tsc_hz: u64,
    /// Memory there is, in bytes.
    pub memory_bytes: u64,
    /// True where DPDK's memory is in huge pages. The table's is as the kernel gives it.
    pub huge_pages: bool,
    /// Whether the kernel gives huge pages by itself: `always`, `madvise` or `never`.
    pub transparent_huge_pages: String,
    /// The kernel's release.
    pub kernel: String,
    /// The DPDK in use.
    pub dpdk: String,
    /// The commit measured; ends in `-dirty` where the sources were changed since.
    pub commit: String,
    /// When, in UTC.
    pub date: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, dpdk, kernel, commit, date, .. } = self;
        let (gigahertz, memory) = (self.tsc_hz as f64 / 1e9, self.memory_bytes as f64 / f64::from(1 << 30));
        let pages = if self.huge_pages { "huge pages" } else { "no huge pages" };
        let transparent = &self.transparent_huge_pages;
        writeln!(f, "machine  {cpu}, {cores} cores, TSC {gigahertz:.3} GHz")?;
        writeln!(f, "memory   {memory:.1} GiB, {pages}, transparent huge pages: {transparent}")?;
        writeln!(f, "software {dpdk}, Linux {kernel}")?;
        writeln!(f, "commit   {commit}, measured {date}")
    }
}

/// The cores that this process may run on.
pub fn cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Keeps the calling thread on `core`.
pub fn pin(core: usize) -> anyhow::Result<()> {
    anyhow::ensure!(core_affinity::set_for_current(CoreId { id: core }), "cannot run on core {core}");
    Ok(())
}

/// Pins the calling thread to `core`, one of the `cores` there are, and starts DPDK on it.
pub fn start(core: usize, cores: usize) -> anyhow::Result<(Eal, Machine)> {
    pin(core)?;
    let huge_pages = dpdk_sys::free_huge_pages() > 0;
    let core = core.to_string();
    let mut arguments = vec!["-l", &core, "--no-pci", "--no-telemetry", "--log-level", "error"];
    arguments.extend(if huge_pages {
        &["--in-memory"][..]
    } else {
        &["--no-huge", "--no-shconf", "-m", "64"]
    });
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    let eal = Eal::init(&arguments).context("DPDK does not start; its own words are above")?;
    let unknown = || "unknown".to_owned();
    let machine = Machine {
        cpu: cpu().unwrap_or_else(|| "a processor without a name".to_owned()),
        cores,
        tsc_hz: eal.tsc_hz(),
        memory_bytes: meminfo("MemTotal:").unwrap_or_default(),
        huge_pages,
        transparent_huge_pages: transparent_huge_pages().unwrap_or_else(unknown),
        kernel: line_of("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
        dpdk: dpdk_sys::version().to_owned(),
        commit: commit().unwrap_or_else(unknown),
        date: date(),
    };
    Ok((eal, machine))
}

/// Memory that can still be had, in bytes.
pub fn available_memory() -> Option<u64> {
    meminfo("MemAvailable:")
}

fn meminfo(key: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// The bytes that a line `key` of the kernel's gives in units of 1024.
pub fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn line_of(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The choice in force is the one in brackets.
fn transparent_huge_pages() -> Option<String> {
    let text = line_of("/sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, chosen) = text.split_once('[')?;
    Some(chosen.split_once(']')?.0.to_owned())
}

fn date() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn commit() -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let describe = ["describe", "--always", "--dirty", "--abbrev=12"];
    let output = Command::new("git").args(["-C", root]).args(describe).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
