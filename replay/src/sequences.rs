//! Recordings of a scheduler's choices: sections, each of a fresh service, and which server each connection went to.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use control::engine::ChangeCheck;
use regex::Regex;

use crate::conversation::{Conversation, Outcome, endpoint};
use crate::frames::Segment;
use crate::listing;
use crate::recording::{Part, cut};
use crate::stage::Stage;

/// The virtual service's address unless the recording names one, and that of the one client where there is only one.
const SERVICE: &str = "198.51.100.1";
const CLIENT: &str = "203.0.113.10";

/// Where the recordings' own numbers are not told.
const FIRST_SERVICE_PORT: u16 = 1001;
const FIRST_CLIENT_PORT: u16 = 20_000;

/// How many service ports a recording may have used up, and how many choices tell one from another.
const SERVICE_PORTS: u16 = 500;
const PROBES: usize = 24;

/// The mark of a service by firewall mark.
const MARK: u32 = 1;

/// What a file of this kind is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP under masquerading, by this scheduler.
    Tcp(String),
    /// UDP under direct routing, a packet a flow, to the service that the first line names.
    Sources(Option<SocketAddrV4>),
    /// UDP to every address of a network, by firewall mark.
    Destinations,
    /// TCP to persistent services.
    Persistence,
    /// UDP, with one-packet scheduling and without.
    OnePacket,
}

impl Kind {
    /// The kind of file that begins with this line, if it is of this format.
    pub fn of(first: &str) -> Option<Self> {
        let line = first.strip_prefix("# ")?;
        if let Some((name, _)) = line.split_once(": which real server") {
            return Some(Self::Tcp(name.to_owned()));
        }
        let service = SERVICE_IN_HEADER.captures(line).and_then(|found| found[1].parse().ok());
        let kinds = [
            ("source address:port -> server", Self::Sources(service)),
            ("fwmark service over", Self::Destinations),
            ("persistent services", Self::Persistence),
            ("one-packet scheduling", Self::OnePacket),
        ];
        kinds.into_iter().find(|(begins, _)| line.starts_with(begins)).map(|(_, kind)| kind)
    }
}

/// Replays every section on a director of its own.
///
/// # Errors
/// Where a director cannot be set up.
pub fn replay(text: &str, kind: &Kind, check: ChangeCheck) -> Result<Vec<Part>> {
    let mut parts = cut(text, |line| line.starts_with("## "));
    let mut fresh_port = FIRST_SERVICE_PORT;
    for part in &mut parts {
        if !part.title.starts_with("## ") {
            part.got = part.expected.clone();
            continue;
        }
        let play = |port, lines: &[String]| {
            let stage = Stage::new(check)?;
            let section = Section::read(kind, &part.title, port);
            Play::new(&stage, &section).play(lines)
        };
        let service_port = match kind {
            Kind::Sources(service) => {
                section_port(service.map(|service| service.port()), fresh_port, &part.expected, &play)
            }
            _ => recorded_port(&part.expected).unwrap_or(fresh_port + 1),
        };
        if !matches!(kind, Kind::Sources(Some(service)) if service.port() == service_port) {
            fresh_port = service_port;
        }
        part.got = play(service_port, &part.expected).unwrap_or_else(|error| {
            let mut lines: Vec<_> = part.expected.iter().take(1).cloned().collect();
            lines.push(format!("(not replayed: {error:#})"));
            lines
        });
    }
    Ok(parts)
}

/// The virtual port of a section, which direct routing gives to the servers, too, and by which mh orders them: the one that
/// the first line has `named`, unless the first choices are others with it. A recorder that took a fresh port for every section
/// does not say which; then it is the first one, from `last` on, with which the first choices are as recorded: of hundreds of
/// choices that follow, a wrong scheduler would not get all right with any port.
fn section_port(
    named: Option<u16>,
    last: u16,
    lines: &[String],
    play: &impl Fn(u16, &[String]) -> Result<Vec<String>>,
) -> u16 {
    let otherwise = named.unwrap_or(last + 1);
    let [title, choices, ..] = lines else { return otherwise };
    let first: Vec<_> = choices.split(' ').take(PROBES).collect();
    let probe = [title.clone(), first.join(" ")];
    let fits = |port: &u16| play(*port, &probe).is_ok_and(|got| got == probe);
    named.into_iter().chain(last + 1..last + SERVICE_PORTS).find(fits).unwrap_or(otherwise)
}

