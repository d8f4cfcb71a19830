//! FULLNAT between families through whole workers: IPv6 clients of IPv4 servers, and the other way about.

use super::clamp::{OPTION, announcing};
use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6, ip6};
use super::long::{told, with};
use super::*;
use crate::clamp::{Clamps, Mss};
use crate::locals::{Block, Locals, Pool};
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::Ipv6;
use crate::packet::vectors::vectors;
use crate::packet::{icmp, icmpv6, read_u16, read_u32};
use crate::parse::{AnyFlow, AnyPacket, Packet6, quoted};
use crate::service::Persistence;

const LOCAL: u32 = 0xc000_0221; // 192.0.2.33
const LOCAL6: u128 = 0x2001_0db8 << 96 | 2 << 80 | 0x33;
const LOCAL_PORT: u16 = 20_000;
const CLIENT_PORT: u16 = 40_000;
/// IPv6 clients and IPv4 servers, and the other way about.
const MIXES: [(&str, bool); 2] = [("64", true), ("46", false)];
const WORKERS: usize = 2;

/// The one side of a connection: client and virtual side, or local side and server.
type Ends = ((IpAddr, u16), (IpAddr, u16));

fn client_side(is_64: bool) -> Ends {
    let (client, virtual_side) =
        if is_64 { (ip6(CLIENT6), (ip6(VIP6.0), VIP6.1)) } else { (ip(CLIENT), (ip(VIP.0), VIP.1)) };
    ((client, CLIENT_PORT), virtual_side)
}

/// The server that was added last has the first turn.
fn server_side(is_64: bool) -> Ends {
    if is_64 {
        ((ip(LOCAL), LOCAL_PORT), (ip(SERVERS[1].0), SERVERS[1].1))
    } else {
        ((ip6(LOCAL6), LOCAL_PORT), (ip6(SERVERS6[1].0), SERVERS6[1].1))
    }
}

/// Services whose servers are of the other family, by FULLNAT with one local port.
fn lab(is_64: bool, mtus: [u16; 2]) -> Lab {
    let mut lab = super::long::lab(Method::FullNat, mtus);
    let v4 = service_list(Method::FullNat, &[protocol::TCP, protocol::UDP, protocol::SCTP]);
    let v6 = super::ipv6::service_list(Method::FullNat);
    let mixed = |(key, _): &(ServiceKey, Arc<Service>), (_, other): &(ServiceKey, Arc<Service>)| {
        let service = Service::new(other.destinations().to_vec(), schedule::by_name("rr").unwrap());
        (*key, Arc::new(service))
    };
    let (virtual_sides, servers) = if is_64 { (&v6, &v4) } else { (&v4, &v6) };
    lab.snapshot.services =
        Arc::new(Services::new(virtual_sides.iter().zip(servers).map(|(a, b)| mixed(a, b))));
    let ((address, port), _) = server_side(is_64);
    let block = Block { address, first_port: port, last_port: port };
    let pool = Arc::new(Pool::new(vec![block]).unwrap());
    lab.snapshot.locals = Arc::new(Locals::new((0..6).map(|id| (id, pool.clone()))));
    lab.publish();
    lab
}

/// A frame between these, whole and right; `kind` is TCP's flags or SCTP's chunk type.
fn frame_between(mac: MacAddr, protocol: u8, (from, to): Ends, kind: u8, payload: &[u8]) -> Vec<u8> {
    match AnyFlow::new(protocol, from, to).unwrap() {
        AnyFlow::V6(flow) => frame6(mac, flow, kind, payload),
        AnyFlow::V4(flow) if protocol == protocol::SCTP => {
            let chunk = [&[kind, 0, 0, 4 + payload.len() as u8][..], payload].concat();
            let mut packet =
                [from.1.to_be_bytes(), to.1.to_be_bytes(), [0; 2], [0, 1], [0; 2], [0; 2]].concat();
            packet.extend(chunk);
            let check = crc32c::crc32c(&packet);
            packet[8..12].copy_from_slice(&check.to_le_bytes());
            let mut whole = frame(mac, flow, 0, &packet[8..]);
            whole[34..].copy_from_slice(&packet);
            whole
        }
        AnyFlow::V4(flow) => frame(mac, flow, kind, payload),
    }
}

fn request(is_64: bool, protocol: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    frame_between(WAN, protocol, client_side(is_64), kind, payload)
}

fn answer(is_64: bool, protocol: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    let (local, server) = server_side(is_64);
    frame_between(LAN, protocol, (server, local), kind, payload)
}

