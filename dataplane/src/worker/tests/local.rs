//! Real servers on this host: what Linux gets, and what becomes of what it sends. And what goes past a service.

use super::icmp::{error, error6, read_error};
use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6, ip6, read6};
use super::*;
use crate::forward::tunnel::Kind;
use crate::mark::Rule;
use crate::network::Way;
use crate::packet::ipv4::Ipv4;
use crate::parse::Flow6;
use crate::service::Family;
use crate::tunnels::{Tunnel, Tunnels};

/// All servers are this host.
fn lab(method: Method) -> Lab {
    lab_of(Lab::new(method, 1), ip(SERVERS[0].0), ip(SERVERS[1].0), &network())
}

fn lab6(method: Method) -> Lab {
    lab_of(super::ipv6::lab(method, 1), ip6(SERVERS6[0].0), ip6(SERVERS6[1].0), &super::ipv6::network())
}

fn lab_of(mut lab: Lab, first: IpAddr, second: IpAddr, before: &Network) -> Lab {
    let mut network = before.clone();
    let own = [first, second].map(|address| (address.into(), Way::Local));
    network.set_routes(before.routes().chain(own).collect::<Vec<_>>());
    let tunnels = (0..4).map(|id| (id, Tunnel::new(Kind::IpIp, first, &network)));
    lab.snapshot.tunnels = Arc::new(Tunnels::new(tunnels));
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    lab
}

/// What Linux gets of a frame that comes from the clients.
fn to_linux(lab: &mut Lab, frame: Vec<u8>) -> Option<MemoryFrame> {
    assert_eq!(lab.receive_one(0, frame), None);
    lab.to_kernel[0].pop()
}

/// What becomes of a frame that Linux sends by a port.
fn from_linux(lab: &mut Lab, port: usize, frame: &[u8]) -> Vec<(usize, MemoryFrame)> {
    lab.from_kernel[port].push(MemoryFrame::new(frame)).unwrap();
    lab.poll(0)
}

fn ttl(frame: &MemoryFrame) -> u8 {
    frame.data()[14 + 8]
}

#[test]
fn by_nat_linux_gets_translated_packets_and_its_replies_are_translated_back() {
    let mut lab = lab(Method::Nat);
    let request = to_linux(&mut lab, tcp(4000, S)).unwrap();
    let flow = Flow::new(protocol::TCP, (CLIENT, 4000), SERVERS[1]);
    assert_eq!(read(&request), (WAN, ROUTER, flow), "in the frame in which it came");
    assert_eq!(ttl(&request), 64, "nothing is routed");

    let answer = frame(ROUTER, Flow::new(protocol::TCP, SERVERS[1], (CLIENT, 4000)), S | A, b"");
    let sent = from_linux(&mut lab, 0, &answer);
    let [(0, answer)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(read(answer), (ROUTER, WAN, Flow::new(protocol::TCP, VIP, (CLIENT, 4000))));
    assert_eq!(ttl(answer), 64);
    to_linux(&mut lab, tcp(4000, A)).unwrap();
    assert_eq!((lab.load(1), lab.load(0)), ((1, 0), (0, 0)));
    let stats = lab.shared.destinations.stats(1);
    assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 2, 1));
    assert_eq!((stats.in_bytes, stats.out_bytes), (80, 40));
    let totals = lab.counters[0].read();
    assert_eq!((totals.received, totals.to_kernel, totals.forwarded, totals.from_kernel), (3, 2, 1, 0));

    // The server resets: the state goes on as with any server.
    let reset = frame(ROUTER, Flow::new(protocol::TCP, SERVERS[1], (CLIENT, 4000)), R, b"");
    assert_eq!(from_linux(&mut lab, 0, &reset).len(), 1);
    assert_eq!(lab.load(1), (0, 1));
    lab.check_balance();
}

