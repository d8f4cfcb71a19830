//! Marks: what netfilter's firewall marks are to IPVS. Rules of director's own give a number to the packets that open
//! connections, and a service can be for a number. Looks at nothing but the packet's flow and port.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::network::PortId;
use crate::parse::AnyFlow;

/// Addresses that agree in some bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Option<IpNet>);

impl Addresses {
    /// All of this network, of no other family.
    pub fn new(network: IpNet) -> Self {
        Self(Some(network.trunc()))
    }

    /// True where `address` is one of them.
    #[inline]
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.is_none_or(|network| network.contains(&address))
    }
}

/// A rule: packets that are all of this get the mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The mark; above 0.
    pub mark: u32,
    /// IP protocol number; `None` for each.
    pub protocol: Option<u8>,
    /// Where it comes from.
    pub source: Addresses,
    /// Where it goes to.
    pub destination: Addresses,
    /// From which ports.
    pub source_ports: RangeInclusive<u16>,
    /// To which ports.
    pub destination_ports: RangeInclusive<u16>,
    /// The port on which it was received; `None` for each.
    pub in_port: Option<PortId>,
}

impl Rule {
    /// Gives `mark` to every packet.
    pub fn new(mark: u32) -> Self {
        Self {
            mark,
            protocol: None,
            source: Addresses::default(),
            destination: Addresses::default(),
            source_ports: 0..=u16::MAX,
            destination_ports: 0..=u16::MAX,
            in_port: None,
        }
    }

    /// True where the rule is for packets of `flow` that come in by `port`.
    pub fn takes(&self, flow: AnyFlow, port: PortId) -> bool {
        let (source, destination) = (flow.source(), flow.destination());
        self.protocol.is_none_or(|protocol| protocol == flow.protocol())
            && self.in_port.is_none_or(|in_port| in_port == port)
            && self.destination.contains(destination.0)
            && self.destination_ports.contains(&destination.1)
            && self.source.contains(source.0)
            && self.source_ports.contains(&source.1)
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;
    use crate::parse::Flow;

    #[test]
    fn a_rule_takes_what_is_all_of_it() {
        let net = |address: [u8; 4]| Addresses::new(Ipv4Net::new_assert(address.into(), 24).into());
        let rule = Rule {
            protocol: Some(17),
            source: net([203, 0, 113, 9]),
            destination: net([198, 51, 100, 0]),
            source_ports: 1024..=65535,
            destination_ports: 53..=54,
            in_port: Some(PortId(1)),
            ..Rule::new(7)
        };
        let flow = |protocol, source: u32, from, destination: u32, to| {
            Flow::new(protocol, (source, from), (destination, to)).into()
        };
        let (client, server) = (0xcb00_7101, 0xc633_64ff);
        for (what, flow, port, taken) in [
            ("all", flow(17, client, 1024, server, 54), 1, true),
            ("another port of director", flow(17, client, 1024, server, 54), 0, false),
            ("another protocol", flow(6, client, 1024, server, 54), 1, false),
            ("from elsewhere", flow(17, client + 256, 1024, server, 54), 1, false),
            ("to elsewhere", flow(17, client, 1024, server + 1, 54), 1, false),
            ("from another port", flow(17, client, 1023, server, 54), 1, false),
            ("to another port", flow(17, client, 1024, server, 55), 1, false),
        ] {
            assert_eq!(rule.takes(flow, PortId(port)), taken, "{what}");
            assert!(Rule::new(1).takes(flow, PortId(port)), "{what}");
        }
    }
}