fn parsed(frame: &MemoryFrame) -> AnyPacket {
    let mac = MacAddr(frame.data()[..6].try_into().unwrap());
    match Packet::parse(frame, mac) {
        Parsed::Packet(packet) => packet.any(),
        _ => match Packet6::parse(frame, mac) {
            Parsed::Packet(packet) => packet.any(),
            other => panic!("{other:?}: {frame:?}"),
        },
    }
}

/// Checks that the frame is between these, with right checksums. Gives what is behind the transport header.
fn check(frame: &MemoryFrame, protocol: u8, (from, to): Ends) -> Vec<u8> {
    let packet = parsed(frame);
    assert_eq!(packet.flow, AnyFlow::new(protocol, from, to).unwrap());
    assert_eq!(frame.len(), 14 + packet.length);
    let transport = &frame.data()[14 + packet.transport..];
    if protocol == protocol::SCTP {
        let mut zeroed = transport.to_vec();
        zeroed[8..12].fill(0);
        assert_eq!(transport[8..12], crc32c::crc32c(&zeroed).to_le_bytes());
        return transport[12..].to_vec();
    }
    let length = transport.len() as u32;
    let pseudo = match packet.flow {
        AnyFlow::V4(flow) => {
            checksum::pseudo_ipv4(flow.source().0, flow.destination().0, protocol, length as u16)
        }
        AnyFlow::V6(flow) => checksum::pseudo_ipv6(flow.source().0, flow.destination().0, protocol, length),
    };
    assert_eq!(!checksum::fold(pseudo + checksum::sum(transport)), 0, "{frame:?}");
    transport[if protocol == protocol::TCP { 20 } else { 8 }..].to_vec()
}

#[test]
fn packets_go_there_and_back_in_the_other_family() {
    for ((mix, is_64), protocol) in
        MIXES.iter().flat_map(|mix| [protocol::TCP, protocol::UDP, protocol::SCTP].map(|p| (*mix, p)))
    {
        let mut lab = lab(is_64, [1500, 1500]);
        let (opening, answering) = if protocol == protocol::SCTP { (1, 2) } else { (S, S | A) };
        let (client_side, server_side) = (client_side(is_64), server_side(is_64));
        // The connection's first packet, and later ones.
        for _ in 0..3 {
            let (port, sent) = lab.receive_one(0, request(is_64, protocol, opening, b"ask?")).expect(mix);
            let data = check(&sent, protocol, server_side);
            assert_eq!((port, &sent.data()[..12]), (1, &[SERVER_MACS[1].0, LAN.0].concat()[..]));
            assert!(data.ends_with(b"ask?"));
            let hops = if is_64 { sent.data()[14 + 8] } else { sent.data()[14 + 7] };
            assert_eq!(hops, 63);
            let (port, sent) =
                lab.receive_one(1, answer(is_64, protocol, answering, b"answer!!")).expect(mix);
            let data = check(&sent, protocol, (client_side.1, client_side.0));
            assert_eq!((port, &sent.data()[..12]), (0, &[ROUTER.0, WAN.0].concat()[..]));
            assert!(data.ends_with(b"answer!!"));
        }
        let views: Vec<_> = lab.shared.table.views(lab.snapshot.timeouts, lab.now).collect();
        let [view] = &views[..] else { panic!("{views:?}") };
        assert_eq!((view.flow.source(), view.flow.destination()), client_side);
        assert_eq!((view.local, view.server), (Some(server_side.0), server_side.1));
        let stats = (0..6).map(|id| lab.shared.destinations.stats(id)).find(|s| s.connections > 0).unwrap();
        assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 3, 3));
        lab.check_balance();
    }
}

#[test]
fn who_gives_no_local_address_of_the_servers_family_has_no_connection() {
    for (_, is_64) in MIXES {
        let mut lab = lab(is_64, [1500, 1500]);
        lab.snapshot.locals = Arc::default();
        lab.publish();
        assert_eq!(lab.receive_one(0, request(is_64, protocol::TCP, S, b"")), None);
        assert_eq!((lab.dropped(Drop::NoLocalAddress), lab.shared.table.slots_in_use()), (1, 0));
        lab.check_balance();
    }
}

