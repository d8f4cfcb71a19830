//! ICMP errors through whole workers.

use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6};
use super::tunnel::{KINDS, lab_of};
use super::*;
use crate::forward::tunnel::unwrap;
use crate::packet::{icmpv6, ipv6, read_u32, read_u128};
use crate::parse::{AnyFlow, Flow6, IcmpError};

const ROUTER_ADDRESS: u32 = 0xcb00_71fe; // 203.0.113.254
const ROUTER6: u128 = CLIENT6 | 0xf0;

/// An error of this kind about a packet, which is quoted with no more than so many bytes.
pub(super) fn error(to: MacAddr, ends: (u32, u32), kind: [u8; 2], packet: &[u8], most: usize) -> Vec<u8> {
    let quote = &packet[..packet.len().min(most)];
    let mut message = [&kind[..], &[0, 0, 0, 0, 5, 120], quote].concat();
    let check = checksum::verify(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut ip = vec![0x45, 0xc0];
    ip.extend((20 + message.len() as u16).to_be_bytes());
    ip.extend([0, 9, 0, 0, 64, 1, 0, 0]);
    ip.extend([ends.0.to_be_bytes(), ends.1.to_be_bytes()].concat());
    let check = checksum::verify(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [&to.0[..], &ROUTER.0, &[8, 0], &ip, &message].concat()
}

/// The same over IPv6.
pub(super) fn error6(to: MacAddr, ends: (u128, u128), kind: [u8; 2], packet: &[u8], most: usize) -> Vec<u8> {
    let quote = &packet[..packet.len().min(most)];
    let mut message = [&kind[..], &[0, 0, 0, 0, 5, 120], quote].concat();
    let check = icmpv6::make_checksum(ends.0, ends.1, &message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((message.len() as u16).to_be_bytes());
    ip.extend([58, 64]);
    ip.extend([ends.0.to_be_bytes(), ends.1.to_be_bytes()].concat());
    [&to.0[..], &ROUTER.0, &[0x86, 0xdd], &ip, &message].concat()
}

/// What an error says, with its checksums checked: source, destination, the quoted packet's flow.
pub(super) fn read_error(frame: &MemoryFrame) -> (IpAddr, IpAddr, AnyFlow) {
    let ip = &frame.data()[14..];
    let error = IcmpError::in_frame(frame).unwrap();
    assert!(error.checksum_is_right(ip), "{frame:?}");
    let flow = error.quoted(ip).unwrap().flow;
    if error.is_ipv4 {
        assert_eq!(checksum::verify(&ip[..20]), 0, "{frame:?}");
        return (super::ip(read_u32(ip, 12)), super::ip(read_u32(ip, 16)), flow);
    }
    (super::ipv6::ip6(read_u128(ip, 8)), super::ipv6::ip6(read_u128(ip, 24)), flow)
}

fn udp(client: u16) -> Vec<u8> {
    frame(WAN, Flow::new(protocol::UDP, (CLIENT, client), VIP), 0, b"question")
}

fn udp_reply(client: u16) -> Vec<u8> {
    frame(LAN, Flow::new(protocol::UDP, SERVERS[1], (CLIENT, client)), 0, b"answer")
}

#[test]
fn by_nat_errors_go_where_their_packets_came_from() {
    let mut lab = Lab::new(Method::Nat, 1);
    let (_, at_server) = lab.receive_one(0, udp(4000)).unwrap();
    let (_, at_client) = lab.receive_one(1, udp_reply(4000)).unwrap();
    let expires = |lab: &Lab| lab.shared.table.views(Default::default(), lab.now).next().unwrap().expires;
    lab.now = Tick::from_seconds(100);
    let before = expires(&lab);

    // The server has nobody at that port, and says so to whom it takes for the sender.
    let refusal = error(LAN, (SERVERS[1].0, CLIENT), [3, 3], &at_server.data()[14..], 28);
    let (port, sent) = lab.receive_one(1, refusal).unwrap();
    let flow = Flow::new(protocol::UDP, (CLIENT, 4000), VIP);
    assert_eq!((port, read_error(&sent)), (0, (ip(VIP.0), ip(CLIENT), flow.into())));
    assert_eq!(sent.data()[..12], [ROUTER.0, WAN.0].concat());

    // So has the client; or a router cannot carry the server's packet.
    for (from, kind) in [(CLIENT, [3, 3]), (ROUTER_ADDRESS, [3, 4]), (ROUTER_ADDRESS, [11, 0])] {
        let refusal = error(WAN, (from, VIP.0), kind, &at_client.data()[14..], 548);
        let (port, sent) = lab.receive_one(0, refusal).unwrap();
        let flow = Flow::new(protocol::UDP, SERVERS[1], (CLIENT, 4000));
        assert_eq!((port, read_error(&sent)), (1, (ip(from), ip(SERVERS[1].0), flow.into())));
        assert_eq!(sent.data()[..12], [SERVER_MACS[1].0, LAN.0].concat());
        assert_eq!((sent.data()[22], &sent.data()[34..36]), (63, &kind[..]));
    }
    let stats = lab.shared.destinations.stats(3);
    assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 4, 2), "as IPVS counts them");
    assert_eq!(expires(&lab), before, "an error does not keep a connection");
    lab.check_balance();
}

#[test]
fn by_nat_errors_over_ipv6_do_so_too() {
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    let question = frame6(WAN, Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6), 0, b"question");
    let (_, at_server) = lab.receive_one(0, question).unwrap();
    let answer = frame6(LAN, Flow6::new(protocol::UDP, SERVERS6[1], (CLIENT6, 4000)), 0, b"answer");
    let (_, at_client) = lab.receive_one(1, answer).unwrap();
    let (client, vip, server) =
        (super::ipv6::ip6(CLIENT6), super::ipv6::ip6(VIP6.0), super::ipv6::ip6(SERVERS6[1].0));
    let refusal = error6(LAN, (SERVERS6[1].0, CLIENT6), [1, 4], &at_server.data()[14..], 1232);
    let (port, sent) = lab.receive_one(1, refusal).unwrap();
    let flow = Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6);
    assert_eq!((port, read_error(&sent)), (0, (vip, client, flow.into())));
    for kind in [[1, 4], [2, 0], [3, 0], [4, 1]] {
        let refusal = error6(WAN, (ROUTER6, VIP6.0), kind, &at_client.data()[14..], 48);
        let (port, sent) = lab.receive_one(0, refusal).unwrap();
        let flow = Flow6::new(protocol::UDP, SERVERS6[1], (CLIENT6, 4000));
        assert_eq!((port, read_error(&sent).1, read_error(&sent).2), (1, server, flow.into()));
    }
    lab.check_balance();
}

