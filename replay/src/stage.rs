//! The throw-away director: the daemon's control side and one real worker, over a wire in memory, at a time that only the
//! replay moves. It needs no root, no NIC and no Linux interface, and must never read a clock.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::client::{CallError, Transport};
use control::engine::{ChangeCheck, Director};
use control::ipvsadm::run::Session;
use control::mark::{self, MarkRule};
use control::model::Change;
use control::protocol::{Reply, Request};
use control::refusal::Refusal;
use control::sysctl::Value;
use control::workers::{Surroundings, Workers};
use crossbeam::queue::ArrayQueue;
use dataplane::conn::ConnectionTable;
use dataplane::counters::{Totals, WorkerCounters};
use dataplane::destination::Destinations;
use dataplane::fragments::Notes;
use dataplane::network::{Adjacency, LocalAddress, MacAddr, Network, NextHop, PortId, Sources, Way};
use dataplane::snapshot::{self, Snapshot};
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::wire::memory::{MemoryFrame, MemoryWire};
use dataplane::wire::{Burst, Frame, Wire};
use dataplane::worker::{Kernel, Port, Shared, Worker};

use crate::as_ipvsadm::RecordedNames;

/// The director's own address on its link.
pub const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The router that clients are behind.
pub const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The network of the real servers, and its IPv6 one.
const SERVERS: &str = "192.0.2.0/24";
const SERVERS_V6: &str = "2001:db8:2::/64";

/// Its host's network interfaces, with their MTUs, as recordings name them.
const INTERFACES: [(&str, u32); 2] = [("e1", 1500), ("lo", 65_536)];

/// As many buckets as IPVS has unless it is told otherwise: lists show it.
const BUCKETS: usize = 4096;
/// More connections than any recording makes, and so many that memory for them is not scarce (`amemthresh`).
const CAPACITY: u32 = 131_072;
const DESTINATIONS: u32 = 4096;

/// Frames between the worker and Linux.
const LINUX_QUEUE: usize = 1024;

/// Rounds in which a worker comes to rest, whatever is due.
const ROUNDS: usize = 32;

/// The wire, of which the replay holds the other end.
#[derive(Clone, Default)]
struct Cable(Rc<RefCell<MemoryWire>>);

impl Wire for Cable {
    type Frame = MemoryFrame;

    fn receive(&mut self, burst: &mut Burst<MemoryFrame>) {
        self.0.borrow_mut().receive(burst);
    }

    fn send(&mut self, burst: &mut Burst<MemoryFrame>) {
        self.0.borrow_mut().send(burst);
    }
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub err: String,
    /// Its exit status.
    pub status: i32,
}

/// A director that is gone when the replay is.
pub struct Stage {
    director: Rc<RefCell<Director<Workers>>>,
    worker: Rc<RefCell<Worker<Cable>>>,
    cable: Cable,
    clock: Rc<Cell<Tick>>,
    start: Instant,
    counters: Arc<WorkerCounters>,
    linux: Linux,
}

/// The other end of the port's kernel interface, where it has one.
struct Linux {
    to: Arc<ArrayQueue<MemoryFrame>>,
    from: Arc<ArrayQueue<MemoryFrame>>,
}

impl Default for Linux {
    fn default() -> Self {
        let queue = || Arc::new(ArrayQueue::new(LINUX_QUEUE));
        Self { to: queue(), from: queue() }
    }
}

impl Stage {
    /// A director with an empty table that takes what `check` takes.
    ///
    /// # Errors
    /// Where there is no memory for its tables.
    pub fn new(check: ChangeCheck) -> Result<Self> {
        Self::sized(check, CAPACITY)
    }

