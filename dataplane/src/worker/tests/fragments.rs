//! Fragments through whole workers.

use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6, ip6};
use super::tunnel::{KINDS, lab_of};
use super::*;
use crate::conn::key::Key;
use crate::forward::tunnel::unwrap;
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::Ipv6;
use crate::packet::vectors::vectors;
use crate::packet::{ipv6 as ip6_packet, read_u16};
use crate::parse::Flow6;

mod properties;

/// Datagrams in fragments, each followed by what becomes of it.
const VECTORS: &str = include_str!("../../../tests/scapy/fragments.txt");

const WORKERS: usize = 2;

struct Case {
    name: &'static str,
    method: Method,
    is_ipv6: bool,
    /// Whether it is the server that sends.
    is_answer: bool,
    fragments: Vec<(Vec<u8>, Vec<u8>)>,
}

fn cases() -> Vec<Case> {
    let of = |(name, frames): (&'static str, Vec<Vec<u8>>)| Case {
        name,
        method: if name.starts_with("nat") { Method::Nat } else { Method::DirectRouting },
        is_ipv6: name.contains("6/"),
        is_answer: name.contains("answer"),
        fragments: frames.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
    };
    vectors(VECTORS).into_iter().map(of).collect()
}

pub(super) fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let insert = |shorter: Vec<usize>| {
        (0..n).map(move |at| {
            let mut longer = shorter.clone();
            longer.insert(at, n - 1);
            longer
        })
    };
    permutations(n - 1).into_iter().flat_map(insert).collect()
}

/// A lab of both families with two workers.
fn lab(method: Method, is_ipv6: bool) -> Lab {
    if is_ipv6 { super::ipv6::lab(method, WORKERS) } else { Lab::new(method, WORKERS) }
}

/// Every worker polls until nothing is left that it could do.
fn settle(lab: &mut Lab) -> Vec<(usize, MemoryFrame)> {
    (0..3 * WORKERS).flat_map(|n| lab.poll(n % WORKERS)).collect()
}

fn waiting(lab: &Lab) -> usize {
    // What has been received and is nowhere else.
    let waits = |counters: &Arc<WorkerCounters>| {
        let totals = counters.read();
        totals.received + totals.fragments - totals.forwarded - totals.to_kernel - totals.dropped()
    };
    lab.counters.iter().map(waits).sum::<u64>() as usize
}

/// The connection that an answer belongs to.
fn open(lab: &mut Lab, case: &Case) {
    let protocol = if case.name.contains("tcp") { protocol::TCP } else { protocol::UDP };
    let request = if case.is_ipv6 {
        frame6(WAN, Flow6::new(protocol, (CLIENT6, 40_000), VIP6), S, b"")
    } else {
        frame(WAN, Flow::new(protocol, (CLIENT, 40_000), VIP), S, b"")
    };
    assert_eq!(lab.receive(0, 0, &[request]).len(), 1);
}

/// Which worker gets the nth fragment.
fn worker(spread: usize, n: usize) -> usize {
    spread >> n & 1
}

#[test]
fn datagrams_leave_as_scapy_has_them_in_every_order_and_by_whatever_workers() {
    for case in cases() {
        let mut lab = lab(case.method, case.is_ipv6);
        if case.is_answer {
            open(&mut lab, &case);
        }
        let (from, to) = if case.is_answer { (1, 0) } else { (0, 1) };
        let n = case.fragments.len();
        let mut expected: Vec<_> =
            case.fragments.iter().map(|(_, after)| (to, MemoryFrame::new(after))).collect();
        let by_bytes = |a: &(usize, MemoryFrame), b: &(usize, MemoryFrame)| a.1.data().cmp(b.1.data());
        expected.sort_by(by_bytes);
        for (order, spread) in
            permutations(n).into_iter().flat_map(|order| (0..1 << n).map(move |s| (order.clone(), s)))
        {
            // One after the other, and each worker's all at once.
            let mut sent = vec![];
            for fragment in &order {
                let frames = [case.fragments[*fragment].0.clone()];
                sent.extend(lab.receive(worker(spread, *fragment), from, &frames));
            }
            let mut sent_at_once = vec![];
            sent.extend(settle(&mut lab));
            for number in 0..WORKERS {
                let its = order.iter().filter(|fragment| worker(spread, **fragment) == number);
                let frames: Vec<_> = its.map(|fragment| case.fragments[*fragment].0.clone()).collect();
                sent_at_once.extend(lab.receive(number, from, &frames));
            }
            sent_at_once.extend(settle(&mut lab));
            for mut sent in [sent, sent_at_once] {
                sent.sort_by(by_bytes);
                assert_eq!(sent, expected, "{}: {order:?}, {spread:b}", case.name);
            }
            assert_eq!(lab.shared.fragments.taken(), 0, "{}: {order:?}, {spread:b}", case.name);
        }
        lab.check_balance();
    }
}

