use super::*;
use crate::network::MacAddr;
use crate::packet::vectors::vectors;
use crate::parse::{IpPacket, Packet, Packet6, Parsed};
use crate::wire::memory::MemoryFrame;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn frame(name: &str) -> Vec<u8> {
    let all = vectors(include_str!("../../../tests/scapy/icmp_nat.txt"));
    all.into_iter().find(|case| case.0 == name).unwrap().1.swap_remove(0)
}

fn is_error(bytes: &[u8]) -> bool {
    let frame = MemoryFrame::new(bytes);
    match bytes[12] {
        8 => Packet::parse(&frame, MAC) == Parsed::Error,
        _ => Packet6::parse(&frame, MAC) == Parsed::Error,
    }
}

/// The frame with other bytes at some places, and an IPv4 header's checksum made right again.
fn changed(bytes: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    changes.iter().for_each(|&(at, value)| bytes[at] = value);
    if bytes[12] == 8 {
        bytes[24..26].fill(0);
        let check = checksum::verify(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&check.to_be_bytes());
    }
    bytes
}

#[test]
fn errors_are_told_from_what_is_linuxs() {
    let v4 = frame("server_unreachable_3");
    for kind in 0..=u8::MAX {
        assert_eq!(is_error(&changed(&v4, &[(34, kind)])), matches!(kind, 3 | 4 | 11 | 12), "type {kind}");
    }
    assert!(!is_error(&changed(&v4, &[(20, 0x20)])), "a fragment");
    assert!(!is_error(&changed(&v4, &[(23, 58)])), "ICMPv6 over IPv4");
    let v6 = frame("server_unreachable6_4");
    for kind in 0..=u8::MAX {
        assert_eq!(is_error(&changed(&v6, &[(54, kind)])), kind < 128, "type {kind}");
    }
    assert!(!is_error(&changed(&v6, &[(20, 1)])), "ICMP over IPv6");
}

#[test]
fn a_quote_is_read_as_far_as_the_ports() {
    for (name, header) in [("server_unreachable_3", 20), ("server_unreachable6_4", 40)] {
        let bytes = frame(name);
        let error = IcmpError::in_frame(&MemoryFrame::new(&bytes)).unwrap();
        let quote = &bytes[14 + error.quote()..];
        for length in 0..quote.len() {
            let quoted = quoted(&quote[..length]);
            assert_eq!(quoted.is_some(), length >= header + 4, "{name}, {length} bytes");
            assert!(quoted.is_none_or(|q| q.transport == header && q.flow.source().1 == 80));
        }
    }
    let v4 = frame("server_unreachable_3").split_off(42);
    let quoted_as = |change: &[(usize, u8)]| {
        let mut bytes = v4.clone();
        change.iter().for_each(|&(at, value)| bytes[at] = value);
        quoted(&bytes)
    };
    assert!(quoted_as(&[(2, 0xff)]).is_some(), "longer than any packet that came here");
    assert!(quoted_as(&[(7, 1)]).is_none(), "a later fragment");
    assert!(quoted_as(&[(9, 1)]).is_none(), "ICMP");
    assert!(quoted_as(&[(0, 0x4f)]).is_none(), "options that are not there");
    assert!(quoted_as(&[(0, 0x55)]).is_none(), "who knows");
}

#[test]
fn an_error_lies_in_one_piece_and_within_its_packet() {
    let bytes = frame("server_unreachable_3");
    let length = |bytes: &[u8]| IcmpError::in_frame(&MemoryFrame::new(bytes)).map(|error| error.length);
    assert_eq!(length(&bytes), Some(bytes.len() - 14));
    assert_eq!(length(&[&bytes[..], &[0; 9]].concat()), Some(bytes.len() - 14), "padding");
    assert_eq!(length(&changed(&bytes, &[(16, 0), (17, 27)])), None, "no whole header");
    assert_eq!(length(&changed(&bytes, &[(16, 0), (17, 28)])), Some(28), "nothing quoted");
}
