//! Whole workers on wires in memory: what goes in, what comes out, and where every frame is counted.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::conn::Method;
use crate::conn::State;
use crate::counters::Drop;
use crate::network::{Adjacency, Network, NextHop, Way};
use crate::packet::{checksum, protocol};
use crate::parse::{Flow, Packet, Parsed};
use crate::schedule;
use crate::service::{Destination, Service, ServiceKey, Services};
use crate::snapshot::{self, Publisher};
use crate::time::TICKS_PER_SECOND;
use crate::wire::Frame;
use crate::wire::memory::{MemoryFrame, MemoryWire};

mod across;
mod clamp;
mod fragments;
mod fullnat;
mod icmp;
mod inside;
mod invariants;
mod ipv6;
mod local;
mod long;
mod persist;
mod snat;
mod tunnel;
mod vlans;

const VIP: (u32, u16) = (0xc633_6408, 80); // 198.51.100.8
const SERVERS: [(u32, u16); 2] = [(0xc000_0209, 8080), (0xc000_020a, 8080)]; // 192.0.2.9 and .10
const CLIENT: u32 = 0xcb00_7109; // 203.0.113.9, behind a router
const WAN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const LAN: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const SERVER_MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 1, 9]), MacAddr([2, 0, 0, 0, 1, 10])];

fn ip(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(number))
}

