//! A lab in which director carries real traffic: network namespaces for hosts, veth pairs for cables, real nginx servers,
//! curl and wrk as clients, tcpdump on the wires. The demo and the end-to-end tests are stories told with it.
//!
//! It must never touch anything it did not make: every namespace it makes is named after the lab, every process it ends is
//! one it started or one inside its namespaces, and nothing is changed in the machine's own network namespace. Whatever
//! happens (a failed test, a panic, Ctrl-C) the lab is taken down; if it is killed outright, the next lab clears it away.
//!
//! ```no_run
//! use lab::{Director, Lab, Mode, Wire};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new(Mode::Nat)?;
//! let director = Director::start(&lab, Wire::AfPacket)?;
//! director.balance_http()?;
//! let page = lab.client.run("curl -sf http://198.51.100.8/")?;
//! # Ok(()) }
//! ```
//!
//! The way to read it: [`lifetime`] (what is taken down and when), [`process`] and [`host`] (commands in a namespace),
//! [`topology`] (who is wired to whom, and why), [`ipv6`] (the same with longer addresses), [`router`], [`server`] (nginx), [`decapsulate`]
//! (a tunnel's end at a server), [`vlan`] (an access port of a switch), [`director`] (the daemon under test and `lbctl`),
//! [`capture`] and [`steps`] (what was on the wires), [`counters`], [`list`].

pub mod capture;
pub mod counters;
pub mod decapsulate;
pub mod director;
pub mod host;
pub mod ipv6;
pub mod lifetime;
pub mod list;
pub mod process;
pub mod router;
pub mod server;
pub mod steps;
pub mod topology;
pub mod vlan;

pub use capture::{Capture, Frame};
pub use director::{Director, Wire};
pub use host::Host;
pub use process::Process;
pub use server::Server;
pub use topology::{Lab, Mode};

use std::time::{Duration, Instant};

/// Asks `condition` every 50 ms until it holds, for at most `limit`.
///
/// # Errors
/// What was waited for (`what`) and for how long, or the error of the condition itself.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !condition()? {
        anyhow::ensure!(Instant::now() < deadline, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
