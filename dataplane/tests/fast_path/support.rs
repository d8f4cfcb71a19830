//! A director whose wire costs little and always the same: the tests of the fast path look at what its worker does, and must
//! not see what they do themselves.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use crossbeam::queue::ArrayQueue;
use dataplane::conn::{ConnectionTable, Method};
use dataplane::counters::{Totals, WorkerCounters};
use dataplane::destination::Destinations;
use dataplane::forward::tunnel::Kind;
use dataplane::fragments::Notes;
use dataplane::locals::{Block, Locals, Pool};
use dataplane::network::{Adjacency, LocalAddress, MacAddr, Network, NextHop, PortId, Sources};
use dataplane::packet::{checksum, protocol};
use dataplane::schedule::{self, Summary};
use dataplane::service::{Destination, Service, ServiceKey, Services};
use dataplane::snapshot::{self, Publisher, Snapshot};
use dataplane::time::Tick;
use dataplane::tunnels::{Tunnel, Tunnels};
use dataplane::wire::{BURST, Burst, Frame, Wire};
use dataplane::worker::{Kernel, Port, Shared, Worker};
use etherparse::{PacketBuilder, TcpHeader};

/// The virtual service, TCP and UDP.
pub const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 8), 80);
/// The same over IPv6.
pub const SERVICE_IPV6: (Ipv6Addr, u16) = (Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 8), 80);
/// The real servers' port where it is not the service's.
const SERVER_PORT: u16 = 8080;
/// Real servers of each protocol.
pub const SERVERS: u8 = 4;
const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Bytes before a frame, and of a whole buffer.
const HEADROOM: usize = 128;
const SIZE: usize = 2048;

struct Buffer {
    bytes: [u8; SIZE],
    start: usize,
    end: usize,
    home: &'static ArrayQueue<Box<Buffer>>,
}

/// A frame in a buffer that goes back to its wire when the frame is gone, as an mbuf to its pool. A pointer, as an mbuf is.
pub struct Recycled(Option<Box<Buffer>>);

impl Frame for Recycled {
    #[inline]
    fn data(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |buffer| &buffer.bytes[buffer.start..buffer.end])
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |buffer| &mut buffer.bytes[buffer.start..buffer.end])
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.end - buffer.start)
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let buffer = self.0.as_mut()?;
        buffer.start = buffer.start.checked_sub(n)?;
        Some(self.data_mut())
    }

    fn trim_front(&mut self, n: usize) -> bool {
        let buffer = self.0.as_mut().filter(|buffer| buffer.end - buffer.start >= n);
        buffer.map(|buffer| buffer.start += n).is_some()
    }

    fn truncate(&mut self, length: usize) -> bool {
        let buffer = self.0.as_mut();
        buffer.map(|buffer| buffer.end = buffer.end.min(buffer.start + length)).is_some()
    }
}

impl std::ops::Drop for Recycled {
    #[inline]
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            // There is room for every buffer that the wire has made.
            let _ = buffer.home.push(buffer);
        }
    }
}

/// What the wire is to do.
struct Script {
    frames: Rc<[Vec<u8>]>,
    next: usize,
    burst: usize,
    /// True where the transmit queue takes nothing.
    stuck: bool,
    /// What has been sent, where anybody wants to see it.
    sent: Option<Vec<Vec<u8>>>,
    idle: &'static ArrayQueue<Box<Buffer>>,
}

/// The wire; clones are handles of the same.
#[derive(Clone)]
pub struct Loop(Rc<RefCell<Script>>);

impl Loop {
    fn new(buffers: usize) -> Self {
        // Leaked, because buffers and queue belong to each other; a test ends soon.
        let idle = &*Box::leak(Box::new(ArrayQueue::new(buffers)));
        while idle.push(Box::new(Buffer { bytes: [0; SIZE], start: 0, end: 0, home: idle })).is_ok() {}
        let frames = Rc::new([]);
        Self(Rc::new(RefCell::new(Script { frames, next: 0, burst: BURST, stuck: false, sent: None, idle })))
    }

    /// From now on these frames, so many in a burst, once.
    pub fn load(&self, frames: &Rc<[Vec<u8>]>, burst: usize) {
        let mut script = self.0.borrow_mut();
        (script.frames, script.next, script.burst) = (frames.clone(), 0, burst);
    }