#[test]
fn a_datagram_counts_as_one_packet_as_long_as_it_is() {
    for case in cases().iter().filter(|case| case.method == Method::Nat) {
        let mut lab = lab(case.method, case.is_ipv6);
        if case.is_answer {
            open(&mut lab, case);
        }
        let total = |lab: &Lab| {
            let stats = (0..6).map(|id| lab.shared.destinations.stats(id));
            stats.fold([0; 5], |sum, s| {
                [
                    sum[0] + s.connections,
                    sum[1] + s.in_packets,
                    sum[2] + s.out_packets,
                    sum[3] + s.in_bytes,
                    sum[4] + s.out_bytes,
                ]
            })
        };
        let before = total(&lab);
        let port = usize::from(case.is_answer);
        for (frame, _) in &case.fragments {
            lab.receive(0, port, std::slice::from_ref(frame));
        }
        let after = total(&lab);
        let counted: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        // All of the first one's IP packet, and of the others what is behind their headers.
        let front = |frame: &[u8]| match frame[14] >> 4 {
            4 => usize::from(frame[14] & 15) * 4,
            _ => Ipv6::new(&frame[14..], frame.len() - 14).unwrap().upper().unwrap().fragment.unwrap().at + 8,
        };
        let first = case.fragments[0].0.len() - 14;
        let others = case.fragments[1..].iter().map(|(frame, _)| frame.len() - 14 - front(frame));
        let bytes = (first + others.sum::<usize>()) as u64;
        let expected = if case.is_answer { vec![0, 0, 1, 0, bytes] } else { vec![1, 1, 0, bytes, 0] };
        assert_eq!(counted, expected, "{}", case.name);
    }
}

#[test]
fn each_fragment_travels_in_the_tunnel_of_the_first() {
    for (kind, over) in KINDS.into_iter().flat_map(|kind| [(kind, 4), (kind, 6)]) {
        let mut lab = lab_of(kind, over, WORKERS);
        for case in cases().iter().filter(|case| case.method == Method::DirectRouting) {
            if case.name.ends_with("sctp") {
                continue;
            }
            // Which server it is, is of no account here.
            let mut expected: Vec<_> = case.fragments.iter().map(|(_, after)| after[14..].to_vec()).collect();
            expected.sort();
            let n = case.fragments.len();
            for (order, spread) in permutations(n).into_iter().zip((0..1 << n).cycle().step_by(3)) {
                let mut sent = vec![];
                for fragment in &order {
                    let frames = [case.fragments[*fragment].0.clone()];
                    sent.extend(lab.receive(worker(spread, *fragment), 0, &frames));
                }
                sent.extend(settle(&mut lab));
                let what = format!("{kind:?} over {over}, {}: {order:?}, {spread:b}", case.name);
                let outer = |frame: &MemoryFrame| {
                    let packet = &frame.data()[14..];
                    let (to, at) = (packet[..if over == 4 { 20 } else { 40 }].to_vec(), check_outer(packet));
                    let to = if over == 4 { to[16..].to_vec() } else { to[24..].to_vec() };
                    // GUE's source port is the same for all.
                    let port = unwrap(packet).unwrap().gue_port.map(|_| read_u16(packet, at));
                    (to, port)
                };
                let all: Vec<_> = sent.iter().map(|(_, frame)| outer(frame)).collect();
                assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{what}: {all:?}");
                let mut inner: Vec<_> = sent
                    .iter()
                    .map(|(port, frame)| {
                        let packet = &frame.data()[14..];
                        assert_eq!(*port, 1);
                        packet[unwrap(packet).unwrap().at..].to_vec()
                    })
                    .collect();
                inner.sort();
                assert_eq!(inner, expected, "{what}");
            }
        }
        assert_eq!(lab.shared.fragments.taken(), 0);
        lab.check_balance();
    }
}

