//! A dataplane in memory, and an engine over it that can be asked like the daemon.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::client::{CallError, Transport};
use control::engine::{ChangeCheck, Director};
use control::ipvsadm::names::Names;
use control::ipvsadm::run::Session;
use control::model::{Change, Protocol};
use control::protocol::{Reply, Request};
use control::refusal::Refusal;
use control::running::{
    ConnectionRow, Dataplane, DestinationCounts, NamedCount, NeighbourInfo, NetworkInfo, PortInfo, RouteInfo,
    WorkerCounters,
};
use control::server::{Server, SocketOptions};
use control::table::{DestinationId, ServiceTable};

/// A dataplane that counts what it is told to.
#[derive(Default)]
pub struct Memory {
    pub counts: HashMap<u32, DestinationCounts>,
    pub connections: Vec<ConnectionRow>,
    pub published: Option<ServiceTable>,
    pub publications: usize,
    pub failure: Option<String>,
}

impl Dataplane for Memory {
    fn destination_counts(&self, id: DestinationId) -> DestinationCounts {
        self.counts.get(&id.0).copied().unwrap_or_default()
    }
    fn connection_buckets(&self) -> usize {
        4096
    }
    fn connections(&self, visit: &mut dyn FnMut(ConnectionRow)) {
        self.connections.iter().cloned().for_each(visit);
    }
    fn counters(&self) -> Vec<WorkerCounters> {
        let dropped = vec![
            NamedCount { name: "no_neighbour".into(), count: 2 },
            NamedCount { name: "truncated".into(), count: 0 },
        ];
        vec![
            WorkerCounters {
                core: 1,
                received: 10,
                forwarded: 7,
                unreachable: 0,
                fragmentation_needed: 0,
                time_exceeded: 0,
                fragments: 0,
                to_kernel: 1,
                from_kernel: 3,
                from_kernel_dropped: 0,
                dropped,
            },
            WorkerCounters { core: 3, received: 5, forwarded: 5, ..WorkerCounters::default() },
        ]
    }
    fn ports(&self) -> Vec<PortInfo> {
        vec![PortInfo {
            name: "north".into(),
            device: "net_memory0".into(),
            driver: "memory".into(),
            mac: "02:00:00:00:00:01".into(),
            kernel_interface: Some("north".into()),
            link_up: true,
            speed_mbps: 10_000,
            queues: 2,
            counters: vec![NamedCount { name: "rx_good_packets".into(), count: 15 }],
        }]
    }
    fn network(&self) -> NetworkInfo {
        NetworkInfo {
            routes: vec![RouteInfo {
                local: false,
                prefix: "0.0.0.0/0".parse().unwrap(),
                port: Some("north".into()),
                gateway: Some("192.0.2.1".parse().unwrap()),
            }],
            neighbours: vec![NeighbourInfo {
                address: "192.0.2.1".parse().unwrap(),
                port: "north".into(),
                mac: Some("02:00:00:00:00:02".into()),
            }],
        }
    }
    fn interface_mtu(&self, name: &str) -> Option<u32> {
        [("e1", 1500), ("lo", 65536)].into_iter().find(|(n, _)| *n == name).map(|(_, mtu)| mtu)
    }
    fn publish(&mut self, table: &ServiceTable) -> Result<(), String> {
        match &self.failure {
            Some(reason) => Err(reason.clone()),
            None => {
                self.published = Some(table.clone());
                self.publications += 1;
                Ok(())
            }
        }
    }
}

/// Takes whatever IPVS takes.
pub fn everything(_: &Change) -> Result<(), Refusal> {
    Ok(())
}

/// Changes an answer on its way.
pub type Overlay = Box<dyn Fn(&mut Reply)>;

/// An engine that is asked directly.
pub struct Direct {
    pub director: Director<Memory>,
    pub now: Instant,
    /// Puts numbers into answers.
    pub overlay: Option<Overlay>,
}

impl Direct {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { director: Director::with_check(Memory::default(), 4096, now, everything), now, overlay: None }
    }

    pub fn strict() -> Self {
        let now = Instant::now();
        Self { director: Director::new(Memory::default(), 4096, now), now, overlay: None }
    }

    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.director.tick(self.now);
        }
    }
}

impl Transport for Direct {
    fn call(&mut self, request: &Request) -> Result<Reply, CallError> {
        // As over the socket: what is not in the JSON does not arrive.
        let request = serde_json::from_str(&serde_json::to_string(request).unwrap()).unwrap();
        let reply = self.director.handle(&request, self.now).map_err(|r| CallError::Refused((&r).into()))?;
        let mut reply: Reply = serde_json::from_str(&serde_json::to_string(&reply).unwrap()).unwrap();
        if let Some(overlay) = &self.overlay {
            overlay(&mut reply);
        }
        Ok(reply)
    }
}

/// The few services the recordings name. Their hosts had no names.
pub struct RecordedNames;

