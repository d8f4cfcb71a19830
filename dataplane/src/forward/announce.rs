//! How a real server by FULLNAT learns who its client is: by a TCP option (TOA), or by a header of the PROXY protocol in front of
//! the client's data.
//!
//! TOA is what LVS's and DPVS's module for Linux, toa, looks for in the segment that completes the handshake: kind 254, the client's port
//! and address, right behind the fixed header. It goes into every segment until the client has acknowledged something of the server's
//! data, so that a lost one is made up for by the next.
//!
//! A PROXY header (version 1 or 2 of the specification at haproxy.org) takes sequence numbers that the client knows nothing of. It goes
//! in front of the segment that begins with the client's first byte, which the empty one that completes the handshake does, too, and is
//! repeated with each such segment until the server has acknowledged it: TCP throws away what it has. From then on the client's
//! numbers are larger by its length on the server's side, and the server's acknowledgements smaller by it on the client's.

use super::frames::{insert, lengthen, truncate};
use crate::conn::inside::{Announce, Inside};
use crate::counters::Drop;
use crate::packet::checksum::{self, Difference};
use crate::packet::tcp::{self, Flags};
use crate::packet::{ethernet, proxy, read_u16, read_u32, toa};
use crate::parse::{AnyFlow, AnyPacket};
use crate::wire::Frame;

/// Where the parts of a frame's TCP segment are, in bytes from the start of the frame.
#[derive(Clone, Copy)]
struct Segment {
    start: usize,
    data: usize,
    end: usize,
}

impl Segment {
    /// `None` where the header is longer than the segment, or not all of it is in the frame's first piece: the server will see to it.
    fn of<F: Frame>(frame: &F, packet: &AnyPacket) -> Option<Self> {
        let start = ethernet::HEADER + packet.transport;
        let header = usize::from(frame.data().get(start + 12)? >> 4) * 4;
        let (data, end) = (start + header, ethernet::HEADER + packet.length);
        let is_sound = header >= tcp::MIN_HEADER && data <= end && data <= frame.data().len();
        is_sound.then_some(Self { start, data, end })
    }

    fn has_data(self) -> bool {
        self.end > self.data
    }

    fn header<F: Frame>(self, frame: &F) -> &[u8] {
        frame.data().get(self.start..self.data).unwrap_or_default()
    }

