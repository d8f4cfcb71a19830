//! The frames that are sent: flows by number, and in every frame a stamp that says which one it was and when it left.
//!
//! All checksums are right, so that what comes back can be checked by them. Nothing here looks at what comes back.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context;
use clap::ValueEnum;
use dataplane::network::MacAddr;
use dataplane::packet::ethernet;
use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};

/// Where the IP header and the transport's header start.
pub const IP: usize = ethernet::HEADER;
pub const TRANSPORT: usize = IP + 20;

/// The shortest frame, without the frame check sequence: all that is written into each frame is within it.
pub const SHORTEST: usize = 60;
/// The longest, without VLAN tags.
pub const LONGEST: usize = 1514;

/// Each client has as many ports as these bits count, from [`FIRST_PORT`] on.
const PORT_BITS: u32 = 12;
const FIRST_PORT: u16 = 1024;

/// Flows there can be numbers for, with clients of a /8.
pub const MAX_FLOWS: u32 = 1 << 31;

/// The first byte of what marks a frame as ours; the second is the number of the run.
const MARK: u16 = 0xd1 << 8;

/// A tick of the stamps' clock in cycles of the time-stamp counter, as a power of two: 32 bits of them are some seconds.
pub const TICK_SHIFT: u32 = 1;

/// What the flows are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl Protocol {
    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Udp => 17,
            Protocol::Tcp => 6,
        }
    }
}

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Clients, to the virtual service.
    Clients,
    /// Real servers, to clients.
    Servers,
}

/// Where in its connection's life a frame is. To UDP it is all one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first of a side: SYN from the client, SYN and ACK from the server.
    Opening,
    /// One of an established connection.
    Established,
}

/// What marks a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The number of the run, so that stragglers of an earlier one are known.
    pub run: u8,
    /// The flow.
    pub flow: u32,
    /// How many frames were written before it in this run.
    pub sequence: u32,
    /// When it was written, in ticks (see [`TICK_SHIFT`]).
    pub time: u32,
}

/// Where a stamp's fields are in a frame. TCP's own sequence and acknowledgement numbers carry two of them, because six
/// bytes of payload are all that the shortest frame has.
#[derive(Clone, Copy)]
struct Places {
    mark: usize,
    flow: usize,
    sequence: usize,
    time: usize,
    check: usize,
}

impl Places {
    const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self {
                mark: TRANSPORT + 8,
                flow: TRANSPORT + 10,
                sequence: TRANSPORT + 14,
                time: TRANSPORT + 18,
                check: TRANSPORT + 6,
            },
            Protocol::Tcp => Self {
                mark: TRANSPORT + 20,
                flow: TRANSPORT + 22,
                sequence: TRANSPORT + 4,
                time: TRANSPORT + 8,
                check: TRANSPORT + 16,
            },
        }
    }
}

impl Stamp {
    /// The stamp of a frame of `protocol`; `None` where there is none.
    #[inline]
    pub fn read(protocol: Protocol, frame: &[u8]) -> Option<Self> {
        let frame = frame.first_chunk::<SHORTEST>()?;
        let places = Places::of(protocol);
        let mark = u16_at(frame, places.mark);
        (mark & 0xff00 == MARK).then(|| Self {
            run: mark as u8,
            flow: u32_at(frame, places.flow),
            sequence: u32_at(frame, places.sequence),
            time: u32_at(frame, places.time),
        })
    }
}

