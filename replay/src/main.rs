//! `replay FILE`: replays a recording and shows, as a unified diff, what came out differently.
//!
//! Under the names ipvsadm, ipvsadm-save and ipvsadm-restore it is these: so a recording's commands reach the throw-away
//! director. It must not change anything outside a directory of its own.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::supported;

/// Replays a recording of IPVS against a throw-away director and shows what differs. Needs neither root nor a NIC.
///
/// Commands of a recording that use ipvsadm are run by a shell, with pipes; the director they reach is gone afterwards. Other
/// commands are skipped, with their output.
#[derive(Debug, Parser)]
struct Options {
    /// The recording: a transcript of commands, a scheduler's choices, or the states of connections.
    file: PathBuf,
    /// Takes every command that IPVS takes, also where packets would not be balanced so yet.
    #[arg(long)]
    take_all: bool,
}

fn main() -> ExitCode {
    if let Some(status) = replay::as_ipvsadm::run_if_called_so() {
        return status;
    }
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("replay: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing differs.
fn run(options: &Options) -> anyhow::Result<bool> {
    let check = if options.take_all { |_: &_| Ok(()) } else { supported::check };
    let parts = replay::replay(&options.file, check)?;
    let difference = replay::recording::diff(&options.file.to_string_lossy(), &parts);
    match std::io::stdout().write_all(difference.as_bytes()) {
        // Who has seen enough reads no further; what is said below holds all the same.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let different: Vec<_> = parts.iter().filter(|part| !part.is_alike()).collect();
    for part in &different {
        eprintln!("differs: {part}");
    }
    eprintln!("{}: {} parts, {} of them differ", options.file.display(), parts.len(), different.len());
    Ok(different.is_empty())
}
