//! Commands that are run to their end, and processes that are ended by whoever holds them.
//!
//! Nothing here ends a process by its name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::lifetime;

/// How long a process may take to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a program in the machine's own namespace to its end and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or fails: its name, arguments, exit status and standard error.
pub fn run<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    run_command(&mut command)
}

/// [`run`] for a command that has been put together already.
///
/// # Errors
/// As [`run`].
pub fn run_command(command: &mut Command) -> Result<String> {
    run_reading(command, Stdio::null())
}

/// The same for one that reads what it is given.
///
/// # Errors
/// As [`run`].
pub fn run_reading(command: &mut Command, input: Stdio) -> Result<String> {
    let done = Finished::reading(command, input)?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    bail!("`{}` failed ({}): {}{}", describe(command), done.status, done.stdout, done.stderr.trim())
}

/// What a command left behind, whether it succeeded or not.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub fn of(command: &mut Command) -> Result<Self> {
        Self::reading(command, Stdio::null())
    }

    fn reading(command: &mut Command, input: Stdio) -> Result<Self> {
        let output = command.stdin(input).output();
        let output = output.with_context(|| format!("cannot start `{}`", describe(command)))?;
        Ok(Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A process that runs in the background. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts the command with both its outputs going to the file `log`, in a process group of its own so that Ctrl-C at the
    /// terminal reaches the lab first and the lab takes things down in order.
    ///
    /// # Errors
    /// When the log cannot be made or the program cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = describe(&command);
        let out = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let err = out.try_clone().context("cannot share a log between two outputs")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let _live = lifetime::live();
        let child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
        Ok(Self { name, log: log.to_owned(), child })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where both its outputs go.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far to either output.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of [`Process::log`], for a report of what went wrong.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// When the system will not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask after `{}`", self.name))
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("`{}` still runs after {} s", self.name, limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal; nothing happens if the process has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        // Not waited for yet, so the id is still this process's own.
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process without id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal `{}`", self.name))
    }

    /// Ends the process with SIGTERM, and with SIGKILL if that is not enough.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let ended = self.wait(PATIENCE);
        if ended.is_err() {
            self.signal(Signal::KILL)?;
            self.wait(PATIENCE)?;
        }
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Process, run};

    #[test]
    fn a_failed_command_says_what_failed_and_why() {
        let error = run("sh", ["-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("broken") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_dropped_process_has_ended() {
        let log = std::env::temp_dir().join(format!("lab-process-{}.log", std::process::id()));
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let process = Process::start(sleep, &log).unwrap();
        let id = process.id();
        drop(process);
        std::fs::remove_file(log).unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }
}
