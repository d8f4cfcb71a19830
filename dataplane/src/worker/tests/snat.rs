//! SNAT through whole workers: servers behind the director open connections to hosts outside.

use std::collections::HashSet;

use super::fullnat::{fragments, whole};
use super::icmp::{error, error6, read_error};
use super::ipv6::{SERVERS6, frame6, ip6};
use super::*;
use crate::conn::View;
use crate::mark::Addresses;
use crate::network::{LocalAddress, Sources};
use crate::packet::vectors::vectors;
use crate::parse::{AnyFlow, Flow6, Packet6};
use crate::snat::{Block, Pool, Rule, Rules, Translation};

/// What the rules of the tests count for: no service's.
const NUMBER: u32 = 9;
const OUTSIDE: u32 = 0xcb00_7109; // 203.0.113.9
const POOL: u32 = 0xc633_6428; // 198.51.100.40
const NET6: u128 = 0x2001_0db8 << 96;
const OUTSIDE6: u128 = NET6 | 0xcb << 80 | 9;
const POOL6: u128 = NET6 | 0x64 << 80 | 0x40;

fn pool(addresses: u32) -> Translation {
    Translation::Pool(Pool::new(vec![Block::new(ip(POOL), ip(POOL + addresses - 1)).unwrap()]).unwrap())
}

fn rule(translation: Translation, ports: std::ops::RangeInclusive<u16>) -> Rule {
    let source = Addresses::new("192.0.2.0/24".parse().unwrap());
    let destination = Addresses::default();
    Rule { number: NUMBER, protocol: None, source, destination, out_port: None, translation, ports }
}

fn lab_with(rules: impl IntoIterator<Item = Rule>, workers: usize) -> Lab {
    let mut lab = Lab::new(Method::Nat, workers);
    lab.snapshot.snat = Arc::new(Rules::new(rules));
    let mut network = network();
    network.set_sources(Sources::new(
        [],
        [("198.51.100.1/24", 0), ("192.0.2.1/24", 1)].map(|(network, port)| LocalAddress {
            port: Some(PortId(port)),
            network: network.parse().unwrap(),
        }),
    ));
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    lab
}

fn lab() -> Lab {
    lab_with([rule(pool(1), 1024..=u16::MAX)], 1)
}

fn lab6() -> Lab {
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    let block = Block::new(ip6(POOL6), ip6(POOL6)).unwrap();
    let source = Addresses::new("2001:db8:2::/48".parse().unwrap());
    let translation = Translation::Pool(Pool::new(vec![block]).unwrap());
    lab.snapshot.snat = Arc::new(Rules::new([Rule { source, ..rule(translation, 1024..=u16::MAX) }]));
    lab.publish();
    lab
}

/// From a server to the host outside, as the director's inner port gets it.
fn out(protocol: u8, server: usize, port: u16, flags: u8) -> Vec<u8> {
    frame(LAN, Flow::new(protocol, (SERVERS[server].0, port), (OUTSIDE, 443)), flags, b"question")
}

/// The answer to a frame that went out.
fn answer(to: &MemoryFrame, flags: u8) -> Vec<u8> {
    let (_, _, flow) = read(to);
    frame(WAN, Flow::new(flow.protocol(), flow.destination(), flow.source()), flags, b"answer")
}

fn connections(lab: &Lab) -> Vec<View> {
    lab.shared.table.views(lab.snapshot.timeouts, lab.now).collect()
}

fn pass(lab: &mut Lab, seconds: u32) {
    for _ in 0..4 * seconds {
        lab.now = lab.now.after(TICKS_PER_SECOND / 4);
        lab.poll(0);
    }
}

