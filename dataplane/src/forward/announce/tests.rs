//! Segments that scapy made; and transfers in which segments are lost, repeated and come in any order.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::fullnat::{forward, translate};
use super::*;
use crate::conn::{ConnectionTable, Connections, Index, Method, NewConnection, State, Timeouts};
use crate::network::MacAddr;
use crate::packet::protocol;
use crate::packet::vectors::vectors;
use crate::parse::{IpPacket, Packet, Packet6, Parsed};
use crate::time::Tick;
use crate::wire::memory::MemoryFrame;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ALL: [Announce; 3] = [Announce::Toa, Announce::ProxyV1, Announce::ProxyV2];

/// What a packet has that had to get an IPv4 header, in the vectors.
const IDENTIFICATION: u16 = 0x1234;

/// Client, virtual side, server and local side, as in the vectors: the first two of the one family, the others of the other.
fn sides(outside_ipv6: bool, inside_ipv6: bool) -> [(IpAddr, u16); 4] {
    let side = |ipv6, v4: &str, v6: &str, port| (if ipv6 { v6 } else { v4 }.parse().unwrap(), port);
    [
        side(outside_ipv6, "203.0.113.9", "2001:db8::9", 40_000),
        side(outside_ipv6, "198.51.100.8", "2001:db8::80", 80),
        side(inside_ipv6, "192.0.2.9", "2001:db8:ff::c0de", 8080),
        side(inside_ipv6, "192.0.2.33", "2001:db8:ff::33", 20_000),
    ]
}

struct Scene {
    table: Arc<ConnectionTable>,
    connections: Connections,
    index: Index,
    mtu: usize,
}

impl Scene {
    fn new(ipv6: bool, announce: Announce, mtu: usize) -> Self {
        Self::between(sides(ipv6, ipv6), announce, mtu)
    }

    fn between(sides: [(IpAddr, u16); 4], announce: Announce, mtu: usize) -> Self {
        let [client, virtual_side, server, local] = sides;
        let table = Arc::new(ConnectionTable::new(8, 8, 1).unwrap());
        let mut connections = Connections::new(table.clone(), 0, Tick(0));
        let flow = AnyFlow::new(protocol::TCP, client, virtual_side).unwrap();
        let (method, state) = (Method::FullNat, State::SynRecv);
        let new = NewConnection { flow, server, method, destination: 0, state };
        let locals = std::iter::once(local);
        let opened = connections.open_fullnat(None, (&new, announce), locals, &Timeouts::default(), Tick(0));
        Self { table, connections, index: opened.unwrap(), mtu }
    }

    fn is_across(&self) -> bool {
        let entry = self.table.entry(self.index);
        self.table.server(entry).0.is_ipv4() != self.table.flow(entry).source().0.is_ipv4()
    }

    /// What becomes of a frame of the connection.
    fn pass(&mut self, frame: &mut MemoryFrame) -> Result<(), Drop> {
        let packet = parsed(frame);
        let found = self.table.find(self.table.hash(packet.flow), packet.flow).unwrap();
        assert_eq!(found.index, self.index);
        let timeouts = (&Timeouts::default(), false);
        self.connections.step(self.index, found.direction, packet.flags, timeouts, Tick(0));
        let entry = self.table.entry(self.index);
        let connection = (entry, found.direction);
        if self.is_across() {
            let longest = (self.mtu, IDENTIFICATION);
            return translate(frame, &packet, &self.table, connection, longest).map(drop);
        }
        forward(frame, &packet, &self.table, connection, self.mtu).map(drop)
    }
}

fn parsed(frame: &MemoryFrame) -> AnyPacket {
    match (Packet::parse(frame, MAC), Packet6::parse(frame, MAC)) {
        (Parsed::Packet(packet), _) => packet.any(),
        (_, Parsed::Packet(packet)) => packet.any(),
        _ => panic!("not a packet: {frame:?}"),
    }
}

#[test]
fn segments_leave_as_scapy_has_them() {
    let cases = vectors(include_str!("../../../tests/scapy/announce.txt"));
    let mut scenes: BTreeMap<String, Scene> = BTreeMap::new();
    for (number, (name, packets)) in cases.iter().enumerate() {
        let (story, direction) = name.rsplit_once('/').unwrap();
        let (mix, how) = story.split_once('/').unwrap();
        let (outside_ipv6, inside_ipv6) = match mix {
            "v4" => (false, false),
            "v6" => (true, true),
            "64" => (true, false),
            _ => (false, true),
        };
        let announce = match how {
            "toa" => Announce::Toa,
            "proxy1" => Announce::ProxyV1,
            _ => Announce::ProxyV2,
        };
        let sides = sides(outside_ipv6, inside_ipv6);
        let scene = scenes.entry(story.to_owned()).or_insert_with(|| Scene::between(sides, announce, 1500));
        let frame = |packet: &[u8]| {
            let ethertype: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
            MemoryFrame::new(&[&MAC.0[..], &[2, 0, 0, 0, 0, 2], &ethertype, packet].concat())
        };
        let mut sent = frame(&packets[0]);
        assert_eq!(parsed(&sent).flow.source().1 == 40_000, direction == "in");
        scene.pass(&mut sent).unwrap();
        // Addresses are set last.
        assert_eq!(sent.data()[12..], frame(&packets[1]).data()[12..], "{name}, line {}", number + 1);
    }
}

