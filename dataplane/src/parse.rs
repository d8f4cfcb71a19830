//! Parse: what a received frame is, and for balanced protocols its flow and where its headers lie.
//!
//! Every length is checked here. It looks at nothing but the frame: whether a flow is anyone's is asked later.

use crate::counters::{Drop, Verdict};
use crate::network::MacAddr;
use crate::packet::ethernet::{self, Ethernet, ethertype};
use crate::packet::ipv4::{Ipv4, Malformed};
use crate::packet::sctp::Sctp;
use crate::packet::tcp::{Flags, Tcp};
use crate::packet::udp::Udp;
use crate::packet::{checksum, protocol, read_u16, read_u32, tcp, udp};
use crate::wire::Frame;

mod flow6;
mod packet6;

pub use flow6::{AnyFlow, AnyPacket, Flow6};
pub use packet6::{Packet6, Parsed6, parse_ipv6};
pub(crate) use packet6::{is_ipv6, packet_ipv6};

/// Who talks to whom, as the packet says it: the key of the connection table. 16 bytes, compared as two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address in the high half, destination address in the low half.
    addresses: u64,
    /// From the top: source port 16, destination port 16, protocol 8, zero 23, and 1 where this is no packet's flow but the key
    /// of a persistence template.
    ports: u64,
}

impl Flow {
    /// A flow from its parts; addresses as numbers.
    #[inline]
    pub const fn new(protocol: u8, source: (u32, u16), destination: (u32, u16)) -> Self {
        Self {
            addresses: (source.0 as u64) << 32 | destination.0 as u64,
            ports: (source.1 as u64) << 48 | (destination.1 as u64) << 32 | (protocol as u64) << 24,
        }
    }

    /// The key of a persistence template: no packet's flow equals it. `client` is the network that shares the template, `to`
    /// its virtual address, or a mark as a number, and virtual port (0 for every port).
    #[inline]
    pub const fn template(protocol: u8, client: u32, to: (u32, u16)) -> Self {
        let flow = Self::new(protocol, (client, 0), to);
        Self { ports: flow.ports | 1, ..flow }
    }

    /// True for the key of a persistence template.
    #[inline]
    pub const fn is_template(self) -> bool {
        self.ports & 1 != 0
    }

    #[inline]
    pub(crate) const fn from_words(words: [u64; 2]) -> Self {
        Self { addresses: words[0], ports: words[1] }
    }

    #[inline]
    pub(crate) const fn words(self) -> [u64; 2] {
        [self.addresses, self.ports]
    }

    /// The IP protocol number.
    #[inline]
    pub const fn protocol(self) -> u8 {
        (self.ports >> 24) as u8
    }

    /// The sender: address as a number, port.
    #[inline]
    pub const fn source(self) -> (u32, u16) {
        ((self.addresses >> 32) as u32, (self.ports >> 48) as u16)
    }

    /// The receiver: address as a number, port.
    #[inline]
    pub const fn destination(self) -> (u32, u16) {
        (self.addresses as u32, (self.ports >> 32) as u16)
    }
}

/// A packet that may be somebody's: TCP, UDP or SCTP over IPv4, whole headers, for this port's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who talks to whom.
    pub flow: Flow,
    /// The IP packet's length in bytes, as IPVS counts them.
    pub length: u16,
    /// The length of the IP header in bytes.
    pub ip_header: u8,
    /// TCP's control bits; none for UDP; for SCTP what [stands for them](crate::packet::sctp::Event::to_flags).
    pub flags: Flags,
    /// Always 0. Without a gap in it a packet is copied in fewer steps.
    reserved: u32,
}

impl Packet {
    /// What stands for a frame that is no such packet. Packets have a length.
    pub(crate) const NONE: Packet = Packet {
        flow: Flow { addresses: 0, ports: 0 },
        length: 0,
        ip_header: 0,
        flags: Flags(0),
        reserved: 0,
    };

    /// True for any packet, false for [`Packet::NONE`].
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        self.length != 0
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// To be looked up.
    Packet(Packet),
    /// A fragment to this address: without ports, nothing to look up.
    Fragment {
        /// Destination address as a number.
        destination: u32,
    },
    /// Not for the balancer.
    Other(Verdict),
}

const TO_KERNEL: Parsed = Parsed::Other(Verdict::ToKernel);

const fn dropped(reason: Drop) -> Parsed {
    Parsed::Other(Verdict::Drop(reason))
}

