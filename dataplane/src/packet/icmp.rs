//! ICMP errors (RFC 792, RFC 1812 §4.3.2) made of the packets they are about.

use super::ipv4::Ipv4;
use super::{checksum, ethernet, ipv4, read_u16, read_u32};
use crate::wire::Frame;

/// The ICMP header's length.
pub const HEADER: usize = 8;

/// Types (IANA) of the errors that quote a packet and that a balancer hands on.
pub mod kind {
    /// RFC 792.
    pub const UNREACHABLE: u8 = 3;
    /// RFC 792; RFC 6633 has given it up, IPVS has not.
    pub const SOURCE_QUENCH: u8 = 4;
    /// RFC 792.
    pub const TIME_EXCEEDED: u8 = 11;
    /// RFC 792.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Codes (IANA) under [`kind::UNREACHABLE`].
pub mod code {
    /// RFC 792.
    pub const HOST: u8 = 1;
    /// RFC 1191.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
}

/// An error is no longer than this, IP header included (RFC 1812 §4.3.2.3).
const LONGEST: usize = 576;

/// What goes before the packet that the error quotes.
const FRONT: usize = ipv4::MIN_HEADER + HEADER;

/// The time to live of what a host sends (IANA's recommendation, and Linux's).
const TTL: u8 = 64;

/// What is told to a packet's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody is at that port: what IPVS answers for services without a destination, TCP's too.
    PortUnreachable,
    /// The packet must not be fragmented and is longer than `mtu` bytes (RFC 1191).
    FragmentationNeeded {
        /// The longest packet that would do, IP header included.
        mtu: u16,
    },
    /// The time to live has run out here.
    TimeExceeded,
    /// What somebody else has said of it.
    Relayed {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
        /// What comes before the quoted packet.
        parameter: [u8; 4],
    },
}

