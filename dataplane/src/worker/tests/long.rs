//! Packets that are too long for their way, or have gone far enough, without a tunnel.

use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6, ip6};
use super::*;
use crate::network::{LocalAddress, Sources};
use crate::packet::ipv4::Ipv4;
use crate::packet::{icmpv6, read_u16, read_u32, read_u128};
use crate::parse::Flow6;

const OWN: u32 = 0xc000_0201; // 192.0.2.1
const OWN6: u128 = 0x2001_0db8_0002 << 80 | 1;

/// Services of both families by this method, between ports whose packets are at most so long.
pub(super) fn lab(method: Method, mtus: [u16; 2]) -> Lab {
    let mut lab = Lab::new(method, 1);
    let mut all = service_list(method, &[protocol::TCP, protocol::UDP]);
    all.extend(super::ipv6::service_list(method));
    let mut network = super::ipv6::network();
    let own = ["192.0.2.1/24", "2001:db8:2::1/64"].map(|network| network.parse().unwrap());
    network.set_sources(Sources::new([], own.map(|network| LocalAddress { port: Some(PortId(1)), network })));
    lab.snapshot.services = Arc::new(Services::new(all));
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    lab.workers[0].balancer.egress = Egress::new(&mtus, lab.shared.requests.clone());
    lab
}

/// Datagrams of this length: from the client, and from the server that it is sent to first.
fn udp(length: usize) -> Vec<u8> {
    frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, &vec![7; length - 28])
}

fn udp_reply(length: usize) -> Vec<u8> {
    frame(LAN, Flow::new(protocol::UDP, SERVERS[1], (CLIENT, 4000)), 0, &vec![7; length - 28])
}

fn udp6(length: usize) -> Vec<u8> {
    frame6(WAN, Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6), 0, &vec![7; length - 48])
}

fn udp6_reply(length: usize) -> Vec<u8> {
    frame6(LAN, Flow6::new(protocol::UDP, SERVERS6[1], (CLIENT6, 4000)), 0, &vec![7; length - 48])
}

