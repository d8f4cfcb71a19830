//! IPv6 through whole workers.

use std::net::Ipv6Addr;

use super::*;
use crate::mark::{Addresses, Rule};
use crate::packet::{icmpv6, sctp};
use crate::parse::{AnyFlow, Flow6, Packet6, Parsed};
use crate::service::{Family, Persistence};

const NET: u128 = 0x2001_0db8 << 96;
pub(super) const VIP6: (u128, u16) = (NET | 0x64 << 80 | 8, 80);
pub(super) const SERVERS6: [(u128, u16); 2] = [(NET | 2 << 80 | 9, 8080), (NET | 2 << 80 | 10, 8080)];
pub(super) const CLIENT6: u128 = NET | 0xcb << 80 | 9;

pub(super) fn ip6(number: u128) -> IpAddr {
    Ipv6Addr::from(number).into()
}

pub(super) fn network() -> Network {
    let mut network = super::network();
    let via = |port, gateway: Option<&str>| {
        Some(NextHop { port: PortId(port), gateway: gateway.map(|g| g.parse().unwrap()) })
    };
    network.set_routes([
        ("::/0".parse().unwrap(), via(0, Some("fe80::1"))),
        ("2001:db8:2::/48".parse().unwrap(), via(1, None)),
        ("0.0.0.0/0".parse().unwrap(), via(0, Some("198.51.100.1"))),
        ("192.0.2.0/24".parse().unwrap(), via(1, None)),
    ]);
    network.set_neighbour("fe80::1".parse().unwrap(), Adjacency::new(PortId(0), WAN, ROUTER));
    for (server, mac) in SERVERS6.iter().zip(SERVER_MACS) {
        network.set_neighbour(ip6(server.0), Adjacency::new(PortId(1), LAN, mac));
    }
    network
}

fn service(method: Method, first: u32) -> Service {
    let destination = |(n, server): (usize, &(u128, u16))| Destination {
        id: first + n as u32,
        sequence: n as u32 + 1,
        address: ip6(server.0),
        port: if method.sees_replies() { server.1 } else { VIP6.1 },
        weight: 1,
        last_weight: 1,
        method,
    };
    let destinations = SERVERS6.iter().enumerate().map(destination).collect();
    Service::new(destinations, schedule::by_name("rr").unwrap())
}

pub(super) fn service_list(method: Method) -> Vec<(ServiceKey, Arc<Service>)> {
    let service = |(protocol, n): (u8, u32)| {
        let key = ServiceKey { protocol, address: ip6(VIP6.0), port: VIP6.1 };
        (key, Arc::new(service(method, 2 * n)))
    };
    [protocol::TCP, protocol::UDP, protocol::SCTP].into_iter().zip(0..).map(service).collect()
}

/// TCP, UDP and SCTP services at the virtual address: destinations 0 and 1, 2 and 3, 4 and 5.
pub(super) fn lab(method: Method, workers: usize) -> Lab {
    let mut lab = Lab::new(method, workers);
    lab.snapshot.services = Arc::new(Services::new(service_list(method)));
    lab.snapshot.network = Arc::new(network());
    lab.publish();
    lab
}