#[test]
fn the_host_outside_sees_the_pools_address_and_the_server_its_own() {
    for protocol in [protocol::TCP, protocol::UDP] {
        let mut lab = lab();
        let (port, request) = lab.receive_one(1, out(protocol, 0, 40_000, S)).unwrap();
        let flow = Flow::new(protocol, (POOL, 40_000), (OUTSIDE, 443));
        assert_eq!((port, read(&request)), (0, (ROUTER, WAN, flow)), "its own port, which is free");
        let (port, reply) = lab.receive_one(0, answer(&request, S | A)).unwrap();
        let flow = Flow::new(protocol, (OUTSIDE, 443), (SERVERS[0].0, 40_000));
        assert_eq!((port, read(&reply)), (1, (SERVER_MACS[0], LAN, flow)));
        assert_eq!((request.data()[22], reply.data()[22]), (63, 63), "time to live");
        lab.receive_one(1, out(protocol, 0, 40_000, A)).unwrap();
        let [view] = &connections(&lab)[..] else { panic!() };
        assert_eq!((view.method, view.destination), (Method::Snat, NUMBER));
        assert_eq!((view.flow.source(), view.local), ((ip(SERVERS[0].0), 40_000), Some((ip(POOL), 40_000))));
        assert_eq!((view.flow.destination(), view.server), ((ip(OUTSIDE), 443), (ip(OUTSIDE), 443)));
        let state = if protocol == protocol::TCP { State::Established } else { State::Udp };
        assert_eq!(view.state, state);
        let stats = lab.shared.destinations.stats(NUMBER);
        assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 2, 1));
        lab.check_balance();
    }
}

/// The server opens it and is the client of the table of states.
#[test]
fn states_are_those_of_a_connection_from_inside() {
    let mut lab = lab();
    let (_, request) = lab.receive_one(1, out(protocol::TCP, 0, 40_000, S)).unwrap();
    for (from_inside, flags, state) in [
        (false, S | A, State::SynRecv),
        (true, A, State::Established),
        (true, F | A, State::CloseWait),
        (false, F | A, State::TimeWait),
        (true, A, State::TimeWait),
    ] {
        let (port, packet) = if from_inside {
            (1, out(protocol::TCP, 0, 40_000, flags))
        } else {
            (0, answer(&request, flags))
        };
        lab.receive_one(port, packet).unwrap();
        assert_eq!(connections(&lab)[0].state, state);
    }
    assert_eq!(lab.load(NUMBER), (0, 1));
    pass(&mut lab, 121);
    assert_eq!((connections(&lab).len(), lab.shared.table.slots_in_use(), lab.load(NUMBER)), (0, 0, (0, 0)));
    lab.check_balance();
}

#[test]
fn ipv6_goes_the_same_way() {
    for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        let mut lab = lab6();
        let kind = if protocol == protocol::SCTP { 1 } else { S };
        let flow = |frame: &MemoryFrame| {
            Packet6::in_frame(frame, MacAddr(frame.data()[..6].try_into().unwrap())).flow
        };
        let (server, outside) = ((SERVERS6[1].0, 40_000), (OUTSIDE6, 443));
        let request = frame6(LAN, Flow6::new(protocol, server, outside), kind, b"question");
        let (port, sent) = lab.receive_one(1, request).unwrap();
        assert_eq!((port, flow(&sent)), (0, Flow6::new(protocol, (POOL6, 40_000), outside)));
        let reply = frame6(WAN, Flow6::new(protocol, outside, (POOL6, 40_000)), 0, b"answer");
        let (port, sent) = lab.receive_one(0, reply).unwrap();
        assert_eq!((port, flow(&sent)), (1, Flow6::new(protocol, outside, server)));
        lab.check_balance();
    }
}

/// The checksum of SCTP is over the packet, its ports among it.
#[test]
fn sctp_gets_another_port_and_checksum() {
    let mut lab = lab_with([rule(pool(1), 2000..=2000)], 1);
    let sctp = |to: MacAddr, from: (u32, u16), target: (u32, u16), kind: u8| {
        let mut frame = frame(to, Flow::new(protocol::UDP, from, target), 0, &[0; 8]);
        frame[23] = protocol::SCTP;
        frame[24..26].fill(0);
        let check = checksum::verify(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame[38..50].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, kind, 0, 0, 4]);
        let check = crc32c::crc32c(&frame[34..]);
        frame[42..46].copy_from_slice(&check.to_le_bytes());
        frame
    };
    let inside = (SERVERS[0].0, 40_000);
    let (_, sent) = lab.receive_one(1, sctp(LAN, inside, (OUTSIDE, 443), 1)).unwrap();
    assert_eq!(sent.data()[26..], sctp(WAN, (POOL, 2000), (OUTSIDE, 443), 1)[26..]);
    let (_, sent) = lab.receive_one(0, sctp(WAN, (OUTSIDE, 443), (POOL, 2000), 2)).unwrap();
    assert_eq!(sent.data()[26..], sctp(LAN, (OUTSIDE, 443), inside, 2)[26..]);
    assert_eq!(lab.receive_one(1, sctp(LAN, (SERVERS[1].0, 1), (OUTSIDE, 443), 0)), None);
    assert_eq!(lab.to_kernel[1].len(), 1, "data opens no association");
    lab.check_balance();
}