    /// Lets the transmit queue take nothing.
    pub fn stick(&self) {
        self.0.borrow_mut().stuck = true;
    }

    /// A frame of the wire's own buffers.
    fn frame(&self, bytes: &[u8]) -> Option<Recycled> {
        self.0.borrow().frame(bytes)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        let script = self.0.borrow();
        script.next == script.frames.len()
    }
}

impl Script {
    #[inline]
    fn frame(&self, bytes: &[u8]) -> Option<Recycled> {
        let mut buffer = self.idle.pop()?;
        (buffer.start, buffer.end) = (HEADROOM, HEADROOM + bytes.len());
        buffer.bytes[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        Some(Recycled(Some(buffer)))
    }
}

impl Wire for Loop {
    type Frame = Recycled;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Recycled>) {
        let script = &mut *self.0.borrow_mut();
        let left = script.frames.len() - script.next;
        for _ in 0..left.min(script.burst).min(burst.remaining_capacity()) {
            let Some(frame) = script.frame(&script.frames[script.next]) else {
                panic!("no buffer is left: somebody keeps frames")
            };
            burst.push(frame);
            script.next += 1;
        }
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<Recycled>) {
        let script = &mut *self.0.borrow_mut();
        if script.stuck {
            return;
        }
        if let Some(sent) = &mut script.sent {
            sent.extend(burst.iter().map(|frame| frame.data().to_vec()));
        }
        burst.clear();
    }
}

/// How a director is to be.
#[derive(Clone)]
pub struct Setup {
    /// How it forwards.
    pub method: Method,
    /// Its services' scheduler.
    pub scheduler: &'static str,
    /// Connections that it has room for.
    pub capacity: u32,
    /// Buckets of its table.
    pub buckets: usize,
    /// Frames that its way to Linux has room for; `None` for no such way.
    pub kernel: Option<usize>,
    /// What it knows of its surroundings.
    pub network: Network,
    /// Whether services, servers and clients are of IPv6.
    pub ipv6: bool,
    /// Whether the servers are of the other family.
    pub across: bool,
    /// The ports of its local addresses.
    pub local_ports: (u16, u16),
}

impl Setup {
    /// A director that forwards by `method`, with room for everything.
    pub fn new(method: Method) -> Result<Self> {
        Ok(Self {
            method,
            scheduler: "rr",
            capacity: 8192,
            buckets: 4096,
            kernel: Some(64),
            network: network(&[])?,
            ipv6: false,
            across: false,
            local_ports: (1024, u16::MAX),
        })
    }

    /// The same for IPv6.
    pub fn ipv6(method: Method) -> Result<Self> {
        Ok(Self { ipv6: true, ..Self::new(method)? })
    }

    /// A director that forwards by FULLNAT to servers of the other family than its clients', which are of IPv6 or of IPv4.
    pub fn across(ipv6: bool) -> Result<Self> {
        Ok(Self { ipv6, across: true, ..Self::new(Method::FullNat)? })
    }

    /// The address of the server of this number.
    fn server(&self) -> fn(u8) -> IpAddr {
        if self.ipv6 == self.across { server } else { server_ipv6 }
    }
}

/// A director with one worker and one port, polled by its owner.
pub struct Director {
    worker: Worker<Loop>,
    method: Method,
    ipv6: bool,
    /// Its only wire.
    pub wire: Loop,
    /// What its counters are summed of.
    counters: Arc<WorkerCounters>,
    /// The destinations' counters.
    pub destinations: Arc<Destinations>,
    publisher: Publisher<Snapshot>,
    snapshot: Snapshot,
    from_kernel: Arc<ArrayQueue<Recycled>>,
    to_kernel: Arc<ArrayQueue<Recycled>>,
    now: Tick,
}