/// An Ethernet frame with an IPv4 packet, checksums right.
fn frame(destination: MacAddr, flow: Flow, flags: u8, payload: &[u8]) -> Vec<u8> {
    let tcp = flow.protocol() == protocol::TCP;
    let (source, target) = (flow.source(), flow.destination());
    let mut transport = [source.1.to_be_bytes(), target.1.to_be_bytes()].concat();
    if tcp {
        transport.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        transport.extend((8_u16 + payload.len() as u16).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend(payload);
    let check = match transport_checksum(flow, &transport) {
        // UDP's 0 would say that there is none.
        0 if !tcp => 0xffff,
        check => check,
    };
    let at = if tcp { 16 } else { 6 };
    transport[at..at + 2].copy_from_slice(&check.to_be_bytes());

    let mut packet = vec![0x45, 0];
    packet.extend((20_u16 + transport.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, flow.protocol(), 0, 0]);
    packet.extend([source.0.to_be_bytes(), target.0.to_be_bytes()].concat());
    let check = checksum::verify(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    [&destination.0[..], &ROUTER.0, &[8, 0], &packet, &transport].concat()
}

/// The checksum over pseudo-header and segment; 0 where the segment has the right one in it.
fn transport_checksum(flow: Flow, segment: &[u8]) -> u16 {
    let pseudo = [
        &flow.source().0.to_be_bytes()[..],
        &flow.destination().0.to_be_bytes(),
        &[0, flow.protocol()],
        &(segment.len() as u16).to_be_bytes(),
    ]
    .concat();
    !checksum::fold(checksum::sum(&pseudo) + checksum::sum(segment))
}

fn tcp(client: u16, flags: u8) -> Vec<u8> {
    frame(WAN, Flow::new(protocol::TCP, (CLIENT, client), VIP), flags, b"")
}

fn tcp_reply(server: usize, client: u16, flags: u8) -> Vec<u8> {
    frame(LAN, Flow::new(protocol::TCP, SERVERS[server], (CLIENT, client)), flags, b"")
}

/// What a frame says, with its checksums checked: destination MAC, source MAC, flow.
fn read(frame: &MemoryFrame) -> (MacAddr, MacAddr, Flow) {
    let bytes = frame.data();
    let mac = |at: usize| MacAddr(bytes[at..at + 6].try_into().unwrap());
    let Parsed::Packet(packet) = Packet::parse(frame, mac(0)) else { panic!("{frame:?}") };
    let segment = &bytes[14 + usize::from(packet.ip_header)..14 + usize::from(packet.length)];
    assert_eq!(transport_checksum(packet.flow, segment), 0, "{frame:?}");
    (mac(0), mac(6), packet.flow)
}

fn network() -> Network {
    let mut network = Network::default();
    let via = |port, gateway: Option<&str>| {
        Some(NextHop { port: PortId(port), gateway: gateway.map(|g| g.parse().unwrap()) })
    };
    network.set_routes([
        ("0.0.0.0/0".parse().unwrap(), via(0, Some("198.51.100.1"))),
        ("198.51.100.0/24".parse().unwrap(), via(0, None)),
        ("192.0.2.0/24".parse().unwrap(), via(1, None)),
    ]);
    let wan = Adjacency::new(PortId(0), WAN, ROUTER);
    network.set_neighbour("198.51.100.1".parse().unwrap(), wan);
    for (server, mac) in SERVERS.iter().zip(SERVER_MACS) {
        network.set_neighbour(ip(server.0), Adjacency::new(PortId(1), LAN, mac));
    }
    network
}

fn services(method: Method, protocols: &[u8]) -> Services {
    Services::new(service_list(method, protocols))
}

fn service_list(method: Method, protocols: &[u8]) -> Vec<(ServiceKey, Arc<Service>)> {
    let destinations = |first: u32| {
        let destination = |(n, server): (usize, &(u32, u16))| {
            let port = if method.sees_replies() { server.1 } else { VIP.1 };
            let id = first + n as u32;
            let sequence = n as u32 + 1;
            Destination { id, sequence, address: ip(server.0), port, weight: 1, last_weight: 1, method }
        };
        SERVERS.iter().enumerate().map(destination).collect::<Vec<_>>()
    };
    let service = |(n, &protocol): (usize, &u8)| {
        let service = Service::new(destinations(2 * n as u32), schedule::by_name("rr").unwrap());
        (ServiceKey { protocol, address: ip(VIP.0), port: VIP.1 }, Arc::new(service))
    };
    protocols.iter().enumerate().map(service).collect()
}

/// A director of memory: two ports (0 to the clients, 1 to the servers), any number of workers.
struct Lab {
    workers: Vec<Worker<MemoryWire>>,
    counters: Vec<Arc<WorkerCounters>>,
    publisher: Publisher<Snapshot>,
    snapshot: Snapshot,
    shared: Shared,
    to_kernel: Vec<Arc<ArrayQueue<MemoryFrame>>>,
    from_kernel: Vec<Arc<ArrayQueue<MemoryFrame>>>,
    now: Tick,
}

impl Lab {
    fn new(method: Method, workers: usize) -> Self {
        let snapshot = Snapshot {
            network: Arc::new(network()),
            services: Arc::new(services(method, &[protocol::TCP, protocol::UDP])),
            ..Snapshot::default()
        };
        let shared = Shared {
            // A worker takes entries from the pool 64 at a time: each gets some.
            table: Arc::new(ConnectionTable::new(64, 64 * workers as u32, workers).unwrap()),
            destinations: Arc::new(Destinations::new(16, workers).unwrap()),
            fragments: Arc::new(Notes::new(64).unwrap()),
            requests: Arc::new(ArrayQueue::new(4)),
        };
        let (publisher, subscribers) = snapshot::channel(workers, &Arc::new(snapshot.clone()));
        let queues = || (0..2).map(|_| Arc::new(ArrayQueue::new(64))).collect::<Vec<_>>();
        let (to_kernel, from_kernel) = (queues(), queues());
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();
        let port = |number: usize, worker: usize| Port {
            mac: [WAN, LAN][number],
            mtu: 1500,
            wire: MemoryWire::default(),
            kernel: Some(Kernel {
                to: Arc::clone(&to_kernel[number]),
                from: (worker == 0).then(|| from_kernel[number].clone()),
            }),
        };
        let workers = subscribers.into_iter().enumerate().map(|(n, subscriber)| {
            Worker::new(n, vec![port(0, n), port(1, n)], &shared, subscriber, counters[n].clone(), Tick(0))
        });
        let workers = workers.collect();
        Self { workers, counters, publisher, snapshot, shared, to_kernel, from_kernel, now: Tick(0) }
    }

    fn publish(&mut self) {
        self.publisher.publish(&Arc::new(self.snapshot.clone()));
    }

    /// The worker receives these frames on a port. Gives what left by which port.
    fn receive(&mut self, worker: usize, port: usize, frames: &[Vec<u8>]) -> Vec<(usize, MemoryFrame)> {
        self.workers[worker].balancer.wires[port].incoming.extend(frames.iter().map(|f| MemoryFrame::new(f)));
        self.poll(worker)
    }

    fn poll(&mut self, worker: usize) -> Vec<(usize, MemoryFrame)> {
        while self.workers[worker].poll(self.now) > 0 {}
        self.publisher.settled();
        let sent = |(port, wire): (usize, &mut MemoryWire)| {
            wire.sent.drain(..).map(move |f| (port, f)).collect::<Vec<_>>()
        };
        self.workers[worker].balancer.wires.iter_mut().enumerate().flat_map(sent).collect()
    }

    fn receive_one(&mut self, port: usize, frame: Vec<u8>) -> Option<(usize, MemoryFrame)> {
        let mut sent = self.receive(0, port, &[frame]);
        assert!(sent.len() <= 1);
        sent.pop()
    }

    fn dropped(&self, reason: Drop) -> u64 {
        self.counters.iter().map(|c| c.read().dropped_for(reason)).sum()
    }

    /// ActiveConn and InActConn of a destination.
    fn load(&self, destination: u32) -> (u32, u32) {
        let load = self.shared.destinations.load(destination);
        (load.active(), load.inactive())
    }

    fn check_balance(&self) {
        for counters in &self.counters {
            assert!(counters.read().balance(), "{:?}", counters.read());
        }
    }
}

const S: u8 = Flags::SYN;
const A: u8 = Flags::ACK;
const F: u8 = Flags::FIN;
const R: u8 = Flags::RST;

#[test]
fn nat_rewrites_there_and_back() {
    let mut lab = Lab::new(Method::Nat, 1);
    let (port, request) = lab.receive_one(0, tcp(4000, S)).unwrap();
    // The server that was added last has the first turn.
    let flow = Flow::new(protocol::TCP, (CLIENT, 4000), SERVERS[1]);
    assert_eq!((port, read(&request)), (1, (SERVER_MACS[1], LAN, flow)));
    let (port, answer) = lab.receive_one(1, tcp_reply(1, 4000, S | A)).unwrap();
    assert_eq!((port, read(&answer)), (0, (ROUTER, WAN, Flow::new(protocol::TCP, VIP, (CLIENT, 4000)))));
    assert_eq!((request.data()[14 + 8], answer.data()[14 + 8]), (63, 63), "time to live");
    let stats = lab.shared.destinations.stats(1);
    assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 1, 1));
    assert_eq!((stats.in_bytes, stats.out_bytes), (40, 40), "IP packets, without the frame");
    lab.check_balance();
}

#[test]
fn direct_routing_changes_the_frame_header_and_the_time_to_live() {
    let mut lab = Lab::new(Method::DirectRouting, 1);
    let before = tcp(4000, S);
    let (port, after) = lab.receive_one(0, before.clone()).unwrap();
    assert_eq!(
        (port, read(&after)),
        (1, (SERVER_MACS[1], LAN, Flow::new(protocol::TCP, (CLIENT, 4000), VIP)))
    );
    let differs = |at: &usize| before[*at] != after.data()[*at];
    let changed: Vec<_> = (14..before.len()).filter(differs).collect();
    assert_eq!(changed, [14 + 8, 14 + 10], "time to live, and the checksum for it");
}

#[test]
fn connections_stay_where_they_are_and_new_ones_take_turns() {
    let mut lab = Lab::new(Method::Nat, 1);
    let servers: Vec<_> = (0..40u16)
        .flat_map(|client| [tcp(client, S), tcp(client, A)])
        .collect::<Vec<_>>()
        .chunks(16) // several connections in a burst, each with two packets
        .flat_map(|frames| lab.receive(0, 0, frames))
        .map(|(_, frame)| read(&frame).2.destination())
        .collect();
    let expected: Vec<_> = (0..40).flat_map(|n| [SERVERS[1 - n % 2]; 2]).collect();
    assert_eq!(servers, expected);
    assert_eq!((lab.load(0), lab.load(1)), ((20, 0), (20, 0)));
    lab.check_balance();
}

#[test]
fn a_reply_is_understood_on_another_worker() {
    let mut lab = Lab::new(Method::Nat, 2);
    for client in 0..10 {
        assert_eq!(lab.receive(0, 0, &[tcp(client, S)]).len(), 1);
        let sent = lab.receive(1, 1, &[tcp_reply(1 - usize::from(client) % 2, client, S | A)]);
        assert_eq!(read(&sent[0].1).2, Flow::new(protocol::TCP, VIP, (CLIENT, client)));
        // It ends on the other worker, and is counted out by it.
        lab.receive(1, 1, &[tcp_reply(1 - usize::from(client) % 2, client, R)]);
    }
    assert_eq!((lab.load(0), lab.load(1)), ((0, 5), (0, 5)));
    lab.check_balance();
}

#[test]
fn linux_gets_what_is_nobodys() {
    let mut lab = Lab::new(Method::Nat, 1);
    let mut arp = tcp(1, S);
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut icmp = tcp(1, S);
    icmp[14 + 9] = 1;
    let check = checksum::verify(&{
        icmp[14 + 10..14 + 12].fill(0);
        icmp[14..34].to_vec()
    });
    icmp[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
    let mut broadcast = tcp(1, S);
    broadcast[..6].fill(0xff);
    let other_port = frame(WAN, Flow::new(protocol::TCP, (CLIENT, 1), (VIP.0, 22)), S, b"");
    let frames = [
        arp,
        icmp,
        broadcast,
        other_port,
        tcp(1, A),
        tcp(1, F | A),
        tcp(1, R),
        tcp(1, S | R),
        tcp_reply(0, 1, S | A),
    ];
    for (n, frame) in frames.iter().enumerate() {
        let port = usize::from(frame[..6] == LAN.0);
        assert_eq!(lab.receive_one(port, frame.clone()), None, "frame {n}");
        assert_eq!(lab.to_kernel[port].pop(), Some(MemoryFrame::new(frame)), "frame {n}, as it came");
    }
    assert_eq!(lab.counters[0].read().to_kernel, frames.len() as u64);
    assert_eq!(lab.shared.table.slots_in_use(), 0);
    lab.check_balance();
}

#[test]
fn linux_sends_through_the_first_worker() {
    let mut lab = Lab::new(Method::Nat, 2);
    lab.from_kernel[1].push(MemoryFrame::new(&[7; 60])).unwrap();
    assert_eq!(lab.poll(1), []);
    assert_eq!(lab.poll(0), [(1, MemoryFrame::new(&[7; 60]))]);
    lab.workers[0].balancer.wires[1].room = Some(0);
    lab.from_kernel[1].push(MemoryFrame::new(&[7; 60])).unwrap();
    lab.poll(0);
    let totals = lab.counters[0].read();
    assert_eq!((totals.from_kernel, totals.from_kernel_dropped, totals.received), (1, 1, 0));
}

#[test]
fn each_reason_to_drop_has_its_name() {
    let change = |at: usize, value: u8| {
        let mut frame = tcp(1, S);
        frame[at] = value;
        frame[14 + 10..14 + 12].fill(0);
        let header = 14..14 + 20;
        let check = checksum::verify(&frame[header]);
        frame[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
        frame
    };
    let mut bad_checksum = tcp(1, S);
    bad_checksum[14 + 10] ^= 1;
    let martian = frame(WAN, Flow::new(protocol::TCP, (0x7f00_0001, 1), VIP), S, b"");
    for (name, frame, reason) in [
        ("no header", vec![2; 13], Drop::Truncated),
        ("no IP header", tcp(1, S)[..33].to_vec(), Drop::Truncated),
        ("less than the length says", tcp(1, S)[..53].to_vec(), Drop::Truncated),
        ("no room for TCP", change(14 + 3, 39), Drop::Truncated),
        ("version 6", change(14, 0x65), Drop::BadHeader),
        ("header of 16", change(14, 0x44), Drop::BadHeader),
        ("checksum", bad_checksum, Drop::BadChecksum),
        ("a first fragment that does not end where another can begin", change(14 + 6, 0x20), Drop::BadHeader),
        ("a fragment within TCP's header", change(14 + 7, 2), Drop::FragmentTiny),
        ("from loopback", martian, Drop::MartianSource),
    ] {
        let mut lab = Lab::new(Method::Nat, 1);
        assert_eq!(lab.receive_one(0, frame), None, "{name}");
        assert_eq!(lab.dropped(reason), 1, "{name}: {:?}", lab.counters[0].read());
        lab.check_balance();
    }
}

#[test]
fn a_service_without_servers_tells_its_clients() {
    let mut lab = Lab::new(Method::Nat, 1);
    let empty = || {
        let none = Service::new(Vec::new(), schedule::by_name("wlc").unwrap());
        Arc::new(none)
    };
    let key = |protocol| ServiceKey { protocol, address: ip(VIP.0), port: VIP.1 };
    lab.snapshot.services =
        Arc::new(Services::new([(key(protocol::TCP), empty()), (key(protocol::UDP), empty())]));
    lab.publish();
    let udp = |client| frame(WAN, Flow::new(protocol::UDP, (CLIENT, client), VIP), 0, b"hello");
    for request in [tcp(1, S), udp(2)] {
        let (port, error) = lab.receive_one(0, request.clone()).unwrap();
        let bytes = error.data();
        assert_eq!((port, &bytes[..6], &bytes[6..12]), (0, &ROUTER.0[..], &WAN.0[..]));
        let ip = [VIP.0.to_be_bytes(), CLIENT.to_be_bytes()].concat();
        assert_eq!((bytes[23], &bytes[26..34], &bytes[34..36]), (1, &ip[..], &[3, 3][..]));
        assert_eq!(bytes[42..], request[14..], "quoted as it came");
    }
    for client in 3..23 {
        lab.receive_one(0, tcp(client, S));
    }
    let totals = lab.counters[0].read();
    assert_eq!((totals.unreachable, totals.forwarded), (6, 6), "no more in a second");
    assert_eq!(lab.dropped(Drop::NoDestination), 16);
    assert_eq!(lab.receive_one(0, tcp(1, A)), None, "only what would open a connection is answered");
    assert_eq!(lab.to_kernel[0].len(), 1);
    lab.check_balance();
}

#[test]
fn a_deleted_destinations_connections_are_silent_until_it_is_back() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.receive_one(0, tcp(1, S)).unwrap();
    lab.shared.destinations.set_gone(1, true);
    assert_eq!(lab.receive_one(0, tcp(1, A)), None);
    assert_eq!(lab.dropped(Drop::DestinationGone), 1);
    assert_eq!(lab.load(1), (1, 0), "its connections are there still");
    lab.shared.destinations.set_gone(1, false);
    assert!(lab.receive_one(0, tcp(1, A)).is_some());
    lab.check_balance();
}

#[test]
fn a_packet_waits_for_its_neighbour_and_leaves_when_that_is_known() {
    let mut lab = Lab::new(Method::Nat, 1);
    let mut unknown = network();
    unknown.clear_neighbour(PortId(1), ip(SERVERS[1].0));
    lab.snapshot.network = Arc::new(unknown);
    lab.publish();
    assert_eq!(lab.receive(0, 0, &[tcp(1, S), tcp(1, A)]), []);
    let asked = Resolve { port: PortId(1), neighbour: ip(SERVERS[1].0) };
    assert_eq!(lab.shared.requests.pop(), Some(asked));
    lab.snapshot.network = Arc::new(network());
    lab.publish();
    let sent: Vec<_> = lab.poll(0).iter().map(|(port, frame)| (*port, read(frame).0)).collect();
    assert_eq!(sent, [(1, SERVER_MACS[1]), (1, SERVER_MACS[1])], "in order");
    lab.check_balance();
}

#[test]
fn a_packet_does_not_wait_for_ever_and_not_too_many_do() {
    let mut lab = Lab::new(Method::Nat, 1);
    let mut unknown = network();
    unknown.clear_neighbour(PortId(1), ip(SERVERS[1].0));
    lab.snapshot.network = Arc::new(unknown);
    lab.publish();
    lab.receive(0, 0, &vec![tcp(1, S); 600]);
    assert_eq!(lab.dropped(Drop::NeighbourQueueFull), 600 - 512);
    lab.now = Tick(TICKS_PER_SECOND);
    lab.poll(0);
    assert_eq!(lab.dropped(Drop::NeighbourTimeout), 0);
    lab.now = Tick(TICKS_PER_SECOND + 1);
    lab.poll(0);
    assert_eq!(lab.dropped(Drop::NeighbourTimeout), 64, "no round takes long");
    (1..8).for_each(|_| drop(lab.poll(0)));
    assert_eq!(lab.dropped(Drop::NeighbourTimeout), 512);
    lab.check_balance();
}

#[test]
fn a_new_mac_and_a_new_route_are_taken_by_the_next_packet() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.receive_one(0, tcp(1, S)).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 9, 9]);
    let mut moved = network();
    moved.set_neighbour(ip(SERVERS[1].0), Adjacency::new(PortId(1), LAN, mac));
    lab.snapshot.network = Arc::new(moved.clone());
    lab.publish();
    assert_eq!(read(&lab.receive_one(0, tcp(1, A)).unwrap().1).0, mac);

    let gateway = Some(NextHop { port: PortId(0), gateway: Some("198.51.100.1".parse().unwrap()) });
    moved.set_routes([("0.0.0.0/0".parse().unwrap(), gateway)]);
    lab.snapshot.network = Arc::new(moved.clone());
    lab.publish();
    let (port, frame) = lab.receive_one(0, tcp(1, A)).unwrap();
    assert_eq!((port, read(&frame).0), (0, ROUTER));

    moved.set_routes([] as [(ipnet::IpNet, Way); 0]);
    lab.snapshot.network = Arc::new(moved);
    lab.publish();
    assert_eq!(lab.receive_one(0, tcp(1, A)), None);
    assert_eq!(lab.dropped(Drop::NoRoute), 1);
    lab.check_balance();
}

