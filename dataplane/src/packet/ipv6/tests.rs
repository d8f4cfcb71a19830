use proptest::prelude::*;

use super::*;
use crate::packet::vectors::vectors;
use crate::packet::{checksum, protocol, sctp, tcp, udp};

const CHAINS: &str = include_str!("../../../tests/scapy/ipv6.txt");
const REWRITES: &str = include_str!("../../../tests/scapy/ipv6_nat.txt");

/// 2001:db8::9, the client of the vectors, and 2001:db8:ff::c0de, the server.
const CLIENT: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0009;
const SERVER: u128 = 0x2001_0db8_00ff_0000_0000_0000_0000_c0de;

fn walk(packet: &[u8]) -> Result<Upper, BadChain> {
    Ipv6::new(packet, packet.len()).unwrap().upper()
}

/// What the walk of each of scapy's chains must come to: protocol, offset, fragment offset and more-fragments.
type Expected = Result<(u8, usize, Option<(u16, bool)>), BadChain>;

#[rustfmt::skip]
const EXPECTED: &[(&str, Expected)] = &[
    ("tcp", Ok((6, 40, None))),
    ("hop_by_hop_udp", Ok((17, 48, None))),
    ("every_header", Ok((6, 112, Some((0, true))))),
    ("routing_done", Ok((6, 64, None))),
    ("routing_to_go", Err(BadChain::SourceRouted)),
    ("first_fragment", Ok((17, 48, Some((0, true))))),
    ("later_fragment", Ok((17, 48, Some((1448, false))))),
    ("later_fragment_of_destination_options", Ok((60, 48, Some((8, true))))),
    ("atomic_fragment", Ok((6, 48, Some((0, false))))),
    ("fragment_of_fragment", Err(BadChain::RepeatedFragment)),
    ("hop_by_hop_second", Err(BadChain::HopByHopNotFirst)),
    ("eight_headers", Ok((6, 104, None))),
    ("nine_headers", Err(BadChain::TooMany)),
    ("no_next_header", Ok((59, 40, None))),
    ("esp", Ok((50, 40, None))),
    ("authentication", Ok((6, 64, None))),
    ("cut_in_extension", Err(BadChain::Truncated)),
    ("cut_before_extension", Err(BadChain::Truncated)),
    ("flow_label", Ok((6, 40, None))),
];

#[test]
fn chains_are_walked() {
    let chains = vectors(CHAINS);
    assert_eq!(chains.len(), EXPECTED.len());
    for ((name, packets), (expected_name, expected)) in chains.iter().zip(EXPECTED) {
        assert_eq!(name, expected_name);
        let found = walk(&packets[0])
            .map(|u| (u.protocol, u.offset, u.fragment.map(|fragment| (fragment.offset, fragment.more))));
        assert_eq!(found, *expected, "{name}");
    }
}

#[test]
fn fields_are_where_they_belong() {
    let (_, packets) = vectors(CHAINS).into_iter().find(|(name, _)| *name == "flow_label").unwrap();
    let packet = Ipv6::new(&packets[0], packets[0].len()).unwrap();
    assert_eq!((packet.traffic_class(), packet.flow_label(), packet.hop_limit()), (0xb9, 0xabcde, 64));
    assert_eq!((packet.source(), packet.destination()), (CLIENT, 0x2001_0db8_u128 << 96 | 0x80));
    assert_eq!(packet.total_length(), packets[0].len());
}

#[test]
fn lengths_are_checked_once_and_name_what_is_wrong() {
    let (_, packets) = vectors(CHAINS).swap_remove(0);
    let good = &packets[0];
    for length in 0..HEADER {
        assert_eq!(Ipv6::new(&good[..length], good.len()).err(), Some(Malformed::Truncated), "{length}");
    }
    assert_eq!(Ipv6::new(good, good.len() - 1).err(), Some(Malformed::Truncated));
    let mut bad = good.clone();
    bad[0] = 0x45;
    assert_eq!(Ipv6::new(&bad, bad.len()).err(), Some(Malformed::BadHeader));
    // Padding is none of the packet's.
    let padded = [&good[..], &[0xaa; 9]].concat();
    assert_eq!(Ipv6::new(&padded, padded.len()).unwrap().packet, good);
}