impl Director {
    /// A director that has seen nothing yet. Its hash is seeded always the same.
    pub fn new(setup: &Setup) -> Result<Self> {
        let seeds = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
        let shared = Shared {
            table: Arc::new(ConnectionTable::with_seeds(setup.buckets, setup.capacity, 1, seeds)?),
            destinations: Arc::new(Destinations::new(2 * usize::from(SERVERS), 1)?),
            fragments: Arc::new(Notes::new(1024)?),
            requests: Arc::new(ArrayQueue::new(64)),
        };
        let snapshot = Snapshot {
            network: Arc::new(setup.network.clone()),
            services: Arc::new(services(setup)?),
            tunnels: Arc::new(tunnels(setup)),
            locals: Arc::new(if setup.method == Method::FullNat {
                locals(setup)?
            } else {
                Locals::default()
            }),
            ..Snapshot::default()
        };
        let (publisher, mut subscribers) = snapshot::channel(1, &Arc::new(snapshot.clone()));
        let subscriber = subscribers.pop().context("no subscriber for the one worker")?;
        let counters = Arc::new(WorkerCounters::default());
        let wire = Loop::new(1024 + setup.kernel.unwrap_or_default());
        let from_kernel = Arc::new(ArrayQueue::new(64));
        let to_kernel = Arc::new(ArrayQueue::new(setup.kernel.unwrap_or(1)));
        let kernel = setup.kernel.map(|_| Kernel { to: to_kernel.clone(), from: Some(from_kernel.clone()) });
        let port = Port { mac: DIRECTOR, mtu: 1500, wire: wire.clone(), kernel };
        let now = Tick::default();
        let worker = Worker::new(0, vec![port], &shared, subscriber, counters.clone(), now);
        let destinations = shared.destinations;
        Ok(Self {
            worker,
            method: setup.method,
            ipv6: setup.ipv6,
            wire,
            counters,
            destinations,
            publisher,
            snapshot,
            from_kernel,
            to_kernel,
            now,
        })
    }

    /// One round of the worker.
    #[inline]
    pub fn poll(&mut self) {
        self.worker.poll(self.now);
    }

    /// Polls until every frame loaded has been received, and once more.
    pub fn poll_all(&mut self) {
        while !self.wire.is_empty() {
            self.poll();
        }
        self.poll();
    }

    /// Polls as often as it takes to try all packets that may wait for a neighbour again.
    pub fn poll_waiting(&mut self) {
        (0..8).for_each(|_| self.poll());
    }

    /// Polls until nothing is left of any connection.
    pub fn poll_until_expired(&mut self) {
        while self.connections() > 0 {
            self.poll();
        }
    }

    /// Sends `frames` through and gives what came out.
    pub fn pass(&mut self, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        self.wire.load(&frames.into(), BURST);
        self.wire.0.borrow_mut().sent = Some(Vec::new());
        self.poll_all();
        self.wire.0.borrow_mut().sent.take().unwrap_or_default()
    }

    /// Opens these flows, as far as they go: both sides' first packets and one more. Gives the replies that an established
    /// connection's server sends, one for each flow, where the director sees replies.
    pub fn establish(&mut self, transport: Transport, flows: u32) -> Result<Vec<Vec<u8>>> {
        let client = if self.ipv6 { client_ipv6 } else { client };
        let opened = self.pass((0..flows).map(|flow| client(transport, flow, Phase::Opening)).collect());
        anyhow::ensure!(opened.len() == flows as usize, "not every connection could be opened");
        let established = (0..flows).map(|flow| client(transport, flow, Phase::Established)).collect();
        if !self.method.sees_replies() {
            self.pass(established);
            return Ok(Vec::new());
        }
        let answers = |phase| opened.iter().map(move |frame| reply(frame, phase));
        self.pass(answers(Phase::Opening).collect::<Result<_>>()?);
        self.pass(established);
        answers(Phase::Established).collect()
    }

    /// Lets so many seconds go by at once.
    pub fn skip(&mut self, seconds: u32) {
        self.now = self.now.after(Tick::from_seconds(seconds).0);
    }

    /// The connections that there are.
    #[inline]
    pub fn connections(&self) -> u32 {
        (0..2 * u32::from(SERVERS))
            .map(|id| self.destinations.load(id))
            .map(|load| load.active() + load.inactive())
            .sum()
    }

    /// Its counters.
    pub fn totals(&self) -> Totals {
        self.counters.read()
    }

    /// Publishes a snapshot that differs from the one before.
    pub fn publish(&mut self, network: Network) {
        self.snapshot.network = Arc::new(network);
        self.publisher.publish(&Arc::new(self.snapshot.clone()));
    }

