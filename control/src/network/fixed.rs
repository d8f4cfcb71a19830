//! Routes and neighbours that the configuration file gives for ports without a kernel interface.

use std::net::IpAddr;

use dataplane::network::{Adjacency, MacAddr, Network, NextHop, PortId, Sources};
use ipnet::IpNet;

use crate::config::Config;

/// What never changes while the daemon runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    routes: Vec<(IpNet, NextHop)>,
    sources: Vec<(IpNet, IpAddr)>,
    neighbours: Vec<(IpAddr, Adjacency)>,
}

impl Fixed {
    /// What `config` says of ports without a kernel interface. `mac` tells each port's own address.
    pub fn new(config: &Config, mac: impl Fn(PortId) -> MacAddr) -> Self {
        let routes = config.routes.iter().map(|r| (r.to, NextHop { port: r.port, gateway: r.via }));
        let sources = config.routes.iter().filter_map(|r| Some((r.to, r.source?)));
        let neighbours =
            config.neighbours.iter().map(|n| (n.address, Adjacency::new(n.port, mac(n.port), n.mac)));
        Self { routes: routes.collect(), sources: sources.collect(), neighbours: neighbours.collect() }
    }

    /// A network of this alone.
    pub fn network(&self) -> Network {
        let mut network = Network::default();
        network.set_routes(self.routes().map(|(prefix, hop)| (prefix, Some(hop))));
        network.set_sources(Sources::new(self.sources(), []));
        for &(address, adjacency) in &self.neighbours {
            network.set_neighbour(address, adjacency);
        }
        network
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = (IpNet, NextHop)> {
        self.routes.iter().copied()
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = (IpNet, IpAddr)> {
        self.sources.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_find_their_way_by_the_file_alone() {
        let text = r#"
            [workers]
            cores = [0]
            [[port]]
            name = "wan"
            device = "net_null0"
            kernel_interface = false
            [[route]]
            to = "0.0.0.0/0"
            via = "192.0.2.1"
            source = "198.51.100.7"
            port = "wan"
            [[neighbour]]
            address = "192.0.2.1"
            mac = "02:00:00:00:00:01"
            port = "wan"
        "#;
        let config = Config::parse(text, "director.toml".as_ref(), &[0]).unwrap();
        let source = MacAddr([2, 0, 0, 0, 0, 0xff]);
        let network = Fixed::new(&config, |_| source).network();
        let id = network.resolve([203, 0, 113, 1].into()).unwrap();
        let destination = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(network.adjacency(id), Some(&Adjacency::new(PortId(0), source, destination)));
        assert_eq!(network.source([203, 0, 113, 1].into()), Some([198, 51, 100, 7].into()));
    }
}
