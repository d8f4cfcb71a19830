use super::*;
use crate::packet::vectors::vectors;
use crate::parse::{AnyFlow, IpPacket};
use crate::wire::memory::MemoryFrame;

const CHAINS: &str = include_str!("../../../tests/scapy/ipv6.txt");
const DATAGRAMS: &str = include_str!("../../../tests/scapy/fragments.txt");

const MAC: crate::network::MacAddr = crate::network::MacAddr([2, 0, 0, 0, 0, 1]);

/// What is in a fragment, in a word, and the ports of a first one.
fn content<P: IpPacket>(fragment: &Fragment<P>) -> (&'static str, u16, u16) {
    match &fragment.content {
        Content::First(packet) => {
            let flow: AnyFlow = packet.any().flow;
            ("first", flow.source().1, flow.destination().1)
        }
        Content::Tiny => ("tiny", 0, 0),
        Content::Foreign => ("foreign", 0, 0),
        Content::Later => ("later", 0, 0),
    }
}

#[test]
fn scapys_datagrams_are_of_one_piece_each() {
    for (name, frames) in vectors(DATAGRAMS) {
        // Every second one is what comes of it.
        let (mut datagrams, mut end, count) = (vec![], 0, frames.len() / 2);
        let first = frames[0].clone();
        for (n, bytes) in frames.into_iter().step_by(2).enumerate() {
            let frame = MemoryFrame::new(&bytes);
            let mac = crate::network::MacAddr(bytes[..6].try_into().unwrap());
            let (parsed, (datagram, part, what, front, length)) = if name.contains("6/") {
                let of = |f: Fragment<Packet6>| (f.datagram, f.part, content(&f), f.front, f.length);
                let parsed = Packet6::parse(&frame, mac) == Parsed::Fragment;
                (parsed, Packet6::fragment(&frame).map(of).unwrap())
            } else {
                let of = |f: Fragment<Packet>| (f.datagram, f.part, content(&f), f.front, f.length);
                let parsed = Packet::parse(&frame, mac) == Parsed::Fragment;
                (parsed, Packet::fragment(&frame).map(of).unwrap())
            };
            assert!(parsed, "{name}");
            assert_eq!(part, Part::new(end, length.into(), n + 1 < count), "{name}");
            let ports = if name.contains("answer") { (8080, 40_000) } else { (40_000, 80) };
            let expected = if n == 0 { ("first", ports.0, ports.1) } else { ("later", 0, 0) };
            assert_eq!(what, expected, "{name}");
            assert_eq!(usize::from(front) + usize::from(length), bytes.len() - 14, "{name}");
            end += usize::from(length);
            datagrams.push(datagram);
        }
        datagrams.dedup();
        let [datagram] = datagrams[..] else { panic!("{name}: {datagrams:?}") };
        let number = match name {
            "dr/ask6/sctp" => 5,
            name if name.contains("6/") => 0xfeed_beef,
            _ => 0xbeef,
        };
        let source = |frame: &[u8]| frame[26..30].try_into().map(u32::from_be_bytes).unwrap();
        let target = |frame: &[u8]| frame[30..34].try_into().map(u32::from_be_bytes).unwrap();
        let expected = if name.contains("6/") {
            let of = |at: usize| u128::from_be_bytes(first[at..at + 16].try_into().unwrap());
            Datagram::ipv6(of(22), of(38), number)
        } else {
            Datagram::ipv4(source(&first), target(&first), number as u16, first[23])
        };
        assert_eq!(datagram, expected, "{name}");
    }
}

#[test]
fn chains_of_ipv6_say_what_is_in_their_fragments() {
    let expected = [
        ("first_fragment", Some(("first", 40_000, 80))),
        ("later_fragment", Some(("later", 0, 0))),
        ("later_fragment_of_destination_options", Some(("later", 0, 0))),
        ("every_header", Some(("first", 40_000, 80))),
        ("atomic_fragment", None),
        ("fragment_of_fragment", None),
        ("tcp", None),
        ("routing_to_go", None),
    ];
    for (name, expected) in expected {
        let (_, packets) = vectors(CHAINS).into_iter().find(|(n, _)| *n == name).unwrap();
        let frame = MemoryFrame::new(&[&MAC.0[..], &[2; 6], &[0x86, 0xdd], &packets[0]].concat());
        assert_eq!(Packet6::fragment(&frame).map(|f| content(&f)), expected, "{name}");
        assert_eq!(Packet6::parse(&frame, MAC) == Parsed::Fragment, expected.is_some(), "{name}");
    }
}

/// An IPv6 packet of one fragment header and this.
fn fragment6(next: u8, offset: u16, payload: &[u8]) -> MemoryFrame {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8 + payload.len() as u8, 44, 64];
    packet.extend([0x20; 32]);
    packet.extend([next, 0]);
    packet.extend((offset | 1).to_be_bytes());
    packet.extend([0, 0, 0, 9]);
    MemoryFrame::new(&[&MAC.0[..], &[2; 6], &[0x86, 0xdd], &packet, payload].concat())
}

#[test]
fn each_content_has_its_name() {
    let sctp = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 20];
    for (next, offset, payload, what) in [
        (17, 0, &sctp[..8], "first"),
        (17, 8, &sctp[..8], "later"),
        (17, 0, &sctp[..7], "tiny"),
        (132, 0, &sctp[..], "first"),
        (132, 0, &sctp[..15], "tiny"),
        (132, 8, &sctp[..], "tiny"),
        (132, 16, &sctp[..], "later"),
        (6, 16, &sctp[..], "tiny"),
        (6, 24, &sctp[..], "later"),
        (6, 0, &sctp[..], "tiny"),
        (58, 0, &sctp[..], "foreign"),
        // Destination options, whole and cut off, before ICMPv6.
        (60, 0, &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0], "foreign"),
        (60, 0, &[17, 1, 1, 4, 0, 0, 0, 0], "tiny"),
        (60, 0, &[17, 0, 1], "tiny"),
    ] {
        let fragment = Packet6::fragment(&fragment6(next, offset, payload)).unwrap();
        assert_eq!(content(&fragment).0, what, "{next} at {offset}: {payload:?}");
    }
    // Whose these are is clear from the first look.
    assert_eq!(Packet6::parse(&fragment6(58, 0, &sctp), MAC), Parsed::TO_KERNEL);
    assert_eq!(Packet6::parse(&fragment6(58, 8, &sctp), MAC), Parsed::TO_KERNEL);
    assert_eq!(Packet6::parse(&fragment6(60, 8, &sctp), MAC), Parsed::Fragment);
}