#[test]
fn a_port_used_again_after_time_wait_is_scheduled_anew() {
    let mut lab = Lab::new(Method::Nat, 1);
    let steps = [(0, tcp(1, S)), (0, tcp(1, A)), (1, tcp_reply(1, 1, F | A)), (0, tcp(1, F | A))];
    for (port, frame) in steps {
        lab.receive_one(port, frame).unwrap();
    }
    assert_eq!((lab.load(0), lab.load(1)), ((0, 0), (0, 1)));
    let (_, again) = lab.receive_one(0, tcp(1, S)).unwrap();
    assert_eq!(read(&again).2.destination(), SERVERS[0]);
    assert_eq!((lab.load(0), lab.load(1)), ((1, 0), (0, 0)));
    // Under way, a SYN is only a SYN.
    let (_, same) = lab.receive_one(0, tcp(1, S)).unwrap();
    assert_eq!(read(&same).2.destination(), SERVERS[0]);
}

#[test]
fn what_a_transmit_queue_does_not_take_is_tried_again_and_then_counted() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.workers[0].balancer.wires[1].room = Some(0);
    let frames: Vec<_> = (0..BURST as u16 - 10).map(|client| tcp(client, S)).collect();
    assert_eq!(lab.receive(0, 0, &frames), []);
    assert_eq!(lab.receive(0, 0, &frames), []);
    assert_eq!(lab.dropped(Drop::TxFull), BURST as u64 - 20);
    lab.workers[0].balancer.wires[1].room = None;
    assert_eq!(lab.poll(0).len(), BURST);
    lab.check_balance();
}

