//! Transcripts: `$ command`, its output, `E:` before a line of standard error, `[exit N]`. One director from top to bottom.
//!
//! Commands that use ipvsadm are run by a shell, in which ipvsadm is this program at the director's socket. Others are
//! skipped, with their output.

use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use control::server::{Server, SocketOptions};
use regex::Regex;
use tempfile::TempDir;
use tokio::process::Command;

use crate::as_ipvsadm::{PROGRAMS, SOCKET};
use crate::conversation::{Conversation, endpoint};
use crate::frames::Segment;
use crate::recording::{Part, cut};
use crate::stage::{Printed, Stage};

/// What else may stand in a pipe into ipvsadm.
const SOURCES: [&str; 3] = ["echo", "printf", "cat"];

/// Where a recording's own traffic comes from.
const CLIENT: &str = "203.0.113.10:4000";
/// From the section's begin to its traffic, and from there to the first list: three looks at the counters, and as much time as
/// the connections' timers show.
const BEFORE_TRAFFIC: Duration = Duration::from_millis(1550);
const AFTER_TRAFFIC: Duration = Duration::from_millis(4800);

#[expect(clippy::expect_used, reason = "the pattern is a constant, and every test compiles it")]
static TRAFFIC: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"flags "(.*)": (\d+) packets of one flow"#).expect("a pattern"));

/// Replays every command.
///
/// # Errors
/// Where the director's socket or a shell cannot be had.
pub fn replay(text: &str, stage: &Stage, directory: &Path) -> Result<Vec<Part>> {
    let mut parts = cut(text, |line| line.starts_with("$ ") || line.starts_with("## "));
    let home = Home::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut options = SocketOptions::new(home.socket());
        options.mode = 0o600;
        options.change_uids.push(nix::unistd::Uid::effective().as_raw());
        let server = Server::bind(options)?;
        let mut outcome = Ok(());
        let play = async {
            for part in 0..parts.len() {
                if outcome.is_ok() {
                    outcome = play(&mut parts[part..], stage, &home, directory).await;
                }
            }
        };
        server.run(stage.director(), play).await;
        outcome
    })?;
    Ok(parts)
}

/// Plays the first of `parts`; those after it tell what it leads to.
async fn play(parts: &mut [Part], stage: &Stage, home: &Home, directory: &Path) -> Result<()> {
    let Some((part, rest)) = parts.split_first_mut() else { return Ok(()) };
    part.got = part.expected.clone();
    if let Some(found) = TRAFFIC.captures(&part.title) {
        let packets = found[2].parse().context("a number of packets")?;
        return match traffic(stage, &found[1], packets, rest) {
            Ok(()) => Ok(()),
            Err(error) => {
                part.got.push(format!("(not replayed: {error:#})"));
                Ok(())
            }
        };
    }
    let Some(command) = part.title.strip_prefix("$ ") else { return Ok(()) };
    if !reaches_ipvsadm(command) {
        return Ok(());
    }
    let printed = run(command, home, directory).await.with_context(|| format!("cannot run {command}"))?;
    // What follows the exit status was not printed.
    let end = part
        .expected
        .iter()
        .position(|line| line.starts_with("[exit "))
        .map_or(part.expected.len(), |n| n + 1);
    let after = part.expected.get(end..).unwrap_or_default();
    part.got = std::iter::once(part.title.clone())
        .chain(printed.out.lines().map(str::to_owned))
        .chain(printed.err.lines().map(|line| format!("E: {line}")))
        .chain([format!("[exit {}]", printed.status)])
        .chain(after.iter().cloned())
        .collect();
    Ok(())
}

/// The packets a section is about, to the service that the lists after it show.
fn traffic(stage: &Stage, flags: &str, packets: usize, rest: &[Part]) -> Result<()> {
    let lines = rest.iter().take_while(|part| !part.title.starts_with("## ")).flat_map(|part| &part.expected);
    let mut words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let service = words
        .find_map(|words| {
            (words.first() == Some(&"UDP")).then(|| words.get(1).map(|word| (*word).to_owned())).flatten()
        })
        .context("no list shows the service")?;
    let port = endpoint(&service)?.port();
    stage.rule("-C")?;
    stage.rule(&format!("-A -u {service} -s rr {flags}"))?;
    for server in 101..104 {
        stage.rule(&format!("-a -u {service} -r 192.0.2.{server}:{port} -g"))?;
    }
    stage.pass(BEFORE_TRAFFIC);
    let mut flow = Conversation::new(endpoint(CLIENT)?, endpoint(&service)?);
    for _ in 0..packets {
        flow.client_sends(stage, Segment::Udp(1))?;
    }
    stage.pass(AFTER_TRAFFIC);
    Ok(())
}

/// Whether all of a pipe is ipvsadm or what feeds it, with nothing after or beside it.
fn reaches_ipvsadm(command: &str) -> bool {
    let mut names = vec![String::new()];
    let mut quote = None;
    for letter in command.replace("2>&1", "").chars() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (Some('\''), _) => {}
            (_, '`' | '$') | (None, ';' | '&' | '>' | '(') => return false,
            (None, '|') => names.push(String::new()),
            _ => {}
        }
        if let Some(name) = names.last_mut()
            && letter != '|'
        {
            name.push(letter);
        }
    }
    let mut names = names.iter().map(|part| part.split_whitespace().next().unwrap_or_default());
    let is_ours = |name: &str| PROGRAMS.contains(&name);
    let all: Vec<_> = names.by_ref().collect();
    all.iter().any(|name| is_ours(name)) && all.iter().all(|name| is_ours(name) || SOURCES.contains(name))
}

async fn run(command: &str, home: &Home, directory: &Path) -> Result<Printed> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", home.0.path().display()))
        .env(SOCKET, home.socket())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    Ok(Printed {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status.code().unwrap_or(-1),
    })
}

/// A directory of our own: with the socket, and with this program under ipvsadm's names.
struct Home(TempDir);

impl Home {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory for the socket")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        for name in PROGRAMS {
            std::os::unix::fs::symlink(&program, directory.path().join(name))
                .context("cannot make a link")?;
        }
        Ok(Self(directory))
    }

    fn socket(&self) -> std::path::PathBuf {
        self.0.path().join("director.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::reaches_ipvsadm;

    #[test]
    fn only_what_goes_to_ipvsadm_is_run() {
        for ours in [
            "ipvsadm -Ln",
            "ipvsadm -S -n | ipvsadm -R",
            "printf '-A -t 198.51.100.1:80; $\\n' | ipvsadm-restore",
            "cat rules.txt | ipvsadm -R",
            "ipvsadm -R < rules.txt",
            "ipvsadm -A 2>&1",
        ] {
            assert!(reaches_ipvsadm(ours), "{ours}");
        }
        for other in [
            "cat /proc/net/ip_vs",
            "ipvsadm -Ln; reboot",
            "ipvsadm -Ln && reboot",
            "ipvsadm -Ln | sh",
            "ipvsadm -Ln > /etc/passwd",
            "ipvsadm -A $(reboot)",
            "ipvsadm -A \"`reboot`\"",
            "echo ipvsadm",
        ] {
            assert!(!reaches_ipvsadm(other), "{other}");
        }
    }
}