/// Parses a frame that a port with the address `mac` received and that is not [plain]: the packet in it, else
/// [`Packet::NONE`]. What else may be in it, [`parse`] tells.
pub(crate) fn unusual<F: Frame>(frame: &F, mac: MacAddr) -> Packet {
    match parse(frame, mac) {
        Parsed::Packet(packet) => packet,
        _ => Packet::NONE,
    }
}

/// The packet that wires are full of: IPv4 without options, not a fragment, nothing wrong with it, and at least as long as
/// Ethernet's, IPv4's and TCP's headers. `None` says only that it is not of this kind. All is at a fixed place, and one
/// look at the length is enough.
#[inline]
pub(crate) fn plain<F: Frame>(frame: &F, mac: MacAddr) -> Option<Packet> {
    const IP: usize = ethernet::HEADER;
    const TRANSPORT: usize = IP + 20;
    /// Of the header's first eight bytes: version and header length, more fragments, offset.
    const VERSION_AND_FRAGMENT: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);

    let head = frame.data().first_chunk::<{ TRANSPORT + tcp::MIN_HEADER }>()?;
    let first = u64::from_le_bytes(*head[IP..].first_chunk()?);
    if u64::from_le_bytes(*head.first_chunk()?) << 16 != mac.word()
        || read_u16(head, 12) != ethertype::IPV4
        || first & VERSION_AND_FRAGMENT != 0x45
    {
        return None;
    }
    let protocol = head[IP + 9];
    let (transport, flags) = match protocol {
        protocol::TCP => (tcp::MIN_HEADER, head[TRANSPORT + 13]),
        protocol::UDP => (udp::HEADER, 0),
        _ => return None,
    };
    let length = ((first >> 16) as u16).swap_bytes();
    let end = usize::from(length);
    if end < 20 + transport || IP + end > frame.len() || !checksum::is_right(head[IP..].first_chunk()?) {
        return None;
    }
    Some(Packet {
        flow: Flow {
            addresses: u64::from(read_u32(head, IP + 12)) << 32 | u64::from(read_u32(head, IP + 16)),
            ports: u64::from(read_u32(head, TRANSPORT)) << 32 | u64::from(protocol) << 24,
        },
        length,
        ip_header: 20,
        flags: Flags(flags),
        reserved: 0,
    })
}

/// True for the protocols that are balanced.
#[inline]
fn is_balanced(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Source port and destination port as one number of twice 16 bits, and the control bits or what stands for them. `None` where
/// the headers are not whole.
#[inline]
fn transport_header(protocol: u8, bytes: &[u8]) -> Option<(u32, Flags)> {
    match protocol {
        protocol::TCP => Tcp::new(bytes).map(|tcp| (tcp.ports(), tcp.flags())),
        protocol::UDP => Udp::new(bytes).map(|udp| (udp.ports(), Flags::default())),
        _ => Sctp::new(bytes).map(|sctp| (sctp.ports(), sctp.event().to_flags())),
    }
}

/// Parses any frame that a port with the address `mac` received.
pub fn parse<F: Frame>(frame: &F, mac: MacAddr) -> Parsed {
    let Some(ethernet) = Ethernet::new(frame.data()) else { return dropped(Drop::Truncated) };
    if ethernet.ethertype() != ethertype::IPV4 || ethernet.destination() != mac {
        return TO_KERNEL;
    }
    let ip = match Ipv4::new(ethernet.payload(), frame.len() - ethernet::HEADER) {
        Ok(ip) => ip,
        Err(Malformed::Truncated) => return dropped(Drop::Truncated),
        Err(Malformed::BadHeader) => return dropped(Drop::BadHeader),
    };
    if !ip.checksum_is_right() {
        return dropped(Drop::BadChecksum);
    }
    let protocol = ip.protocol();
    if !is_balanced(protocol) {
        return TO_KERNEL;
    }
    if ip.is_fragment() {
        return Parsed::Fragment { destination: ip.destination() };
    }
    let payload = ethernet.payload();
    let end = payload.len().min(usize::from(ip.total_length()));
    let transport = &payload[ip.header_length()..end];
    let Some((ports, flags)) = transport_header(protocol, transport) else { return dropped(Drop::Truncated) };
    let (source, destination) = ((ports >> 16) as u16, ports as u16);
    Parsed::Packet(Packet {
        flow: Flow::new(protocol, (ip.source(), source), (ip.destination(), destination)),
        length: ip.total_length(),
        ip_header: ip.header_length() as u8,
        flags,
        reserved: 0,
    })
}