#[test]
fn time_ends_connections_and_counts_them_out() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.receive(
        0,
        0,
        &[tcp(1, S), tcp(2, S), frame(WAN, Flow::new(protocol::UDP, (CLIENT, 1), VIP), 0, b"x")],
    );
    assert_eq!((lab.load(0), lab.load(1), lab.load(3)), ((1, 0), (1, 0), (0, 1)));
    for (seconds, left) in [(59, 5), (60, 2), (299, 2), (300, 0)] {
        lab.now = Tick::from_seconds(seconds);
        // A worker that has slept catches up a little with every burst.
        for _ in 0..1_000 {
            lab.poll(0);
        }
        assert_eq!(lab.shared.table.slots_in_use(), left + usize::from(left == 5), "after {seconds} s");
    }
    assert!((0..4).all(|destination| lab.load(destination) == (0, 0)));
}

#[test]
fn every_truncation_of_a_frame_has_its_place() {
    let payload = [0x55; 200];
    for method in [Method::Nat, Method::DirectRouting] {
        let mut lab = Lab::new(method, 1);
        for protocol in [protocol::TCP, protocol::UDP] {
            let whole = frame(WAN, Flow::new(protocol, (CLIENT, 1), VIP), S, &payload);
            for length in 0..=whole.len() {
                lab.receive(0, 0, &[whole[..length].to_vec()]);
                while lab.to_kernel[0].pop().is_some() {}
                lab.check_balance();
            }
        }
        assert_eq!(lab.counters[0].read().forwarded, 2, "the whole ones");
    }
}

