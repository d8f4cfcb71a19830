//! Serves the socket: one task a connection, all on the control thread.
//!
//! A peer can be slow, idle or hostile; it must never make another one wait, nor the daemon grow without limit.
//! What it may do is decided by the kernel's word for who it is (SO_PEERCRED), never by what it says.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, User, chown, getgrouplist};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::engine::Director;
use crate::protocol::{
    ErrorObject, MAX_CHANGING_LINE, MAX_LINE, ROWS_PER_LINE, Reply, ReplyLine, Request, read_request,
};
use crate::refusal::Refusal;
use crate::running::Dataplane;

/// Connections one user may have open. root has no limit, so that others cannot keep it out.
const CONNECTIONS_PER_USER: usize = 64;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(600);
/// How long a peer may take to read an answer, or to send the rest of a line.
const SLOW: Duration = Duration::from_secs(30);

/// Where the socket is and who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// The socket's path.
    pub path: PathBuf,
    /// The permission bits of the file: who may connect, and so read.
    pub mode: u32,
    /// The owner of the file; the daemon's user if `None`.
    pub owner: Option<u32>,
    /// The group of the file; the daemon's group if `None`.
    pub group: Option<u32>,
    /// Users who may change things, besides root.
    pub change_uids: Vec<u32>,
    /// Groups whose members may change things.
    pub change_gids: Vec<u32>,
}

impl SocketOptions {
    /// Everybody may connect and read, only root may change.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: 0o666,
            owner: None,
            group: None,
            change_uids: Vec::new(),
            change_gids: Vec::new(),
        }
    }
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon answers there.
    #[error("another director is serving {}; stop it, or give this one another socket", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{} exists and is no socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The file system refuses.
    #[error("cannot serve the socket {}: {what}: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A bound socket. The file goes away with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    options: SocketOptions,
    inode: (u64, u64),
}

impl Server {
    /// Binds the socket. A file left by a daemon that is gone is replaced. Needs a running tokio runtime.
    pub fn bind(options: SocketOptions) -> Result<Self, BindError> {
        let path = options.path.clone();
        let failed = |what| {
            let path = path.clone();
            move |error| BindError::Io { path, what, error }
        };
        remove_stale(&path)?;
        // Nobody may connect before owner and mode are what they should be.
        let listener =
            with_umask(|| UnixListener::bind(&path)).map_err(failed("bind it (is its directory there?)"))?;
        if options.owner.is_some() || options.group.is_some() {
            chown(&path, options.owner.map(Uid::from_raw), options.group.map(Gid::from_raw))
                .map_err(|e| failed("change its owner")(e.into()))?;
        }
        let permissions = std::fs::Permissions::from_mode(options.mode);
        std::fs::set_permissions(&path, permissions).map_err(failed("change its mode"))?;
        let inode = identity(&path).map_err(failed("look at it"))?;
        Ok(Self { listener, options, inode })
    }

    /// Serves `director` until `stop` is ready, then removes the socket. Every request is handled on the calling
    /// thread, between two awaits: other tasks of it may use `director` too, as long as they do not hold it
    /// across an await.
    pub async fn run<D: Dataplane + 'static>(
        self,
        director: Rc<RefCell<Director<D>>>,
        stop: impl Future<Output = ()>,
    ) {
        let open: Rc<RefCell<HashMap<u32, usize>>> = Rc::default();
        let accept = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => self.admit(stream, &director, &open),
                    Err(error) => {
                        // Out of file descriptors, most likely: let some connections end first.
                        tracing::warn!(%error, "cannot accept a connection on the socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        LocalSet::new()
            .run_until(async {
                tokio::select! {
                    () = accept => {}
                    () = stop => {}
                }
            })
            .await;
    }

    fn admit<D: Dataplane + 'static>(
        &self,
        stream: UnixStream,
        director: &Rc<RefCell<Director<D>>>,
        open: &Rc<RefCell<HashMap<u32, usize>>>,
    ) {
        let (uid, gid) = match stream.peer_cred() {
            Ok(peer) => (peer.uid(), peer.gid()),
            Err(error) => {
                tracing::warn!(%error, "a peer without credentials was turned away");
                return;
            }
        };
        let slot = Slot::take(open, uid);
        let may_change = self.may_change(uid, gid);
        let director = director.clone();
        tokio::task::spawn_local(async move {
            let mut peer = Peer { stream: BufReader::new(stream), may_change };
            let result = match slot {
                Some(_slot) => peer.serve(&director).await,
                None => {
                    let message = format!("user {uid} has {CONNECTIONS_PER_USER} connections open already");
                    peer.answer(Value::Null, Err(ErrorObject::new("too_many_connections", message))).await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, uid, "a connection on the socket ended early");
            }
        });
    }

    fn may_change(&self, uid: u32, gid: u32) -> bool {
        let SocketOptions { change_uids, change_gids, .. } = &self.options;
        if uid == 0 || change_uids.contains(&uid) || change_gids.contains(&gid) {
            return true;
        }
        !change_gids.is_empty() && groups(uid, gid).iter().any(|g| change_gids.contains(g))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Another daemon may have put its own socket there after ours was removed by hand.
        if identity(&self.options.path).is_ok_and(|inode| inode == self.inode)
            && let Err(error) = std::fs::remove_file(&self.options.path)
        {
            tracing::warn!(%error, path = %self.options.path.display(), "cannot remove the socket");
        }
    }
}