/// Checks the outer packet's checksums; where GRE's or UDP's header begins.
fn check_outer(packet: &[u8]) -> usize {
    let (protocol, at, pseudo) = if packet[0] >> 4 == 4 {
        let ip = Ipv4::new(packet, packet.len()).unwrap();
        assert!(ip.checksum_is_right());
        let length = packet.len() as u16 - 20;
        (ip.protocol(), 20, checksum::pseudo_ipv4(ip.source(), ip.destination(), 17, length))
    } else {
        let ip = Ipv6::new(packet, packet.len()).unwrap();
        let length = packet.len() as u32 - 40;
        (packet[6], 40, checksum::pseudo_ipv6(ip.source(), ip.destination(), 17, length))
    };
    let carrier = &packet[at..];
    match protocol {
        47 if carrier[0] != 0 => assert_eq!(checksum::verify(carrier), 0),
        17 if carrier[6..8] != [0, 0] => assert_eq!(!checksum::fold(pseudo + checksum::sum(carrier)), 0),
        _ => {}
    }
    at
}

/// A fragment of an IPv4 datagram to the virtual address, its header's checksum right.
fn fragment(identification: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    fragment_of(protocol::UDP, (CLIENT, VIP.0), identification, offset, more, payload)
}

fn fragment_of(
    protocol: u8,
    (source, destination): (u32, u32),
    identification: u16,
    offset: usize,
    more: bool,
    payload: &[u8],
) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + payload.len() as u16).to_be_bytes());
    ip.extend(identification.to_be_bytes());
    ip.extend((u16::from(more) << 13 | (offset / 8) as u16).to_be_bytes());
    ip.extend([64, protocol, 0, 0]);
    ip.extend([source.to_be_bytes(), destination.to_be_bytes()].concat());
    let check = checksum::verify(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [&WAN.0[..], &ROUTER.0, &[8, 0], &ip, payload].concat()
}

/// A fragment of an IPv6 datagram.
fn fragment6(
    next: u8,
    (source, destination): (u128, u128),
    identification: u32,
    (offset, more): (usize, bool),
    payload: &[u8],
) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((8 + payload.len() as u16).to_be_bytes());
    ip.extend([44, 64]);
    ip.extend([source.to_be_bytes(), destination.to_be_bytes()].concat());
    ip.extend([next, 0]);
    ip.extend((offset as u16 | u16::from(more)).to_be_bytes());
    ip.extend(identification.to_be_bytes());
    [&WAN.0[..], &ROUTER.0, &[0x86, 0xdd], &ip, payload].concat()
}

/// The beginning of a datagram of UDP to this port, without a checksum.
fn udp_to(port: u16, length: u16) -> Vec<u8> {
    let header = [40_000_u16, port, length, 0].map(u16::to_be_bytes).concat();
    [&header[..], &[0xab; 8]].concat()
}

#[test]
fn overlaps_are_dropped_by_name() {
    let mut lab = Lab::new(Method::Nat, 1);
    let first = || fragment(1, 0, true, &udp_to(80, 48));
    assert_eq!(lab.receive(0, 0, &[first()]).len(), 1);
    assert_eq!(lab.receive(0, 0, &[first()]).len(), 0, "repeated");
    assert_eq!(lab.receive(0, 0, &[fragment(1, 16, true, &[1; 16])]).len(), 1);
    assert_eq!(lab.receive(0, 0, &[fragment(1, 24, true, &[2; 16])]).len(), 0, "an overlap");
    assert_eq!(lab.receive(0, 0, &[fragment(1, 32, false, &[1; 16])]).len(), 0, "after it");
    assert_eq!(lab.dropped(Drop::FragmentOverlap), 3);
    // In whatever order.
    let early = [fragment(2, 16, true, &[1; 16]), fragment(2, 24, false, &[2; 16])];
    assert_eq!(lab.receive(0, 0, &early).len(), 0);
    assert_eq!(lab.receive(0, 0, &[fragment(2, 0, true, &udp_to(80, 40))]).len(), 2);
    assert_eq!(lab.dropped(Drop::FragmentOverlap), 4);
    lab.check_balance();
}