proptest! {
    /// Random bytes, and frames with random bytes changed in them: every one is accounted for.
    #[test]
    fn nonsense_is_accounted_for(
        frames in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            (any::<u8>(), any::<bool>(), prop::collection::vec((14usize..60, any::<u8>()), 0..4), any::<bool>()).prop_map(
                |(client, udp, changes, repair)| {
                    let protocol = if udp { protocol::UDP } else { protocol::TCP };
                    let flow = Flow::new(protocol, (CLIENT, client.into()), VIP);
                    let mut frame = frame(WAN, flow, client, b"some more bytes");
                    for (at, value) in changes {
                        if let Some(byte) = frame.get_mut(at) {
                            *byte = value;
                        }
                    }
                    // Else nearly all would end at the checksum.
                    let header = 14..(14 + usize::from(frame[14] & 15) * 4).clamp(34, frame.len());
                    if repair {
                        frame[24..26].fill(0);
                        let check = checksum::verify(&frame[header]);
                        frame[24..26].copy_from_slice(&check.to_be_bytes());
                    }
                    frame
                },
            ),
        ], 1..80),
        method in prop_oneof![Just(Method::Nat), Just(Method::DirectRouting)],
    ) {
        let mut lab = Lab::new(method, 1);
        for burst in frames.chunks(7) {
            lab.receive(0, 0, burst);
        }
        // Until no fragment waits any more.
        lab.now = lab.now.after(2 * TICKS_PER_SECOND);
        lab.poll(0);
        lab.check_balance();
        let totals = lab.counters[0].read();
        prop_assert_eq!(totals.received, frames.len() as u64);
    }
}

