//! Packet in, packet out: one row a case. The frames were made with scapy, checksums included.

mod fullnat;
mod ipv6;

use std::sync::Arc;

use super::*;
use crate::conn::{ConnectionTable, Connections, NewConnection, State, Timeouts};
use crate::network::MacAddr;
use crate::parse::{Flow, Parsed};
use crate::time::Tick;
use crate::wire::Frame;
use crate::wire::memory::MemoryFrame;

const CLIENT: (u32, u16) = (0xcb00_7109, 40_000); // 203.0.113.9
const VIRTUAL: (u32, u16) = (0xc633_6408, 80); // 198.51.100.8
const SERVER: (u32, u16) = (0xc000_0209, 8080); // 192.0.2.9

struct Case {
    name: &'static str,
    method: Method,
    direction: Direction,
    before: &'static str,
    after: &'static str,
}

const fn case(
    name: &'static str,
    method: Method,
    direction: Direction,
    before: &'static str,
    after: &'static str,
) -> Case {
    Case { name, method, direction, before, after }
}

use Direction::{ToClient, ToServer};
use Method::{DirectRouting, Nat};

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("tcp_syn_with_options", Nat, ToServer,
        "020000000001020000000009080045000030000740004006d47bcb007109c63364089c400050000003e800000000700220005d5a0000020405b401030307",
        "020000000001020000000009080045000030000740003f063daecb007109c00002099c401f90000003e80000000070022000a64c0000020405b401030307"),
    case("tcp_reply", Nat, ToClient,
        "0200000000010200000000090800450000280000000040067cbdc0000209cb0071091f909c4000000005000003e950122000d2000000",
        "020000000001020000000009080045000028000000003f06158bc6336408cb00710900509c4000000005000003e950122000890e0000"),
    case("tcp_data_of_odd_length", Nat, ToServer,
        "020000000001020000000009080045b9003b00010000020651becb007109c63364089c400050000003e90000000650182000f57c00006f6464206c656e677468207061796c6f616421",
        "020000000001020000000009080045b9003b000100000106baf0cb007109c00002099c401f90000003e900000006501820003e6f00006f6464206c656e677468207061796c6f616421"),
    case("ip_options", Nat, ToServer,
        "02000000000102000000000908004600002c000100004006087bcb007109c6336408070b04009c4000500000000000000000501020008cfe0000",
        "02000000000102000000000908004600002c000100003f0671adcb007109c0000209070b04009c401f90000000000000000050102000d5f00000"),
    case("udp", Nat, ToServer,
        "0200000000010200000000090800450000210001000040111486cb007109c63364089c400050000db92b68656c6c6f",
        "020000000001020000000009080045000021000100003f117db8cb007109c00002099c401f90000d021e68656c6c6f"),
    case("udp_without_checksum", Nat, ToServer,
        "0200000000010200000000090800450000210001000040111486cb007109c63364089c400050000d000068656c6c6f",
        "020000000001020000000009080045000021000100003f117db8cb007109c00002099c401f90000d000068656c6c6f"),
    case("udp_checksum_that_comes_out_as_zero", Nat, ToServer,
        "02000000000102000000000908004500001e0001000040111489cb007109c63364089c400050000ab70d45f6",
        "02000000000102000000000908004500001e000100003f117dbbcb007109c00002099c401f90000affff45f6"),
    case("udp_reply", Nat, ToClient,
        "02000000000102000000000908004500001e0001000040117cbbc0000209cb0071091f909c40000add8c6869",
        "02000000000102000000000908004500001e000100003f111589c6336408cb00710900509c40000a949a6869"),
    case("padded_frame", Nat, ToServer,
        "02000000000102000000000908004500001d000100004011148acb007109c63364089c4000500009850578aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "02000000000102000000000908004500001d000100003f117dbccb007109c00002099c401f900009cdf778aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    case("tcp", DirectRouting, ToServer,
        "020000000001020000000009080045000028000100004006148acb007109c63364089c4000500000000000000000500220008d0c0000",
        "020000000001020000000009080045000028000100003f06158acb007109c63364089c4000500000000000000000500220008d0c0000"),
    case("udp", DirectRouting, ToServer,
        "02000000000102000000000908004500002f00010000ff115577cb007109c63364089c400050001b696a6f6464206c656e677468207061796c6f616421",
        "02000000000102000000000908004500002f00010000fe115677cb007109c63364089c400050001b696a6f6464206c656e677468207061796c6f616421"),
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// What [`Forward`] makes of a frame of the connection between [`CLIENT`], [`VIRTUAL`] and [`SERVER`].
fn forwarded(frame: &mut MemoryFrame, method: Method, direction: Direction) -> Result<u32, Drop> {
    let Parsed::Packet(packet) = Packet::parse(frame, MacAddr([2, 0, 0, 0, 0, 1])) else {
        panic!("not a packet: {frame:?}")
    };
    let table = Arc::new(ConnectionTable::new(8, 8, 1).unwrap());
    let mut connections = Connections::new(table.clone(), 0, Tick(0));
    let flow = Flow::new(packet.flow.protocol(), CLIENT, VIRTUAL);
    let (flow, server) = (flow.into(), (std::net::Ipv4Addr::from(SERVER.0).into(), SERVER.1));
    let new = NewConnection { flow, server, method, destination: 0, state: State::Established };
    let index = connections.open(&new, &Timeouts::default(), Tick(0)).unwrap();
    let to = packet.forward(frame.data_mut(), &table, table.entry(index), direction);
    to.map(u32::from)
}

#[test]
fn packet_in_packet_out() {
    for case in CASES {
        let mut frame = MemoryFrame::new(&bytes(case.before));
        let to = if case.direction == ToServer { SERVER.0 } else { CLIENT.0 };
        assert_eq!(forwarded(&mut frame, case.method, case.direction), Ok(to), "{}", case.name);
        assert_eq!(frame, MemoryFrame::new(&bytes(case.after)), "{}: {:?}", case.name, case.method);
    }
}

#[test]
fn a_packet_on_its_last_hop_stays_as_it_is() {
    for case in CASES {
        let mut before = bytes(case.before);
        before[14 + 8] = 1;
        before[14 + 10..14 + 12].fill(0);
        let header = 14..14 + usize::from(before[14] & 15) * 4;
        let check = crate::packet::checksum::verify(&before[header]);
        before[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
        let mut frame = MemoryFrame::new(&before);
        assert_eq!(
            forwarded(&mut frame, case.method, case.direction),
            Err(Drop::TtlExpired),
            "{}",
            case.name
        );
        assert_eq!(frame, MemoryFrame::new(&before), "{}", case.name);
    }
}