    /// The same with room for so many connections.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn sized(check: ChangeCheck, capacity: u32) -> Result<Self> {
        Self::built(check, capacity, None)
    }

    /// The same on a host that has these addresses, with a kernel interface: see [`Stage::linux_sends`] and [`Stage::linux_received`].
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn with_linux(check: ChangeCheck, capacity: u32, own: &[IpAddr]) -> Result<Self> {
        Self::built(check, capacity, Some(own))
    }

    fn built(check: ChangeCheck, capacity: u32, own: Option<&[IpAddr]>) -> Result<Self> {
        let clock = Rc::new(Cell::new(Tick::default()));
        let seeds = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
        let shared = Shared {
            table: Arc::new(ConnectionTable::with_seeds(BUCKETS, capacity, 1, seeds)?),
            destinations: Arc::new(Destinations::new(DESTINATIONS as usize, 1)?),
            fragments: Arc::new(Notes::new(1)?),
            requests: Arc::new(ArrayQueue::new(1)),
        };
        let first = Arc::new(Snapshot {
            network: Arc::new(network(own.unwrap_or_default())?),
            ..Snapshot::default()
        });
        let (publisher, mut subscribers) = snapshot::channel(1, &first);
        let subscriber = subscribers.pop().context("no subscriber for the one worker")?;
        let counters = Arc::new(WorkerCounters::default());
        let cable = Cable::default();
        let linux = Linux::default();
        let kernel = own.map(|_| Kernel { to: linux.to.clone(), from: Some(linux.from.clone()) });
        let port = Port { mac: DIRECTOR, mtu: 1500, wire: cable.clone(), kernel };
        let worker = Worker::new(0, vec![port], &shared, subscriber, counters.clone(), clock.get());
        let worker = Rc::new(RefCell::new(worker));
        let (now, waiting, time) = (clock.clone(), worker.clone(), clock.clone());
        let surroundings = Surroundings {
            now: Box::new(move || now.get()),
            ports: Box::new(Vec::new),
            wait: Box::new(move || {
                waiting.borrow_mut().poll(time.get());
            }),
            servers: Box::new(|_| {}),
            interfaces: Box::new(|name| INTERFACES.iter().find(|(n, _)| *n == name).map(|(_, mtu)| *mtu)),
        };
        let workers = Workers::new(shared, publisher, first, vec![(0, counters.clone())], surroundings);
        let start = Instant::now();
        let director = Director::with_check(workers, DESTINATIONS, start, check);
        Ok(Self { director: Rc::new(RefCell::new(director)), worker, cable, clock, start, counters, linux })
    }

    /// The control side, for a socket to serve.
    pub fn director(&self) -> Rc<RefCell<Director<Workers>>> {
        self.director.clone()
    }

    /// Where the frames went that the director was sent.
    pub fn counters(&self) -> Totals {
        self.counters.read()
    }

    /// Has a request done, as the socket does.
    ///
    /// # Errors
    /// Where director refuses.
    pub fn request(&self, request: &Request) -> Result<Reply, Refusal> {
        self.director.borrow_mut().handle(request, self.now())
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(1) * self.clock.get().0 / TICKS_PER_SECOND
    }

    /// Lets the worker do what there is to do now.
    fn rest(&self) {
        let mut worker = self.worker.borrow_mut();
        for _ in 0..ROUNDS {
            worker.poll(self.clock.get());
        }
    }

    /// Lets time go by, to a tick or two.
    pub fn pass(&self, time: Duration) {
        let ticks = (time.as_secs_f64() * f64::from(TICKS_PER_SECOND)).round() as u32;
        for _ in 0..ticks {
            self.clock.set(self.clock.get().after(1));
            self.worker.borrow_mut().poll(self.clock.get());
            // As the daemon does.
            if self.clock.get().0.is_multiple_of(TICKS_PER_SECOND) {
                self.rest();
                self.director.borrow_mut().tick(self.now());
            }
        }
        self.rest();
    }

    /// Sends a frame to the director and gives what it sends.
    pub fn send(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.cable.0.borrow_mut().incoming.push_back(MemoryFrame::new(frame));
        self.sent()
    }

    /// Has Linux send a frame by the port, and gives what director sends.
    pub fn linux_sends(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        // It is empty: the worker has come to rest since the last one.
        let _ = self.linux.from.push(MemoryFrame::new(frame));
        self.sent()
    }

    /// What Linux has got since this was asked last.
    pub fn linux_received(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.linux.to.pop()).map(|frame| frame.data().to_vec()).collect()
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.rest();
        let sent = std::mem::take(&mut self.cable.0.borrow_mut().sent);
        sent.iter().map(|frame| frame.data().to_vec()).collect()
    }

    /// `ipvsadm` with these words, parted by blanks.
    ///
    /// # Errors
    /// Where its output cannot be written, which is never.
    pub fn ipvsadm(&self, words: &str) -> Result<Printed> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let words: Vec<_> = words.split_ascii_whitespace().map(str::to_owned).collect();
        let mut session = Session {
            program: "ipvsadm",
            transport: &mut &*self,
            names: &mut RecordedNames::default(),
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut err,
        };
        let status = session.run(&words)?.into();
        Ok(Printed { out: String::from_utf8(out)?, err: String::from_utf8(err)?, status })
    }

    /// [`Stage::ipvsadm`] for a command that is to be taken.
    ///
    /// # Errors
    /// Where it is refused: what was said.
    pub fn rule(&self, words: &str) -> Result<()> {
        let printed = self.ipvsadm(words)?;
        if printed.status != 0 {
            bail!("ipvsadm {words}: {}", printed.err.trim());
        }
        Ok(())
    }

    /// Sets `net.ipv4.vs.NAME`.
    ///
    /// # Errors
    /// Where director refuses.
    pub fn sysctl(&self, name: &str, value: i64) -> Result<()> {
        let change = Change::SetSysctl { name: name.to_owned(), value: Value::Number(value) };
        self.request(&Request::Change(change)).map(drop).map_err(anyhow::Error::from)
    }
}