#[test]
fn so_it_is_over_ipv6() {
    let mut lab = lab6(Method::Nat);
    for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        let kind = if protocol == protocol::SCTP { 1 } else { S };
        let question = frame6(WAN, Flow6::new(protocol, (CLIENT6, 4000), VIP6), kind, b"");
        let request = to_linux(&mut lab, question).unwrap();
        assert_eq!(read6(&request).2, Flow6::new(protocol, (CLIENT6, 4000), SERVERS6[1]));
        assert_eq!(request.data()[14 + 7], 64, "hop limit");
        let kind = if protocol == protocol::SCTP { 2 } else { S | A };
        let answer = frame6(ROUTER, Flow6::new(protocol, SERVERS6[1], (CLIENT6, 4000)), kind, b"answer");
        let sent = from_linux(&mut lab, 0, &answer);
        let [(0, answer)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(read6(answer), (ROUTER, WAN, Flow6::new(protocol, VIP6, (CLIENT6, 4000))));
        assert_eq!(answer.data()[14 + 7], 64);
    }
    lab.check_balance();
}

#[test]
fn by_the_other_methods_linux_gets_packets_as_they_came() {
    for method in [Method::DirectRouting, Method::Tunnel, Method::Local] {
        // By `Local` whatever the server's address is.
        let mut lab = if method == Method::Local { Lab::new(method, 1) } else { lab(method) };
        for flags in [S, A] {
            let frame = tcp(4000, flags);
            assert_eq!(to_linux(&mut lab, frame.clone()), Some(MemoryFrame::new(&frame)), "{method:?}");
        }
        assert_eq!(lab.load(1), (1, 0), "{method:?}");
        // Linux answers from the virtual address, and nothing is done to that.
        let answer = frame(ROUTER, Flow::new(protocol::TCP, VIP, (CLIENT, 4000)), S | A, b"");
        assert_eq!(from_linux(&mut lab, 0, &answer), [(0, MemoryFrame::new(&answer))]);
        let totals = lab.counters[0].read();
        assert_eq!((totals.to_kernel, totals.from_kernel), (2, 1), "{method:?}");
        lab.check_balance();
    }
}

/// Whatever else Linux sends goes as it is, also to and from those addresses and ports.
#[test]
fn what_is_no_reply_is_left_alone() {
    let mut lab = lab(Method::Nat);
    to_linux(&mut lab, tcp(4000, S)).unwrap();
    let flow = |from, to| frame(ROUTER, Flow::new(protocol::TCP, from, to), A, b"");
    let mut arp = flow(SERVERS[1], (CLIENT, 4000));
    arp[12..14].copy_from_slice(&[8, 6]);
    let frames = [
        arp,
        flow(SERVERS[1], (CLIENT, 4001)),
        flow(SERVERS[0], (CLIENT, 4000)),
        flow((SERVERS[1].0, 22), (CLIENT, 4000)),
        flow((CLIENT, 4000), VIP),
        flow(VIP, (CLIENT, 4000)),
        flow(SERVERS[1], (CLIENT, 4000))[..20].to_vec(),
        vec![1, 2, 3],
    ];
    for frame in frames {
        assert_eq!(from_linux(&mut lab, 0, &frame), [(0, MemoryFrame::new(&frame))]);
    }
    assert_eq!(lab.counters[0].read().from_kernel, 8);
    lab.check_balance();
}

/// Linux has routed a reply as one of the server's address.
#[test]
fn replies_are_routed_anew_or_not() {
    for (snat_reroute, expected) in [(true, 0), (false, 1)] {
        let mut lab = lab(Method::Nat);
        lab.snapshot.sysctls.snat_reroute = snat_reroute;
        lab.publish();
        to_linux(&mut lab, tcp(4000, S)).unwrap();
        let answer = frame(SERVER_MACS[0], Flow::new(protocol::TCP, SERVERS[1], (CLIENT, 4000)), S | A, b"");
        let sent = from_linux(&mut lab, 1, &answer);
        let [(port, answer)] = &sent[..] else { panic!("{sent:?}") };
        let to = if snat_reroute { ROUTER } else { SERVER_MACS[0] };
        assert_eq!((*port, read(answer).0), (expected, to));
        assert_eq!(read(answer).2, Flow::new(protocol::TCP, VIP, (CLIENT, 4000)));
        lab.check_balance();
    }
    // Where there is no route of ours, Linux's is taken.
    let mut lab = lab(Method::Nat);
    to_linux(&mut lab, tcp(4000, S)).unwrap();
    let mut network = network();
    network.set_routes([] as [(ipnet::IpNet, Way); 0]);
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    let answer = frame(SERVER_MACS[0], Flow::new(protocol::TCP, SERVERS[1], (CLIENT, 4000)), S | A, b"");
    let sent = from_linux(&mut lab, 1, &answer);
    assert_eq!((sent[0].0, read(&sent[0].1).0), (1, SERVER_MACS[0]));
}

