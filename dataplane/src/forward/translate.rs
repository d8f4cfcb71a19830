//! From one family of IP into the other (RFC 7915), for servers by FULLNAT whose family is not their clients': NAT64 and NAT46. A
//! header of the other family takes the place of the packet's own one with all of its options and extensions; behind it only ports
//! and checksums change. ICMP errors change with the packet that they quote.
//!
//! No service can have such servers yet; this is what becomes of their packets and of errors about these.
//!
//! Nothing here is put together or cut apart: what has no counterpart in the other family is dropped by name.

use std::net::IpAddr;

use super::frames::{replace_front, truncate};
use super::fullnat::set_ports;
use super::icmp::set_port;
use crate::counters::Drop;
use crate::packet::checksum::{self, Difference};
use crate::packet::icmp::{self, code, kind};
use crate::packet::ipv4::Side;
use crate::packet::{ethernet, icmpv6, ipv4, ipv6, protocol, read_u16, read_u32, udp};
use crate::parse::{AnyPacket, IcmpError, Quoted};
use crate::wire::Frame;

/// By how much a packet becomes longer over IPv6.
pub const LONGER: usize = ipv6::HEADER - ipv4::MIN_HEADER;

/// An IPv4 packet that is not longer than this may be fragmented on its way (RFC 7915 §5.1): IPv6 hosts send such packets without having
/// asked for the length that would do.
const FREELY_FRAGMENTED: usize = ipv6::MIN_MTU - LONGER;

/// An error is no longer than this as ICMP (RFC 1812 §4.3.2.3).
const LONGEST_ICMP: usize = 576;

/// Who a packet is from and to, as it goes on. IPv4 addresses are mapped into IPv6.
pub struct Ends {
    /// Who sends it.
    pub source: u128,
    /// Who is to get it.
    pub destination: u128,
    /// Both ports, the source's in the upper half.
    pub ports: u32,
}

/// What is the same in a header of either family.
struct Header {
    /// Type of service, or traffic class: DSCP and ECN.
    class: u8,
    /// Time to live, or hop limit.
    hops: u8,
    protocol: u8,
    /// The length of what comes behind the header and all that belongs to it.
    payload: usize,
    identification: u16,
}

impl Header {
    /// Of a packet whose transport header begins at `transport`. `protocol` comes from there: behind IPv6's extensions it is not in the
    /// header.
    fn of(ip: &[u8], (protocol, transport): (u8, usize), length: usize) -> Option<Self> {
        let head = ip.first_chunk::<{ ipv4::MIN_HEADER }>()?;
        let is_ipv4 = head[0] >> 4 == 4;
        let (class, hops) =
            if is_ipv4 { (head[1], head[8]) } else { ((read_u16(head, 0) >> 4) as u8, head[7]) };
        let payload = length.saturating_sub(transport);
        Some(Self { class, hops, protocol, payload, identification: 0 })
    }

    /// As bytes of the family that `to` is of; both addresses as numbers, IPv4 mapped into IPv6. `None` where it is too long for it.
    fn write(&self, source: u128, to: u128) -> Option<Front> {
        let mut front = Front::default();
        if !is_ipv4(to) {
            let payload = u16::try_from(self.payload).ok()?;
            front.extend([0x60 | self.class >> 4, self.class << 4, 0, 0]);
            front.extend(payload.to_be_bytes());
            front.extend([self.protocol, self.hops]);
            front.extend(source.to_be_bytes());
            front.extend(to.to_be_bytes());
            return Some(front);
        }
        let length = u16::try_from(ipv4::MIN_HEADER + self.payload).ok()?;
        let is_free = usize::from(length) <= FREELY_FRAGMENTED;
        front.extend([0x45, self.class]);
        front.extend(length.to_be_bytes());
        front.extend(if is_free { self.identification } else { 0 }.to_be_bytes());
        front.extend([if is_free { 0 } else { 0x40 }, 0, self.hops, self.protocol, 0, 0]);
        front.extend((source as u32).to_be_bytes());
        front.extend((to as u32).to_be_bytes());
        let check = checksum::verify(&front);
        front[10..12].copy_from_slice(&check.to_be_bytes());
        Some(front)
    }
}

/// What comes in front: an IP header, that of an ICMP error, and that of the packet it quotes.
type Front = arrayvec::ArrayVec<u8, { 2 * ipv6::HEADER + icmp::HEADER }>;

/// Whether this is an IPv4 address that is mapped into IPv6.
fn is_ipv4(address: u128) -> bool {
    address >> 32 == 0xffff
}

/// What both addresses add to a checksum over the pseudo-header.
fn addresses(source: u128, destination: u128) -> u32 {
    if is_ipv4(destination) {
        checksum::pseudo_ipv4(source as u32, destination as u32, 0, 0)
    } else {
        checksum::pseudo_ipv6(source, destination, 0, 0)
    }
}

/// The same of the addresses in a header.
fn addresses_in(ip: &[u8]) -> u32 {
    let bytes = if ip.first().is_some_and(|byte| byte >> 4 == 4) { ip.get(12..20) } else { ip.get(8..40) };
    checksum::sum(bytes.unwrap_or_default())
}

