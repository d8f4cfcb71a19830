//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use super::checksum::{self, Difference};
use super::{read_u16, read_u32};

/// The length of a header without options.
pub const MIN_HEADER: usize = 20;

/// A packet whose header is whole and whose length field does not go past what was received.
#[derive(Clone, Copy)]
pub struct Ipv4<'a> {
    header: &'a [u8],
    total_length: u16,
}

/// Why bytes are not an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header, or than the header's own length fields say.
    Truncated,
    /// Another version number, or a header length below 20.
    BadHeader,
}

impl<'a> Ipv4<'a> {
    /// `packet` is what the frame's first segment holds after the Ethernet header; `received` is how many bytes
    /// follow that header in all segments.
    #[inline]
    pub fn new(packet: &'a [u8], received: usize) -> Result<Self, Malformed> {
        let fixed = packet.first_chunk::<MIN_HEADER>().ok_or(Malformed::Truncated)?;
        let header_length = usize::from(fixed[0] & 0x0f) * 4;
        if fixed[0] >> 4 != 4 || header_length < MIN_HEADER {
            return Err(Malformed::BadHeader);
        }
        let total_length = read_u16(fixed, 2);
        if usize::from(total_length) < header_length {
            return Err(Malformed::BadHeader);
        }
        if usize::from(total_length) > received {
            return Err(Malformed::Truncated);
        }
        let header = packet.get(..header_length).ok_or(Malformed::Truncated)?;
        Ok(Self { header, total_length })
    }

    /// The header's length in bytes, options included: 20 to 60.
    #[inline]
    pub fn header_length(self) -> usize {
        self.header.len()
    }

    /// The packet's length in bytes, header included; what is beyond it in a frame is padding.
    #[inline]
    pub fn total_length(self) -> u16 {
        self.total_length
    }

    /// True for every fragment, the first included (RFC 791: more-fragments flag or an offset).
    #[inline]
    pub fn is_fragment(self) -> bool {
        read_u16(self.header, 6) & 0x3fff != 0
    }

    /// The same in all fragments of a packet.
    #[inline]
    pub fn identification(self) -> u16 {
        read_u16(self.header, 4)
    }

    /// What a fragment's payload begins with, in bytes into the original's.
    #[inline]
    pub fn fragment_offset(self) -> u16 {
        // In units of eight bytes.
        read_u16(self.header, 6) << 3
    }

    /// True where fragments follow this one.
    #[inline]
    pub fn has_more_fragments(self) -> bool {
        read_u16(self.header, 6) & 0x2000 != 0
    }

    /// What the payload is.
    #[inline]
    pub fn protocol(self) -> u8 {
        self.header[9]
    }

    /// Who sent it, as a number.
    #[inline]
    pub fn source(self) -> u32 {
        read_u32(self.header, 12)
    }

    /// Who it is for, as a number.
    #[inline]
    pub fn destination(self) -> u32 {
        read_u32(self.header, 16)
    }

    /// True where the header's checksum is right (RFC 1071).
    #[inline]
    pub fn checksum_is_right(self) -> bool {
        checksum::verify(self.header) == 0
    }
}

/// Takes one off the time to live and corrects the checksum (RFC 1141). False, and nothing done, where it is 1 or
/// 0 already: the packet must not go on. `packet` begins with the header.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER>() else { return false };
    // Time to live, protocol, checksum: read, changed and written as one number, of which the first is the lowest byte.
    let Some(field) = header[8..].first_chunk_mut::<4>() else { return false };
    let word = u32::from_le_bytes(*field);
    if word & 0xff <= 1 {
        return false;
    }
    *field = checksum::decrement_first_byte(word).to_le_bytes();
    true
}

/// Which of the header's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// [`decrement_ttl`], and `address` written on one side. Gives what the new address adds to a checksum that covers the
/// pseudo-header; `None`, and nothing done, where the packet must not go on.
#[inline]
pub fn readdress(packet: &mut [u8], side: Side, address: u32) -> Option<Difference> {
    let header = packet.first_chunk_mut::<MIN_HEADER>().filter(|header| header[8] > 1)?;
    header[8] -= 1;
    let at = if side == Side::Source { 12 } else { 16 };
    let change = Difference::default().replace_u32(read_u32(header, at), address);
    let check = change.decrement_high_byte().apply(read_u16(header, 10));
    header[at..at + 4].copy_from_slice(&address.to_be_bytes());
    header[10..12].copy_from_slice(&check.to_be_bytes());
    Some(change)
}