    /// Has Linux send this frame.
    pub fn send_from_linux(&mut self, frame: &[u8]) -> bool {
        self.wire.frame(frame).is_some_and(|frame| self.from_kernel.push(frame).is_ok())
    }

    /// Has Linux take what it has been sent.
    pub fn empty_kernel_queue(&mut self) {
        while self.to_kernel.pop().is_some() {}
    }
}

/// What the flows are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Where in its connection's life a packet is. To UDP it is all one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first packet of a side.
    Opening,
    /// A packet of an established connection.
    Established,
    /// The last packet of a side.
    Closing,
}

/// A frame of the client of flow number `flow`.
pub fn client(transport: Transport, flow: u32, phase: Phase) -> Vec<u8> {
    let address = Ipv4Addr::from(u32::from_be_bytes([10, 0, 0, 1]) + flow / 1000);
    let port = 1024 + (flow % 1000) as u16;
    packet(transport, (address, port), SERVICE, phase, true)
}

/// The same over IPv6.
pub fn client_ipv6(transport: Transport, flow: u32, phase: Phase) -> Vec<u8> {
    let address = Ipv6Addr::from((0x2001_0db8_00cb << 80) + u128::from(flow / 1000));
    let port = 1024 + (flow % 1000) as u16;
    packet(transport, (address, port), SERVICE_IPV6, phase, true)
}

/// What the server that was sent `frame` answers.
fn reply(frame: &[u8], phase: Phase) -> Result<Vec<u8>> {
    let headers = etherparse::PacketHeaders::from_ethernet_slice(frame)?;
    let segment = headers.transport.context("the director has sent neither UDP nor TCP")?;
    let (source, destination): (IpAddr, IpAddr) = match headers.net.context("not over IP")? {
        etherparse::NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
        etherparse::NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        etherparse::NetHeaders::Arp(_) => anyhow::bail!("not over IP"),
    };
    let (transport, from, to) = match segment {
        etherparse::TransportHeader::Udp(udp) => (Transport::Udp, udp.source_port, udp.destination_port),
        etherparse::TransportHeader::Tcp(tcp) => (Transport::Tcp, tcp.source_port, tcp.destination_port),
        _ => anyhow::bail!("neither UDP nor TCP"),
    };
    Ok(packet(transport, (destination, to), (source, from), phase, false))
}

/// A whole frame to the director, checksums right.
pub fn packet(
    transport: Transport,
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    phase: Phase,
    from_client: bool,
) -> Vec<u8> {
    let frame = PacketBuilder::ethernet2(GATEWAY.0, DIRECTOR.0);
    let ip = match (source.0.into(), destination.0.into()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("no packet is of two families"),
    };
    let mut frame = Vec::new();
    let written = match transport {
        Transport::Udp => ip.udp(source.1, destination.1).write(&mut frame, &[0; 18]),
        Transport::Tcp => {
            let mut header = TcpHeader::new(source.1, destination.1, 1, 65535);
            header.syn = phase == Phase::Opening;
            header.fin = phase == Phase::Closing;
            header.ack = !(phase == Phase::Opening && from_client);
            ip.tcp_header(header).write(&mut frame, &[0; 6])
        }
    };
    assert!(written.is_ok(), "a vector takes everything");
    frame
}

/// What the receiver of a frame says who has nobody at its port: an ICMP error to its sender.
pub fn unreachable(frame: &[u8]) -> Result<Vec<u8>> {
    use etherparse::{NetHeaders, icmpv4, icmpv6};
    let headers = etherparse::PacketHeaders::from_ethernet_slice(frame)?;
    let (builder, mut error) = (PacketBuilder::ethernet2(GATEWAY.0, DIRECTOR.0), Vec::new());
    match headers.net.context("not over IP")? {
        NetHeaders::Ipv4(ip, _) => builder
            .ipv4(ip.destination, ip.source, 64)
            .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port))
            .write(&mut error, &frame[14..])?,
        NetHeaders::Ipv6(ip, _) => builder
            .ipv6(ip.destination, ip.source, 64)
            .icmpv6(etherparse::Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
            .write(&mut error, &frame[14..])?,
        NetHeaders::Arp(_) => anyhow::bail!("not over IP"),
    }
    Ok(error)
}

