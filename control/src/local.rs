//! Local addresses: what servers by FULLNAT take for their clients'. They are the director's own, so that answers come back to it.
//!
//! A destination gets those of its service; where the service has none, those of the port by which the server is reached; where that
//! has none, those that are for all.

use std::fmt;
use std::net::IpAddr;

use dataplane::locals::{Block, Pool};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{PortRange, VirtualService};
use crate::readable::name::ServiceName;
use crate::refusal::Refusal;

/// The most addresses in one network of them.
const MOST: u32 = 256;
/// The ports of an address for which none are named: all that need no privilege.
const PORTS: (u16, u16) = (1024, u16::MAX);

/// Addresses that stand for clients'. What is `None` is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalAddresses {
    /// The addresses: all of this network, without bits set beyond its prefix.
    pub addresses: IpNet,
    /// For this service only.
    #[serde(default)]
    pub service: Option<VirtualService>,
    /// For servers that are reached by the director's port of this name only.
    #[serde(default)]
    pub port: Option<String>,
    /// The TCP, UDP and SCTP ports to be used; 1024 to 65535 if `None`.
    #[serde(default)]
    pub ports: Option<PortRange>,
}

/// As `lbctl local-address add` takes it.
impl fmt::Display for LocalAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, service, port, ports } = self;
        write!(f, "{addresses}")?;
        let mut option =
            |name: &str, value: Option<String>| value.map_or(Ok(()), |value| write!(f, " --{name} {value}"));
        option("service", service.map(|service| ServiceName(service).to_string()))?;
        option("port", port.clone())?;
        option("ports", ports.map(|ports| ports.to_string()))
    }
}

impl LocalAddresses {
    /// These addresses, for all.
    pub fn new(addresses: IpNet) -> Self {
        Self { addresses, service: None, port: None, ports: None }
    }

    /// Whether they can be a host's, and are not too many.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), Refusal> {
        let wrong = |why| Err(Refusal::BadLocalAddress(why));
        if self.addresses.trunc() != self.addresses {
            return wrong("the network has bits set beyond its prefix");
        }
        if self.addresses.max_prefix_len() - self.addresses.prefix_len() > MOST.ilog2() as u8 {
            return wrong("no more than 256 addresses at once");
        }
        let address = self.addresses.addr();
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255; 4]) {
            return wrong("not a host's address");
        }
        if self.ports.is_some_and(|ports| ports.first() == 0) {
            return wrong("ports begin with 1");
        }
        Ok(())
    }

    fn blocks(&self) -> impl Iterator<Item = Block> {
        let (first_port, last_port) = self.ports.map_or(PORTS, |ports| (ports.first(), ports.last()));
        let (first, last) = (number(self.addresses.network()), number(self.addresses.broadcast()));
        let is_ipv4 = self.addresses.addr().is_ipv4();
        (first..=last).map(move |n| {
            let address = if is_ipv4 { IpAddr::V4((n as u32).into()) } else { IpAddr::V6(n.into()) };
            Block { address, first_port, last_port }
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The pool of a server of this service, which is reached by the port of this name; `None` where there is no address of its family.
pub fn pool<'a>(
    all: impl Iterator<Item = &'a LocalAddresses> + Clone,
    service: &VirtualService,
    server: IpAddr,
    port: Option<&str>,
) -> Option<Pool> {
    let mine = all.filter(|local| local.addresses.addr().is_ipv4() == server.is_ipv4());
    let is_here = |local: &&LocalAddresses| local.port.is_none() || local.port.as_deref() == port;
    let of_service = mine.clone().filter(|local| local.service == Some(*service)).filter(is_here);
    let of_port =
        mine.clone().filter(|local| local.service.is_none() && local.port.is_some()).filter(is_here);
    let of_all = mine.filter(|local| local.service.is_none() && local.port.is_none());
    let blocks = |some: &mut dyn Iterator<Item = &LocalAddresses>| {
        Pool::new(some.flat_map(LocalAddresses::blocks).collect()).ok()
    };
    let mut sources: [Box<dyn Iterator<Item = &LocalAddresses>>; 3] =
        [Box::new(of_service), Box::new(of_port), Box::new(of_all)];
    sources.iter_mut().find_map(|source| blocks(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn local(addresses: &str) -> LocalAddresses {
        LocalAddresses::new(addresses.parse().unwrap())
    }

    fn service(port: u16) -> VirtualService {
        VirtualService::Address { protocol: Protocol::Tcp, address: [198, 51, 100, 8].into(), port }
    }

    #[test]
    fn a_server_gets_its_services_addresses_or_its_ports_or_those_for_all() {
        let all = [
            local("192.0.2.40/31"),
            local("2001:db8::40/128"),
            LocalAddresses { port: Some("lan".into()), ..local("192.0.2.41/32") },
            LocalAddresses { service: Some(service(443)), ..local("192.0.2.42/32") },
            LocalAddresses {
                service: Some(service(443)),
                port: Some("lan".into()),
                ports: Some("7-9".parse().unwrap()),
                ..local("192.0.2.43/32")
            },
        ];
        let size = |service_port, server: &str, port| {
            pool(all.iter(), &service(service_port), server.parse().unwrap(), port).map(|pool| pool.size())
        };
        let each = 65536 - 1024;
        assert_eq!(size(443, "192.0.2.9", Some("wan")), Some(each));
        assert_eq!(size(443, "192.0.2.9", Some("lan")), Some(each + 3));
        assert_eq!(size(80, "192.0.2.9", Some("lan")), Some(each));
        assert_eq!(size(80, "192.0.2.9", Some("wan")), Some(2 * each));
        assert_eq!(size(80, "192.0.2.9", None), Some(2 * each));
        assert_eq!(size(443, "2001:db8::9", Some("lan")), Some(each));
        assert_eq!(pool([].iter(), &service(80), [192, 0, 2, 9].into(), None), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |text: &str| local(text).check().map_err(|refusal| refusal.to_string());
        assert_eq!(check("192.0.2.0/24"), Ok(()));
        assert!(check("192.0.0.0/23").unwrap_err().contains("256"));
        assert!(check("192.0.2.1/24").unwrap_err().contains("prefix"));
        assert!(check("0.0.0.0/32").unwrap_err().contains("host"));
        assert!(check("ff02::1/128").unwrap_err().contains("host"));
        let ports = Some("0-9".parse().unwrap());
        assert!(LocalAddresses { ports, ..local("192.0.2.1/32") }.check().is_err());
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let full = LocalAddresses {
            service: Some(service(443)),
            port: Some("lan".into()),
            ports: Some("2000-2999".parse().unwrap()),
            ..local("192.0.2.40/31")
        };
        let text = "192.0.2.40/31 --service tcp:198.51.100.8:443 --port lan --ports 2000-2999";
        assert_eq!(full.to_string(), text);
    }
}
