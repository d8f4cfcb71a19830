//! A director to measure: the dataplane's own worker, with the table, service, servers, route and neighbours that the
//! traffic needs, and a generator as its only wire.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use crossbeam::queue::ArrayQueue;
use dataplane::conn::{ConnectionTable, Method};
use dataplane::counters::{Drop, WorkerCounters};
use dataplane::destination::Destinations;
use dataplane::forward::tunnel::Kind;
use dataplane::fragments::{NOTES, Notes};
use dataplane::locals::{Block, Locals, Pool};
use dataplane::network::{Adjacency, LocalAddress, Network, NextHop, PortId, Sources};
use dataplane::packet::protocol;
use dataplane::schedule::{self, Summary};
use dataplane::service::{Destination, Service, ServiceKey, Services};
use dataplane::snapshot::{self, Publisher, Snapshot, Subscriber};
use dataplane::time::{Clock, Tick};
use dataplane::tunnels::{Tunnel, Tunnels};
use dataplane::wire::Wire;
use dataplane::worker::{Port, Shared, Worker};
use dpdk_sys::{Mbuf, tsc};

use crate::Mode;
use crate::check::check;
use crate::generator::{Generator, Order};
use crate::traffic::{
    self, Answer, DIRECTOR, GATEWAY, GATEWAY_ADDRESS, LOCALS, Phase, Protocol, SERVERS, Sender, Stream,
};

/// One frame in how many may be lost. Connections that the table has no room for are refused, which is a figure of the
/// report; with more than these a figure in cycles would be one of dropping.
const TOLERATED: u64 = 10;

/// What the workers of one director share, and control's end of it.
pub struct Site {
    /// The table, and all else that is shared.
    pub shared: Shared,
    /// Control's end of what workers see.
    pub publisher: Publisher<Snapshot>,
    /// What workers see at first.
    pub snapshot: Arc<Snapshot>,
    /// What each worker counts.
    pub counters: Vec<Arc<WorkerCounters>>,
}

/// A worker's place in a [`Site`], to be taken to the thread that it is to run on.
pub struct Seat {
    number: usize,
    shared: Shared,
    subscriber: Subscriber<Snapshot>,
    counters: Arc<WorkerCounters>,
}

impl Site {
    /// A director for `workers` workers, whose services forward by this method, with room for `capacity` connections in a table of the size that the daemon gives
    /// it by default, and for `destinations` destinations.
    pub fn new(
        (method, services): (Method, Services),
        capacity: u32,
        destinations: usize,
        workers: usize,
    ) -> anyhow::Result<(Self, Vec<Seat>)> {
        let table = ConnectionTable::new(buckets(capacity), capacity, workers)
            .map(Arc::new)
            .with_context(|| format!("no memory for a table of {capacity} connections"))?;
        let destinations = Arc::new(Destinations::new(destinations, workers)?);
        let fragments = Arc::new(Notes::new(NOTES)?);
        let shared = Shared { table, destinations, fragments, requests: Arc::new(ArrayQueue::new(64)) };
        let network = network()?;
        let snapshot = Arc::new(Snapshot {
            tunnels: Arc::new(tunnels(&network)),
            locals: Arc::new(if method == Method::FullNat { locals()? } else { Locals::default() }),
            network: Arc::new(network),
            services: Arc::new(services),
            ..Snapshot::default()
        });
        let (publisher, subscribers) = snapshot::channel(workers, &snapshot);
        let seat = |(number, subscriber)| Seat {
            number,
            shared: shared.clone(),
            subscriber,
            counters: Arc::default(),
        };
        let seats: Vec<_> = subscribers.into_iter().enumerate().map(seat).collect();
        let counters = seats.iter().map(|seat| seat.counters.clone()).collect();
        Ok((Self { shared, publisher, snapshot, counters }, seats))
    }
}

/// One worker of a director, which the caller polls.
pub struct Director<W: Wire = Generator> {
    worker: Worker<W>,
    generator: Generator,
    counters: Arc<WorkerCounters>,
    table: Arc<ConnectionTable>,
    destinations: Arc<Destinations>,
    clock: Clock,
    /// How far the director's time is ahead of the clock, in ticks.
    ahead: u32,
    method: Method,
    /// The servers that flows are given to, in turn. Known once connections have been opened.
    turns: Vec<u8>,
    /// Flows that had no turn, because the table had no room for them when they were opened.
    refused: HashSet<u32>,
}