/// Whether IPv4 options say by which way the packet is to go on (RFC 7915 §4.1).
fn is_source_routed(options: &[u8]) -> bool {
    let mut rest = options;
    while let [kind, more @ ..] = rest {
        rest = match (kind, more) {
            (0, _) => return false,
            (1, _) => more,
            (131 | 137, [length, pointer, ..]) if pointer <= length => return true,
            (_, [length, ..]) if *length >= 2 => rest.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        };
    }
    false
}

/// Changes `frame`, which holds this packet, into one of the other family between these ends. `identification` is for an IPv4 packet that
/// may be fragmented.
///
/// # Errors
/// Why the packet cannot go on; the frame is as it was, or of no use.
pub fn packet<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    ends: &Ends,
    identification: u16,
) -> Result<(), Drop> {
    truncate(frame, ethernet::HEADER + packet.length)?;
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let is_from_ipv4 = !is_ipv4(ends.destination);
    if is_from_ipv4 && is_source_routed(ip.get(ipv4::MIN_HEADER..packet.transport).unwrap_or_default()) {
        return Err(Drop::Untranslatable);
    }
    let protocol = packet.flow.protocol();
    let header = Header::of(ip, (protocol, packet.transport), packet.length).ok_or(Drop::Truncated)?;
    // Somebody else has looked whether there is one left to be taken off.
    let header = Header { hops: header.hops.saturating_sub(1), identification, ..header };
    let front = header.write(ends.source, ends.destination).ok_or(Drop::TooBig)?;
    let change =
        Difference::default().remove(addresses_in(ip)).insert(addresses(ends.source, ends.destination));
    let has_none =
        |ip: &[u8]| ip.get(packet.transport + udp::CHECKSUM..).is_some_and(|at| at.starts_with(&[0, 0]));
    let wants_checksum = is_from_ipv4 && protocol == protocol::UDP && has_none(ip);
    if wants_checksum && ip.len() < packet.length {
        return Err(Drop::Scattered);
    }
    set_ports(ip, protocol, (packet.transport, packet.length), ends.ports, change)?;
    if wants_checksum {
        // Over IPv6 there has to be one (RFC 8200 §8.1).
        let datagram = ip.get_mut(packet.transport..packet.length).ok_or(Drop::Scattered)?;
        let pseudo = checksum::pseudo_ipv6(ends.source, ends.destination, protocol, datagram.len() as u32);
        let check = udp::written(!checksum::fold(pseudo + checksum::sum(datagram)));
        if let Some(field) = datagram.get_mut(udp::CHECKSUM..udp::CHECKSUM + 2) {
            field.copy_from_slice(&check.to_be_bytes());
        }
    }
    replace_front(frame, ethernet::HEADER + packet.transport, &front)
}

/// Where an ICMP error goes from and to, and the packet that it quotes, as who gets the error has sent that.
pub struct ErrorEnds {
    /// Whose error it is taken for.
    pub source: IpAddr,
    /// Who gets it.
    pub destination: IpAddr,
    /// Who sent the quoted packet.
    pub from: (IpAddr, u16),
    /// Who that was for.
    pub to: (IpAddr, u16),
}

/// Changes `frame`, which holds this error, into one of the other family.
///
/// # Errors
/// Why it cannot go on.
pub fn error<F: Frame>(
    frame: &mut F,
    (error, quoted): (&IcmpError, &Quoted),
    ends: &ErrorEnds,
    identification: u16,
) -> Result<(), Drop> {
    truncate(frame, ethernet::HEADER + error.length)?;
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let outer = Header::of(ip, (0, error.message), error.length).ok_or(Drop::Truncated)?;
    if outer.hops <= 1 {
        return Err(Drop::TtlExpired);
    }
    let (head, quote) = ip.split_at_mut_checked(error.quote()).ok_or(Drop::Truncated)?;
    let length = length_in(quote);
    let head = head.get(error.message..).and_then(|head| head.first_chunk()).ok_or(Drop::Truncated)?;
    let (message, outer_protocol) = if error.is_ipv4 {
        (to_icmpv6(*head, length), protocol::ICMPV6)
    } else {
        (to_icmp(*head), protocol::ICMP)
    };
    let message = message.ok_or(Drop::Untranslatable)?;

    let [source, destination, from, to] =
        [ends.source, ends.destination, ends.from.0, ends.to.0].map(ipv6::mapped);
    let upper = quoted.flow.protocol();
    let inner = Header::of(quote, (upper, quoted.transport), length).ok_or(Drop::Truncated)?;
    let change = Difference::default().remove(addresses_in(quote)).insert(addresses(from, to));
    let transport = quote.get_mut(quoted.transport..).ok_or(Drop::Truncated)?;
    set_port(transport, upper, Side::Source, ends.from.1, change).ok_or(Drop::Truncated)?;
    set_port(transport, upper, Side::Destination, ends.to.1, Difference::default()).ok_or(Drop::Truncated)?;
    let quoted_bytes = transport.len();

    let (outer_header, longest) =
        if error.is_ipv4 { (ipv6::HEADER, ipv6::MIN_MTU) } else { (ipv4::MIN_HEADER, LONGEST_ICMP) };
    let kept = quoted_bytes.min(longest - 2 * outer_header - icmp::HEADER);
    let inner = inner.write(from, to).ok_or(Drop::TooBig)?;
    let outer = Header {
        protocol: outer_protocol,
        hops: outer.hops - 1,
        payload: icmp::HEADER + inner.len() + kept,
        identification,
        ..outer
    };
    let mut front = outer.write(source, destination).ok_or(Drop::TooBig)?;
    front.extend(message);
    front.extend(inner);
    let at = ethernet::HEADER + error.quote() + quoted.transport;
    truncate(frame, at + kept)?;
    replace_front(frame, at, &front)?;

    let message = frame.data_mut().get_mut(ethernet::HEADER + outer_header..).ok_or(Drop::Truncated)?;
    let check = if error.is_ipv4 {
        icmpv6::make_checksum(source, destination, message)
    } else {
        checksum::verify(message)
    };
    message.get_mut(2..4).ok_or(Drop::Truncated)?.copy_from_slice(&check.to_be_bytes());
    Ok(())
}

