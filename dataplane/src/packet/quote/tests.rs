use proptest::prelude::*;

use super::*;
use crate::packet::vectors::vectors;
use crate::packet::{checksum, read_u128};

/// Errors as a real server's network sends them, and as the client must get them.
const IPV4: &str = include_str!("../../../tests/scapy/quote_v4.txt");
const IPV6: &str = include_str!("../../../tests/scapy/quote_v6.txt");

const VIRTUAL: u32 = 0xc633_6408;
const SERVER: u32 = 0xc000_0209;
const VIRTUAL6: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0080;

#[test]
fn quotes_are_read_and_readdressed() {
    for (name, packets) in vectors(IPV4) {
        let mut packet = packets[0].clone();
        let message = &mut packet[20..];
        let quote = ipv4(message).unwrap();
        assert_eq!((quote.source, quote.destination), (0xcb00_7109, SERVER), "{name}");
        let expected = match name {
            "tcp_frag_needed" => (3, 4, Some(1400), 6, 28, Some((40000, 8080))),
            "udp_unreachable" => (3, 3, None, 17, 28, Some((40000, 8080))),
            "udp_without_checksum" => (3, 3, None, 17, 28, Some((40000, 8080))),
            "tcp_eight_bytes" => (11, 0, None, 6, 28, Some((40000, 8080))),
            "tcp_with_ip_options" => (11, 0, None, 6, 32, Some((40000, 8080))),
            "sctp" => (3, 2, None, 132, 28, Some((40000, 8080))),
            "echo" => (3, 1, None, 1, 28, None),
            "old_router" => (3, 4, None, 17, 28, Some((40000, 8080))),
            other => panic!("{other}"),
        };
        assert_eq!(
            (quote.kind, quote.code, quote.mtu, quote.protocol, quote.transport, quote.ports),
            expected,
            "{name}"
        );
        readdress_ipv4(message, &quote, Side::Destination, VIRTUAL, 80);
        assert_eq!(message, &packets[1][20..], "{name}");
    }
}

#[test]
fn quotes_of_ipv6_are_read_and_readdressed() {
    for (name, packets) in vectors(IPV6) {
        let mut packet = packets[0].clone();
        let upper = Ipv6::new(&packet, packet.len()).unwrap().upper().unwrap();
        let quote = ipv6(&packet[upper.offset..]).unwrap();
        let expected = match name {
            "tcp_too_big" => (2, 0, Some(1400), 6, 48, Some((40000, 8080))),
            "udp_unreachable" => (1, 4, None, 17, 48, Some((40000, 8080))),
            "tcp_behind_options" => (3, 0, None, 6, 56, Some((40000, 8080))),
            "udp_first_fragment" => (1, 4, None, 17, 56, Some((40000, 8080))),
            "sctp" => (1, 4, None, 132, 48, Some((40000, 8080))),
            other => panic!("{other}"),
        };
        assert_eq!(
            (quote.kind, quote.code, quote.mtu, quote.protocol, quote.transport, quote.ports),
            expected,
            "{name}"
        );
        let outer = ipv6::readdress(&mut packet, Side::Source, VIRTUAL6).unwrap();
        readdress_ipv6(&mut packet[upper.offset..], &quote, Side::Destination, VIRTUAL6, 80, outer);
        assert_eq!(packet, packets[1], "{name}");
    }
}

#[test]
fn what_is_no_quote_is_named() {
    let (_, packets) = vectors(IPV4).swap_remove(0);
    let message = &packets[0][20..];
    let read = |change: &[(usize, u8)], length: usize| {
        let mut message = message.to_vec();
        change.iter().for_each(|&(at, value)| message[at] = value);
        ipv4(&message[..length]).map(|_| ())
    };
    assert_eq!(read(&[], 32), Ok(()));
    for length in (0..8).chain(8..28).chain(28..32) {
        assert_eq!(read(&[], length), Err(NoQuote::Truncated), "{length}");
    }
    for kind in [0, 5, 8, 13, 255] {
        assert_eq!(read(&[(0, kind)], 40), Err(NoQuote::NotAnError), "{kind}");
    }
    assert_eq!(read(&[(8, 0x65)], 40), Err(NoQuote::BadHeader));
    assert_eq!(read(&[(8 + 7, 1)], 40), Err(NoQuote::Fragment));

    let (_, packets) = vectors(IPV6).swap_remove(0);
    let message = &packets[0][40..];
    let read = |change: &[(usize, u8)], length: usize| {
        let mut message = message.to_vec();
        change.iter().for_each(|&(at, value)| message[at] = value);
        ipv6(&message[..length]).map(|_| ())
    };
    assert_eq!(read(&[], 52), Ok(()));
    for length in 0..52 {
        assert_eq!(read(&[], length), Err(NoQuote::Truncated), "{length}");
    }
    assert_eq!(read(&[(0, 128)], 60), Err(NoQuote::NotAnError));
    assert_eq!(read(&[(8, 0x45)], 60), Err(NoQuote::BadHeader));
    assert_eq!(read(&[(8 + 6, 60)], 52), Err(NoQuote::BadChain(BadChain::Truncated)));
    assert_eq!(read(&[(8 + 6, 44), (48 + 3, 8)], 60), Err(NoQuote::Fragment));
}

/// An error of random bytes with a header that is likely to be read.
fn message(version: u8, next: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let next = prop::sample::select(next);
    (prop::collection::vec(any::<u8>(), 0..120), next, 1u8..5).prop_map(move |(mut bytes, next, kind)| {
        for (at, value) in
            [(0, kind), (AT, version), (AT + 7, 0), (AT + if version == 0x60 { 6 } else { 9 }, next)]
        {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (ipv4(&bytes), ipv6(&bytes));
    }

    /// Whatever was quoted, the error's checksum is as right or wrong as it was.
    #[test]
    fn the_errors_checksum_stays_right(mut bytes in message(0x46, &[1, 6, 17, 132]), address: u32, port: u16) {
        if let Ok(quote) = ipv4(&bytes) {
            bytes[2..4].fill(0);
            let check = checksum::verify(&bytes);
            bytes[2..4].copy_from_slice(&check.to_be_bytes());
            readdress_ipv4(&mut bytes, &quote, Side::Destination, address, port);
            prop_assert_eq!(checksum::verify(&bytes), 0);
            prop_assert_eq!(ipv4(&bytes).unwrap().destination, address);
        }
    }

    #[test]
    fn the_errors_checksum_stays_right_in_ipv6(
        mut bytes in message(0x60, &[0, 6, 17, 43, 44, 51, 58, 60, 132]), address: u128, port: u16, outer: u128,
    ) {
        if let Ok(quote) = ipv6(&bytes) {
            bytes[2..4].fill(0);
            let check = icmpv6::make_checksum(7, 9, &bytes);
            bytes[2..4].copy_from_slice(&check.to_be_bytes());
            let change = Difference::default().replace_u128(9, outer);
            readdress_ipv6(&mut bytes, &quote, Side::Source, address, port, change);
            prop_assert_eq!(icmpv6::make_checksum(7, outer, &bytes), 0);
            prop_assert_eq!(read_u128(&bytes, AT + 8), address);
        }
    }
}
