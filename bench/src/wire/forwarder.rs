//! A yardstick of ours at the server's end of a memif: see [`crate::forward`].

use std::io::{BufRead, BufReader};

use anyhow::{Context, bail};

use super::process::{End, Process, directory};
use super::{Cores, director};
use crate::Mode;
use crate::forward::{READY, Task};
use crate::traffic::Protocol;

/// This program, forwarding.
pub struct Forwarder {
    process: Process,
    wire: String,
}

impl Forwarder {
    /// Starts one, and waits until it forwards.
    pub fn start(cores: Cores, mode: Mode, protocol: Protocol, flows: u32) -> anyhow::Result<Self> {
        let wire = format!("director-bench-{}-{}", std::process::id(), mode.name());
        let task = Task {
            mode: mode.name().to_owned(),
            wire: wire.clone(),
            mbufs: director::MBUFS,
            core: cores.other,
            protocol: protocol.name().to_owned(),
            flows,
        };
        let arguments = ["--forward".to_owned(), serde_json::to_string(&task)?];
        let mut process = Process::start(&std::env::current_exe()?, arguments, cores, directory()?, true)?;
        let (_, Some(output)) = process.take_pipes() else { bail!("a forwarder has no pipes") };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("a forwarder's output cannot be read")?;
        if line.trim_end() != READY {
            bail!("the forwarder {} has ended; it says:\n{}", mode.name(), process.log());
        }
        Ok(Self { process, wire })
    }
}

impl End for Forwarder {
    fn wire(&self) -> &str {
        &self.wire
    }

    fn process(&self) -> &Process {
        &self.process
    }
}