    /// Changes the header, and its checksum by that.
    fn change<F: Frame>(self, frame: &mut F, more: Difference, change: impl FnOnce(&mut [u8])) {
        let Some(header) = frame.data_mut().get_mut(self.start..self.data) else { return };
        let before = checksum::sum(header);
        change(header);
        // The checksum's field is in both sums.
        let difference = more.remove(before).insert(checksum::sum(header));
        let check = difference.apply(read_u16(header, tcp::CHECKSUM));
        header[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
    }
}

/// Changes a client's segment of this flow, which is for the server. It may become longer, but not than `mtu` as an IP packet; gives how
/// long the packet is now. `is_opening` while the server has not acknowledged the client's SYN.
///
/// # Errors
/// Why the segment cannot go on.
pub(super) fn to_server<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    (inside, flow): (Inside<'_>, AnyFlow),
    mtu: usize,
    is_opening: bool,
) -> Result<usize, Drop> {
    let Some(segment) = Segment::of(frame, packet) else { return Ok(packet.length) };
    let (sequence, acknowledged) = numbers(segment.header(frame));
    let announce = inside.announce();
    if packet.flags.any(Flags::SYN) {
        if is_opening && !packet.flags.any(Flags::ACK) {
            inside.begin(sequence);
            // Data that comes with the SYN would come before the header. The client sends it again.
            if announce.is_proxy() && segment.has_data() {
                return cut(frame, segment, segment.data);
            }
        }
        return Ok(packet.length);
    }
    if announce == Announce::Toa {
        let is_first = inside.server_began().is_some_and(|first| acknowledged == first.wrapping_add(1));
        let is_wanted = is_first && packet.flags.any(Flags::ACK) && !packet.flags.any(Flags::RST);
        return if is_wanted { add_toa(frame, packet, segment, flow, mtu) } else { Ok(packet.length) };
    }
    let Some(began) = inside.client_began() else { return Ok(packet.length) };
    let header = u32::from(inside.header_length());
    let ahead = sequence.wrapping_sub(began.wrapping_add(1)) as i32;
    if !inside.is_announced() && ahead <= 0 {
        let is_first = ahead == 0 && !packet.flags.any(Flags::RST);
        return if is_first {
            add_header(frame, packet, segment, (inside, flow), mtu)
        } else {
            Ok(packet.length)
        };
    }
    segment.change(frame, Difference::default(), |tcp| {
        tcp[4..8].copy_from_slice(&sequence.wrapping_add(header).to_be_bytes());
    });
    Ok(packet.length)
}

/// Changes a server's segment, which is for the client.
pub(super) fn to_client<F: Frame>(frame: &mut F, packet: &AnyPacket, inside: Inside<'_>) {
    let Some(segment) = Segment::of(frame, packet) else { return };
    let announce = inside.announce();
    if packet.flags.any(Flags::SYN) && packet.flags.any(Flags::ACK) {
        let (sequence, _) = numbers(segment.header(frame));
        inside.server_begins(sequence);
        // What the client sends first is to have room for what is put into it.
        let less = inside.header_length();
        return segment.change(frame, Difference::default(), |tcp| lower_mss(tcp, less));
    }
    if let Some(began) = inside.client_began().filter(|_| announce.is_proxy())
        && packet.flags.any(Flags::ACK)
    {
        let header = u32::from(inside.header_length());
        let first = began.wrapping_add(1);
        let (_, acknowledged) = numbers(segment.header(frame));
        if !inside.is_announced() && acknowledged.wrapping_sub(first) as i32 >= header as i32 {
            inside.set_announced();
        }
        let is_announced = inside.is_announced();
        // What is acknowledged of the header is nothing to the client.
        let without = |number: u32| match number.wrapping_sub(first) as i32 {
            _ if is_announced => number.wrapping_sub(header),
            ahead if ahead >= header as i32 => number.wrapping_sub(header),
            ahead if ahead >= 0 => first,
            _ => number,
        };
        segment.change(frame, Difference::default(), |tcp| {
            tcp[8..12].copy_from_slice(&without(acknowledged).to_be_bytes());
            each_block(tcp, without);
        });
    }
}

fn numbers(header: &[u8]) -> (u32, u32) {
    if header.len() < tcp::MIN_HEADER { (0, 0) } else { (read_u32(header, 4), read_u32(header, 8)) }
}

/// Lowers the maximum segment size that the header announces.
fn lower_mss(header: &mut [u8], less: u16) {
    if let Some((at, 4)) = tcp::option(header, tcp::OPTION_MSS) {
        let mss = read_u16(header, at + 2);
        let lowered = mss.saturating_sub(less).max(mss.min(tcp::LEAST_MSS));
        header[at + 2..at + 4].copy_from_slice(&lowered.to_be_bytes());
    }
}

/// Changes the edges of the blocks that were received out of order (RFC 2018).
fn each_block(header: &mut [u8], change: impl Fn(u32) -> u32) {
    let Some((at, length)) = tcp::option(header, tcp::OPTION_SACK) else { return };
    for edge in (at + 2..at + length).step_by(4).filter(|edge| edge + 4 <= at + length) {
        let number = change(read_u32(header, edge));
        header[edge..edge + 4].copy_from_slice(&number.to_be_bytes());
    }
}

/// Leaves the segment as it is where there is no room for the option, in the header or in the packet.
fn add_toa<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    segment: Segment,
    flow: AnyFlow,
    mtu: usize,
) -> Result<usize, Drop> {
    let option = toa::option(flow.source());
    let (length, header) = (packet.length + option.len(), segment.data - segment.start + option.len());
    if length > mtu || header > tcp::MAX_HEADER {
        return Ok(packet.length);
    }
    insert(frame, segment.start + tcp::MIN_HEADER, &option)?;
    lengthen(frame, option.len() as i32);
    let (old, new) = (segment.end - segment.start, segment.end - segment.start + option.len());
    let more = Difference::default().insert(checksum::sum(&option)).replace_u16(old as u16, new as u16);
    // The option is counted with `more`, and what follows it has not changed.
    let fixed = Segment { data: segment.start + tcp::MIN_HEADER, ..segment };
    fixed.change(frame, more, |tcp| tcp[12] = (header as u8 / 4) << 4 | tcp[12] & 0x0f);
    Ok(length)
}

