//! Fragmenting what a tunnel makes longer than the link takes (RFC 791 §3.2, RFC 8200 §4.5), where its sender did not forbid it.
//! The slow way: every piece is a copy in a buffer of its own.
//!
//! Only for packets that begin with an outer header of our own, which has no options and no extension headers.

use std::ops::Range;

use crate::counters::Drop;
use crate::packet::ethernet::{self, ethertype};
use crate::packet::{checksum, ipv4, ipv6, read_u16};
use crate::wire::{Burst, Frame};

/// The length of IPv6's fragment header.
const FRAGMENT: usize = 8;
/// IPv4's bit, and IPv6's, that says that fragments follow.
const MORE_IPV4: u16 = 0x2000;
const MORE_IPV6: u16 = 1;
/// IPv4's bit that stays as it was.
const DONT_FRAGMENT: u16 = 0x4000;

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
    let (header, added) = if is_ipv4 { (ipv4::MIN_HEADER, 0) } else { (ipv6::HEADER, FRAGMENT) };
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
        let place = read_u16(header, 6) & DONT_FRAGMENT | more | (self.bytes.start / 8) as u16;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&(self.identification as u16).to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
        header[10..12].fill(0);
        let check = checksum::verify(header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }

    fn write_ipv6(&self, headers: &mut [u8]) {
        let (header, fragment) = headers.split_at_mut(ipv6::HEADER);
        let length = (FRAGMENT + self.bytes.len()) as u16;
        let next = std::mem::replace(&mut header[6], ipv6::extension::FRAGMENT);
        header[4..6].copy_from_slice(&length.to_be_bytes());
        let more = if self.is_last { 0 } else { MORE_IPV6 };
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

    #[test]
    fn what_cannot_be_split_has_a_name() {
        let split_at = |frame: &MemoryFrame, mtu| split(frame, mtu, 1, &mut Burst::new());
        assert_eq!(split_at(&frame(true, 4000), 27), Err(Drop::TooBig), "no room for eight bytes");
        assert_eq!(split_at(&frame(true, 4000), 68), Err(Drop::TooBig), "too many");
        assert_eq!(split_at(&MemoryFrame::new(&[0; 13]), 1500), Err(Drop::Truncated));
    }
}
