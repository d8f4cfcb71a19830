//! Views of the protocols a balanced packet is made of, one file each, all of one shape: the length is checked
//! once, when the view is made, and from then on no accessor can fail. They hold offsets and no policy.

pub mod checksum;
pub mod echo;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod proxy;
pub mod sctp;
pub mod sip;
pub mod tcp;
pub mod toa;
pub mod udp;
pub mod vlan;

#[cfg(test)]
pub(crate) mod vectors;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// That of a template for a mark, whatever the packets' protocols are (IPPROTO_IP).
    pub const IP: u8 = 0;
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
}

/// The big-endian 16-bit field at `at`.
#[inline]
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32-bit field at `at`.
#[inline]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The big-endian 128-bit field at `at`.
#[inline]
pub(crate) fn read_u128(bytes: &[u8], at: usize) -> u128 {
    let mut field = [0; 16];
    field.copy_from_slice(&bytes[at..at + 16]);
    u128::from_be_bytes(field)
}
