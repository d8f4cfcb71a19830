//! Fragmenting what is longer than the link takes (RFC 791 §3.2, RFC 8200 §4.5), where its sender did not forbid it: IPv4 packets,
//! fragments among them, and what a tunnel has put inside another packet. The slow way: every piece is a copy in a buffer of its own.
//!
//! Of IPv6, only packets that begin with a header of our own, behind which no extension header comes but, where it is a fragment itself, the
//! one that says so.

use std::ops::Range;

use crate::counters::Drop;
use crate::packet::ethernet::{self, ethertype};
use crate::packet::{checksum, ipv4, ipv6, read_u16};
use crate::wire::{Burst, Frame};

/// IPv4's bit, and IPv6's, that says that fragments follow.
const MORE_IPV4: u16 = 0x2000;
const MORE_IPV6: u16 = 1;
/// IPv4's bit that stays as it was.
const DONT_FRAGMENT: u16 = 0x4000;
/// Of IPv4's field, what says where a fragment belongs, in units of eight bytes.
const OFFSET_IPV4: u16 = 0x1fff;

/// IPv4's options that are no more than one byte: the end of them, and none.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
/// An option's bit that says that it is in all fragments.
const COPIED: u8 = 0x80;

/// True for a packet that a router may fragment: IPv4 without DF. `packet` begins with the IP header.
pub(crate) fn may_be_made_of(packet: &[u8]) -> bool {
    let header = packet.first_chunk::<{ ipv4::MIN_HEADER }>();
    header.is_some_and(|header| header[0] >> 4 == 4 && read_u16(header, 6) & DONT_FRAGMENT == 0)
}

/// Appends to `pieces` the fragments of the packet in `frame`, none longer than `mtu` bytes with its IP header. The addresses of the
/// frame header are to be set where they leave.
///
/// # Errors
/// Where there are no buffers, or there would be more fragments than `pieces` has room for. Some may have been appended.
pub(crate) fn split<F: Frame>(
    frame: &F,
    mtu: usize,
    identification: u32,
    pieces: &mut Burst<F>,
) -> Result<(), Drop> {
    let is_ipv4 = read_type(frame)? == ethertype::IPV4;
    let (header, added) = if is_ipv4 { (header_ipv4(frame)?, 0) } else { header_ipv6(frame)? };
    let front = ethernet::HEADER + header;
    // Offsets are in units of eight bytes.
    let most = mtu.saturating_sub(header + added) & !7;
    let payload = frame.len().checked_sub(front).ok_or(Drop::Truncated)?;
    let original = frame.data().get(..front).ok_or(Drop::Truncated)?;
    if most == 0 {
        return Err(Drop::TooBig);
    }
    for offset in (0..payload).step_by(most) {
        let end = payload.min(offset + most);
        let mut piece = frame.copy(front + offset..front + end).ok_or(Drop::NoBuffer)?;
        let bytes = piece.prepend(front + added).ok_or(Drop::NoHeadroom)?;
        bytes[..front].copy_from_slice(original);
        let part = Part { bytes: offset..end, is_last: end == payload, identification };
        if is_ipv4 {
            part.write_ipv4(&mut bytes[ethernet::HEADER..front]);
        } else {
            part.write_ipv6(&mut bytes[ethernet::HEADER..front + added]);
        }
        pieces.try_push(piece).map_err(|_| Drop::TooBig)?;
    }
    Ok(())
}

fn read_type<F: Frame>(frame: &F) -> Result<u16, Drop> {
    let header = frame.data().first_chunk::<{ ethernet::HEADER }>().ok_or(Drop::Truncated)?;
    Ok(read_u16(header, 12))
}

/// The length of the IPv4 header.
fn header_ipv4<F: Frame>(frame: &F) -> Result<usize, Drop> {
    let first = frame.data().get(ethernet::HEADER).ok_or(Drop::Truncated)?;
    Ok((usize::from(first & 0x0f) * 4).max(ipv4::MIN_HEADER))
}

