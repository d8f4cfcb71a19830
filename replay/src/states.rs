//! Recordings of connections' states: a step, then the rows of `ipvsadm -Lnc` and the destinations' lines after it.
//!
//! ```text
//! ## section
//! # sub-case
//! client S           | TCP 00:59  SYN_RECV    203.0.113.50:30011 198.51.100.1:2011  192.0.2.101:80
//!                    |   dest: -> 192.0.2.101:80 Masq 1 1 0
//! ```
//! The rows tell which connection a step is about, and so which service and servers there were. Another virtual service in
//! the rows begins another case.

mod steps;

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::sysctl::{self, Definition, Value};
use regex::Regex;

use crate::conversation::{Conversation, endpoint};
use crate::frames::Segment;
use crate::listing::{self, Timed};
use crate::recording::{Part, cut};
use crate::stage::Stage;
use crate::states::steps::{Action, actions};

#[expect(clippy::expect_used, reason = "the pattern is a constant, and every test compiles it")]
static SYSCTLS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b([a-z]+_[a-z_]+)=(\d+)").expect("a pattern"));
#[expect(clippy::expect_used, reason = "the pattern is a constant, and every test compiles it")]
static PERSISTENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"-p (\d+)").expect("a pattern"));
#[expect(clippy::expect_used, reason = "the pattern is a constant, and every test compiles it")]
static COMMAND: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"ipvsadm (-[^(]*[^( ])").expect("a pattern"));

/// Between rows of one step.
const AND: &str = "  ;  ";

/// In what pieces, and in how many of them at most, the time passes that the recorder took before a step.
const PIECE: Duration = Duration::from_micros(15_625);
const CATCH_UP: usize = 80;

/// Replays every step on one director.
///
/// # Errors
/// Never; what cannot be replayed is a difference.
pub fn replay(text: &str, stage: &Stage) -> Result<Vec<Part>> {
    let mut parts = cut(text, |line| line.starts_with("## ") || line.starts_with("# "));
    let mut play = Play { stage, case: None, section: String::new(), sysctls: Vec::new(), next_port: 30_000 };
    for part in &mut parts {
        part.got = play.part(&part.expected);
    }
    Ok(parts)
}

/// What a row and the destinations' lines of a step tell.
#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    rows: Vec<String>,
    destinations: Vec<String>,
}

impl Recorded {
    /// Its first row's words.
    fn row(&self) -> Option<Vec<&str>> {
        let row = self.rows.first().filter(|row| !row.starts_with('('))?;
        Some(row.split_whitespace().collect())
    }

    fn read(first: &str, second: Option<&String>) -> Self {
        let parted = |text: &str| {
            let parts = text.split(AND).map(|part| part.trim().to_owned());
            parts.filter(|part| !part.is_empty()).collect()
        };
        let destinations = second.and_then(|line| line.split_once("|   dest:")).map_or("", |(_, list)| list);
        Self { rows: parted(first), destinations: parted(destinations) }
    }
}

impl Timed for Recorded {
    fn without_timers(&self) -> Vec<String> {
        [self.rows.without_timers(), self.destinations.clone()].concat()
    }
}

/// A service and the connection to it that steps are about.
struct Case {
    /// In ipvsadm's words.
    service: String,
    protocol: String,
    talk: Conversation,
    /// The servers: endpoint, method.
    servers: Vec<(String, &'static str)>,
}

struct Play<'a> {
    stage: &'a Stage,
    case: Option<Case>,
    section: String,
    /// Sysctls set for the case, with the values they had.
    sysctls: Vec<(String, i64)>,
    next_port: u16,
}

