//! Parse, for IPv6: what a received frame is, and for balanced protocols its flow and where its headers lie.

use super::{AnyPacket, Flow6, is_balanced, transport_header};
use crate::counters::{Drop, Verdict};
use crate::network::MacAddr;
use crate::packet::ethernet::{self, Ethernet, ethertype};
use crate::packet::ipv4::Malformed;
use crate::packet::ipv6::{BadChain, Ipv6};
use crate::packet::tcp::Flags;
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
    /// What stands for a frame that is no such packet. Packets have a length.
    pub(crate) const NONE: Self = Self { flow: Flow6::NONE, length: 0, transport: 0, flags: Flags(0) };

    /// True for any packet, false for [`Packet6::NONE`].
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        self.length != 0
    }
}

impl From<&Packet6> for AnyPacket {
    fn from(packet: &Packet6) -> Self {
        Self {
            flow: packet.flow.into(),
            length: packet.length as usize,
            transport: packet.transport.into(),
            flags: packet.flags,
        }
    }
}

/// True for a frame with an IPv6 packet for the port with the address `mac`. What goes to a group, as neighbour discovery does,
/// is not for it.
#[inline]
pub(crate) fn is_ipv6<F: Frame>(frame: &F, mac: MacAddr) -> bool {
    Ethernet::new(frame.data())
        .is_some_and(|ethernet| ethernet.ethertype() == ethertype::IPV6 && ethernet.destination() == mac)
}

/// What a frame with an IPv6 packet is; as [`super::Parsed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed6 {
    /// To be looked up.
    Packet(Packet6),
    /// A fragment to this address: nothing to look up.
    Fragment {
        /// Destination address as a number.
        destination: u128,
    },
    /// Not for the balancer.
    Other(Verdict),
}

const TO_KERNEL: Parsed6 = Parsed6::Other(Verdict::ToKernel);

const fn dropped(reason: Drop) -> Parsed6 {
    Parsed6::Other(Verdict::Drop(reason))
}

/// Parses a frame: the packet in it, else [`Packet6::NONE`]. What else may be in it, [`parse_ipv6`] tells.
#[inline]
pub(crate) fn packet_ipv6<F: Frame>(frame: &F, mac: MacAddr) -> Packet6 {
    match parse_ipv6(frame, mac) {
        Parsed6::Packet(packet) => packet,
        _ => Packet6::NONE,
    }
}

/// Parses any frame with an IPv6 packet that a port with the address `mac` received.
#[inline]
pub fn parse_ipv6<F: Frame>(frame: &F, mac: MacAddr) -> Parsed6 {
    let Some(ethernet) = Ethernet::new(frame.data()) else { return dropped(Drop::Truncated) };
    if ethernet.ethertype() != ethertype::IPV6 || ethernet.destination() != mac {
        return TO_KERNEL;
    }
    let payload = ethernet.payload();
    let ip = match Ipv6::new(payload, frame.len() - ethernet::HEADER) {
        Ok(ip) => ip,
        Err(Malformed::Truncated) => return dropped(Drop::Truncated),
        Err(Malformed::BadHeader) => return dropped(Drop::BadHeader),
    };
    let upper = match ip.upper() {
        Ok(upper) => upper,
        // Whether it may go on to its next stop, Linux knows.
        Err(BadChain::SourceRouted) => return TO_KERNEL,
        Err(BadChain::Truncated) => return dropped(Drop::Truncated),
        Err(BadChain::TooMany | BadChain::HopByHopNotFirst | BadChain::RepeatedFragment) => {
            return dropped(Drop::BadHeader);
        }
    };
    if !is_balanced(upper.protocol) {
        return TO_KERNEL;
    }
    if upper.fragment.is_some_and(|fragment| !fragment.is_whole()) {
        return Parsed6::Fragment { destination: ip.destination() };
    }
    let end = payload.len().min(ip.total_length());
    let transport = payload.get(upper.offset..end).unwrap_or_default();
    let Some((ports, flags)) = transport_header(upper.protocol, transport) else {
        return dropped(Drop::Truncated);
    };
    let (source, destination) = ((ports >> 16) as u16, ports as u16);
    Parsed6::Packet(Packet6 {
        flow: Flow6::new(upper.protocol, (ip.source(), source), (ip.destination(), destination)),
        length: ip.total_length() as u32,
        transport: upper.offset as u16,
        flags,
    })
}
