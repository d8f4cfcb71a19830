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

/// Makes the list anew that was recorded so. Of connections those are compared whose virtual address `is_of_interest`, as the
/// list shows it.
///
/// # Errors
/// Where `ipvsadm` cannot be run.
pub fn again(
    stage: &Stage,
    recorded: &[String],
    is_of_interest: impl Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let head: String = recorded.iter().take(3).map(String::as_str).collect();
    if head.starts_with("IPVS connection entries") {
        let words = match () {
            () if head.contains("pe_data") => "-Lnc --persistent-conn",
            () if recorded.iter().any(|row| has_names(row)) => "-Lc",
            () => "-Lnc",
        };
        let mine = |row: &str| row.split_whitespace().nth(4).is_some_and(&is_of_interest);
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

/// Whether a row's virtual address is of the service, which is given in ipvsadm's words. A service on port 0 has every port.
pub fn is_of(shown: &str, service: &str) -> bool {
    let Some(name) = service.split_whitespace().nth(1) else { return false };
    let whole = name == shown || service.starts_with("-f");
    whole
        || name.strip_suffix(":0").is_some_and(|host| shown.rsplit_once(':').is_some_and(|(h, _)| h == host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    const TITLES: &str = "IPVS connection entries\npro expire state source virtual destination\n";

    fn row(client: u16, service: u16, timer: &str) -> String {
        format!("TCP {timer}  ESTABLISHED 203.0.113.10:{client} 198.51.100.1:{service}  192.0.2.101:80\n")
    }

    #[test]
    fn rows_come_in_the_recorded_order_and_others_are_left_alone() {
        let mine = |row: &str| {
            row.split_whitespace().nth(4).is_some_and(|shown| is_of(shown, "-t 198.51.100.1:1001"))
        };
        let recorded =
            [TITLES, &row(2, 1001, "14:59"), &row(9, 1000, "00:01"), &row(1, 1001, "14:59")].concat();
        let list = [TITLES, &row(1, 1001, "14:59"), &row(2, 1001, "14:59")].concat();
        assert_eq!(in_recorded_order(&lines(&list), &lines(&recorded), mine), lines(&recorded));
        // One that was not recorded is a difference, and so is one that is missing.
        let more = [list.as_str(), &row(3, 1001, "14:59")].concat();
        let got = in_recorded_order(&lines(&more), &lines(&recorded), mine);
        assert_eq!(got.len(), lines(&recorded).len() + 1);
        let less = [TITLES, &row(1, 1001, "14:59")].concat();
        assert_ne!(in_recorded_order(&lines(&less), &lines(&recorded), mine), lines(&recorded));
        // A wrong timer is one as well.
        let late = [TITLES, &row(1, 1001, "14:59"), &row(2, 1001, "01:59")].concat();
        assert_ne!(in_recorded_order(&lines(&late), &lines(&recorded), mine), lines(&recorded));
    }

    #[test]
    fn a_service_on_port_0_has_every_port() {
        assert!(
            is_of("198.51.100.1:80", "-t 198.51.100.1:0") && is_of("198.51.100.1:0", "-t 198.51.100.1:0")
        );
        assert!(
            !is_of("198.51.100.1:80", "-t 198.51.100.1:8") && !is_of("198.51.100.2:80", "-t 198.51.100.1:0")
        );
    }

    #[test]
    fn a_list_ends_where_another_begins() {
        let text = [TITLES, &row(1, 1001, "14:59"), "IP Virtual Server version 1.2.1 (size=4096)\n"].concat();
        assert_eq!(length(&lines(&text)), 3);
        assert_eq!(length(&lines("TCP  198.51.100.1:1070 wlc\n  -> a\n## weights\n")), 2);
    }

    #[test]
    fn names_of_ports_are_seen() {
        assert!(has_names("TCP 00:58  SYN_RECV    203.0.113.50:30059 198.51.100.1:2058  192.0.2.101:http"));
        assert!(
            !has_names(&row(1, 80, "14:59")) && !has_names("pro expire state source virtual destination")
        );
    }
}