impl Error {
    /// The header, its checksum 0.
    fn header(self) -> [u8; HEADER] {
        match self {
            Error::PortUnreachable => [kind::UNREACHABLE, 3, 0, 0, 0, 0, 0, 0],
            Error::FragmentationNeeded { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [kind::UNREACHABLE, code::FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low]
            }
            Error::TimeExceeded => [kind::TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
            Error::Relayed { kind, code, parameter: [a, b, c, d] } => [kind, code, 0, 0, a, b, c, d],
        }
    }
}

/// Makes of a frame that holds an IPv4 packet of `length` bytes the error that tells its sender that nobody is at that
/// port; as [`make_error`] does, from the address the packet was for.
pub fn make_port_unreachable<F: Frame>(frame: &mut F, length: u16, identification: u16) -> bool {
    make_error(frame, Error::PortUnreachable, length, None, identification)
}

/// Makes of a frame that holds an IPv4 packet of `length` bytes the error that tells its sender what became of it. `from` is
/// whose error it is, as a number; `None` stands for the address the packet was for. As much of the packet is quoted as
/// fits. `identification` tells errors apart that are fragmented on their way. The addresses of the frame header are to be
/// set where it leaves. False where the frame's buffer cannot hold the error in one piece; the frame is of no use then.
///
/// Whether the packet may be answered at all, [`may_answer`] tells.
pub fn make_error<F: Frame>(
    frame: &mut F,
    error: Error,
    length: u16,
    from: Option<u32>,
    identification: u16,
) -> bool {
    let quoted = usize::from(length).min(LONGEST - FRONT);
    let Some(original) = frame.data().get(ethernet::HEADER..).and_then(|ip| ip.first_chunk::<20>()) else {
        return false;
    };
    // Type of service as Linux has it: the packet's, with the precedence of internetwork control (RFC 1812 §4.3.2.5).
    let service = original[1] & 0x1e | 0xc0;
    let (source, destination) = (from.unwrap_or(read_u32(original, 16)), read_u32(original, 12));
    if !frame.truncate(ethernet::HEADER + quoted) || frame.data().len() != ethernet::HEADER + quoted {
        return false;
    }
    let Some(bytes) = frame.prepend(FRONT) else { return false };
    let (front, packet) = bytes.split_at_mut(ethernet::HEADER);
    front[12..].copy_from_slice(&ethernet::ethertype::IPV4.to_be_bytes());
    let (ip, message) = packet.split_at_mut(ipv4::MIN_HEADER);
    ip.fill(0);
    ip[0] = 0x45;
    ip[1] = service;
    ip[2..4].copy_from_slice(&((FRONT + quoted) as u16).to_be_bytes());
    ip[4..6].copy_from_slice(&identification.to_be_bytes());
    ip[8] = TTL;
    ip[9] = super::protocol::ICMP;
    ip[12..16].copy_from_slice(&source.to_be_bytes());
    ip[16..20].copy_from_slice(&destination.to_be_bytes());
    let check = checksum::verify(ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    message[..HEADER].copy_from_slice(&error.header());
    let check = checksum::verify(message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    true
}

/// Whether an error may be sent about `packet` (RFC 1122 §3.2.2): not about another error or an ICMP message of unknown kind,
/// nor about a fragment that is not the first, nor about what came from or went to more than one host. `packet` begins with
/// the IP header.
pub fn may_answer(packet: &[u8]) -> bool {
    let Ok(ip) = Ipv4::new(packet, usize::MAX) else { return false };
    if read_u16(packet, 6) & 0x1fff != 0
        || ip.destination() >> 28 >= 0xe
        || ipv4::is_martian_source(ip.source())
    {
        return false;
    }
    // Queries and replies: echo, router discovery, timestamp, information, address mask.
    let query = |kind: &u8| matches!(kind, 0 | 8..=10 | 13..=18);
    ip.protocol() != super::protocol::ICMP || packet.get(ip.header_length()).is_some_and(query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::vectors::vectors;
    use crate::wire::memory::MemoryFrame;
    use proptest::prelude::*;

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

    #[test]
    fn errors_are_those_that_scapy_makes() {
        const DIRECTOR: u32 = 0xc000_0201; // 192.0.2.1
        for (name, frames) in vectors(include_str!("../../tests/scapy/icmp.txt")) {
            let (error, from) = match name {
                "port_unreachable" => (Error::PortUnreachable, None),
                "fragmentation_needed" => (Error::FragmentationNeeded { mtu: 1476 }, None),
                "time_exceeded" => (Error::TimeExceeded, Some(DIRECTOR)),
                other => panic!("{other}"),
            };
            let mut frame = MemoryFrame::new(&frames[0]);
            let length = read_u16(&frames[0], 16);
            assert!(make_error(&mut frame, error, length, from, 0x1234), "{name}");
            assert_eq!(frame.data()[12..], frames[1][12..], "{name}");
        }
    }

    #[test]
    fn errors_answer_one_host_and_no_errors() {
        let answered = |change: &[(usize, u8)]| {
            let mut bytes = packet(40, 0).split_off(14);
            change.iter().for_each(|&(at, value)| bytes[at] = value);
            may_answer(&bytes)
        };
        assert!(answered(&[]));
        assert!(answered(&[(6, 0x20)]), "a first fragment");
        assert!(!answered(&[(7, 1)]), "a later one");
        assert!(!answered(&[(16, 224)]), "to a group");
        assert!(!answered(&[(16, 255)]), "to all");
        assert!(!answered(&[(12, 0)]), "from nobody");
        assert!(answered(&[(9, 1), (20, 8)]), "an echo");
        assert!(!answered(&[(9, 1), (20, 3)]), "an error");
        assert!(!answered(&[(9, 1), (20, 99)]), "who knows");
        assert!(!may_answer(&[]));
        assert!(!may_answer(&packet(20, 0)[14..33]));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..700), length: u16) {
            may_answer(&bytes);
            make_error(&mut MemoryFrame::new(&bytes), Error::TimeExceeded, length, None, 0);
        }
    }
}
