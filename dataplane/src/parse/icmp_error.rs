//! Parse, for ICMP errors: what they say, and the packet that they quote.
//!
//! What is quoted is whatever somebody says that we sent: it is cut short where the error ends, its length fields mean nothing
//! here, and it may be made up. It is read as far as the ports and never beyond the error.

use super::{AnyFlow, Flow, Flow6, is_balanced};
use crate::packet::ethernet::{self, Ethernet, ethertype};
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::Ipv6;
use crate::packet::{checksum, echo, icmp, icmpv6, protocol, read_u16};
use crate::wire::Frame;

/// The length of an ICMP header, and of an ICMPv6 one: what is quoted comes behind it.
const HEADER: usize = icmp::HEADER;
const _: () = assert!(icmp::HEADER == icmpv6::HEADER);

/// An ICMP error, or an ICMPv6 one, in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// True for ICMP over IPv4.
    pub is_ipv4: bool,
    /// Where the ICMP header begins, in bytes from the start of the IP header.
    pub message: usize,
    /// The IP packet's length in bytes.
    pub length: usize,
    /// ICMP's type.
    pub kind: u8,
    /// ICMP's code.
    pub code: u8,
}

/// What is known of a quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Who talked to whom.
    pub flow: AnyFlow,
    /// Where the transport header begins, in bytes from the start of the quoted IP header. Four bytes of it are there.
    pub transport: usize,
}

/// True for the types of ICMP that quote a packet that could not go on.
pub(super) const fn is_error(kind: u8) -> bool {
    use icmp::kind::{PARAMETER_PROBLEM, SOURCE_QUENCH, TIME_EXCEEDED, UNREACHABLE};
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// The same for ICMPv6 (RFC 4443 §2.1).
pub(super) const fn is_error_ipv6(kind: u8) -> bool {
    kind < icmpv6::kind::FIRST_INFORMATIONAL
}

impl IcmpError {
    /// The error in a frame for which [`parse`](super::IpPacket::parse) gives [`Parsed::Error`](super::Parsed::Error); `None` for
    /// any other, and for one that does not lie in one piece.
    pub fn in_frame<F: Frame>(frame: &F) -> Option<Self> {
        let ethernet = Ethernet::new(frame.data())?;
        let (payload, received) = (ethernet.payload(), frame.len() - ethernet::HEADER);
        let is_ipv4 = ethernet.ethertype() == ethertype::IPV4;
        let (protocol, message, length) = if is_ipv4 {
            let ip = Ipv4::new(payload, received).ok()?;
            (ip.protocol(), ip.header_length(), ip.total_length().into())
        } else {
            let ip = Ipv6::new(payload, received).ok()?;
            let upper = ip.upper().ok()?;
            (upper.protocol, upper.offset, ip.total_length())
        };
        let [kind, code, ..] = *payload.get(message..length)?.first_chunk::<HEADER>()?;
        let is_error = match protocol {
            protocol::ICMP => is_ipv4 && is_error(kind),
            protocol::ICMPV6 => !is_ipv4 && is_error_ipv6(kind),
            _ => false,
        };
        is_error.then_some(Self { is_ipv4, message, length, kind, code })
    }

    /// Where the quoted packet begins, in bytes from the start of the IP header.
    #[inline]
    pub fn quote(&self) -> usize {
        self.message + HEADER
    }

    /// The packet that it is about, where that is of a balanced protocol, or an ICMP echo, and the quote has its ports. `ip` is the packet that the error
    /// was found in, with its IP header.
    pub fn quoted(&self, ip: &[u8]) -> Option<Quoted> {
        let quoted = quoted(ip.get(self.quote()..self.length)?)?;
        // Else it is made up: a router answers in the family that it was asked in.
        (self.is_ipv4 == matches!(quoted.flow, AnyFlow::V4(_))).then_some(quoted)
    }

    /// True where its checksum is right. `ip` is the packet that the error was found in, with its IP header.
    pub fn checksum_is_right(&self, ip: &[u8]) -> bool {
        let Some(message) = ip.get(self.message..self.length) else { return false };
        if self.is_ipv4 {
            return checksum::verify(message) == 0;
        }
        let Ok(header) = Ipv6::new(ip, usize::MAX) else { return false };
        icmpv6::make_checksum(header.source(), header.destination(), message) == 0
    }
}

/// What `packet` is: a packet of a balanced protocol, or an ICMP echo, that begins with its IP header and may be cut short behind the ports. `None` for any
/// other, and for a fragment that is not the first.
pub fn quoted(packet: &[u8]) -> Option<Quoted> {
    match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4::new(packet, usize::MAX).ok()?;
            let (protocol, transport) = (ip.protocol(), ip.header_length());
            if ip.fragment_offset() != 0 || protocol == protocol::ICMPV6 {
                return None;
            }
            let (from, to) = ports(protocol, packet.get(transport..)?)?;
            let flow = Flow::new(protocol, (ip.source(), from), (ip.destination(), to));
            Some(Quoted { flow: flow.into(), transport })
        }
        6 => {
            let ip = Ipv6::new(packet, usize::MAX).ok()?;
            let upper = ip.upper().ok()?;
            let is_first = upper.fragment.is_none_or(|fragment| fragment.offset == 0);
            if !is_first || upper.protocol == protocol::ICMP {
                return None;
            }
            let (from, to) = ports(upper.protocol, packet.get(upper.offset..)?)?;
            let flow = Flow6::new(upper.protocol, (ip.source(), from), (ip.destination(), to));
            Some(Quoted { flow: flow.into(), transport: upper.offset })
        }
        _ => None,
    }
}

fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    if !is_balanced(protocol) {
        // Of an echo the identifier is needed; nothing else has ports.
        return echo::ports(protocol, transport).map(|(ports, _)| ((ports >> 16) as u16, ports as u16));
    }
    let ports = transport.first_chunk::<4>()?;
    Some((read_u16(ports, 0), read_u16(ports, 2)))
}

#[cfg(test)]
mod tests;