#[test]
fn an_address_that_moves_takes_its_connections_along() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.receive_one(0, tcp(4000, S)).unwrap();
    let mut lab = lab_of(lab, ip(SERVERS[0].0), ip(SERVERS[1].0), &network());
    assert!(to_linux(&mut lab, tcp(4000, A)).is_some());
    lab.snapshot.network = Arc::new(network());
    lab.publish();
    assert_eq!(lab.receive_one(0, tcp(4000, A)).map(|(port, _)| port), Some(1));
    lab.check_balance();
}

#[test]
fn what_linux_would_not_believe_is_dropped_by_name() {
    let mut fullnat = super::fullnat::lab(1);
    fullnat = lab_of(fullnat, ip(SERVERS[0].0), ip(SERVERS[1].0), &network());
    assert_eq!(to_linux(&mut fullnat, tcp(4000, S)), None);
    assert_eq!(fullnat.dropped(Drop::LocalMartian), 1);
    fullnat.check_balance();

    let mut loopback = Lab::new(Method::Nat, 1);
    let servers = vec![Destination {
        id: 0,
        sequence: 1,
        address: ip(0x7f00_0001),
        port: 80,
        weight: 1,
        last_weight: 1,
        method: Method::Nat,
    }];
    let key = ServiceKey { protocol: protocol::TCP, address: ip(VIP.0), port: VIP.1 };
    let service = Service::new(servers, schedule::by_name("rr").unwrap());
    loopback.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    let mut loopback = lab_of(loopback, ip(0x7f00_0001), ip(SERVERS[1].0), &network());
    assert_eq!(to_linux(&mut loopback, tcp(4000, S)), None);
    assert_eq!(loopback.dropped(Drop::LocalMartian), 1);
    loopback.check_balance();
}

/// Errors about a local server's packets reach it, and Linux's own about a client's reach the client.
#[test]
fn errors_are_translated_both_ways() {
    let mut lab = lab(Method::Nat);
    let question = frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, b"question");
    let at_server = to_linux(&mut lab, question).unwrap();
    let refusal = error(ROUTER, (SERVERS[1].0, CLIENT), [3, 3], &at_server.data()[14..], 548);
    let sent = from_linux(&mut lab, 0, &refusal);
    let flow = Flow::new(protocol::UDP, (CLIENT, 4000), VIP);
    assert_eq!((sent[0].0, read_error(&sent[0].1)), (0, (ip(VIP.0), ip(CLIENT), flow.into())));
    let mut wrong = refusal.clone();
    wrong[14 + 20 + 4] ^= 1;
    assert_eq!(from_linux(&mut lab, 0, &wrong), []);
    assert_eq!(lab.dropped(Drop::BadIcmpChecksum), 1);
    assert_eq!(ttl(&sent[0].1), 64);

    let answer = frame(ROUTER, Flow::new(protocol::UDP, VIP, (CLIENT, 4000)), 0, b"answer");
    let too_big = error(WAN, (CLIENT, VIP.0), [3, 4], &answer[14..], 548);
    let got = to_linux(&mut lab, too_big).unwrap();
    let flow = Flow::new(protocol::UDP, SERVERS[1], (CLIENT, 4000));
    assert_eq!(read_error(&got), (ip(CLIENT), ip(SERVERS[1].0), flow.into()));
    assert_eq!(ttl(&got), 64);
    lab.check_balance();

    let mut lab = lab6(Method::Nat);
    let question = frame6(WAN, Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6), 0, b"question");
    let at_server = to_linux(&mut lab, question).unwrap();
    let refusal = error6(ROUTER, (SERVERS6[1].0, CLIENT6), [1, 4], &at_server.data()[14..], 1232);
    let sent = from_linux(&mut lab, 0, &refusal);
    let flow = Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6);
    assert_eq!((sent[0].0, read_error(&sent[0].1)), (0, (ip6(VIP6.0), ip6(CLIENT6), flow.into())));
    let answer = frame6(ROUTER, Flow6::new(protocol::UDP, VIP6, (CLIENT6, 4000)), 0, b"answer");
    let too_big = error6(WAN, (CLIENT6, VIP6.0), [2, 0], &answer[14..], 1232);
    let got = to_linux(&mut lab, too_big).unwrap();
    let flow = Flow6::new(protocol::UDP, SERVERS6[1], (CLIENT6, 4000));
    assert_eq!(read_error(&got), (ip6(CLIENT6), ip6(SERVERS6[1].0), flow.into()));
    lab.check_balance();

    // By direct routing the virtual address is Linux's, and so are errors about what it sends.
    let mut lab = self::lab(Method::DirectRouting);
    to_linux(&mut lab, frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, b"question")).unwrap();
    let answer = frame(ROUTER, Flow::new(protocol::UDP, VIP, (CLIENT, 4000)), 0, b"answer");
    let too_big = error(WAN, (CLIENT, VIP.0), [3, 4], &answer[14..], 548);
    assert_eq!(to_linux(&mut lab, too_big.clone()), Some(MemoryFrame::new(&too_big)));
    lab.check_balance();
}