/// How long a quoted packet was, by its own header.
fn length_in(packet: &[u8]) -> usize {
    match packet.first_chunk::<{ ipv4::MIN_HEADER }>() {
        Some(head) if head[0] >> 4 == 4 => read_u16(head, 2).into(),
        Some(head) => ipv6::HEADER + usize::from(read_u16(head, 4)),
        None => 0,
    }
}

/// What an ICMP error's header, whose quoted packet was so long, is as ICMPv6 (RFC 7915 §4.2), the checksum 0.
fn to_icmpv6(head: [u8; icmp::HEADER], length: usize) -> Option<[u8; icmp::HEADER]> {
    let unreachable = |code| Some([icmpv6::kind::UNREACHABLE, code, 0, 0, 0, 0, 0, 0]);
    let parameter = |code, at| Some([icmpv6::kind::PARAMETER_PROBLEM, code, 0, 0, 0, 0, 0, at]);
    match (head[0], head[1]) {
        (kind::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => unreachable(0),
        // The protocol is where IPv6 has the next header.
        (kind::UNREACHABLE, 2) => parameter(1, 6),
        (kind::UNREACHABLE, 3) => unreachable(4),
        (kind::UNREACHABLE, code::FRAGMENTATION_NEEDED) => {
            let told = match read_u16(&head, 6) {
                0 => plateau_below(length),
                told => told.into(),
            };
            let mtu = (told + LONGER).max(ipv6::MIN_MTU) as u32;
            let [a, b, c, d] = mtu.to_be_bytes();
            Some([icmpv6::kind::PACKET_TOO_BIG, 0, 0, 0, a, b, c, d])
        }
        (kind::UNREACHABLE, 9 | 10 | 13 | 15) => unreachable(1),
        (kind::TIME_EXCEEDED, code) => Some([icmpv6::kind::TIME_EXCEEDED, code, 0, 0, 0, 0, 0, 0]),
        (kind::PARAMETER_PROBLEM, 0 | 2) => parameter(
            0,
            match head[4] {
                at @ 0..=1 => at,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            },
        ),
        _ => None,
    }
}

/// What an ICMPv6 error's header is as ICMP (RFC 7915 §5.2), the checksum 0.
fn to_icmp(head: [u8; icmp::HEADER]) -> Option<[u8; icmp::HEADER]> {
    let unreachable = |code| Some([kind::UNREACHABLE, code, 0, 0, 0, 0, 0, 0]);
    match (head[0], head[1]) {
        (icmpv6::kind::UNREACHABLE, 0 | 2 | 3) => unreachable(code::HOST),
        (icmpv6::kind::UNREACHABLE, 1) => unreachable(10),
        (icmpv6::kind::UNREACHABLE, 4) | (icmpv6::kind::PARAMETER_PROBLEM, 1) => {
            unreachable(if head[0] == icmpv6::kind::UNREACHABLE { 3 } else { 2 })
        }
        (icmpv6::kind::PACKET_TOO_BIG, _) => {
            let told = (read_u32(&head, 4) as usize).saturating_sub(LONGER);
            let [high, low] = (told.clamp(68, usize::from(u16::MAX)) as u16).to_be_bytes();
            Some([kind::UNREACHABLE, code::FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low])
        }
        (icmpv6::kind::TIME_EXCEEDED, code) => Some([kind::TIME_EXCEEDED, code, 0, 0, 0, 0, 0, 0]),
        (icmpv6::kind::PARAMETER_PROBLEM, 0) => {
            let at = match read_u32(&head, 4) {
                at @ 0..=1 => at as u8,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            Some([kind::PARAMETER_PROBLEM, 0, 0, 0, at, 0, 0, 0])
        }
        _ => None,
    }
}

/// What a router that does not say how long packets may be most likely means (RFC 1191 §7.1).
fn plateau_below(length: usize) -> usize {
    const PLATEAUS: [usize; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];
    PLATEAUS.into_iter().find(|plateau| *plateau < length).unwrap_or(68)
}

#[cfg(test)]
mod tests;
