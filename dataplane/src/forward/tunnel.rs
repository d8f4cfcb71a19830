//! LVS/TUN: the packet goes to the real server inside another one, and the server answers the client without us. IP in IP (RFC
//! 2003, RFC 2473), GRE (RFC 2784) or GUE (draft-ietf-intarea-gue, variant 0, with Linux's remote checksum offload); IPv4 and
//! IPv6 inside and outside in every mix.
//!
//! What is the same for all packets to a destination is made once, as an [`Encapsulation`]; a packet costs a copy of it, its
//! lengths and its checksums. Room comes from the buffer's headroom: nothing of the packet is ever moved. Nor is its payload
//! read where its own checksum tells the sum (RFC 1071): a payload that does not match it arrives with an outer
//! checksum that is as wrong, and is dropped by who would have dropped it inside.

mod fit;
mod inner;

use std::net::IpAddr;

use crate::packet::ethernet::{self, ethertype};
use crate::packet::{checksum, ipv4, ipv6, udp};
use crate::wire::Frame;
pub use fit::{Fit, LinkTooSmall};
use inner::Inner;
pub use inner::{Unwrapped, unwrap};

/// How packets travel to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--tun-type ipip`.
    IpIp,
    /// `--tun-type gre`.
    Gre {
        /// With a checksum over header and payload (`--tun-csum`).
        checksum: bool,
    },
    /// `--tun-type gue`.
    Gue {
        /// The destination's UDP port (`--tun-port`).
        port: u16,
        /// What protects the datagram.
        checksum: GueChecksum,
    },
}

/// What protects a GUE datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GueChecksum {
    /// Nothing: UDP's checksum is 0, over IPv6, too (RFC 6935; `--tun-nocsum`).
    None,
    /// UDP's checksum (`--tun-csum`).
    Full,
    /// UDP's checksum, and that of the TCP segment or UDP datagram inside is for the receiver to make (`--tun-remcsum`). What has
    /// none inside that the receiver could make travels as with [`GueChecksum::Full`].
    Remote,
}

/// Why a packet was not encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not an IP packet, or shorter than its header says.
    Malformed,
    /// Its time to live has run out here. The frame is as it was.
    TtlExpired,
    /// The frame's headroom is smaller than the outer headers.
    NoHeadroom,
    /// A checksum has to be made over all of a packet that does not lie in one piece.
    Scattered,
    /// With the outer headers it is longer than an IP packet can be.
    TooLong,
}

/// The outer source is not of the outer destination's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "tunnel from {from} to {to}: both ends must be of one address family; give the tunnel a source of the destination's"
)]
pub struct MixedFamilies {
    from: IpAddr,
    to: IpAddr,
}

/// The longest template: IPv6, UDP, GUE.
const TEMPLATE: usize = ipv6::HEADER + udp::HEADER + GUE;

/// GRE's header, and what a checksum adds to it.
const GRE: usize = 4;
const GRE_CHECKSUM: usize = 4;
/// GRE's C bit (RFC 2784 §2.1).
const GRE_HAS_CHECKSUM: u8 = 0x80;

/// GUE's header, and its private flags and remote checksum option.
const GUE: usize = 4;
const GUE_REMOTE: usize = 8;
/// The flag that says that private flags follow, and the private flag for remote checksum offload (Linux, net/gue.h).
const GUE_PRIVATE: [u8; 2] = [0, 1];
const GUE_PRIVATE_REMOTE: [u8; 4] = [0x80, 0, 0, 0];

const IP_PROTOCOL_IPIP: u8 = 4;
const IP_PROTOCOL_IPV6: u8 = 41;
const IP_PROTOCOL_GRE: u8 = 47;

/// The outer headers of all packets to one destination.
#[derive(Clone, Debug)]
pub struct Encapsulation {
    /// Outer IP header, then GRE's, or UDP's and GUE's; 0 where it depends on the packet.
    template: [u8; TEMPLATE],
    length: u8,
    kind: Kind,
    over_ipv4: bool,
    /// Sum of the outer IPv4 header in the template.
    header_sum: u32,
    /// Sum of what in the template GRE's or UDP's checksum covers, pseudo-header included.
    carrier_sum: u32,
}

