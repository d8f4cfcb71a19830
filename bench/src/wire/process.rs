//! Processes that are started for a measurement, stopped and let go on in turns, and ended with whoever holds them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Cores;

/// The programs that make a process end with us, however we end, and that give it its cores: we are kept on one ourselves.
const SETPRIV: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
const TASKSET: &str = "taskset";
/// The program that gives threads a scheduling class.
const CHRT: &str = "chrt";

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
            _ => bail!("{} was to stop, and it has ended; it says:\n{}", self.name, self.log()),
        }
    }

    /// Lets them go on.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Has its threads of this name, however they go on, give their core at once to whoever else wants it.
    ///
    /// Otherwise a thread that wakes waits for one that never rests to have had its turn, which is some milliseconds. A
    /// higher priority for the others does not help, on kernels that let turns end; and a real-time class makes trouble
    /// where workers never rest.
    pub fn defer(&self, name: &str) -> anyhow::Result<()> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        for task in tasks {
            let task = task?;
            if !fs::read_to_string(task.path().join("comm"))?.starts_with(name) {
                continue;
            }
            let mut command = Command::new(CHRT);
            command.args(["--idle", "--pid", "0"]).arg(task.file_name());
            let status = command.status().with_context(|| format!("cannot start {CHRT} (of util-linux)"))?;
            ensure!(status.success(), "{CHRT} cannot give a thread the class for idle times");
        }
        Ok(())
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
