//! SCTP (RFC 9260): ports, the chunk that tells the association's state, checksum.

use super::ipv4::Side;
use super::tcp::Flags;
use super::{read_u16, read_u32};

/// The length of the common header.
pub const HEADER: usize = 12;

/// The length of a chunk's header: type, flags, length.
pub const CHUNK_HEADER: usize = 4;

/// What a packet's first chunk means to the association, as IPVS sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// DATA and all that changes nothing.
    Data = 0,
    /// INIT.
    Init,
    /// INIT ACK.
    InitAck,
    /// COOKIE ECHO.
    CookieEcho,
    /// COOKIE ACK.
    CookieAck,
    /// SHUTDOWN.
    Shutdown,
    /// SHUTDOWN ACK.
    ShutdownAck,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete,
    /// ERROR.
    Error,
    /// ABORT.
    Abort,
}

/// Where [`Event::to_flags`] puts the event's number.
const SHIFT: u32 = 3;

impl Event {
    const ALL: [Event; 10] = [
        Event::Data,
        Event::Init,
        Event::InitAck,
        Event::CookieEcho,
        Event::CookieAck,
        Event::Shutdown,
        Event::ShutdownAck,
        Event::ShutdownComplete,
        Event::Error,
        Event::Abort,
    ];

    /// Of a chunk of this type (RFC 9260 §3.2).
    const fn of(kind: u8) -> Self {
        match kind {
            1 => Event::Init,
            2 => Event::InitAck,
            6 => Event::Abort,
            7 => Event::Shutdown,
            8 => Event::ShutdownAck,
            9 => Event::Error,
            10 => Event::CookieEcho,
            11 => Event::CookieAck,
            14 => Event::ShutdownComplete,
            _ => Event::Data,
        }
    }

    /// The event in the place of TCP's control bits, of which it has the one that means as much: SYN opens, RST tears down, FIN may
    /// change something, and none changes nothing.
    pub const fn to_flags(self) -> Flags {
        let alike = match self {
            Event::Data => 0,
            Event::Init => Flags::SYN,
            Event::Abort => Flags::RST,
            _ => Flags::FIN,
        };
        Flags((self as u8) << SHIFT | alike)
    }

    /// The event that [`Event::to_flags`] made these of.
    pub fn from_flags(flags: Flags) -> Self {
        Self::ALL.get(usize::from(flags.0 >> SHIFT)).copied().unwrap_or(Event::Data)
    }
}

/// A packet with a whole common header and the header of a first chunk.
#[derive(Clone, Copy)]
pub struct Sctp<'a>(&'a [u8]);

impl<'a> Sctp<'a> {
    /// `packet` is the IP payload as far as the frame's first segment holds it. `None` where the headers are not whole.
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        (packet.len() >= HEADER + CHUNK_HEADER).then_some(Self(packet))
    }

    /// Source port and destination port, as one number of twice 16 bits.
    pub fn ports(self) -> u32 {
        read_u32(self.0, 0)
    }

    /// What the first chunk means; an ABORT that follows a COOKIE ECHO or COOKIE ACK counts instead of it.
    pub fn event(self) -> Event {
        let event = Event::of(self.0[HEADER]);
        if !matches!(event, Event::CookieEcho | Event::CookieAck) {
            return event;
        }
        // Chunks are padded to a multiple of four bytes.
        let length = usize::from(read_u16(self.0, HEADER + 2));
        let follows = self.0.get(HEADER + length.next_multiple_of(4)..).filter(|_| length >= CHUNK_HEADER);
        match follows {
            Some([kind, _, _, _, ..]) if Event::of(*kind) == Event::Abort => Event::Abort,
            _ => event,
        }
    }
}

/// Writes `port` into a packet that is all there, and the checksum for it: CRC32c over all of it, lowest byte first (RFC 9260
/// §6.8). Nothing where the port is there already: addresses are not in the checksum.
pub fn set_port(packet: &mut [u8], side: Side, port: u16) {
    if packet.len() < HEADER {
        return;
    }
    let (source, destination) = (read_u16(packet, 0), read_u16(packet, 2));
    let [source, destination] = match side {
        Side::Source => [port, destination],
        Side::Destination => [source, port],
    };
    set_ports(packet, u32::from(source) << 16 | u32::from(destination));
}

/// The same for both ports, the source's in the upper half.
pub fn set_ports(packet: &mut [u8], ports: u32) {
    if packet.len() < HEADER || read_u32(packet, 0) == ports {
        return;
    }
    packet[..4].copy_from_slice(&ports.to_be_bytes());
    packet[8..HEADER].fill(0);
    let check = crc32c::crc32c(packet);
    packet[8..HEADER].copy_from_slice(&check.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_as_flags() {
        for event in Event::ALL {
            assert_eq!(Event::from_flags(event.to_flags()), event);
        }
        assert_eq!(Event::Data.to_flags(), Flags(0));
    }

    #[test]
    fn the_chunk_that_counts_is_found() {
        let packet = |chunks: &[u8]| [&[0; HEADER][..], chunks].concat();
        let event = |chunks: &[u8]| Sctp::new(&packet(chunks)).map(Sctp::event);
        assert_eq!(event(&[1, 0, 0, 4]), Some(Event::Init));
        assert_eq!(event(&[3, 0, 0, 4]), Some(Event::Data));
        assert_eq!(event(&[200, 0, 0, 4]), Some(Event::Data));
        assert_eq!(event(&[1, 0, 0]), None);
        // A cookie of one byte, padded, and an ABORT after it.
        assert_eq!(event(&[10, 0, 0, 5, 7, 0, 0, 0, 6, 0, 0, 4]), Some(Event::Abort));
        assert_eq!(event(&[10, 0, 0, 5, 7, 0, 0, 0, 0, 0, 0, 4]), Some(Event::CookieEcho));
        // Cut short, or with a length that cannot be.
        assert_eq!(event(&[10, 0, 0, 5, 7, 0, 0, 0, 6]), Some(Event::CookieEcho));
        assert_eq!(event(&[11, 0, 0, 0, 6, 0, 0, 4]), Some(Event::CookieAck));
        assert_eq!(event(&[11, 0, 255, 255]), Some(Event::CookieAck));
    }

    #[test]
    fn a_new_port_has_a_new_checksum() {
        let mut packet = [0x12, 0x34, 0, 99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4];
        let sum = |packet: &[u8]| {
            let mut zeroed = packet.to_vec();
            zeroed[8..12].fill(0);
            crc32c::crc32c(&zeroed).to_le_bytes()
        };
        set_port(&mut packet, Side::Destination, 99);
        assert_eq!(packet[8..12], [0; 4], "nothing to do");
        set_port(&mut packet, Side::Destination, 80);
        assert_eq!((packet[2..4].to_vec(), packet[8..12].to_vec()), (vec![0, 80], sum(&packet).to_vec()));
        set_port(&mut packet, Side::Source, 1);
        assert_eq!((packet[..2].to_vec(), packet[8..12].to_vec()), (vec![0, 1], sum(&packet).to_vec()));
    }
}
