//! FULLNAT: packets that scapy made, as they come in and as they go out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::conn::inside::Announce;
use crate::packet::protocol;
use crate::packet::vectors::vectors;
use crate::parse::{AnyFlow, AnyPacket, Parsed};

/// Client, virtual side, server and local side.
fn sides(ipv6: bool) -> [(IpAddr, u16); 4] {
    let addresses = if ipv6 {
        [(9, 0), (0x80, 0), (0xc0de, 0xff), (0x33, 0xff)]
            .map(|(last, net): (u128, u128)| Ipv6Addr::from(0x2001_0db8_u128 << 96 | net << 80 | last).into())
    } else {
        [CLIENT.0, VIRTUAL.0, SERVER.0, 0xc000_0221].map(|number| Ipv4Addr::from(number).into())
    };
    let [client, virtual_address, server, local] = addresses;
    [(client, CLIENT.1), (virtual_address, VIRTUAL.1), (server, SERVER.1), (local, 20_000)]
}

fn parsed(frame: &MemoryFrame) -> AnyPacket {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    match (Packet::parse(frame, mac), Packet6::parse(frame, mac)) {
        (Parsed::Packet(packet), _) => packet.any(),
        (_, Parsed::Packet(packet)) => packet.any(),
        _ => panic!("not a packet: {frame:?}"),
    }
}

/// What becomes of a frame of the connection between these.
fn forwarded(frame: &mut MemoryFrame, direction: Direction, ipv6: bool) -> Result<IpAddr, Drop> {
    let packet = parsed(frame);
    let [client, virtual_side, server, local] = sides(ipv6);
    let table = Arc::new(ConnectionTable::new(8, 8, 1).unwrap());
    let mut connections = Connections::new(table.clone(), 0, Tick(0));
    let flow = AnyFlow::new(packet.flow.protocol(), client, virtual_side).unwrap();
    let new =
        NewConnection { flow, server, method: Method::FullNat, destination: 0, state: State::Established };
    let locals = std::iter::once(local);
    let index = connections
        .open_fullnat(None, (&new, Announce::Nothing), locals, &Timeouts::default(), Tick(0))
        .unwrap();
    let found = table.find(table.hash(packet.flow), packet.flow).unwrap();
    assert_eq!((found.index, found.direction), (index, direction));
    let entry = table.entry(index);
    let mut straight = frame.clone();
    let straightly = forwarded_straight(&mut straight, &table, entry, direction);
    let outcome = crate::forward::fullnat::forward(frame, &packet, &table, (entry, direction), 1500);
    assert_eq!((straightly, &straight), (outcome.map(drop), &*frame), "on the straight way");
    outcome
}

/// The same by the way that packets take whose frames stay as long as they are.
fn forwarded_straight(
    frame: &mut MemoryFrame,
    table: &ConnectionTable,
    entry: &Entry,
    direction: Direction,
) -> Result<(), Drop> {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    match (Packet::in_frame(frame, mac), Packet6::in_frame(frame, mac)) {
        (packet, _) if packet.is_some() => {
            packet.forward_by_fullnat(frame.data_mut(), table, entry, direction)
        }
        (_, packet) => packet.forward_by_fullnat(frame.data_mut(), table, entry, direction),
    }
}

#[test]
fn only_where_it_was_asked_for_over_tcp_are_servers_told_of_clients() {
    let [client, virtual_side, server, local] = sides(false);
    for (protocol, announce, announces) in [
        (protocol::TCP, Announce::Nothing, false),
        (protocol::TCP, Announce::Toa, true),
        (protocol::TCP, Announce::ProxyV2, true),
        (protocol::UDP, Announce::Toa, false),
    ] {
        let table = Arc::new(ConnectionTable::new(8, 8, 1).unwrap());
        let mut connections = Connections::new(table.clone(), 0, Tick(0));
        let flow = AnyFlow::new(protocol, client, virtual_side).unwrap();
        let state = State::initial(protocol);
        let new = NewConnection { flow, server, method: Method::FullNat, destination: 0, state };
        let opened = connections.open_fullnat(
            None,
            (&new, announce),
            std::iter::once(local),
            &Timeouts::default(),
            Tick(0),
        );
        let entry = table.entry(opened.unwrap());
        assert_eq!((entry.method(), entry.resizes()), (Method::FullNat, announces), "{announce:?}");
    }
}

fn cases() -> Vec<(&'static str, bool, Direction, MemoryFrame, MemoryFrame)> {
    let cases = vectors(include_str!("../../../tests/scapy/fullnat.txt"));
    cases
        .into_iter()
        .map(|(name, packets)| {
            let ipv6 = name.starts_with("v6");
            let direction = if name.ends_with("request") { ToServer } else { ToClient };
            let ethertype: [u8; 2] = if ipv6 { [0x86, 0xdd] } else { [8, 0] };
            let front = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype].concat();
            let frame = |packet: &[u8]| MemoryFrame::new(&[&front, packet].concat());
            (name, ipv6, direction, frame(&packets[0]), frame(&packets[1]))
        })
        .collect()
}

#[test]
fn packet_in_packet_out() {
    for (name, ipv6, direction, mut frame, after) in cases() {
        let [client, _, server, _] = sides(ipv6);
        let to = if direction == ToServer { server.0 } else { client.0 };
        assert_eq!(forwarded(&mut frame, direction, ipv6), Ok(to), "{name}");
        assert_eq!(frame, after, "{name}");
    }
}

#[test]
fn a_packet_on_its_last_hop_stays_as_it_is() {
    for (name, ipv6, direction, frame, _) in cases() {
        let mut bytes = frame.data().to_vec();
        if ipv6 {
            bytes[14 + 7] = 1;
        } else {
            bytes[14 + 8] = 1;
            bytes[14 + 10..14 + 12].fill(0);
            let header = 14..14 + usize::from(bytes[14] & 15) * 4;
            let check = crate::packet::checksum::verify(&bytes[header]);
            bytes[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
        }
        let before = MemoryFrame::new(&bytes);
        let mut frame = MemoryFrame::new(&bytes);
        assert_eq!(forwarded(&mut frame, direction, ipv6), Err(Drop::TtlExpired), "{name}");
        assert_eq!(frame, before, "{name}");
    }
}
