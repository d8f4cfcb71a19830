//! Counts the instructions of the fast path, which are the same on every machine where times are not, and compares them with
//! those that were recorded.
//!
//! Each scenario is a run of this program of its own under callgrind, which counts only what [`scenario::counted`] does.
//! The wire's own instructions are in every figure; `wire_*` says how many they are.

mod scenario;
#[allow(dead_code, reason = "two programs share it, and neither needs all of it")]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

/// By how much a count may differ from the recorded one, as a share of it.
const TOLERANCE: f64 = 0.03;

/// Set to anything, has the counts written down instead of compared.
const RECORD: &str = "RECORD_INSTRUCTIONS";

/// The recorded counts.
#[derive(Deserialize, Serialize)]
struct Recording {
    /// Which compiler made the code that was counted; another one's may differ by more than the tolerance.
    compiler: String,
    /// Instructions per packet, connection or round, by scenario.
    counts: BTreeMap<String, f64>,
}

fn main() -> Result<()> {
    // Cargo adds options of its own, such as --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match &words[..] {
        [command, name] if command == "run" => scenario::named(name)?.run(),
        filters => {
            compare(|name| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())))
        }
    }
}

fn compare(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let scenarios: Vec<_> = scenario::all().filter(|scenario| wanted(&scenario.name())).collect();
    let mut counts = BTreeMap::new();
    for scenario in &scenarios {
        counts.insert(scenario.name(), count(scenario)?);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/instructions.toml");
    if std::env::var_os(RECORD).is_some() {
        ensure!(
            scenarios.len() == scenario::all().count(),
            "recording needs every scenario; leave out the filter"
        );
        return record(&file, counts);
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let recording: Recording = toml::from_str(&text).with_context(|| format!("in {}", file.display()))?;
    let mut wrong = 0;
    println!("{:<20} {:>9} {:>9} {:>7}", "scenario", "recorded", "counted", "differs");
    for (name, counted) in &counts {
        let recorded = recording.counts.get(name).copied();
        let differs = recorded.map(|recorded| (counted - recorded) / recorded);
        let fits = differs.is_some_and(|differs| differs.abs() <= TOLERANCE);
        wrong += usize::from(!fits);
        let number = |value: Option<f64>| value.map_or("none".into(), |value| format!("{value:.1}"));
        let percent = differs.map_or(String::new(), |differs| format!("{:+.1} %", 100.0 * differs));
        let mark = if fits { "" } else { "  <- not within the tolerance" };
        println!("{name:<20} {:>9} {counted:>9.1} {percent:>7}{mark}", number(recorded));
    }
    let gone: Vec<_> =
        recording.counts.keys().filter(|name| wanted(name) && !counts.contains_key(*name)).collect();
    ensure!(gone.is_empty(), "{} has counts of scenarios that there are not: {gone:?}", file.display());
    ensure!(
        wrong == 0,
        "{wrong} of {} counts differ from the recorded ones by more than {} %.\n\
         They were recorded with {}; this is {}.\n\
         Where the change is meant, record anew: make record-instructions",
        counts.len(),
        100.0 * TOLERANCE,
        recording.compiler,
        compiler()?
    );
    Ok(())
}

fn record(file: &Path, counts: BTreeMap<String, f64>) -> Result<()> {
    let counts = counts.into_iter().map(|(name, count)| (name, (10.0 * count).round() / 10.0)).collect();
    let recording = toml::to_string(&Recording { compiler: compiler()?, counts })?;
    let text =
        format!("# Instructions of the fast path. `make record-instructions` writes this file.\n{recording}");
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("recorded in {}", file.display());
    Ok(())
}

/// Instructions for each thing that the scenario counts by.
fn count(scenario: &Scenario) -> Result<f64> {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.callgrind", scenario.name()));
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--toggle-collect=*scenario::counted*"]);
    command
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["run", &scenario.name()]);
    let done = command.output().context("cannot start valgrind; lab/install-packages installs it")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: valgrind ended with {}: {said}", scenario.name(), done.status);
    let profile = std::fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .context("callgrind wrote no totals")?;
    let instructions: u64 = total.trim().parse().with_context(|| format!("totals: {total}"))?;
    if instructions == 0 {
        bail!(
            "{}: callgrind has seen no instruction; has the counted function been inlined?",
            scenario.name()
        );
    }
    Ok(instructions as f64 / scenario.things() as f64)
}

fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().context("cannot ask rustc for its version")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
