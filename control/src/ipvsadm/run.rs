//! Runs a command of ipvsadm's language: asks the daemon, prints what it says.

use std::io::{self, BufRead, Write};

use super::names::Names;
use super::parse::{Command, Failure, Format, Subject, parse};
use super::{help, list, save};
use crate::client::{CallError, Transport};
use crate::model::Change;
use crate::protocol::{Outcome, Reply, Request};

/// Exit status: done.
pub const DONE: u8 = 0;
/// Exit status: a list failed.
pub const LIST_FAILED: u8 = 1;
/// Exit status: the words were wrong.
pub const WRONG_WORDS: u8 = 2;
/// Exit status: the operation was refused, or there was no command.
pub const REFUSED: u8 = 255;

/// Rules of a restore that go to the daemon together. A large batch is quicker, and well below the longest line.
const BATCH: usize = 1000;

/// Where a command reads, writes and asks.
pub struct Session<'a> {
    /// The name the program was called by, for its messages.
    pub program: &'a str,
    /// The daemon.
    pub transport: &'a mut dyn Transport,
    /// Names of hosts and services.
    pub names: &'a mut dyn Names,
    /// Standard input, read by `-R` only.
    pub input: &'a mut dyn BufRead,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

impl Session<'_> {
    /// Runs the command that `words` are, the program's name left out. Returns the exit status; an error is one
    /// of reading or writing.
    pub fn run(&mut self, words: &[String]) -> io::Result<u8> {
        if words.is_empty() {
            return self.list(&Subject::All, Format::default());
        }
        match parse(words, self.names) {
            Ok(Command::Restore) => self.restore(),
            Ok(command) => self.command(command),
            Err(failure) => self.failure(&failure),
        }
    }

    /// `ipvsadm-save`: the rules, with numbers if `-n` is given.
    pub fn save_tool(&mut self, words: &[String]) -> io::Result<u8> {
        let mut format = Format::default();
        for word in words {
            match word.as_str() {
                "-n" => format.numeric = true,
                word if word.starts_with('-') => {
                    writeln!(self.err, "{}: prints the service table as rules that -R reads", self.program)?;
                    writeln!(self.err, "   -n: addresses and ports as numbers")?;
                    return Ok(1);
                }
                _ => {}
            }
        }
        self.save(format)
    }

    /// `ipvsadm-restore`: reads rules, in which lines that begin with `#` are comments, to their end, clears the table and has them
    /// made. Before, who writes them may still be reading the table.
    pub fn restore_tool(&mut self) -> io::Result<u8> {
        let mut rules = Vec::new();
        self.input.read_to_end(&mut rules)?;
        self.changes(&[Change::Clear])?;
        let mut rules = &rules[..];
        self.read_rules(true, |_, line| rules.read_until(b'\n', line))
    }

    fn command(&mut self, command: Command) -> io::Result<u8> {
        match command {
            Command::Change(change) => self.changes(&[change]),
            Command::List(subject, format) => self.list(&subject, format),
            Command::Save(format) => self.save(format),
            Command::Restore => self.failure(&Failure::NoCommand),
            Command::Help => help::usage(self.out, self.program).map(|()| DONE),
            Command::Version => help::version(self.out).map(|()| DONE),
        }
    }

    fn failure(&mut self, failure: &Failure) -> io::Result<u8> {
        self.out.flush()?;
        match failure {
            Failure::NoCommand => {
                let program = self.program;
                writeln!(self.err, "Try `{program} -h' or '{program} --help' for more information.")?;
                Ok(REFUSED)
            }
            Failure::Option(message) => {
                writeln!(self.err, "{message}")?;
                Ok(REFUSED)
            }
            Failure::Words(message) => {
                writeln!(self.err, "{message}")?;
                Ok(WRONG_WORDS)
            }
        }
    }

    /// Has `changes` made, each by itself, and prints what is refused. Returns the last one's exit status.
    fn changes(&mut self, changes: &[Change]) -> io::Result<u8> {
        let request = match changes {
            [] => return Ok(DONE),
            [change] => Request::Change(change.clone()),
            _ => Request::Batch(changes.to_vec()),
        };
        self.out.flush()?;
        let mut status = DONE;
        match self.transport.call(&request) {
            Ok(Reply::Batch(outcomes)) => {
                for outcome in outcomes {
                    status = match outcome {
                        Outcome::Done => DONE,
                        Outcome::Error(error) => {
                            writeln!(self.err, "{}", error.message)?;
                            REFUSED
                        }
                    };
                }
            }
            Ok(_) => {}
            Err(error) => {
                writeln!(self.err, "{error}")?;
                status = REFUSED;
            }
        }
        Ok(status)
    }

    fn ask(&mut self, request: &Request) -> io::Result<Option<Reply>> {
        match self.transport.call(request) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => self.list_failed(&error).map(|()| None),
        }
    }

    fn list_failed(&mut self, error: &CallError) -> io::Result<()> {
        self.out.flush()?;
        writeln!(self.err, "{error}")
    }

    fn list(&mut self, subject: &Subject, format: Format) -> io::Result<u8> {
        let request = match *subject {
            Subject::All => Request::Services { service: None },
            Subject::Service(service) => Request::Services { service: Some(service) },
            Subject::Connections => Request::Connections,
            Subject::Timeouts => Request::Timeouts,
            Subject::Daemons => Request::Daemons,
        };
        let Some(reply) = self.ask(&request)? else { return Ok(LIST_FAILED) };
        match (subject, reply) {
            (Subject::All, Reply::Services(services)) => list::all(self.out, services, format, self.names)?,
            (_, Reply::Services(services)) => {
                for entry in services.services {
                    list::one(self.out, entry, format, self.names)?;
                }
            }
            (_, Reply::Connections { mut rows, .. }) => {
                // IPVS knows nothing of them, and no column says what they are.
                rows.retain(|row| !row.snat);
                list::connections(self.out, &rows, format, self.names)?;
            }
            (_, Reply::Timeouts(timeouts)) => list::timeouts(self.out, timeouts)?,
            (_, Reply::Daemons(daemons)) => list::daemons(self.out, &daemons)?,
            (_, _) => return self.misunderstood(),
        }
        Ok(DONE)
    }

    fn save(&mut self, format: Format) -> io::Result<u8> {
        match self.ask(&Request::Services { service: None })? {
            Some(Reply::Services(services)) => {
                save::rules(self.out, services, format, self.names)?;
                Ok(DONE)
            }
            Some(_) => self.misunderstood(),
            None => Ok(LIST_FAILED),
        }
    }

    fn misunderstood(&mut self) -> io::Result<u8> {
        self.list_failed(&CallError::Failed(
            "the daemon answered something else; are both of one version?".into(),
        ))?;
        Ok(LIST_FAILED)
    }

    fn restore(&mut self) -> io::Result<u8> {
        self.read_rules(false, |session, line| session.input.read_until(b'\n', line))
    }

    /// Reads one command a line until the end, or the first whose words are wrong. The exit status is that of the
    /// last line, as ipvsadm's is.
    fn read_rules(
        &mut self,
        comments: bool,
        mut next: impl FnMut(&mut Self, &mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<u8> {
        let mut pending = Vec::new();
        let mut status = DONE;
        let mut line = Vec::new();
        while {
            line.clear();
            next(self, &mut line)?
        } != 0
        {
            let text = String::from_utf8_lossy(&line);
            if comments && text.starts_with('#') {
                continue;
            }
            let words: Vec<String> = text
                .split([' ', '\t', '\r', '\n'])
                .filter(|word| !word.is_empty() && *word != "ipvsadm")
                .map(str::to_owned)
                .collect();
            if words.is_empty() {
                continue;
            }
            match parse(&words, self.names) {
                Ok(Command::Change(change)) => {
                    pending.push(change);
                    if pending.len() == BATCH {
                        status = self.changes(&pending)?;
                        pending.clear();
                    }
                    continue;
                }
                other => {
                    self.changes(&std::mem::take(&mut pending))?;
                    let goes_on =
                        matches!(other, Ok(Command::List(..) | Command::Save(_)) | Err(Failure::Option(_)));
                    status = match other {
                        Ok(command) => self.command(command)?,
                        Err(failure) => self.failure(&failure)?,
                    };
                    if !goes_on || status == LIST_FAILED {
                        return Ok(status);
                    }
                }
            }
        }
        if pending.is_empty() { Ok(status) } else { self.changes(&pending) }
    }
}