/// The packet in two fragments.
fn in_two(whole: &[u8]) -> [Vec<u8>; 2] {
    let (header, data) = whole.split_at(34);
    let (front, back) = data.split_at(64);
    [(0x2000_u16, front), (8, back)].map(|(place, part)| {
        let mut bytes = [header, part].concat();
        bytes[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        bytes[20..22].copy_from_slice(&place.to_be_bytes());
        bytes[24..26].fill(0);
        let check = checksum::verify(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&check.to_be_bytes());
        bytes
    })
}

/// The whole packet, of what `in_two` has made, and where it is from and to; its checksums are right.
fn joined(parts: &[MemoryFrame]) -> (MacAddr, MacAddr, Flow) {
    let [front, back] = parts else { panic!("{parts:?}") };
    let mut whole = [front.data(), &back.data()[34..]].concat();
    let length = whole.len() as u16 - 14;
    whole[16..18].copy_from_slice(&length.to_be_bytes());
    whole[20..22].fill(0);
    whole[24..26].fill(0);
    let check = checksum::verify(&whole[14..34]);
    whole[24..26].copy_from_slice(&check.to_be_bytes());
    for part in parts {
        let ip = Ipv4::new(&part.data()[14..], part.data().len() - 14).unwrap();
        assert!(ip.checksum_is_right());
        assert_eq!(ttl(part), 64);
    }
    read(&MemoryFrame::new(&whole))
}

#[test]
fn fragments_are_translated_both_ways() {
    let mut lab = lab(Method::Nat);
    let flow = Flow::new(protocol::UDP, (CLIENT, 4000), VIP);
    let question = in_two(&frame(WAN, flow, 0, &[7; 100]));
    let got: Vec<_> = question.into_iter().map(|part| to_linux(&mut lab, part).unwrap()).collect();
    assert_eq!(joined(&got).2, Flow::new(protocol::UDP, (CLIENT, 4000), SERVERS[1]));

    let flow = Flow::new(protocol::UDP, SERVERS[1], (CLIENT, 4000));
    let answer = in_two(&frame(ROUTER, flow, 0, &[8; 100]));
    let sent: Vec<_> = answer.iter().flat_map(|part| from_linux(&mut lab, 0, part)).collect();
    assert!(sent.iter().all(|(port, _)| *port == 0));
    let sent: Vec<_> = sent.into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(joined(&sent), (ROUTER, WAN, Flow::new(protocol::UDP, VIP, (CLIENT, 4000))));
    let stats = lab.shared.destinations.stats(3);
    assert_eq!((stats.in_packets, stats.out_packets), (1, 1));
    assert_eq!((stats.in_bytes, stats.out_bytes), (128, 128));

    // Somebody else's.
    let other =
        in_two(&frame(ROUTER, Flow::new(protocol::UDP, (SERVERS[1].0, 53), (CLIENT, 4000)), 0, &[9; 100]));
    for part in other {
        assert_eq!(from_linux(&mut lab, 0, &part), [(0, MemoryFrame::new(&part))]);
    }
    lab.check_balance();

    for method in [Method::DirectRouting, Method::Tunnel, Method::Local] {
        let mut lab = if method == Method::Local { Lab::new(method, 1) } else { self::lab(method) };
        for part in in_two(&frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, &[7; 100])) {
            assert_eq!(to_linux(&mut lab, part.clone()), Some(MemoryFrame::new(&part)), "{method:?}");
        }
        lab.check_balance();
    }
}

