//! Packets and errors that scapy made, in the one family and in the other.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::error::{to_icmp, to_icmpv6};
use super::*;
use crate::network::MacAddr;
use crate::packet::read_u32;
use crate::packet::vectors::vectors;
use crate::parse::{AnyFlow, IcmpError, IpPacket, Packet, Packet6, Parsed};
use crate::wire::memory::MemoryFrame;

const IDENTIFICATION: u16 = 0x1234;

/// Client, virtual side, server and local side, as in the vectors. The first two are of one family, the others of the other one.
fn sides(is_64: bool) -> [(IpAddr, u16); 4] {
    let side = |v4: [u8; 4], net: u128, last: u128, port, is_ipv6| {
        let address = Ipv6Addr::from(0x2001_0db8 << 96 | net << 80 | last);
        (if is_ipv6 { address.into() } else { IpAddr::from(v4) }, port)
    };
    [
        side([203, 0, 113, 9], 0, 9, 40_000, is_64),
        side([198, 51, 100, 8], 0, 0x80, 80, is_64),
        side([192, 0, 2, 9], 0xff, 0xc0de, 8080, !is_64),
        side([192, 0, 2, 33], 0xff, 0x33, 20_000, !is_64),
    ]
}

fn framed(packet: &[u8]) -> MemoryFrame {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    MemoryFrame::new(&[&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype, packet].concat())
}

fn parsed(frame: &MemoryFrame) -> Option<AnyPacket> {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    match (Packet::parse(frame, mac), Packet6::parse(frame, mac)) {
        (Parsed::Packet(packet), _) => Some(packet.any()),
        (_, Parsed::Packet(packet)) => Some(packet.any()),
        _ => None,
    }
}

/// What becomes of a frame of the connection between these. True for one to the server.
fn forwarded(frame: &mut MemoryFrame, is_64: bool) -> Result<bool, Drop> {
    let packet = parsed(frame).expect("a packet");
    let [client, virtual_side, server, local] = sides(is_64);
    let is_to_server = packet.flow.source() == client;
    let (from, to) = if is_to_server { (local, server) } else { (virtual_side, client) };
    let ports = u32::from(from.1) << 16 | u32::from(to.1);
    let ends = Ends { source: ipv6::mapped(from.0), destination: ipv6::mapped(to.0), ports };
    super::packet(frame, &packet, &ends, IDENTIFICATION)?;
    Ok(is_to_server)
}

#[test]
fn packets_and_errors_become_those_that_scapy_has() {
    let cases = vectors(include_str!("../../../tests/scapy/across.txt"));
    for (name, packets) in &cases {
        let is_64 = name.starts_with("64");
        let [client, virtual_side, server, local] = sides(is_64);
        let mut frame = framed(&packets[0]);
        let after = framed(&packets[1]);
        if let Some(error) = IcmpError::in_frame(&frame) {
            let quoted = error.quoted(&frame.data()[14..]).expect(name);
            assert!(error.checksum_is_right(&frame.data()[14..]), "{name}");
            let (source, destination, from, to) = if name.ends_with("to_client") {
                (virtual_side.0, client.0, client, virtual_side)
            } else {
                (local.0, server.0, server, local)
            };
            let ends = ErrorEnds { source, destination, from, to };
            assert_eq!(super::error(&mut frame, (&error, &quoted), &ends, IDENTIFICATION), Ok(()), "{name}");
        } else {
            assert_eq!(forwarded(&mut frame, is_64), Ok(name.ends_with("request")), "{name}");
        }
        assert_eq!(frame.data()[12..], after.data()[12..], "{name}");
    }
    assert!(cases.len() >= 50);
}

