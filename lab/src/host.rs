//! A host of the lab: one network namespace, with loopback up and everything else as its cables make it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lifetime::{self, Lease};
use crate::process::{self, Finished, Process};

/// Seconds after which a command in a host counts as hanging and is ended.
const COMMAND_LIMIT: &str = "300";

/// One network namespace. It goes when its lab goes.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: String,
    directory: PathBuf,
    logs: Cell<u32>,
}

impl Host {
    /// Makes the namespace `<lab>-<name>` and the host's own directory in the lab's.
    pub(crate) fn new(lease: &Lease, name: &str) -> Result<Self> {
        let namespace = format!("{}-{name}", lease.id());
        let directory = lease.directory().join(name);
        {
            let _live = lifetime::live();
            std::fs::create_dir(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            process::run("ip", ["netns", "add", &namespace])?;
        }
        let host = Self { name: name.to_owned(), namespace, directory, logs: Cell::new(0) };
        // The lab speaks IPv4; router solicitations and the like would only be noise in the counters.
        host.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        host.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// What the host is called in this lab: `client`, `director`, `r1` …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's name, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Files of this host.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that will run in this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Runs a line (words parted by blanks, no quotes) to its end and returns its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than five minutes.
    pub fn run(&self, line: &str) -> Result<String> {
        let done = self.try_run(line)?;
        if !done.status.success() {
            bail!("{}: `{line}` failed ({}): {}{}", self.name, done.status, done.stdout, done.stderr.trim());
        }
        Ok(done.stdout)
    }

    /// Runs a line and returns how it ended, for one that is expected to fail.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub fn try_run(&self, line: &str) -> Result<Finished> {
        let mut command = self.command("timeout");
        command.args(["--kill-after=5", COMMAND_LIMIT]).args(line.split_ascii_whitespace());
        Finished::of(&mut command)
    }

    /// Starts a line in the background.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, line: &str) -> Result<Process> {
        let mut words = line.split_ascii_whitespace();
        let program = words.next().context("an empty line cannot be started")?;
        let mut command = self.command(program);
        command.args(words);
        self.start(command, program)
    }

    /// Starts a command made by [`Host::command`] in the background; `log` names its log among the host's files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, command: Command, log: &str) -> Result<Process> {
        self.logs.set(self.logs.get() + 1);
        let base = log.rsplit('/').next().unwrap_or(log);
        Process::start(command, &self.directory.join(format!("{base}-{}.log", self.logs.get())))
    }

    /// `ip` with the words of `line`, in this host.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn ip(&self, line: &str) -> Result<String> {
        process::run("ip", ["-n", &self.namespace].into_iter().chain(line.split_ascii_whitespace()))
    }

    /// Sets a kernel parameter of this host's network.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(&format!("sysctl -qw {name}={value}")).map(drop)
    }

    /// Lets this host speak IPv6 on an interface, with these addresses (with the length of their prefixes).
    ///
    /// # Errors
    /// When Linux has no IPv6.
    pub fn enable_ipv6(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        self.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
        self.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "0")?;
        for address in addresses {
            // Usable at once.
            self.ip(&format!("address add {address} dev {interface} nodad"))?;
        }
        Ok(())
    }

    /// The link-layer address of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.run(&format!("cat /sys/class/net/{interface}/address"))?;
        let mut mac = [0; 6];
        let bytes: Vec<_> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        anyhow::ensure!(bytes.len() == mac.len(), "`{text}` is not a MAC address");
        mac.copy_from_slice(&bytes);
        Ok(mac)
    }

    /// The names of all interfaces.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Link {
            ifname: String,
        }
        let links: Vec<Link> =
            serde_json::from_str(&self.ip("-j link show")?).context("`ip -j link show`")?;
        Ok(links.into_iter().map(|link| link.ifname).collect())
    }
}
