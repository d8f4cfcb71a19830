//! Drives a director: `lbctl` speaks ipvsadm's language and has commands of its own.
//!
//! Under the names ipvsadm, ipvsadm-save and ipvsadm-restore it is these.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use control::client::{CallError, Client, DEFAULT_SOCKET, Transport};
use control::ipvsadm::names::SystemNames;
use control::ipvsadm::run::{LIST_FAILED, REFUSED, Session, WRONG_WORDS};
use control::protocol::{Reply, Request};
use control::report;

/// Drives a director.
///
/// lbctl speaks two languages. If its first word begins with "-", it is ipvsadm's: `lbctl -A -t 198.51.100.8:80
/// -s rr`, `lbctl -Ln`; every command, list and message is as in ipvsadm 1.31, and `lbctl -h` lists them. If it
/// does not, it is one of the commands below. Without any word lbctl lists the services.
#[derive(Parser)]
#[command(name = "lbctl", verbatim_doc_comment, disable_help_flag = true)]
struct Arguments {
    /// The daemon's socket, in either language [env: LBCTL_SOCKET] [default: /run/director/director.sock]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// Print this
    // Long only: -h belongs to ipvsadm's language.
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    #[command(subcommand)]
    command: Readable,
}

#[derive(Subcommand)]
enum Readable {
    /// What each worker received, forwarded, gave to Linux and dropped, and why
    Counters {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The ports with their links and counters
    Ports {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// How the daemon is
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let mut words = env::args_os().collect::<Vec<OsString>>().into_iter();
    let program = words.next().unwrap_or_else(|| "lbctl".into()).to_string_lossy().into_owned();
    let words: Vec<String> = words.map(|w| w.to_string_lossy().into_owned()).collect();
    let (words, socket) = match take_socket(words) {
        Ok(taken) => taken,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(WRONG_WORDS);
        }
    };
    let socket = socket
        .or_else(|| env::var_os("LBCTL_SOCKET").filter(|s| !s.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| DEFAULT_SOCKET.into());
    match run(&program, &words, &socket) {
        Ok(status) => ExitCode::from(status),
        // Whoever read our output has had enough of it.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(LIST_FAILED),
        Err(e) => {
            eprintln!("{program}: {e}");
            ExitCode::from(REFUSED)
        }
    }
}

/// Takes `--socket PATH` out of the words, wherever it stands: ipvsadm's language has no place for it.
fn take_socket(words: Vec<String>) -> Result<(Vec<String>, Option<PathBuf>), String> {
    let mut rest = Vec::new();
    let mut socket = None;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--socket" {
            socket = Some(words.next().ok_or("--socket: missing argument; name the daemon's socket")?.into());
        } else if let Some(path) = word.strip_prefix("--socket=") {
            socket = Some(path.into());
        } else {
            rest.push(word);
        }
    }
    Ok((rest, socket))
}

fn run(program: &str, words: &[String], socket: &Path) -> io::Result<u8> {
    let mut client = Client::new(socket);
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_ipvsadm = matches!(name.as_str(), "ipvsadm" | "ipvsadm-save" | "ipvsadm-restore");
    let first = words.first().map_or("", String::as_str);
    if !is_ipvsadm && (first == "--help" || first == "help" || !(first.is_empty() || first.starts_with('-')))
    {
        return readable(words, &mut client);
    }
    let (mut input, mut out, mut err) =
        (io::stdin().lock(), BufWriter::new(io::stdout().lock()), io::stderr());
    let mut session = Session {
        program,
        transport: &mut client,
        names: &mut SystemNames::default(),
        input: &mut input,
        out: &mut out,
        err: &mut err,
    };
    let status = match name.as_str() {
        "ipvsadm-save" => session.save_tool(words),
        "ipvsadm-restore" => session.restore_tool(),
        _ => session.run(words),
    }?;
    out.flush()?;
    Ok(status)
}

fn readable(words: &[String], client: &mut Client) -> io::Result<u8> {
    let arguments =
        match Arguments::try_parse_from(std::iter::once("lbctl".to_owned()).chain(words.iter().cloned())) {
            Ok(arguments) => arguments,
            Err(e) => {
                let wrong = e.use_stderr();
                e.print()?;
                return Ok(if wrong { WRONG_WORDS } else { 0 });
            }
        };
    let (request, json) = match arguments.command {
        Readable::Counters { json } => (Request::Counters, json),
        Readable::Ports { json } => (Request::Ports, json),
        Readable::Status { json } => (Request::Status, json),
    };
    let reply = client.call(&request);
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = match reply {
        Ok(Reply::Counters(workers)) if json => print_json(&mut out, &workers),
        Ok(Reply::Ports(ports)) if json => print_json(&mut out, &ports),
        Ok(Reply::Status(status)) if json => print_json(&mut out, &status),
        Ok(Reply::Counters(workers)) => report::counters(&mut out, &workers),
        Ok(Reply::Ports(ports)) => report::ports(&mut out, &ports),
        Ok(Reply::Status(status)) => report::status(&mut out, &status),
        Ok(_) => return Ok(failed(&CallError::Failed("the daemon answered something else".into()))),
        Err(e) => return Ok(failed(&e)),
    };
    printed?;
    out.flush()?;
    Ok(0)
}

fn failed(error: &CallError) -> u8 {
    eprintln!("lbctl: {error}");
    LIST_FAILED
}

fn print_json(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