/// Behind a datagram without a checksum there may be more of its packet, which the one that it gets does not cover.
#[test]
fn the_checksum_that_is_made_is_over_the_datagram() {
    let cases = vectors(include_str!("../../../tests/scapy/across.txt"));
    let (_, packets) = cases.iter().find(|(name, _)| *name == "46_udp_without_checksum_request").unwrap();
    let with_length = |length: u16, behind: &[u8]| {
        let mut packet = [&packets[0][..], behind].concat();
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[10..12].fill(0);
        let check = checksum::verify(&packet[..20]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        packet[24..26].copy_from_slice(&length.to_be_bytes());
        framed(&packet)
    };
    let mut frame = with_length(13, b"behind");
    forwarded(&mut frame, false).unwrap();
    let (expected, sent) = (&packets[1], &frame.data()[14..]);
    assert_eq!((&sent[6..expected.len()], &sent[expected.len()..]), (&expected[6..], &b"behind"[..]));
    for length in [7, 14] {
        assert_eq!(forwarded(&mut with_length(length, b""), false), Err(Drop::BadHeader), "{length}");
    }
}

#[test]
fn padding_does_not_go_along() {
    let cases = vectors(include_str!("../../../tests/scapy/across.txt"));
    let (_, packets) = cases.iter().find(|(name, _)| *name == "46_udp_request").unwrap();
    let mut frame = framed(&[&packets[0][..], &[0xee; 13]].concat());
    forwarded(&mut frame, false).unwrap();
    assert_eq!(frame.data()[14..], packets[1]);
}

#[test]
fn what_says_its_own_way_is_dropped() {
    for (options, is_routed) in [
        (&[131, 7, 4, 1, 2, 3, 4, 0][..], true),
        (&[1, 137, 7, 4, 1, 2, 3, 4], true),
        (&[131, 7, 8, 1, 2, 3, 4, 0], false),
        (&[7, 7, 4, 1, 2, 3, 4, 0], false),
        (&[0, 131, 7, 4], false),
        (&[7, 0, 131, 7], false),
        (&[131], false),
    ] {
        assert_eq!(is_source_routed(options), is_routed, "{options:?}");
    }
}

#[test]
fn errors_that_nobody_has_in_the_other_family_are_dropped() {
    let head = |kind, code, at: u8| [kind, code, 0, 0, at, 0, 0, 0];
    for (kind, code, at) in [(3, 14, 0), (3, 99, 0), (4, 0, 0), (12, 1, 0), (12, 0, 5), (12, 0, 20)] {
        assert_eq!(to_icmpv6(head(kind, code, at), 100), None, "{kind} {code} {at}");
    }
    let head = |kind, code, at: u8| [kind, code, 0, 0, 0, 0, 0, at];
    for (kind, code, at) in [(1, 5, 0), (1, 7, 0), (4, 2, 0), (4, 0, 2), (4, 0, 40), (5, 0, 0)] {
        assert_eq!(to_icmp(head(kind, code, at)), None, "{kind} {code} {at}");
    }
}

#[test]
fn how_long_packets_may_be_is_told_with_the_difference() {
    let needed = |mtu: u16, length| {
        let [high, low] = mtu.to_be_bytes();
        read_u32(&to_icmpv6([3, 4, 0, 0, 0, 0, high, low], length).unwrap(), 4)
    };
    assert_eq!([needed(1480, 1500), needed(1260, 1500), needed(576, 1500)], [1500, 1280, 1280]);
    // Routers of old do not say.
    assert_eq!(
        [needed(0, 1500), needed(0, 1492), needed(0, 60_000), needed(0, 0)],
        [1512, 1280, 32_020, 1280]
    );
    let too_big = |mtu: u32| {
        let [a, b, c, d] = mtu.to_be_bytes();
        read_u16(&to_icmp([2, 0, 0, 0, a, b, c, d]).unwrap(), 6)
    };
    assert_eq!([too_big(1500), too_big(1280), too_big(0), too_big(u32::MAX)], [1480, 1260, 68, u16::MAX]);
}

proptest! {
    #[test]
    fn no_error_breaks_it(ipv6: bool, bytes in prop::collection::vec(any::<u8>(), 0..700), quoted_ipv6: bool) {
        let mut packet = if ipv6 { vec![0x60, 0, 0, 0, 0, 0, 58, 64] } else { vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0] };
        let total = bytes.len();
        packet.extend([1; 32]);
        packet.truncate(if ipv6 { 40 } else { 20 });
        let length = if ipv6 { total } else { 20 + total } as u16;
        let at = if ipv6 { 4 } else { 2 };
        packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
        packet.extend(bytes);
        let header = packet.len() - total;
        if let Some(byte) = packet.get_mut(header + 8) {
            *byte = *byte & 0x0f | if quoted_ipv6 { 0x60 } else { 0x40 };
        }
        let mut frame = framed(&packet);
        let [from, to, ..] = sides(!ipv6);
        if let Some(error) = IcmpError::in_frame(&frame)
            && let Some(quoted) = error.quoted(&frame.data()[14..])
        {
            let ends = ErrorEnds { source: to.0, destination: from.0, from, to };
            let _ = super::error(&mut frame, (&error, &quoted), &ends, 0);
        }
    }

    #[test]
    fn no_datagram_breaks_it(is_64: bool, data in prop::collection::vec(any::<u8>(), 0..1400), checksum: bool) {
        let [client, virtual_side, ..] = sides(is_64);
        let flow = AnyFlow::new(protocol::UDP, client, virtual_side).unwrap();
        let (mut packet, udp_length) = (Vec::new(), (8 + data.len()) as u16);
        match flow {
            AnyFlow::V4(flow) => {
                packet.extend([0x45, 0]);
                packet.extend((20 + udp_length).to_be_bytes());
                packet.extend([0, 1, 0, 0, 64, protocol::UDP, 0, 0]);
                packet.extend([flow.source().0.to_be_bytes(), flow.destination().0.to_be_bytes()].concat());
                let check = checksum::verify(&packet);
                packet[10..12].copy_from_slice(&check.to_be_bytes());
            }
            AnyFlow::V6(flow) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(udp_length.to_be_bytes());
                packet.extend([protocol::UDP, 64]);
                packet.extend([flow.source().0.to_be_bytes(), flow.destination().0.to_be_bytes()].concat());
            }
        }
        let at = packet.len();
        packet.extend([client.1.to_be_bytes(), virtual_side.1.to_be_bytes(), udp_length.to_be_bytes(), [0; 2]].concat());
        packet.extend(&data);
        let right = |packet: &[u8], at: usize| {
            let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
            let known = checksum::sum(addresses) + u32::from(protocol::UDP) + packet[at..].len() as u32;
            !checksum::fold(known + checksum::sum(&packet[at..]))
        };
        if checksum || is_64 {
            let check = udp::written(right(&packet, at)).to_be_bytes();
            packet[at + 6..at + 8].copy_from_slice(&check);
        }
        let mut frame = framed(&packet);
        forwarded(&mut frame, is_64).unwrap();
        // Its addresses are set last.
        frame.data_mut()[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        let sent = parsed(&frame).unwrap();
        prop_assert_eq!(frame.len(), 14 + sent.length);
        let out = &frame.data()[14..];
        prop_assert_eq!(&out[sent.transport + 8..], &data[..]);
        // All of the datagram with its checksum adds up.
        prop_assert_eq!(right(out, sent.transport), 0);
    }
}
