//! ICMP errors from one family into the other (RFC 7915 §4.2, §5.2), with the packets that they quote.

use std::net::IpAddr;

use super::{Header, LONGER, addresses, addresses_in};
use crate::counters::Drop;
use crate::forward::frames::{replace_front, truncate};
use crate::forward::icmp::set_port;
use crate::packet::checksum::{self, Difference};
use crate::packet::icmp::{self, code, kind};
use crate::packet::ipv4::Side;
use crate::packet::{ethernet, icmpv6, ipv4, ipv6, protocol, read_u16, read_u32};
use crate::parse::{IcmpError, Quoted};
use crate::wire::Frame;

/// An error is no longer than this as ICMP (RFC 1812 §4.3.2.3).
const LONGEST_ICMP: usize = 576;

/// Where an ICMP error goes from and to, and the packet that it quotes, as who gets the error has sent that.
pub(crate) struct ErrorEnds {
    /// Whose error it is taken for.
    pub(crate) source: IpAddr,
    /// Who gets it.
    pub(crate) destination: IpAddr,
    /// Who sent the quoted packet.
    pub(crate) from: (IpAddr, u16),
    /// Who that was for.
    pub(crate) to: (IpAddr, u16),
}

/// Changes `frame`, which holds this error, into one of the other family.
///
/// # Errors
/// Why it cannot go on.
pub(crate) fn error<F: Frame>(
    frame: &mut F,
    (error, quoted): (&IcmpError, &Quoted),
    ends: &ErrorEnds,
    identification: u16,
) -> Result<(), Drop> {
    truncate(frame, ethernet::HEADER + error.length)?;
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let outer = Header::of(ip, (0, error.message), error.length)?.passed_on()?;
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
    let inner = Header::of(quote, (upper, quoted.transport), length)?;
    let change = Difference::default().remove(addresses_in(quote)).insert(addresses(from, to));
    let transport = quote.get_mut(quoted.transport..).ok_or(Drop::Truncated)?;
    set_port(transport, upper, Side::Source, ends.from.1, change).ok_or(Drop::Truncated)?;
    set_port(transport, upper, Side::Destination, ends.to.1, Difference::default()).ok_or(Drop::Truncated)?;
    let quoted_bytes = transport.len();

    let (outer_header, longest) =
        if error.is_ipv4 { (ipv6::HEADER, ipv6::MIN_MTU) } else { (ipv4::MIN_HEADER, LONGEST_ICMP) };
    let inner = inner.write(from, to).ok_or(Drop::TooBig)?;
    let kept = quoted_bytes.min(longest.saturating_sub(outer_header + icmp::HEADER + inner.len()));
    let outer = Header {
        protocol: outer_protocol,
        payload: icmp::HEADER + inner.len() + kept,
        identification,
        part: None,
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
pub(super) fn to_icmpv6(head: [u8; icmp::HEADER], length: usize) -> Option<[u8; icmp::HEADER]> {
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
pub(super) fn to_icmp(head: [u8; icmp::HEADER]) -> Option<[u8; icmp::HEADER]> {
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
