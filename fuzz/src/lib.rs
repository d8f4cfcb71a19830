//! What strangers can send, each kind a function over bytes: frames by forwarding method, the parsers alone, commands, requests on the
//! control socket, configuration files.
//!
//! A function panics where director would have done something wrong. `make fuzz` searches for such bytes with libFuzzer and
//! AddressSanitizer; the tests here try those that were found or made before (`corpus/`), without either.

mod frames;
mod seeds;
mod words;

use std::net::IpAddr;

pub use seeds::seeds;
pub use words::{commands, configuration, requests};

use control::model::Change;
use control::snat::SnatRule;
use dataplane::network::MacAddr;
use dataplane::parse::{IpPacket, Packet, Packet6};
use dataplane::wire::Frame;

/// Virtual service and real server of each family: addresses of the frames in `corpus/`.
const SIDES: [(&str, &str); 2] =
    [("198.51.100.8:80", "192.0.2.9"), ("[2001:db8::80]:80", "[2001:db8:ff::c0de]")];
const GUE_PORT: u16 = 6080;
const PROTOCOLS: [&str; 3] = ["-t", "-u", "--sctp-service"];

/// Services of either family and each protocol, whose one server is added with these words.
fn rules(how: &str, port: &str) -> Vec<String> {
    rules_of(&SIDES, how, port)
}

/// The same with servers of the other family, by FULLNAT.
fn rules_across() -> Vec<String> {
    let [(virtual4, server4), (virtual6, server6)] = SIDES;
    rules_of(&[(virtual4, server6), (virtual6, server4)], "--fullnat", ":8080")
}

fn rules_of(sides: &[(&str, &str)], how: &str, port: &str) -> Vec<String> {
    let service = |(virtual_side, server): &(&str, &str), protocol: &&str| {
        [
            format!("-A {protocol} {virtual_side} -s rr"),
            format!("-a {protocol} {virtual_side} -r {server}{port} {how}"),
        ]
    };
    sides.iter().flat_map(|side| PROTOCOLS.iter().flat_map(move |protocol| service(side, protocol))).collect()
}

/// Frames for services by NAT.
pub fn nat(data: &[u8]) {
    frames::run(&rules("-m", ":8080"), data);
}

/// Frames for services by direct routing.
pub fn dr(data: &[u8]) {
    frames::run(&rules("-g", ":80"), data);
}

/// Frames for services whose servers are the director's own host, and what its Linux sends: the first byte says by which method.
pub fn local(data: &[u8]) {
    const METHODS: [(&str, &str); 4] = [("-m", ":8080"), ("-m", ":80"), ("-g", ":80"), ("-i", ":80")];
    if let Some((how, data)) = data.split_first() {
        let (method, port) = METHODS[usize::from(*how) % METHODS.len()];
        let own = SIDES.map(|(_, server)| server.trim_matches(['[', ']']).parse());
        let own: Vec<IpAddr> = own.into_iter().flatten().collect();
        frames::run_on(&own, (&rules(method, port), &[]), data);
    }
}

/// Frames for services by FULLNAT, with one local port for each server.
pub fn fullnat(data: &[u8]) {
    frames::run(&rules("--fullnat", ":8080"), data);
}

/// Frames for services by FULLNAT whose servers are of the other family: the first byte says how these learn of their clients.
pub fn across(data: &[u8]) {
    const ANNOUNCED: [&str; 4] = ["", "toa", "proxy-v1", "proxy-v2"];
    let Some((how, data)) = data.split_first() else { return };
    let mut rules = rules_across();
    match ANNOUNCED[usize::from(*how) % ANNOUNCED.len()] {
        "" => {}
        how => rules
            .extend(SIDES.map(|(virtual_side, _)| format!("-E -t {virtual_side} -s rr --announce {how}"))),
    }
    frames::run(&rules, data);
}

/// Frames that go out by SNAT, with two ports of one address of each family for them, and for a service by NAT.
pub fn snat(data: &[u8]) {
    let rule = |address: &str| {
        let translate_to = address.parse().ok()?;
        let ports = Some("40000-40001".parse().ok()?);
        let rule = SnatRule { ports, ..SnatRule::new(translate_to) };
        Some(Change::AddSnat { rule, position: None })
    };
    let changes: Vec<_> = ["198.51.100.40", "2001:db8:64::40"].into_iter().filter_map(rule).collect();
    assert_eq!(changes.len(), 2, "both are addresses");
    frames::run_with(&rules("-m", ":8080"), &changes, data);
}

/// Frames for services by tunnels: the first byte says which kind.
pub fn tunnel(data: &[u8]) {
    const KINDS: [&str; 6] = [
        "ipip",
        "gre --tun-nocsum",
        "gre --tun-csum",
        "gue --tun-nocsum",
        "gue --tun-csum",
        "gue --tun-remcsum",
    ];
    if let Some((kind, data)) = data.split_first() {
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let port = if kind.starts_with("gue") { format!("--tun-port {GUE_PORT}") } else { String::new() };
        frames::run(&rules(&format!("-i --tun-type {kind} {port}"), ":80"), data);
    }
}

/// ICMP errors: their quotes, in messages that are right around them, for connections of either family and each protocol by each
/// method. The first byte says which method and family, to whom the error goes, and whether the servers are of the other family (FULLNAT's
/// then), the second and third are its type and code, four its parameter.
pub fn icmp(data: &[u8]) {
    const METHODS: [(&str, &str); 4] =
        [("-m", ":8080"), ("-g", ":80"), ("--fullnat", ":8080"), ("-i --tun-type gre --tun-csum", ":80")];
    let [how, kind, code, a, b, c, d, quote @ ..] = data else { return };
    let (method, port) = METHODS[usize::from(how % 4)];
    let error = frames::error(how >> 2 & 1 == 1, how >> 3 & 1 == 1, [*kind, *code, *a, *b, *c, *d], quote);
    let mut records = frames::opening();
    records.push((frames::Record::Raw, error));
    let rules = if how >> 4 & 1 == 1 { rules_across() } else { rules(method, port) };
    frames::run(&rules, &frames::input(0, &records));
}

/// A frame of which only a part lies in one piece.
struct Cut<'a> {
    bytes: &'a [u8],
    first: usize,
}

impl Frame for Cut<'_> {
    fn data(&self) -> &[u8] {
        &self.bytes[..self.first]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut []
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn prepend(&mut self, _: usize) -> Option<&mut [u8]> {
        None
    }

    fn trim_front(&mut self, _: usize) -> bool {
        false
    }

    fn truncate(&mut self, _: usize) -> bool {
        false
    }
}

/// One frame for the parsers, whole and cut after as many bytes as the first two say. What they call a packet lies in the frame.
pub fn parse(data: &[u8]) {
    let [low, high, bytes @ ..] = data else { return };
    let cut = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
    for first in [cut, bytes.len()] {
        let frame = Cut { bytes, first };
        let mac = bytes.first_chunk().map_or(MacAddr([0; 6]), |mac| MacAddr(*mac));
        lies_in::<Packet>(&frame, mac);
        lies_in::<Packet6>(&frame, mac);
    }
}

fn lies_in<P: IpPacket>(frame: &Cut<'_>, mac: MacAddr) {
    let packet = P::in_frame(frame, mac);
    if packet.is_some() {
        let packet = packet.any();
        // TCP's, UDP's and SCTP's ports.
        assert!(14 + packet.transport + 4 <= frame.first, "{packet:?}");
        assert!(14 + packet.length <= frame.bytes.len(), "{packet:?}");
    }
}

#[cfg(test)]
mod tests;