/// [`readdress`] for both sides: the source in the upper half of `addresses`.
#[inline]
pub fn readdress_both(packet: &mut [u8], addresses: u64) -> Option<Difference> {
    let header = packet.first_chunk_mut::<MIN_HEADER>().filter(|header| header[8] > 1)?;
    header[8] -= 1;
    let change = Difference::default()
        .replace_u32(read_u32(header, 12), (addresses >> 32) as u32)
        .replace_u32(read_u32(header, 16), addresses as u32);
    let check = change.decrement_high_byte().apply(read_u16(header, 10));
    header[12..20].copy_from_slice(&addresses.to_be_bytes());
    header[10..12].copy_from_slice(&check.to_be_bytes());
    Some(change)
}

/// Writes `address` on one side and corrects the header's checksum. `packet` begins with the header.
pub fn set_address(packet: &mut [u8], side: Side, address: u32) {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER>() else { return };
    let at = if side == Side::Source { 12 } else { 16 };
    let change = Difference::default().replace_u32(read_u32(header, at), address);
    let check = change.apply(read_u16(header, 10));
    header[at..at + 4].copy_from_slice(&address.to_be_bytes());
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Addresses that no packet from the network can rightly have as its source (RFC 1122 §3.2.1.3): this network,
/// loopback, multicast, reserved and broadcast. Linux calls them martian.
pub fn is_martian_source(address: u32) -> bool {
    let address = Ipv4Addr::from(address);
    let first = address.octets()[0];
    first == 0 || first >= 224 || address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..20]
            .copy_from_slice(&[0x45, 0, 0, 24, 0, 1, 0x40, 0, 64, 6, 0, 0, 203, 0, 113, 9, 198, 51, 100, 8]);
        let check = checksum::verify(&bytes[..20]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    #[test]
    fn lengths_are_checked_once_and_name_what_is_wrong() {
        let good = packet();
        assert!(Ipv4::new(&good, 24).is_ok());
        for length in 0..20 {
            assert_eq!(Ipv4::new(&good[..length], 24).err(), Some(Malformed::Truncated), "{length}");
        }
        assert_eq!(Ipv4::new(&good, 23).err(), Some(Malformed::Truncated));
        for (byte, value, error) in [
            (0, 0x44, Malformed::BadHeader),
            (0, 0x65, Malformed::BadHeader),
            (0, 0x4f, Malformed::BadHeader), // 60 bytes of header, 24 of packet
            (3, 19, Malformed::BadHeader),
        ] {
            let mut bad = good;
            bad[byte] = value;
            assert_eq!(Ipv4::new(&bad, 24).err(), Some(error), "byte {byte} = {value:#x}");
        }
    }

    #[test]
    fn rewriting_keeps_the_checksum_right() {
        let mut bytes = packet();
        assert!(Ipv4::new(&bytes, 24).is_ok_and(Ipv4::checksum_is_right));
        assert!(readdress(&mut bytes, Side::Destination, 0xc000_0209).is_some());
        assert!(readdress(&mut bytes, Side::Source, 0xffff_ffff).is_some());
        assert!(decrement_ttl(&mut bytes));
        let packet = Ipv4::new(&bytes, 24).unwrap();
        assert!(packet.checksum_is_right());
        assert_eq!((packet.source(), packet.destination(), bytes[8]), (0xffff_ffff, 0xc000_0209, 61));
    }

    #[test]
    fn an_address_alone_is_set_with_its_checksum() {
        let mut bytes = packet();
        set_address(&mut bytes, Side::Source, 0xc000_0209);
        set_address(&mut bytes, Side::Destination, 0xffff_0000);
        let packet = Ipv4::new(&bytes, 24).unwrap();
        assert!(packet.checksum_is_right());
        assert_eq!((packet.source(), packet.destination(), bytes[8]), (0xc000_0209, 0xffff_0000, 64));
    }

    #[test]
    fn fragments_say_where_they_belong() {
        let mut bytes = packet();
        bytes[4..8].copy_from_slice(&[0x12, 0x34, 0x20, 0xb9]);
        let packet = Ipv4::new(&bytes, 24).unwrap();
        assert!(packet.is_fragment() && packet.has_more_fragments());
        assert_eq!((packet.identification(), packet.fragment_offset()), (0x1234, 1480));
        bytes[6..8].copy_from_slice(&[0x5f, 0xff]);
        let packet = Ipv4::new(&bytes, 24).unwrap();
        assert!(packet.is_fragment() && !packet.has_more_fragments());
        assert_eq!(packet.fragment_offset(), 65_528);
    }

    #[test]
    fn the_last_hop_is_not_taken_off() {
        for ttl in [0, 1] {
            let mut bytes = packet();
            bytes[8] = ttl;
            let before = bytes;
            assert!(!decrement_ttl(&mut bytes));
            assert_eq!(bytes, before);
            assert!(readdress(&mut bytes, Side::Source, 0).is_none());
            assert_eq!(bytes, before);
        }
    }
}