#[test]
fn who_has_come_too_far_is_told_in_his_own_family() {
    for (_, is_64) in MIXES {
        let mut lab = lab(is_64, [1500, 1500]);
        let at = if is_64 { 14 + 7 } else { 14 + 8 };
        let before = with(request(is_64, protocol::TCP, S, b""), &[(at, 1)]);
        let (port, error) = lab.receive_one(0, before.clone()).unwrap();
        let (client, virtual_side) = client_side(is_64);
        let (from, to, kind, _, quote) = told(&error);
        assert_eq!((port, from, to), (0, virtual_side.0, client.0));
        assert_eq!(kind, if is_64 { [3, 0] } else { [11, 0] });
        assert_eq!(quote, before[14..]);
        lab.check_balance();
    }
}

#[test]
fn fragments_leave_as_scapy_has_them_in_every_order_and_by_whatever_workers() {
    let cases = vectors(include_str!("../../../tests/scapy/across_fragments.txt"));
    for (name, frames) in &cases {
        let (is_64, is_answer) = (name.starts_with("64"), name.contains("answer"));
        let mut lab = lab_of_workers(is_64);
        if is_answer {
            let protocol = if name.contains("tcp") { protocol::TCP } else { protocol::UDP };
            assert_eq!(lab.receive(0, 0, &[request(is_64, protocol, S, b"")]).len(), 1);
        }
        let (from, to) = if is_answer { (1, 0) } else { (0, 1) };
        let (before, after): (Vec<_>, Vec<_>) =
            frames.chunks(2).map(|pair| (pair[0].clone(), MemoryFrame::new(&pair[1]))).unzip();
        let by_bytes = |a: &MemoryFrame, b: &MemoryFrame| a.data().cmp(b.data());
        let mut expected = after;
        expected.sort_by(by_bytes);
        let n = before.len();
        for (order, spread) in super::fragments::permutations(n)
            .into_iter()
            .flat_map(|order| (0..1_usize << n).map(move |spread| (order.clone(), spread)))
        {
            let mut sent = vec![];
            for fragment in &order {
                let worker = spread >> fragment & 1;
                sent.extend(lab.receive(worker, from, std::slice::from_ref(&before[*fragment])));
            }
            sent.extend((0..3 * WORKERS).flat_map(|n| lab.poll(n % WORKERS)));
            assert!(sent.iter().all(|(port, _)| *port == to));
            let mut sent: Vec<_> = sent.into_iter().map(|(_, frame)| frame).collect();
            sent.sort_by(by_bytes);
            assert_eq!(sent, expected, "{name}: {order:?}, {spread:b}");
        }
        assert_eq!(lab.shared.fragments.taken(), 0);
        lab.check_balance();
    }
    assert!(cases.len() >= 20);
}

fn lab_of_workers(is_64: bool) -> Lab {
    let one = lab(is_64, [1500, 1500]);
    let mut lab = Lab::new(Method::FullNat, WORKERS);
    lab.snapshot = one.snapshot;
    lab.publish();
    lab
}

/// The fragments of a datagram, put together again: its data from UDP's ports on. Each is at most `mtu` bytes long.
fn together(sent: &[(usize, MemoryFrame)], mtu: usize) -> Vec<u8> {
    let mut parts: Vec<(usize, bool, u32, Vec<u8>)> = sent
        .iter()
        .map(|(_, frame)| {
            let packet = &frame.data()[14..];
            assert!(packet.len() <= mtu, "{} bytes", packet.len());
            if packet[0] >> 4 == 4 {
                let ip = Ipv4::new(packet, packet.len()).unwrap();
                assert!(ip.checksum_is_right());
                let number = u32::from(ip.identification());
                let rest = packet[ip.header_length()..].to_vec();
                (ip.fragment_offset().into(), ip.has_more_fragments(), number, rest)
            } else {
                let ip = Ipv6::new(packet, packet.len()).unwrap();
                assert_eq!(ip.total_length(), packet.len());
                let (fragment, next) = ip.fragment().unwrap();
                assert_eq!(next, protocol::UDP);
                let rest = packet[fragment.at + 8..].to_vec();
                (fragment.offset.into(), fragment.more, fragment.identification, rest)
            }
        })
        .collect();
    parts.sort();
    let number = parts[0].2;
    let mut whole = vec![];
    for (n, (offset, more, its_number, rest)) in parts.iter().enumerate() {
        assert_eq!((*offset, *more, *its_number), (whole.len(), n + 1 < parts.len(), number));
        whole.extend(rest);
    }
    whole
}