fn server(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1 + number).into()
}

fn server_ipv6(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1 + u16::from(number)).into()
}

/// Everything behind one port. The neighbours of servers with these numbers are not known.
pub fn network(unresolved: &[u8]) -> Result<Network> {
    let (port, gateway) = (PortId(0), "203.0.113.1".parse()?);
    let mut network = Network::default();
    network.set_routes([
        ("10.0.0.0/8".parse()?, Some(NextHop { port, gateway: Some(gateway) })),
        ("192.0.2.0/24".parse()?, Some(NextHop { port, gateway: None })),
        ("2001:db8:cb::/48".parse()?, Some(NextHop { port, gateway: Some(gateway) })),
        ("2001:db8:2::/48".parse()?, Some(NextHop { port, gateway: None })),
    ]);
    let address = |network: &str| anyhow::Ok(LocalAddress { port: Some(port), network: network.parse()? });
    network.set_sources(Sources::new([], [address("192.0.2.254/24")?, address("2001:db8:2::fe/48")?]));
    network.set_neighbour(gateway, Adjacency::new(port, DIRECTOR, GATEWAY));
    for number in (0..SERVERS).filter(|number| !unresolved.contains(number)) {
        let destination = MacAddr([2, 0, 0, 0, 1, number]);
        for server in [server(number), server_ipv6(number)] {
            network.set_neighbour(server, Adjacency::new(port, DIRECTOR, destination));
        }
    }
    Ok(network)
}

/// IP in IP to the destinations of [`services`], which only those of [`Method::Tunnel`] use.
fn tunnels(setup: &Setup) -> Tunnels {
    let server = setup.server();
    let tunnel = |id: u8| (id.into(), Tunnel::new(Kind::IpIp, server(id % SERVERS), &setup.network));
    Tunnels::new((0..2 * SERVERS).map(tunnel))
}

/// Local addresses of the servers' family, for those by FULLNAT.
fn locals(setup: &Setup) -> Result<Locals> {
    let server = setup.server();
    let (first_port, last_port) = setup.local_ports;
    let block = |number| Block { address: server(number), first_port, last_port };
    let pool = Pool::new([200, 201].map(block).to_vec()).ok().context("no local address")?;
    let pool = Arc::new(pool);
    Ok(Locals::new((0..2 * SERVERS).map(|id| (id.into(), pool.clone()))))
}

fn services(setup: &Setup) -> Result<Services> {
    let Setup { method, scheduler, ipv6, .. } = *setup;
    let server = setup.server();
    let address: IpAddr = if ipv6 { SERVICE_IPV6.0.into() } else { SERVICE.0.into() };
    let service = |(place, protocol): (u32, u8)| {
        let destination = |number: u8| Destination {
            id: place * u32::from(SERVERS) + u32::from(number),
            sequence: 1 + u32::from(number),
            address: server(number),
            port: if method.sees_replies() { SERVER_PORT } else { SERVICE.1 },
            weight: 1,
            last_weight: 1,
            method,
        };
        let scheduler = schedule::by_name(scheduler).with_context(|| format!("no {scheduler}"))?;
        let service = Service::new((0..SERVERS).map(destination).collect(), scheduler.clone());
        // As control does.
        scheduler.changed(service.destinations().iter().map(Summary::from).sum());
        let key = ServiceKey { protocol, address, port: SERVICE.1 };
        Ok((key, Arc::new(service)))
    };
    Ok(Services::new(
        [(0, protocol::UDP), (1, protocol::TCP)].into_iter().map(service).collect::<Result<Vec<_>>>()?,
    ))
}

/// Sixteen bytes of the datagram of this number, from byte `offset` on, its header's checksum right.
pub fn fragment(number: u32, offset: u16, more: bool) -> Vec<u8> {
    let mut frame = client(Transport::Udp, 0, Phase::Opening);
    frame.resize(14 + 20 + 16, 0);
    frame[16..18].copy_from_slice(&36_u16.to_be_bytes());
    frame[18..20].copy_from_slice(&(number as u16).to_be_bytes());
    frame[20..22].copy_from_slice(&((u16::from(more) << 13) | (offset / 8)).to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    frame
}
