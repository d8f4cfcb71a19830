//! What a lab owns and when it is taken down: its names, its directory, its end.
//!
//! A lab is known by an id, `dl<pid>-<n>`; its namespaces are `<id>-<host>` and its files lie in `/run/director-lab/<id>`. The
//! directory holds a lock for as long as the process lives, so a lab whose lock is free is left over from a process that was
//! killed, whoever has its pid by now. It must never remove a lab that is locked, nor one that was kept on purpose.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::process;

/// Where every lab of this machine has its directory.
const LABS: &str = "/run/director-lab";
/// Where `ip netns` has its names.
const NAMESPACES: &str = "/run/netns";
/// Where DPDK's EAL has a directory for each `--file-prefix`.
const DPDK: &str = "/var/run/dpdk";
/// The file that says: the owner has gone and the lab is to stay.
const KEPT: &str = "kept";

/// The labs of this process. Whoever makes something in a lab holds this, and the signal handler holds it until the process
/// has ended: nothing can appear behind the back of the one who cleans up.
static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn live() -> MutexGuard<'static, Vec<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to a lab's names. Dropping it takes the whole lab down.
#[derive(Debug)]
pub struct Lease {
    id: String,
    directory: PathBuf,
    kept: bool,
    _lock: File,
}

impl Lease {
    /// Clears away the labs of dead processes and takes a new id.
    ///
    /// # Errors
    /// When the user is not root, or `/run/director-lab` cannot be written.
    pub fn take() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces: run it as root");
        end_labs_on_signals();
        fs::create_dir_all(LABS).with_context(|| format!("cannot make {LABS}"))?;
        let _all = exclusive(&Path::new(LABS).join(".lock"), FlockOperation::LockExclusive)?;
        for id in leftover()? {
            remove(&id).with_context(|| format!("cannot clear away lab {id} of a dead process"))?;
        }

        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("dl{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut live = live();
        let directory = directory(&id);
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = exclusive(&directory.join("lock"), FlockOperation::NonBlockingLockExclusive)?;
        live.push(id.clone());
        Ok(Self { id, directory, kept: false, _lock: lock })
    }

    /// The lab's id, `dl<pid>-<n>`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lab's directory: sockets, configurations, logs, captures.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Lets the lab outlive this process; [`remove`] ends it.
    pub(crate) fn keep(&mut self) -> Result<()> {
        let mut live = live();
        File::create(self.directory.join(KEPT)).context("cannot mark the lab as kept")?;
        live.retain(|id| *id != self.id);
        self.kept = true;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut live = live();
        if let Err(error) = remove(&self.id) {
            eprintln!("lab {} was not wholly taken down: {error:#}", self.id);
        }
        live.retain(|id| *id != self.id);
    }
}

/// Ends every process in the lab's namespaces (SIGTERM, after three seconds SIGKILL), removes the namespaces and with them
/// all their interfaces, and then the lab's files.
///
/// # Errors
/// When `id` is not a lab's id, or something of it cannot be removed.
pub fn remove(id: &str) -> Result<()> {
    ensure!(is_id(id), "`{id}` is not the id of a lab; one looks like dl4711-0");
    let namespaces = namespaces_of(id)?;
    end_processes(&namespaces)?;
    for namespace in &namespaces {
        process::run("ip", ["netns", "del", namespace])?;
    }
    // A director that was killed could not remove what the EAL made for its --file-prefix, the lab's id.
    for left in [Path::new(DPDK).join(id), directory(id)] {
        match fs::remove_dir_all(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", left.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The labs that were kept and still stand.
///
/// # Errors
/// When `/run/director-lab` cannot be read.
pub fn kept() -> Result<Vec<String>> {
    Ok(ids()?.into_iter().filter(|id| directory(id).join(KEPT).exists()).collect())
}

fn directory(id: &str) -> PathBuf {
    Path::new(LABS).join(id)
}

fn is_id(id: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    id.strip_prefix("dl")
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(pid, n)| digits(pid) && digits(n))
}

fn names_in(directory: &str) -> Result<Vec<String>> {
    if !Path::new(directory).exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {directory}"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn ids() -> Result<Vec<String>> {
    Ok(names_in(LABS)?.into_iter().filter(|name| is_id(name)).collect())
}

fn namespaces_of(id: &str) -> Result<Vec<String>> {
    let prefix = format!("{id}-");
    Ok(names_in(NAMESPACES)?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// Labs whose owner is dead, and kept ones that have nothing left to keep.
fn leftover() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for id in ids()? {
        let dead = exclusive(&directory(&id).join("lock"), FlockOperation::NonBlockingLockExclusive).is_ok();
        let wanted = directory(&id).join(KEPT).exists() && !namespaces_of(&id)?.is_empty();
        if dead && !wanted {
            found.push(id);
        }
    }
    Ok(found)
}

fn exclusive(path: &Path, how: FlockOperation) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, how).with_context(|| format!("{} is locked", path.display()))?;
    Ok(file)
}

fn end_processes(namespaces: &[String]) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut pids = Vec::new();
        for namespace in namespaces {
            pids.extend(process::run("ip", ["netns", "pids", namespace])?.lines().filter_map(parse_pid));
        }
        if pids.is_empty() {
            return Ok(());
        }
        let patience = started.elapsed() < Duration::from_secs(3);
        for pid in pids {
            // One that has ended meanwhile is what was wanted.
            let _ = kill_process(pid, if patience { Signal::TERM } else { Signal::KILL });
        }
        ensure!(started.elapsed() < Duration::from_secs(10), "processes in {namespaces:?} do not end");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn parse_pid(line: &str) -> Option<Pid> {
    Pid::from_raw(line.trim().parse().ok()?)
}

/// Ctrl-C, a closed terminal or a plain `kill` take the labs down before they end the process.
fn end_labs_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| match signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(mut signals) => {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    let live = live();
                    for id in live.iter() {
                        if let Err(error) = remove(id) {
                            eprintln!("lab {id} was not wholly taken down: {error:#}");
                        }
                    }
                    std::process::exit(128 + signal);
                }
            });
        }
        Err(error) => eprintln!("signals will not take the lab down ({error})"),
    });
}

#[cfg(test)]
mod tests {
    use super::is_id;

    #[test]
    fn only_a_labs_own_id_names_a_lab() {
        assert!(is_id("dl4711-0"));
        for other in
            ["", "dl", "dl4711", "dl-0", "dl4711-", "dl4711-0-client", "dl47x1-0", "../dl1-0", "xdl1-0"]
        {
            assert!(!is_id(other), "{other}");
        }
    }
}