/// An Ethernet frame with an IPv6 packet, checksums right; `kind` is TCP's flags or the type of SCTP's chunk.
pub(super) fn frame6(destination: MacAddr, flow: Flow6, kind: u8, payload: &[u8]) -> Vec<u8> {
    let (source, target) = (flow.source(), flow.destination());
    let mut transport = [source.1.to_be_bytes(), target.1.to_be_bytes()].concat();
    match flow.protocol() {
        protocol::TCP => transport.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, kind, 0xff, 0xff, 0, 0, 0, 0]),
        protocol::UDP => {
            transport.extend((8_u16 + payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        _ => transport.extend([0, 0, 0, 1, 0, 0, 0, 0, kind, 0, 0, 4 + payload.len() as u8]),
    }
    transport.extend(payload);
    match flow.protocol() {
        protocol::TCP => set_check(flow, &mut transport, 16),
        protocol::UDP => set_check(flow, &mut transport, 6),
        _ => {
            let check = crc32c::crc32c(&transport);
            transport[8..12].copy_from_slice(&check.to_le_bytes());
        }
    }
    packet6(destination, (source.0, target.0), flow.protocol(), &transport)
}

fn packet6(destination: MacAddr, (from, to): (u128, u128), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
    [&destination.0[..], &ROUTER.0, &[0x86, 0xdd], &packet, payload].concat()
}

fn set_check(flow: Flow6, transport: &mut [u8], at: usize) {
    let check = match checksum6(flow, transport) {
        0 => 0xffff,
        check => check,
    };
    transport[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

fn checksum6(flow: Flow6, transport: &[u8]) -> u16 {
    let length = transport.len() as u32;
    let pseudo = checksum::pseudo_ipv6(flow.source().0, flow.destination().0, flow.protocol(), length);
    !checksum::fold(pseudo + checksum::sum(transport))
}

fn to_vip(protocol: u8, client: u16) -> Flow6 {
    Flow6::new(protocol, (CLIENT6, client), VIP6)
}

fn tcp6(client: u16, flags: u8) -> Vec<u8> {
    frame6(WAN, to_vip(protocol::TCP, client), flags, b"")
}

/// What a frame says, with its checksums checked: destination MAC, source MAC, flow.
pub(super) fn read6(frame: &MemoryFrame) -> (MacAddr, MacAddr, Flow6) {
    let bytes = frame.data();
    let mac = |at: usize| MacAddr(bytes[at..at + 6].try_into().unwrap());
    let Parsed::Packet(packet) = Packet6::parse(frame, mac(0)) else { panic!("{frame:?}") };
    let transport = &bytes[14 + usize::from(packet.transport)..14 + packet.length as usize];
    if packet.flow.protocol() == protocol::SCTP {
        let mut zeroed = transport.to_vec();
        zeroed[8..sctp::HEADER].fill(0);
        assert_eq!(crc32c::crc32c(&zeroed).to_le_bytes(), transport[8..sctp::HEADER], "{frame:?}");
    } else {
        assert_eq!(checksum6(packet.flow, transport), 0, "{frame:?}");
    }
    (mac(0), mac(6), packet.flow)
}

#[test]
fn nat_rewrites_there_and_back() {
    let protocols = [(protocol::TCP, S, S | A), (protocol::UDP, 0, 0), (protocol::SCTP, 1, 2)];
    for (n, (protocol, request, answer)) in protocols.into_iter().enumerate() {
        let mut lab = lab(Method::Nat, 2);
        let first = frame6(WAN, to_vip(protocol, 4000), request, b"some data");
        let (port, sent) = lab.receive_one(0, first).unwrap();
        let flow = Flow6::new(protocol, (CLIENT6, 4000), SERVERS6[1]);
        assert_eq!((port, read6(&sent)), (1, (SERVER_MACS[1], LAN, flow)));
        let reply = Flow6::new(protocol, SERVERS6[1], (CLIENT6, 4000));
        // The other worker understands it.
        let back = lab.receive(1, 1, &[frame6(LAN, reply, answer, b"more data")]);
        let flow = Flow6::new(protocol, VIP6, (CLIENT6, 4000));
        assert_eq!((back[0].0, read6(&back[0].1)), (0, (ROUTER, WAN, flow)));
        assert_eq!((sent.data()[14 + 7], back[0].1.data()[14 + 7]), (63, 63), "hop limit");
        let stats = lab.shared.destinations.stats(2 * n as u32 + 1);
        assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 1, 1));
        assert_eq!(stats.in_bytes, sent.len() as u64 - 14, "IP packets, without the frame");
        lab.check_balance();
    }
}

#[test]
fn direct_routing_changes_the_frame_header_and_the_hop_limit() {
    let mut lab = lab(Method::DirectRouting, 1);
    let before = tcp6(4000, S);
    let (port, after) = lab.receive_one(0, before.clone()).unwrap();
    assert_eq!((port, read6(&after)), (1, (SERVER_MACS[1], LAN, to_vip(protocol::TCP, 4000))));
    let differs = (12..before.len()).filter(|&at| before[at] != after.data()[at]);
    assert_eq!(differs.collect::<Vec<_>>(), [14 + 7]);
}

#[test]
fn a_burst_of_both_families_keeps_each_flow_in_order() {
    let mut lab = lab(Method::Nat, 1);
    let (v4, v6) = (super::services(Method::Nat, &[protocol::TCP]), service(Method::Nat, 4));
    let keys = [
        (ServiceKey { protocol: protocol::TCP, address: ip(VIP.0), port: VIP.1 }, {
            let flow = Flow::new(protocol::TCP, (CLIENT, 1), VIP).into();
            let found = v4.find(flow, PortId(0)).unwrap().service.destinations().to_vec();
            Arc::new(Service::new(found, schedule::by_name("rr").unwrap()))
        }),
        (ServiceKey { protocol: protocol::TCP, address: ip6(VIP6.0), port: VIP6.1 }, Arc::new(v6)),
    ];
    lab.snapshot.services = Arc::new(Services::new(keys));
    lab.publish();
    let frames: Vec<_> = (0..6)
        .flat_map(|client| [tcp(client, S), tcp6(client, S), tcp(client, A), tcp6(client, A)])
        .collect();
    let sent = lab.receive(0, 0, &frames);
    assert_eq!(sent.len(), frames.len());
    for client in 0..6 {
        let flags = |is_v6: bool, at: usize| {
            let of_flow = sent.iter().filter(move |(_, frame)| {
                let bytes = frame.data();
                (bytes[12..14] == [0x86, 0xdd]) == is_v6 && bytes[at..at + 2] == u16::to_be_bytes(client)
            });
            of_flow.map(|(_, frame)| frame.data()[at + 13]).collect::<Vec<_>>()
        };
        assert_eq!((flags(false, 34), flags(true, 54)), (vec![S, A], vec![S, A]), "client {client}");
    }
    assert_eq!(
        (0..2).map(|n| lab.load(n)).collect::<Vec<_>>(),
        (4..6).map(|n| lab.load(n)).collect::<Vec<_>>()
    );
    lab.check_balance();
}

#[test]
fn connections_end_and_give_back_both_entries() {
    let mut lab = lab(Method::Nat, 1);
    for round in 0..8 {
        // 64 entries: 32 connections, and one more than there is room for.
        let sent = lab.receive(0, 0, &(0..32).map(|n| tcp6(100 * round + n, S)).collect::<Vec<_>>());
        assert_eq!(sent.len(), 32);
        assert_eq!(lab.receive_one(0, tcp6(9999, S)), None);
        assert_eq!(lab.shared.table.views(lab.snapshot.timeouts, lab.now).count(), 32);
        lab.now = lab.now.after(61 * TICKS_PER_SECOND);
        (0..300).for_each(|_| drop(lab.poll(0)));
        assert_eq!(lab.shared.table.slots_in_use(), 0);
    }
    assert_eq!(lab.dropped(Drop::NoFreeEntry), 8);
    assert!((0..2).all(|n| lab.load(n) == (0, 0)));
    lab.check_balance();
}

#[test]
fn linux_gets_what_is_nobodys() {
    let mut lab = lab(Method::Nat, 1);
    let mut group = tcp6(1, S);
    group[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    let ends = (CLIENT6, VIP6.0);
    let solicitation = packet6(WAN, ends, protocol::ICMPV6, &[135, 0, 0, 0, 0, 0, 0, 0]);
    let elsewhere = frame6(WAN, Flow6::new(protocol::TCP, (CLIENT6, 1), (VIP6.0, 22)), S, b"");
    // A fragment for nobody; a source route that has a stop to go; nothing behind the header.
    let fragment =
        packet6(WAN, (CLIENT6, VIP6.0 + 1), 44, &[17, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 80, 0, 9, 0, 0]);
    let routed = packet6(WAN, ends, 43, &[6, 0, 0, 1, 0, 0, 0, 0]);
    let nothing = packet6(WAN, ends, 59, &[]);
    let mut frames = vec![group, solicitation, elsewhere, fragment, routed, nothing];
    frames.extend([tcp6(1, A), tcp6(1, F | A), tcp6(1, R), tcp6(1, S | R)]);
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(lab.receive_one(0, frame.clone()), None, "frame {n}");
        assert_eq!(lab.to_kernel[0].pop(), Some(MemoryFrame::new(frame)), "frame {n}, as it came");
    }
    assert_eq!(lab.counters[0].read().to_kernel, frames.len() as u64);
    assert_eq!(lab.shared.table.slots_in_use(), 0);
    lab.check_balance();
}

#[test]
fn each_reason_to_drop_has_its_name() {
    let change = |at: usize, value: u8| {
        let mut frame = tcp6(1, S);
        frame[at] = value;
        frame
    };
    let ends = (CLIENT6, VIP6.0);
    let from = |source| frame6(WAN, Flow6::new(protocol::TCP, (source, 1), VIP6), S, b"");
    let within_header = packet6(WAN, ends, 44, &[6, 0, 0, 9, 0, 0, 0, 7, 0, 1, 0, 80, 0, 0, 0, 0]);
    let without_header = packet6(WAN, ends, 44, &[6, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 80, 0, 0, 0, 0]);
    let cut_in_chain = packet6(WAN, ends, 44, &[60, 0, 0, 1, 0, 0, 0, 7, 6, 1, 1, 4, 0, 0, 0, 0]);
    let uneven = packet6(WAN, ends, 44, &[17, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 80, 0, 9, 0, 0, 7]);
    let nested = packet6(WAN, ends, 44, &[44, 0, 0, 0, 0, 0, 0, 7, 6, 0, 0, 0, 0, 0, 0, 7]);
    for (name, frame, reason) in [
        ("no IP header", tcp6(1, S)[..53].to_vec(), Drop::Truncated),
        ("less than the length says", tcp6(1, S)[..73].to_vec(), Drop::Truncated),
        ("no room for TCP", change(14 + 5, 19), Drop::Truncated),
        ("options that do not end", packet6(WAN, ends, 60, &[6, 9, 0, 0, 0, 0, 0, 0]), Drop::Truncated),
        ("version 4", change(14, 0x45), Drop::BadHeader),
        ("fragment of a fragment", nested, Drop::BadHeader),
        ("a fragment within TCP's header", within_header, Drop::FragmentTiny),
        ("a first fragment without TCP's header", without_header, Drop::FragmentTiny),
        ("a first fragment without its extension header", cut_in_chain, Drop::FragmentTiny),
        ("a first fragment that does not end where another can begin", uneven, Drop::BadHeader),
        ("from loopback", from(1), Drop::MartianSource),
        ("from a group", from(0xff02 << 112 | 1), Drop::MartianSource),
        ("from an IPv4 address", from(0xffff_cb00_7109), Drop::MartianSource),
    ] {
        let mut lab = lab(Method::Nat, 1);
        assert_eq!(lab.receive_one(0, frame), None, "{name}");
        assert_eq!(lab.dropped(reason), 1, "{name}: {:?}", lab.counters[0].read());
        lab.check_balance();
    }
}

#[test]
fn a_service_without_servers_tells_its_clients() {
    let mut lab = lab(Method::Nat, 1);
    let none = Service::new(Vec::new(), schedule::by_name("wlc").unwrap());
    let key = ServiceKey { protocol: protocol::UDP, address: ip6(VIP6.0), port: VIP6.1 };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(none))]));
    lab.publish();
    let request = frame6(WAN, to_vip(protocol::UDP, 2), 0, b"hello");
    let (port, error) = lab.receive_one(0, request.clone()).unwrap();
    let bytes = error.data();
    assert_eq!((port, &bytes[..6], &bytes[6..12]), (0, &ROUTER.0[..], &WAN.0[..]));
    assert_eq!((bytes[20], &bytes[54..56]), (protocol::ICMPV6, &[1, 4][..]));
    assert_eq!(bytes[22..54], [VIP6.0.to_be_bytes(), CLIENT6.to_be_bytes()].concat());
    assert_eq!(icmpv6::make_checksum(VIP6.0, CLIENT6, &bytes[54..]), 0);
    assert_eq!(bytes[62..], request[14..], "quoted as it came");
    for client in 3..23 {
        // A network has as many addresses as it likes: all of it counts as one client.
        let flow = Flow6::new(protocol::UDP, (CLIENT6 + u128::from(client), client), VIP6);
        lab.receive_one(0, frame6(WAN, flow, 0, b"hello"));
    }
    let totals = lab.counters[0].read();
    assert_eq!((totals.unreachable, totals.forwarded), (6, 6), "no more in a second");
    assert_eq!(lab.dropped(Drop::NoDestination), 15);
    lab.check_balance();
}