/// The service's port, where a list in the section tells it.
fn recorded_port(lines: &[String]) -> Option<u16> {
    let word = |line: &String, place| line.split_whitespace().nth(place).map(str::to_owned);
    let own = lines
        .iter()
        .filter(|line| line.starts_with("TCP  ") || line.starts_with("UDP  "))
        .find_map(|line| word(line, 1));
    let row = lines.iter().find(|line| line.contains("ESTABLISHED")).and_then(|line| word(line, 4));
    own.or(row)?.rsplit_once(':')?.1.parse().ok()
}

/// A change of the service on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Weight(u8, u32),
    Deleted(u8),
}

/// What a section's first line says.
#[derive(Debug)]
struct Section {
    /// The service in ipvsadm's words, and what follows them when it is added.
    service: String,
    options: String,
    /// The servers' port, and how they are reached.
    server_port: u16,
    method: &'static str,
    weights: Vec<u32>,
    /// Options of single servers: number, words.
    thresholds: Vec<(u8, String)>,
    sysctls: Vec<(String, i64)>,
    /// Connections are closed at once.
    closes: bool,
    /// Changes, each before a further line of connections.
    changes: VecDeque<Change>,
    /// Where clients connect to.
    target: (String, u16),
    is_udp: bool,
    marks: bool,
    /// Packets of one flow, before anything is looked at.
    packets: usize,
}

fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the patterns are constants, and every test compiles them")]
    Regex::new(text).expect("a pattern")
}

