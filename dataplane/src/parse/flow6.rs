//! Flows of IPv6, and flows of either family for where it makes no difference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Flow;
use crate::packet::protocol;
use crate::packet::tcp::Flags;

/// Who talks to whom over IPv6: what [`Flow`] is over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow6 {
    source: u128,
    destination: u128,
    /// From the top: source port 16, destination port 16, zero 8 (where IPv4 flows have the protocol), protocol 8, zero 14, 1,
    /// and 1 where this is the key of a persistence template, of which the rest is as in [`Flow`]'s. No IPv4 flow has such a word.
    ports: u64,
}

impl Flow6 {
    const IPV6: u64 = 1 << 1;

    /// What stands for no flow; no packet has protocol 0.
    pub(crate) const NONE: Self = Self::new(0, (0, 0), (0, 0));

    /// A flow from its parts; addresses as numbers.
    #[inline]
    pub const fn new(protocol: u8, source: (u128, u16), destination: (u128, u16)) -> Self {
        let ports = (source.1 as u64) << 48 | (destination.1 as u64) << 32 | (protocol as u64) << 16;
        Self { source: source.0, destination: destination.0, ports: ports | Self::IPV6 }
    }

    /// The key of a persistence template, as [`Flow::template`].
    #[inline]
    pub const fn template(protocol: u8, client: u128, to: (u128, u16)) -> Self {
        let flow = Self::new(protocol, (client, 0), to);
        Self { ports: flow.ports | 1, ..flow }
    }

    /// True for the key of a persistence template.
    #[inline]
    pub const fn is_template(self) -> bool {
        self.ports & 1 != 0
    }

    /// As [`Flow::of_range`].
    pub(crate) const fn of_range(self, prefix_length: u8, last_port: u16) -> Self {
        let range = (last_port as u64) << 48 | (prefix_length as u64 + 1) << 8;
        Self { ports: self.ports | range, ..self }
    }

    #[inline]
    pub(crate) const fn from_parts(source: u128, destination: u128, ports: u64) -> Self {
        Self { source, destination, ports }
    }

    /// Ports, protocol and what tells such flows from those of IPv4, in one word.
    #[inline]
    pub(crate) const fn ports(self) -> u64 {
        self.ports
    }

    /// True for the ports' word of an IPv6 flow.
    #[inline]
    pub(crate) const fn has_ports(word: u64) -> bool {
        word & Self::IPV6 != 0
    }

    /// The IP protocol number.
    #[inline]
    pub const fn protocol(self) -> u8 {
        (self.ports >> 16) as u8
    }

    /// The sender: address as a number, port.
    #[inline]
    pub const fn source(self) -> (u128, u16) {
        (self.source, (self.ports >> 48) as u16)
    }

    /// The receiver: address as a number, port.
    #[inline]
    pub const fn destination(self) -> (u128, u16) {
        (self.destination, (self.ports >> 32) as u16)
    }
}

/// A flow of either family, where a packet is not on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyFlow {
    /// Over IPv4.
    V4(Flow),
    /// Over IPv6.
    V6(Flow6),
}

impl AnyFlow {
    /// A flow from its parts; `None` where the addresses are not of one family.
    pub fn new(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Option<Self> {
        match (source.0, destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Some(Flow::new(protocol, (from.into(), source.1), (to.into(), destination.1)).into())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Some(Flow6::new(protocol, (from.into(), source.1), (to.into(), destination.1)).into())
            }
            _ => None,
        }
    }