impl Director {
    /// A director with one worker that forwards by `method`, schedules by `scheduler`, and has room for `capacity`
    /// connections, of which each takes two entries by FULLNAT.
    pub fn new(
        method: Method,
        scheduler: &str,
        capacity: u32,
        generator: Generator,
        hertz: u64,
    ) -> anyhow::Result<Self> {
        let services = services(method, scheduler)?;
        let entries = if method == Method::FullNat { 2 * capacity } else { capacity };
        let (_, mut seats) = Site::new((method, services), entries, 2 * usize::from(SERVERS), 1)?;
        let seat = seats.pop().context("no place for the one worker")?;
        Ok(Self::on(seat, generator.clone(), generator, method, hertz))
    }
}

impl<W: Wire<Frame = Mbuf>> Director<W> {
    /// The worker of `seat`, on a site that forwards by `method`, whose one wire is `wire`. What [`Director::pass`] sends
    /// comes from `generator`, which the wire receives from. On the thread that is to poll it.
    pub fn on(seat: Seat, wire: W, generator: Generator, method: Method, hertz: u64) -> Self {
        let Seat { number, shared, subscriber, counters } = seat;
        // The longest frames have room for a tunnel's headers.
        let port = Port { mac: DIRECTOR, mtu: 1600, wire, kernel: None };
        let clock = Clock::new(tsc(), hertz);
        let worker = Worker::new(number, vec![port], &shared, subscriber, counters.clone(), Tick::default());
        let Shared { table, destinations, .. } = shared;
        let (turns, refused) = (Vec::new(), HashSet::new());
        Self { worker, generator, counters, table, destinations, clock, ahead: 0, method, turns, refused }
    }

    /// One round of the worker at a time that the caller makes up.
    #[inline]
    pub fn poll_at(&mut self, now: Tick) -> usize {
        self.worker.poll(now)
    }

    /// One round of the worker, as in the daemon's loop.
    #[inline]
    pub fn poll(&mut self) -> usize {
        self.poll_when(tsc())
    }

    /// One round of the worker at cycle `now`.
    #[inline]
    pub fn poll_when(&mut self, now: u64) -> usize {
        self.worker.poll(self.clock.tick(now).after(self.ahead))
    }

    /// What the worker's wire is.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// The servers that flows are given to, in turn.
    pub fn turns(&self) -> &[u8] {
        &self.turns
    }

    /// Sends `count` frames of `stream`, and polls until the last one is through.
    pub fn pass(&mut self, stream: Stream, order: Order, count: usize) -> anyhow::Result<()> {
        self.generator.send(stream, order, count)?;
        while self.generator.has_more() {
            ensure!(self.poll() > 0, "the generator has no buffers left");
        }
        self.few_lost()
    }

    /// Opens flows 0 to `flows - 1` and brings them as far as they go: both sides seen where the director sees both.
    pub fn open(&mut self, protocol: Protocol, flows: u32) -> anyhow::Result<()> {
        self.open_some(protocol, 0..flows)
    }

    /// As [`Director::open`], by FULLNAT: where servers answer to, in no order.
    pub fn open_fullnat(&mut self, protocol: Protocol, flows: u32) -> anyhow::Result<Rc<[Answer]>> {
        let from_clients = |phase| Stream::new(protocol, Sender::Clients, phase, 60);
        let answers = Rc::new(RefCell::new(Vec::with_capacity(flows as usize)));
        let listener = answers.clone();
        self.generator.listen(Some(Box::new(move |frame| {
            let answer = traffic::headers(frame).ok().and_then(|headers| headers.answer());
            listener.borrow_mut().extend(answer);
        })));
        self.pass(from_clients(Phase::Opening)?, Order::InTurn(0), flows as usize)?;
        self.generator.listen(None);

        let mut answers = answers.take();
        self.turns = answers.iter().take(SERVERS.into()).map(|answer| answer.server).collect();
        fastrand::shuffle(&mut answers);
        let answers: Rc<[_]> = answers.into();
        let replies = Stream::new(protocol, Sender::Answering(&answers), Phase::Opening, 60)?;
        self.pass(replies, Order::InTurn(0), answers.len())?;
        self.pass(from_clients(Phase::Established)?, Order::InTurn(0), flows as usize)?;
        Ok(answers)
    }