#[test]
fn an_answer_is_understood_on_another_worker() {
    let mut lab = lab_with([rule(pool(4), 1024..=u16::MAX)], 2);
    for n in 0..10 {
        let (_, request) = lab.receive(0, 1, &[out(protocol::TCP, 0, 40_000 + n, S)]).pop().unwrap();
        let (port, reply) = lab.receive(1, 0, &[answer(&request, S | A)]).pop().unwrap();
        assert_eq!((port, read(&reply).2.destination()), (1, (SERVERS[0].0, 40_000 + n)));
    }
    lab.check_balance();
}

#[test]
fn all_connections_of_a_server_have_one_address_while_it_has_ports() {
    let mut lab = lab_with([rule(pool(4), 2000..=2003)], 1);
    let sent: Vec<_> =
        (0..20).filter_map(|n| lab.receive_one(1, out(protocol::UDP, 0, 40_000 + n, 0))).collect();
    assert_eq!((sent.len(), lab.dropped(Drop::NoSnatPort)), (16, 4));
    let sources: Vec<_> = sent.iter().map(|(_, frame)| read(frame).2.source()).collect();
    assert!(sources[..4].iter().all(|(address, _)| *address == sources[0].0), "{sources:?}");
    assert_eq!(sources.iter().collect::<HashSet<_>>().len(), 16);
    assert_eq!(lab.load(NUMBER), (0, 16));
    // To another host outside every port is free.
    let elsewhere = Flow::new(protocol::UDP, (SERVERS[0].0, 1), (OUTSIDE, 53));
    assert!(lab.receive_one(1, frame(LAN, elsewhere, 0, b"?")).is_some());
    // And once they have been quiet, to this one.
    pass(&mut lab, 301);
    assert!(lab.receive_one(1, out(protocol::UDP, 0, 50_000, 0)).is_some());
    lab.check_balance();
}

#[test]
fn masquerading_is_by_the_address_that_linux_would_send_from() {
    let mut lab = lab_with([rule(Translation::Masquerade, 61_000..=u16::MAX)], 1);
    let (_, request) = lab.receive_one(1, out(protocol::TCP, 0, 40_000, S)).unwrap();
    let (address, port) = read(&request).2.source();
    assert_eq!((ip(address), port >= 61_000), ("198.51.100.1".parse().unwrap(), true));
    let mut network = network();
    network.set_sources(Sources::default());
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    assert_eq!(lab.receive_one(1, out(protocol::TCP, 0, 40_001, S)), None);
    assert_eq!(lab.dropped(Drop::NoSourceAddress), 1);
    lab.check_balance();
}

#[test]
fn the_first_rule_that_takes_a_packet_decides() {
    let other = |n: u32| {
        let block = Block::new(ip(POOL + n), ip(POOL + n)).unwrap();
        rule(Translation::Pool(Pool::new(vec![block]).unwrap()), 1024..=u16::MAX)
    };
    let server = Addresses::new(ipnet::IpNet::from(ip(SERVERS[0].0)));
    let near = Addresses::new("203.0.113.128/25".parse().unwrap());
    let mut lab = lab_with(
        [
            Rule { destination: near, ..rule(Translation::Nothing, 1..=1) },
            Rule { out_port: Some(PortId(1)), ..other(1) },
            Rule { protocol: Some(protocol::UDP), ..other(2) },
            Rule { source: server, ..other(3) },
            other(4),
        ],
        1,
    );
    let mut source = |frame| lab.receive_one(1, frame).map(|(_, frame)| read(&frame).2.source().0 - POOL);
    assert_eq!(source(out(protocol::UDP, 0, 1025, 0)), Some(2));
    assert_eq!(source(out(protocol::TCP, 0, 1025, S)), Some(3));
    assert_eq!(source(out(protocol::TCP, 1, 1025, S)), Some(4));
    let near = Flow::new(protocol::TCP, (SERVERS[0].0, 1025), (OUTSIDE | 0x80, 443));
    assert_eq!(source(frame(LAN, near, S, b"")), None);
    assert_eq!(lab.to_kernel[1].len(), 1, "left to Linux");
    lab.check_balance();
}

