//! Parse: what a received frame is, and for balanced protocols its flow and where its headers lie.
//!
//! Every length is checked here. It looks at nothing but the frame: whether a flow is anyone's is asked later.

use crate::conn::key::Key;
use crate::counters::{Drop, Verdict};
use crate::network::MacAddr;
use crate::packet::ethernet::{self, Ethernet, ethertype};
use crate::packet::ipv4::{Ipv4, Malformed};
use crate::packet::sctp::Sctp;
use crate::packet::tcp::{Flags, Tcp};
use crate::packet::udp::Udp;
use crate::packet::{checksum, echo, protocol, read_u16, read_u32, tcp, udp, vlan};
use crate::wire::Frame;

mod flow6;
mod fragment;
mod icmp_error;
mod packet6;

pub use flow6::{AnyFlow, AnyPacket, Flow6};
pub use fragment::{Content, Fragment};
pub use icmp_error::{IcmpError, Quoted, quoted};
pub use packet6::Packet6;

/// Who talks to whom, as the packet says it: the key of the connection table. 16 bytes, compared as two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address in the high half, destination address in the low half.
    addresses: u64,
    /// From the top: source port 16, destination port 16, protocol 8, zero 23, and 1 where this is no packet's flow but the key
    /// of a persistence template. In that of a range's, the source port is the range's last one, and the 8 bits from bit 8 on are
    /// the length of its prefix, plus 1.
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

    /// The same key for a range: the destination is its network and its first port.
    pub(crate) const fn of_range(self, prefix_length: u8, last_port: u16) -> Self {
        let range = (last_port as u64) << 48 | (prefix_length as u64 + 1) << 8;
        Self { ports: self.ports | range, ..self }
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

/// A packet of either family: [`Packet`] or [`Packet6`]. The worker's way is written once over both, and compiled for each.
pub trait IpPacket: Copy {
    /// Its flow's type.
    type Flow: Key;

    /// What stands for a frame that is no such packet. Packets have a length.
    const NONE: Self;

    /// What a frame is that a port with the address `mac` received.
    fn parse<F: Frame>(frame: &F, mac: MacAddr) -> Parsed<Self>;

    /// The fragment in a frame for which [`IpPacket::parse`] gives [`Parsed::Fragment`]; `None` for any other.
    fn fragment<F: Frame>(frame: &F) -> Option<Fragment<Self>>;

    /// The echo in a frame for which [`IpPacket::parse`] gives [`Parsed::Echo`], as a packet with ports ([`echo`]); `None` for any
    /// other.
    fn echo<F: Frame>(frame: &F) -> Option<Self>;

    /// Who talks to whom.
    fn flow(&self) -> Self::Flow;

    /// The IP packet's length in bytes.
    fn length(&self) -> u32;

    /// TCP's control bits, or what stands for them.
    fn flags(&self) -> Flags;

    /// The same, where the family makes no difference.
    fn any(&self) -> AnyPacket;

    /// True for any packet, false for [`IpPacket::NONE`].
    #[inline]
    fn is_some(&self) -> bool {
        self.length() != 0
    }

    /// Parses a frame: the packet in it, else [`IpPacket::NONE`]. What else may be in it, [`IpPacket::parse`] tells.
    #[inline]
    fn in_frame<F: Frame>(frame: &F, mac: MacAddr) -> Self {
        match Self::parse(frame, mac) {
            Parsed::Packet(packet) => packet,
            _ => Self::NONE,
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<P> {
    /// To be looked up.
    Packet(P),
    /// A fragment of a packet that may be somebody's: [`IpPacket::fragment`] has more of it.
    Fragment,
    /// An ICMP error, which may be about somebody's packet: [`IcmpError::in_frame`] has more of it.
    Error,
    /// An ICMP echo, or the reply to one: [`IpPacket::echo`] has more of it.
    Echo,
    /// An IPv6 packet for this port, where one over IPv4 was looked for. What goes to a group, as neighbour discovery does, is
    /// not for the port.
    Ipv6,
    /// A frame with a VLAN tag, for whomever.
    Tagged,
    /// Not for the balancer.
    Other(Verdict),
}

impl<P> Parsed<P> {
    const TO_KERNEL: Self = Self::Other(Verdict::ToKernel);

    const fn dropped(reason: Drop) -> Self {
        Self::Other(Verdict::Drop(reason))
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

/// What a whole packet of this protocol is, ICMP over IPv4 or ICMPv6 over IPv6.
#[inline(never)]
fn icmp<P>(protocol: u8, message: &[u8]) -> Parsed<P> {
    let is_error = if protocol == protocol::ICMP { icmp_error::is_error } else { icmp_error::is_error_ipv6 };
    match message.first() {
        Some(kind) if is_error(*kind) => Parsed::Error,
        _ if echo::is_echo(protocol, message) => Parsed::Echo,
        _ => Parsed::TO_KERNEL,
    }
}

impl Packet {
    /// The packet of a balanced protocol whose header is `ip`; `payload` is what the frame's first piece holds of it. `None` where
    /// the transport header is not whole.
    fn of(ip: Ipv4<'_>, payload: &[u8]) -> Option<Self> {
        let end = payload.len().min(usize::from(ip.total_length()));
        let transport = transport_header(ip.protocol(), payload.get(ip.header_length()..end)?)?;
        Some(Self::with(ip, transport))
    }

    /// The packet with this IP header, these ports and control bits.
    #[inline]
    fn with(ip: Ipv4<'_>, (ports, flags): (u32, Flags)) -> Self {
        let (source, destination) = ((ports >> 16) as u16, ports as u16);
        Self {
            flow: Flow::new(ip.protocol(), (ip.source(), source), (ip.destination(), destination)),
            length: ip.total_length(),
            ip_header: ip.header_length() as u8,
            flags,
            reserved: 0,
        }
    }
}

impl IpPacket for Packet {
    type Flow = Flow;

    const NONE: Self =
        Self { flow: Flow { addresses: 0, ports: 0 }, length: 0, ip_header: 0, flags: Flags(0), reserved: 0 };

    fn parse<F: Frame>(frame: &F, mac: MacAddr) -> Parsed<Self> {
        let Some(ethernet) = Ethernet::new(frame.data()) else { return Parsed::dropped(Drop::Truncated) };
        let kind = ethernet.ethertype();
        if vlan::is_tag(kind) {
            return Parsed::Tagged;
        }
        if ethernet.destination() != mac {
            return Parsed::TO_KERNEL;
        }
        match kind {
            ethertype::IPV4 => {}
            ethertype::IPV6 => return Parsed::Ipv6,
            _ => return Parsed::TO_KERNEL,
        }
        let ip = match Ipv4::new(ethernet.payload(), frame.len() - ethernet::HEADER) {
            Ok(ip) => ip,
            Err(Malformed::Truncated) => return Parsed::dropped(Drop::Truncated),
            Err(Malformed::BadHeader) => return Parsed::dropped(Drop::BadHeader),
        };
        if !ip.checksum_is_right() {
            return Parsed::dropped(Drop::BadChecksum);
        }
        let protocol = ip.protocol();
        if !is_balanced(protocol) {
            let message = ethernet.payload().get(ip.header_length()..).unwrap_or_default();
            let is_icmp = protocol == protocol::ICMP && !ip.is_fragment();
            return if is_icmp { icmp(protocol, message) } else { Parsed::TO_KERNEL };
        }
        if ip.is_fragment() {
            return Parsed::Fragment;
        }
        Self::of(ip, ethernet.payload()).map_or(Parsed::dropped(Drop::Truncated), Parsed::Packet)
    }

    #[cold]
    fn fragment<F: Frame>(frame: &F) -> Option<Fragment<Self>> {
        fragment::of_ipv4(frame)
    }

    #[cold]
    fn echo<F: Frame>(frame: &F) -> Option<Self> {
        let payload = Ethernet::new(frame.data())?.payload();
        let ip = Ipv4::new(payload, frame.len() - ethernet::HEADER).ok()?;
        let end = payload.len().min(usize::from(ip.total_length()));
        Some(Self::with(ip, echo::ports(ip.protocol(), payload.get(ip.header_length()..end)?)?))
    }

    #[inline]
    fn flow(&self) -> Flow {
        self.flow
    }

    #[inline]
    fn length(&self) -> u32 {
        self.length.into()
    }

    #[inline]
    fn flags(&self) -> Flags {
        self.flags
    }

    #[inline]
    fn any(&self) -> AnyPacket {
        AnyPacket {
            flow: self.flow.into(),
            length: self.length.into(),
            transport: self.ip_header.into(),
            flags: self.flags,
        }
    }
}