#[test]
fn a_sloppy_director_takes_any_segment_but_a_reset() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.snapshot.sysctls.sloppy_tcp = true;
    lab.publish();
    assert!(lab.receive_one(0, tcp(1, A)).is_some());
    assert!(lab.receive_one(0, tcp(2, F | A)).is_some());
    assert_eq!(lab.receive_one(0, tcp(3, R | A)), None);
    assert_eq!((lab.load(1), lab.load(0)), ((1, 0), (0, 1)), "established, and closed");
    assert_eq!(lab.counters[0].read().to_kernel, 1);
    lab.check_balance();
}

#[test]
fn a_port_used_again_belongs_to_the_old_connection_in_mode_0() {
    for (mode, servers) in [(0, [1, 1]), (1, [1, 0])] {
        let mut lab = Lab::new(Method::Nat, 1);
        lab.snapshot.sysctls.conn_reuse_mode = mode;
        lab.publish();
        let port = |sent: Option<(usize, MemoryFrame)>| read(&sent.unwrap().1).0;
        let first = port(lab.receive_one(0, tcp(1, S)));
        lab.receive_one(1, tcp_reply(1, 1, R | A));
        let second = port(lab.receive_one(0, tcp(1, S)));
        assert_eq!([first, second], servers.map(|server: usize| SERVER_MACS[server]), "mode {mode}");
    }
}

#[test]
fn one_new_connection_in_so_many_is_dropped() {
    for (rate, dropped) in [(0, 0), (1, 12), (3, 4), (-1, 12)] {
        let mut lab = Lab::new(Method::Nat, 1);
        assert!(lab.receive_one(0, tcp(1, S)).is_some());
        lab.snapshot.defence.drop_rate = rate;
        lab.publish();
        for client in 2..14 {
            lab.receive_one(0, tcp(client, S));
            assert!(lab.receive_one(0, tcp(1, A)).is_some(), "what there is goes on");
            assert!(lab.receive_one(0, tcp(1000, A)).is_none(), "and what opens nothing does not count");
        }
        assert_eq!(lab.dropped(Drop::Overload), dropped, "rate {rate}");
        lab.check_balance();
    }
}

