//! SNAT rules: which connections that servers open outward through the director get another source, and which.
//!
//! The first rule that takes a connection decides. Rules are told apart by all they say.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::mark::Addresses;
use dataplane::network::PortId;
use dataplane::snat::{self, Block, Pool};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Family, PortRange, Protocol, Stats};
use crate::refusal::Refusal;

/// The most ranges in a pool.
const MOST: usize = 256;
/// The ports of a pool's addresses where none are named: all that need no privilege.
const PORTS: (u16, u16) = (1024, u16::MAX);
/// The same for masquerading: those behind what Linux uses for connections of its own (ip_local_port_range), which has the address, too.
const MASQUERADE_PORTS: (u16, u16) = (61_000, u16::MAX);

/// Addresses that follow each other: one, a network, or from a first to a last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    fn block(self) -> Option<Block> {
        Block::new(self.first, self.last)
    }
}

/// As 198.51.100.40, 198.51.100.40/30 or 198.51.100.40-198.51.100.47.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = *self;
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let network = (0..longest).rev().filter_map(|length| IpNet::new(first, length).ok());
        let inside = network.take_while(|network| network.network() == first && network.broadcast() <= last);
        match inside.last() {
            _ if first == last => write!(f, "{first}"),
            Some(network) if (network.network(), network.broadcast()) == (first, last) => {
                write!(f, "{network}")
            }
            _ => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    /// # Errors
    /// How it is written.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no address; write 198.51.100.40, 198.51.100.40/30 or 198.51.100.40-198.51.100.47"
            )
        };
        if let Some((first, last)) = text.split_once('-') {
            let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
            let (first, last) = (address(first)?, address(last)?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                return Err(format!("{text} does not go from a lower address to a higher one"));
            }
            return Ok(Self { first, last });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { first: address, last: address });
        }
        let network: IpNet = text.parse().map_err(|_| wrong())?;
        if network.trunc() != network {
            return Err(format!("{network} has bits set beyond its prefix; write {}", network.trunc()));
        }
        Ok(Self { first: network.network(), last: network.broadcast() })
    }
}

/// What a connection's source becomes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Translation {
    /// It stays what it is, and its packets are Linux's.
    None,
    /// The address that Linux would send from by the route to the connection's destination.
    Masquerade,
    /// One of these.
    Addresses(Vec<AddressRange>),
}

/// As it is read.
impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Addresses(ranges) => {
                let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
                f.write_str(&ranges.join(","))
            }
        }
    }
}

impl FromStr for Translation {
    type Err = String;

    /// Reads `none`, `masquerade`, or addresses with commas between them.
    ///
    /// # Errors
    /// How it is written.
    fn from_str(text: &str) -> Result<Self, String> {
        const WORDS: [&str; 2] = ["masquerade", "none"];
        match text {
            "none" => return Ok(Self::None),
            "masquerade" => return Ok(Self::Masquerade),
            _ => {}
        }
        let ranges = text.split(',').map(|range| range.trim().parse()).collect::<Result<_, String>>();
        ranges.map(Self::Addresses).map_err(|error| {
            match crate::suggest::nearest(text, WORDS.into_iter().map(str::to_owned)) {
                Some(word) => format!("did you mean {word}?"),
                None => error,
            }
        })
    }
}

impl TryFrom<String> for Translation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Translation> for String {
    fn from(translation: Translation) -> Self {
        translation.to_string()
    }
}

/// A rule: connections that are all of this get another source. What is `None` is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnatRule {
    /// What they get.
    pub translate_to: Translation,
    /// The protocol.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// The network that they come from.
    #[serde(default)]
    pub from: Option<IpNet>,
    /// The network that they go to.
    #[serde(default)]
    pub to: Option<IpNet>,
    /// The name of director's port by which they leave.
    #[serde(default)]
    pub out_port: Option<String>,
    /// The ports to be used; if `None` 1024 to 65535, and 61000 to 65535 for masquerading.
    #[serde(default)]
    pub ports: Option<PortRange>,
}

/// As `lbctl snat add` takes it.
impl fmt::Display for SnatRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { translate_to, protocol, from, to, out_port, ports } = self;
        write!(f, "{translate_to}")?;
        let mut option =
            |name: &str, value: Option<String>| value.map_or(Ok(()), |value| write!(f, " --{name} {value}"));
        option("protocol", protocol.map(|protocol| protocol.to_string().to_lowercase()))?;
        option("from", from.map(|network| network.to_string()))?;
        option("to", to.map(|network| network.to_string()))?;
        option("out-port", out_port.clone())?;
        option("ports", ports.map(|ports| ports.to_string()))
    }
}

impl SnatRule {
    /// Gives this to every connection.
    pub fn new(translate_to: Translation) -> Self {
        let (protocol, from, to, out_port, ports) = Default::default();
        Self { translate_to, protocol, from, to, out_port, ports }
    }