#[test]
fn tiny_fragments_are_dropped_by_name_and_what_follows_them() {
    let mut lab = Lab::new(Method::Nat, 1);
    let tcp =
        |offset, more, payload: &[u8]| fragment_of(protocol::TCP, (CLIENT, VIP.0), 3, offset, more, payload);
    let first = tcp(0, true, &[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 2, 0, 0]);
    assert_eq!(lab.receive(0, 0, &[first, tcp(16, false, &[0; 20]), tcp(24, false, &[0; 20])]), []);
    // The second one has a part of TCP's header in it, whatever comes first.
    assert_eq!(lab.dropped(Drop::FragmentTiny), 3);
    assert_eq!(lab.shared.table.slots_in_use(), 0);
    lab.check_balance();
}

#[test]
fn who_waits_in_vain_is_dropped_by_name() {
    let mut lab = Lab::new(Method::Nat, 1);
    assert_eq!(lab.receive(0, 0, &[fragment(1, 16, false, b"late")]), []);
    assert_eq!((waiting(&lab), lab.counters[0].read().received), (1, 1));
    lab.now = lab.now.after(TICKS_PER_SECOND);
    lab.poll(0);
    assert_eq!(waiting(&lab), 1);
    lab.now = lab.now.after(1);
    lab.poll(0);
    assert_eq!((waiting(&lab), lab.dropped(Drop::FragmentTimeout)), (0, 1));
    lab.check_balance();
    // Too late.
    assert_eq!(lab.receive(0, 0, &[fragment(1, 0, true, &udp_to(80, 20))]).len(), 1);
    assert_eq!(lab.poll(0), []);
}

#[test]
fn those_that_wait_are_few() {
    let mut lab = Lab::new(Method::Nat, 1);
    // More of one datagram than there may be.
    let of_one: Vec<_> = (0..50).map(|n| fragment(1, 16 + 8 * n, true, &[n as u8; 8])).collect();
    lab.receive(0, 0, &of_one);
    assert_eq!((waiting(&lab), lab.dropped(Drop::FragmentQueueFull)), (48, 2));
    assert_eq!(lab.receive(0, 0, &[fragment(1, 0, true, &udp_to(80, 1000))]).len(), 49, "in one go");
    assert_eq!(waiting(&lab), 0);
    // More of all: those that have waited longest give way.
    let of_many: Vec<_> = (0..600).map(|n| fragment(1000 + n, 16, false, &n.to_be_bytes())).collect();
    lab.receive(0, 0, &of_many);
    assert_eq!(waiting(&lab), 512);
    assert_eq!(lab.dropped(Drop::FragmentQueueFull), 2 + 88);
    // In a round only some are looked at.
    let mut begin = |n: u16| {
        let sent = lab.receive(0, 0, &[fragment(1000 + n, 0, true, &udp_to(80, 18))]).len();
        sent + (0..8).map(|_| lab.poll(0).len()).sum::<usize>()
    };
    assert_eq!(begin(87), 1, "nobody waits for it any more");
    assert_eq!(begin(88), 2);
    assert_eq!(begin(599), 2);
    assert_eq!(begin(300), 2);
    assert_eq!(waiting(&lab), 509);
    lab.now = lab.now.after(TICKS_PER_SECOND + 1);
    lab.poll(0);
    assert_eq!((waiting(&lab), lab.dropped(Drop::FragmentTimeout)), (0, 509));
    lab.check_balance();
}

#[test]
fn linux_gets_all_of_a_datagram_that_is_nobodys() {
    let mut lab = Lab::new(Method::Nat, WORKERS);
    let all = |number: u16, to: (u32, u16)| {
        [
            fragment_of(protocol::UDP, (CLIENT, to.0), number, 0, true, &udp_to(to.1, 20)),
            fragment_of(protocol::UDP, (CLIENT, to.0), number, 16, false, b"more"),
        ]
    };
    // A port of the virtual address without a service, another address, and the server's own packet.
    let mut from_server = all(3, (CLIENT, 53));
    for frame in &mut from_server {
        frame[..6].copy_from_slice(&LAN.0);
    }
    for (port, [first, other]) in [(0, all(1, (VIP.0, 53))), (0, all(2, (VIP.0 + 1, 80))), (1, from_server)] {
        for (early, workers) in [(false, [0, 0]), (true, [0, 0]), (false, [0, 1]), (true, [0, 1])] {
            let both = [&first, &other];
            for n in if early { [1, 0] } else { [0, 1] } {
                assert_eq!(lab.receive(workers[n], port, &[both[n].clone()]), []);
            }
            settle(&mut lab);
            let mut got: Vec<_> = std::iter::from_fn(|| lab.to_kernel[port].pop()).collect();
            got.sort_by_key(|frame| frame.data()[14 + 7]);
            assert_eq!(got, both.map(|frame| MemoryFrame::new(frame)), "as they came");
        }
    }
    lab.check_balance();
}

