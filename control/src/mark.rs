//! Marking rules: what stands for netfilter's firewall marks, since no packet of director's passes netfilter.
//!
//! The first rule that takes a packet gives it its mark, and a service by mark gets it. Rules are told apart by all they say.

use std::fmt;
use std::net::IpAddr;

use dataplane::mark::{Addresses, Rule};
use dataplane::network::PortId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Family, PortRange, Protocol};
use crate::refusal::Refusal;

/// A marking rule: packets that are all of this get the mark. What is `None` is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkRule {
    /// The mark, never 0.
    pub mark: u32,
    /// The packet's protocol.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// The network it comes from.
    #[serde(default)]
    pub from: Option<IpNet>,
    /// The network it goes to.
    #[serde(default)]
    pub to: Option<IpNet>,
    /// The ports it comes from.
    #[serde(default)]
    pub from_ports: Option<PortRange>,
    /// The ports it goes to.
    #[serde(default)]
    pub to_ports: Option<PortRange>,
    /// The name of director's port that receives it.
    #[serde(default)]
    pub in_port: Option<String>,
}

/// As `lbctl mark add` takes it.
impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mark, protocol, from, to, from_ports, to_ports, in_port } = self;
        write!(f, "{mark}")?;
        let mut option =
            |name: &str, value: Option<String>| value.map_or(Ok(()), |value| write!(f, " --{name} {value}"));
        option("protocol", protocol.map(|protocol| protocol.to_string().to_lowercase()))?;
        option("from", from.map(|network| network.to_string()))?;
        option("to", to.map(|network| network.to_string()))?;
        option("from-ports", from_ports.map(|ports| ports.to_string()))?;
        option("to-ports", to_ports.map(|ports| ports.to_string()))?;
        option("in-port", in_port.clone())
    }
}

impl MarkRule {
    /// Gives `mark` to every packet.
    pub fn new(mark: u32) -> Self {
        let (protocol, from, to, from_ports, to_ports, in_port) = Default::default();
        Self { mark, protocol, from, to, from_ports, to_ports, in_port }
    }

    /// Whether it says something that can be.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.mark == 0 {
            return Err(Refusal::BadMark("a mark is above 0"));
        }
        match (self.from, self.to) {
            (Some(from), Some(to)) if Family::from(from.addr()) != Family::from(to.addr()) => {
                Err(Refusal::BadMark("both of a rule's networks are IPv4, or both IPv6"))
            }
            _ => Ok(()),
        }
    }

    /// The rule as workers have it; `port` finds director's ports by name. `None` for one that no packet of theirs can be of.
    pub(crate) fn for_workers(&self, port: impl Fn(&str) -> Option<PortId>) -> Option<Rule> {
        let addresses = |network: Option<IpNet>| network.map_or_else(Addresses::default, Addresses::new);
        let ports = |range: Option<PortRange>| range.map_or(0..=u16::MAX, PortRange::ports);
        let in_port = match &self.in_port {
            None => None,
            Some(name) => Some(port(name)?),
        };
        Some(Rule {
            mark: self.mark,
            protocol: self.protocol.map(Protocol::number),
            source: addresses(self.from),
            destination: addresses(self.to),
            source_ports: ports(self.from_ports),
            destination_ports: ports(self.to_ports),
            in_port,
        })
    }
}

/// The network that `text` is: `198.51.100.0/24`, or one address.
///
/// # Errors
/// How it is written.
pub fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network: IpNet = network.map_err(|_| "write a network as 198.51.100.0/24 or 2001:db8::/32")?;
    if network.trunc() == network {
        Ok(network)
    } else {
        Err(format!("{network} has bits set beyond its prefix; write {}", network.trunc()))
    }
}

/// The protocol of this name.
///
/// # Errors
/// Which there are.
pub fn protocol(text: &str) -> Result<Protocol, String> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let found = all.into_iter().find(|protocol| protocol.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "write tcp, udp or sctp".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_whole() {
        assert_eq!(network("198.51.100.8").unwrap().to_string(), "198.51.100.8/32");
        assert!(network("198.51.100.8/24").unwrap_err().ends_with("write 198.51.100.0/24"));
        assert!(network("example").is_err());
    }

    #[test]
    fn a_rule_of_two_families_or_of_no_mark_is_refused() {
        let rule = MarkRule {
            from: Some(network("203.0.113.0/24").unwrap()),
            to: Some(network("2001:db8::/32").unwrap()),
            ..MarkRule::new(1)
        };
        assert!(rule.check().unwrap_err().to_string().contains("IPv4"));
        assert!(MarkRule::new(0).check().unwrap_err().to_string().contains("above 0"));
        assert_eq!(MarkRule { from: None, ..rule }.check(), Ok(()));
    }
}