/// What has the ports and checksum of a datagram between these, its length of no account.
fn is_datagram((from, to): Ends, datagram: &[u8]) {
    let (length, udp) = (datagram.len() as u32, protocol::UDP);
    assert_eq!(read_u32(datagram, 0), u32::from(from.1) << 16 | u32::from(to.1));
    let pseudo = match AnyFlow::new(udp, from, to).unwrap() {
        AnyFlow::V4(flow) => checksum::pseudo_ipv4(flow.source().0, flow.destination().0, udp, length as u16),
        AnyFlow::V6(flow) => checksum::pseudo_ipv6(flow.source().0, flow.destination().0, udp, length),
    };
    assert_eq!(!checksum::fold(pseudo + checksum::sum(datagram)), 0);
}

/// IPv4 in the one direction, IPv6 in the other: 20 bytes more.
#[test]
fn what_becomes_too_long_is_told_how_long_it_may_be() {
    let most = 1480 - 28;
    let mut lab46 = lab(false, [1500, 1500]);
    assert!(lab46.receive_one(0, request(false, protocol::UDP, 0, &vec![7; most])).is_some());
    for _ in 0..2 {
        let (port, error) =
            lab46.receive_one(0, request(false, protocol::UDP, 0, &vec![7; most + 1])).unwrap();
        let (from, to, kind, mtu, _) = told(&error);
        assert_eq!((port, from, to, kind, mtu), (0, ip(VIP.0), ip(CLIENT), [3, 4], 1480));
    }
    // A server is told by director's own address.
    let mut lab64 = lab(true, [1500, 1500]);
    lab64.receive_one(0, request(true, protocol::UDP, 0, b"?")).unwrap();
    assert!(lab64.receive_one(1, answer(true, protocol::UDP, 0, &vec![7; most])).is_some());
    let (port, error) = lab64.receive_one(1, answer(true, protocol::UDP, 0, &vec![7; most + 1])).unwrap();
    let (from, to, kind, mtu, _) = told(&error);
    assert_eq!((port, from, to, kind, mtu), (1, ip(0xc000_0201), ip(SERVERS[1].0), [3, 4], 1480));
    // What becomes shorter may be longer than the way takes.
    let mut lab64 = lab(true, [1500, 1400]);
    assert!(lab64.receive_one(0, request(true, protocol::UDP, 0, &vec![7; 1420 - 48])).is_some());
    let (_, error) = lab64.receive_one(0, request(true, protocol::UDP, 0, &vec![7; 1421 - 48])).unwrap();
    let (from, to, kind, mtu, _) = told(&error);
    assert_eq!((from, to, kind, mtu), (ip6(VIP6.0), ip6(CLIENT6), [2, 0], 1420));
    for lab in [lab46, lab64] {
        lab.check_balance();
    }
}

/// An IPv4 packet that may be fragmented goes in pieces that every way takes, and so does each of its fragments.
#[test]
fn what_may_be_fragmented_over_ipv4_is_over_ipv6() {
    let mut lab = lab(false, [9000, 9000]);
    for (data, pieces) in [(1232 - 8, 1), (1400, 2), (4000, 4), (8000, 7)] {
        let data: Vec<u8> = (0..data).map(|n| (n / 7) as u8).collect();
        let may = with(request(false, protocol::UDP, 0, &data), &[(14 + 6, 0), (14 + 4, 9)]);
        let sent = lab.receive(0, 0, &[may]);
        assert_eq!(sent.len(), pieces);
        if pieces == 1 {
            check(&sent[0].1, protocol::UDP, server_side(false));
            continue;
        }
        let whole = together(&sent, 1280);
        is_datagram(server_side(false), &whole);
        assert_eq!(whole[8..], data);
        let number = read_u16(&sent[0].1.data()[14 + 40 + 6..], 0);
        assert_eq!(number, 0x0901, "as the IPv4 packet's");
    }
    // In fragments already, later ones first.
    let data: Vec<u8> = (0..4000).map(|n| (n / 7) as u8).collect();
    let whole = request(false, protocol::UDP, 0, &data);
    let fragments = super::fullnat::fragments(&whole, &[1480, 2960, 4008]);
    let sent = [2, 0, 1].map(|n| lab.receive(0, 0, &[fragments[n].clone()])).concat();
    // The last one waits for the first.
    let sent = [sent, lab.poll(0)].concat();
    assert_eq!(sent.len(), 2 + 2 + 1);
    let whole = together(&sent, 1280);
    is_datagram(server_side(false), &whole);
    assert_eq!(whole[8..], data);
    lab.check_balance();
}

