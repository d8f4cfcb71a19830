//! The director daemon: reads its configuration file, takes its ports, starts its workers, and serves `lbctl` until it is
//! told to stop. This package only puts together what the other crates make.

mod daemon;
mod eal;
mod kernel;
mod links;
mod ports;
mod workers;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use control::config::Config;
use tracing_subscriber::EnvFilter;

/// A layer-4 load balancer: LVS in user space, on DPDK.
///
/// The daemon takes the ports named in its configuration file and balances what arrives on them as lbctl(8) tells it.
/// SIGTERM and SIGINT stop it. It logs to standard error; RUST_LOG (error, warn, info, debug, trace) says how much.
#[derive(Parser)]
#[command(name = "director", version = concat!(env!("DIRECTOR_VERSION"), ", DPDK ", env!("DIRECTOR_DPDK_VERSION")))]
struct Arguments {
    /// The configuration file; docs/configuration.md describes it.
    #[arg(long, short, value_name = "FILE", default_value = "/etc/director/director.toml")]
    config: PathBuf,

    /// Only read the configuration file and say what is wrong with it.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("director: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cores = core_affinity::get_core_ids().context("cannot find out which cores this process may use")?;
    let cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    let config = Config::load(&arguments.config, &cores)?;
    if arguments.check {
        return Ok(());
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "it must be started by root, because it takes network ports and makes interfaces; try sudo"
    );
    daemon::run(&config, &cores)
}
