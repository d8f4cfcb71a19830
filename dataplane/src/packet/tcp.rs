//! TCP (RFC 9293): ports, flags, checksum.

use super::checksum::Difference;
use super::ipv4::Side;
use super::{read_u16, read_u32};

/// The length of a header without options.
pub const MIN_HEADER: usize = 20;

/// The longest header, with options.
pub const MAX_HEADER: usize = 60;

/// The kind of the option for the maximum segment size (RFC 9293 §3.2).
pub const OPTION_MSS: u8 = 2;
/// That for selective acknowledgement (RFC 2018).
pub const OPTION_SACK: u8 = 5;

/// The least maximum segment size that anything is lowered to: Linux's TCP_MIN_MSS, less than which it does not take.
pub const LEAST_MSS: u16 = 88;

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
    /// To be handed on at once.
    pub const PSH: u8 = 0x08;
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

/// The first option of this kind in a whole header: where it begins, and its length.
pub fn option(header: &[u8], kind: u8) -> Option<(usize, usize)> {
    let mut at = MIN_HEADER;
    // Each step is at least one byte further, and the header has no more than 40 of them.
    loop {
        match *header.get(at)? {
            0 => return None,
            1 => at += 1,
            this => {
                let length = usize::from(*header.get(at + 1)?);
                if length < 2 || at + length > header.len() {
                    return None;
                }
                if this == kind {
                    return Some((at, length));
                }
                at += length;
            }
        }
    }
}

/// Lowers the maximum segment size that a segment announces to `most`, where it is higher, and corrects the checksum (RFC 1624). Nothing is
/// added: a sender of no option takes 536 bytes over IPv4 and 1220 over IPv6 (RFC 9293 §3.7.1). True where it was lowered.
pub fn clamp_mss(segment: &mut [u8], most: u16) -> bool {
    let length = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let Some(header) = segment.get_mut(..length) else { return false };
    let Some((at, 4)) = option(header, OPTION_MSS) else { return false };
    let mss = read_u16(header, at + 2);
    if mss <= most {
        return false;
    }
    // Behind an odd number of bytes each of the two counts in the other half of a word (RFC 1071 §2).
    let [old, new] = if at % 2 == 0 { [mss, most] } else { [mss.swap_bytes(), most.swap_bytes()] };
    let check = Difference::default().replace_u16(old, new).apply(read_u16(header, CHECKSUM));
    header[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
    true
}

/// Writes both ports, the source's in the upper half, and corrects the checksum for them and for `address_change` in the
/// pseudo-header.
#[inline]
pub fn set_ports(segment: &mut [u8], ports: u32, address_change: Difference) {
    let Some(header) = segment.first_chunk_mut::<MIN_HEADER>() else { return };
    let check = address_change.replace_u32(read_u32(header, 0), ports).apply(read_u16(header, 16));
    header[..4].copy_from_slice(&ports.to_be_bytes());
    header[16..18].copy_from_slice(&check.to_be_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum;

    #[test]
    fn options_are_found_and_nonsense_ends_the_search() {
        let header = |options: &[u8]| [&[0; MIN_HEADER][..], options].concat();
        for (options, expected) in [
            (&[2, 4, 5, 180][..], Some((20, 4))),
            (&[1, 1, 2, 4, 5, 180], Some((22, 4))),
            (&[8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 5, 180], Some((30, 4))),
            (&[0, 2, 4, 5, 180], None),
            (&[8, 1, 2, 4, 5, 180], None),
            (&[8, 0, 2, 4, 5, 180], None),
            (&[2, 5, 5, 180], None),
            (&[2], None),
            (&[], None),
        ] {
            assert_eq!(option(&header(options), OPTION_MSS), expected, "{options:?}");
        }
    }

    /// A SYN with these options, its checksum right as far as there is no pseudo-header.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut header = [&[0; MIN_HEADER][..], options].concat();
        header[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        header[12] = (header.len() as u8 / 4) << 4;
        header[13] = Flags::SYN;
        let check = checksum::verify(&header);
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
        header
    }

    #[test]
    fn a_higher_maximum_segment_size_is_lowered_wherever_it_is() {
        for options in [
            &[2, 4, 5, 180][..],
            &[1, 2, 4, 5, 180, 1, 1, 1],
            &[1, 1, 2, 4, 5, 180, 0, 0],
            &[3, 3, 7, 2, 4, 5, 180, 0],
        ] {
            for (most, expected) in [(1400, 1400), (1459, 1459), (1460, 1460), (9000, 1460), (88, 88)] {
                let mut header = syn(options);
                assert_eq!(clamp_mss(&mut header, most), most < 1460, "{options:?} {most}");
                let (at, _) = option(&header, OPTION_MSS).unwrap();
                assert_eq!(
                    (read_u16(&header, at + 2), checksum::verify(&header)),
                    (expected, 0),
                    "{options:?} {most}"
                );
                let others = |header: &[u8]| [&header[..16], &header[18..at + 2], &header[at + 4..]].concat();
                assert_eq!(others(&header), others(&syn(options)), "{options:?} {most}");
            }
        }
    }

    #[test]
    fn a_segment_that_announces_none_stays_as_it_is() {
        let mut cut = syn(&[2, 4, 5, 180]);
        cut.truncate(22);
        let mut short = syn(&[2, 4, 5, 180]);
        short[12] = 0x40;
        for mut segment in [
            syn(&[]),
            syn(&[1, 1, 1, 1]),
            syn(&[2, 3, 5, 180]),
            syn(&[0, 2, 4, 5]),
            cut,
            short,
            vec![],
            vec![7; 13],
        ] {
            let before = segment.clone();
            assert!(!clamp_mss(&mut segment, 88), "{before:?}");
            assert_eq!(segment, before);
        }
    }
}