impl Encapsulation {
    /// Of packets from the director's address `from` to the real server's `to`.
    pub fn new(kind: Kind, from: IpAddr, to: IpAddr) -> Result<Self, MixedFamilies> {
        let mut template = [0; TEMPLATE];
        let protocol = match kind {
            Kind::IpIp => 0,
            Kind::Gre { .. } => IP_PROTOCOL_GRE,
            Kind::Gue { .. } => crate::packet::protocol::UDP,
        };
        let (at, address_sum) = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                template[0] = 0x45;
                template[9] = protocol;
                template[12..16].copy_from_slice(&from.octets());
                template[16..20].copy_from_slice(&to.octets());
                (ipv4::MIN_HEADER, checksum::pseudo_ipv4(from.to_bits(), to.to_bits(), protocol, 0))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                template[0] = 0x60;
                template[6] = protocol;
                template[8..24].copy_from_slice(&from.octets());
                template[24..40].copy_from_slice(&to.octets());
                (ipv6::HEADER, checksum::pseudo_ipv6(from.to_bits(), to.to_bits(), protocol, 0))
            }
            _ => return Err(MixedFamilies { from, to }),
        };
        let carrier = &mut template[at..];
        let (length, carrier_sum) = match kind {
            Kind::IpIp => (at, 0),
            Kind::Gre { checksum: false } => (at + GRE, 0),
            Kind::Gre { checksum: true } => {
                carrier[0] = GRE_HAS_CHECKSUM;
                (at + GRE + GRE_CHECKSUM, u32::from(GRE_HAS_CHECKSUM) << 8)
            }
            Kind::Gue { port, .. } => {
                carrier[2..4].copy_from_slice(&port.to_be_bytes());
                (at + udp::HEADER + GUE, address_sum + u32::from(port))
            }
        };
        let header_sum = checksum::sum(&template[..ipv4::MIN_HEADER]);
        let over_ipv4 = from.is_ipv4();
        Ok(Self { template, length: length as u8, kind, over_ipv4, header_sum, carrier_sum })
    }

    /// How packets travel.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether `packet`, which begins with an outer IP header and was [taken apart](unwrap) so, has come of this tunnel as far as its
    /// addresses, protocols and port tell.
    pub fn has_made(&self, packet: &[u8], unwrapped: &Unwrapped) -> bool {
        let (version, addresses) = if self.over_ipv4 { (4, 12..20) } else { (6, 8..40) };
        let protocol = if self.over_ipv4 { self.template[9] } else { self.template[6] };
        let is_kind = match self.kind {
            Kind::IpIp => matches!(unwrapped.protocol, IP_PROTOCOL_IPIP | IP_PROTOCOL_IPV6),
            Kind::Gre { .. } | Kind::Gue { .. } => unwrapped.protocol == protocol,
        };
        let port = if let Kind::Gue { port, .. } = self.kind { Some(port) } else { None };
        packet.first().is_some_and(|byte| byte >> 4 == version)
            && packet.get(addresses.clone()) == self.template.get(addresses)
            && is_kind
            && unwrapped.gue_port == port
    }

    /// The most bytes that a packet grows by.
    pub fn overhead(&self) -> usize {
        let remote = matches!(self.kind, Kind::Gue { checksum: GueChecksum::Remote, .. });
        usize::from(self.length) + if remote { GUE_REMOTE } else { 0 }
    }

    /// Puts the IP packet in `frame` into another one, and takes one off its time to live first, which the outer packet
    /// inherits, as it does DSCP and ECN (RFC 6040 §4.1, normal mode; Linux writes ECT(0) for CE, which at the other end comes to the
    /// same). Don't-fragment is inherited where `pmtu_disc` (the sysctl) is on and the packet is IPv4.
    ///
    /// `identification` tells outer IPv4 packets apart that may be fragmented; others have 0, as Linux has it. `hash` is one of
    /// the packet's flow; GUE's source port comes of its upper half. The addresses of the frame header are to be set where it
    /// leaves; its type becomes that of the outer packet. After an error the frame is to be dropped.
    #[inline]
    pub fn encapsulate<F: Frame>(
        &self,
        frame: &mut F,
        identification: u16,
        hash: u32,
        pmtu_disc: bool,
    ) -> Result<(), Refused> {
        let received = frame.len().saturating_sub(ethernet::HEADER);
        let packet = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Refused::Malformed)?;
        let inner = Inner::read(packet, received)?;
        let inner_sum = match self.kind {
            Kind::Gre { checksum: true } => inner.sum(packet)?,
            Kind::Gue { checksum: GueChecksum::Full | GueChecksum::Remote, .. } => inner.sum(packet)?,
            _ => 0,
        };
        let remote = match self.kind {
            Kind::Gue { checksum: GueChecksum::Remote, .. } => inner.check,
            _ => None,
        };
        let added = usize::from(self.length) + if remote.is_some() { GUE_REMOTE } else { 0 };
        let total = inner.length + added;
        // What IPv6 may be longer by, nothing we could send is.
        u16::try_from(total).map_err(|_| Refused::TooLong)?;
        if received > inner.length {
            // Padding. What is not all in the last piece stays: the lengths tell it from the packet.
            frame.truncate(ethernet::HEADER + inner.length);
        }
        let bytes = frame.prepend(added).ok_or(Refused::NoHeadroom)?;
        let kind = if self.over_ipv4 { ethertype::IPV4 } else { ethertype::IPV6 };
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        let (outer, packet) = bytes[ethernet::HEADER..].split_at_mut(added);
        outer[..usize::from(self.length)].copy_from_slice(&self.template[..usize::from(self.length)]);
        let at = if self.over_ipv4 { ipv4::MIN_HEADER } else { ipv6::HEADER };
        let (header, carrier) = outer.split_at_mut(at);
        match self.kind {
            Kind::IpIp => header[if self.over_ipv4 { 9 } else { 6 }] = inner.as_protocol(),
            Kind::Gre { checksum } => self.write_gre(carrier, &inner, checksum, inner_sum),
            Kind::Gue { checksum, .. } => {
                let port = 0x8000 | (hash >> 17) as u16;
                let sum = (checksum != GueChecksum::None).then_some(inner_sum);
                self.write_gue(carrier, packet, &inner, remote, port, sum);
            }
        }
        self.write_ip(header, &inner, total, identification, pmtu_disc);
        Ok(())
    }

    fn write_ip(&self, header: &mut [u8], inner: &Inner, total: usize, identification: u16, pmtu_disc: bool) {
        if !self.over_ipv4 {
            header[0] |= inner.service >> 4;
            header[1] = inner.service << 4;
            header[4..6].copy_from_slice(&((total - ipv6::HEADER) as u16).to_be_bytes());
            header[7] = inner.ttl;
            return;
        }
        let (flags, identification) =
            if inner.dont_fragment && pmtu_disc { (0x4000, 0) } else { (0, identification) };
        let total = total as u16;
        header[1] = inner.service;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6..8].copy_from_slice(&u16::to_be_bytes(flags));
        header[8] = inner.ttl;
        let protocol = header[9] - self.template[9];
        let sum = self.header_sum
            + u32::from(inner.service)
            + u32::from(total)
            + u32::from(identification)
            + u32::from(flags)
            + u32::from(u16::from_be_bytes([inner.ttl, protocol]));
        header[10..12].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    }

    fn write_gre(&self, gre: &mut [u8], inner: &Inner, has_checksum: bool, inner_sum: u32) {
        let kind = inner.ethertype();
        gre[2..4].copy_from_slice(&kind.to_be_bytes());
        if has_checksum {
            let check = !checksum::fold(self.carrier_sum + u32::from(kind) + inner_sum);
            gre[4..6].copy_from_slice(&check.to_be_bytes());
        }
    }

    /// `remote` is where the inner checksum lies that the receiver is to make; `sum` that of the inner packet, where there is to
    /// be a checksum.
    fn write_gue(
        &self,
        carrier: &mut [u8],
        packet: &mut [u8],
        inner: &Inner,
        remote: Option<inner::Check>,
        source_port: u16,
        sum: Option<u32>,
    ) {
        let length = (carrier.len() + inner.length) as u16;
        carrier[..2].copy_from_slice(&source_port.to_be_bytes());
        carrier[4..6].copy_from_slice(&length.to_be_bytes());
        let gue = &mut carrier[udp::HEADER..];
        gue[1] = inner.as_protocol();
        let mut change = 0;
        if let Some(check) = remote {
            gue[0] = (GUE_REMOTE / 4) as u8;
            gue[2..4].copy_from_slice(&GUE_PRIVATE);
            gue[4..8].copy_from_slice(&GUE_PRIVATE_REMOTE);
            gue[8..10].copy_from_slice(&(inner.transport as u16).to_be_bytes());
            gue[10..12].copy_from_slice(&(check.at as u16).to_be_bytes());
            // The receiver adds up from `transport` on and puts the result here.
            let field = &mut packet[check.at..check.at + 2];
            change = u32::from(!u16::from_be_bytes([field[0], field[1]])) + u32::from(check.seed);
            field.copy_from_slice(&check.seed.to_be_bytes());
        }
        if let Some(inner_sum) = sum {
            let sum = self.carrier_sum
                + 2 * u32::from(length)
                + u32::from(source_port)
                + checksum::sum(gue)
                + inner_sum
                + change;
            let check = udp::written(!checksum::fold(sum));
            carrier[udp::CHECKSUM..udp::CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
