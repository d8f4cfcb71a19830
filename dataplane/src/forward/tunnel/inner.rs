//! The packet inside: what the outer headers take from it, and where it begins in a packet that has them already.

use super::{
    GRE, GRE_CHECKSUM, GRE_HAS_CHECKSUM, GUE, IP_PROTOCOL_GRE, IP_PROTOCOL_IPIP, IP_PROTOCOL_IPV6, Refused,
};
use crate::packet::ethernet::ethertype;
use crate::packet::ipv4::{self, Ipv4};
use crate::packet::ipv6::{self, Ipv6};
use crate::packet::{checksum, protocol, read_u16, tcp, udp};

/// What the outer headers take from a packet.
pub(super) struct Inner {
    is_ipv4: bool,
    /// Of the packet, without padding.
    pub(super) length: usize,
    /// DSCP and ECN.
    pub(super) service: u8,
    /// Once one has been taken off.
    pub(super) ttl: u8,
    /// False for IPv6, which has no such bit.
    pub(super) dont_fragment: bool,
    /// Where the IP header ends.
    pub(super) transport: usize,
    /// The checksum inside that covers all from `transport` on; `None` where there is none, or not all is here that it covers.
    pub(super) check: Option<Check>,
}

/// A TCP or UDP checksum.
#[derive(Clone, Copy)]
pub(super) struct Check {
    /// Where it lies in the packet.
    pub(super) at: usize,
    /// The folded sum of the pseudo-header.
    pub(super) seed: u16,
}

impl Inner {
    /// Reads `packet`, of which there are `received` bytes in all of the frame's pieces, and takes one off its time to live.
    #[inline]
    pub(super) fn read(packet: &mut [u8], received: usize) -> Result<Self, Refused> {
        let mut inner = match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::of_ipv4(packet, received)?,
            Some(6) => Self::of_ipv6(packet, received)?,
            _ => return Err(Refused::Malformed),
        };
        let alive =
            if inner.is_ipv4 { ipv4::decrement_ttl(packet) } else { ipv6::decrement_hop_limit(packet) };
        if !alive {
            return Err(Refused::TtlExpired);
        }
        inner.ttl -= 1;
        Ok(inner)
    }

    #[inline]
    fn of_ipv4(packet: &[u8], received: usize) -> Result<Self, Refused> {
        let ip = Ipv4::new(packet, received).map_err(|_| Refused::Malformed)?;
        let (length, transport) = (usize::from(ip.total_length()), ip.header_length());
        let pseudo = |length: usize| {
            checksum::pseudo_ipv4(ip.source(), ip.destination(), ip.protocol(), length as u16)
        };
        let check =
            if ip.is_fragment() { None } else { Check::of(packet, ip.protocol(), transport, length, pseudo) };
        let (service, ttl, dont_fragment) = (packet[1], packet[8], packet[6] & 0x40 != 0);
        Ok(Self { is_ipv4: true, length, service, ttl, dont_fragment, transport, check })
    }

    #[inline]
    fn of_ipv6(packet: &[u8], received: usize) -> Result<Self, Refused> {
        let ip = Ipv6::new(packet, received).map_err(|_| Refused::Malformed)?;
        let (length, transport) = (ip.total_length(), ipv6::HEADER);
        // Behind extension headers a checksum may cover another destination, or another packet's pieces.
        let next = packet[6];
        let pseudo =
            |length: usize| checksum::pseudo_ipv6(ip.source(), ip.destination(), next, length as u32);
        let check = Check::of(packet, next, transport, length, pseudo);
        let (service, ttl) = (ip.traffic_class(), ip.hop_limit());
        Ok(Self { is_ipv4: false, length, service, ttl, dont_fragment: false, transport, check })
    }

    /// The sum of the packet, of which `packet` holds what lies in one piece, with one off its time to live.
    #[inline]
    pub(super) fn sum(&self, packet: &[u8]) -> Result<u32, Refused> {
        match self.check {
            // With its pseudo-header, what the checksum covers adds up to all ones, which is zero.
            Some(check) => Ok(checksum::sum(&packet[..self.transport]) + u32::from(!check.seed)),
            None => packet.get(..self.length).map(checksum::sum).ok_or(Refused::Scattered),
        }
    }

    /// The number that stands for the packet as an IP payload.
    #[inline]
    pub(super) fn as_protocol(&self) -> u8 {
        if self.is_ipv4 { IP_PROTOCOL_IPIP } else { IP_PROTOCOL_IPV6 }
    }

    /// The number that stands for the packet in a GRE header.
    #[inline]
    pub(super) fn ethertype(&self) -> u16 {
        if self.is_ipv4 { ethertype::IPV4 } else { ethertype::IPV6 }
    }
}

