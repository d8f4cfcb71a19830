//! Which address a packet has as its source that the director itself makes: a tunnel's outer packet, an ICMP error.
//!
//! Linux's choice for a socket that is not bound is followed: the address that the route prefers; for IPv4 the first one of
//! the interface, best one on the gateway's network; for IPv6 RFC 6724's rules as far as they tell the addresses of one host
//! apart. It goes over all addresses of the host, and so is not for every packet: control asks when it prepares a tunnel, and a worker
//! before it tells a server of an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use ipnet::IpNet;

use super::{NextHop, PortId};

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The port on whose kernel interface it is; `None` where it is on another interface of Linux.
    pub port: Option<PortId>,
    /// The address, with the length of its network's prefix.
    pub network: IpNet,
}

/// What there is to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    preferred: HashMap<IpNet, IpAddr>,
    addresses: Vec<LocalAddress>,
}

impl Sources {
    /// Addresses that routes, by their prefixes, prefer (`ip route … src`), and all addresses of the host that may be used,
    /// in Linux's order.
    pub fn new(
        preferred: impl IntoIterator<Item = (IpNet, IpAddr)>,
        addresses: impl IntoIterator<Item = LocalAddress>,
    ) -> Self {
        let preferred = preferred.into_iter().map(|(prefix, address)| (prefix.trunc(), address)).collect();
        Self { preferred, addresses: addresses.into_iter().collect() }
    }

    /// The source of packets to `destination` by the route for `prefix`. `None` where there is no address of its family.
    pub(super) fn choose(&self, prefix: IpNet, hop: NextHop, destination: IpAddr) -> Option<IpAddr> {
        if let Some(preferred) = self.preferred.get(&prefix.trunc()).filter(|a| same_family(**a, destination))
        {
            return Some(*preferred);
        }
        match destination {
            IpAddr::V4(_) => self.choose_v4(hop).map(IpAddr::V4),
            IpAddr::V6(destination) => self.choose_v6(hop.port, destination).map(IpAddr::V6),
        }
    }

    fn choose_v4(&self, hop: NextHop) -> Option<Ipv4Addr> {
        let all = self.addresses.iter().filter_map(|local| match local.network {
            IpNet::V4(network) => Some((local.port, network)),
            IpNet::V6(_) => None,
        });
        let here = all.clone().filter(|(port, _)| *port == Some(hop.port));
        let on_link = |network: &ipnet::Ipv4Net| match hop.gateway {
            Some(IpAddr::V4(gateway)) => network.contains(&gateway),
            _ => true,
        };
        let first = here.clone().find(|(_, network)| on_link(network)).or_else(|| here.clone().next());
        first.or_else(|| all.clone().next()).map(|(_, network)| network.addr())
    }

    fn choose_v6(&self, port: PortId, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        let all = self.addresses.iter().filter_map(|local| match local.network {
            IpNet::V6(network) => Some((local.port, network.addr())),
            IpNet::V4(_) => None,
        });
        let is_local = |address: &Ipv6Addr| address.is_unicast_link_local();
        // Another link's local address means nothing on this one.
        let usable = all.filter(|(at, address)| *at == Some(port) || !is_local(address));
        let fitness = |(at, address): (Option<PortId>, Ipv6Addr)| {
            let same_scope = is_local(&address) == is_local(&destination);
            let bits = (address.to_bits() ^ destination.to_bits()).leading_zeros();
            (same_scope, at == Some(port), bits)
        };
        // Of equal ones Linux takes the first, and so does this.
        let best = usable.reduce(|best, next| if fitness(next) > fitness(best) { next } else { best });
        best.map(|(_, address)| address)
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: PortId = PortId(1);

    fn local(port: u16, network: &str) -> LocalAddress {
        LocalAddress { port: Some(PortId(port)), network: network.parse().unwrap() }
    }

    fn sources() -> Sources {
        Sources::new(
            [("203.0.113.0/24".parse().unwrap(), "192.0.2.77".parse().unwrap())],
            [
                LocalAddress { port: None, network: "10.9.9.9/32".parse().unwrap() },
                local(0, "198.51.100.1/24"),
                local(0, "198.51.100.8/32"),
                local(1, "192.0.2.1/24"),
                local(1, "192.0.3.1/24"),
                local(1, "fe80::1/64"),
                local(0, "2001:db8:2::7/64"),
                local(1, "2001:db8:1::1/64"),
                local(1, "2001:db8:2::1/64"),
            ],
        )
    }

    /// As `ip route get` says on a host set up so.
    #[test]
    fn linux_chooses_so() {
        let cases = [
            ("the route's own", "203.0.113.0/24", None, "203.0.113.9", Some("192.0.2.77")),
            ("the interface's first", "192.0.2.0/24", None, "192.0.2.9", Some("192.0.2.1")),
            ("the gateway's network", "0.0.0.0/0", Some("192.0.3.254"), "8.8.8.8", Some("192.0.3.1")),
            ("a gateway on no network", "0.0.0.0/0", Some("172.16.0.1"), "8.8.8.8", Some("192.0.2.1")),
            ("an IPv6 gateway", "0.0.0.0/0", Some("fe80::9"), "8.8.8.8", Some("192.0.2.1")),
            ("the longest prefix", "::/0", Some("fe80::9"), "2001:db8:2::9", Some("2001:db8:2::1")),
            ("the link's", "fe80::/64", None, "fe80::9", Some("fe80::1")),
        ];
        for (name, prefix, gateway, to, expected) in cases {
            let hop = NextHop { port: LAN, gateway: gateway.map(|g| g.parse().unwrap()) };
            let chosen = sources().choose(prefix.parse().unwrap(), hop, to.parse().unwrap());
            assert_eq!(chosen, expected.map(|a| a.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn a_port_without_addresses_sends_with_those_of_the_host() {
        let hop = NextHop { port: PortId(7), gateway: None };
        let chosen = |to: &str| sources().choose("0.0.0.0/0".parse().unwrap(), hop, to.parse().unwrap());
        assert_eq!(chosen("192.0.2.9"), Some("10.9.9.9".parse().unwrap()));
        assert_eq!(chosen("2001:db8:1::9"), Some("2001:db8:1::1".parse().unwrap()));
        assert_eq!(Sources::default().choose("0.0.0.0/0".parse().unwrap(), hop, [8; 4].into()), None);
    }
}