const SERVICES: [(u16, &str); 10] = [
    (21, "ftp"),
    (25, "smtp"),
    (37, "time"),
    (53, "domain"),
    (80, "http"),
    (443, "https"),
    (5060, "sip"),
    (7000, "afs3-fileserver"),
    (8080, "http-alt"),
    (123, "ntp"),
];

impl Names for RecordedNames {
    fn address(&mut self, _: &str) -> Option<Ipv4Addr> {
        None
    }
    fn port(&mut self, name: &str, _: Protocol) -> Option<u16> {
        SERVICES.iter().find(|(_, n)| *n == name).map(|(port, _)| *port)
    }
    fn host(&mut self, _: IpAddr) -> Option<String> {
        None
    }
    fn service(&mut self, port: u16, _: Protocol) -> Option<String> {
        SERVICES.iter().find(|(p, _)| *p == port).map(|(_, name)| (*name).to_owned())
    }
}

/// `address:port` as a recording prints it.
pub fn recorded_endpoint(text: &str) -> SocketAddr {
    let (host, port) = text.rsplit_once(':').unwrap();
    let port = port.parse().ok().or_else(|| RecordedNames.port(port, Protocol::Tcp)).unwrap();
    SocketAddr::new(host.trim_matches(['[', ']']).parse().unwrap(), port)
}

/// What a command printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Printed {
    pub out: String,
    pub err: String,
    pub status: u8,
}

impl Printed {
    /// As the recordings show it.
    pub fn recorded(&self) -> String {
        let mut text = self.out.clone();
        self.err.lines().for_each(|line| text += &format!("E: {line}\n"));
        format!("{text}[exit {}]\n", self.status)
    }
}

/// Runs a command in this process.
pub fn run(transport: &mut dyn Transport, words: &[String], input: &str) -> Printed {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = Session {
        program: "ipvsadm",
        transport,
        names: &mut RecordedNames,
        input: &mut input.as_bytes(),
        out: &mut out,
        err: &mut err,
    }
    .run(words)
    .unwrap();
    Printed { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), status }
}

/// Splits a command line; only single quotes are known.
pub fn split(line: &str) -> Vec<String> {
    line.split(' ').filter(|w| !w.is_empty()).map(|w| w.trim_matches('\'').to_owned()).collect()
}

/// A command of a recording with what it printed.
pub struct Step {
    pub line: usize,
    pub words: Vec<String>,
    pub printed: String,
}

/// The ipvsadm commands of a recording.
pub fn recording(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for (i, line) in text.lines().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: i + 1, words: split(command), printed: String::new() });
            open = true;
        } else if open && let Some(step) = steps.last_mut() {
            step.printed += &format!("{line}\n");
            open = !line.starts_with("[exit ");
        }
    }
    steps.retain_mut(|step| step.words.remove(0) == "ipvsadm");
    steps
}

/// A daemon's control side on a thread of its own, with a socket in a directory of its own.
pub struct Daemon {
    pub socket: std::path::PathBuf,
    directory: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Daemon {
    /// Starts one that takes what `check` takes, after `prepare` had its way with the dataplane.
    pub fn start(check: ChangeCheck, prepare: impl FnOnce(&mut Memory) + Send + 'static) -> Self {
        Self::start_for(check, prepare, |_| {})
    }

    /// As [`Daemon::start`], with `who` deciding who may use it.
    pub fn start_for(
        check: ChangeCheck,
        prepare: impl FnOnce(&mut Memory) + Send + 'static,
        who: impl FnOnce(&mut SocketOptions),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everybody).unwrap();
        let socket = directory.path().join("director.sock");
        let mut options = SocketOptions::new(&socket);
        // The tests' own user may change things, be it root or not.
        options.change_uids.push(nix::unistd::Uid::effective().as_raw());
        who(&mut options);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut memory = Memory::default();
                prepare(&mut memory);
                let director = Director::with_check(memory, 40_000, Instant::now(), check);
                let director = Rc::new(RefCell::new(director));
                let server = Server::bind(options).unwrap();
                ready.send(()).unwrap();
                server.run(director.clone(), async { drop(stopped.await) }).await;
                director.borrow().dataplane().publications
            })
        });
        is_ready.recv().unwrap();
        Self { socket, directory, stop: Some(stop), thread: Some(thread) }
    }

    /// A place for files that goes away with the daemon.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Stops it; returns how often it published.
    pub fn stop(mut self) -> usize {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Runs lbctl under the name `program`.
    pub fn command(&self, program: &str, words: &[String], input: &str) -> Printed {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lbctl"));
        command.arg0(program).args(words).env("LBCTL_SOCKET", &self.socket);
        finish(command, input)
    }

    /// Runs lbctl.
    pub fn lbctl(&self, line: &str) -> Printed {
        self.command("lbctl", &split(line), "")
    }
}

/// Runs `command` to its end.
pub fn finish(mut command: std::process::Command, input: &str) -> Printed {
    use std::process::Stdio;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that reads nothing closes the pipe; that is no failure.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Printed {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap() as u8,
    }
}
