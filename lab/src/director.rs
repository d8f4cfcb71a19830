//! The daemon under test and `lbctl`, as built: found beside the program that runs (or by `DIRECTOR_BIN` and `LBCTL_BIN`).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;

use crate::counters::Counters;
use crate::host::Host;
use crate::process::{self, Finished, Process};
use crate::topology::{self, Lab, Mode, SERVERS, SERVICE};
use crate::wait_until;
use crate::{ipv6, list};

/// How long the daemon may take to say that it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the daemon may take to say that it stops, and then to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What DPDK sits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A packet socket (`net_af_packet`).
    AfPacket,
    /// An XDP socket (`net_af_xdp`).
    AfXdp,
}

impl Wire {
    /// The DPDK device string for port `index` on the interface.
    pub fn device(self, index: usize, interface: &str) -> String {
        match self {
            Self::AfPacket => format!("net_af_packet{index},iface={interface}"),
            Self::AfXdp => format!("net_af_xdp{index},iface={interface}"),
        }
    }
}

/// A running director. Dropping it ends it.
#[derive(Debug)]
pub struct Director {
    process: Process,
    notifications: UnixDatagram,
    socket: PathBuf,
    mode: Mode,
    wire: Wire,
}

impl Director {
    /// Starts the daemon on the lab's ports and waits until it says READY=1.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the last lines of its log are in the error.
    pub fn start(lab: &Lab, wire: Wire) -> Result<Self> {
        Self::start_with(lab, &Configuration::new(lab, wire)?)
    }

    /// [`Director::start`] with a configuration that has been changed.
    ///
    /// # Errors
    /// As [`Director::start`].
    pub fn start_with(lab: &Lab, configuration: &Configuration) -> Result<Self> {
        let file = configuration.write(lab)?;
        let notify = lab.directory().join("notify.sock");
        // A director that ran before in this lab had one, too.
        let _ = fs::remove_file(&notify);
        let notifications =
            UnixDatagram::bind(&notify).with_context(|| format!("cannot bind {}", notify.display()))?;
        notifications.set_read_timeout(Some(Duration::from_millis(100)))?;

        let mut command = lab.director.command(binary("director", "DIRECTOR_BIN")?);
        command.arg("--config").arg(&file).env("NOTIFY_SOCKET", &notify);
        let process = lab.director.start(command, "director")?;
        let Configuration { socket, wire, .. } = configuration.clone();
        let mut director = Self { process, notifications, socket, mode: lab.mode, wire };
        let ready = director.wait_for("READY=1", START_LIMIT);
        ready.map_err(|error| director.blame(&error))?;
        Ok(director)
    }

    fn wait_for(&mut self, state: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut datagram = [0; 4096];
        loop {
            match self.notifications.recv(&mut datagram) {
                Ok(length) => {
                    let message = String::from_utf8_lossy(&datagram[..length]);
                    if message.lines().any(|line| line == state) {
                        return Ok(());
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if let Some(status) = self.process.ended()? {
                        bail!("director ended ({status}) without saying {state}");
                    }
                    ensure!(
                        Instant::now() < deadline,
                        "director did not say {state} within {} s",
                        limit.as_secs()
                    );
                }
                Err(error) => return Err(error).context("cannot read director's notifications"),
            }
        }
    }

    /// The error, followed by the end of director's log.
    pub fn blame(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\ndirector's log ends so:\n{}", self.process.log_tail())
    }

    /// `lbctl` with these words, parted by blanks; returns its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn lbctl(&self, words: &str) -> Result<String> {
        process::run_command(&mut self.lbctl_command(words)?)
    }

    /// `lbctl` with these words, which reads a file.
    ///
    /// # Errors
    /// When it fails.
    pub fn lbctl_reading(&self, words: &str, file: &Path) -> Result<String> {
        let input = fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        process::run_reading(&mut self.lbctl_command(words)?, input.into())
    }