/// IPv6 packets that every way takes arrive over IPv4, however short its are.
#[test]
fn what_every_ipv6_way_takes_is_fragmented_over_ipv4() {
    let mut lab = lab(true, [1500, 600]);
    let data: Vec<u8> = (0..1280 - 48).map(|n| (n / 7) as u8).collect();
    for _ in 0..2 {
        let sent = lab.receive(0, 0, &[request(true, protocol::UDP, 0, &data)]);
        assert_eq!(sent.len(), 3);
        let whole = together(&sent, 600);
        is_datagram(server_side(true), &whole);
        assert_eq!(whole[8..], data);
    }
    let (_, error) = lab.receive_one(0, request(true, protocol::UDP, 0, &[7; 1281 - 48])).unwrap();
    let (.., kind, mtu, _) = told(&error);
    assert_eq!((kind, mtu), ([2, 0], 1280));
    lab.check_balance();
}

#[test]
fn a_datagram_in_fragments_without_a_checksum_is_dropped_whole() {
    let mut lab = lab(false, [1500, 1500]);
    let mut whole = request(false, protocol::UDP, 0, &[7; 40]);
    whole[14 + 20 + 6..14 + 20 + 8].fill(0);
    for fragment in super::fullnat::fragments(&whole, &[16, 32, 48]) {
        assert_eq!(lab.receive_one(0, fragment), None);
    }
    assert_eq!(lab.dropped(Drop::Untranslatable), 3);
    // In one piece it gets one.
    let (_, sent) = lab.receive_one(0, whole).unwrap();
    check(&sent, protocol::UDP, server_side(false));
    lab.check_balance();
}

/// An error about a packet that was sent on, from a router behind director, reaches who has sent that, in his family.
#[test]
fn errors_reach_who_has_sent_the_packet() {
    for (mix, is_64) in MIXES {
        let mut lab = lab(is_64, [1500, 1500]);
        let (client_side, server_side) = (client_side(is_64), server_side(is_64));
        let asked = request(is_64, protocol::UDP, 0, &[7; 1200]);
        let (_, at_server) = lab.receive_one(0, asked).unwrap();
        let answered = answer(is_64, protocol::UDP, 0, &[8; 1200]);
        let (_, at_client) = lab.receive_one(1, answered).unwrap();
        // Where it comes in, about what, whom it reaches by whom, and who had sent what to whom.
        for (port, about, from, to, sent) in [
            (1, at_server, client_side.1, client_side.0, client_side),
            (0, at_client, server_side.0, server_side.1, (server_side.1, server_side.0)),
        ] {
            let mut error = about.clone();
            let packet = parsed(&about);
            let is_ipv4 = about.data()[12] == 8;
            let made = if is_ipv4 {
                let problem = icmp::Error::FragmentationNeeded { mtu: 1300 };
                let router = Some(0xc000_02fe);
                icmp::make_error(&mut error, problem, packet.length as u16, router, 1)
            } else {
                let problem = icmpv6::Error::PacketTooBig { mtu: 1300 };
                icmpv6::make_error(&mut error, problem, packet.length, Some(LOCAL6 + 0x100))
            };
            assert!(made);
            error.data_mut()[..6].copy_from_slice(&[WAN, LAN][port].0);
            let (out, error) = lab.receive_one(port, error.data().to_vec()).expect(mix);
            let (its_source, its_target, kind, mtu, quote) = told(&error);
            assert_eq!((out, its_source, its_target), (1 - port, from.0, to.0), "{mix}");
            assert_eq!((kind, mtu), if is_ipv4 { ([2, 0], 1320) } else { ([3, 4], 1280) });
            let flow = AnyFlow::new(protocol::UDP, sent.0, sent.1).unwrap();
            assert_eq!(quoted(&quote).unwrap().flow, flow, "{mix}");
        }
        lab.check_balance();
    }
}