    /// As [`Director::open`]. The first of `flows` is a multiple of the number of servers, so that turns begin with it.
    pub fn open_some(&mut self, protocol: Protocol, flows: Range<u32>) -> anyhow::Result<()> {
        let bytes = 60;
        let start = flows.start;
        let first = Stream::new(protocol, Sender::Clients, Phase::Opening, bytes)?;
        let established = Stream::new(protocol, Sender::Clients, Phase::Established, bytes)?;
        let count = flows.len();
        let servers = Rc::new(RefCell::new(vec![None; count]));
        let listener = servers.clone();
        self.generator.listen(Some(Box::new(move |frame| {
            // The last byte of a server's MAC address is its number.
            let flow = traffic::headers(frame).ok().and_then(|headers| headers.source_flow());
            let mut servers = listener.borrow_mut();
            let place = flow.and_then(|flow| flow.checked_sub(start));
            if let Some(server) = place.and_then(|place| servers.get_mut(place as usize)) {
                *server = Some(frame[5]);
            }
        })));
        self.pass(first, Order::InTurn(start), count)?;
        self.generator.listen(None);

        let servers = servers.take();
        self.turns = servers.iter().take(SERVERS.into()).copied().flatten().collect();
        ensure!(self.turns.len() == count.min(SERVERS.into()), "the very first connections were refused");
        let as_its_turn = |(is, turn): (&Option<u8>, &u8)| is.is_none_or(|is| is == *turn);
        // One that was refused has had its turn all the same.
        let in_turn = servers.iter().zip(self.turns.iter().cycle()).all(as_its_turn);
        ensure!(in_turn, "the scheduler does not give flows to servers in turn");
        let missing = flows.zip(&servers).filter(|(_, server)| server.is_none());
        self.refused = missing.map(|(flow, _)| flow).collect();
        if self.method.sees_replies() {
            let replies = Stream::new(protocol, Sender::Servers(&self.turns), Phase::Opening, bytes)?;
            self.pass(replies, Order::InTurn(start), count)?;
        }
        self.pass(established, Order::InTurn(start), count)
    }

    /// Sends some frames and checks every one that comes back.
    pub fn check(&mut self, stream: Stream, mode: Mode, order: Order) -> anyhow::Result<()> {
        let (count, lost) = (4096, self.lost());
        let outcome = Rc::new(RefCell::new((0, Ok(()))));
        let (listener, turns, refused) = (outcome.clone(), self.turns.clone(), self.refused.clone());
        self.generator.listen(Some(Box::new(move |frame| {
            let (seen, result) = &mut *listener.borrow_mut();
            *seen += 1;
            if result.is_ok() {
                *result = check(frame, mode, &turns, &refused).with_context(|| format!("in {frame:02x?}"));
            }
        })));
        self.pass(stream, order, count)?;
        self.generator.listen(None);
        let (seen, result) = outcome.replace((0, Ok(())));
        let lost = self.lost() - lost;
        ensure!(seen + lost == count as u64, "of {count} frames {seen} came back, and {lost} were lost");
        result.with_context(|| format!("what the director sends is wrong in mode {}", mode.name()))
    }

    /// Frames that were not forwarded.
    pub fn lost(&self) -> u64 {
        let totals = self.counters.read();
        totals.received - totals.forwarded
    }

    /// Says where frames went, if more are lost than is tolerated.
    pub fn few_lost(&self) -> anyhow::Result<()> {
        let totals = self.counters.read();
        if self.lost() * TOLERATED <= totals.received {
            return Ok(());
        }
        let dropped = |reason: &Drop| (totals.dropped_for(*reason), reason.name());
        let dropped = Drop::ALL.iter().map(dropped).filter(|(frames, _)| *frames > 0);
        let reasons: Vec<_> = dropped.map(|(frames, reason)| format!("{frames} {reason}")).collect();
        bail!(
            "{} frames received, {} forwarded, {} to Linux, dropped: {}",
            totals.received,
            totals.forwarded,
            totals.to_kernel,
            reasons.join(", ")
        )
    }