    /// `lbctl` with these words, and how it ended.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub fn try_lbctl(&self, words: &str) -> Result<Finished> {
        Finished::of(&mut self.lbctl_command(words)?)
    }

    fn lbctl_command(&self, words: &str) -> Result<Command> {
        let mut command = Command::new(lbctl_binary()?);
        command.args(words.split_ascii_whitespace()).env("LBCTL_SOCKET", &self.socket);
        Ok(command)
    }

    /// The words that set up the lab's service, round robin over both servers.
    pub fn http_rules(&self) -> Vec<String> {
        let forward = self.mode.option();
        let destination = |server| format!("-a -t {SERVICE} -r {server}:80 {forward} -w 1");
        let mut rules = vec!["-C".to_owned(), format!("-A -t {SERVICE} -s rr")];
        rules.extend(SERVERS.map(destination));
        rules
    }

    /// Types [`Director::http_rules`].
    ///
    /// # Errors
    /// When `lbctl` refuses one.
    pub fn balance_http(&self) -> Result<()> {
        self.http_rules().iter().try_for_each(|rule| self.lbctl(rule).map(drop))
    }

    /// Waits until every connection is counted inactive and returns the list.
    ///
    /// # Errors
    /// When some are still active after ten seconds.
    pub fn list_at_rest(&self) -> Result<String> {
        let mut text = String::new();
        wait_until("all connections are counted inactive", Duration::from_secs(10), || {
            text = self.lbctl("-Ln")?;
            Ok(list::destinations(&text)?.iter().all(|destination| destination.active == 0))
        })
        .with_context(|| text.clone())?;
        Ok(text)
    }

    /// The list of statistics once it has all that was counted until now: it shows, as IPVS's does, what was summed up at most
    /// two seconds ago.
    ///
    /// # Errors
    /// When `lbctl` fails.
    pub fn statistics(&self) -> Result<String> {
        std::thread::sleep(Duration::from_millis(3200));
        self.lbctl("-Ln --stats --exact")
    }

    /// The workers' counters.
    ///
    /// # Errors
    /// When `lbctl` fails or says something else.
    pub fn counters(&self) -> Result<Counters> {
        Counters::parse(&self.lbctl("counters --json")?)
    }

    /// Checks `received + fragments = forwarded + to_kernel + Σ dropped`, allowing five seconds for packets to come to rest.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn check_counters(&self) -> Result<Counters> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let counters = self.counters()?;
            match counters.check_identity() {
                Ok(()) => return Ok(counters),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the daemon is still there; its log is in the error if not.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.process.ended()? {
            Some(status) => Err(self.blame(&anyhow!("director has ended ({status})"))),
            None => Ok(()),
        }
    }

    /// The id of its thread whose name begins so.
    ///
    /// # Errors
    /// When there is none.
    pub fn thread(&self, name: &str) -> Result<u32> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.process.id()));
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {}", tasks.display()))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.starts_with(name) {
                return task.file_name().to_string_lossy().parse().context("a thread's id is a number");
            }
        }
        bail!("director has no thread {name}")
    }

    /// Where it logs to.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it with SIGKILL: what it made stays behind.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(rustix::process::Signal::KILL)?;
        self.process.wait(Duration::from_secs(5)).map(drop)
    }

    /// Sends SIGTERM, waits for the notice STOPPING=1 and for the end, and checks that it was a clean one: success, every mbuf
    /// back in its pool, no sanitizer's report.
    ///
    /// # Errors
    /// When it does not say that it stops, does not stop within ten seconds, or anything was not clean; with its log.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(rustix::process::Signal::TERM)?;
        let said = self.wait_for("STOPPING=1", STOP_LIMIT);
        let status = self.process.wait(STOP_LIMIT)?;
        let clean = || {
            said?;
            ensure!(status.success(), "director ended with {status}");
            check_end(&self.process.log(), self.wire)
        };
        clean().map_err(|error| self.blame(&error))
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // A failed assertion says nothing of what director saw, and its log goes with the lab.
        if std::thread::panicking() {
            eprintln!("director's log ends so:\n{}", self.process.log_tail());
        }
    }
}

/// What a sanitizer's report begins with.
const SANITIZERS: [&str; 2] = ["ERROR: AddressSanitizer", "ERROR: LeakSanitizer"];

fn check_sanitizers(log: &str) -> Result<()> {
    let report = SANITIZERS.iter().find_map(|title| log.find(title));
    report.map_or(Ok(()), |start| bail!("a sanitizer reports: {}", &log[start..]))
}

/// Whether a log that has come to its end is that of a clean one.
fn check_end(log: &str, wire: Wire) -> Result<()> {
    check_sanitizers(log)?;
    let last = log
        .lines()
        .rfind(|line| line.contains("stopped; "))
        .context("director did not say how it stopped")?;
    if last.contains("stopped; every mbuf came back") {
        return Ok(());
    }
    // net_af_xdp of DPDK 22.11 does not give back the mbufs in its fill ring when it is closed, so director cannot have them
    // all. Nothing but mbufs may be left.
    let fill_ring = wire == Wire::AfXdp
        && last.contains("stopped; DPDK is left as it is: the EAL is in use: 0 ports, queues, pools or registered threads and ");
    ensure!(fill_ring, "director did not stop cleanly: {last}");
    Ok(())
}

/// director's configuration for a lab. `table` may be changed before it is written, to see what the daemon says to it.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The file's content.
    pub table: serde_json::Value,
    socket: PathBuf,
    wire: Wire,
}

impl Configuration {
    /// The right configuration: the lab's ports, one worker on the last core, no huge pages, nothing shared with other labs.
    ///
    /// # Errors
    /// When the system does not say which cores there are.
    pub fn new(lab: &Lab, wire: Wire) -> Result<Self> {
        let socket = lab.directory().join("director.sock");
        let ports = lab.ports.iter().enumerate();
        let ports: Vec<_> = ports
            .map(|(index, port)| {
                json!({
                    "name": port.name,
                    "device": wire.device(index, port.device),
                    "kernel_interface": port.kernel_interface,
                    "addresses": port.addresses,
                })
            })
            .collect();
        // In a lab by FULLNAT, those of director's addresses that servers take for their clients'.
        let own = lab.ports.iter().flat_map(|port| &port.addresses);
        let local_addresses: Vec<_> = own
            .filter(|address| [topology::LOCAL, ipv6::LOCAL].iter().any(|local| address.starts_with(local)))
            .map(|addresses| json!({ "addresses": addresses }))
            .collect();
        let table = json!({
            "control": { "socket": socket },
            "eal": {
                // Not --in-memory: DPDK 22.11 refuses it together with --no-huge.
                "arguments": ["--no-pci", "--no-shconf", format!("--file-prefix={}", lab.id())],
                "huge_pages": "off",
            },
            "workers": { "cores": [last_core()?] },
            // As many buckets as IPVS has unless it is told otherwise, so that lists begin as ipvsadm's do.
            "connections": { "capacity": 65536, "buckets": 4096 },
            "local_address": local_addresses,
            "port": ports,
        });
        Ok(Self { table, socket, wire })
    }

