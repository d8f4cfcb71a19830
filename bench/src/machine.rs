//! The machine that is measured on: its DPDK, its core, and what a reader of the figures must know of it.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::Context;
use core_affinity::CoreId;
use dpdk_sys::Eal;
use serde::Serialize;

/// Where figures come from.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cycles of its time-stamp counter in a second. Figures in cycles are of these.
    pub tsc_hz: u64,
    /// The commit measured; ends in `-dirty` where the sources were changed since.
    pub commit: String,
    /// True where DPDK's memory is in huge pages. The table's is as the kernel gives it.
    pub huge_pages: bool,
    /// The DPDK in use.
    pub dpdk: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, tsc_hz, commit, huge_pages, dpdk } = self;
        let pages = if *huge_pages { "huge pages" } else { "no huge pages" };
        write!(f, "commit {commit} on {cpu}, TSC {:.3} GHz, {dpdk}, {pages}", *tsc_hz as f64 / 1e9)
    }
}

/// Pins the calling thread to `core`, by default the last one it may run on, and starts DPDK on it.
pub fn start(core: Option<usize>) -> anyhow::Result<(Eal, Machine)> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let last = || cores.iter().map(|core| core.id).max();
    let core = core.or_else(last).context("the system does not say which cores there are; use --core")?;
    anyhow::ensure!(core_affinity::set_for_current(CoreId { id: core }), "cannot run on core {core}");

    let huge_pages = free_huge_pages() > 0;
    let core = core.to_string();
    let mut arguments = vec!["-l", &core, "--no-pci", "--no-telemetry", "--log-level", "error"];
    arguments.extend(if huge_pages {
        &["--in-memory"][..]
    } else {
        &["--no-huge", "--no-shconf", "-m", "64"]
    });
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    let eal = Eal::init(&arguments).context("DPDK does not start; its own words are above")?;
    let machine = Machine {
        cpu: cpu().unwrap_or_else(|| "a processor without a name".to_owned()),
        tsc_hz: eal.tsc_hz(),
        commit: commit().unwrap_or_else(|| "unknown".to_owned()),
        huge_pages,
        dpdk: dpdk_sys::version().to_owned(),
    };
    Ok((eal, machine))
}

/// Memory that can still be had, in bytes.
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Huge pages of any size that nobody uses.
fn free_huge_pages() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free = |size: fs::DirEntry| {
        let text = fs::read_to_string(size.path().join("free_hugepages")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    sizes.flatten().filter_map(free).sum()
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