static WEIGHTS: LazyLock<Regex> = LazyLock::new(|| pattern(r"weights \((\d+), ?(\d+), ?(\d+)\)"));
static FLAGS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:sh|mh)-(?:port|fallback)(?:,(?:sh|mh)-(?:port|fallback))*"));
static THRESHOLDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"r(\d): ((?:-[xy] \d+ ?)+)"));
static CHANGES: LazyLock<Regex> = LazyLock::new(|| pattern(r"then r(\d) (?:weight (\d+)|deleted)"));
static SYSCTLS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([a-z_]+)=(\d+)"));
static PERSISTENCE: LazyLock<Regex> = LazyLock::new(|| pattern(r"-p \d+(?: -M [0-9.]+)?"));
static SERVICE_IN_HEADER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bUDP (\d[\d.]*:\d+)"));
static QUOTED: LazyLock<Regex> = LazyLock::new(|| pattern(r#""([^"]*)""#));

impl Section {
    fn read(kind: &Kind, title: &str, port: u16) -> Self {
        let words: Vec<_> = title.trim_start_matches("## ").split_whitespace().collect();
        let named = words.first().copied().unwrap_or_default();
        let any_port = title.starts_with("## port 0");
        let port = if any_port { 0 } else { port };
        let number = |text: Option<regex::Match<'_>>| text.and_then(|m| m.as_str().parse().ok());
        let scheduler = match kind {
            Kind::Tcp(name) => name.as_str(),
            Kind::Sources(_) | Kind::Destinations => named,
            // Sections that are about something else do not name it.
            Kind::Persistence if words.contains(&"-p") && !any_port => named,
            Kind::Persistence | Kind::OnePacket => "rr",
        };
        let mut options = format!("-s {scheduler}");
        if let Some(flags) = FLAGS.find(title) {
            options += &format!(" -b {}", flags.as_str());
        }
        match (kind, PERSISTENCE.find(title), QUOTED.captures(title)) {
            (Kind::Persistence, found, _) => {
                options += &format!(" {}", found.map_or("-p 30", |p| p.as_str()))
            }
            (Kind::OnePacket, _, Some(flags)) => options += &format!(" {}", &flags[1]),
            _ => {}
        }
        let host = match kind {
            Kind::Sources(Some(service)) => service.ip().to_string(),
            _ => SERVICE.to_owned(),
        };
        let (service, method, server_port, is_udp) = match kind {
            Kind::Tcp(_) | Kind::Persistence if any_port => (format!("-t {host}:0"), "-m", 0, false),
            Kind::Tcp(_) | Kind::Persistence => (format!("-t {host}:{port}"), "-m", 80, false),
            Kind::Sources(_) | Kind::OnePacket => (format!("-u {host}:{port}"), "-g", port, true),
            Kind::Destinations => (format!("-f {MARK}"), "-g", 0, true),
        };
        let target_port = match kind {
            Kind::Destinations => 53,
            _ if any_port => 80,
            _ => port,
        };
        let weights = WEIGHTS
            .captures(title)
            .map_or(vec![1, 1, 1], |found| (1..=3).filter_map(|place| number(found.get(place))).collect());
        let change = |found: regex::Captures<'_>| {
            let server = found[1].parse().ok()?;
            Some(
                number(found.get(2)).map_or(Change::Deleted(server), |weight| Change::Weight(server, weight)),
            )
        };
        Self {
            service,
            options,
            server_port,
            method,
            weights,
            thresholds: THRESHOLDS
                .captures_iter(title)
                .filter_map(|found| Some((found[1].parse().ok()?, found[2].to_owned())))
                .collect(),
            sysctls: SYSCTLS
                .captures_iter(title)
                .filter_map(|found| Some((found[1].to_owned(), found[2].parse().ok()?)))
                .collect(),
            closes: words.contains(&"close"),
            changes: CHANGES.captures_iter(title).filter_map(change).collect(),
            target: (host, target_port),
            is_udp,
            marks: *kind == Kind::Destinations,
            packets: if *kind == Kind::OnePacket { 9 } else { 0 },
        }
    }

    fn server(&self, number: u8) -> String {
        format!("{} -r 192.0.2.{}:{}", self.service, 100 + number, self.server_port)
    }
}

/// A section as it is played.
struct Play<'a> {
    stage: &'a Stage,
    section: &'a Section,
    changes: VecDeque<Change>,
    opened: Vec<Conversation>,
    next_port: u16,
}

impl<'a> Play<'a> {
    fn new(stage: &'a Stage, section: &'a Section) -> Self {
        let changes = section.changes.clone();
        Self { stage, section, changes, opened: Vec::new(), next_port: FIRST_CLIENT_PORT }
    }