/// The groups of the user `uid` in the user database: the peer's own list is not to be had.
fn groups(uid: u32, gid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return vec![gid] };
    let Ok(name) = CString::new(user.name) else { return vec![gid] };
    let groups = getgrouplist(&name, Gid::from_raw(gid)).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |what| move |error| BindError::Io { path: path.to_owned(), what, error };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at it")(e)),
    };
    if !kind.is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the old one"))
        }
        Err(e) => Err(failed("find out whether it is in use")(e)),
    }
}

/// Runs `bind` with a umask that lets nobody else in. The umask is the whole process's: no other thread should be
/// making files meanwhile.
fn with_umask<T>(bind: impl FnOnce() -> T) -> T {
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o777));
    let result = bind();
    nix::sys::stat::umask(old);
    result
}

/// One of a user's connections; counted until dropped.
struct Slot {
    open: Rc<RefCell<HashMap<u32, usize>>>,
    uid: u32,
}

impl Slot {
    fn take(open: &Rc<RefCell<HashMap<u32, usize>>>, uid: u32) -> Option<Self> {
        let mut count = open.borrow_mut();
        let count = count.entry(uid).or_default();
        if uid != 0 && *count >= CONNECTIONS_PER_USER {
            return None;
        }
        *count += 1;
        Some(Self { open: open.clone(), uid })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

struct Peer {
    stream: BufReader<UnixStream>,
    may_change: bool,
}

impl Peer {
    async fn serve<D: Dataplane>(&mut self, director: &RefCell<Director<D>>) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            // Wait long for a line to begin, and less for it to end.
            let idle = timeout(IDLE, self.stream.fill_buf()).await;
            if idle.map_err(|_| io::ErrorKind::TimedOut)??.is_empty() {
                return Ok(());
            }
            let longest = if self.may_change { MAX_CHANGING_LINE } else { MAX_LINE };
            let mut limited = (&mut self.stream).take(longest as u64);
            timeout(SLOW, limited.read_until(b'\n', &mut line))
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
            if line.len() == longest && !line.ends_with(b"\n") {
                let message = format!("a request must fit into {longest} bytes; split it into several");
                return self.answer(Value::Null, Err(ErrorObject::new("line_too_long", message))).await;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let (id, request) = read_request(&line);
            let result = request.and_then(|request| self.handle(&request, director));
            self.answer(id, result).await?;
        }
    }

    fn handle<D: Dataplane>(
        &self,
        request: &Request,
        director: &RefCell<Director<D>>,
    ) -> Result<Reply, ErrorObject> {
        if request.changes() && !self.may_change {
            return Err((&Refusal::PermissionDenied).into());
        }
        director.borrow_mut().handle(request, Instant::now()).map_err(|refusal| (&refusal).into())
    }

    async fn answer(&mut self, id: Value, result: Result<Reply, ErrorObject>) -> io::Result<()> {
        let Ok(Reply::Connections { mut rows, .. }) = result else {
            return self.send(&ReplyLine::new(id, result)).await;
        };
        loop {
            let rest = rows.split_off(rows.len().min(ROWS_PER_LINE));
            let more = !rest.is_empty();
            self.send(&ReplyLine::new(id.clone(), Ok(Reply::Connections { rows, more }))).await?;
            if !more {
                return Ok(());
            }
            rows = rest;
        }
    }

    async fn send(&mut self, line: &ReplyLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        timeout(SLOW, self.stream.get_mut().write_all(&bytes)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}
