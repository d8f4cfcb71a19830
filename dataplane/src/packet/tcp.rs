//! TCP (RFC 9293): ports, flags, checksum.

use super::checksum::Difference;
use super::ipv4::Side;
use super::{read_u16, read_u32};

/// The length of a header without options.
pub const MIN_HEADER: usize = 20;

/// Where the checksum lies in the header.
pub const CHECKSUM: usize = 16;

/// The control bits, as the header's byte 13 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// True where any bit of `bits` is set.
    #[inline]
    pub const fn any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// A segment's fixed header.
#[derive(Clone, Copy)]
pub struct Tcp<'a>(&'a [u8; MIN_HEADER]);

impl<'a> Tcp<'a> {
    /// `segment` is the IP payload as far as the frame's first segment holds it. `None` where the header is not
    /// whole.
    #[inline]
    pub fn new(segment: &'a [u8]) -> Option<Self> {
        segment.first_chunk().map(Self)
    }

    /// Source port and destination port, as one number of twice 16 bits.
    #[inline]
    pub fn ports(self) -> u32 {
        read_u32(self.0, 0)
    }

    /// The control bits.
    #[inline]
    pub fn flags(self) -> Flags {
        Flags(self.0[13])
    }
}

/// Writes `port` and corrects the checksum for it and for `address_change` in the pseudo-header.
#[inline]
pub fn set_port(segment: &mut [u8], side: Side, port: u16, address_change: Difference) {
    let Some(header) = segment.first_chunk_mut::<MIN_HEADER>() else { return };
    let at = if side == Side::Source { 0 } else { 2 };
    let check = address_change.replace_u16(read_u16(header, at), port).apply(read_u16(header, 16));
    header[at..at + 2].copy_from_slice(&port.to_be_bytes());
    header[16..18].copy_from_slice(&check.to_be_bytes());
}