/// By direct routing and through tunnels the server has the virtual address and sends from it.
#[test]
fn other_methods_take_errors_as_they_came() {
    let answer = |from: (u32, u16)| frame(LAN, Flow::new(protocol::UDP, from, (CLIENT, 4000)), 0, b"answer");
    let refusal = error(WAN, (ROUTER_ADDRESS, VIP.0), [3, 4], &answer(VIP)[14..], 28);
    let check = |port: usize, inside: &[u8]| {
        let before = &refusal[14..];
        let changed: Vec<_> = (0..before.len()).filter(|at| before[*at] != inside[*at]).collect();
        assert_eq!((port, changed), (1, vec![8, 10]), "time to live, and the checksum for it");
        assert_eq!(inside.len(), before.len());
    };
    let mut lab = Lab::new(Method::DirectRouting, 1);
    lab.receive_one(0, udp(4000)).unwrap();
    let (port, sent) = lab.receive_one(0, refusal.clone()).unwrap();
    assert_eq!(sent.data()[..12], [SERVER_MACS[1].0, LAN.0].concat());
    check(port, &sent.data()[14..]);
    lab.check_balance();
    for kind in KINDS {
        let mut lab = lab_of(kind, 4, 1);
        lab.receive_one(0, udp(4000)).unwrap();
        let (port, sent) = lab.receive_one(0, refusal.clone()).unwrap();
        let at = unwrap(&sent.data()[14..]).unwrap().at;
        check(port, &sent.data()[14 + at..]);
        lab.check_balance();
    }
}