impl Play<'_> {
    /// Plays a sub-case, or what stands before the first one of a section.
    fn part(&mut self, lines: &[String]) -> Vec<String> {
        let title = lines.first().cloned().unwrap_or_default();
        let mut got = Vec::new();
        // The virtual address of the case that could not be gone on with; all of the part where it could not begin.
        let mut failed: Option<Option<String>> = None;
        if let Err(error) = self.begin(&title) {
            got.push(format!("(not replayed: {error:#})"));
            failed = Some(None);
        }
        let mut place = 0;
        while let Some(line) = lines.get(place) {
            let rest = lines.get(place..).unwrap_or_default();
            if let Some((step, row)) = split_step(line) {
                let second = rest.get(1).filter(|line| line.contains("|   dest:"));
                let recorded = Recorded::read(row, second);
                let length = 1 + usize::from(second.is_some());
                place += length;
                // After a step that could not be done, others of the case would show what nobody has asked for.
                let service = recorded.row().and_then(|row| row.get(4).map(|word| (*word).to_owned()));
                let is_over = |case: &Option<String>| case.is_some() && service.is_some() && *case != service;
                if failed.as_ref().is_some_and(is_over) {
                    (failed, self.case) = (None, None);
                }
                if failed.is_some() {
                    got.push(format!("{step}|"));
                    continue;
                }
                match self.step(step.trim(), &recorded) {
                    Ok(seen) if seen == recorded => got.extend_from_slice(&rest[..length]),
                    Ok(seen) => {
                        got.push(format!("{step}| {}", seen.rows.join(AND)));
                        got.push(format!("{:53}|   dest: {}", "", seen.destinations.join(AND)));
                    }
                    Err(error) => {
                        got.push(format!("{step}| (not replayed: {error:#})"));
                        failed = Some(service);
                    }
                }
            } else if listing::begins(line) || line.starts_with("Timeout ") {
                let length = listing::length(rest);
                place += length;
                let recorded = &rest[..length];
                got.extend(
                    self.list(recorded).unwrap_or_else(|error| vec![format!("(not replayed: {error:#})")]),
                );
            } else {
                got.push(line.clone());
                place += 1;
            }
        }
        got
    }

    /// What the line that begins a part asks for.
    fn begin(&mut self, title: &str) -> Result<()> {
        for (name, value) in std::mem::take(&mut self.sysctls) {
            self.stage.sysctl(&name, value)?;
        }
        self.case = None;
        if let Some(section) = title.strip_prefix("## ") {
            self.section = section.to_owned();
            if let Some(found) = COMMAND.captures(section) {
                self.stage.rule(&found[1])?;
            }
            return Ok(());
        }
        self.set(title)
    }

    /// Sets the sysctls that `words` name, until the next part.
    fn set(&mut self, words: &str) -> Result<()> {
        for found in SYSCTLS.captures_iter(words) {
            let Some(Definition { default: Value::Number(default), .. }) = sysctl::find(&found[1]) else {
                continue;
            };
            self.stage.sysctl(&found[1], found[2].parse().context("a sysctl's value")?)?;
            self.sysctls.push((found[1].to_owned(), *default));
        }
        Ok(())
    }

    fn step(&mut self, step: &str, recorded: &Recorded) -> Result<Recorded> {
        let actions = actions(step, recorded.row().and_then(|row| row.get(2).copied()))?;
        self.set(step)?;
        self.enter_case(step, recorded)?;
        if !actions.iter().any(|action| matches!(action, Action::Wait(_))) {
            self.catch_up(recorded)?;
        }
        for action in actions {
            self.act(action, recorded)?;
        }
        let case = self.case.as_ref().context("no connection that the step could be about")?;
        listing::in_time(self.stage, recorded, || look(self.stage, case, recorded))
    }

    /// Lets the time go by that the recorder took before the step. A template tells, since no packet but a new connection's
    /// touches its timer.
    fn catch_up(&self, recorded: &Recorded) -> Result<()> {
        let timer = |rows: &[String]| {
            let template = rows.iter().find(|row| row.contains(":0 "))?;
            template.split_whitespace().nth(1).map(str::to_owned)
        };
        let (Some(case), Some(wanted)) = (&self.case, timer(&recorded.rows)) else { return Ok(()) };
        for _ in 0..CATCH_UP {
            // Both are as long, so that they compare as numbers do.
            if timer(&look(self.stage, case, recorded)?.rows).is_none_or(|shown| shown <= wanted) {
                break;
            }
            self.stage.pass(PIECE);
        }
        Ok(())
    }

    /// Makes the service that the rows speak of, unless it is there.
    fn enter_case(&mut self, step: &str, recorded: &Recorded) -> Result<()> {
        let row = recorded.row();
        if let (Some(case), Some(row)) = (&mut self.case, &row) {
            let (client, service) =
                (endpoint(row.get(3).unwrap_or(&""))?, endpoint(row.get(4).unwrap_or(&""))?);
            if case.talk.service == service {
                // Templates come with their connection; the newest connection comes last.
                let newest =
                    recorded.rows.iter().rev().filter_map(|row| row.split_whitespace().nth(3)).next();
                let newest =
                    newest.and_then(|client| client.parse::<SocketAddr>().ok()).filter(|c| c.port() != 0);
                let client = newest.filter(|newest| *newest != client).unwrap_or(client);
                if case.talk.client != client {
                    case.talk = Conversation::new(client, service);
                }
                return Ok(());
            }
        } else if self.case.is_some() {
            return Ok(());
        }
        if recorded.destinations.is_empty() {
            bail!("nothing tells which servers there are");
        }
        self.next_port += 1;
        let (protocol, client, service) = match row.as_deref() {
            Some([protocol, _, _, client, service, ..]) => (*protocol, endpoint(client)?, endpoint(service)?),
            _ => {
                let client = endpoint(&format!("203.0.113.50:{}", self.next_port))?;
                ("TCP", client, endpoint(&format!("198.51.100.1:{}", self.next_port - 25_000))?)
            }
        };
        self.next_port = client.port();
        let letter = match protocol {
            "TCP" => "-t",
            "UDP" => "-u",
            "SCTP" => "--sctp-service",
            _ => bail!("{protocol} is no protocol"),
        };
        let mut persistence = PERSISTENT.captures(step).map(|found| format!(" -p {}", &found[1]));
        if let Some(template) = recorded.rows.get(1).filter(|row| row.contains(":0 ")) {
            let seconds: u32 = template
                .split_whitespace()
                .nth(1)
                .and_then(|timer| timer.rsplit_once(':'))
                .and_then(|(_, seconds)| seconds.parse().ok())
                .context("a template's timer")?;
            persistence.get_or_insert_with(|| format!(" -p {}", seconds + 1));
        }
        let words = format!("{letter} {service}");
        self.stage.rule(&format!("-A {words} -s rr{}", persistence.unwrap_or_default()))?;
        let mut servers = Vec::new();
        for line in &recorded.destinations {
            let [_, server, method, weight, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!("{line} is no destination's line")
            };
            let method = match method {
                "Masq" => "-m",
                "Route" => "-g",
                "Tunnel" => "-i",
                _ => bail!("{method} is no forwarding method"),
            };
            self.stage.rule(&format!("-a {words} -r {server} {method} -w {weight}"))?;
            servers.push((server.to_owned(), method));
        }
        let talk = Conversation::new(client, service);
        self.case = Some(Case { service: words, protocol: protocol.to_owned(), talk, servers });
        Ok(())
    }

    fn act(&mut self, action: Action, recorded: &Recorded) -> Result<()> {
        let stage = self.stage;
        let case = self.case.as_mut().context("no connection that the step could be about")?;
        let is_udp = case.protocol == "UDP";
        match action {
            Action::Wait(time) => stage.pass(time),
            Action::Client(flags) if !is_udp => {
                case.talk.client_sends(stage, Segment::Tcp(&flags))?;
            }
            Action::Client(_) | Action::Datagram => {
                case.talk.client_sends(stage, Segment::Udp(1))?;
            }
            Action::Server(flags) => case.talk.server_sends(stage, Segment::Tcp(&flags))?,
            Action::ClientChunk(chunk) => {
                case.talk.client_sends(stage, Segment::Sctp(&chunk))?;
                // A server on which nobody listens aborts what would open an association; that it did is seen by the state.
                let is_aborted =
                    matches!(recorded.row().and_then(|row| row.get(2).copied()), Some("REJECTED" | "CLOSED"));
                if is_aborted && matches!(chunk.as_str(), "INIT" | "COOKIE-ECHO") {
                    case.talk.server_sends(stage, Segment::Sctp("ABORT"))?;
                }
            }
            Action::ServerChunk(chunk) => case.talk.server_sends(stage, Segment::Sctp(&chunk))?,
            Action::Handshake => drop(case.talk.establish(stage)?),
            Action::DeleteServers => {
                for (server, _) in &case.servers {
                    stage.rule(&format!("-d {} -r {server}", case.service))?;
                }
            }
            Action::DeleteService => stage.rule(&format!("-D {}", case.service))?,
            Action::Weights => {
                for (line, (server, method)) in recorded.destinations.iter().zip(&case.servers) {
                    let weight = line.split_whitespace().nth(3).context("a destination's weight")?;
                    stage.rule(&format!("-e {} -r {server} {method} -w {weight}", case.service))?;
                }
            }
        }
        Ok(())
    }

    /// Lists outside of steps: timeouts, or all connections.
    fn list(&mut self, recorded: &[String]) -> Result<Vec<String>> {
        let head = recorded.first().map(String::as_str).unwrap_or_default();
        if head.starts_with("Timeout ") {
            return listing::print(self.stage, "-L --timeout");
        }
        let row = recorded.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let shown = row.clone().filter(|words| words.len() >= 6);
        for words in shown.filter(|words| words[3].starts_with('[') && words[4].parse::<SocketAddr>().is_ok())
        {
            self.connect_in_vain(&words)?;
        }
        // How long earlier cases had been over is not recorded: connections of services that the list does not show are left out.
        let services: Vec<_> = row.filter_map(|words| words.get(4).copied()).collect();
        listing::again(self.stage, recorded, |shown| services.contains(&shown))
    }

    /// A connection that the list shows and no step made: its server refused it.
    fn connect_in_vain(&mut self, words: &[&str]) -> Result<()> {
        let (client, service) = (endpoint(words[3])?, endpoint(words[4])?);
        let before = listing::print(self.stage, "-Lnc")?;
        if before.iter().any(|row| row.contains(words[3])) {
            return Ok(());
        }
        self.stage.rule(&format!("-A -t {service} -s rr"))?;
        self.stage.rule(&format!("-a -t {service} -r {} -m", words[5]))?;
        let mut talk = Conversation::new(client, service);
        talk.client_sends(self.stage, Segment::Tcp("S"))?;
        talk.server_sends(self.stage, Segment::Tcp("RA"))
    }
}