#[test]
fn connections_end_with_their_destination_where_they_are_to() {
    for expire in [false, true] {
        let mut lab = Lab::new(Method::Nat, 2);
        lab.snapshot.sysctls.expire_nodest_conn = expire;
        lab.publish();
        let clients: Vec<_> = (0..30).map(|client| tcp(client, S)).collect();
        // Another worker's, as far as timers and free entries go.
        lab.receive(1, 0, &clients);
        lab.shared.destinations.set_gone(0, true);
        // Before anybody has swept: a packet of a connection that was to the deleted destination opens nothing by itself.
        lab.receive(0, 0, &[tcp(1, A)]);
        assert_eq!(lab.dropped(Drop::DestinationGone), u64::from(!expire));
        assert_eq!(lab.counters[0].read().to_kernel, u64::from(expire));
        lab.snapshot.deletions += u32::from(expire);
        lab.publish();
        lab.poll(0);
        lab.poll(1);
        assert_eq!(lab.load(0), if expire { (0, 0) } else { (15, 0) });
        assert_eq!(lab.load(1), (15, 0), "those of the other stay");
        lab.check_balance();
    }
}

#[test]
fn a_syn_on_a_connection_to_a_quiescent_server_is_scheduled_anew() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.receive_one(0, tcp(1, S));
    lab.shared.destinations.set_quiescent(1, true);
    lab.receive_one(0, tcp(1, S));
    assert_eq!((lab.load(0), lab.load(1)), ((0, 0), (1, 0)));
    lab.snapshot.sysctls.expire_nodest_conn = true;
    lab.publish();
    lab.receive_one(0, tcp(1, S));
    assert_eq!((lab.load(0), lab.load(1)), ((1, 0), (0, 0)));
}

#[test]
fn connections_that_look_unused_end_while_drop_entry_is_in_force() {
    let mut lab = Lab::new(Method::Nat, 1);
    for client in 0..4 {
        lab.receive_one(0, tcp(client, S));
    }
    let second = |lab: &mut Lab, seconds: u32| {
        for _ in 0..seconds {
            lab.now = lab.now.after(TICKS_PER_SECOND);
            lab.poll(0);
        }
    };
    // Clients 0 and 1 are established; 1 has had packets in many ticks.
    lab.receive_one(0, tcp(0, A));
    for _ in 0..10 {
        lab.now = lab.now.after(1);
        lab.receive_one(0, tcp(1, A));
    }
    second(&mut lab, 10);
    assert_eq!((lab.load(0).0 + lab.load(1).0, lab.load(0).1 + lab.load(1).1), (4, 0));
    lab.snapshot.defence.drop_entry = true;
    lab.publish();
    second(&mut lab, 2);
    assert_eq!(lab.load(0).0 + lab.load(1).0, 2, "those half open");
    second(&mut lab, 70);
    assert_eq!(lab.load(0).0 + lab.load(1).0, 1, "and one that has had next to nothing for a minute");
    assert!(lab.receive_one(0, tcp(1, A)).is_some());
    lab.check_balance();
}

#[test]
fn drop_entry_looks_at_a_thirty_second_of_the_table_each_second() {
    let mut lab = Lab::new(Method::Nat, 1);
    for client in 0..64 {
        lab.receive_one(0, tcp(client, S));
    }
    lab.snapshot.defence.drop_entry = true;
    lab.publish();
    for left in [48, 32, 16, 0] {
        for _ in 0..8 {
            (0..8).for_each(|_| drop(lab.poll(0)));
            lab.now = lab.now.after(TICKS_PER_SECOND);
        }
        assert_eq!(lab.load(0).0 + lab.load(1).0 + lab.load(0).1 + lab.load(1).1, left);
    }
}

#[test]
fn a_timeout_that_is_changed_counts_at_once() {
    for workers in [1, 2] {
        let mut lab = Lab::new(Method::Nat, workers);
        // More than a piece of the table that is gone over at once; of another worker, as far as timers go.
        for client in 0..50 {
            lab.receive(workers - 1, 0, &[tcp(client, S), tcp(client, A)]);
        }
        let wait = |lab: &mut Lab, seconds: u32| {
            for _ in 0..seconds {
                lab.now = lab.now.after(TICKS_PER_SECOND);
                (0..workers).for_each(|worker| (0..8).for_each(|_| drop(lab.poll(worker))));
            }
        };
        wait(&mut lab, 100);
        lab.receive_one(0, tcp(0, A));
        lab.snapshot.timeouts = lab.snapshot.timeouts.set(60, 0, 0);
        lab.publish();
        wait(&mut lab, 2);
        assert_eq!(lab.load(0).0 + lab.load(1).0, 1, "all but the one that had a packet");
        lab.snapshot.timeouts = lab.snapshot.timeouts.set(90, 0, 0);
        lab.publish();
        wait(&mut lab, 86);
        assert_eq!(lab.load(0).0 + lab.load(1).0, 1);
        wait(&mut lab, 4);
        assert_eq!(lab.load(0).0 + lab.load(1).0, 0);
        assert_eq!(lab.shared.table.slots_in_use(), 0);
    }
}