/// The length of the IPv6 header, with the one that says that the packet is a fragment, and what is added to it for a piece: that one, where it is
/// not there.
fn header_ipv6<F: Frame>(frame: &F) -> Result<(usize, usize), Drop> {
    let next = frame.data().get(ethernet::HEADER + 6).ok_or(Drop::Truncated)?;
    let is_fragment = *next == ipv6::extension::FRAGMENT;
    Ok(if is_fragment { (ipv6::HEADER + ipv6::FRAGMENT, 0) } else { (ipv6::HEADER, ipv6::FRAGMENT) })
}

/// Puts nothing in the place of options that only the first fragment has. What does not add up stays.
fn drop_options(mut options: &mut [u8]) {
    while let Some(&kind) = options.first()
        && kind != END
    {
        let length = match (kind, options.get(1)) {
            (NO_OPERATION, _) => 1,
            (_, Some(length)) if *length >= 2 => usize::from(*length),
            _ => return,
        };
        let Some((option, rest)) = options.split_at_mut_checked(length) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}

/// One fragment.
struct Part {
    /// Which bytes of the payload are in it.
    bytes: Range<usize>,
    is_last: bool,
    identification: u32,
}

impl Part {
    fn write_ipv4(&self, header: &mut [u8]) {
        let total = (header.len() + self.bytes.len()) as u16;
        let more = if self.is_last { 0 } else { MORE_IPV4 };
        // Of a fragment more follow as they did, and its place is what ours are counted from.
        let place = (read_u16(header, 6) | more).wrapping_add((self.bytes.start / 8) as u16);
        if place & OFFSET_IPV4 != 0 {
            drop_options(&mut header[ipv4::MIN_HEADER..]);
        }
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&(self.identification as u16).to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
        header[10..12].fill(0);
        let check = checksum::verify(header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }

    fn write_ipv6(&self, headers: &mut [u8]) {
        let (header, fragment) = headers.split_at_mut(ipv6::HEADER);
        let length = (ipv6::FRAGMENT + self.bytes.len()) as u16;
        let next = std::mem::replace(&mut header[6], ipv6::extension::FRAGMENT);
        header[4..6].copy_from_slice(&length.to_be_bytes());
        let more = if self.is_last { 0 } else { MORE_IPV6 };
        if next == ipv6::extension::FRAGMENT {
            // Of a fragment more follow as they did, and its place is what ours are counted from.
            let place = (read_u16(fragment, 2) | more).wrapping_add(self.bytes.start as u16);
            fragment[2..4].copy_from_slice(&place.to_be_bytes());
            return;
        }
        fragment[..2].copy_from_slice(&[next, 0]);
        fragment[2..4].copy_from_slice(&(self.bytes.start as u16 | more).to_be_bytes());
        fragment[4..8].copy_from_slice(&self.identification.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ipv4::Ipv4;
    use crate::packet::ipv6::Ipv6;
    use crate::wire::memory::MemoryFrame;

    /// A frame with this much behind an IPv4 or IPv6 header.
    fn frame(is_ipv4: bool, payload: usize) -> MemoryFrame {
        let mut bytes = vec![0xee; 12];
        if is_ipv4 {
            bytes.extend([8, 0, 0x45, 7]);
            bytes.extend((20 + payload as u16).to_be_bytes());
            bytes.extend([9, 9, 0, 0, 63, 4, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9]);
        } else {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((payload as u16).to_be_bytes());
            bytes.extend([4, 63]);
            bytes.extend([0x20; 32]);
        }
        bytes.extend((0..payload).map(|n| (n / 7) as u8));
        MemoryFrame::new(&bytes)
    }

    fn pieces(frame: &MemoryFrame, mtu: usize) -> Burst<MemoryFrame> {
        let mut pieces = Burst::new();
        split(frame, mtu, 0x0102_0304, &mut pieces).unwrap();
        pieces
    }

    #[test]
    fn ipv4_fragments_fit_and_are_the_packet_again() {
        for (payload, mtu, expected) in [(1500, 1500, 2), (1480, 1500, 1), (4000, 576, 8), (9000, 1500, 7)] {
            let before = frame(true, payload);
            let all = pieces(&before, mtu);
            assert_eq!(all.len(), expected);
            let mut again: Vec<u8> = vec![];
            for (n, piece) in all.iter().enumerate() {
                let ip = Ipv4::new(&piece.data()[14..], piece.len() - 14).unwrap();
                assert!(ip.checksum_is_right() && usize::from(ip.total_length()) <= mtu);
                assert_eq!(usize::from(ip.total_length()), piece.len() - 14);
                let place = read_u16(piece.data(), 14 + 6);
                assert_eq!((place & 0x1fff) * 8, again.len() as u16);
                assert_eq!(place & MORE_IPV4 != 0, n + 1 < expected);
                assert_eq!(read_u16(piece.data(), 14 + 4), 0x0304);
                again.extend(&piece.data()[34..]);
            }
            assert_eq!(again, before.data()[34..]);
        }
    }

    #[test]
    fn ipv6_fragments_fit_and_are_the_packet_again() {
        for (payload, mtu, expected) in [(1500, 1500, 2), (1448, 1500, 1), (9000, 1500, 7)] {
            let before = frame(false, payload);
            let all = pieces(&before, mtu);
            assert_eq!(all.len(), expected);
            let mut again: Vec<u8> = vec![];
            for (n, piece) in all.iter().enumerate() {
                assert!(piece.len() - 14 <= mtu);
                let ip = Ipv6::new(&piece.data()[14..], piece.len() - 14).unwrap();
                let upper = ip.upper().unwrap();
                let fragment = upper.fragment.unwrap();
                assert_eq!((upper.protocol, upper.offset), (4, 48));
                assert_eq!((fragment.identification, fragment.more), (0x0102_0304, n + 1 < expected));
                assert_eq!(usize::from(fragment.offset), again.len());
                again.extend(&piece.data()[62..]);
            }
            assert_eq!(again, before.data()[54..]);
        }
    }

    /// A fragment in the middle, with an option that is copied, one that is not, and nothing.
    #[test]
    fn fragments_are_fragmented_and_only_the_first_has_all_options() {
        let options = [0x83, 7, 4, 192, 0, 2, 1, 0x07, 3, 4, 1, 0];
        let mut before = vec![0xee; 12];
        before.extend([8, 0, 0x48, 7]);
        before.extend((32 + 1000_u16).to_be_bytes());
        before.extend([9, 9, 0x20, 0x10, 63, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9]);
        before.extend(options);
        before.extend((0..1000).map(|n| (n / 7) as u8));
        for (place, starts) in [([0x20, 0x10], 128), ([0, 0], 0)] {
            before[20..22].copy_from_slice(&place);
            let all = pieces(&MemoryFrame::new(&before), 576);
            assert_eq!(all.len(), 2);
            let mut again: Vec<u8> = vec![];
            for (n, piece) in all.iter().enumerate() {
                let ip = Ipv4::new(&piece.data()[14..], piece.len() - 14).unwrap();
                assert!(ip.checksum_is_right());
                assert_eq!(
                    (ip.header_length(), usize::from(ip.fragment_offset())),
                    (32, starts + again.len())
                );
                assert_eq!(ip.has_more_fragments(), n == 0 || starts > 0);
                let mut expected = options;
                if starts + n > 0 {
                    expected[7..10].fill(NO_OPERATION);
                }
                assert_eq!(piece.data()[34..46], expected);
                again.extend(&piece.data()[46..]);
            }
            assert_eq!(again, before[46..]);
        }
    }

    #[test]
    fn only_ipv4_without_dont_fragment_may_be_fragmented() {
        let ip = |is_ipv4| frame(is_ipv4, 100).data()[14..].to_vec();
        let mut forbidden = ip(true);
        forbidden[6] |= 0x40;
        assert!(may_be_made_of(&ip(true)));
        assert!(!may_be_made_of(&forbidden) && !may_be_made_of(&ip(false)) && !may_be_made_of(&[0x45; 19]));
    }

    #[test]
    fn what_cannot_be_split_has_a_name() {
        let split_at = |frame: &MemoryFrame, mtu| split(frame, mtu, 1, &mut Burst::new());
        assert_eq!(split_at(&frame(true, 4000), 27), Err(Drop::TooBig), "no room for eight bytes");
        assert_eq!(split_at(&frame(true, 4000), 68), Err(Drop::TooBig), "too many");
        assert_eq!(split_at(&MemoryFrame::new(&[0; 13]), 1500), Err(Drop::Truncated));
    }
}
