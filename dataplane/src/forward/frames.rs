//! Frames that become longer or shorter where they are: what is in front of the place moves, and the IP header's length follows.

use crate::counters::Drop;
use crate::packet::checksum::Difference;
use crate::packet::{ethernet, ipv4, ipv6, read_u16};
use crate::wire::Frame;

/// Puts `bytes` at this place of the frame, which lies in its first piece.
pub(super) fn insert<F: Frame>(frame: &mut F, at: usize, bytes: &[u8]) -> Result<(), Drop> {
    let n = bytes.len();
    if at > frame.data().len() {
        return Err(Drop::Truncated);
    }
    let data = frame.prepend(n).ok_or(Drop::NoHeadroom)?;
    data.copy_within(n..n + at, 0);
    data[at..at + n].copy_from_slice(bytes);
    Ok(())
}

/// Puts an IP header, with whatever belongs to it, in the place of all that is in front of `at`, but for Ethernet's header, whose
/// addresses are of no account afterwards.
pub(super) fn replace_front<F: Frame>(frame: &mut F, at: usize, front: &[u8]) -> Result<(), Drop> {
    let length = ethernet::HEADER + front.len();
    if length <= at {
        if !frame.trim_front(at - length) {
            return Err(Drop::Truncated);
        }
    } else if frame.prepend(length - at).is_none() {
        return Err(Drop::NoHeadroom);
    }
    let is_ipv4 = front.first().is_some_and(|byte| byte >> 4 == 4);
    let ethertype = if is_ipv4 { ethernet::ethertype::IPV4 } else { ethernet::ethertype::IPV6 };
    let head = frame.data_mut().get_mut(ethernet::HEADER - 2..length).ok_or(Drop::Truncated)?;
    let (kind, ip) = head.split_at_mut(2);
    kind.copy_from_slice(&ethertype.to_be_bytes());
    ip.copy_from_slice(front);
    Ok(())
}

/// Takes off the end what is beyond `length` bytes, padding included.
pub(super) fn truncate<F: Frame>(frame: &mut F, length: usize) -> Result<(), Drop> {
    if frame.truncate(length) { Ok(()) } else { Err(Drop::Scattered) }
}

/// Makes the IP packet's length field larger by so many bytes, and corrects an IPv4 header's checksum.
pub(super) fn lengthen<F: Frame>(frame: &mut F, by: i32) {
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).unwrap_or_default();
    let longer = |length: u16| (i32::from(length) + by) as u16;
    match ip.first().map(|byte| byte >> 4) {
        Some(4) => {
            let Some(header) = ip.first_chunk_mut::<{ ipv4::MIN_HEADER }>() else { return };
            let (old, check) = (read_u16(header, 2), read_u16(header, 10));
            let check = Difference::default().replace_u16(old, longer(old)).apply(check);
            header[2..4].copy_from_slice(&longer(old).to_be_bytes());
            header[10..12].copy_from_slice(&check.to_be_bytes());
        }
        _ => {
            let Some(header) = ip.first_chunk_mut::<{ ipv6::HEADER }>() else { return };
            let length = longer(read_u16(header, 4));
            header[4..6].copy_from_slice(&length.to_be_bytes());
        }
    }
}