/// ICMPv6 in an IPv4 tunnel, and what is too long for one: nobody is told about an error.
#[test]
fn errors_over_ipv6_travel_in_tunnels() {
    let answer = frame6(LAN, Flow6::new(protocol::UDP, VIP6, (CLIENT6, 4000)), 0, &[7; 1400]);
    for over in [4, 6] {
        let mut lab = lab_of(KINDS[0], over, 1);
        lab.receive_one(0, frame6(WAN, Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6), 0, b"")).unwrap();
        let refusal = |most| error6(WAN, (ROUTER6, VIP6.0), [2, 0], &answer[14..], most);
        let (_, sent) = lab.receive_one(0, refusal(ipv6::MIN_MTU - 48)).unwrap();
        let at = unwrap(&sent.data()[14..]).unwrap().at;
        assert_eq!(sent.len(), 14 + at + ipv6::MIN_MTU);
        assert_eq!(lab.receive_one(0, refusal(1448)), None);
        assert_eq!(lab.dropped(Drop::TooBig), 1);
        lab.check_balance();
    }
}

#[test]
fn an_error_with_a_wrong_checksum_is_dropped_by_name() {
    let mut lab = Lab::new(Method::Nat, 1);
    let (_, at_server) = lab.receive_one(0, udp(4000)).unwrap();
    let right = error(LAN, (SERVERS[1].0, CLIENT), [3, 3], &at_server.data()[14..], 548);
    for at in 34..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 0x10;
        // What is not about the connection any more is not ours to judge.
        if let Some(sent) = lab.receive_one(1, wrong) {
            panic!("byte {at}: {sent:?}");
        }
    }
    let (dropped, to_kernel) = (lab.dropped(Drop::BadIcmpChecksum), lab.counters[0].read().to_kernel);
    assert_eq!(dropped + to_kernel, right.len() as u64 - 34);
    assert!(dropped > 20, "{dropped}");
    lab.check_balance();
}

#[test]
fn linux_gets_what_is_about_nobodys_packet() {
    let mut lab = Lab::new(Method::Nat, 1);
    let (_, at_server) = lab.receive_one(0, udp(4000)).unwrap();
    let quote = &at_server.data()[14..];
    let other = frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4001), SERVERS[1]), 0, b"");
    let mut later_fragment = quote.to_vec();
    later_fragment[7] = 9;
    let frames = [
        error(LAN, (SERVERS[1].0, CLIENT), [3, 3], &other[14..], 548),
        error(LAN, (SERVERS[1].0, CLIENT), [3, 3], quote, 23),
        error(LAN, (SERVERS[1].0, CLIENT), [3, 3], &later_fragment, 548),
        error(LAN, (SERVERS[1].0, CLIENT), [3, 3], b"", 0),
        error(LAN, (SERVERS[1].0, CLIENT), [5, 1], quote, 548),
        error(LAN, (SERVERS[1].0, CLIENT), [8, 0], quote, 548),
        error6(LAN, (SERVERS6[1].0, CLIENT6), [1, 4], quote, 548),
    ];
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(lab.receive_one(1, frame.clone()), None, "frame {n}");
        assert_eq!(lab.to_kernel[1].pop(), Some(MemoryFrame::new(frame)), "frame {n}, as it came");
    }
    lab.check_balance();
}

#[test]
fn an_error_on_its_last_hop_is_dropped() {
    let mut lab = Lab::new(Method::Nat, 1);
    let (_, at_server) = lab.receive_one(0, udp(4000)).unwrap();
    let mut last = error(LAN, (SERVERS[1].0, CLIENT), [3, 3], &at_server.data()[14..], 548);
    last[22] = 1;
    last[24..26].fill(0);
    let check = checksum::verify(&last[14..34]);
    last[24..26].copy_from_slice(&check.to_be_bytes());
    assert_eq!(lab.receive_one(1, last), None);
    assert_eq!(lab.dropped(Drop::TtlExpired), 1);
    lab.check_balance();
}