#[test]
fn what_is_not_on_its_way_out_is_left_alone() {
    let mut lab = lab();
    let mut network = network();
    let mut routes: Vec<_> = network.routes().collect();
    routes.push(("198.51.100.1/32".parse().unwrap(), Way::Local));
    network.set_routes(routes);
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    let from = (SERVERS[0].0, 40_000);
    let to = |address: [u8; 4]| Flow::new(protocol::UDP, from, (u32::from_be_bytes(address), 443));
    for (what, flow) in [
        ("to director", to([198, 51, 100, 1])),
        ("to a group", to([224, 0, 0, 5])),
        ("to all", to([255; 4])),
        ("to a link's own address", to([169, 254, 0, 1])),
        ("from where no rule is for", Flow::new(protocol::UDP, (CLIENT, 1), (OUTSIDE + 1, 1))),
    ] {
        assert_eq!(lab.receive_one(1, frame(LAN, flow, 0, b"?")), None, "{what}");
        assert_eq!(lab.to_kernel[1].len(), 1, "{what}");
        lab.to_kernel[1].pop();
    }
    // For a service it is a client's.
    let (_, sent) = lab.receive_one(1, frame(LAN, Flow::new(protocol::TCP, from, VIP), S, b"")).unwrap();
    assert_eq!(read(&sent).2.source(), from);
    assert_eq!(lab.load(NUMBER), (0, 0));
    lab.check_balance();
}

/// It may be of a connection that has come in by Linux, past director.
#[test]
fn what_opens_no_connection_is_left_to_linux() {
    let mut lab = lab();
    for flags in [A, F | A, R, S | A, S | R] {
        assert_eq!(lab.receive_one(1, out(protocol::TCP, 0, 40_000, flags)), None);
    }
    assert_eq!((lab.to_kernel[1].len(), connections(&lab).len()), (5, 0));
    lab.snapshot.sysctls.sloppy_tcp = true;
    lab.publish();
    assert!(lab.receive_one(1, out(protocol::TCP, 0, 40_000, A)).is_some());
    lab.check_balance();
}

