//! Frames: whatever comes in on a wire, for services of one forwarding method each.
//!
//! An input is a byte of switches and then records: what it is 1, length 2 (lowest byte first), as many bytes.

use std::time::Duration;

use anyhow::Result;
use control::local::LocalAddresses;
use control::model::Change;
use control::protocol::Request;
use dataplane::packet::checksum;
use etherparse::{IpNumber, LaxPacketHeaders, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use replay::stage::Stage;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A frame as it is.
    Raw = 0,
    /// A frame whose IPv4 header gets the checksum that is right for it: else hardly one that was changed would get any further.
    Summed = 1,
    /// Time goes by: a tick for each byte.
    Wait = 2,
    /// As [`Record::Summed`], twice.
    Twice = 3,
}

impl Record {
    fn of(byte: u8) -> Self {
        [Self::Raw, Self::Summed, Self::Wait, Self::Twice][usize::from(byte % 4)]
    }
}

/// Sysctls, one a bit of the first byte.
const SWITCHES: [(&str, i64); 8] = [
    ("sloppy_tcp", 1),
    ("sloppy_sctp", 1),
    ("pmtu_disc", 0),
    ("expire_nodest_conn", 1),
    ("conn_reuse_mode", 0),
    ("secure_tcp", 3),
    ("drop_packet", 3),
    ("drop_entry", 3),
];

/// The longest that a frame waits for anything: fragments for the first one.
const LONGEST_WAIT: Duration = Duration::from_secs(62);

const ETHERNET: usize = 14;

/// What servers by FULLNAT take for their clients', as in the vectors.
const LOCAL: [&str; 2] = ["192.0.2.33/32", "2001:db8:ff::33/128"];
const LOCAL_PORT: &str = "20000";

const ROUTER: [u8; 4] = [203, 0, 113, 254];
const CLIENT: [u8; 4] = [203, 0, 113, 9];
const VIRTUAL: [u8; 4] = [198, 51, 100, 8];
const IN_IPV6: [&str; 3] = ["2001:db8:cb::fe", "2001:db8::9", "2001:db8::80"];

fn in_ipv6() -> [[u8; 16]; 3] {
    IN_IPV6.map(|text| text.parse::<std::net::Ipv6Addr>().map_or([0; 16], |address| address.octets()))
}

/// Packets that open a connection from port 40000 each: TCP, UDP and SCTP over either family.
pub(crate) fn opening() -> Vec<(Record, Vec<u8>)> {
    let [_, client, virtual_side] = in_ipv6();
    let init = [1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1];
    let sctp = [&[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0][..], &init].concat();
    let mut frames = Vec::new();
    for ipv6 in [false, true] {
        let packet = || {
            let frame = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
            if ipv6 { frame.ipv6(client, virtual_side, 64) } else { frame.ipv4(CLIENT, VIRTUAL, 64) }
        };
        let [mut tcp, mut udp, mut other] = [(); 3].map(|()| Vec::new());
        let written = [
            packet().tcp(40_000, 80, 1, 1000).syn().write(&mut tcp, b"").is_ok(),
            packet().udp(40_000, 80).write(&mut udp, b"question").is_ok(),
            packet().write(&mut other, IpNumber(132), &sctp).is_ok(),
        ];
        assert_eq!(written, [true; 3], "a vector takes everything");
        frames.extend([tcp, udp, other].map(|frame| (Record::Raw, frame)));
    }
    frames
}

/// An ICMP error, or ICMPv6 one, with a right checksum around this quote: from a router to the virtual address, or to the client.
/// `head` is type, code and what follows the checksum.
pub(crate) fn error(ipv6: bool, to_client: bool, head: [u8; 6], quote: &[u8]) -> Vec<u8> {
    let [kind, code, parameter @ ..] = head;
    let quote = &quote[..quote.len().min(1232)];
    let frame = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let mut error = Vec::new();
    let written = if ipv6 {
        let [router, client, virtual_side] = in_ipv6();
        let frame = frame.ipv6(router, if to_client { client } else { virtual_side }, 64);
        frame.icmpv6_raw(kind, code, parameter).write(&mut error, quote)
    } else {
        let frame = frame.ipv4(ROUTER, if to_client { CLIENT } else { VIRTUAL }, 64);
        frame.icmpv4_raw(kind, code, parameter).write(&mut error, quote)
    };
    assert!(written.is_ok(), "a vector takes everything");
    error
}

/// Makes an input of records.
pub(crate) fn input(switches: u8, records: &[(Record, Vec<u8>)]) -> Vec<u8> {
    let mut input = vec![switches];
    for (record, bytes) in records {
        input.push(*record as u8);
        input.extend((bytes.len() as u16).to_le_bytes());
        input.extend(bytes);
    }
    input
}

/// Sends the input's frames to a director with these rules (ipvsadm's words). Panics where a frame is not accounted for, or one
/// goes out that is not what it says it is.
pub(crate) fn run(rules: &[String], data: &[u8]) {
    run_with(rules, &[], data);
}