#[test]
fn clients_of_a_network_share_a_template() {
    let mut lab = lab(Method::Nat, 1);
    let persistence =
        Persistence { ticks: 30 * TICKS_PER_SECOND, mask: "ffff:ffff:ffff:ffff::".parse().unwrap() };
    let persistent = Arc::new(service(Method::Nat, 0).with_persistence(Some(persistence)));
    let key = ServiceKey { protocol: protocol::TCP, address: ip6(VIP6.0), port: VIP6.1 };
    let rule = Rule { destination: Addresses::new(ip6(VIP6.0 + 1).into()), ..Rule::new(9) };
    lab.snapshot.services = Arc::new(
        Services::new([(key, persistent.clone())]).with_marks(vec![rule], [((Family::V6, 9), persistent)]),
    );
    lab.publish();
    let mut server = |client: u128, to: u128| {
        let flow = Flow6::new(protocol::TCP, (client, 4000), (to, VIP6.1));
        let (_, sent) = lab.receive_one(0, frame6(WAN, flow, S, b"")).unwrap();
        read6(&sent).2.destination().0
    };
    let other = CLIENT6 ^ 1 << 64;
    let first = server(CLIENT6, VIP6.0);
    assert_ne!(server(other, VIP6.0), first);
    assert_eq!(server(CLIENT6 + 1, VIP6.0), first);
    assert_eq!(server(other + 7, VIP6.0 + 1), server(other + 8, VIP6.0 + 1), "by mark");
    let views = lab.shared.table.views(lab.snapshot.timeouts, lab.now);
    let keys: Vec<_> = views.filter(|view| view.template.is_some()).map(|view| view.flow).collect();
    let network = |client: u128| client >> 64 << 64;
    assert_eq!(keys.len(), 3);
    for expected in [
        AnyFlow::from(Flow6::template(protocol::TCP, network(CLIENT6), VIP6)),
        Flow6::template(protocol::TCP, network(other), VIP6).into(),
        Flow6::template(protocol::IP, network(other), (9 << 96, 0)).into(),
    ] {
        assert!(keys.contains(&expected), "{expected:?} in {keys:?}");
    }
    assert!(lab.snapshot.services.is_virtual(ip6(VIP6.0 + 1)));
    assert!(!lab.snapshot.services.is_virtual(ip6(VIP6.0 + 2)));
    lab.check_balance();
}