/// A whole frame of a TCP segment, checksums right.
fn segment(
    (from, to): ((IpAddr, u16), (IpAddr, u16)),
    (sequence, acknowledged, flags): (u32, u32, u8),
    data: &[u8],
) -> MemoryFrame {
    let mut tcp = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    tcp.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(data);
    let ipv6 = from.0.is_ipv6();
    let mut ip = if ipv6 { vec![0x60, 0, 0, 0] } else { vec![0x45, 0] };
    if ipv6 {
        ip.extend((tcp.len() as u16).to_be_bytes());
        ip.extend([protocol::TCP, 64]);
    } else {
        ip.extend((20 + tcp.len() as u16).to_be_bytes());
        ip.extend([0, 1, 0, 0, 64, protocol::TCP, 0, 0]);
    }
    for address in [from.0, to.0] {
        match address {
            IpAddr::V4(address) => ip.extend(address.octets()),
            IpAddr::V6(address) => ip.extend(address.octets()),
        }
    }
    if !ipv6 {
        let check = checksum::verify(&ip);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
    }
    let addresses = checksum::sum(&ip[if ipv6 { 8 } else { 12 }..]);
    let pseudo = addresses + u32::from(protocol::TCP) + tcp.len() as u32;
    let check = !checksum::fold(pseudo + checksum::sum(&tcp));
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    let ethertype: [u8; 2] = if ipv6 { [0x86, 0xdd] } else { [8, 0] };
    MemoryFrame::new(&[&MAC.0[..], &[2, 0, 0, 0, 0, 2], &ethertype, &ip, &tcp].concat())
}

/// Sequence number, acknowledgement, flags and data of a frame, with its checksums and lengths checked.
fn read(frame: &MemoryFrame) -> (u32, u32, u8, Vec<u8>) {
    let packet = parsed(frame);
    let bytes = frame.data();
    assert_eq!(bytes.len(), 14 + packet.length);
    let tcp = &bytes[14 + packet.transport..];
    let addresses = if bytes[14] >> 4 == 4 { &bytes[26..34] } else { &bytes[22..54] };
    let pseudo = checksum::sum(addresses) + u32::from(protocol::TCP) + tcp.len() as u32;
    assert_eq!(checksum::fold(pseudo + checksum::sum(tcp)), 0xffff, "{frame:?}");
    let header = usize::from(tcp[12] >> 4) * 4;
    (read_u32(tcp, 4), read_u32(tcp, 8), tcp[13], tcp[header..].to_vec())
}

const ISN: u32 = u32::MAX - 20;
const SERVER_ISN: u32 = 77;

proptest! {
    /// Each step: which part of the data is sent, whether it gets through, and whether the answer does.
    #[test]
    fn the_server_reads_the_header_and_then_the_data(
        ipv6: bool, kind in 0usize..3, data in prop::collection::vec(any::<u8>(), 1..900), mtu in 300usize..700,
        early in any::<bool>(),
        steps in prop::collection::vec((any::<prop::sample::Index>(), 1usize..400, any::<bool>(), any::<bool>()), 0..20),
    ) {
        let announce = ALL[kind];
        let [client, virtual_side, server, local] = sides(ipv6, ipv6);
        let mut scene = Scene::new(ipv6, announce, mtu);
        let (there, back) = ((client, virtual_side), (server, local));
        let header = if announce.is_proxy() {
            proxy::header(announce == Announce::ProxyV2, client, virtual_side).to_vec()
        } else {
            vec![]
        };
        // A SYN may bring data, which only without a header in front of it may go on.
        let mut syn = segment(there, (ISN, 0, 2), if early { &data[..1] } else { &[] });
        scene.pass(&mut syn).unwrap();
        let (sequence, _, _, with_syn) = read(&syn);
        prop_assert_eq!((sequence, with_syn.len()), (ISN, usize::from(early && header.is_empty())));
        let mut answer = segment(back, (SERVER_ISN, ISN.wrapping_add(1), 0x12), &[]);
        scene.pass(&mut answer).unwrap();
        prop_assert_eq!(read(&answer).1, ISN.wrapping_add(1));

        let first = ISN.wrapping_add(1);
        let mut received: BTreeMap<usize, u8> = BTreeMap::new();
        let mut send = |from: usize, to: usize, arrives: bool, is_heard: bool| -> Result<(), TestCaseError> {
            let numbers = (first.wrapping_add(from as u32), SERVER_ISN + 1, 0x10);
            let mut frame = segment(there, numbers, &data[from..to]);
            if frame.len() > 14 + mtu {
                return Ok(());
            }
            scene.pass(&mut frame).unwrap();
            prop_assert!(frame.len() <= 14 + mtu);
            let (sequence, _, _, bytes) = read(&frame);
            let at = sequence.wrapping_sub(first) as usize;
            if arrives {
                for (n, byte) in bytes.into_iter().enumerate() {
                    // What comes again is the same.
                    prop_assert_eq!(*received.entry(at + n).or_insert(byte), byte);
                }
            }
            let contiguous = (0..).take_while(|at| received.contains_key(at)).count();
            if is_heard {
                let number = first.wrapping_add(contiguous as u32);
                let mut answer = segment(back, (SERVER_ISN + 1, number, 0x10), &[]);
                scene.pass(&mut answer).unwrap();
                let heard = read(&answer).1.wrapping_sub(first) as usize;
                prop_assert_eq!(heard, contiguous.saturating_sub(header.len()));
            }
            Ok(())
        };
        for (from, length, arrives, is_heard) in steps {
            let from = from.index(data.len());
            send(from, data.len().min(from + length), arrives, is_heard)?;
        }
        // In the end all of it comes.
        for n in 0..data.len() {
            send(n, n + 1, true, true)?;
        }
        let stream: Vec<u8> = received.into_values().collect();
        prop_assert_eq!(stream, [header, data.clone()].concat());
    }
}