#[test]
fn what_may_not_be_translated_has_a_name() {
    let mut lab = lab(false, [1500, 1500]);
    // A loose source route that is not at its end.
    let mut routed = request(false, protocol::UDP, 0, b"?");
    let options = [131, 7, 4, 192, 0, 2, 1, 0];
    routed.splice(34..34, options);
    let length = (routed.len() - 14) as u16;
    routed = with(routed, &[(14, 0x47), (16, (length >> 8) as u8), (17, length as u8)]);
    assert_eq!(lab.receive_one(0, routed), None);
    assert_eq!(lab.dropped(Drop::Untranslatable), 1);
    // Destination options behind a fragment's header, in all of whose places they count.
    let mut lab = self::lab(true, [1500, 1500]);
    let options = [protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let whole = request(true, protocol::UDP, 0, &[7; 32]);
    let behind = [&options[..], &whole[54..]].concat();
    for (start, end) in [(0, 24), (24, behind.len())] {
        let more = u16::from(end < behind.len());
        let mut fragment = whole[..54].to_vec();
        fragment[20] = 44;
        fragment[18..20].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
        fragment.extend([60, 0]);
        fragment.extend((start as u16 | more).to_be_bytes());
        fragment.extend([0, 0, 0, 9]);
        fragment.extend(&behind[start..end]);
        assert_eq!(lab.receive_one(0, fragment), None);
    }
    assert_eq!(lab.dropped(Drop::Untranslatable), 2);
    lab.check_balance();
}

#[test]
fn only_the_local_side_leads_back() {
    for (_, is_64) in MIXES {
        let mut lab = lab(is_64, [1500, 1500]);
        lab.receive_one(0, request(is_64, protocol::UDP, 0, b"?")).unwrap();
        let (local, server) = server_side(is_64);
        let elsewhere = (local.0, local.1 + 1);
        let frame = frame_between(LAN, protocol::UDP, (server, elsewhere), 0, b"?");
        assert_eq!(lab.receive_one(1, frame), None);
        assert_eq!(lab.counters[0].read().to_kernel, 1);
    }
}

/// The header of IPv6 is what counts, on whichever side it is.
#[test]
fn segments_are_held_to_what_fits_in_either_family() {
    for (_, is_64) in MIXES {
        let mut lab = lab(is_64, [1500, 1500]);
        lab.snapshot.clamps = Arc::new(Clamps::new([(0, Mss::Auto), (1, Mss::Auto)]));
        lab.publish();
        let headers = |is_ipv4| if is_ipv4 { 20 } else { 40 };
        let syn = announcing(request(is_64, protocol::TCP, S, &OPTION), headers(!is_64));
        let (_, sent) = lab.receive_one(0, syn).unwrap();
        check(&sent, protocol::TCP, server_side(is_64));
        assert_eq!(read_u16(sent.data(), 14 + headers(is_64) + 22), 1440);
        let syn_ack = announcing(answer(is_64, protocol::TCP, S | A, &OPTION), headers(is_64));
        let (_, sent) = lab.receive_one(1, syn_ack).unwrap();
        let (client, virtual_side) = client_side(is_64);
        check(&sent, protocol::TCP, (virtual_side, client));
        assert_eq!(read_u16(sent.data(), 14 + headers(!is_64) + 22), 1440);
        lab.check_balance();
    }
}

#[test]
fn a_client_stays_on_its_server_in_the_other_family() {
    for (_, is_64) in MIXES {
        let mut lab = lab(is_64, [1500, 1500]);
        let ((address, _), _) = server_side(is_64);
        let block = Block { address, first_port: 1024, last_port: u16::MAX };
        let pool = Arc::new(Pool::new(vec![block]).unwrap());
        lab.snapshot.locals = Arc::new(Locals::new((0..6).map(|id| (id, pool.clone()))));
        let mask = if is_64 { ip6(u128::MAX) } else { ip(u32::MAX) };
        let persistence = Persistence { ticks: 30 * TICKS_PER_SECOND, mask };
        let ((client, _), (virtual_address, port)) = client_side(is_64);
        let key = ServiceKey { protocol: protocol::UDP, address: virtual_address, port };
        let flow = AnyFlow::new(protocol::UDP, (client, 1), (virtual_address, port)).unwrap();
        let old = lab.snapshot.services.find(flow, PortId(0)).unwrap().service.destinations().to_vec();
        let service = Service::new(old, schedule::by_name("rr").unwrap()).with_persistence(Some(persistence));
        lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
        lab.publish();
        let mut servers: Vec<_> = (0..6)
            .map(|n| {
                let ends = ((client, 5000 + n), (virtual_address, port));
                let (_, sent) = lab.receive_one(0, frame_between(WAN, protocol::UDP, ends, 0, b"?")).unwrap();
                parsed(&sent).flow.destination()
            })
            .collect();
        servers.dedup();
        assert_eq!(servers, [server_side(is_64).1]);
        // Six connections and the template.
        assert_eq!(lab.shared.table.views(lab.snapshot.timeouts, lab.now).count(), 7);
        lab.check_balance();
    }
}