/// An SCTP packet with one chunk of this type, padded as Ethernet demands; the checksum is right.
fn sctp(destination: MacAddr, flow: (Flow, u8)) -> Vec<u8> {
    let (flow, chunk) = flow;
    let (source, target) = (flow.source(), flow.destination());
    let mut payload = [source.1.to_be_bytes(), target.1.to_be_bytes()].concat();
    payload.extend([0, 0, 0, 9, 0, 0, 0, 0, chunk, 0, 0, 4]);
    let check = crc32c::crc32c(&payload);
    payload[8..12].copy_from_slice(&check.to_le_bytes());
    let mut packet = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 1, 0x40, 0, 64, protocol::SCTP, 0, 0];
    packet.extend([source.0.to_be_bytes(), target.0.to_be_bytes()].concat());
    let check = checksum::verify(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    [&destination.0[..], &ROUTER.0, &[8, 0], &packet, &payload, &[0xaa; 10]].concat()
}

#[test]
fn associations_are_balanced_with_their_states_and_checksums() {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const COOKIE_ECHO: u8 = 10;
    let right = |frame: &MemoryFrame| {
        let mut payload = frame.data()[34..50].to_vec();
        let said = payload[8..12].to_vec();
        payload[8..12].fill(0);
        assert_eq!(said, crc32c::crc32c(&payload).to_le_bytes());
        let ports = [payload[0], payload[1], payload[2], payload[3]];
        u32::from_be_bytes(ports)
    };
    for (method, server_port) in [(Method::Nat, SERVERS[1].1), (Method::DirectRouting, VIP.1)] {
        let mut lab = Lab::new(method, 1);
        lab.snapshot.services = Arc::new(services(method, &[protocol::SCTP]));
        lab.publish();
        let client = Flow::new(protocol::SCTP, (CLIENT, 7), VIP);
        let states = |lab: &Lab| {
            let views = lab.shared.table.views(lab.snapshot.timeouts, lab.now);
            views.map(|view| view.state).collect::<Vec<_>>()
        };
        assert_eq!(lab.receive_one(0, sctp(WAN, (client, COOKIE_ECHO))), None, "Linux gets it");
        let (port, sent) = lab.receive_one(0, sctp(WAN, (client, INIT))).unwrap();
        assert_eq!((port, right(&sent)), (1, 7 << 16 | u32::from(server_port)), "{method:?}");
        assert_eq!((states(&lab), lab.load(1)), (vec![State::SctpInit1], (0, 1)), "counted once");
        if method == Method::Nat {
            let answer = Flow::new(protocol::SCTP, SERVERS[1], (CLIENT, 7));
            let (port, sent) = lab.receive_one(1, sctp(LAN, (answer, INIT_ACK))).unwrap();
            assert_eq!((port, right(&sent)), (0, u32::from(VIP.1) << 16 | 7));
            assert_eq!(states(&lab), [State::SctpCookieSent]);
        } else {
            lab.receive_one(0, sctp(WAN, (client, COOKIE_ECHO))).unwrap();
            assert_eq!((states(&lab), lab.load(1)), (vec![State::SctpEstablished], (1, 0)));
        }
        assert_eq!(lab.to_kernel[0].len(), 1);
        lab.check_balance();
    }
}

#[test]
fn with_one_packet_scheduling_each_datagram_goes_where_its_turn_is() {
    let mut lab = Lab::new(Method::Nat, 1);
    let destinations = (0..2).map(|n: u32| {
        let (address, port) = SERVERS[n as usize];
        let (weight, last_weight, method) = (1, 1, Method::Nat);
        Destination { id: n, sequence: n + 1, address: ip(address), port, weight, last_weight, method }
    });
    let service =
        Service::new(destinations.collect(), schedule::by_name("rr").unwrap()).with_one_packet(true);
    let key = ServiceKey { protocol: protocol::UDP, address: ip(VIP.0), port: VIP.1 };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    lab.publish();
    let datagram = frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, b"x");
    let sent = lab.receive(0, 0, &vec![datagram; 200]);
    let to = |mac| sent.iter().filter(|(_, frame)| read(frame).0 == mac).count();
    assert_eq!(SERVER_MACS.map(to), [100, 100], "more than there are entries");
    for n in [0, 1] {
        let stats = lab.shared.destinations.stats(n);
        assert_eq!((stats.connections, stats.in_packets, stats.in_bytes), (100, 100, 2900));
        assert_eq!(lab.load(n), (0, 0));
    }
    assert_eq!(lab.shared.table.views(lab.snapshot.timeouts, lab.now).count(), 0);
    assert_eq!(lab.shared.table.slots_in_use(), 0);
    // Nothing leads an answer back: it is nobody's, as in the kernel.
    let answer = frame(LAN, Flow::new(protocol::UDP, SERVERS[0], (CLIENT, 4000)), 0, b"y");
    assert_eq!(lab.receive(0, 1, &[answer]), []);
    lab.check_balance();
}
