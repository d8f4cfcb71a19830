//! Drives a director: `lbctl` speaks ipvsadm's language and has commands of its own.
//!
//! Under the names ipvsadm, ipvsadm-save and ipvsadm-restore it is these.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use control::client::{Client, DEFAULT_SOCKET};
use control::ipvsadm::names::SystemNames;
use control::ipvsadm::run::{LIST_FAILED, REFUSED, Session, WRONG_WORDS};
use control::readable;

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
        let terminal = io::stdout().is_terminal();
        let (mut input, mut out) = (io::stdin().lock(), BufWriter::new(io::stdout().lock()));
        let mut session = readable::Session {
            transport: &mut client,
            names: &mut SystemNames::default(),
            input: &mut input,
            out: &mut out,
            err: &mut io::stderr(),
            terminal,
        };
        let status = session.run(words)?;
        out.flush()?;
        return Ok(status);
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
