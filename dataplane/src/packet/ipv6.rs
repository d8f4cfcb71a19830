//! IPv6 (RFC 8200): the header, and the extension headers between it and what it carries.
//!
//! The chain of extension headers is walked with a bound, and never beyond the first piece of the frame. Whatever cannot be
//! walked has a name.

use std::net::IpAddr;

use super::checksum::Difference;
use super::ipv4::{Malformed, Side};
use super::{read_u16, read_u32, read_u128};

/// The length of the header, without extensions.
pub const HEADER: usize = 40;

/// The length of a fragment header.
pub const FRAGMENT: usize = 8;

/// What every link must carry in one piece (RFC 8200 §5).
pub const MIN_MTU: usize = 1280;

/// So many extension headers are walked; RFC 8200 §4.1 has use for seven.
pub const MAX_EXTENSIONS: usize = 8;

/// Next-header values of extension headers (IANA).
pub mod extension {
    /// RFC 8200 §4.3.
    pub const HOP_BY_HOP: u8 = 0;
    /// RFC 8200 §4.4.
    pub const ROUTING: u8 = 43;
    /// RFC 8200 §4.5.
    pub const FRAGMENT: u8 = 44;
    /// RFC 4302.
    pub const AUTHENTICATION: u8 = 51;
    /// RFC 8200 §4.6.
    pub const DESTINATION: u8 = 60;
}

/// A packet whose header is whole and whose length field does not go past what was received.
#[derive(Clone, Copy)]
pub struct Ipv6<'a> {
    header: &'a [u8; HEADER],
    /// From the header on, without padding, as far as the frame's first piece holds it.
    packet: &'a [u8],
}

/// What a packet carries behind its extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The protocol. Of a fragment that is not the first, what the fragment header says comes next.
    pub protocol: u8,
    /// Where it begins, in bytes from the start of the IPv6 header.
    pub offset: usize,
    /// The fragment header, where there is one.
    pub fragment: Option<Fragment>,
}

/// A fragment header (RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where the header lies, in bytes from the start of the IPv6 header. It is 8 bytes long.
    pub at: usize,
    /// What its payload begins with, in bytes into the original's fragmentable part.
    pub offset: u16,
    /// True where fragments follow this one.
    pub more: bool,
    /// The same in all fragments of a packet.
    pub identification: u32,
}

impl Fragment {
    #[inline]
    fn read(header: &[u8; FRAGMENT], at: usize) -> Self {
        let (word, identification) = (read_u16(header, 2), read_u32(header, 4));
        Self { at, offset: word & 0xfff8, more: word & 1 != 0, identification }
    }

    /// True where it is all of the packet (RFC 6946 calls it atomic).
    #[inline]
    pub fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Why extension headers could not be walked to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadChain {
    /// The chain goes past the packet, or past the first piece of the frame.
    Truncated,
    /// The same of a first fragment, which must have all of the chain in it (RFC 7112).
    Fragmented,
    /// More than [`MAX_EXTENSIONS`].
    TooMany,
    /// A hop-by-hop header behind another one (RFC 8200 §4.1).
    HopByHopNotFirst,
    /// A fragment of a fragment.
    RepeatedFragment,
    /// A routing header that has further stops: the packet's destination is not where it is going.
    SourceRouted,
}

impl<'a> Ipv6<'a> {
    /// `packet` is what the frame's first segment holds after the Ethernet header; `received` is how many bytes
    /// follow that header in all segments.
    #[inline]
    pub fn new(packet: &'a [u8], received: usize) -> Result<Self, Malformed> {
        let header = packet.first_chunk::<HEADER>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::BadHeader);
        }
        let total = HEADER + usize::from(read_u16(header, 4));
        if total > received {
            return Err(Malformed::Truncated);
        }
        Ok(Self { header, packet: packet.get(..total).unwrap_or(packet) })
    }

    /// The packet's length in bytes, header included; what is beyond it in a frame is padding.
    #[inline]
    pub fn total_length(self) -> usize {
        HEADER + usize::from(read_u16(self.header, 4))
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    #[inline]
    pub fn traffic_class(self) -> u8 {
        (read_u16(self.header, 0) >> 4) as u8
    }

    /// The flow label (RFC 6437), 20 bits. Nothing here ever writes one.
    #[inline]
    pub fn flow_label(self) -> u32 {
        read_u32(self.header, 0) & 0x000f_ffff
    }

    /// How many hops the packet may still go.
    #[inline]
    pub fn hop_limit(self) -> u8 {
        self.header[7]
    }

    /// Who sent it, as a number.
    #[inline]
    pub fn source(self) -> u128 {
        read_u128(self.header, 8)
    }

    /// Who it is for, as a number.
    #[inline]
    pub fn destination(self) -> u128 {
        read_u128(self.header, 24)
    }

    /// The fragment header, wherever the chain of extension headers ends, and what it says comes next. Of that only the first
    /// fragment's counts (RFC 8200 §4.5).
    #[cold]
    pub fn fragment(self) -> Option<(Fragment, u8)> {
        let (mut next, mut offset) = (self.header[6], HEADER);
        for _ in 0..MAX_EXTENSIONS {
            let header = self.packet.get(offset..)?.first_chunk::<FRAGMENT>()?;
            match next {
                extension::FRAGMENT => {
                    return Some((Fragment::read(header, offset), header[0]));
                }
                extension::AUTHENTICATION => offset += (usize::from(header[1]) + 2) * 4,
                _ if is_extension(next) => offset += (usize::from(header[1]) + 1) * 8,
                _ => return None,
            }
            next = header[0];
        }
        None
    }

    /// Walks the extension headers.
    #[inline]
    pub fn upper(self) -> Result<Upper, BadChain> {
        let (mut protocol, mut offset, mut fragment) = (self.header[6], HEADER, None);
        for seen in 0..=MAX_EXTENSIONS {
            if !is_extension(protocol) {
                return Ok(Upper { protocol, offset, fragment });
            }
            if seen == MAX_EXTENSIONS {
                break;
            }
            let header = self.packet.get(offset..).and_then(<[u8]>::first_chunk::<8>);
            let header = header.ok_or_else(|| BadChain::cut(fragment))?;
            let length = match protocol {
                extension::FRAGMENT if fragment.is_some() => return Err(BadChain::RepeatedFragment),
                extension::FRAGMENT => FRAGMENT,
                extension::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
                extension::HOP_BY_HOP if seen > 0 => return Err(BadChain::HopByHopNotFirst),
                extension::ROUTING if header[3] != 0 => return Err(BadChain::SourceRouted),
                _ => (usize::from(header[1]) + 1) * 8,
            };
            if offset + length > self.packet.len() {
                return Err(BadChain::cut(fragment));
            }
            if protocol == extension::FRAGMENT {
                let this = Fragment::read(header, offset);
                fragment = Some(this);
                if this.offset != 0 {
                    // The headers that may follow are in the first fragment; here they are data.
                    return Ok(Upper { protocol: header[0], offset: offset + length, fragment });
                }
            }
            protocol = header[0];
            offset += length;
        }
        Err(BadChain::TooMany)
    }
}

