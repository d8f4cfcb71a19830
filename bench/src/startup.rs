//! Part `startup`: how long the daemon takes, from its start until it answers on its socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, bail, ensure};
use control::client::{CallError, Client, Transport};
use control::protocol::{Reply, Request};

use crate::Bench;
use crate::progress::Progress;
use crate::report::{NONE, Report, Subject};

/// How long it may take before that is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the socket is looked for: the error of the figure.
const PAUSE: Duration = Duration::from_millis(1);

/// Milliseconds that a start takes.
fn one(bench: &Bench) -> u64 {
    170 + u64::from(bench.capacity) / 70_000
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    bench.runs as u64 * one(bench)
}

/// Starts the daemon `director` over and over and adds the figure to `report`.
pub fn run(bench: &Bench, director: Option<&Path>, report: &mut Report, progress: &Progress) {
    let mut measure = || {
        let program = match director {
            Some(given) => given.to_owned(),
            None => beside_us()?,
        };
        ensure!(
            program.is_file(),
            "{} is not there; build it, or name it with --director",
            program.display()
        );
        let mut seconds = Vec::with_capacity(bench.runs);
        for _ in progress.runs("startup", bench.runs, one(bench)) {
            progress.say(format!("startup: a table of {} connections", bench.capacity));
            seconds.push(start(&program, bench)?.as_secs_f64());
        }
        let subject = Subject {
            part: "startup",
            mode: "daemon",
            protocol: NONE,
            flows: 0,
            frame_bytes: 0,
            workers: 1,
            capacity: bench.capacity,
            scheduler: NONE,
        };
        report.add(&subject, "startup_seconds", "s", seconds);
        anyhow::Ok(())
    };
    if let Err(error) = measure().context("start-up of the daemon") {
        report.fail(&error);
    }
}

/// The daemon as built with this program.
fn beside_us() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("director"))
}

/// Starts the daemon, asks it how it is, and stops it: the time from the start to the answer.
fn start(program: &Path, bench: &Bench) -> anyhow::Result<Duration> {
    let directory = tempfile::tempdir().context("cannot make a directory for the daemon's socket")?;
    start_in(directory.path(), program, bench)
}

fn start_in(directory: &Path, program: &Path, bench: &Bench) -> anyhow::Result<Duration> {
    let (socket, file, log) =
        (directory.join("socket"), directory.join("director.toml"), directory.join("log"));
    // A device that never receives anything. Its worker polls it all the same.
    let configuration = format!(
        "[control]\nsocket = {socket:?}\n[eal]\nhuge_pages = \"auto\"\n[workers]\ncores = [{}]\n\
         [connections]\ncapacity = {}\n[[port]]\nname = \"none\"\ndevice = \"net_null0,no-rx=1\"\n",
        bench.core, bench.capacity
    );
    fs::write(&file, configuration)?;
    let start = Instant::now();
    let child = Command::new(program)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut child = Running(child);
    let answer = child.answer(&socket, start);
    let taken = start.elapsed();
    let log_says = || fs::read_to_string(&log).unwrap_or_default();
    answer.with_context(log_says)?;
    child.stop().with_context(log_says)?;
    Ok(taken)
}

/// A daemon that goes with this value.
struct Running(Child);

impl Running {
    fn answer(&mut self, socket: &Path, start: Instant) -> anyhow::Result<()> {
        let mut client = Client::new(socket);
        loop {
            match client.call(&Request::Status) {
                Ok(Reply::Status(_)) => return Ok(()),
                Ok(_) => bail!("the daemon answers something else when asked how it is"),
                Err(CallError::Unreachable(_)) if start.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("the daemon has ended: {status}");
            }
            thread::sleep(PAUSE);
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
