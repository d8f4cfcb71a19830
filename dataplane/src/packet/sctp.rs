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

/// Writes `port` into a packet of `length` bytes that begins here, and corrects the checksum for it. Nothing where the port is there
/// already: addresses are not in the checksum.
pub fn set_port(header: &mut [u8], side: Side, port: u16, length: usize) {
    let Some([a, b, c, d]) = header.first_chunk().copied() else { return };
    let [high, low] = port.to_be_bytes();
    let ports = if side == Side::Source { [high, low, c, d] } else { [a, b, high, low] };
    set_ports(header, u32::from_be_bytes(ports), length);
}

/// The same for both ports, the source's in the upper half.
///
/// The checksum is corrected by the difference that the ports make, so that a wrong one stays wrong, as long as that of the rest of the packet need
/// not be there. One of 0 stays 0: none was made (RFC 9653).
pub fn set_ports(header: &mut [u8], ports: u32, length: usize) {
    let Some(header) = header.first_chunk_mut::<HEADER>() else { return };
    let old = read_u32(header, 0);
    if old == ports {
        return;
    }
    header[..4].copy_from_slice(&ports.to_be_bytes());
    let check = read_u32(header, 8).swap_bytes();
    if check != 0 {
        let check = check ^ crc::of_first_word((old ^ ports).swap_bytes(), length as u16);
        header[8..HEADER].copy_from_slice(&check.to_le_bytes());
    }
}

/// CRC32c (RFC 9260 appendix A) of differences. But for what it begins and ends with a CRC is linear: those of two packets of one length differ by
/// that of the bits in which they do, m(x)·x^32 modulo the generator. Where these are four bytes d in front of all others, and the
/// packet has n bytes, that is d(x)·x^(8n).
///
/// Polynomials are numbers whose highest bit is x^0, as a byte's lowest bit is its highest power on the wire.
mod crc {
    /// The generator but for x^32.
    const GENERATOR: u32 = 0x82f6_3b78;
    const ONE: u32 = 1 << 31;

    /// x^(8n), and x^(8·256·n).
    const BYTES: [u32; 256] = powers(ONE >> 8);
    const PAGES: [u32; 256] = powers(multiply(BYTES[255], ONE >> 8));
    /// What four bits that are shifted out come back as.
    const CARRIES: [u32; 16] = carries();

    const fn powers(base: u32) -> [u32; 256] {
        let (mut all, mut n) = ([ONE; 256], 1);
        while n < 256 {
            all[n] = multiply(all[n - 1], base);
            n += 1;
        }
        all
    }

    const fn carries() -> [u32; 16] {
        let (mut all, mut n) = ([0; 16], 0);
        while n < 16 {
            let mut bits = n as u32;
            let mut step = 0;
            while step < 4 {
                bits = times_x(bits);
                step += 1;
            }
            all[n] = bits;
            n += 1;
        }
        all
    }

    const fn times_x(a: u32) -> u32 {
        (a >> 1) ^ (GENERATOR & 0_u32.wrapping_sub(a & 1))
    }

    /// The rest of a·b modulo the generator, bit by bit.
    const fn multiply(a: u32, mut b: u32) -> u32 {
        let (mut product, mut bit) = (0, ONE);
        while bit != 0 {
            if a & bit != 0 {
                product ^= b;
            }
            b = times_x(b);
            bit >>= 1;
        }
        product
    }

    /// The same, four bits at a time.
    #[inline]
    fn multiply_fast(a: u32, b: u32) -> u32 {
        // All polynomials of up to four bits times b, by those bits: the highest is x^0.
        let (one, x) = (b, times_x(b));
        let (xx, xxx) = (times_x(x), times_x(times_x(x)));
        let mut multiples = [0; 16];
        for (n, multiple) in multiples.iter_mut().enumerate() {
            let of = |bit: usize, number: u32| number & 0_u32.wrapping_sub((n >> bit & 1) as u32);
            *multiple = of(3, one) ^ of(2, x) ^ of(1, xx) ^ of(0, xxx);
        }
        (0..8).fold(0, |product, n| {
            let shifted = (product >> 4) ^ CARRIES[(product & 15) as usize];
            shifted ^ multiples[(a >> (4 * n) & 15) as usize]
        })
    }

    /// What a difference in the first four bytes of `length` makes in the CRC. The bytes are a number lowest first.
    #[inline]
    pub(super) fn of_first_word(difference: u32, length: u16) -> u32 {
        let [page, byte] = length.to_be_bytes();
        let rest = multiply_fast(difference, BYTES[usize::from(byte)]);
        if page == 0 { rest } else { multiply_fast(rest, PAGES[usize::from(page)]) }
    }
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
        let check = sum(&packet);
        packet[8..12].copy_from_slice(&check);
        set_port(&mut packet, Side::Destination, 99, 16);
        assert_eq!(packet[8..12], check, "nothing to do");
        set_port(&mut packet, Side::Destination, 80, 16);
        assert_eq!((packet[2..4].to_vec(), packet[8..12].to_vec()), (vec![0, 80], sum(&packet).to_vec()));
        set_port(&mut packet, Side::Source, 1, 16);
        assert_eq!((packet[..2].to_vec(), packet[8..12].to_vec()), (vec![0, 1], sum(&packet).to_vec()));
    }

    #[test]
    fn what_has_no_checksum_gets_none() {
        let mut packet = [0x12, 0x34, 0, 99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4];
        set_ports(&mut packet, 0x0001_0050, 16);
        assert_eq!(packet[..12], [0, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn the_checksum_is_corrected_by_the_difference(
            mut packet in proptest::collection::vec(proptest::num::u8::ANY, 12..2000),
            more in 0..60_000_usize,
            ports: u32,
            wrong: u32,
        ) {
            packet.resize(packet.len() + more, 0x5a);
            let sum = |packet: &[u8]| {
                let mut zeroed = packet.to_vec();
                zeroed[8..12].fill(0);
                crc32c::crc32c(&zeroed)
            };
            let before = sum(&packet) ^ wrong;
            packet[8..12].copy_from_slice(&before.to_le_bytes());
            // Only the header needs to be in one piece.
            let length = packet.len();
            set_ports(&mut packet[..12], ports, length);
            proptest::prop_assert_eq!(read_u32(&packet, 0), ports);
            let after = if before == 0 { 0 } else { sum(&packet) ^ wrong };
            proptest::prop_assert_eq!(packet[8..12].to_vec(), after.to_le_bytes().to_vec());
        }
    }
}