/// Puts the header in front of the segment's data, of which as much goes along as there is room for.
fn add_header<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    segment: Segment,
    (inside, flow): (Inside<'_>, AnyFlow),
    mtu: usize,
) -> Result<usize, Drop> {
    let header = proxy::header(inside.announce() == Announce::ProxyV2, flow.source(), flow.destination());
    let room = mtu.saturating_sub(header.len() + segment.data - ethernet::HEADER);
    // An even number, so that what is left is summed up as it was.
    let room = room & !1;
    let mut length = packet.length;
    if segment.end - segment.data > room {
        length = cut(frame, segment, segment.data + room)?;
    }
    let end = ethernet::HEADER + length;
    let mut more = Difference::default();
    if header.len() % 2 == 1 {
        // The data moves by an odd number of bytes, and each of its words counts with its bytes swapped. What it adds up to the
        // checksum says: all else that this covers is known.
        let rest = rest(frame, segment, end);
        more = more.remove(rest.into()).insert(rest.swap_bytes().into());
    }
    let (old, new) = (end - segment.start, end - segment.start + header.len());
    more = more.insert(checksum::sum(&header)).replace_u16(old as u16, new as u16);
    insert(frame, segment.data, &header)?;
    lengthen(frame, header.len() as i32);
    segment.change(frame, more, |tcp| {
        let urgent = read_u16(tcp, 18);
        if tcp[13] & 0x20 != 0 {
            tcp[18..20].copy_from_slice(&urgent.wrapping_add(header.len() as u16).to_be_bytes());
        }
    });
    Ok(length + header.len())
}

/// What the segment's data adds up to by its checksum. `end` is the segment's.
fn rest<F: Frame>(frame: &F, segment: Segment, end: usize) -> u16 {
    let bytes = frame.data();
    let length = (end - segment.start) as u16;
    let addresses = match bytes.get(ethernet::HEADER).map(|byte| byte >> 4) {
        Some(4) => checksum::sum(bytes.get(ethernet::HEADER + 12..ethernet::HEADER + 20).unwrap_or_default()),
        _ => checksum::sum(bytes.get(ethernet::HEADER + 8..ethernet::HEADER + 40).unwrap_or_default()),
    };
    let known = addresses + u32::from(crate::packet::protocol::TCP) + u32::from(length);
    !checksum::fold(known + checksum::sum(segment.header(frame)))
}

/// Takes the segment's data off from `end` on, with what the flags say of its end. Gives how long the packet is now.
fn cut<F: Frame>(frame: &mut F, segment: Segment, end: usize) -> Result<usize, Drop> {
    let gone = frame.data().get(end..segment.end).ok_or(Drop::Scattered)?;
    let (old, new) = (segment.end - segment.start, end - segment.start);
    let more = Difference::default().remove(checksum::sum(gone)).replace_u16(old as u16, new as u16);
    truncate(frame, end)?;
    lengthen(frame, -((segment.end - end) as i32));
    segment.change(frame, more, |tcp| tcp[13] &= !(Flags::FIN | Flags::PSH));
    Ok(end - ethernet::HEADER)
}

#[cfg(test)]
mod tests;
