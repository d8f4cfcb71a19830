//! `dpdk-testpmd`, which swaps nothing but MAC addresses: what the wire itself gets through.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};

use anyhow::{Context, bail};

use super::process::{End, Process, directory};
use super::{Cores, director};
use crate::traffic::DIRECTOR;

/// A testpmd at the server's end of a memif.
pub struct Testpmd {
    process: Process,
    wire: String,
    /// Both kept open: it ends with its input, and at its next word where nobody reads.
    _input: ChildStdin,
    _output: BufReader<ChildStdout>,
}

impl Testpmd {
    /// Starts one, and waits until it forwards.
    pub fn start(cores: Cores) -> anyhow::Result<Self> {
        let wire = format!("director-bench-{}-testpmd", std::process::id());
        let device = format!("net_memif0,role=server,id=0,socket={wire},mac={DIRECTOR}");
        let lcores = format!("0@{},1@{}", cores.ours, cores.other);
        let mut arguments = vec!["--lcores", &lcores, "--no-pci", "--no-telemetry", "--vdev", &device];
        // As the daemon does.
        arguments.extend(if dpdk_sys::free_huge_pages() > 0 {
            &["--in-memory"][..]
        } else {
            &["--no-huge", "--no-shconf", "-m", "96"]
        });
        let mbufs = format!("--total-num-mbufs={}", director::MBUFS);
        arguments.extend(["--", "--forward-mode=mac", "--auto-start", "-i", "--no-lsc-interrupt", &mbufs]);
        arguments.extend(["--rxd=1024", "--txd=1024"]);
        let mut process = Process::start(Path::new("dpdk-testpmd"), arguments, cores, directory()?, true)?;
        let (Some(input), Some(output)) = process.take_pipes() else { bail!("testpmd has no pipes") };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        while !line.starts_with("Checking link") {
            line.clear();
            let length = output.read_line(&mut line).context("testpmd's output cannot be read")?;
            if length == 0 {
                bail!(
                    "dpdk-testpmd has ended; is it installed (on Debian: apt-get install dpdk-dev)? It says:\n{}",
                    process.log()
                );
            }
        }
        Ok(Self { process, wire, _input: input, _output: output })
    }
}

impl End for Testpmd {
    fn wire(&self) -> &str {
        &self.wire
    }

    fn process(&self) -> &Process {
        &self.process
    }
}