#[test]
fn a_deleted_destinations_connections_are_silent_or_go_elsewhere() {
    for expire in [false, true] {
        let mut lab = lab(Method::Nat, 1);
        lab.snapshot.sysctls.expire_nodest_conn = expire;
        lab.publish();
        let (_, first) = lab.receive_one(0, tcp6(1, S)).unwrap();
        assert_eq!(read6(&first).2.destination(), SERVERS6[1]);
        let mut left = service(Method::Nat, 0);
        left = Service::new(left.destinations()[1..].to_vec(), schedule::by_name("rr").unwrap());
        let key = ServiceKey { protocol: protocol::TCP, address: ip6(VIP6.0), port: VIP6.1 };
        lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(left))]));
        lab.publish();
        lab.shared.destinations.set_gone(1, true);
        let again = lab.receive_one(0, tcp6(1, S)).map(|(_, frame)| read6(&frame).2.destination());
        assert_eq!(again, expire.then_some(SERVERS6[0]));
        assert_eq!(lab.dropped(Drop::DestinationGone), u64::from(!expire));
        lab.check_balance();
    }
}

#[test]
fn a_packet_waits_for_its_neighbour() {
    let mut lab = lab(Method::Nat, 1);
    let mut unknown = network();
    unknown.clear_neighbour(PortId(1), ip6(SERVERS6[1].0));
    lab.snapshot.network = Arc::new(unknown);
    lab.publish();
    assert_eq!(lab.receive(0, 0, &[tcp6(1, S), tcp6(1, A)]), []);
    let asked = Resolve { port: PortId(1), neighbour: ip6(SERVERS6[1].0) };
    assert_eq!(lab.shared.requests.pop(), Some(asked));
    lab.snapshot.network = Arc::new(network());
    lab.publish();
    let sent: Vec<_> = lab.poll(0).iter().map(|(port, frame)| (*port, read6(frame).0)).collect();
    assert_eq!(sent, [(1, SERVER_MACS[1]), (1, SERVER_MACS[1])], "in order");
    lab.check_balance();
}

