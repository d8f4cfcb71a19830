//! Packet in, packet out: errors that scapy made, checksums included.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::conn::{Connections, Method, NewConnection, State, Timeouts};
use crate::network::MacAddr;
use crate::packet::vectors::vectors;
use crate::packet::{ethernet, ipv4::Ipv4};
use crate::parse::{AnyFlow, IpPacket, Packet, Packet6, Parsed};
use crate::time::Tick;
use crate::wire::Frame;
use crate::wire::memory::MemoryFrame;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Client, virtual address, server.
fn sides(is_ipv4: bool) -> [(IpAddr, u16); 3] {
    let of = |v4: [u8; 4], v6: &str, port| {
        let v6: Ipv6Addr = v6.parse().unwrap();
        (if is_ipv4 { IpAddr::V4(Ipv4Addr::from(v4)) } else { v6.into() }, port)
    };
    [
        of([203, 0, 113, 9], "2001:db8::9", 40_000),
        of([198, 51, 100, 8], "2001:db8::80", 80),
        of([192, 0, 2, 9], "2001:db8:ff::c0de", 8080),
    ]
}

/// What the error in this frame is about, and whether it is for the server.
fn about(frame: &MemoryFrame) -> Option<(IcmpError, Quoted)> {
    let error = IcmpError::in_frame(frame)?;
    let is_error = match error.is_ipv4 {
        true => Packet::parse(frame, MAC) == Parsed::Error,
        false => Packet6::parse(frame, MAC) == Parsed::Error,
    };
    assert!(is_error, "{frame:?}");
    let ip = &frame.data()[ethernet::HEADER..];
    assert!(error.checksum_is_right(ip), "{frame:?}");
    Some((error, error.quoted(ip)?))
}

/// What [`forward`] makes of an error about a connection between these sides by this method.
fn forwarded(frame: &mut MemoryFrame, method: Method) -> Result<IpAddr, Drop> {
    let (error, quoted) = about(frame).unwrap();
    let [client, virtual_side, server] = sides(error.is_ipv4);
    let flow = AnyFlow::new(quoted.flow.protocol(), client, virtual_side).unwrap();
    let table = Arc::new(ConnectionTable::new(8, 8, 1).unwrap());
    let mut connections = Connections::new(table.clone(), 0, Tick(0));
    let new = NewConnection { flow, server, method, destination: 0, state: State::Established };
    connections.open(&new, &Timeouts::default(), Tick(0)).unwrap();
    let found = table.find(table.hash(quoted.flow.reversed()), quoted.flow.reversed()).unwrap();
    let connection = (table.entry(found.index), found.direction);
    forward(&mut frame.data_mut()[ethernet::HEADER..], (&error, &quoted), &table, connection)
}

fn cases() -> Vec<(&'static str, MemoryFrame, MemoryFrame)> {
    let frames = vectors(include_str!("../../../tests/scapy/icmp_nat.txt"));
    let case = |(name, frames): (_, Vec<Vec<u8>>)| {
        (name, MemoryFrame::new(&frames[0]), MemoryFrame::new(&frames[1]))
    };
    frames.into_iter().map(case).collect()
}

#[test]
fn by_nat_each_side_finds_what_it_sent() {
    for (name, mut frame, after) in cases() {
        let [client, _, server] = sides(about(&frame).unwrap().0.is_ipv4);
        let to = if name.starts_with("server") { server.0 } else { client.0 };
        assert_eq!(forwarded(&mut frame, Method::Nat), Ok(to), "{name}");
        assert_eq!(frame, after, "{name}");
    }
}

/// The server has the virtual address itself.
#[test]
fn by_direct_routing_only_the_time_to_live_changes() {
    for (name, mut frame, _) in cases().into_iter().filter(|(name, ..)| name.starts_with("server")) {
        let before = frame.clone();
        let error = about(&frame).unwrap().0;
        assert_eq!(forwarded(&mut frame, Method::DirectRouting), Ok(sides(error.is_ipv4)[2].0), "{name}");
        let differs = |at: &usize| before.data()[*at] != frame.data()[*at];
        let changed: Vec<_> = (0..frame.len()).filter(differs).collect();
        let expected = if error.is_ipv4 { vec![14 + 8, 14 + 10] } else { vec![14 + 7] };
        assert_eq!(changed, expected, "{name}");
        if error.is_ipv4 {
            assert!(Ipv4::new(&frame.data()[14..], frame.len() - 14).unwrap().checksum_is_right());
        }
    }
}

#[test]
fn an_error_on_its_last_hop_stays_as_it_is() {
    for (name, frame, _) in cases() {
        let mut bytes = frame.data().to_vec();
        let is_ipv4 = bytes[12..14] == [8, 0];
        bytes[if is_ipv4 { 14 + 8 } else { 14 + 7 }] = 1;
        if is_ipv4 {
            let header = 14..14 + usize::from(bytes[14] & 15) * 4;
            bytes[14 + 10..14 + 12].fill(0);
            let check = checksum::verify(&bytes[header]);
            bytes[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
        }
        let mut frame = MemoryFrame::new(&bytes);
        assert_eq!(forwarded(&mut frame, Method::Nat), Err(Drop::TtlExpired), "{name}");
        assert_eq!(frame.data(), bytes, "{name}");
    }
}

/// The connection is one over IPv6, and somebody claims in ICMP over IPv4 that a packet of it could not go on.
#[test]
fn no_error_is_about_a_packet_of_the_other_family() {
    let find = |name: &str| cases().into_iter().find(|case| case.0 == name).unwrap().1.data().to_vec();
    let (outer, quote) = (find("server_unreachable_3"), find("server_too_big6"));
    let quote = &quote[14 + 48..];
    let mut frame = [&outer[..14 + 28], quote].concat();
    frame[16..18].copy_from_slice(&(28 + quote.len() as u16).to_be_bytes());
    let error = IcmpError::in_frame(&MemoryFrame::new(&frame)).unwrap();
    assert!(crate::parse::quoted(&frame[14 + 28..]).is_some());
    assert_eq!(error.quoted(&frame[14..]), None);
}

proptest! {
    /// Cut anywhere and changed anywhere: no panic, and nothing written beyond the packet.
    #[test]
    fn no_bytes_break_it(
        which in 0usize..1000, cut in 0usize..200, changes in prop::collection::vec((0usize..160, any::<u8>()), 0..6),
    ) {
        let cases = cases();
        let mut bytes = cases[which % cases.len()].1.data().to_vec();
        bytes.truncate(bytes.len().saturating_sub(cut % 100));
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let mut frame = MemoryFrame::new(&bytes);
        let ip = bytes.get(14..).unwrap_or_default();
        let Some(error) = IcmpError::in_frame(&frame) else { return Ok(()) };
        let _ = error.checksum_is_right(ip);
        if let Some(quoted) = error.quoted(ip) {
            let [_, _, server] = sides(error.is_ipv4);
            let _ = rewrite(
                &mut frame.data_mut()[14..],
                &error,
                &quoted,
                [Some((Side::Destination, server)), Some((Side::Source, server))],
                Some(server),
            );
            prop_assert_eq!(&frame.data()[14 + error.length..], &bytes[14 + error.length..]);
        }
    }
}
