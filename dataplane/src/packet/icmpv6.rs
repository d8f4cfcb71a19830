//! ICMPv6 (RFC 4443): errors made of the packets they are about, and the checksum, which covers the addresses.

use super::checksum::{self, Difference};
use super::ipv6::{self, Ipv6};
use super::{ethernet, protocol, read_u16};
use crate::wire::Frame;

/// The ICMPv6 header's length, with the four bytes that errors have before what they quote.
pub const HEADER: usize = 8;

/// What goes before the packet that the error quotes.
const FRONT: usize = ipv6::HEADER + HEADER;

/// The hop limit of what a host sends (IANA's recommendation, and Linux's).
const HOP_LIMIT: u8 = 64;

/// Types (IANA).
pub mod kind {
    /// RFC 4443 §3.1.
    pub const UNREACHABLE: u8 = 1;
    /// RFC 4443 §3.2.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// RFC 4443 §3.3.
    pub const TIME_EXCEEDED: u8 = 3;
    /// RFC 4443 §3.4.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Types from here on are no errors (RFC 4443 §2.1).
    pub const FIRST_INFORMATIONAL: u8 = 128;
    /// RFC 4443 §4.1.
    pub const ECHO_REQUEST: u8 = 128;
    /// RFC 4443 §4.2.
    pub const ECHO_REPLY: u8 = 129;
    /// RFC 4861 §4.5.
    pub const REDIRECT: u8 = 137;
}

/// Codes (IANA) under [`kind::UNREACHABLE`].
pub mod code {
    /// RFC 4443 §3.1: nobody answers at that address.
    pub const ADDRESS: u8 = 3;
}

/// What is told to a packet's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody is at that port.
    PortUnreachable,
    /// The packet is longer than `mtu` bytes.
    PacketTooBig {
        /// The longest packet that would do, IPv6 header included.
        mtu: u32,
    },
    /// The hop limit has run out here.
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
            Error::PortUnreachable => [kind::UNREACHABLE, 4, 0, 0, 0, 0, 0, 0],
            Error::PacketTooBig { mtu } => {
                let [a, b, c, d] = mtu.to_be_bytes();
                [kind::PACKET_TOO_BIG, 0, 0, 0, a, b, c, d]
            }
            Error::TimeExceeded => [kind::TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
            Error::Relayed { kind, code, parameter: [a, b, c, d] } => [kind, code, 0, 0, a, b, c, d],
        }
    }
}