/// A step's line: `what | rows`, and not the one of destinations after it.
fn split_step(line: &str) -> Option<(&str, &str)> {
    let (step, rows) = line.split_once('|')?;
    (!line.starts_with('#') && !rows.starts_with("   dest:")).then_some((step, rows))
}

/// What there is of the case now.
fn look(stage: &Stage, case: &Case, recorded: &Recorded) -> Result<Recorded> {
    let service = case.talk.service.to_string();
    let mut rows: Vec<String> = listing::print(stage, "-Lnc")?
        .into_iter()
        .filter(|row| row.split_whitespace().nth(4) == Some(service.as_str()))
        .map(|row| row.trim_end().to_owned())
        .collect();
    // The order of a list of connections is chance.
    let place = |row: &String| {
        let client = |row: &String| row.split_whitespace().nth(3).map(str::to_owned);
        recorded.rows.iter().position(|other| client(other) == client(row)).unwrap_or(usize::MAX)
    };
    rows.sort_by_key(place);
    if rows.is_empty() {
        rows.push("(no entry)".to_owned());
    }
    let list = listing::print(stage, &format!("-Ln {}", case.service))?;
    let destinations = list.iter().skip(3).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(Recorded { rows, destinations: destinations.filter(|line| line.starts_with("->")).collect() })
}
