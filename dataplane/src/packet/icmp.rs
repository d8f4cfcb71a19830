//! ICMP errors (RFC 792, RFC 1812 §4.3.2) made of the packets they are about.

use super::{checksum, ethernet, ipv4};
use crate::wire::Frame;

/// The ICMP header's length.
pub const HEADER: usize = 8;

/// An error is no longer than this, IP header included (RFC 1812 §4.3.2.3).
const LONGEST: usize = 576;

/// What goes before the packet that the error quotes.
const FRONT: usize = ipv4::MIN_HEADER + HEADER;

/// The time to live of what a host sends (IANA's recommendation, and Linux's).
const TTL: u8 = 64;

const DESTINATION_UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE: u8 = 3;

/// Makes of a frame that holds an IPv4 packet of `length` bytes the error that tells its sender that nobody is at that
/// port, from the address the packet was for. As much of the packet is quoted as fits. `identification` tells errors apart
/// that are fragmented on their way. False where the frame's buffer cannot hold it, or what is to be quoted lies in several
/// pieces; the frame is of no use then.
pub fn make_port_unreachable<F: Frame>(frame: &mut F, length: u16, identification: u16) -> bool {
    let quoted = usize::from(length).min(LONGEST - FRONT);
    let Some(original) = frame.data().get(ethernet::HEADER..).and_then(|ip| ip.first_chunk::<20>()) else {
        return false;
    };
    // Type of service as Linux has it: the packet's, with the precedence of internetwork control (RFC 1812 §4.3.2.5).
    let service = original[1] & 0x1e | 0xc0;
    let [.., a, b, c, d, e, f, g, h] = *original;
    // The checksum is over all that is quoted, of which another piece is out of reach.
    if !frame.truncate(ethernet::HEADER + quoted) || frame.data().len() < ethernet::HEADER + quoted {
        return false;
    }
    let Some(bytes) = frame.prepend(FRONT) else { return false };
    // The addresses of the frame header are set where it leaves.
    let (front, rest) = bytes.split_at_mut(ethernet::HEADER);
    front[12..].copy_from_slice(&ethernet::ethertype::IPV4.to_be_bytes());
    let total = (FRONT + quoted) as u16;
    let [l, m] = total.to_be_bytes();
    let [i, j] = identification.to_be_bytes();
    rest[..ipv4::MIN_HEADER].copy_from_slice(&[
        0x45,
        service,
        l,
        m,
        i,
        j,
        0,
        0,
        TTL,
        super::protocol::ICMP,
        0,
        0,
        e,
        f,
        g,
        h,
        a,
        b,
        c,
        d,
    ]);
    let check = checksum::verify(&rest[..ipv4::MIN_HEADER]);
    rest[10..12].copy_from_slice(&check.to_be_bytes());
    rest[ipv4::MIN_HEADER..FRONT].copy_from_slice(&[
        DESTINATION_UNREACHABLE,
        PORT_UNREACHABLE,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    let check = checksum::verify(&rest[ipv4::MIN_HEADER..]);
    rest[22..24].copy_from_slice(&check.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ipv4::Ipv4;
    use crate::wire::memory::MemoryFrame;

    fn packet(length: usize, padding: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; 12];
        bytes.extend([8, 0, 0x45, 0x15]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([0, 1, 0x40, 0, 9, 17, 0, 0, 203, 0, 113, 9, 198, 51, 100, 8]);
        bytes.extend((20..length).map(|n| n as u8));
        bytes.extend(vec![0xaa; padding]);
        bytes
    }

    #[test]
    fn an_error_quotes_the_packet_and_goes_back() {
        for (length, padding, quoted) in [(29, 17, 29), (548, 0, 548), (549, 0, 548), (1500, 0, 548)] {
            let before = packet(length, padding);
            let mut frame = MemoryFrame::new(&before);
            assert!(make_port_unreachable(&mut frame, length as u16, 7), "{length}");
            let ip = &frame.data()[14..];
            assert_eq!(ip.len(), 28 + quoted, "{length}: neither padding nor more than 576 bytes");
            let header = Ipv4::new(ip, ip.len()).unwrap();
            assert!(header.checksum_is_right());
            assert_eq!((header.source(), header.destination()), (0xc633_6408, 0xcb00_7109));
            assert_eq!((header.protocol(), ip[1], ip[8]), (1, 0xd4, 64));
            assert_eq!(usize::from(header.total_length()), ip.len());
            assert_eq!((ip[20], ip[21]), (3, 3));
            assert_eq!(checksum::verify(&ip[20..]), 0, "{length}");
            assert_eq!(ip[28..], before[14..14 + quoted]);
        }
    }
}