    fn play(mut self, recorded: &[String]) -> Result<Vec<String>> {
        self.set_up()?;
        let mut got: Vec<_> = recorded.iter().take(1).cloned().collect();
        let mut rest = recorded.get(1..).unwrap_or_default();
        let mut is_first = true;
        while let Some(line) = rest.first() {
            let mut length = 1;
            if listing::begins(line) {
                length = listing::length(rest);
                let (list, _) = rest.split_at(length);
                let blank = list.iter().rev().take_while(|line| line.is_empty()).count();
                let (list, blanks) = list.split_at(length - blank);
                got.extend(listing::again(self.stage, list, |shown| {
                    listing::is_of(shown, &self.section.service)
                })?);
                got.extend_from_slice(blanks);
            } else if let Some((said, words)) = line.strip_prefix("# then ").and_then(|l| l.rsplit_once(": "))
            {
                self.reset_first()?;
                got.push(format!("# then {said}: {}", self.connect_all(words)?));
            } else if line.is_empty() || line.starts_with('#') {
                got.push(line.clone());
            } else {
                if !is_first {
                    self.change_next()?;
                }
                is_first = false;
                got.push(self.connect_all(line)?);
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(got)
    }

    fn set_up(&mut self) -> Result<()> {
        let section = self.section;
        for (name, value) in &section.sysctls {
            self.stage.sysctl(name, *value)?;
        }
        if section.marks {
            self.stage.mark(MARK, "udp", "198.51.100.0/24")?;
        }
        self.stage.rule(&format!("-A {} {}", section.service, section.options))?;
        for (number, weight) in (1..).zip(&section.weights) {
            let thresholds = section.thresholds.iter().find(|(server, _)| *server == number);
            let thresholds = thresholds.map_or("", |(_, words)| words);
            let server = section.server(number);
            self.stage.rule(&format!("-a {server} {} -w {weight} {thresholds}", section.method))?;
        }
        if section.packets > 0 {
            let (client, target) = (endpoint(&format!("{CLIENT}:4000"))?, self.target(None)?);
            let mut flow = Conversation::new(client, target);
            for _ in 0..section.packets {
                flow.client_sends(self.stage, Segment::Udp(1))?;
            }
        }
        Ok(())
    }

    fn target(&self, last: Option<u8>) -> Result<SocketAddr> {
        let (host, port) = &self.section.target;
        match last {
            Some(last) => endpoint(&format!("198.51.100.{last}:{port}")),
            None => endpoint(&format!("{host}:{port}")),
        }
    }

    fn change_next(&mut self) -> Result<()> {
        let section = self.section;
        match self.changes.pop_front() {
            Some(Change::Weight(number, weight)) => {
                self.stage.rule(&format!("-e {} {} -w {weight}", section.server(number), section.method))
            }
            Some(Change::Deleted(number)) => self.stage.rule(&format!("-d {}", section.server(number))),
            None => Ok(()),
        }
    }

    fn reset_first(&mut self) -> Result<()> {
        let first = self.opened.first_mut().context("no connection that could be reset")?;
        first.client_sends(self.stage, Segment::Tcp("R")).map(drop)
    }

    /// Connects once for every word of a line: `r3`, `203.0.113.10:4000=r3`, `10=r3`; or once for `203.0.113.10:4000 r3`.
    fn connect_all(&mut self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split(' ').collect();
        if let [source, recorded] = words[..]
            && source.contains(':')
        {
            return Ok(format!("{source} {}", self.connect(Some(source), None, recorded)?));
        }
        let mut got = Vec::new();
        for word in words {
            got.push(match word.split_once('=') {
                Some((from, recorded)) => {
                    let last = from.parse().ok();
                    let source = last.is_none().then_some(from);
                    format!("{from}={}", self.connect(source, last, recorded)?)
                }
                None => self.connect(None, None, word)?,
            });
        }
        Ok(got.join(" "))
    }

    /// Connects, and says where to. Whether nobody was told or the client waited in vain depends on how many ICMP errors the
    /// kernel had sent just before; either means that no server was chosen.
    fn connect(&mut self, source: Option<&str>, last: Option<u8>, recorded: &str) -> Result<String> {
        let client = match source {
            Some(source) => endpoint(source)?,
            None => endpoint(&format!("{CLIENT}:{}", self.next_port))?,
        };
        self.next_port = client.port().wrapping_add(1);
        let mut connection = Conversation::new(client, self.target(last)?);
        let outcome = if self.section.is_udp {
            connection.client_sends(self.stage, Segment::Udp(1))?
        } else {
            connection.establish(self.stage)?
        };
        let chosen = match outcome {
            Outcome::Server(number) => {
                if self.section.closes {
                    connection.close(self.stage)?;
                }
                self.opened.push(connection);
                format!("r{}", i16::from(number) - 100)
            }
            _ if ["TIMEOUT", "ECONNREFUSED", "-"].contains(&recorded) => recorded.to_owned(),
            Outcome::Refused => "ECONNREFUSED".to_owned(),
            Outcome::Nothing => "TIMEOUT".to_owned(),
        };
        Ok(chosen)
    }
}