    /// Workers on the lowest cores that this process may use, with a pair of queues of every port for each.
    ///
    /// # Errors
    /// When there are not that many cores.
    pub fn set_workers(&mut self, workers: usize) -> Result<()> {
        let cores: Vec<_> = cores()?.into_iter().take(workers).collect();
        ensure!(cores.len() == workers, "{workers} workers need as many cores; there are {}", cores.len());
        self.set("/workers/cores", json!(cores))?;
        let ports = self.table.pointer_mut("/port").and_then(|ports| ports.as_array_mut());
        for port in ports.context("no ports in the configuration")? {
            let device = port["device"].as_str().context("a port without a device")?;
            let queues = match self.wire {
                Wire::AfPacket => "qpairs",
                Wire::AfXdp => "queue_count",
            };
            port["device"] = json!(format!("{device},{queues}={workers}"));
        }
        Ok(())
    }

    /// Sets the value at a JSON pointer (`/port/0/device`), adding the last key if it is not there.
    ///
    /// # Errors
    /// When there is nothing to hold the key.
    pub fn set(&mut self, pointer: &str, value: serde_json::Value) -> Result<()> {
        let (parent, key) = pointer.rsplit_once('/').context("a JSON pointer begins with a slash")?;
        let holder = self.table.pointer_mut(parent).and_then(|parent| parent.as_object_mut());
        holder.with_context(|| format!("no table at {parent}"))?.insert(key.to_owned(), value);
        Ok(())
    }

    /// Puts it in the lab's directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, lab: &Lab) -> Result<PathBuf> {
        let file = lab.directory().join("director.toml");
        let text = toml::to_string(&self.table).context("the configuration cannot be written as TOML")?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// Starts the daemon with a configuration that it should refuse, and returns how it ended.
///
/// # Errors
/// When it runs on for ten seconds.
pub fn refused(host: &Host, file: &Path) -> Result<Finished> {
    let mut command = host.command("timeout");
    command.args(["--kill-after=2", "10"]).arg(binary("director", "DIRECTOR_BIN")?).arg("--config").arg(file);
    let done = Finished::of(&mut command)?;
    ensure!(done.status.code() != Some(124), "director started with {}: {}", file.display(), done.stderr);
    check_sanitizers(&done.stderr)?;
    Ok(done)
}

/// The daemon's path.
///
/// # Errors
/// When it has not been built.
pub fn director_binary() -> Result<PathBuf> {
    binary("director", "DIRECTOR_BIN")
}

/// `lbctl`'s path.
///
/// # Errors
/// When it has not been built.
pub fn lbctl_binary() -> Result<PathBuf> {
    binary("lbctl", "LBCTL_BIN")
}

/// The highest core this process may run on: far from core 0, where everything else tends to be.
///
/// # Errors
/// When the system does not say.
pub fn last_core() -> Result<usize> {
    cores()?.pop().context("no core at all")
}

/// The cores this process may run on, lowest first.
fn cores() -> Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask for the allowed cores")?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

pub(crate) fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let this = std::env::current_exe().context("cannot find the program that is running")?;
    // target/release/demo or target/release/deps/nat-0123456789abcdef
    let beside =
        this.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    beside.with_context(|| {
        format!("{name} has not been built: cargo build --release --bins (or set {variable})")
    })
}

#[cfg(test)]
mod tests {
    use super::{Wire, check_end};

    #[test]
    fn only_a_clean_end_passes() {
        let clean = "INFO ready workers=1\nINFO stopped; every mbuf came back\n";
        let left = |handles, mbufs| {
            format!(
                "WARN stopped; DPDK is left as it is: the EAL is in use: {handles} ports, queues, pools or registered threads \
                 and {mbufs} mbufs are left; drop them first\n"
            )
        };
        let report = format!("{clean}==7==ERROR: LeakSanitizer: detected memory leaks\n");
        for wire in [Wire::AfPacket, Wire::AfXdp] {
            check_end(clean, wire).unwrap();
            for unclean in [&left(1, 2048), &report, "INFO ready workers=1\n"] {
                assert!(check_end(unclean, wire).is_err(), "{unclean}");
            }
        }
        check_end(&left(0, 2048), Wire::AfXdp).unwrap();
        assert!(check_end(&left(0, 1), Wire::AfPacket).is_err());
    }
}
