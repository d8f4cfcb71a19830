//! lbctl's own language, for people and scripts: `lbctl service add tcp:198.51.100.8:80 --scheduler rr`.
//!
//! The way of a command: [`words`] says what can be typed (clap reads it), [`changes`] turns it into the changes that it
//! stands for, [`lists`] and [`save`] ask and print, as a [`table`] or in the JSON of [`shape`]. Nothing here knows more
//! of the daemon than the protocol does.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use clap::error::ErrorKind;

use crate::client::{CallError, Transport};
use crate::ipvsadm::names::Names;
use crate::model::Change;
use crate::protocol::{ErrorObject, Outcome, Reply, Request};

pub mod changes;
mod lists;
mod mistakes;
pub mod name;
pub mod save;
pub mod shape;
mod table;
pub mod words;

use words::{Arguments, Command, Output};

/// Exit status: done.
pub const DONE: u8 = 0;
/// Exit status: refused, or there is no daemon.
pub const FAILED: u8 = 1;
/// Exit status: the words were wrong.
pub const WRONG_WORDS: u8 = 2;

/// Why a command was not done.
#[derive(Debug)]
pub enum Failure {
    /// The daemon's answer, or that there was none.
    Call(CallError),
    /// What was asked makes no sense; how it does.
    Words(String),
    /// It cannot be printed or read.
    Io(io::Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where a command reads, writes and asks.
pub struct Session<'a> {
    /// The daemon.
    pub transport: &'a mut dyn Transport,
    /// Names of hosts and services, for rules in ipvsadm's language.
    pub names: &'a mut dyn Names,
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// True if standard output is a terminal, which is cleared between two rounds of `--watch`.
    pub terminal: bool,
}

impl Session<'_> {
    /// Runs the command that `words` are, the program's name left out. Returns the exit status; an error is one of
    /// reading or writing.
    pub fn run(&mut self, words: &[String]) -> io::Result<u8> {
        let arguments = match mistakes::read(words) {
            Ok(arguments) => arguments,
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return write!(self.out, "{}", e.render()).map(|()| DONE);
            }
            Err(e) if words.iter().any(|word| word == "--json") => {
                self.json_error(&ErrorObject::new("wrong_words", mistakes::in_one_line(&e)))?;
                return Ok(WRONG_WORDS);
            }
            Err(e) => return write!(self.err, "{}", e.render()).map(|()| WRONG_WORDS),
        };
        let json = arguments.command.json();
        let failure = match self.command(&arguments.command) {
            Ok(()) => return Ok(DONE),
            Err(Failure::Io(e)) => return Err(e),
            Err(failure) => failure,
        };
        self.out.flush()?;
        let (error, status) = match failure {
            Failure::Words(message) => (ErrorObject::new("wrong_words", message), WRONG_WORDS),
            Failure::Call(CallError::Refused(error)) => (error, FAILED),
            Failure::Call(error) => (ErrorObject::new("no_answer", error.to_string()), FAILED),
            Failure::Io(_) => return Ok(FAILED),
        };
        if json {
            self.json_error(&error)?;
        } else {
            writeln!(self.err, "lbctl: {}", error.message)?;
        }
        Ok(status)
    }

    fn json_error(&mut self, error: &ErrorObject) -> io::Result<()> {
        serde_json::to_writer(&mut *self.err, &serde_json::json!({ "error": error }))?;
        writeln!(self.err)
    }

    fn command(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::Save(save) => self.save(save),
            Command::Restore(restore) => self.restore(restore),
            Command::Completions { shell } => {
                let mut command = <Arguments as clap::CommandFactory>::command();
                clap_complete::generate(*shell, &mut command, "lbctl", &mut self.out);
                Ok(())
            }
            _ => match changes::of(command, self.transport)? {
                Some(changes) => self.change(changes, command.json()),
                None => self.list(command),
            },
        }
    }

    /// Has `changes` made, all or none.
    fn change(&mut self, mut changes: Vec<Change>, json: bool) -> Result<(), Failure> {
        let request = match changes.len() {
            1 => Request::Change(changes.remove(0)),
            _ => Request::Transaction(changes),
        };
        match self.transport.call(&request) {
            Ok(Reply::Done) => {}
            Ok(Reply::Batch(outcomes)) => {
                if let Some(Outcome::Error(error)) = outcomes.into_iter().find(|o| *o != Outcome::Done) {
                    return Err(Failure::Call(CallError::Refused(error)));
                }
            }
            Ok(_) => return Err(misunderstood()),
            Err(CallError::Refused(error)) => {
                let error = changes::explain(error, &request, self.transport);
                return Err(Failure::Call(CallError::Refused(error)));
            }
            Err(error) => return Err(error.into()),
        }
        if json {
            writeln!(self.out, "{{\"result\":\"done\"}}")?;
        }
        Ok(())
    }

    /// Prints what `print` prints, again and again if it is to be watched.
    fn watch(
        &mut self,
        output: &Output,
        print: impl Fn(&mut dyn Transport, &mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            // A screenful at a time, so that nothing flickers.
            let mut text = Vec::new();
            print(self.transport, &mut text)?;
            if self.terminal && output.watch.is_some() {
                // Home, and clear what is below (ECMA-48).
                self.out.write_all(b"\x1b[H\x1b[J")?;
            }
            self.out.write_all(&text)?;
            let Some(seconds) = output.watch else { return Ok(()) };
            self.out.flush()?;
            std::thread::sleep(Duration::from_secs_f64(seconds));
        }
    }
}

/// The daemon answered something that was not asked for.
fn misunderstood() -> Failure {
    CallError::Failed("the daemon answered something else; are both of one version?".into()).into()
}

/// Prints a value as JSON: on several lines for people, or on one so that rounds of `--watch` can be told apart.
fn print_json(out: &mut dyn Write, value: &impl serde::Serialize, output: &Output) -> Result<(), Failure> {
    let printed = if output.watch.is_some() {
        serde_json::to_writer(&mut *out, value)
    } else {
        serde_json::to_writer_pretty(&mut *out, value)
    };
    printed.map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
