//! Replays recordings of what a kernel's IPVS did against a throw-away director.
//!
//! A recording's first line tells its format. Everything that was recorded and can be done again is done again; what then
//! comes out takes the recorded words' place, so that a comparison of the two texts shows what differs. It must never judge
//! by anything else than that text.

pub mod as_ipvsadm;
mod conversation;
pub mod frames;
mod listing;
pub mod recording;
mod sequences;
pub mod stage;
mod states;
mod transcript;

use std::path::Path;

use anyhow::{Context, Result, bail};
use control::engine::ChangeCheck;

use crate::recording::Part;
use crate::stage::Stage;

/// Replays the recording in `file` against a director that takes what `check` takes.
///
/// # Errors
/// Where the file cannot be read or is no recording, or the director cannot be set up.
pub fn replay(file: &Path, check: ChangeCheck) -> Result<Vec<Part>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("# connection states") {
        states::replay(&text, &Stage::new(check)?)
    } else if let Some(kind) = sequences::Kind::of(first) {
        sequences::replay(&text, &kind, check)
    } else if text.lines().any(|line| line.starts_with("$ ")) {
        let directory = file.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
        transcript::replay(&text, &Stage::new(check)?, &directory)
    } else {
        bail!(
            "{} is no recording: neither states, nor a scheduler's choices, nor commands behind `$ `; its first line is {first:?}",
            file.display()
        )
    }
}
