//! What a real server behind a tunnel does with what it receives: takes the packet out. Linux does it with `ip tunnel` and
//! `ip fou`; this is for kernels that lack them, and it says what is wrong with a packet, where Linux would only count it.
//!
//! Written after the RFCs and not after director, so that it can disagree. It must never repair anything: a wrong checksum is
//! an error.

use std::fmt;

/// What is wrong with a packet from a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It ends before its headers do, or before the length says.
    Truncated,
    /// Neither IPv4 nor IPv6 is inside, or not what the outer header says.
    Inside,
    /// Flags that mean something unknown.
    Flags,
    /// The checksum over it is wrong.
    Checksum,
    /// The IPv4 header inside has a wrong checksum.
    InnerHeader,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "it is cut short",
            Self::Inside => "what is inside is not what the outer header says",
            Self::Flags => "unknown flags",
            Self::Checksum => "its checksum is wrong",
            Self::InnerHeader => "the IPv4 header inside has a wrong checksum",
        })
    }
}

/// The one's complement sum over 16-bit words (RFC 1071), complemented: 0 where a right checksum is among them.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Wrong> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]])).ok_or(Wrong::Truncated)
}

/// What follows the IPv4 header of a raw socket's packet.
///
/// # Errors
/// Where there is no such header.
pub fn behind_ipv4(packet: &mut [u8]) -> Result<&mut [u8], Wrong> {
    let header = usize::from(packet.first().ok_or(Wrong::Truncated)? & 15) * 4;
    packet.get_mut(header..).ok_or(Wrong::Truncated)
}

/// IP in IP (RFC 2003, RFC 2473, RFC 4213): the packet itself, of which the protocol number (4, 41) tells the version.
///
/// # Errors
/// Where it is none.
pub fn ipip(protocol: u8, packet: &mut [u8]) -> Result<&mut [u8], Wrong> {
    let version = match protocol {
        4 => 4,
        41 => 6,
        _ => return Err(Wrong::Inside),
    };
    let length = match packet.first().ok_or(Wrong::Truncated)? >> 4 {
        inside if inside != version => return Err(Wrong::Inside),
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            if checksum(packet.get(..header).ok_or(Wrong::Truncated)?) != 0 {
                return Err(Wrong::InnerHeader);
            }
            usize::from(u16_at(packet, 2)?)
        }
        _ => 40 + usize::from(u16_at(packet, 4)?),
    };
    // No padding survives in a tunnel.
    if packet.len() == length { Ok(packet) } else { Err(Wrong::Truncated) }
}

/// GRE (RFC 2784).
///
/// # Errors
/// Where it is not GRE version 0 with IP inside, or its checksum is wrong.
pub fn gre(carried: &mut [u8]) -> Result<&mut [u8], Wrong> {
    let header = match u16_at(carried, 0)? {
        0 => 4,
        0x8000 if checksum(carried) != 0 => return Err(Wrong::Checksum),
        0x8000 => 8,
        _ => return Err(Wrong::Flags),
    };
    let protocol = match u16_at(carried, 2)? {
        0x0800 => 4,
        0x86dd => 41,
        _ => return Err(Wrong::Inside),
    };
    ipip(protocol, carried.get_mut(header..).ok_or(Wrong::Truncated)?)
}

/// GUE (draft-ietf-intarea-gue-09, variant 0), with Linux's private flag for remote checksum offload, which is carried out: the
/// sender has left the sum of the pseudo-header where the checksum is to be.
///
/// # Errors
/// Where it is a control message, has other options, or what is inside is not whole.
pub fn gue(carried: &mut [u8]) -> Result<&mut [u8], Wrong> {
    let &[first, protocol, flags_high, flags_low, ..] = &*carried else { return Err(Wrong::Truncated) };
    let options = usize::from(first & 0x1f) * 4;
    if first & 0xe0 != 0 {
        return Err(Wrong::Flags);
    }
    let remote = match ([flags_high, flags_low], options) {
        ([0, 0], 0) => None,
        ([0, 1], 8) if carried.get(4..8) == Some(&[0x80, 0, 0, 0]) => {
            Some((usize::from(u16_at(carried, 8)?), usize::from(u16_at(carried, 10)?)))
        }
        _ => return Err(Wrong::Flags),
    };
    let packet = carried.get_mut(4 + options..).ok_or(Wrong::Truncated)?;
    if let Some((start, field)) = remote {
        let check = checksum(packet.get(start..).ok_or(Wrong::Truncated)?);
        packet.get_mut(field..field + 2).ok_or(Wrong::Truncated)?.copy_from_slice(&check.to_be_bytes());
    }
    ipip(protocol, packet)
}

