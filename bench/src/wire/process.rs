//! Processes that are started for a measurement, stopped and let go on in turns, and ended with whoever holds them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Cores;

/// The programs that make a process end with us, however we end, and that give it its cores: we are kept on one ourselves.
const SETPRIV: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
const TASKSET: &str = "taskset";
/// The program that gives threads priority.
const RENICE: &str = "renice";

/// What is at the server's end of a memif.
pub trait End {
    /// What its memif is served as.
    fn wire(&self) -> &str;

    /// Its process.
    fn process(&self) -> &Process;
}

/// A process with a directory for its files. It is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts `program` on both cores. What it says goes to a file, but for standard output if it is to be `read`.
    pub fn start<I: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = I>,
        cores: Cores,
        directory: TempDir,
        read: bool,
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::File::create(directory.path().join("log"))?;
        let output = if read { Stdio::piped() } else { log.try_clone()?.into() };
        let [setpriv, options @ ..] = SETPRIV;
        let child = Command::new(setpriv)
            .args(options)
            .args([TASKSET, "-c", &format!("{},{}", cores.ours, cores.other)])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name} with {setpriv} and {TASKSET} (of util-linux)"))?;
        Ok(Self { name, child, directory })
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Its standard input and, if it is to be read, its standard output; once.
    pub fn take_pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>) {
        (self.child.stdin.take(), self.child.stdout.take())
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let status = self.child.try_wait()?;
        ensure!(status.is_none(), "{} has ended; it says:\n{}", self.name, self.log());
        Ok(())
    }

    /// Holds all its threads, and returns when they are.
    ///
    /// One of them, any, takes the signal and holds the others, so it may take as long as that one is not given a core.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        match waitpid(self.id()?, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => Ok(()),
            other => bail!("{} was to stop, and it is {other:?}; it says:\n{}", self.name, self.log()),
        }
    }

    /// Lets them go on.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Puts its first thread, which takes signals, before others on its core; see [`hurry`].
    pub fn hurry(&self) -> anyhow::Result<Urgent> {
        hurry(self.child.id())
    }

    fn id(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.id()?, signal).with_context(|| format!("{} has ended; it says:\n{}", self.name, self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill. A process that is stopped can be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for a process.
pub fn directory() -> anyhow::Result<TempDir> {
    tempfile::tempdir().context("cannot make a directory for a process's files")
}

/// A thread that comes before others on its core, until this is dropped.
pub struct Urgent(u32);

/// Puts a thread before those of ordinary priority. Not with a real-time class: workers never rest, and kernels have trouble
/// where such threads and those of a real-time class share a core.
///
/// Without it, a thread that wakes waits for those that run to have had their turn, which is some milliseconds.
pub fn hurry(thread: u32) -> anyhow::Result<Urgent> {
    let status = renice("-20", thread).with_context(|| format!("cannot start {RENICE} (of bsdutils)"))?;
    ensure!(status.success(), "{RENICE} cannot give a thread a higher priority");
    Ok(Urgent(thread))
}

fn renice(nice: &str, thread: u32) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(RENICE);
    command.args(["-n", nice, "-p", &thread.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).status()
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // A thread that has ended needs nothing, and one that stays urgent rests.
        let _ = renice("0", self.0);
    }
}
