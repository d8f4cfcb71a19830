//! Writes what fuzzing begins with: `seeds TARGET DIRECTORY`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let target = words.next().context("usage: seeds TARGET DIRECTORY")?;
    let directory = words.next().context("usage: seeds TARGET DIRECTORY")?;
    fs::create_dir_all(&directory)?;
    for (number, seed) in fuzz::seeds(&target)?.iter().enumerate() {
        fs::write(Path::new(&directory).join(format!("seed-{number:03}")), seed)?;
    }
    Ok(())
}
