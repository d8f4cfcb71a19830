//! The daemon, as it is shipped, at one end of a memif: its configuration, and the service it is given.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::client::{CallError, Client, Transport};
use control::model::{Change, DestinationSpec, ForwardingMethod, Protocol, ServiceSpec, VirtualService};
use control::protocol::{Outcome, Reply, Request};

use super::Cores;
use super::process::{End, Process, directory};
use crate::traffic::{self, DIRECTOR, GATEWAY, GATEWAY_ADDRESS, SERVER_PORT, SERVERS, SERVICE};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Buffers that the daemon has for one port of 1024 descriptors and one worker.
pub const MBUFS: u32 = 8191;

/// How packets reach the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Direct routing.
    Direct,
    /// NAT.
    Nat,
}

/// A daemon with one port and a service of each protocol.
pub struct Director {
    process: Process,
    wire: String,
}

impl Director {
    /// Starts `program` with workers on these cores and room for `capacity` connections, and waits until they know the
    /// services.
    pub fn start(
        program: &Path,
        cores: Cores,
        workers: &[usize],
        method: Method,
        capacity: u32,
    ) -> anyhow::Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let wire = format!("director-bench-{}-{number}", std::process::id());
        let directory = directory()?;
        let file = directory.path().join("director.toml");
        let socket = directory.path().join("socket");
        fs::write(&file, configuration(&socket, &wire, workers, capacity)?)?;
        let arguments = [Path::new("--config"), &file];
        let mut process = Process::start(program, arguments, cores, directory, false)?;
        let mut client = Client::new(&process.directory().join("socket"));
        let start = Instant::now();
        let outcomes = loop {
            match client.call(&Request::Batch(changes(method))) {
                Ok(Reply::Batch(outcomes)) => break outcomes,
                Ok(_) => bail!("the daemon answers something else when it is given services"),
                Err(CallError::Unreachable(_)) if start.elapsed() < PATIENCE => {}
                Err(error) => return Err(error).with_context(|| process.log()),
            }
            process.check()?;
            thread::sleep(Duration::from_millis(5));
        };
        if let Some(Outcome::Error(error)) = outcomes.iter().find(|outcome| **outcome != Outcome::Done) {
            bail!("the daemon refused a change: {}\n{}", error.message, process.log());
        }
        Ok(Self { process, wire })
    }
}

impl End for Director {
    fn wire(&self) -> &str {
        &self.wire
    }

    fn process(&self) -> &Process {
        &self.process
    }
}

fn configuration(socket: &Path, wire: &str, workers: &[usize], capacity: u32) -> anyhow::Result<String> {
    let mut text = format!(
        "[control]\nsocket = {socket:?}\n[workers]\ncores = {workers:?}\n[connections]\ncapacity = {capacity}\n\
         [[port]]\nname = \"wire\"\nkernel_interface = false\n\
         device = \"net_memif0,role=server,id=0,socket={wire},mac={DIRECTOR}\"\n\
         [[route]]\nto = \"192.0.2.0/24\"\nport = \"wire\"\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"{GATEWAY_ADDRESS}\"\nport = \"wire\"\n"
    );
    let servers = (0..SERVERS).map(traffic::server);
    for (address, mac) in servers.chain([(GATEWAY_ADDRESS, GATEWAY)]) {
        write!(text, "[[neighbour]]\naddress = \"{address}\"\nmac = \"{mac}\"\nport = \"wire\"\n")?;
    }
    Ok(text)
}

/// A service of each protocol with all servers.
fn changes(method: Method) -> Vec<Change> {
    let (address, port) = SERVICE;
    let (method, server_port) = match method {
        Method::Direct => (ForwardingMethod::DirectRouting, port),
        Method::Nat => (ForwardingMethod::Masquerade, SERVER_PORT),
    };
    let mut changes = Vec::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let service = VirtualService::Address { protocol, address: IpAddr::from(address), port };
        changes.push(Change::AddService(ServiceSpec {
            scheduler: "rr".to_owned(),
            ..ServiceSpec::new(service)
        }));
        changes.extend((0..SERVERS).map(|number| {
            let server = IpAddr::from(traffic::server(number).0);
            let destination = DestinationSpec { method, ..DestinationSpec::new(server, server_port) };
            Change::AddDestination { service, destination }
        }));
    }
    changes
}