#[test]
fn nat_keeps_every_checksum_right() {
    for (name, packets) in vectors(REWRITES) {
        let mut packet = packets[0].clone();
        let upper = walk(&packet).unwrap();
        let change = readdress(&mut packet, Side::Destination, SERVER).unwrap();
        let transport = &mut packet[upper.offset..];
        match upper.protocol {
            protocol::TCP => tcp::set_port(transport, Side::Destination, 8080, change),
            protocol::UDP => udp::set_port(transport, Side::Destination, 8080, change),
            protocol::SCTP => sctp::set_port(transport, Side::Destination, 8080, transport.len()),
            other => panic!("{name}: {other}"),
        }
        assert_eq!(packet, packets[1], "{name}");
    }
}

#[test]
fn the_last_hop_is_not_taken_off() {
    let (_, packets) = vectors(CHAINS).swap_remove(0);
    for limit in [0, 1] {
        let mut packet = packets[0].clone();
        packet[7] = limit;
        let before = packet.clone();
        assert!(!decrement_hop_limit(&mut packet));
        assert!(readdress(&mut packet, Side::Source, 7).is_none());
        assert_eq!(packet, before);
    }
    assert!(!decrement_hop_limit(&mut [0x60; 39]));
}

#[test]
fn martians() {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().to_bits();
    for martian in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
        assert!(is_martian_source(address(martian)), "{martian}");
    }
    for fine in ["2001:db8::1", "fe80::1", "fd00::1", "64:ff9b::192.0.2.1", "::2"] {
        assert!(!is_martian_source(address(fine)), "{fine}");
    }
}

/// Extension headers in any order, their bytes at random: what is left of the packet decides how far the walk comes.
fn chain() -> impl Strategy<Value = Vec<u8>> {
    let next = prop::sample::select(vec![0u8, 43, 44, 51, 60, 6, 17, 58, 59]);
    let extension = (next.clone(), 0u8..4, prop::array::uniform6(0u8..3));
    (next, prop::collection::vec(extension, 0..12), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
        |(first, extensions, tail)| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, first, 64];
            packet.extend([7; 32]);
            for (next, length, rest) in extensions {
                packet.extend([next, length]);
                packet.extend(rest);
                packet.extend(vec![0; usize::from(length) * 8]);
            }
            packet.extend(tail);
            let length = (packet.len() - HEADER) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_break_the_walk(bytes in prop::collection::vec(any::<u8>(), 0..256), received in 0usize..512) {
        let _ = Ipv6::new(&bytes, received).map(Ipv6::upper);
    }

    #[test]
    fn what_is_found_lies_in_the_packet(packet in chain(), cut in 0usize..300) {
        let seen = &packet[..cut.clamp(HEADER, packet.len())];
        if let Ok(upper) = Ipv6::new(seen, packet.len()).unwrap().upper() {
            prop_assert!(upper.offset >= HEADER && upper.offset <= seen.len());
            prop_assert!(!is_extension(upper.protocol) || upper.fragment.is_some_and(|f| f.offset != 0));
            prop_assert!(upper.fragment.is_none_or(|f| f.at + 8 <= upper.offset));
        }
    }

    #[test]
    fn the_checksum_follows_the_address(packet in chain(), new: u128) {
        let mut packet = packet;
        let (source, destination) = (read_u128(&packet, 8), read_u128(&packet, 24));
        let check = |from: u128| !checksum::fold(checksum::pseudo_ipv6(from, destination, 6, 20));
        let change = readdress(&mut packet, Side::Source, new).unwrap();
        prop_assert_eq!(change.apply(check(source)), check(new));
        prop_assert_eq!(read_u128(&packet, 8), new);
    }
}