/// What a UDP datagram to `port` without a checksum carries; `None` for any other datagram, which is not for us.
pub fn unchecked_udp(port: u16, datagram: &mut [u8]) -> Option<&mut [u8]> {
    let is_ours = u16_at(datagram, 2) == Ok(port)
        && u16_at(datagram, 6) == Ok(0)
        && u16_at(datagram, 4).is_ok_and(|length| usize::from(length) == datagram.len());
    datagram.get_mut(8..).filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketBuilder, PacketHeaders};

    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([198, 51, 100, 100], [198, 51, 100, 8], 63).tcp(40000, 80, 7, 1024);
        builder.write(&mut packet, b"an odd number").unwrap();
        packet
    }

    /// `front` with the packet behind it.
    fn carried(front: &[u8]) -> Vec<u8> {
        [front, &packet()].concat()
    }

    #[test]
    fn each_kind_is_taken_apart() {
        let mut plain = packet();
        assert_eq!(ipip(4, &mut plain), Ok(&mut packet()[..]));
        assert_eq!(gre(&mut carried(&[0, 0, 8, 0])), Ok(&mut packet()[..]));
        let mut checked = carried(&[0x80, 0, 8, 0, 0, 0, 0, 0]);
        let check = checksum(&checked);
        checked[4..6].copy_from_slice(&check.to_be_bytes());
        assert_eq!(gre(&mut checked), Ok(&mut packet()[..]));
        assert_eq!(gue(&mut carried(&[0, 4, 0, 0])), Ok(&mut packet()[..]));
        let mut outer = [&[0x46; 24][..], &packet()].concat();
        assert_eq!(behind_ipv4(&mut outer), Ok(&mut packet()[..]));
    }

    #[test]
    fn only_datagrams_without_a_checksum_are_taken_past_linux() {
        let datagram = |port: u16, check: u8| {
            let [high, low] = port.to_be_bytes();
            [&[0x80, 1, high, low, 0, 9, 0, check][..], b"x"].concat()
        };
        assert_eq!(unchecked_udp(6080, &mut datagram(6080, 0)), Some(&mut b"x".to_vec()[..]));
        assert_eq!(unchecked_udp(6080, &mut datagram(6080, 1)), None);
        assert_eq!(unchecked_udp(6080, &mut datagram(6081, 0)), None);
        assert_eq!(unchecked_udp(6080, &mut [0; 7]), None);
    }

    /// The checksum that the receiver makes is the one that the sender would have sent.
    #[test]
    fn a_remote_checksum_is_made() {
        let mut carried = carried(&[2, 4, 0, 1, 0x80, 0, 0, 0, 0, 20, 0, 36]);
        let PacketHeaders { net: Some(NetHeaders::Ipv4(ip, _)), .. } =
            PacketHeaders::from_ip_slice(&packet()).unwrap()
        else {
            panic!("not IPv4")
        };
        let segment = (packet().len() - 20) as u16;
        let pseudo = [&ip.source[..], &ip.destination, &[0, 6], &segment.to_be_bytes()].concat();
        carried[12 + 36..12 + 38].copy_from_slice(&(!checksum(&pseudo)).to_be_bytes());
        assert_eq!(gue(&mut carried), Ok(&mut packet()[..]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut bad_header = packet();
        bad_header[10] ^= 1;
        let mut padded = packet();
        padded.push(0);
        for (protocol, mut bytes, wrong) in [
            (4, bad_header, Wrong::InnerHeader),
            (4, padded, Wrong::Truncated),
            (4, packet()[..30].to_vec(), Wrong::Truncated),
            (4, vec![], Wrong::Truncated),
            (41, packet(), Wrong::Inside),
            (6, packet(), Wrong::Inside),
        ] {
            assert_eq!(ipip(protocol, &mut bytes), Err(wrong));
        }
        for (front, wrong) in [
            (&[0x80, 0, 8, 0, 1, 2, 0, 0][..], Wrong::Checksum),
            (&[0x20, 0, 8, 0, 0, 0, 0, 1], Wrong::Flags),
            (&[0, 0, 0x86, 0xdd], Wrong::Inside),
            (&[0, 0, 8, 6], Wrong::Inside),
        ] {
            assert_eq!(gre(&mut carried(front)), Err(wrong), "{front:?}");
        }
        for (front, wrong) in [
            (&[0x20, 4, 0, 0][..], Wrong::Flags),
            (&[1, 4, 0, 0, 0, 0, 0, 0], Wrong::Flags),
            (&[0, 4, 0x80, 0], Wrong::Flags),
            (&[0, 6, 0, 0], Wrong::Inside),
            (&[2, 4, 0, 1, 0x80, 0, 0, 0, 0, 20, 255, 0], Wrong::Truncated),
        ] {
            assert_eq!(gue(&mut carried(front)), Err(wrong), "{front:?}");
        }
        assert_eq!(gue(&mut [0, 4, 0]), Err(Wrong::Truncated));
    }
}