/// Makes of a frame that holds an IPv6 packet of `length` bytes the error that tells its sender what became of it. `from` is
/// whose error it is, as a number; `None` stands for the address the packet was for. As much of the packet is quoted as
/// fits into [`ipv6::MIN_MTU`]. The addresses of the frame header are to be set where it leaves. False where the frame's
/// buffer cannot hold the error in one piece; the frame is of no use then.
///
/// Whether the packet may be answered at all, [`may_answer`] tells.
pub fn make_error<F: Frame>(frame: &mut F, error: Error, length: usize, from: Option<u128>) -> bool {
    let quoted = length.min(ipv6::MIN_MTU - FRONT);
    let packet = frame.data().get(ethernet::HEADER..).unwrap_or_default();
    let Ok(original) = Ipv6::new(packet, usize::MAX) else { return false };
    let (source, destination) = (from.unwrap_or(original.destination()), original.source());
    if !frame.truncate(ethernet::HEADER + quoted) || frame.data().len() != ethernet::HEADER + quoted {
        return false;
    }
    let Some(bytes) = frame.prepend(FRONT) else { return false };
    let (front, packet) = bytes.split_at_mut(ethernet::HEADER);
    front[12..].copy_from_slice(&ethernet::ethertype::IPV6.to_be_bytes());
    let (ip, message) = packet.split_at_mut(ipv6::HEADER);
    ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    ip[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
    ip[6] = protocol::ICMPV6;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&source.to_be_bytes());
    ip[24..40].copy_from_slice(&destination.to_be_bytes());
    message[..HEADER].copy_from_slice(&error.header());
    let check = make_checksum(source, destination, message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    true
}

/// Whether `error` may be sent about `packet` (RFC 4443 §2.4 e): not about another error or a redirect, nor about a fragment
/// that is not the first, nor to an address that is not one host's. What went to a group is answered only where it was too big.
/// `packet` begins with the IPv6 header.
pub fn may_answer(packet: &[u8], error: Error) -> bool {
    let Ok(ip) = Ipv6::new(packet, usize::MAX) else { return false };
    let is_group = |address: u128| address >> 120 == 0xff;
    if ip.source() == 0 || is_group(ip.source()) {
        return false;
    }
    if is_group(ip.destination()) && !matches!(error, Error::PacketTooBig { .. }) {
        return false;
    }
    let Ok(upper) = ip.upper() else { return false };
    let informational = |kind: &u8| *kind >= kind::FIRST_INFORMATIONAL && *kind != kind::REDIRECT;
    upper.fragment.is_none_or(|fragment| fragment.offset == 0)
        && (upper.protocol != protocol::ICMPV6 || packet.get(upper.offset).is_some_and(informational))
}

/// The checksum of a message between these addresses; where the field has the right one already, 0.
pub fn make_checksum(source: u128, destination: u128, message: &[u8]) -> u16 {
    let pseudo = checksum::pseudo_ipv6(source, destination, protocol::ICMPV6, message.len() as u32);
    !checksum::fold(pseudo + checksum::sum(message))
}

/// Corrects the checksum of a message for what `change` says of the addresses, or of the message. Does nothing to what is
/// shorter than four bytes.
#[inline]
pub fn correct(message: &mut [u8], change: Difference) {
    if message.len() >= 4 {
        let check = change.apply(read_u16(message, 2));
        message[2..4].copy_from_slice(&check.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::vectors::vectors;
    use crate::wire::memory::MemoryFrame;
    use proptest::prelude::*;

    const DIRECTOR: u128 = 0x2001_0db8_00ff_0000_0000_0000_0000_0001;

    #[test]
    fn errors_are_those_that_scapy_makes() {
        for (name, frames) in vectors(include_str!("../../tests/scapy/icmpv6.txt")) {
            let (error, from) = match name {
                "port_unreachable" => (Error::PortUnreachable, None),
                "packet_too_big" => (Error::PacketTooBig { mtu: 1460 }, None),
                "time_exceeded" => (Error::TimeExceeded, Some(DIRECTOR)),
                other => panic!("{other}"),
            };
            let mut frame = MemoryFrame::new(&frames[0]);
            let length = ipv6::HEADER + usize::from(read_u16(&frames[0], 18));
            assert!(may_answer(&frames[0][14..], error), "{name}");
            assert!(make_error(&mut frame, error, length, from), "{name}");
            assert_eq!(frame.data()[12..], frames[1][12..], "{name}");
            assert!(frame.len() <= 14 + ipv6::MIN_MTU);
            let ip = Ipv6::new(&frame.data()[14..], frame.len() - 14).unwrap();
            let message = &frame.data()[14 + ipv6::HEADER..];
            assert_eq!(make_checksum(ip.source(), ip.destination(), message), 0, "{name}");
            // The error itself is not answered, whatever is wrong with it.
            assert!(!may_answer(&frame.data()[14..], error), "{name}");
        }
    }

    #[test]
    fn groups_and_later_fragments_are_not_answered() {
        let (_, frames) = vectors(include_str!("../../tests/scapy/icmpv6.txt")).swap_remove(0);
        let packet = &frames[0][14..];
        let answered = |change: &[(usize, u8)], error| {
            let mut packet = packet.to_vec();
            change.iter().for_each(|&(at, value)| packet[at] = value);
            may_answer(&packet, error)
        };
        assert!(answered(&[], Error::PortUnreachable));
        assert!(!answered(&[(24, 0xff)], Error::PortUnreachable));
        assert!(answered(&[(24, 0xff)], Error::PacketTooBig { mtu: 1280 }));
        assert!(!answered(&[(8, 0xff)], Error::PacketTooBig { mtu: 1280 }));
        let nobody: Vec<_> = (8..24).map(|at| (at, 0)).collect();
        assert!(!answered(&nobody, Error::TimeExceeded));
        // The UDP header read as a fragment header: 40000 is next header 156, then an offset.
        assert!(!answered(&[(6, 44)], Error::TimeExceeded));
        assert!(answered(&[(6, 44), (42, 0), (43, 0)], Error::TimeExceeded));
        assert!(answered(&[(6, 58), (40, kind::ECHO_REQUEST)], Error::TimeExceeded));
        assert!(!answered(&[(6, 58), (40, kind::REDIRECT)], Error::TimeExceeded));
        assert!(!answered(&[(6, 58), (40, kind::UNREACHABLE)], Error::TimeExceeded));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut bytes in prop::collection::vec(any::<u8>(), 0..1500), length in 0usize..2000, version: bool) {
            if version && bytes.len() > 14 {
                bytes[14] = 0x60;
            }
            may_answer(bytes.get(14..).unwrap_or_default(), Error::TimeExceeded);
            make_error(&mut MemoryFrame::new(&bytes), Error::TimeExceeded, length, None);
            correct(&mut bytes, Difference::default());
        }
    }
}
