//! Ethernet II frames (IEEE 802.3): destination, source, type.

use super::read_u16;
use crate::network::MacAddr;

/// The length of the header in front of the payload, without VLAN tags.
pub const HEADER: usize = 14;

/// Ethertypes (IEEE registration authority).
pub mod ethertype {
    /// RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// RFC 2464.
    pub const IPV6: u16 = 0x86dd;
    /// IEEE 802.1Q: a VLAN tag follows.
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad: the outer one of two VLAN tags follows.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// A frame with a whole header.
#[derive(Clone, Copy)]
pub struct Ethernet<'a>(&'a [u8]);

impl<'a> Ethernet<'a> {
    /// `None` where `frame` is shorter than the header.
    #[inline]
    pub fn new(frame: &'a [u8]) -> Option<Self> {
        (frame.len() >= HEADER).then_some(Self(frame))
    }

    /// Who the frame is for.
    #[inline]
    pub fn destination(self) -> MacAddr {
        MacAddr([self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5]])
    }

    /// What the payload is.
    #[inline]
    pub fn ethertype(self) -> u16 {
        read_u16(self.0, 12)
    }

    /// What follows the header.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[HEADER..]
    }
}

/// Readdresses a frame: destination, then source; its type stays. Does nothing to a frame without a whole header.
#[inline]
pub fn set_addresses(frame: &mut [u8], addresses: &[u8; 12]) {
    if let Some(header) = frame.first_chunk_mut::<12>() {
        *header = *addresses;
    }
}