impl BadChain {
    #[cold]
    fn cut(fragment: Option<Fragment>) -> Self {
        match fragment {
            Some(fragment) if !fragment.is_whole() => Self::Fragmented,
            _ => Self::Truncated,
        }
    }
}

/// True for the extension headers that are [walked](Ipv6::upper).
pub(crate) const fn is_extension(protocol: u8) -> bool {
    use extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// An address as a number, IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2).
#[inline]
pub fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Takes one off the hop limit. False, and nothing done, where it is 1 or 0 already: the packet must not go on.
/// `packet` begins with the header, which has no checksum.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    match packet.first_chunk_mut::<HEADER>() {
        Some(header) if header[7] > 1 => {
            header[7] -= 1;
            true
        }
        _ => false,
    }
}

/// [`decrement_hop_limit`], and `address` written on one side. Gives what the new address adds to a checksum that covers the
/// pseudo-header; `None`, and nothing done, where the packet must not go on.
#[inline]
pub fn readdress(packet: &mut [u8], side: Side, address: u128) -> Option<Difference> {
    if !decrement_hop_limit(packet) {
        return None;
    }
    let at = if side == Side::Source { 8 } else { 24 };
    let change = Difference::default().replace_u128(read_u128(packet, at), address);
    packet[at..at + 16].copy_from_slice(&address.to_be_bytes());
    Some(change)
}

/// [`readdress`] for both sides.
#[inline]
pub fn readdress_both(packet: &mut [u8], source: u128, destination: u128) -> Option<Difference> {
    if !decrement_hop_limit(packet) {
        return None;
    }
    let change = Difference::default()
        .replace_u128(read_u128(packet, 8), source)
        .replace_u128(read_u128(packet, 24), destination);
    packet[8..24].copy_from_slice(&source.to_be_bytes());
    packet[24..40].copy_from_slice(&destination.to_be_bytes());
    Some(change)
}

/// Writes `address` on one side. `packet` begins with the header.
pub fn set_address(packet: &mut [u8], side: Side, address: u128) {
    let Some(header) = packet.first_chunk_mut::<HEADER>() else { return };
    let at = if side == Side::Source { 8 } else { 24 };
    header[at..at + 16].copy_from_slice(&address.to_be_bytes());
}

/// Addresses that no packet from the network can rightly have as its source: unspecified, loopback, multicast (RFC 4291
/// §2.5.2, §2.5.3, §2.7), and IPv4 ones in disguise (RFC 4038 §4.2).
pub fn is_martian_source(address: u128) -> bool {
    address <= 1 || address >> 120 == 0xff || address >> 32 == 0xffff
}

#[cfg(test)]
mod tests;