#[test]
fn linux_gets_other_protocols_at_once() {
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    let ping = fragment_of(protocol::ICMP, (CLIENT, VIP.0), 1, 16, false, b"ping");
    let ping6 = fragment6(58, (CLIENT6, VIP6.0), 1, (16, false), b"ping");
    lab.receive(0, 0, &[ping, ping6]);
    assert_eq!(lab.to_kernel[0].len(), 2);
    // What is behind destination options, only the first one tells.
    let first =
        fragment6(60, (CLIENT6, VIP6.0), 2, (0, true), &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0, 0, 1, 0, 1]);
    let other = fragment6(60, (CLIENT6, VIP6.0), 2, (16, false), b"ping");
    lab.receive(0, 0, &[other]);
    assert_eq!((lab.to_kernel[0].len(), waiting(&lab)), (2, 1));
    lab.receive(0, 0, &[first]);
    assert_eq!((lab.to_kernel[0].len(), waiting(&lab)), (4, 0));
    lab.check_balance();
}

#[test]
fn an_ipv6_fragment_that_says_another_protocol_than_the_first_follows_it() {
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    let first = fragment6(17, (CLIENT6, VIP6.0), 2, (0, true), &udp_to(80, 20));
    // RFC 8200 §4.5: that of the first one counts.
    let other = fragment6(6, (CLIENT6, VIP6.0), 2, (24, false), b"more");
    let middle = fragment6(60, (CLIENT6, VIP6.0), 2, (16, true), &[7; 8]);
    let sent = lab.receive(0, 0, &[first, other, middle]);
    assert_eq!(sent.len(), 3);
    for (_, frame) in sent {
        assert_eq!(frame.data()[14 + 24..14 + 40], SERVERS6[1].0.to_be_bytes());
    }
}

#[test]
fn who_is_told_that_nobody_takes_it_is_told_once() {
    let mut lab = Lab::new(Method::Nat, 1);
    let none = Service::new(Vec::new(), schedule::by_name("rr").unwrap());
    let key = ServiceKey { protocol: protocol::UDP, address: ip(VIP.0), port: VIP.1 };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(none))]));
    lab.publish();
    let all = [
        fragment(1, 16, true, &[1; 8]),
        fragment(1, 0, true, &udp_to(80, 32)),
        fragment(1, 24, false, b"end"),
    ];
    let sent = lab.receive(0, 0, &all);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.data()[14 + 20..14 + 22], [3, 3], "port unreachable");
    assert_eq!(lab.dropped(Drop::NoDestination), 2);
    lab.check_balance();
}

#[test]
fn what_needs_a_checksum_over_all_of_it_is_dropped_by_name() {
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    let init = [&[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 20][..], &[0; 8]].concat();
    let ends = (CLIENT6, VIP6.0);
    let all = [
        fragment6(protocol::SCTP, ends, 1, (0, true), &init),
        fragment6(protocol::SCTP, ends, 1, (24, false), &[0; 12]),
    ];
    assert_eq!(lab.receive(0, 0, &all), []);
    assert_eq!(lab.dropped(Drop::Scattered), 2);
    lab.check_balance();

    // Nothing is to be done where the port stays what it is.
    let destination = Destination {
        id: 4,
        sequence: 1,
        address: ip6(SERVERS6[1].0),
        port: VIP6.1,
        weight: 1,
        last_weight: 1,
        method: Method::Nat,
    };
    let service = Service::new(vec![destination], schedule::by_name("rr").unwrap());
    let key = ServiceKey { protocol: protocol::SCTP, address: ip6(VIP6.0), port: VIP6.1 };
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    lab.publish();
    let sent = lab.receive(0, 0, &all);
    assert_eq!(sent.len(), 2);
    for ((_, after), before) in sent.iter().zip(&all) {
        assert_eq!(after.data()[14 + 24..14 + 40], SERVERS6[1].0.to_be_bytes());
        assert_eq!(after.data()[54..], before[54..]);
    }
}