    /// Buckets of the table.
    pub fn buckets(&self) -> usize {
        self.table.bucket_count()
    }

    /// Connections there are.
    pub fn connections(&self) -> u64 {
        let load = |id| self.destinations.load(id);
        (0..self.destinations.limit() as u32)
            .map(|id| u64::from(load(id).active()) + u64::from(load(id).inactive()))
            .sum()
    }

    /// Lets so many seconds go by at once.
    pub fn skip(&mut self, seconds: u32) {
        self.ahead += Tick::from_seconds(seconds).0;
    }
}

/// The buckets that the daemon gives a table of this capacity by default.
pub fn buckets(capacity: u32) -> usize {
    ConnectionTable::buckets_for(capacity) as usize
}

fn network() -> anyhow::Result<Network> {
    let port = PortId(0);
    let mut network = Network::default();
    network.set_routes([
        ("0.0.0.0/0".parse()?, Some(NextHop { port, gateway: Some(GATEWAY_ADDRESS.into()) })),
        ("192.0.2.0/24".parse()?, Some(NextHop { port, gateway: None })),
    ]);
    network.set_sources(Sources::new(
        [],
        [LocalAddress { port: Some(port), network: "192.0.2.254/24".parse()? }],
    ));
    let mut neighbour = |address: IpAddr, destination| {
        network.set_neighbour(address, Adjacency::new(port, DIRECTOR, destination));
    };
    neighbour(GATEWAY_ADDRESS.into(), GATEWAY);
    for number in 0..SERVERS {
        let (address, mac) = traffic::server(number);
        neighbour(address.into(), mac);
    }
    Ok(network)
}

/// Local addresses for the destinations of [`services`], which only those of [`Method::FullNat`] use.
fn locals() -> anyhow::Result<Locals> {
    let (first, count) = LOCALS;
    let block = |n: u8| Block {
        address: IpAddr::from((u32::from(first) + u32::from(n)).to_be_bytes()),
        first_port: 1024,
        last_port: u16::MAX,
    };
    let pool = Pool::new((0..count).map(block).collect());
    let pool = Arc::new(pool.ok().context("a pool without local addresses")?);
    Ok(Locals::new((0..2 * SERVERS).map(|id| (id.into(), pool.clone()))))
}

/// Tunnels to the destinations of [`services`], which only those of [`Method::Tunnel`] use.
fn tunnels(network: &Network) -> Tunnels {
    let tunnel = |id: u8| {
        let (address, _) = traffic::server(id % SERVERS);
        (id.into(), Tunnel::new(Kind::IpIp, address.into(), network))
    };
    Tunnels::new((0..2 * SERVERS).map(tunnel))
}

/// The service of each protocol, with destinations of its own.
pub fn services(method: Method, scheduler: &str) -> anyhow::Result<Services> {
    let (address, port) = traffic::SERVICE;
    let service = |(place, protocol): (u32, u8)| {
        let destination = |number: u8| Destination {
            id: place * u32::from(SERVERS) + u32::from(number),
            sequence: 1 + u32::from(number),
            address: traffic::server(number).0.into(),
            port: if method == Method::Nat { traffic::SERVER_PORT } else { port },
            weight: 1,
            last_weight: 1,
            method,
        };
        let scheduler = schedule::by_name(scheduler).with_context(|| format!("no scheduler {scheduler}"))?;
        let service = Service::new((0..SERVERS).map(destination).collect(), scheduler.clone());
        // As control does.
        scheduler.changed(service.destinations().iter().map(Summary::from).sum());
        Ok((ServiceKey { protocol, address: address.into(), port }, Arc::new(service)))
    };
    let both = [(0, protocol::UDP), (1, protocol::TCP)];
    Ok(Services::new(both.into_iter().map(service).collect::<anyhow::Result<Vec<_>>>()?))
}