/// An echo request of a server, or a reply to it, with this identifier.
fn echo(to: MacAddr, ends: (u32, u32), kind: u8, identifier: u16) -> Vec<u8> {
    let mut frame = frame(to, Flow::new(protocol::UDP, (ends.0, 0), (ends.1, 0)), 0, b"data");
    frame[23] = protocol::ICMP;
    frame[24..26].fill(0);
    let check = checksum::verify(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let [high, low] = identifier.to_be_bytes();
    frame[34..42].copy_from_slice(&[kind, 0, 0, 0, high, low, 0, 1]);
    let check = checksum::verify(&frame[34..]);
    frame[36..38].copy_from_slice(&check.to_be_bytes());
    frame
}

#[test]
fn pings_are_told_apart_by_their_identifiers() {
    let mut lab = lab_with([rule(pool(1), 2000..=2001)], 1);
    let servers = [SERVERS[0].0, SERVERS[1].0];
    let mut seen = Vec::new();
    for inside in servers {
        let (port, sent) = lab.receive_one(1, echo(LAN, (inside, OUTSIDE), 8, 7)).unwrap();
        let identifier = u16::from_be_bytes([sent.data()[38], sent.data()[39]]);
        assert_eq!((port, &sent.data()[26..]), (0, &echo(WAN, (POOL, OUTSIDE), 8, identifier)[26..]));
        seen.push(identifier);
    }
    let sorted: std::collections::BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!(sorted, [2000, 2001].into());
    for (inside, identifier) in servers.into_iter().zip(&seen) {
        let (port, sent) = lab.receive_one(0, echo(WAN, (OUTSIDE, POOL), 0, *identifier)).unwrap();
        assert_eq!((port, &sent.data()[26..]), (1, &echo(LAN, (OUTSIDE, inside), 0, 7)[26..]));
    }
    assert_eq!(lab.receive_one(1, echo(LAN, (servers[0], OUTSIDE), 8, 8)), None);
    assert_eq!(lab.dropped(Drop::NoSnatPort), 1);
    // What nobody has asked for, and what is asked of the pool's address, is Linux's.
    for (port, frame) in [
        (0, echo(WAN, (OUTSIDE, POOL), 0, 99)),
        (0, echo(WAN, (OUTSIDE, POOL), 8, 2000)),
        (1, echo(LAN, (servers[0], OUTSIDE), 0, 7)),
    ] {
        assert_eq!(lab.receive_one(port, frame), None);
        assert!(lab.to_kernel[port].pop().is_some());
    }
    assert_eq!(connections(&lab)[0].state_name(), "ICMP");
    pass(&mut lab, 31);
    assert_eq!((connections(&lab).len(), lab.load(NUMBER)), (0, (0, 0)));
    lab.check_balance();
}

#[test]
fn errors_about_pings_find_their_way() {
    let mut lab = lab_with([rule(pool(1), 2000..=2000)], 1);
    let router = 0xcb00_71fe;
    let (_, sent) = lab.receive_one(1, echo(LAN, (SERVERS[0].0, OUTSIDE), 8, 7)).unwrap();
    let expired = error(WAN, (router, POOL), [11, 0], &sent.data()[14..], 28);
    let (port, sent) = lab.receive_one(0, expired).unwrap();
    let flow = Flow::new(protocol::ICMP, (SERVERS[0].0, 7), (OUTSIDE, 0));
    assert_eq!((port, read_error(&sent)), (1, (ip(router), ip(SERVERS[0].0), flow.into())));
    // Ping's checksum in the quote is that of what the server has sent.
    let quoted = [&[0; 14], &sent.data()[14 + 28..]].concat();
    assert_eq!(quoted[34..42], echo(LAN, (SERVERS[0].0, OUTSIDE), 8, 7)[34..42]);
    lab.check_balance();
}

/// A router on the way keeps its name, and one inside gets the server's outer one.
#[test]
fn errors_go_where_their_packets_came_from() {
    let mut lab = lab();
    let (_, outside) = lab.receive_one(1, out(protocol::UDP, 0, 40_000, 0)).unwrap();
    let (_, inside) = lab.receive_one(0, answer(&outside, 0)).unwrap();
    let router = 0xcb00_71fe;
    for kind in [[3, 4], [11, 0]] {
        let expired = error(WAN, (router, POOL), kind, &outside.data()[14..], 28);
        let (port, sent) = lab.receive_one(0, expired).unwrap();
        let flow = Flow::new(protocol::UDP, (SERVERS[0].0, 40_000), (OUTSIDE, 443));
        assert_eq!((port, read_error(&sent)), (1, (ip(router), ip(SERVERS[0].0), flow.into())));
    }
    for from in [SERVERS[0].0, SERVERS[1].0] {
        let refusal = error(LAN, (from, OUTSIDE), [3, 3], &inside.data()[14..], 548);
        let (port, sent) = lab.receive_one(1, refusal).unwrap();
        let flow = Flow::new(protocol::UDP, (OUTSIDE, 443), (POOL, 40_000));
        assert_eq!((port, read_error(&sent)), (0, (ip(POOL), ip(OUTSIDE), flow.into())));
    }
    lab.check_balance();
}

#[test]
fn errors_over_ipv6_do_so_too() {
    let mut lab = lab6();
    let (server, outside) = ((SERVERS6[1].0, 40_000), (OUTSIDE6, 443));
    let request = frame6(LAN, Flow6::new(protocol::UDP, server, outside), 0, b"question");
    let (_, sent) = lab.receive_one(1, request).unwrap();
    let router = OUTSIDE6 | 0xf0;
    let too_big = error6(WAN, (router, POOL6), [2, 0], &sent.data()[14..], 1232);
    let (port, sent) = lab.receive_one(0, too_big).unwrap();
    let flow = AnyFlow::from(Flow6::new(protocol::UDP, server, outside));
    assert_eq!((port, read_error(&sent)), (1, (ip6(router), ip6(server.0), flow)));
    lab.check_balance();
}

/// As a router tells: traceroute shows it.
#[test]
fn who_is_told_of_an_error_here_is_told_by_directors_own_address() {
    let mut lab = lab();
    let mut dying = out(protocol::UDP, 0, 40_000, 0);
    dying[22] = 1;
    dying[24..26].fill(0);
    let check = checksum::verify(&dying[14..34]);
    dying[24..26].copy_from_slice(&check.to_be_bytes());
    // The connection's first packet, and one on the straight way.
    for frame in [dying.clone(), out(protocol::UDP, 0, 40_000, 0), dying] {
        let expires = frame[22] == 1;
        let (port, sent) = lab.receive_one(1, frame.clone()).unwrap();
        if !expires {
            assert_eq!(port, 0);
            continue;
        }
        let (from, to, _) = read_error(&sent);
        assert_eq!((port, from, to), (1, "192.0.2.1".parse().unwrap(), ip(SERVERS[0].0)));
        assert_eq!(sent.data()[42..], frame[14..], "quoted as it came");
    }
    assert_eq!(lab.counters[0].read().time_exceeded, 2);
    lab.check_balance();
}

#[test]
fn a_server_that_uses_its_port_again_gets_another_connection() {
    let mut lab = lab();
    let (_, request) = lab.receive_one(1, out(protocol::TCP, 0, 40_000, S)).unwrap();
    lab.receive_one(0, answer(&request, R | A)).unwrap();
    assert_eq!(connections(&lab)[0].state, State::Close);
    lab.receive_one(1, out(protocol::TCP, 0, 40_000, S)).unwrap();
    let [view] = &connections(&lab)[..] else { panic!() };
    assert_eq!(view.state, State::SynRecv);
    assert_eq!(lab.shared.destinations.stats(NUMBER).connections, 2);
    lab.check_balance();
}

proptest! {
    /// Servers open and close connections to a few hosts, and time passes: no two that live have one source towards one host.
    #[test]
    fn a_port_is_never_shared_towards_one_host(
        steps in prop::collection::vec((0..2usize, 0..8u16, 0..3u32, 0..10u8), 1..120),
        ports in 1..6u16,
        addresses in 1..3u32,
    ) {
        let mut lab = lab_with([rule(pool(addresses), 2000..=1999 + ports)], 2);
        for (server, port, host, what) in steps {
            let flow = Flow::new(protocol::TCP, (SERVERS[server].0, 1998 + port), (OUTSIDE + host, 443));
            let flags = match what {
                0..=6 => S,
                7 => A,
                8 => R,
                _ => {
                    pass(&mut lab, 20);
                    continue;
                }
            };
            lab.receive(usize::from(what % 2), 1, &[frame(LAN, flow, flags, b"")]);
            let views = connections(&lab);
            let taken: HashSet<_> = views.iter().map(|view| (view.local, view.server)).collect();
            prop_assert_eq!(taken.len(), views.len());
            for view in &views {
                let (address, port) = view.local.unwrap();
                prop_assert!((2000..2000 + ports).contains(&port));
                prop_assert!((ip(POOL)..=ip(POOL + addresses - 1)).contains(&address));
            }
        }
        for _ in 0..2 {
            pass(&mut lab, 200);
            lab.poll(1);
        }
        lab.check_balance();
    }
}

/// Packets that scapy made, byte for byte.
#[test]
fn packets_change_as_scapy_says() {
    let (mut v4, mut v6) = (lab(), lab6());
    let mut network = super::ipv6::network();
    network.set_neighbour(ip6(SERVERS6[0].0), Adjacency::new(PortId(1), LAN, SERVER_MACS[0]));
    v6.snapshot.network = Arc::new(network);
    v6.publish();
    for (name, frames) in vectors(include_str!("../../../tests/scapy/snat.txt")) {
        let [before, after] = &frames[..] else { panic!("{name}") };
        let (lab, kind): (_, [u8; 2]) =
            if name.starts_with("v4") { (&mut v4, [8, 0]) } else { (&mut v6, [0x86, 0xdd]) };
        let (port, mac) = if name.ends_with("_out") { (1, LAN) } else { (0, WAN) };
        let frame = [&mac.0[..], &ROUTER.0, &kind, before].concat();
        let (to, sent) = lab.receive_one(port, frame).unwrap();
        assert_eq!((to, &sent.data()[14..]), (1 - port, &after[..]), "{name}");
    }
}

#[test]
fn fragments_follow_the_first_one() {
    let mut lab = lab();
    let ends = [16, 32, 48];
    let flow = Flow::new(protocol::UDP, (SERVERS[0].0, 40_000), (OUTSIDE, 53));
    let (port, question) = whole(&lab.receive(0, 1, &fragments(&frame(LAN, flow, 0, &[1; 40]), &ends)));
    assert_eq!((port, read(&question).2.source()), (0, (POOL, 40_000)));
    let reply = Flow::new(protocol::UDP, (OUTSIDE, 53), (POOL, 40_000));
    let (port, answer) = whole(&lab.receive(0, 0, &fragments(&frame(WAN, reply, 0, &[2; 40]), &ends)));
    assert_eq!((port, read(&answer).2.destination()), (1, (SERVERS[0].0, 40_000)));
    lab.check_balance();
}