/// Where the frame goes: IPv4's destination.
fn target(frame: &MemoryFrame) -> u32 {
    Ipv4::new(&frame.data()[14..], frame.len() - 14).unwrap().destination()
}

#[test]
fn fragments_of_one_packet_scheduling_go_where_their_first_has_gone() {
    let mut lab = Lab::new(Method::Nat, 1);
    let destination = |(n, server): (usize, &(u32, u16))| Destination {
        id: n as u32,
        sequence: n as u32 + 1,
        address: ip(server.0),
        port: server.1,
        weight: 1,
        last_weight: 1,
        method: Method::Nat,
    };
    let destinations = SERVERS.iter().enumerate().map(destination).collect();
    let service = Service::new(destinations, schedule::by_name("rr").unwrap()).with_one_packet(true);
    let key = ServiceKey { protocol: protocol::UDP, address: ip(VIP.0), port: VIP.1 };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    lab.publish();
    let firsts: Vec<_> = (0..8).map(|n| fragment(n, 0, true, &udp_to(80, 20))).collect();
    let others: Vec<_> = (0..8).map(|n| fragment(n, 16, false, b"more")).collect();
    let targets = |sent: Vec<(usize, MemoryFrame)>| sent.iter().map(|(_, f)| target(f)).collect::<Vec<_>>();
    let (first, other) = (targets(lab.receive(0, 0, &firsts)), targets(lab.receive(0, 0, &others)));
    assert_eq!(first, other);
    assert_eq!(first, (0..8).map(|n| SERVERS[1 - n % 2].0).collect::<Vec<_>>());
    let [a, b] = [0, 1].map(|id| lab.shared.destinations.stats(id));
    assert_eq!((a.connections, a.in_packets, b.connections, b.in_packets), (4, 4, 4, 4));
    assert_eq!(a.in_bytes, 4 * (36 + 4));
    lab.check_balance();
}

#[test]
fn what_happens_to_the_connection_meanwhile() {
    let first = fragment(1, 0, true, &udp_to(80, 28));
    let [second, third] = [fragment(1, 16, true, &[1; 8]), fragment(1, 24, false, b"more")];
    let begun = || {
        let mut lab = Lab::new(Method::Nat, 1);
        assert_eq!(target(&lab.receive_one(0, first.clone()).unwrap().1), SERVERS[1].0);
        let flow = Flow::new(protocol::UDP, (CLIENT, 40_000), VIP);
        let index = lab.shared.table.find(lab.shared.table.hash(flow), flow).unwrap().index;
        (lab, index)
    };
    // It has ended, and another one is in its place.
    let (mut lab, index) = begun();
    assert!(lab.workers[0].balancer.connections.close(index).is_some());
    assert_eq!(target(&lab.receive_one(0, second.clone()).unwrap().1), SERVERS[1].0);
    for client in 0..64 {
        lab.receive(0, 0, &[frame(WAN, Flow::new(protocol::UDP, (CLIENT, client), VIP), 0, b"")]);
    }
    assert_eq!(target(&lab.receive_one(0, third.clone()).unwrap().1), SERVERS[1].0);
    // Its server has been deleted.
    let (lab, _) = &mut begun();
    lab.shared.destinations.set_gone(3, true);
    assert_eq!(lab.receive_one(0, second.clone()), None);
    assert_eq!(lab.dropped(Drop::DestinationGone), 1);
    // Its server was deleted before, and connections of such are to end.
    let (lab, _) = &mut begun();
    lab.shared.destinations.set_gone(3, true);
    lab.snapshot.sysctls.expire_nodest_conn = true;
    lab.publish();
    let again = [fragment(2, 0, true, &udp_to(80, 20)), fragment(2, 16, false, b"more")];
    let sent = lab.receive(0, 0, &again);
    assert_eq!(sent.iter().map(|(_, frame)| target(frame)).collect::<Vec<_>>(), [SERVERS[0].0; 2]);
    lab.check_balance();
}

