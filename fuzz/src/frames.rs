//! Frames: whatever comes in on a wire, for services of one forwarding method each.
//!
//! An input is a byte of switches and then records: what it is 1, length 2 (lowest byte first), as many bytes. Where the director's host
//! has a Linux, a frame comes from there if what it is has [`FROM_LINUX`] in it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use control::local::LocalAddresses;
use control::model::Change;
use control::protocol::Request;
use dataplane::counters::Totals;
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

/// Of what a record is: that Linux has sent the frame.
pub(crate) const FROM_LINUX: u8 = 4;

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
/// The real servers of the rules.
const SERVER: [u8; 4] = [192, 0, 2, 9];
const SERVER_V6: &str = "2001:db8:ff::c0de";
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

/// Connections that are opened, and what their servers on this host answer from this port: whole, in fragments, and with an error.
pub(crate) fn talk(server_port: u16) -> Vec<u8> {
    let [_, client, _] = in_ipv6();
    let server = SERVER_V6.parse::<std::net::Ipv6Addr>().map_or([0; 16], |address| address.octets());
    let mut input = input(0, &opening());
    let mut linux_sends = |record: Record, frame: &[u8]| {
        input.push(record as u8 | FROM_LINUX);
        input.extend((frame.len() as u16).to_le_bytes());
        input.extend(frame);
    };
    for ipv6 in [false, true] {
        let packet = |to_server: bool| {
            let frame = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            match (ipv6, to_server) {
                (false, false) => frame.ipv4(SERVER, CLIENT, 64),
                (false, true) => frame.ipv4(CLIENT, SERVER, 64),
                (true, false) => frame.ipv6(server, client, 64),
                (true, true) => frame.ipv6(client, server, 64),
            }
        };
        let [mut tcp, mut udp, mut request] = [(); 3].map(|()| Vec::new());
        let written = [
            packet(false).tcp(server_port, 40_000, 1, 1000).syn().ack(2).write(&mut tcp, b"").is_ok(),
            packet(false).udp(server_port, 40_000).write(&mut udp, &[b'a'; 40]).is_ok(),
            packet(true).udp(40_000, server_port).write(&mut request, b"question").is_ok(),
        ];
        assert_eq!(written, [true; 3], "a vector takes everything");
        linux_sends(Record::Raw, &tcp);
        linux_sends(Record::Twice, &udp);
        let head = if ipv6 { [1, 4, 0, 0, 0, 0] } else { [3, 3, 0, 0, 0, 0] };
        linux_sends(Record::Raw, &error(ipv6, true, head, &request[ETHERNET..]));
        if !ipv6 {
            let (headers, payload) = udp.split_at(ETHERNET + 20);
            let (first, second) = payload.split_at(24);
            for (part, flags) in [(first, [0x20, 0]), (second, [0, 3])] {
                let mut fragment = [headers, part].concat();
                fragment[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
                fragment[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&flags);
                linux_sends(Record::Summed, &fragment);
            }
        }
    }
    input
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
    run_on(&[], (rules, &[]), data);
}

/// The same with changes that ipvsadm has no words for.
pub(crate) fn run_with(rules: &[String], changes: &[Change], data: &[u8]) {
    run_on(&[], (rules, changes), data);
}

/// The same for one on a host with Linux, whose own addresses these are.
pub(crate) fn run_on(own: &[IpAddr], configuration: (&[String], &[Change]), data: &[u8]) {
    let outcome = send(own, configuration, data);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// What the director has counted in the end.
fn send(own: &[IpAddr], (rules, changes): (&[String], &[Change]), data: &[u8]) -> Result<Totals> {
    let (switches, mut rest) = data.split_first().unwrap_or((&0, &[]));
    let stage = match own {
        [] => Stage::sized(|_| Ok(()), 256)?,
        own => Stage::with_linux(|_| Ok(()), 256, own)?,
    };
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
        let is_from_linux = !own.is_empty() && record & FROM_LINUX != 0;
        match Record::of(*record) {
            Record::Raw => exchange(&stage, bytes, is_from_linux),
            Record::Summed => exchange(&stage, &summed(bytes), is_from_linux),
            Record::Twice => {
                exchange(&stage, &summed(bytes), is_from_linux);
                exchange(&stage, &summed(bytes), is_from_linux);
            }
            Record::Wait => stage.pass(Duration::from_millis(16) * length as u32),
        }
    }
    if !stage.counters().balance() {
        stage.pass(LONGEST_WAIT);
    }
    let counters = stage.counters();
    assert!(counters.balance(), "{counters:?}");
    Ok(counters)
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

fn exchange(stage: &Stage, frame: &[u8], is_from_linux: bool) {
    let was_right = transport_is_right(frame);
    let sent = if is_from_linux { stage.linux_sends(frame) } else { stage.send(frame) };
    // What goes by as it is was somebody else's work.
    for sent in sent.into_iter().chain(stage.linux_received()).filter(|sent| sent != frame) {
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
        // Of messages that it knows, the library leaves out what is unused and need not be 0.
        TransportHeader::Icmpv4(_) => {
            Some(sum(v4.and_then(|ip| message(frame, ip.total_len.into(), payload))?) == 0xffff)
        }
        TransportHeader::Icmpv6(_) => {
            let ip = v6?;
            let message = message(frame, 40 + usize::from(ip.payload_length), payload)?;
            let pseudo =
                [&ip.source[..], &ip.destination, &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]]
                    .concat();
            Some(sum(&[&pseudo, message].concat()) == 0xffff)
        }
    }
}

/// An ICMP message with this payload, which is the end of a packet of this length.
fn message<'f>(frame: &'f [u8], length: usize, payload: &[u8]) -> Option<&'f [u8]> {
    let end = ETHERNET + length;
    frame.get(end.checked_sub(8 + payload.len())?..end)
}

/// The ones' complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + sum) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzing of servers on this host begins with gets as far as it is meant to: each connection to Linux, and its answers to the
    /// client; not so what is no answer.
    #[test]
    fn servers_on_this_host_are_talked_to() {
        let own = [IpAddr::from(SERVER), IpAddr::V6(SERVER_V6.parse().unwrap())];
        let rules = crate::rules("-m", ":8080");
        let totals = send(&own, (&rules, &[]), &talk(8080)).unwrap();
        // Six requests; of each family a segment, a datagram twice, an error, and over IPv4 two fragments.
        assert_eq!((totals.received, totals.to_kernel, totals.forwarded, totals.from_kernel), (16, 6, 10, 0));
        let totals = send(&own, (&rules, &[]), &talk(8081)).unwrap();
        assert_eq!((totals.received, totals.to_kernel, totals.forwarded, totals.from_kernel), (6, 6, 0, 10));
    }
}