#[test]
fn with_one_packet_scheduling_nothing_is_kept() {
    let mut lab = lab(Method::Nat, 1);
    let service = service(Method::Nat, 0).with_one_packet(true);
    let key = ServiceKey { protocol: protocol::UDP, address: ip6(VIP6.0), port: VIP6.1 };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    lab.publish();
    let datagram = frame6(WAN, to_vip(protocol::UDP, 4000), 0, b"x");
    let sent = lab.receive(0, 0, &vec![datagram; 200]);
    let to = |mac| sent.iter().filter(|(_, frame)| read6(frame).0 == mac).count();
    assert_eq!(SERVER_MACS.map(to), [100, 100], "more than there are entries");
    assert_eq!((lab.shared.table.slots_in_use(), lab.load(0)), (0, (0, 0)));
    lab.check_balance();
}

#[test]
fn every_truncation_of_a_frame_has_its_place() {
    for method in [Method::Nat, Method::DirectRouting] {
        let mut lab = lab(method, 1);
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            let whole =
                frame6(WAN, to_vip(protocol, 1), if protocol == protocol::TCP { S } else { 1 }, &[5; 90]);
            for length in 0..=whole.len() {
                lab.receive(0, 0, &[whole[..length].to_vec()]);
                while lab.to_kernel[0].pop().is_some() {}
                lab.check_balance();
            }
        }
        assert_eq!(lab.counters[0].read().forwarded, 3, "the whole ones");
    }
}

proptest! {
    /// Frames with random bytes changed in them, extension headers of random bytes: every one is accounted for.
    #[test]
    fn nonsense_is_accounted_for(
        frames in prop::collection::vec((
            any::<u8>(),
            prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::SCTP]),
            prop::sample::select(vec![0u8, 43, 44, 51, 60, 6, 17]),
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec((14usize..80, any::<u8>()), 0..4),
        ), 1..80),
        method in prop_oneof![Just(Method::Nat), Just(Method::DirectRouting)],
    ) {
        let mut lab = lab(method, 1);
        let count = frames.len();
        for (client, protocol, next, extension, changes) in frames {
            let mut frame = frame6(WAN, to_vip(protocol, client.into()), client, b"some more bytes");
            if !extension.is_empty() {
                frame = packet6(WAN, (CLIENT6, VIP6.0), next, &[&extension[..], &frame[54..]].concat());
            }
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            lab.receive(0, 0, &[frame]);
        }
        // Until no fragment waits any more.
        lab.now = lab.now.after(2 * TICKS_PER_SECOND);
        lab.poll(0);
        lab.check_balance();
        prop_assert_eq!(lab.counters[0].read().received, count as u64);
    }
}
