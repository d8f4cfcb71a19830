//! Lists inside recordings: which command prints one, and how it is compared where order and moment are chance.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use crate::stage::Stage;

/// How long a recorder may have taken over a step, and in what pieces that is tried out.
const DELAY: Duration = Duration::from_millis(1300);
const PIECE: Duration = Duration::from_millis(100);

/// True for a line with which a list begins.
pub fn begins(line: &str) -> bool {
    line.starts_with("IP Virtual Server version ")
        || line.starts_with("IPVS connection entries")
        || is_service(line)
}

fn is_service(line: &str) -> bool {
    ["TCP  ", "UDP  ", "SCTP ", "FWM  "].iter().any(|name| line.starts_with(name))
}

/// How many of these lines, which begin with a list, belong to it.
pub fn length(lines: &[String]) -> usize {
    let is_over = |line: &&String| line.is_empty() || line.starts_with('#') || line.starts_with("IP");
    let whole = lines.iter().skip(1).take_while(|line| !is_over(line)).count();
    1 + whole
}

/// Makes the list anew that was recorded so. `service` is the one it is about, in ipvsadm's words, and the only one there is.
///
/// # Errors
/// Where `ipvsadm` cannot be run.
pub fn again(stage: &Stage, recorded: &[String], service: &str) -> Result<Vec<String>> {
    let head: String = recorded.iter().take(3).map(String::as_str).collect();
    if head.starts_with("IPVS connection entries") {
        let words = match () {
            () if head.contains("pe_data") => "-Lnc --persistent-conn",
            () if recorded.iter().any(|row| has_names(row)) => "-Lc",
            () => "-Lnc",
        };
        let mine = |row: &str| row.split_whitespace().nth(4).is_some_and(|shown| is_of(shown, service));
        return in_time(stage, &recorded.to_vec(), || {
            Ok(in_recorded_order(&print(stage, words)?, recorded, mine))
        });
    }
    if is_service(&head) {
        let list = print(stage, "-Ln")?;
        return Ok(trimmed(list.into_iter().skip(3).collect()));
    }
    let options = [
        ("Uthreshold", "--thresholds"),
        ("PersistConn", "--persistent-conn"),
        ("Conns", "--stats"),
        ("CPS", "--rate"),
    ];
    let option = options.iter().find(|(title, _)| head.contains(title)).map_or("", |(_, option)| option);
    Ok(trimmed(print(stage, &format!("-Ln {option}"))?))
}

/// What `ipvsadm` prints with these words, by lines.
///
/// # Errors
/// Where `ipvsadm` cannot be run.
pub fn print(stage: &Stage, words: &str) -> Result<Vec<String>> {
    let printed = stage.ipvsadm(words)?;
    Ok(printed.out.lines().chain(printed.err.lines()).map(str::to_owned).collect())
}

/// What changes while time goes by.
pub trait Timed: PartialEq {
    /// All but what depends on the moment.
    fn without_timers(&self) -> Vec<String>;
}

impl Timed for Vec<String> {
    fn without_timers(&self) -> Vec<String> {
        let is_timer = |word: &&str| word.len() == 5 && word.as_bytes()[2] == b':';
        let words = |line: &String| {
            line.split_whitespace().filter(|word| !is_timer(word)).collect::<Vec<_>>().join(" ")
        };
        self.iter().map(words).collect()
    }
}

/// Lets the time go by that the recorder took, until `look` sees what was recorded. Gives what it saw at first where it never
/// does.
///
/// # Errors
/// Those of `look`.
pub fn in_time<T: Timed>(stage: &Stage, recorded: &T, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let first = look()?;
    let mut waited = Duration::ZERO;
    // Only time makes the difference where the words without the timers are the same.
    if first == *recorded || first.without_timers() != recorded.without_timers() {
        return Ok(first);
    }
    while waited < DELAY {
        stage.pass(PIECE);
        waited += PIECE;
        let seen = look()?;
        if seen == *recorded {
            return Ok(seen);
        }
    }
    Ok(first)
}

/// The recorder cut the blanks off the end of what it read.
fn trimmed(mut lines: Vec<String>) -> Vec<String> {
    if let Some(last) = lines.last_mut() {
        last.truncate(last.trim_end().len());
    }
    lines
}

/// The order of a list of connections is that of the kernel's hash table, which differs from boot to boot: rows come in the
/// recorded order as far as they were recorded. Recorded rows of other services, from before, are left as they are.
fn in_recorded_order(list: &[String], recorded: &[String], mine: impl Fn(&str) -> bool) -> Vec<String> {
    let titles = recorded.iter().take(2).count();
    let mut rows: VecDeque<&String> = list.iter().skip(titles).filter(|row| mine(row)).collect();
    let mut ordered: Vec<String> = list.iter().take(titles).cloned().collect();
    let recorded = recorded.iter().skip(titles);
    for row in recorded {
        if !mine(row) {
            ordered.push(row.clone());
            continue;
        }
        let key = name_of(row);
        if let Some(place) = rows.iter().position(|other| name_of(other) == key) {
            ordered.extend(rows.remove(place).cloned());
        }
    }
    ordered.extend(rows.into_iter().cloned());
    ordered
}

/// Protocol, client, service: what tells a connection's row from others.
fn name_of(row: &str) -> (Option<&str>, Option<&str>, Option<&str>) {
    let words: Vec<_> = row.split_whitespace().collect();
    (words.first().copied(), words.get(3).copied(), words.get(4).copied())
}

/// Whether a row shows a port by its name.
fn has_names(row: &str) -> bool {
    let port = |word: &str| word.rsplit_once(':').map(|(_, port)| port.to_owned());
    let mut ports = row.split_whitespace().skip(3).filter_map(port);
    ports.any(|port| port.starts_with(|letter: char| letter.is_ascii_alphabetic()))
}

/// Whether a row's virtual address is of the service. A service on port 0 has every port.
fn is_of(shown: &str, service: &str) -> bool {
    let Some(name) = service.split_whitespace().nth(1) else { return false };
    let whole = name == shown || service.starts_with("-f");
    whole
        || name.strip_suffix(":0").is_some_and(|host| shown.rsplit_once(':').is_some_and(|(h, _)| h == host))
}
