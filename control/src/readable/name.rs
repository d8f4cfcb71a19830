//! How services and destinations are written: `tcp:198.51.100.8:80`, `udp:[2001:db8::8]:53`, `mark:7`; `192.0.2.9:80`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::model::{Family, Protocol, VirtualRange, VirtualService};

/// A virtual service by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName(pub VirtualService);

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            VirtualService::Address { protocol, address, port } => {
                let protocol = protocol.to_string().to_lowercase();
                write!(f, "{protocol}:{}", SocketAddr::new(address, port))
            }
            VirtualService::Range(range) => {
                write!(f, "{}:{range}", range.protocol.to_string().to_lowercase())
            }
            VirtualService::Mark { mark, family: Family::Ipv4 } => write!(f, "mark:{mark}"),
            VirtualService::Mark { mark, family: Family::Ipv6 } => write!(f, "mark:{mark}:ipv6"),
        }
    }
}

/// The text names no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a service as tcp:198.51.100.8:80, udp:[2001:db8::8]:53, sctp:198.51.100.8:3868, tcp:198.51.100.0/24:8000-8099, mark:7 or mark:7:ipv6"
)]
pub struct NoService;

impl FromStr for ServiceName {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let (kind, rest) = text.split_once(':').ok_or(NoService)?;
        let protocol = match kind.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            "mark" => {
                let (mark, family) = match rest.split_once(':') {
                    None | Some((_, "ipv4")) => (rest.trim_end_matches(":ipv4"), Family::Ipv4),
                    Some((mark, "ipv6")) => (mark, Family::Ipv6),
                    Some(_) => return Err(NoService),
                };
                let mark = mark.parse().ok().filter(|mark| *mark != 0).ok_or(NoService)?;
                return Ok(Self(VirtualService::Mark { mark, family }));
            }
            _ => return Err(NoService),
        };
        if let Some(range) = VirtualRange::parse(rest, protocol) {
            return Ok(Self(range.service()));
        }
        let endpoint: SocketAddr = rest.parse().map_err(|_| NoService)?;
        Ok(Self(VirtualService::Address { protocol, address: endpoint.ip(), port: endpoint.port() }))
    }
}

/// A destination by its name. Without a port it has its service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationName {
    /// Its address.
    pub address: IpAddr,
    /// Its port, if one is given.
    pub port: Option<u16>,
}

impl DestinationName {
    /// The port of this destination of `service`.
    pub fn port_in(&self, service: &VirtualService) -> u16 {
        self.port.unwrap_or_else(|| service.port())
    }
}

/// The text names no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a destination as 192.0.2.9:80, 192.0.2.9, [2001:db8::9]:80 or 2001:db8::9")]
pub struct NoDestination;

impl FromStr for DestinationName {
    type Err = NoDestination;

    fn from_str(text: &str) -> Result<Self, NoDestination> {
        if let Ok(endpoint) = text.parse::<SocketAddr>() {
            return Ok(Self { address: endpoint.ip(), port: Some(endpoint.port()) });
        }
        let address =
            text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| NoDestination)?;
        Ok(Self { address, port: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in [
            "tcp:198.51.100.8:80",
            "udp:[2001:db8::8]:53",
            "sctp:198.51.100.8:0",
            "tcp:198.51.100.0/24:80",
            "udp:[2001:db8::/64]:8000-8099",
            "mark:7",
            "mark:4294967295:ipv6",
        ] {
            assert_eq!(text.parse::<ServiceName>().unwrap().to_string(), text);
        }
        assert_eq!("TCP:198.51.100.8:80".parse::<ServiceName>().unwrap().to_string(), "tcp:198.51.100.8:80");
        assert_eq!("mark:7:ipv4".parse::<ServiceName>().unwrap().to_string(), "mark:7");
        for bad in [
            "",
            "tcp",
            "tcp:",
            "tcp:198.51.100.8",
            "mark:0",
            "mark:x",
            "mark:7:ipv5",
            "198.51.100.8:80",
            "tcp:198.51.100.8/24:80",
        ] {
            assert_eq!(bad.parse::<ServiceName>(), Err(NoService), "{bad}");
        }
    }

    #[test]
    fn a_destination_may_leave_its_port_to_the_service() {
        let service = "tcp:198.51.100.8:80".parse::<ServiceName>().unwrap().0;
        let port = |text: &str| text.parse::<DestinationName>().map(|d| d.port_in(&service));
        assert_eq!(
            ["192.0.2.9", "192.0.2.9:0", "[2001:db8::9]:81", "2001:db8::9", "[2001:db8::9]"].map(port),
            [Ok(80), Ok(0), Ok(81), Ok(80), Ok(80)]
        );
        assert_eq!(port("192.0.2.9:"), Err(NoDestination));
    }
}
