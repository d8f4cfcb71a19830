//! Ranges of ports, and of virtual addresses and ports: `198.51.100.0/24:80`, `198.51.100.8:8000-8099`,
//! `[2001:db8::/64]:53`.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Protocol, VirtualService};

/// TCP, UDP or SCTP ports from one to another: `80`, or `8000-8099`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write ports as 80 or 8000-8099, the lower one first")]
pub struct NoPorts;

impl FromStr for PortRange {
    type Err = NoPorts;

    fn from_str(text: &str) -> Result<Self, NoPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse().map_err(|_| NoPorts);
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first <= range.last { Ok(range) } else { Err(NoPorts) }
    }
}

impl TryFrom<String> for PortRange {
    type Error = NoPorts;

    fn try_from(text: String) -> Result<Self, NoPorts> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl PortRange {
    /// This port alone.
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest one.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest one.
    pub fn last(self) -> u16 {
        self.last
    }

    /// All of them.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// The virtual addresses and ports of a service for more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualRange {
    /// The protocol of the packets.
    pub protocol: Protocol,
    /// The virtual addresses, a network without bits set beyond its prefix.
    pub network: IpNet,
    /// The virtual ports; 0 alone stands for every port.
    pub ports: PortRange,
}

impl VirtualRange {
    /// The service for these addresses and ports, also where they are one.
    pub fn service(self) -> VirtualService {
        let Self { protocol, network, ports } = self;
        if network.prefix_len() == network.max_prefix_len() && ports.first == ports.last {
            VirtualService::Address { protocol, address: network.addr(), port: ports.first }
        } else {
            VirtualService::Range(self)
        }
    }

    /// Whether it is more than one address or port, and well-formed.
    pub fn is_sound(self) -> bool {
        self.network.trunc() == self.network
            && (self.ports.first > 0 || self.ports.last == 0)
            && self.service() == VirtualService::Range(self)
    }

    /// The port, where it is one; else 0.
    pub fn port(self) -> u16 {
        if self.ports.first == self.ports.last { self.ports.first } else { 0 }
    }

    /// `text` as a range, which [`Display`](fmt::Display) writes so. `None` where it has neither a network nor more than one port.
    pub fn parse(text: &str, protocol: Protocol) -> Option<Self> {
        let (address, ports) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:")?,
            None => text.rsplit_once(':')?,
        };
        let network = match address.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => address.parse().ok()?,
        };
        let brackets = text.starts_with('[');
        let range = Self { protocol, network, ports: ports.parse().ok()? };
        let is_range = address.contains('/') || ports.contains('-');
        let is_right = matches!(network, IpNet::V6(_)) == brackets && network.trunc() == network;
        (is_range && is_right && (range.ports.first > 0 || range.ports.last == 0)).then_some(range)
    }
}

impl fmt::Display for VirtualRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, ports, .. } = self;
        let is_one = network.prefix_len() == network.max_prefix_len();
        match network {
            IpNet::V4(network) if is_one => write!(f, "{}:{ports}", network.addr()),
            IpNet::V4(network) => write!(f, "{network}:{ports}"),
            IpNet::V6(network) if is_one => write!(f, "[{}]:{ports}", network.addr()),
            IpNet::V6(network) => write!(f, "[{network}]:{ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for text in ["0", "80", "8000-8099", "0-65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for text in ["", "-", "81-80", "80-", "65536", "80-81-82", "http"] {
            assert_eq!(text.parse::<PortRange>(), Err(NoPorts), "{text}");
        }
        assert_eq!("7-7".parse::<PortRange>().unwrap().to_string(), "7");
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        let read = |text| VirtualRange::parse(text, Protocol::Tcp);
        for text in [
            "198.51.100.0/24:80",
            "198.51.100.0/24:0",
            "198.51.100.8:8000-8099",
            "0.0.0.0/0:1-65535",
            "[2001:db8::/64]:53",
            "[2001:db8::8]:8000-8099",
        ] {
            let range = read(text).unwrap();
            assert!(range.is_sound(), "{text}");
            assert_eq!((range.to_string().as_str(), range.service()), (text, VirtualService::Range(range)));
        }
        for (text, short) in
            [("198.51.100.8/32:80", "198.51.100.8:80"), ("198.51.100.8:80-80", "198.51.100.8:80")]
        {
            let range = read(text).unwrap();
            assert_eq!(range.to_string(), short);
            let address = "198.51.100.8".parse().unwrap();
            let service = VirtualService::Address { protocol: Protocol::Tcp, address, port: 80 };
            assert_eq!((range.service(), range.is_sound()), (service, false), "{text}");
        }
        for text in [
            "",
            "198.51.100.8:80",
            "[2001:db8::8]:80",
            "198.51.100.8/24:80",
            "198.51.100.0/33:80",
            "198.51.100.0/24",
            "198.51.100.0/24:",
            "198.51.100.0/24:0-80",
            "198.51.100.0/24:81-80",
            "2001:db8::/64:53",
            "[198.51.100.0/24]:80",
            "[2001:db8::/64]53",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
