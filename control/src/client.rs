//! The other end of the socket: sends a request, waits for its answer.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::{ErrorObject, Reply, ReplyLine, Request, RequestLine, VERSION};

/// Where the daemon's socket is unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/director/director.sock";
/// How long an answer may take. A change is answered when every worker has it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon refused it.
    #[error("{}", .0.message)]
    Refused(ErrorObject),
    /// There is no daemon to ask, or none that may be asked.
    #[error("{0}")]
    Unreachable(String),
    /// The daemon went away or answered nonsense.
    #[error("{0}")]
    Failed(String),
}

/// Something that answers requests: the daemon, or an engine in a test.
pub trait Transport {
    /// Has `request` done.
    fn call(&mut self, request: &Request) -> Result<Reply, CallError>;
}

/// A connection to the daemon, made at the first request.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
    next_id: u64,
}

impl Client {
    /// A client for the daemon that serves the socket `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), stream: None, next_id: 1 }
    }

    fn connect(&self) -> Result<BufReader<UnixStream>, CallError> {
        let path = self.path.display();
        let connect = || {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(BufReader::new(stream))
        };
        connect().map_err(|e: io::Error| {
            CallError::Unreachable(match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    format!("no director serves {path}; start it, or name its socket with --socket or LBCTL_SOCKET")
                }
                io::ErrorKind::PermissionDenied => {
                    format!("you may not use {path}; ask for a place in the group that owns it, or be root")
                }
                _ => format!("cannot talk to director at {path}: {e}"),
            })
        })
    }

    fn exchange(&mut self, request: &Request) -> Result<Reply, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let broken = |e: io::Error| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                CallError::Failed(format!("director did not answer within {} s", TIMEOUT.as_secs()))
            }
            _ => CallError::Failed(format!("the connection to director broke: {e}")),
        };
        let line = serde_json::to_vec(&RequestLine { version: VERSION, id, request })
            .map_err(|e| CallError::Failed(format!("cannot write the request as JSON: {e}")))?;
        stream.get_mut().write_all(&[line, b"\n".to_vec()].concat()).map_err(broken)?;

        let mut connections = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).map_err(broken)? == 0 {
                return Err(CallError::Failed("director closed the connection without an answer".into()));
            }
            let answer: ReplyLine = serde_json::from_str(&line)
                .map_err(|e| CallError::Failed(format!("director's answer cannot be read: {e}")))?;
            if let Some(error) = answer.error {
                return Err(CallError::Refused(error));
            }
            if answer.id.as_u64() != Some(id) {
                return Err(CallError::Failed("director answered another request".into()));
            }
            match answer.reply {
                Some(Reply::Connections { mut rows, more }) => {
                    connections.append(&mut rows);
                    if more {
                        continue;
                    }
                    self.stream = Some(stream);
                    return Ok(Reply::Connections { rows: connections, more: false });
                }
                Some(reply) => {
                    self.stream = Some(stream);
                    return Ok(reply);
                }
                None => return Err(CallError::Failed("director's answer is empty".into())),
            }
        }
    }
}

impl Transport for Client {
    fn call(&mut self, request: &Request) -> Result<Reply, CallError> {
        self.exchange(request)
    }
}