/// The same frame with other bytes, and an IPv4 header's checksum made right.
pub(super) fn with(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    changes.iter().for_each(|&(at, value)| frame[at] = value);
    if frame[12] == 8 {
        let header = 14..14 + usize::from(frame[14] & 15) * 4;
        frame[24..26].fill(0);
        let check = checksum::verify(&frame[header]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    frame
}

/// An ICMP error: from, to, type and code, parameter, and the quoted packet.
pub(super) fn told(frame: &MemoryFrame) -> (IpAddr, IpAddr, [u8; 2], u32, Vec<u8>) {
    let bytes = &frame.data()[14..];
    let (from, to, message) = if bytes[0] >> 4 == 4 {
        assert_eq!(checksum::verify(&bytes[..20]), 0);
        assert_eq!(checksum::verify(&bytes[20..]), 0);
        (ip(read_u32(bytes, 12)), ip(read_u32(bytes, 16)), &bytes[20..])
    } else {
        let (from, to) = (read_u128(bytes, 8), read_u128(bytes, 24));
        assert_eq!(icmpv6::make_checksum(from, to, &bytes[40..]), 0);
        (ip6(from), ip6(to), &bytes[40..])
    };
    (from, to, [message[0], message[1]], read_u32(message, 4), message[8..].to_vec())
}

#[test]
fn a_client_is_told_how_long_its_packets_may_be() {
    for method in [Method::Nat, Method::DirectRouting] {
        let mut lab = lab(method, [9000, 1400]);
        for (short, long, from, to, kind, hops) in [
            (udp(1400), udp(1401), ip(VIP.0), ip(CLIENT), [3, 4], 8),
            (udp6(1400), udp6(1401), ip6(VIP6.0), ip6(CLIENT6), [2, 0], 7),
        ] {
            // The first packet of the connection, and a later one.
            for frame in [&long, &short, &long] {
                let (port, sent) = lab.receive_one(0, frame.clone()).unwrap();
                if frame.len() == short.len() {
                    assert_eq!((port, sent.len()), (1, frame.len()));
                    continue;
                }
                let said = told(&sent);
                assert_eq!((port, said.0, said.1, said.2, said.3), (0, from, to, kind, 1400));
                let quoted = with(long.clone(), &[(14 + hops, 63)]);
                assert_eq!(said.4, quoted[14..14 + said.4.len()], "as the client sent it, one hop less");
            }
        }
        let totals = lab.counters[0].read();
        assert_eq!((totals.fragmentation_needed, totals.forwarded, totals.dropped()), (4, 6, 0));
        lab.check_balance();
    }
}

/// As a router does: from director's own address, about the packet as it came.
#[test]
fn a_server_is_told_how_long_its_packets_may_be() {
    let mut lab = lab(Method::Nat, [1400, 9000]);
    for (question, answers, from, to, kind) in [
        (udp(100), [udp_reply(1400), udp_reply(1401)], ip(OWN), ip(SERVERS[1].0), [3, 4]),
        (udp6(100), [udp6_reply(1400), udp6_reply(1401)], ip6(OWN6), ip6(SERVERS6[1].0), [2, 0]),
    ] {
        lab.receive_one(0, question).unwrap();
        let [short, long] = answers;
        for frame in [&long, &short, &long] {
            let (port, sent) = lab.receive_one(1, frame.clone()).unwrap();
            if frame.len() == short.len() {
                assert_eq!((port, sent.len()), (0, frame.len()));
                continue;
            }
            let said = told(&sent);
            assert_eq!((port, said.0, said.1, said.2, said.3), (1, from, to, kind, 1400));
            assert_eq!(said.4, long[14..14 + said.4.len()]);
        }
    }
    lab.check_balance();
    // Without an address of its own director says nothing.
    let mut network = super::ipv6::network();
    network.set_sources(Sources::default());
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    assert_eq!(lab.receive_one(1, udp_reply(1401)), None);
    assert_eq!(lab.dropped(Drop::TooBig), 1);
    lab.check_balance();
}

#[test]
fn what_may_be_fragmented_goes_in_pieces() {
    for (method, to_server) in [(Method::Nat, true), (Method::Nat, false), (Method::DirectRouting, true)] {
        let mut lab = lab(method, if to_server { [9000, 1400] } else { [1400, 9000] });
        lab.receive_one(0, udp(100)).unwrap();
        let before = if to_server { udp(4000) } else { udp_reply(4000) };
        let sent = lab.receive(0, usize::from(!to_server), &[with(before.clone(), &[(20, 0)])]);
        assert_eq!(sent.len(), 3);
        let mut payload = vec![];
        for (port, piece) in &sent {
            assert_eq!(*port, usize::from(to_server));
            let ip = Ipv4::new(&piece.data()[14..], piece.len() - 14).unwrap();
            assert!(ip.checksum_is_right() && ip.total_length() <= 1400);
            assert_eq!((ip.identification(), usize::from(ip.fragment_offset())), (1, payload.len()));
            payload.extend_from_slice(&piece.data()[34..]);
        }
        assert_eq!(payload.len(), 4000 - 20);
        let (from, to) = (read_u32(sent[0].1.data(), 26), read_u32(sent[0].1.data(), 30));
        let flow = Flow::new(protocol::UDP, (from, read_u16(&payload, 0)), (to, read_u16(&payload, 2)));
        assert_eq!(transport_checksum(flow, &payload), 0, "put together, the checksum is right");
        let totals = lab.counters[0].read();
        assert_eq!((totals.fragments, totals.dropped()), (2, 0));
        lab.check_balance();
    }
}

#[test]
fn what_is_behind_a_packet_does_not_make_it_longer() {
    let mut lab = lab(Method::Nat, [9000, 1400]);
    let padded = [udp(1400), vec![0xaa; 9]].concat();
    for _ in 0..2 {
        let (port, sent) = lab.receive_one(0, padded.clone()).unwrap();
        assert_eq!((port, sent.len()), (1, 14 + 1400));
    }
    lab.check_balance();
}

#[test]
fn senders_are_told_of_an_expired_time_to_live_as_often_as_linux_would() {
    for method in [Method::Nat, Method::DirectRouting] {
        let mut lab = lab(method, [1500; 2]);
        for (n, (frame, hops, from, to, kind)) in [
            (udp(100), 22, ip(VIP.0), ip(CLIENT), [11, 0]),
            (udp6(100), 21, ip6(VIP6.0), ip6(CLIENT6), [3, 0]),
        ]
        .into_iter()
        .enumerate()
        {
            let last = with(frame, &[(hops, 1)]);
            let sent = lab.receive(0, 0, &vec![last.clone(); 20]);
            assert_eq!(sent.len(), 6);
            let said = told(&sent[5].1);
            assert_eq!((sent[5].0, said.0, said.1, said.2, said.3), (0, from, to, kind, 0));
            assert_eq!(said.4, last[14..], "the packet as it came");
            let totals = lab.counters[0].read();
            assert_eq!(totals.time_exceeded, 6 * (n as u64 + 1));
            assert_eq!(lab.dropped(Drop::TtlExpired), 14 * (n as u64 + 1));
        }
        lab.check_balance();
    }
    let mut lab = lab(Method::Nat, [1500; 2]);
    lab.receive_one(0, udp(100)).unwrap();
    let (port, sent) = lab.receive_one(1, with(udp_reply(100), &[(22, 1)])).unwrap();
    let said = told(&sent);
    assert_eq!((port, said.0, said.1, said.2), (1, ip(OWN), ip(SERVERS[1].0), [11, 0]));
    lab.check_balance();
}

/// Of one that is too long and on its last hop, the time to live counts, as for IPVS.
#[test]
fn the_time_to_live_counts_before_the_length() {
    let mut lab = lab(Method::Nat, [9000, 1400]);
    let (_, sent) = lab.receive_one(0, with(udp(4000), &[(22, 1)])).unwrap();
    assert_eq!(told(&sent).2, [11, 0]);
    let (_, sent) = lab.receive_one(0, with(udp(4000), &[(22, 1), (20, 0)])).unwrap();
    assert_eq!(told(&sent).2, [11, 0], "in pieces or not");
    lab.check_balance();
}