    /// Whether it says something that can be.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Refusal> {
        let wrong = |why| Err(Refusal::BadSnat(why));
        let ranges = match &self.translate_to {
            Translation::Addresses(ranges) => &ranges[..],
            _ => &[],
        };
        if ranges.len() > MOST {
            return wrong("no more than 256 ranges of addresses");
        }
        let ends = || ranges.iter().flat_map(|range| [range.first, range.last]);
        if !ends().all(can_send) {
            return wrong("a pool is of addresses that a host can have");
        }
        let networks = self.from.iter().chain(&self.to).map(IpNet::addr);
        let mut families = networks.chain(ends()).map(Family::from);
        let first = families.next();
        if families.any(|family| Some(family) != first) {
            return wrong("all of a rule is IPv4, or all of it IPv6");
        }
        match (self.ports, &self.translate_to) {
            (Some(_), Translation::None) => wrong("ports mean nothing where nothing is translated"),
            (Some(ports), _) if ports.first() == 0 => wrong("ports begin with 1"),
            _ => Ok(()),
        }
    }

    /// The rule as workers have it, whose connections count for this number; `port` finds director's ports by name. `None` for one that
    /// no connection of theirs can be of.
    pub(crate) fn for_workers(
        &self,
        number: u32,
        port: impl Fn(&str) -> Option<PortId>,
    ) -> Option<snat::Rule> {
        let addresses = |network: Option<IpNet>| network.map_or_else(Addresses::default, Addresses::new);
        let (translation, ports) = match &self.translate_to {
            Translation::None => (snat::Translation::Nothing, PORTS),
            Translation::Masquerade => (snat::Translation::Masquerade, MASQUERADE_PORTS),
            Translation::Addresses(ranges) => {
                let blocks = ranges.iter().filter_map(|range| range.block()).collect();
                (snat::Translation::Pool(Pool::new(blocks)?), PORTS)
            }
        };
        let out_port = match &self.out_port {
            None => None,
            Some(name) => Some(port(name)?),
        };
        Some(snat::Rule {
            number,
            protocol: self.protocol.map(Protocol::number),
            source: addresses(self.from),
            destination: addresses(self.to),
            out_port,
            translation,
            ports: self.ports.map_or(ports.0..=ports.1, PortRange::ports),
        })
    }
}

/// Whether hosts elsewhere can answer to this address.
fn can_send(address: IpAddr) -> bool {
    let is_no_ones = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !is_no_ones
        && match address {
            IpAddr::V4(address) => !address.is_broadcast() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none(),
        }
}

/// A rule with what it has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatEntry {
    /// What was configured.
    pub rule: SnatRule,
    /// Connections in a state that counts as active.
    pub active: u32,
    /// The other connections.
    pub inactive: u32,
    /// Counted since it was added: `out` what servers send, `in` what they get.
    pub stats: Stats,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> SnatRule {
        SnatRule::new(text.parse().unwrap())
    }

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("198.51.100.40", "198.51.100.40"),
            ("198.51.100.40/32", "198.51.100.40"),
            ("198.51.100.40/30", "198.51.100.40/30"),
            ("198.51.100.40-198.51.100.43", "198.51.100.40/30"),
            ("198.51.100.44-198.51.100.47", "198.51.100.44/30"),
            ("198.51.100.40-198.51.100.44", "198.51.100.40-198.51.100.44"),
            ("198.51.100.41-198.51.100.44, 198.51.100.9", "198.51.100.41-198.51.100.44,198.51.100.9"),
            ("0.0.0.0-255.255.255.255", "0.0.0.0/0"),
            ("2001:db8:64::/64", "2001:db8:64::/64"),
            ("2001:db8::1-2001:db8::2", "2001:db8::1-2001:db8::2"),
            ("masquerade", "masquerade"),
            ("none", "none"),
        ] {
            let read: Translation = text.parse().unwrap();
            assert_eq!((read.to_string(), written.parse()), (written.to_owned(), Ok(read)), "{text}");
        }
        for (text, why) in [
            ("masquerde", "did you mean masquerade?"),
            ("198.51.100.40/24", "write 198.51.100.0/24"),
            ("198.51.100.40-198.51.100.39", "lower address"),
            ("198.51.100.40-2001:db8::1", "lower address"),
            ("198.51.100", "is no address"),
            ("", "is no address"),
        ] {
            let error = text.parse::<Translation>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let from = |network: &str| Some(network.parse().unwrap());
        let good = SnatRule { from: from("192.0.2.0/24"), ..rule("198.51.100.40/29") };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(rule("masquerade").check(), Ok(()));
        let ports = |text: &str| Some(text.parse().unwrap());
        for (wrong, why) in [
            (SnatRule { from: from("2001:db8::/32"), ..good.clone() }, "all of it IPv6"),
            (rule("198.51.100.40,2001:db8::1"), "all of it IPv6"),
            (rule("127.0.0.1"), "a host can have"),
            (rule("224.0.0.0/4"), "a host can have"),
            (rule("198.51.100.0-255.255.255.255"), "a host can have"),
            (rule("fe80::1"), "a host can have"),
            (SnatRule { ports: ports("0-9"), ..good.clone() }, "begin with 1"),
            (SnatRule { ports: ports("1-9"), ..rule("none") }, "mean nothing"),
            (rule(&vec!["198.51.100.40"; MOST + 1].join(",")), "256"),
        ] {
            let refusal = wrong.check().unwrap_err().to_string();
            assert!(refusal.contains(why), "{wrong}: {refusal}");
        }
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let full = SnatRule {
            protocol: Some(Protocol::Tcp),
            from: Some("192.0.2.0/24".parse().unwrap()),
            to: Some("203.0.113.0/24".parse().unwrap()),
            out_port: Some("wan".into()),
            ports: Some("2000-2999".parse().unwrap()),
            ..rule("198.51.100.40-198.51.100.44")
        };
        let text = "198.51.100.40-198.51.100.44 --protocol tcp --from 192.0.2.0/24 --to 203.0.113.0/24 \
                    --out-port wan --ports 2000-2999";
        assert_eq!(full.to_string(), text);
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<SnatRule>(&json).unwrap(), full);
        assert!(json.contains(r#""translate_to":"198.51.100.40-198.51.100.44""#), "{json}");
    }
}