#[test]
fn by_fullnat_each_side_finds_what_it_sent() {
    let mut lab = super::fullnat::lab(1);
    let (_, at_server) = lab.receive_one(0, udp(4000)).unwrap();
    let (_, _, inside) = read(&at_server);
    let reply = Flow::new(protocol::UDP, inside.destination(), inside.source());
    let (_, at_client) = lab.receive_one(1, frame(LAN, reply, 0, b"answer")).unwrap();

    let refusal = error(LAN, (SERVERS[1].0, inside.source().0), [3, 3], &at_server.data()[14..], 28);
    let (port, sent) = lab.receive_one(1, refusal).unwrap();
    let flow = Flow::new(protocol::UDP, (CLIENT, 4000), VIP);
    assert_eq!((port, read_error(&sent)), (0, (ip(VIP.0), ip(CLIENT), flow.into())));

    let refusal = error(WAN, (ROUTER_ADDRESS, VIP.0), [3, 4], &at_client.data()[14..], 548);
    let (port, sent) = lab.receive_one(0, refusal).unwrap();
    assert_eq!((port, read_error(&sent)), (1, (ip(ROUTER_ADDRESS), ip(SERVERS[1].0), reply.into())));
    lab.check_balance();
}

#[test]
fn by_fullnat_over_ipv6_each_side_finds_what_it_sent() {
    let mut lab = super::fullnat::lab_with(true, 1, (1024, u16::MAX));
    let flow = |frame: &MemoryFrame| {
        let mac = MacAddr(frame.data()[..6].try_into().unwrap());
        crate::parse::Packet6::in_frame(frame, mac).flow
    };
    let request = Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6);
    let (_, at_server) = lab.receive_one(0, frame6(WAN, request, 0, b"question")).unwrap();
    let inside = flow(&at_server);
    let reply = Flow6::new(protocol::UDP, inside.destination(), inside.source());
    let (_, at_client) = lab.receive_one(1, frame6(LAN, reply, 0, b"answer")).unwrap();

    let refusal = error6(LAN, (SERVERS6[1].0, inside.source().0), [1, 4], &at_server.data()[14..], 1200);
    let (port, sent) = lab.receive_one(1, refusal).unwrap();
    let ends = (super::ipv6::ip6(VIP6.0), super::ipv6::ip6(CLIENT6));
    assert_eq!((port, read_error(&sent)), (0, (ends.0, ends.1, request.into())));

    let refusal = error6(WAN, (ROUTER6, VIP6.0), [2, 0], &at_client.data()[14..], 1200);
    let (port, sent) = lab.receive_one(0, refusal).unwrap();
    let ends = (super::ipv6::ip6(ROUTER6), super::ipv6::ip6(SERVERS6[1].0));
    assert_eq!((port, read_error(&sent)), (1, (ends.0, ends.1, reply.into())));
    lab.check_balance();
}