#[test]
fn a_fragment_keeps_its_connection_alive() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.receive(0, 0, &[fragment(1, 0, true, &udp_to(80, 28))]);
    lab.now = lab.now.after(20 * TICKS_PER_SECOND);
    lab.receive(0, 0, &[fragment(1, 16, true, &[1; 8])]);
    let view = lab.shared.table.views(lab.snapshot.timeouts, lab.now).next().unwrap();
    assert_eq!(view.expires, 300 * TICKS_PER_SECOND);
}

#[test]
fn fragments_wait_for_a_neighbour_as_packets_do() {
    let mut lab = Lab::new(Method::Nat, 1);
    let mut unknown = network();
    unknown.clear_neighbour(PortId(1), ip(SERVERS[1].0));
    lab.snapshot.network = Arc::new(unknown);
    lab.publish();
    let all = [fragment(1, 16, false, b"more"), fragment(1, 0, true, &udp_to(80, 20))];
    assert_eq!(lab.receive(0, 0, &all), []);
    lab.snapshot.network = Arc::new(network());
    lab.publish();
    assert_eq!(lab.poll(0).len(), 2);
    lab.check_balance();
}

#[test]
fn a_fragment_whose_last_hop_this_is_goes_no_further() {
    let mut lab = Lab::new(Method::DirectRouting, 1);
    let mut dying = fragment(1, 16, false, b"more");
    dying[14 + 8] = 1;
    dying[14 + 10..14 + 12].fill(0);
    let check = checksum::verify(&dying[14..34]);
    dying[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
    assert_eq!(lab.receive(0, 0, &[fragment(1, 0, true, &udp_to(80, 20)), dying]).len(), 1);
    assert_eq!(lab.dropped(Drop::TtlExpired), 1);
}

/// Workers that really run at the same time, with fragments of the same datagrams in any order.
#[test]
fn workers_at_the_same_time_share_datagrams() {
    let mut lab = Lab::new(Method::Nat, WORKERS);
    let mut random = 7_u64;
    let mut draw = |n: usize| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) as usize % n
    };
    for round in 0..400 {
        let mut fragments: Vec<_> = (0..8)
            .flat_map(|n| {
                let number = round * 8 + n;
                let later =
                    (1..5).map(move |part| fragment(number, 8 + 8 * part, part < 4, &[part as u8; 8]));
                later.chain([fragment(number, 0, true, &udp_to(80, 48))])
            })
            .collect();
        for n in (1..fragments.len()).rev() {
            fragments.swap(n, draw(n + 1));
        }
        let count = fragments.len() as u64;
        for fragment in fragments {
            let wires = &mut lab.workers[draw(WORKERS)].balancer.wires;
            wires[0].incoming.push_back(MemoryFrame::new(&fragment));
        }
        let counters = lab.counters.clone();
        let done = || counters.iter().map(|counters| counters.read().forwarded).sum::<u64>();
        let (before, now) = (done(), lab.now);
        std::thread::scope(|scope| {
            for worker in &mut lab.workers {
                scope.spawn(|| {
                    // Time stands still, so that what is lost stays lost.
                    (0..1_000_000).take_while(|_| done() < before + count).for_each(|_| {
                        worker.poll(now);
                    });
                });
            }
        });
        assert_eq!(done() - before, count, "round {round}: {:?}", lab.counters);
    }
    assert_eq!(lab.shared.fragments.taken(), 0);
    lab.check_balance();
}

#[test]
fn who_meets_another_worker_tries_again() {
    let mut lab = Lab::new(Method::Nat, 1);
    let notes = lab.shared.fragments.clone();
    let all = [fragment(1, 0, true, &udp_to(80, 20)), fragment(1, 16, false, b"more")];
    let claims = notes.claim_all();
    assert_eq!(lab.receive(0, 0, &all), []);
    assert_eq!(waiting(&lab), 2);
    assert_eq!(lab.poll(0), []);
    drop(claims);
    assert_eq!(lab.poll(0).len() + lab.poll(0).len(), 2);
    assert_eq!(lab.shared.destinations.stats(3).connections, 1);
    lab.check_balance();
}
