//! UDP (RFC 768): ports and checksum.

use super::checksum::Difference;
use super::ipv4::Side;
use super::{read_u16, read_u32};

/// The length of the header.
pub const HEADER: usize = 8;

/// Where the checksum lies in the header.
pub const CHECKSUM: usize = 6;

/// A computed checksum as the header has it: 0 would mean that there is none, and is written as all ones (RFC 768).
#[inline]
pub const fn written(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

/// A datagram's header.
#[derive(Clone, Copy)]
pub struct Udp<'a>(&'a [u8; HEADER]);

impl<'a> Udp<'a> {
    /// `datagram` is the IP payload as far as the frame's first segment holds it. `None` where the header is not
    /// whole.
    #[inline]
    pub fn new(datagram: &'a [u8]) -> Option<Self> {
        datagram.first_chunk().map(Self)
    }

    /// Source port and destination port, as one number of twice 16 bits.
    #[inline]
    pub fn ports(self) -> u32 {
        read_u32(self.0, 0)
    }
}

/// Writes both ports, the source's in the upper half, and corrects the checksum as [`set_port`] does.
#[inline]
pub fn set_ports(datagram: &mut [u8], ports: u32, address_change: Difference) {
    let Some(header) = datagram.first_chunk_mut::<HEADER>() else { return };
    let old = read_u32(header, 0);
    header[..4].copy_from_slice(&ports.to_be_bytes());
    let check = read_u16(header, 6);
    if check != 0 {
        let check = written(address_change.replace_u32(old, ports).apply(check));
        header[6..8].copy_from_slice(&check.to_be_bytes());
    }
}

/// Writes `port` and corrects the checksum for it and for `address_change` in the pseudo-header. A checksum of 0
/// means that the sender made none and stays 0; one that comes out as 0 is written as all ones (RFC 768).
#[inline]
pub fn set_port(datagram: &mut [u8], side: Side, port: u16, address_change: Difference) {
    let Some(header) = datagram.first_chunk_mut::<HEADER>() else { return };
    let at = if side == Side::Source { 0 } else { 2 };
    let old = read_u16(header, at);
    header[at..at + 2].copy_from_slice(&port.to_be_bytes());
    let check = read_u16(header, 6);
    if check != 0 {
        let check = written(address_change.replace_u16(old, port).apply(check));
        header[6..8].copy_from_slice(&check.to_be_bytes());
    }
}