/// With schedule_icmp an error about what a server of a virtual address has sent, by whatever way, finds a server: the one that the
/// client's packets would go to.
#[test]
fn errors_of_no_connection_are_scheduled_where_that_is_wanted() {
    for (protocol, state) in [(protocol::TCP, State::None), (protocol::UDP, State::Udp)] {
        let mut lab = Lab::new(Method::Nat, 1);
        let answer = frame(LAN, Flow::new(protocol, VIP, (CLIENT, 4000)), A, b"answer");
        let refusal = error(WAN, (ROUTER_ADDRESS, VIP.0), [3, 4], &answer[14..], 28);
        assert_eq!(lab.receive_one(0, refusal.clone()), None);
        assert_eq!(lab.to_kernel[0].pop(), Some(MemoryFrame::new(&refusal)), "not by default");
        lab.snapshot.sysctls.schedule_icmp = true;
        lab.publish();
        let (port, sent) = lab.receive_one(0, refusal.clone()).unwrap();
        let flow = Flow::new(protocol, SERVERS[1], (CLIENT, 4000));
        assert_eq!((port, read_error(&sent)), (1, (ip(ROUTER_ADDRESS), ip(SERVERS[1].0), flow.into())));
        let view = lab.shared.table.views(Default::default(), lab.now).next().unwrap();
        assert_eq!((view.state, view.flow), (state, Flow::new(protocol, (CLIENT, 4000), VIP).into()));
        // The client's own packets go there, too.
        let (_, sent) =
            lab.receive_one(0, frame(WAN, Flow::new(protocol, (CLIENT, 4000), VIP), A, b"")).unwrap();
        assert_eq!(read(&sent).2.destination(), SERVERS[1]);
        // Whom no service knows, Linux knows; and without a server nobody is told about an error.
        let other = frame(LAN, Flow::new(protocol, (VIP.0, 22), (CLIENT, 4000)), A, b"");
        let other = error(WAN, (ROUTER_ADDRESS, VIP.0), [3, 4], &other[14..], 28);
        assert_eq!(lab.receive_one(0, other), None);
        assert_eq!(lab.counters[0].read().to_kernel, 2);
        let empty = Service::new(Vec::new(), schedule::by_name("rr").unwrap());
        let key = ServiceKey { protocol, address: ip(VIP.0), port: VIP.1 };
        lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(empty))]));
        lab.publish();
        let stranger = frame(LAN, Flow::new(protocol, VIP, (CLIENT, 4001)), A, b"answer");
        let stranger = error(WAN, (ROUTER_ADDRESS, VIP.0), [3, 4], &stranger[14..], 28);
        assert_eq!(lab.receive_one(0, stranger), None);
        assert_eq!(lab.dropped(Drop::NoDestination), 1);
        lab.check_balance();
    }
}

/// With nat_icmp_send a server by NAT hears that nobody is there for its packet any more.
#[test]
fn servers_are_told_of_packets_of_no_connection_where_that_is_wanted() {
    let mut lab = Lab::new(Method::Nat, 1);
    let mut network = super::ipv6::network();
    let own =
        crate::network::LocalAddress { port: Some(PortId(1)), network: "192.0.2.1/24".parse().unwrap() };
    network.set_sources(crate::network::Sources::new([], [own]));
    lab.snapshot.network = Arc::new(network);
    let servers = [(protocol::TCP, ip(SERVERS[1].0), SERVERS[1].1), (0, ip(SERVERS[0].0), 53)];
    lab.snapshot.masqueraded = Arc::new(crate::service::Masqueraded::new(servers));
    lab.publish();
    let from = |protocol, from, flags| frame(LAN, Flow::new(protocol, from, (CLIENT, 9)), flags, b"");
    let late = from(protocol::TCP, SERVERS[1], A);
    assert_eq!(lab.receive_one(1, late.clone()), None);
    lab.snapshot.sysctls.nat_icmp_send = true;
    lab.publish();
    for frame in [late, from(protocol::UDP, (SERVERS[0].0, 53), 0)] {
        let (port, sent) = lab.receive_one(1, frame.clone()).unwrap();
        assert_eq!((port, &sent.data()[34..36]), (1, &[3, 3][..]));
        assert_eq!((read_u32(sent.data(), 26), &sent.data()[42..]), (0xc000_0201, &frame[14..]));
    }
    for frame in [
        from(protocol::TCP, SERVERS[1], R),
        from(protocol::TCP, SERVERS[0], A),
        from(protocol::TCP, (SERVERS[1].0, 22), A),
        from(protocol::UDP, SERVERS[1], 0),
    ] {
        assert_eq!(lab.receive_one(1, frame), None);
    }
    let totals = lab.counters[0].read();
    assert_eq!((totals.unreachable, totals.to_kernel, totals.dropped()), (2, 5, 0));
    let late: Vec<_> =
        (0..20).map(|n| from(protocol::TCP, SERVERS[1], if n % 2 == 0 { A } else { S })).collect();
    assert_eq!(lab.receive(0, 1, &late).len(), 5);
    assert_eq!(lab.dropped(Drop::NoConnection), 15);
    lab.check_balance();
}