    /// The key of a persistence template, as [`Flow::template`]. Addresses of different families are taken for IPv6 ones.
    pub fn template(protocol: u8, client: IpAddr, to: (IpAddr, u16)) -> Self {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            IpAddr::V6(address) => address.into(),
        };
        match (client, to.0) {
            (IpAddr::V4(client), IpAddr::V4(address)) => {
                Flow::template(protocol, client.into(), (address.into(), to.1)).into()
            }
            _ => Flow6::template(protocol, number(client), (number(to.0), to.1)).into(),
        }
    }

    /// The key of a persistence template for a mark, which is in the place of the address, in front.
    pub fn mark_template(client: IpAddr, mark: u32) -> Self {
        match client {
            IpAddr::V4(client) => Flow::template(protocol::IP, client.into(), (mark, 0)).into(),
            IpAddr::V6(client) => {
                Flow6::template(protocol::IP, client.into(), (u128::from(mark) << 96, 0)).into()
            }
        }
    }

    /// The key of a persistence template that an engine makes: as `key`, but for a hash in the client's place. It is an IPv6 flow of
    /// either family, and no other template's key.
    pub fn engine_template(key: Self, hash: u128) -> Self {
        let (address, port) = key.destination();
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        // No prefix is as long.
        Flow6::template(key.protocol(), hash, (address.into(), port)).of_range(u8::MAX - 1, 0).into()
    }

    /// The flow the other way round.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::V4(flow) => Flow::new(flow.protocol(), flow.destination(), flow.source()).into(),
            Self::V6(flow) => Flow6::new(flow.protocol(), flow.destination(), flow.source()).into(),
        }
    }

    /// The IP protocol number.
    #[inline]
    pub fn protocol(self) -> u8 {
        match self {
            Self::V4(flow) => flow.protocol(),
            Self::V6(flow) => flow.protocol(),
        }
    }

    /// The sender: address, port.
    #[inline]
    pub fn source(self) -> (IpAddr, u16) {
        match self {
            Self::V4(flow) => (Ipv4Addr::from(flow.source().0).into(), flow.source().1),
            Self::V6(flow) => (Ipv6Addr::from(flow.source().0).into(), flow.source().1),
        }
    }

    /// The receiver: address, port.
    #[inline]
    pub fn destination(self) -> (IpAddr, u16) {
        match self {
            Self::V4(flow) => (Ipv4Addr::from(flow.destination().0).into(), flow.destination().1),
            Self::V6(flow) => (Ipv6Addr::from(flow.destination().0).into(), flow.destination().1),
        }
    }

    /// As [`Flow::of_range`].
    pub(crate) fn of_range(self, prefix_length: u8, last_port: u16) -> Self {
        match self {
            Self::V4(key) => key.of_range(prefix_length, last_port).into(),
            Self::V6(key) => key.of_range(prefix_length, last_port).into(),
        }
    }

    /// True for the key of a persistence template.
    pub fn is_template(self) -> bool {
        match self {
            Self::V4(flow) => flow.is_template(),
            Self::V6(flow) => flow.is_template(),
        }
    }

    /// The key of a template that is as this one, but for the virtual port.
    pub(crate) fn to_port(self, port: u16) -> Self {
        match self {
            Self::V4(key) => {
                Flow::template(key.protocol(), key.source().0, (key.destination().0, port)).into()
            }
            Self::V6(key) => {
                Flow6::template(key.protocol(), key.source().0, (key.destination().0, port)).into()
            }
        }
    }

    /// The flow, where it is one of IPv4.
    pub fn v4(self) -> Option<Flow> {
        match self {
            Self::V4(flow) => Some(flow),
            Self::V6(_) => None,
        }
    }
}

/// What is known of a packet of either family, where it is not on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyPacket {
    /// Who talks to whom.
    pub flow: AnyFlow,
    /// The IP packet's length in bytes.
    pub length: usize,
    /// Where the transport header begins, in bytes from the start of the IP header.
    pub transport: usize,
    /// TCP's control bits, or what stands for them.
    pub flags: Flags,
}

impl From<Flow> for AnyFlow {
    #[inline]
    fn from(flow: Flow) -> Self {
        Self::V4(flow)
    }
}

impl From<Flow6> for AnyFlow {
    #[inline]
    fn from(flow: Flow6) -> Self {
        Self::V6(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_of_its_parts() {
        let (client, server) = ((u128::MAX - 1, 40_000), (7 << 64 | 9, 80));
        let flow = Flow6::new(132, client, server);
        assert_eq!((flow.protocol(), flow.source(), flow.destination()), (132, client, server));
        assert!(!flow.is_template() && Flow6::template(132, client.0, server).is_template());
        let any = AnyFlow::from(flow);
        assert_eq!(AnyFlow::new(any.protocol(), any.source(), any.destination()), Some(any));
        let other: (IpAddr, u16) = (Ipv4Addr::LOCALHOST.into(), 1);
        assert_eq!(AnyFlow::new(6, any.source(), other), None);
    }

    #[test]
    fn no_flow_of_ipv4_has_the_ports_of_one_of_ipv6() {
        for protocol in 0..=u8::MAX {
            for ports in [0, 1, 0x8000, u16::MAX] {
                let [_, word] = Flow::new(protocol, (u32::MAX, ports), (u32::MAX, !ports)).words();
                assert!(!Flow6::has_ports(word) && !Flow6::has_ports(word | 1));
                assert!(Flow6::has_ports(Flow6::new(protocol, (0, ports), (0, ports)).ports()));
            }
        }
    }
}