impl Stage {
    /// Gives a mark to packets of this protocol to this network.
    ///
    /// # Errors
    /// Where director refuses.
    pub fn mark(&self, mark: u32, protocol: &str, to: &str) -> Result<()> {
        let (protocol, to) = (mark::protocol(protocol), mark::network(to));
        let rule = MarkRule {
            protocol: Some(protocol.map_err(anyhow::Error::msg)?),
            to: Some(to.map_err(anyhow::Error::msg)?),
            ..MarkRule::new(mark)
        };
        self.request(&Request::Change(Change::AddMark(rule))).map(drop).map_err(anyhow::Error::from)
    }
}

impl Transport for &Stage {
    fn call(&mut self, request: &Request) -> Result<Reply, CallError> {
        Stage::request(self, request).map_err(|refusal| CallError::Refused((&refusal).into()))
    }
}

/// Real servers are on the director's link, each with a MAC address that tells which one it is; everybody else is behind the
/// router.
fn network(own: &[IpAddr]) -> Result<Network> {
    let port = PortId(0);
    let mut network = Network::default();
    let mut routes = Vec::new();
    for (everybody, router, servers) in
        [("0.0.0.0/0", "203.0.113.254", SERVERS), ("::/0", "2001:db8:1::fe", SERVERS_V6)]
    {
        let router: IpAddr = router.parse()?;
        routes.push((everybody.parse()?, Way::Out(NextHop { port, gateway: Some(router) })));
        routes.push((servers.parse()?, Way::Out(NextHop { port, gateway: None })));
        network.set_neighbour(router, Adjacency::new(port, DIRECTOR, ROUTER));
    }
    routes.extend(own.iter().map(|address| ((*address).into(), Way::Local)));
    network.set_routes(routes);
    let own = ["192.0.2.1/24", "2001:db8:2::1/64"].map(str::parse);
    let own = own.into_iter().collect::<Result<Vec<_>, _>>()?;
    let on_port = own.into_iter().map(|network| LocalAddress { port: Some(port), network });
    network.set_sources(Sources::new([], on_port));
    for number in 1..=u8::MAX {
        let v4 = Ipv4Addr::new(192, 0, 2, number);
        network.set_neighbour(v4.into(), Adjacency::new(port, DIRECTOR, server_mac(number)));
        // The recordings' servers are ::101 and on, in hexadecimal digits that read as those of IPv4.
        let v6 = format!("2001:db8:2::{number}").parse()?;
        network.set_neighbour(v6, Adjacency::new(port, DIRECTOR, server_mac(number)));
    }
    Ok(network)
}

fn server_mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, number])
}

/// The last part of the address of the real server that has this MAC address.
pub fn server_number(mac: [u8; 6]) -> Option<u8> {
    (mac[..5] == server_mac(0).0[..5]).then_some(mac[5])
}
