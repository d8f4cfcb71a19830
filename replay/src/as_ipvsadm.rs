//! ipvsadm as a recording's commands find it: lbctl's code at the throw-away director's socket, on hosts that have no names.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;

use control::client::Client;
use control::ipvsadm::names::{Names, SystemNames};
use control::ipvsadm::run::{REFUSED, Session};
use control::model::Protocol;

/// The names under which this program is ipvsadm.
pub const PROGRAMS: [&str; 3] = ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"];

/// Where a command finds the socket.
pub const SOCKET: &str = "LBCTL_SOCKET";

/// Ports have the names of the system's services file; hosts have none, because those of a recording are nobody's.
#[derive(Default)]
pub(crate) struct RecordedNames(SystemNames);

impl Names for RecordedNames {
    fn address(&mut self, _: &str) -> Option<Ipv4Addr> {
        None
    }
    fn port(&mut self, name: &str, protocol: Protocol) -> Option<u16> {
        self.0.port(name, protocol)
    }
    fn host(&mut self, _: IpAddr) -> Option<String> {
        None
    }
    fn service(&mut self, port: u16, protocol: Protocol) -> Option<String> {
        self.0.service(port, protocol)
    }
}

/// Runs as ipvsadm where this program was called by such a name, and gives its exit status.
pub fn run_if_called_so() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default().to_string_lossy().into_owned();
    let name = Path::new(&called).file_name()?.to_string_lossy().into_owned();
    PROGRAMS.contains(&name.as_str()).then(|| {
        let words: Vec<_> = words.map(|word: OsString| word.to_string_lossy().into_owned()).collect();
        ExitCode::from(run(&name, &words).unwrap_or(REFUSED))
    })
}

fn run(name: &str, words: &[String]) -> io::Result<u8> {
    let socket = std::env::var_os(SOCKET).unwrap_or_default();
    let (mut input, mut out, mut err) = (io::stdin().lock(), io::stdout().lock(), io::stderr());
    let mut session = Session {
        program: name,
        transport: &mut Client::new(Path::new(&socket)),
        names: &mut RecordedNames::default(),
        input: &mut input,
        out: &mut out,
        err: &mut err,
    };
    let status = match name {
        "ipvsadm-save" => session.save_tool(words),
        "ipvsadm-restore" => session.restore_tool(),
        _ => session.run(words),
    }?;
    out.flush()?;
    Ok(status)
}