/// A director that all packets for port 80 are routed through, whomever they are for, without a server.
fn cache(cache_bypass: bool) -> Lab {
    let mut lab = Lab::new(Method::DirectRouting, 1);
    let service = || Arc::new(Service::new(Vec::new(), schedule::by_name("rr").unwrap()));
    let key = ServiceKey { protocol: protocol::TCP, address: ip(VIP.0), port: 81 };
    let services = Services::new([(key, service())]);
    let rule = Rule { destination_ports: 80..=80, ..Rule::new(1) };
    let marks = [((Family::V4, 1), service()), ((Family::V6, 1), service())];
    lab.snapshot.services = Arc::new(services.with_marks(vec![rule], marks));
    let mut network = super::ipv6::network();
    let before = network.routes().collect::<Vec<_>>();
    let own = [(ip(VIP.0).into(), Way::Local)];
    network.set_routes(before.into_iter().chain(own));
    lab.snapshot.network = Arc::new(network);
    lab.snapshot.sysctls.cache_bypass = cache_bypass;
    lab.publish();
    lab
}

#[test]
fn without_a_server_packets_go_past_a_service_by_mark() {
    let mut lab = cache(true);
    let web = (SERVERS[0].0, 80);
    let to_web = |flags| frame(WAN, Flow::new(protocol::TCP, (CLIENT, 4000), web), flags, b"");
    for flags in [S, A, A] {
        let (port, sent) = lab.receive_one(0, to_web(flags)).unwrap();
        let flow = Flow::new(protocol::TCP, (CLIENT, 4000), web);
        assert_eq!((port, read(&sent)), (1, (SERVER_MACS[0], LAN, flow)));
        assert_eq!(ttl(&sent), 63);
    }
    let view = lab.shared.table.views(lab.snapshot.timeouts, lab.now).next().unwrap();
    assert_eq!((view.server, view.state_name()), ((ip(0), 0), "ESTABLISHED"), "as the kernel lists it");
    let ending = lab.receive_one(0, to_web(F | A));
    assert!(ending.is_some());
    let view = lab.shared.table.views(lab.snapshot.timeouts, lab.now).next().unwrap();
    assert_eq!(view.state_name(), "CLOSE_WAIT", "as by NAT");
    // Fragments, errors and long packets go the same way.
    let udp = frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), web), 0, &[7; 100]);
    for part in in_two(&udp) {
        assert_eq!(lab.receive_one(0, part).map(|(port, sent)| (port, ttl(&sent))), Some((1, 63)));
    }
    let mut last_hop = to_web(S);
    last_hop[22] = 1;
    last_hop[24..26].fill(0);
    let check = checksum::verify(&last_hop[14..34]);
    last_hop[24..26].copy_from_slice(&check.to_be_bytes());
    lab.receive_one(0, last_hop);
    assert_eq!(lab.counters[0].read().time_exceeded, 1);
    // The own address is nobody else's; and so is what came by an address.
    for to in [VIP, (VIP.0, 81)] {
        let refused = lab.receive_one(0, frame(WAN, Flow::new(protocol::TCP, (CLIENT, 4001), to), S, b""));
        assert_eq!(refused.unwrap().1.data()[23], 1, "ICMP");
    }
    assert_eq!(lab.counters[0].read().unreachable, 2);
    lab.check_balance();

    // Over IPv6.
    let web = (SERVERS6[0].0, 80);
    let flow = Flow6::new(protocol::TCP, (CLIENT6, 4000), web);
    let (port, sent) = lab.receive_one(0, frame6(WAN, flow, S, b"")).unwrap();
    assert_eq!((port, read6(&sent)), (1, (SERVER_MACS[0], LAN, flow)));
    let view = lab.shared.table.views(lab.snapshot.timeouts, lab.now).find(|view| view.server.0.is_ipv6());
    assert_eq!(view.unwrap().server, (ip6(0), 0));
    lab.check_balance();
}

#[test]
fn unless_it_is_switched_on_their_senders_are_refused() {
    let mut lab = cache(false);
    let to_web = frame(WAN, Flow::new(protocol::TCP, (CLIENT, 4000), (SERVERS[0].0, 80)), S, b"");
    assert_eq!(lab.receive_one(0, to_web).unwrap().0, 0);
    assert_eq!(lab.counters[0].read().unreachable, 1);
    assert_eq!(lab.shared.table.slots_in_use(), 0);
}
