//! Crafted frames: what a client or a real server sends, whole and with right checksums; and a look at what director sends.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, ip_number};

use crate::stage::{DIRECTOR, ROUTER, server_number};

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// TCP, with flags as tcpdump writes them: letters of S, A, F, R and P.
    Tcp(&'a str),
    /// UDP with so many bytes.
    Udp(usize),
    /// SCTP with a chunk of this name (`INIT`, `COOKIE-ECHO`).
    Sctp(&'a str),
}

/// SCTP's chunk types (RFC 9260 §3.2).
const CHUNKS: [(&str, u8); 14] = [
    ("DATA", 0),
    ("INIT", 1),
    ("INIT-ACK", 2),
    ("SACK", 3),
    ("HEARTBEAT", 4),
    ("HEARTBEAT-ACK", 5),
    ("ABORT", 6),
    ("SHUTDOWN", 7),
    ("SHUTDOWN-ACK", 8),
    ("ERROR", 9),
    ("COOKIE-ECHO", 10),
    ("COOKIE-ACK", 11),
    ("ECNE", 12),
    ("SHUTDOWN-COMPLETE", 14),
];

/// Whether SCTP has a chunk of this name.
pub fn is_chunk(name: &str) -> bool {
    CHUNKS.iter().any(|(chunk, _)| *chunk == name)
}

/// A frame to the director.
///
/// # Errors
/// Where the addresses are of two families, or SCTP has no such chunk.
pub fn frame(from: SocketAddr, to: SocketAddr, segment: Segment<'_>) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(ROUTER.0, DIRECTOR.0);
    let packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
        _ => bail!("no packet goes from {from} to {to}"),
    };
    let mut bytes = Vec::new();
    match segment {
        Segment::Udp(length) => packet.udp(from.port(), to.port()).write(&mut bytes, &vec![b'x'; length])?,
        Segment::Tcp(flags) => {
            let header = TcpHeader {
                syn: flags.contains('S'),
                ack: flags.contains('A'),
                fin: flags.contains('F'),
                rst: flags.contains('R'),
                psh: flags.contains('P'),
                ..TcpHeader::new(from.port(), to.port(), 1, 65535)
            };
            packet.tcp_header(header).write(&mut bytes, &[])?;
        }
        Segment::Sctp(chunk) => packet.write(&mut bytes, ip_number::SCTP, &sctp(from, to, chunk)?)?,
    }
    Ok(bytes)
}

/// A common header and one chunk. The checksum is CRC32c over all of it, sent with its lowest byte first (RFC 9260 §6.8).
fn sctp(from: SocketAddr, to: SocketAddr, chunk: &str) -> Result<Vec<u8>> {
    let Some((_, kind)) = CHUNKS.iter().find(|(name, _)| *name == chunk) else {
        bail!("SCTP has no chunk {chunk}");
    };
    let mut packet = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, *kind, 0, 0, 20]);
    packet.extend([0; 16]);
    let check = crc32c::crc32c(&packet);
    packet[8..12].copy_from_slice(&check.to_le_bytes());
    Ok(packet)
}

/// What is to be seen of a frame that director has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The last part of the real server's address, where it goes to one.
    pub server: Option<u8>,
    /// Whom its outermost IP header is for, with the port behind it where there is one.
    pub to: SocketAddr,
    /// An ICMP error that says that nobody is there.
    pub is_unreachable: bool,
}

/// Looks at a frame.
///
/// # Errors
/// Where it is not IP.
pub fn look(frame: &[u8]) -> Result<Seen> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let destination: IpAddr = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
        Some(NetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
        _ => bail!("director has sent something else than IP: {frame:02x?}"),
    };
    let mac = frame.first_chunk().copied().unwrap_or_default();
    let (port, is_unreachable) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.destination_port(), false),
        Some(TransportSlice::Udp(udp)) => (udp.destination_port(), false),
        Some(TransportSlice::Icmpv4(icmp)) => (0, icmp.type_u8() == 3),
        Some(TransportSlice::Icmpv6(icmp)) => (0, icmp.type_u8() == 1),
        None => (sctp_port(&packet).unwrap_or_default(), false),
    };
    Ok(Seen { server: server_number(mac), to: SocketAddr::new(destination, port), is_unreachable })
}

fn sctp_port(packet: &SlicedPacket<'_>) -> Option<u16> {
    let payload = packet.ip_payload().filter(|payload| payload.ip_number == IpNumber(132))?;
    payload.payload.get(2..4)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both families, every protocol: what was sent is what is seen, and its checksums are right.
    #[test]
    fn crafted_frames_are_whole() {
        let ends =
            [("203.0.113.10:4000", "198.51.100.1:80"), ("[2001:db8:1::10]:4000", "[2001:db8:ff::1]:80")];
        for (from, to) in ends {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            for segment in [Segment::Tcp("SA"), Segment::Udp(1), Segment::Sctp("INIT")] {
                let frame = frame(from, to, segment).unwrap();
                let seen = look(&frame).unwrap();
                assert_eq!(seen, Seen { server: None, to, is_unreachable: false }, "{segment:?}");
                let packet = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
                if let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &packet.net {
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                }
                if let (Segment::Tcp(_), Some(etherparse::TransportHeader::Tcp(tcp))) =
                    (segment, packet.transport)
                {
                    assert!(tcp.syn && tcp.ack && !tcp.fin && !tcp.rst && !tcp.psh);
                }
            }
        }
        assert!(frame(ends[0].0.parse().unwrap(), ends[1].1.parse().unwrap(), Segment::Udp(1)).is_err());
        assert!(sctp("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), "NOTHING").is_err());
    }

    /// An INIT as another implementation sends it (RFC 9260 with CRC32c): the checksum over all but itself is in it.
    #[test]
    fn sctp_has_its_checksum() {
        // The reflected polynomial's check value, of the catalogue of CRCs.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let mut packet = sctp("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), "INIT").unwrap();
        let said = u32::from_le_bytes(packet[8..12].try_into().unwrap());
        packet[8..12].fill(0);
        assert_eq!(crc32c::crc32c(&packet), said);
    }
}