#[inline]
fn u16_at(frame: &[u8; SHORTEST], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[inline]
fn u32_at(frame: &[u8; SHORTEST], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// The clients, by the numbers of their flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients(u32);

impl Clients {
    /// Clients from this address on.
    pub fn from(first: Ipv4Addr) -> Self {
        Self(first.into())
    }

    /// The client's address, as a number, and port of a flow.
    #[inline]
    pub fn of(self, flow: u32) -> (u32, u16) {
        let port = FIRST_PORT + (flow & ((1 << PORT_BITS) - 1)) as u16;
        (self.0.wrapping_add(flow >> PORT_BITS), port)
    }
}

/// How frames are addressed.
#[derive(Clone, Copy, Debug)]
pub struct Addressing {
    /// What the flows are of.
    pub protocol: Protocol,
    /// Frames' length, without the frame check sequence.
    pub bytes: usize,
    /// The clients.
    pub clients: Clients,
    /// The virtual service.
    pub service: SocketAddrV4,
    /// The MAC address frames are from.
    pub source: MacAddr,
    /// The MAC address frames are to.
    pub destination: MacAddr,
}

/// Frames of one kind, made by changing a few bytes of a template.
///
/// The checksums are made of 64-bit sums of whole fields: as 2^16 is 1 modulo 65535, a 32-bit number adds to a one's
/// complement sum what its two halves add (RFC 1071, section 2 (B)).
pub struct Frames {
    frame: Vec<u8>,
    head: [u8; SHORTEST],
    places: Places,
    /// The sums over what is the same in all frames.
    ip_sum: u64,
    transport_sum: u64,
    clients: Clients,
    service: (u32, u16),
    /// Where the client's address and port are, and where the other side's.
    client: (usize, usize),
    other: (usize, usize),
    /// A checksum that comes out as 0 is written as all ones (RFC 768).
    is_udp: bool,
}

impl Frames {
    /// Frames so addressed, from `side`, in `phase`, of run number `run`.
    pub fn new(addressing: &Addressing, side: Side, phase: Phase, run: u8) -> anyhow::Result<Self> {
        let mut frame = template(addressing, side, phase)?;
        let packet = PacketHeaders::from_ethernet_slice(&frame)?;
        let transport_check = match packet.transport {
            Some(TransportHeader::Udp(udp)) => udp.checksum,
            Some(TransportHeader::Tcp(tcp)) => tcp.checksum,
            _ => anyhow::bail!("neither UDP nor TCP"),
        };
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = packet.net else { anyhow::bail!("not IPv4") };
        let places = Places::of(addressing.protocol);
        let mark = MARK | u16::from(run);
        frame[places.mark..places.mark + 2].copy_from_slice(&mark.to_be_bytes());
        let head = *frame.first_chunk().context("shorter than its headers")?;
        let (source, destination) = ((IP + 12, TRANSPORT), (IP + 16, TRANSPORT + 2));
        let (client, other) = match side {
            Side::Clients => (source, destination),
            Side::Servers => (destination, source),
        };
        Ok(Self {
            head,
            places,
            ip_sum: u64::from(!ip.header_checksum),
            transport_sum: u64::from(!transport_check) + u64::from(mark),
            clients: addressing.clients,
            service: (u32::from(*addressing.service.ip()), addressing.service.port()),
            client,
            other,
            is_udp: addressing.protocol == Protocol::Udp,
            frame,
        })
    }

    /// The bytes of a frame: [`Frames::write`] fills in as many.
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// Makes `frame` number `sequence` of its run, of this flow, written at `time`. `server` is whom a client's frame went
    /// to, and so whom the reply is from; without one the other side is the virtual service. Does nothing with a slice that
    /// is not [`Frames::len`] long.
    #[inline]
    pub fn write(&self, frame: &mut [u8], flow: u32, sequence: u32, time: u32, server: Option<(u32, u16)>) {
        let (address, port) = self.clients.of(flow);
        let (other, other_port) = server.unwrap_or(self.service);
        let addresses = u64::from(address) + u64::from(other);
        let stamp = u64::from(flow) + u64::from(sequence) + u64::from(time);
        let ip_check = !fold(self.ip_sum + addresses);
        let ports = u64::from(port) + u64::from(other_port);
        let check = match !fold(self.transport_sum + addresses + ports + stamp) {
            0 if self.is_udp => 0xffff,
            check => check,
        };

        let (Some((head, back)), Some(rest)) =
            (frame.split_first_chunk_mut::<SHORTEST>(), self.frame.get(SHORTEST..))
        else {
            return;
        };
        if back.len() != rest.len() {
            return;
        }
        // Where it is to be, and then changed there: put together elsewhere, the whole would be loaded right after its parts
        // were stored, for which processors wait.
        *head = self.head;
        let mut put16 = |at: usize, value: u16| head[at..at + 2].copy_from_slice(&value.to_be_bytes());
        put16(IP + 10, ip_check);
        put16(self.client.1, port);
        put16(self.other.1, other_port);
        put16(self.places.check, check);
        let mut put32 = |at: usize, value: u32| head[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put32(self.client.0, address);
        put32(self.other.0, other);
        put32(self.places.flow, flow);
        put32(self.places.sequence, sequence);
        put32(self.places.time, time);
        back.copy_from_slice(rest);
    }
}

/// Folds a sum into the 16 bits of a checksum.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A frame of nobody to nobody, with zeros for a stamp. Its checksums are those of that frame.
fn template(addressing: &Addressing, side: Side, phase: Phase) -> anyhow::Result<Vec<u8>> {
    let Addressing { protocol, bytes, source, destination, .. } = *addressing;
    anyhow::ensure!(
        (SHORTEST..=LONGEST).contains(&bytes),
        "a frame has {SHORTEST} to {LONGEST} bytes without its frame check sequence, and not {bytes}"
    );
    let ip = PacketBuilder::ethernet2(source.0, destination.0).ipv4([0; 4], [0; 4], 64);
    let mut frame = Vec::with_capacity(bytes);
    match protocol {
        Protocol::Udp => {
            let builder = ip.udp(0, 0);
            let payload = vec![0; bytes - builder.size(0)];
            builder.write(&mut frame, &payload)?;
        }
        Protocol::Tcp => {
            let segment = ip.tcp(0, 0, 0, 65535);
            let builder = match (phase, side) {
                (Phase::Opening, Side::Clients) => segment.syn(),
                (Phase::Opening, Side::Servers) => segment.syn().ack(0),
                (Phase::Established, _) => segment.ack(0),
            };
            let payload = vec![0; bytes - builder.size(0)];
            builder.write(&mut frame, &payload)?;
        }
    }
    Ok(frame)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn addressing(protocol: Protocol, bytes: usize) -> Addressing {
        Addressing {
            protocol,
            bytes,
            clients: Clients::from(Ipv4Addr::new(10, 0, 0, 0)),
            service: "198.51.100.8:80".parse().unwrap(),
            source: MacAddr([2, 0, 0, 0, 0, 2]),
            destination: MacAddr([2, 0, 0, 0, 0, 1]),
        }
    }

    const STAMP: Stamp = Stamp { run: 7, flow: 70_001, sequence: 0xfedc_ba98, time: 0x0102_0304 };

    fn written(protocol: Protocol, bytes: usize, side: Side, stamp: Stamp) -> Vec<u8> {
        let frames = Frames::new(&addressing(protocol, bytes), side, Phase::Established, stamp.run).unwrap();
        let mut frame = vec![0xaa; frames.len()];
        let server = (side == Side::Servers).then_some((0xc000_0201, 8080));
        frames.write(&mut frame, stamp.flow, stamp.sequence, stamp.time, server);
        frame
    }

    #[test]
    fn what_is_written_is_a_whole_packet_with_right_checksums() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for (bytes, side) in [(60, Side::Clients), (61, Side::Servers), (1514, Side::Clients)] {
                let frame = written(protocol, bytes, side, STAMP);
                assert_eq!(frame.len(), bytes);
                let packet = PacketHeaders::from_ethernet_slice(&frame).unwrap();
                let Some(etherparse::NetHeaders::Ipv4(ip, _)) = packet.net else { panic!("not IPv4") };
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!(usize::from(ip.total_len), bytes - IP);
                let client = ([10, 0, 0, 17], FIRST_PORT + 369);
                let (source, destination) = match side {
                    Side::Clients => (client, ([198, 51, 100, 8], 80)),
                    Side::Servers => (([192, 0, 2, 1], 8080), client),
                };
                assert_eq!((ip.source, ip.destination), (source.0, destination.0));
                let (check, right, ports) = match packet.transport.unwrap() {
                    TransportHeader::Udp(udp) => (
                        udp.checksum,
                        udp.calc_checksum_ipv4(&ip, packet.payload.slice()).unwrap(),
                        (udp.source_port, udp.destination_port),
                    ),
                    TransportHeader::Tcp(tcp) => (
                        tcp.checksum,
                        tcp.calc_checksum_ipv4(&ip, packet.payload.slice()).unwrap(),
                        (tcp.source_port, tcp.destination_port),
                    ),
                    other => panic!("{other:?}"),
                };
                assert_eq!(check, right, "{protocol:?}, {bytes} bytes");
                assert_eq!(ports, (source.1, destination.1));
            }
        }
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut frame = written(protocol, 60, Side::Clients, STAMP);
            assert_eq!(Stamp::read(protocol, &frame), Some(STAMP));
            assert_eq!(Stamp::read(protocol, &frame[..59]), None);
            frame[Places::of(protocol).mark] ^= 1;
            assert_eq!(Stamp::read(protocol, &frame), None);
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_written_as_ones() {
        let of = |time| {
            let frame = written(Protocol::Udp, 60, Side::Clients, Stamp { time, ..STAMP });
            u16::from_be_bytes([frame[TRANSPORT + 6], frame[TRANSPORT + 7]])
        };
        // One of any 65535 times in a row makes the sum all ones.
        let sums: Vec<_> = (0..=0xffff).map(of).collect();
        assert!(sums.contains(&0xffff) && !sums.contains(&0));
    }

    #[test]
    fn flows_have_clients_of_their_own() {
        let clients = Clients::from(Ipv4Addr::new(10, 0, 0, 0));
        let mut seen: Vec<_> = (0..20_000).map(|flow| clients.of(flow)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 20_000);
        let (last, _) = clients.of(MAX_FLOWS - 1);
        assert_eq!(last >> 24, 10, "the clients go beyond their /8");
    }

    #[test]
    fn only_openings_are_syns() {
        let flags = |side, phase| {
            let frames = Frames::new(&addressing(Protocol::Tcp, 60), side, phase, 0).unwrap();
            frames.head[TRANSPORT + 13]
        };
        assert_eq!(flags(Side::Clients, Phase::Opening), 0x02);
        assert_eq!(flags(Side::Servers, Phase::Opening), 0x12);
        assert_eq!(flags(Side::Clients, Phase::Established), 0x10);
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        for bytes in [0, 59, 1515] {
            let error = Frames::new(&addressing(Protocol::Udp, bytes), Side::Clients, Phase::Opening, 0);
            assert!(error.is_err_and(|e| e.to_string().contains("60 to 1514")), "{bytes}");
        }
    }
}
