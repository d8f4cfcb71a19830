//! The same for IPv6: packets that scapy made.

use std::net::{IpAddr, Ipv6Addr};

use super::*;
use crate::packet::vectors::vectors;
use crate::parse::{Flow6, Parsed};

const CLIENT: (u128, u16) = (0x2001_0db8 << 96 | 9, 40_000);
const VIRTUAL: (u128, u16) = (0x2001_0db8 << 96 | 0x80, 80);
const SERVER: (u128, u16) = (0x2001_0db8_00ff << 80 | 0xc0de, 8080);

/// What [`Forward`] makes of a frame of the connection between these.
fn forwarded(frame: &mut MemoryFrame, method: Method, direction: Direction) -> Result<u128, Drop> {
    let Parsed::Packet(packet) = Packet6::parse(frame, MacAddr([2, 0, 0, 0, 0, 1])) else {
        panic!("not a packet: {frame:?}")
    };
    let table = Arc::new(ConnectionTable::new(8, 8, 1).unwrap());
    let mut connections = Connections::new(table.clone(), 0, Tick(0));
    let flow = Flow6::new(packet.flow.protocol(), CLIENT, VIRTUAL);
    let expected =
        if direction == ToServer { flow } else { Flow6::new(packet.flow.protocol(), SERVER, CLIENT) };
    assert_eq!(packet.flow, expected);
    let server = (IpAddr::from(Ipv6Addr::from(SERVER.0)), SERVER.1);
    let new = NewConnection { flow: flow.into(), server, method, destination: 0, state: State::Established };
    let entry = table.entry(connections.open(&new, &Timeouts::default(), Tick(0)).unwrap());
    packet.forward(frame.data_mut(), &table, entry, direction).map(u128::from)
}

/// Each case: its name, its method and direction, the frame before and after.
fn cases() -> Vec<(&'static str, Method, Direction, MemoryFrame, MemoryFrame)> {
    let front = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &[0x86, 0xdd]].concat();
    let requests = vectors(include_str!("../../../tests/scapy/ipv6_nat.txt"));
    let requests = requests.into_iter().filter(|(name, _)| *name != "udp_fragment").map(|(name, packets)| {
        let frame = |packet: &[u8]| MemoryFrame::new(&[&front, packet].concat());
        (name, Nat, ToServer, frame(&packets[0]), frame(&packets[1]))
    });
    let others = vectors(include_str!("../../../tests/scapy/ipv6_forward.txt"));
    let others = others.into_iter().map(|(name, frames)| {
        let (method, direction) =
            if name.starts_with("reply") { (Nat, ToClient) } else { (DirectRouting, ToServer) };
        (name, method, direction, MemoryFrame::new(&frames[0]), MemoryFrame::new(&frames[1]))
    });
    requests.chain(others).collect()
}

#[test]
fn packet_in_packet_out() {
    for (name, method, direction, mut frame, after) in cases() {
        let to = if direction == ToServer { SERVER.0 } else { CLIENT.0 };
        assert_eq!(forwarded(&mut frame, method, direction), Ok(to), "{name}");
        assert_eq!(frame, after, "{name}");
    }
}

#[test]
fn a_packet_on_its_last_hop_stays_as_it_is() {
    for (name, method, direction, frame, _) in cases() {
        for limit in [0, 1] {
            let mut bytes = frame.data().to_vec();
            bytes[14 + 7] = limit;
            let before = MemoryFrame::new(&bytes);
            let mut frame = MemoryFrame::new(&bytes);
            assert_eq!(forwarded(&mut frame, method, direction), Err(Drop::TtlExpired), "{name}");
            assert_eq!(frame, before, "{name}");
        }
    }
}