impl Check {
    #[inline]
    fn of(
        packet: &[u8],
        protocol: u8,
        transport: usize,
        length: usize,
        pseudo: impl FnOnce(usize) -> u32,
    ) -> Option<Self> {
        let segment = packet.get(transport..length.min(packet.len()))?;
        let covered = length - transport;
        let at = match protocol {
            protocol::TCP if segment.len() >= tcp::MIN_HEADER => transport + tcp::CHECKSUM,
            protocol::UDP if segment.len() >= udp::HEADER => {
                // A datagram may be shorter than what carries it (RFC 768 has a length of its own).
                let covers_all = usize::from(read_u16(segment, 4)) == covered;
                let exists = read_u16(segment, udp::CHECKSUM) != 0;
                (covers_all && exists).then_some(transport + udp::CHECKSUM)?
            }
            _ => return None,
        };
        Some(Self { at, seed: checksum::fold(pseudo(covered)) })
    }
}

/// A tunnel's packet, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// Where the packet inside begins, in bytes from the start of the outer IP header.
    pub at: usize,
    /// The outer IP header's protocol, behind extension headers.
    pub protocol: u8,
    /// The UDP port it went to, where only that tells GUE from anything else.
    pub gue_port: Option<u16>,
}

/// Where the packet begins that was put into `packet`, as [`super::Encapsulation`] does; `None` where there is none. `packet` begins
/// with the outer IP header and may be cut short, as those that ICMP errors quote are. That a tunnel leads from its source to its
/// destination is the caller's to check, and for GUE the port.
pub fn unwrap(packet: &[u8]) -> Option<Unwrapped> {
    let (protocol, carrier) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4::new(packet, usize::MAX).ok()?;
            (read_u16(packet, 6) & 0x1fff == 0).then_some((ip.protocol(), ip.header_length()))?
        }
        6 => {
            let upper = Ipv6::new(packet, usize::MAX).ok()?.upper().ok()?;
            let first = upper.fragment.is_none_or(|fragment| fragment.offset == 0);
            first.then_some((upper.protocol, upper.offset))?
        }
        _ => return None,
    };
    let header = packet.get(carrier..)?;
    let (version, at, gue_port) = match protocol {
        IP_PROTOCOL_IPIP => (4, carrier, None),
        IP_PROTOCOL_IPV6 => (6, carrier, None),
        IP_PROTOCOL_GRE => {
            let header = header.first_chunk::<GRE>()?;
            // No other flag, and version 0.
            let checksum = match header[..2] {
                [GRE_HAS_CHECKSUM, 0] => GRE_CHECKSUM,
                [0, 0] => 0,
                _ => return None,
            };
            let version = match read_u16(header, 2) {
                ethertype::IPV4 => 4,
                ethertype::IPV6 => 6,
                _ => return None,
            };
            (version, carrier + GRE + checksum, None)
        }
        protocol::UDP => {
            let header = header.first_chunk::<{ udp::HEADER + GUE }>()?;
            // Variant 0 and no control message; then the length of what follows the first four bytes.
            let [first, kind, ..] = header[udp::HEADER..] else { return None };
            let options = (first & 0xe0 == 0).then_some(usize::from(first) * 4)?;
            let version = match kind {
                IP_PROTOCOL_IPIP => 4,
                IP_PROTOCOL_IPV6 => 6,
                _ => return None,
            };
            (version, carrier + udp::HEADER + GUE + options, Some(read_u16(header, 2)))
        }
        _ => return None,
    };
    (packet.get(at)? >> 4 == version).then_some(Unwrapped { at, protocol, gue_port })
}