/// The same with changes that ipvsadm has no words for.
pub(crate) fn run_with(rules: &[String], changes: &[Change], data: &[u8]) {
    let outcome = send(rules, changes, data);
    assert!(outcome.is_ok(), "{outcome:?}");
}

fn send(rules: &[String], changes: &[Change], data: &[u8]) -> Result<()> {
    let Some((switches, mut rest)) = data.split_first() else { return Ok(()) };
    let stage = Stage::sized(|_| Ok(()), 256)?;
    for (bit, (name, value)) in SWITCHES.iter().enumerate() {
        if switches >> bit & 1 == 1 {
            stage.sysctl(name, *value)?;
        }
    }
    for address in LOCAL {
        let ports = Some(LOCAL_PORT.parse()?);
        let local = LocalAddresses { ports, ..LocalAddresses::new(address.parse()?) };
        stage.request(&Request::Change(Change::AddLocalAddresses(local)))?;
    }
    for rule in rules {
        stage.rule(rule)?;
    }
    for change in changes {
        stage.request(&Request::Change(change.clone()))?;
    }
    while let [record, low, high, more @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (bytes, after) = more.split_at(length);
        rest = after;
        match Record::of(*record) {
            Record::Raw => exchange(&stage, bytes),
            Record::Summed => exchange(&stage, &summed(bytes)),
            Record::Twice => {
                exchange(&stage, &summed(bytes));
                exchange(&stage, &summed(bytes));
            }
            Record::Wait => stage.pass(Duration::from_millis(16) * length as u32),
        }
    }
    if !stage.counters().balance() {
        stage.pass(LONGEST_WAIT);
    }
    let counters = stage.counters();
    assert!(counters.balance(), "{counters:?}");
    Ok(())
}

fn summed(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.len() >= ETHERNET + 20 && frame[12..14] == [8, 0] {
        let header = (usize::from(frame[ETHERNET] & 15) * 4).clamp(20, frame.len() - ETHERNET);
        let ip = &mut frame[ETHERNET..ETHERNET + header];
        ip[10..12].fill(0);
        let sum = checksum::verify(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn exchange(stage: &Stage, frame: &[u8]) {
    let was_right = transport_is_right(frame);
    for sent in stage.send(frame) {
        assert!(sent.len() >= ETHERNET + 20 && sent.len() <= ETHERNET + 1500, "{} bytes", sent.len());
        if sent[12..14] == [8, 0] {
            let header = usize::from(sent[ETHERNET] & 15) * 4;
            assert!(header >= 20 && sent.len() >= ETHERNET + header, "{sent:02x?}");
            assert_eq!(checksum::verify(&sent[ETHERNET..ETHERNET + header]), 0, "{sent:02x?}");
        }
        if was_right == Some(true) {
            assert_ne!(transport_is_right(&sent), Some(false), "{frame:02x?} became {sent:02x?}");
        }
    }
}

/// Whether the checksum of TCP, UDP, ICMP or ICMPv6 in a whole packet is right, by a library that is not director's; `None` where
/// there is none to be judged.
fn transport_is_right(frame: &[u8]) -> Option<bool> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    // What is longer than its headers say is padding, and what is shorter is not whole.
    let lax = LaxPacketHeaders::from_ethernet(frame).ok()?;
    if lax.stop_err.is_some() {
        return None;
    }
    let (net, payload) = (headers.net?, headers.payload.slice());
    let (v4, v6) = match &net {
        NetHeaders::Ipv4(ip, _) if !ip.is_fragmenting_payload() => (Some(ip), None),
        NetHeaders::Ipv6(ip, extensions) if !extensions.is_fragmenting_payload() => (None, Some(ip)),
        _ => return None,
    };
    match headers.transport? {
        TransportHeader::Tcp(tcp) => {
            let right = match (v4, v6) {
                (Some(ip), _) => tcp.calc_checksum_ipv4(ip, payload).ok()?,
                (_, Some(ip)) => tcp.calc_checksum_ipv6(ip, payload).ok()?,
                _ => return None,
            };
            Some(right == tcp.checksum)
        }
        TransportHeader::Udp(udp) => {
            let right = match (v4, v6) {
                (Some(ip), _) => udp.calc_checksum_ipv4(ip, payload).ok()?,
                (_, Some(ip)) => udp.calc_checksum_ipv6(ip, payload).ok()?,
                _ => return None,
            };
            // None is made for GUE over IPv6 either (RFC 6935).
            let is_none = udp.checksum == 0 && (v4.is_some() || udp.destination_port == crate::GUE_PORT);
            (!is_none && usize::from(udp.length) == payload.len() + 8).then_some(right == udp.checksum)
        }
        TransportHeader::Icmpv4(icmp) => Some(icmp.icmp_type.calc_checksum(payload) == icmp.checksum),
        TransportHeader::Icmpv6(icmp) => {
            let ip = v6?;
            let right = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).ok()?;
            Some(right == icmp.checksum)
        }
    }
}
