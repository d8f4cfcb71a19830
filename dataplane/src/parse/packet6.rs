//! Parse, for IPv6: what a received frame is, and for balanced protocols its flow and where its headers lie.

use super::{AnyPacket, Flow6, Fragment, IpPacket, Parsed, fragment, icmp, is_balanced, transport_header};
use crate::counters::Drop;
use crate::network::MacAddr;
use crate::packet::ethernet::{self, Ethernet, ethertype};
use crate::packet::ipv4::Malformed;
use crate::packet::ipv6::{BadChain, Ipv6, Upper};
use crate::packet::tcp::Flags;
use crate::packet::{echo, protocol};
use crate::wire::Frame;

/// A packet that may be somebody's: TCP, UDP or SCTP over IPv6, whole headers, for this port's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet6 {
    /// Who talks to whom.
    pub flow: Flow6,
    /// The IP packet's length in bytes, as IPVS counts them: header and extension headers included.
    pub length: u32,
    /// Where the transport header begins, in bytes from the start of the IP header.
    pub transport: u16,
    /// As [`super::Packet::flags`].
    pub flags: Flags,
}

impl Packet6 {
    /// The packet of a balanced protocol whose headers these are; `payload` is what the frame's first piece holds of it. `None`
    /// where the transport header is not whole.
    #[inline]
    pub(super) fn of(ip: Ipv6<'_>, upper: Upper, payload: &[u8]) -> Option<Self> {
        let end = payload.len().min(ip.total_length());
        let transport = transport_header(upper.protocol, payload.get(upper.offset..end)?)?;
        Some(Self::with(ip, upper, transport))
    }

    /// The packet with these headers, ports and control bits.
    #[inline]
    fn with(ip: Ipv6<'_>, upper: Upper, (ports, flags): (u32, Flags)) -> Self {
        let (source, destination) = ((ports >> 16) as u16, ports as u16);
        Self {
            flow: Flow6::new(upper.protocol, (ip.source(), source), (ip.destination(), destination)),
            length: ip.total_length() as u32,
            transport: upper.offset as u16,
            flags,
        }
    }
}

impl IpPacket for Packet6 {
    type Flow = Flow6;

    const NONE: Self = Self { flow: Flow6::NONE, length: 0, transport: 0, flags: Flags(0) };

    #[inline]
    fn parse<F: Frame>(frame: &F, mac: MacAddr) -> Parsed<Self> {
        let Some(ethernet) = Ethernet::new(frame.data()) else { return Parsed::dropped(Drop::Truncated) };
        if ethernet.ethertype() != ethertype::IPV6 || ethernet.destination() != mac {
            return Parsed::TO_KERNEL;
        }
        let payload = ethernet.payload();
        let ip = match Ipv6::new(payload, frame.len() - ethernet::HEADER) {
            Ok(ip) => ip,
            Err(Malformed::Truncated) => return Parsed::dropped(Drop::Truncated),
            Err(Malformed::BadHeader) => return Parsed::dropped(Drop::BadHeader),
        };
        let upper = match ip.upper() {
            Ok(upper) => upper,
            // Whether it may go on to its next stop, Linux knows.
            Err(BadChain::SourceRouted) => return Parsed::TO_KERNEL,
            Err(BadChain::Truncated) => return Parsed::dropped(Drop::Truncated),
            Err(BadChain::Fragmented) => return Parsed::Fragment,
            Err(BadChain::TooMany | BadChain::HopByHopNotFirst | BadChain::RepeatedFragment) => {
                return Parsed::dropped(Drop::BadHeader);
            }
        };
        if let Some(fragment) = upper.fragment
            && !fragment.is_whole()
        {
            return fragment::parsed_ipv6(ip, upper.protocol);
        }
        if !is_balanced(upper.protocol) {
            let message = payload.get(upper.offset..).unwrap_or_default();
            let is_icmp = upper.protocol == protocol::ICMPV6;
            return if is_icmp { icmp(upper.protocol, message) } else { Parsed::TO_KERNEL };
        }
        Self::of(ip, upper, payload).map_or(Parsed::dropped(Drop::Truncated), Parsed::Packet)
    }

    #[cold]
    fn fragment<F: Frame>(frame: &F) -> Option<Fragment<Self>> {
        fragment::of_ipv6(frame)
    }

    #[cold]
    fn echo<F: Frame>(frame: &F) -> Option<Self> {
        let payload = Ethernet::new(frame.data())?.payload();
        let ip = Ipv6::new(payload, frame.len() - ethernet::HEADER).ok()?;
        let upper = ip.upper().ok()?;
        let end = payload.len().min(ip.total_length());
        Some(Self::with(ip, upper, echo::ports(upper.protocol, payload.get(upper.offset..end)?)?))
    }

    #[inline]
    fn flow(&self) -> Flow6 {
        self.flow
    }

    #[inline]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline]
    fn flags(&self) -> Flags {
        self.flags
    }

    fn any(&self) -> AnyPacket {
        AnyPacket {
            flow: self.flow.into(),
            length: self.length as usize,
            transport: self.transport.into(),
            flags: self.flags,
        }
    }
}
