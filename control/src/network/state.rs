//! What is known of Linux, and the network that follows from it. No socket and no clock: events and dumps go in.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::network::{Adjacency, LocalAddress, Network, PortId, Sources, Way};

use super::addresses::Address;
use super::events::{Event, Link};
use super::neighbours::Neighbour;
use super::routes::{self, Candidate, Routes};
use super::{Fixed, Indexes, Interface, Key};

#[derive(Debug)]
pub(super) struct State {
    interfaces: Vec<Interface>,
    fixed: Fixed,
    indexes: Indexes,
    routes: Routes,
    sources: Sources,
    neighbours: HashMap<Key, Neighbour>,
    network: Network,
    /// The network is not what was last taken.
    changed: bool,
    /// Linux's routes must be read again.
    pub routes_due: bool,
    /// So must everything.
    pub all_due: bool,
    /// The ways to destinations may have changed since this was last looked at.
    pub ways_changed: bool,
}

impl State {
    pub fn new(interfaces: Vec<Interface>, fixed: Fixed) -> Self {
        let network = fixed.network();
        Self {
            interfaces,
            fixed,
            indexes: Indexes::default(),
            routes: Routes::new(),
            sources: Sources::default(),
            neighbours: HashMap::new(),
            network,
            changed: true,
            routes_due: true,
            all_due: true,
            ways_changed: true,
        }
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn neighbours(&self) -> &HashMap<Key, Neighbour> {
        &self.neighbours
    }

    pub fn index(&self, port: PortId) -> Option<u32> {
        self.indexes.index(port)
    }

    /// Every gateway that is reached by one of our interfaces.
    pub fn gateways(&self) -> HashSet<Key> {
        let hops = self.routes.values().filter_map(|way| way.hop());
        hops.filter_map(|hop| Some((hop.port, hop.gateway?))).collect()
    }

    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// The network to be published.
    pub fn take(&mut self) -> Arc<Network> {
        self.network.compact();
        self.changed = false;
        Arc::new(self.network.clone())
    }

    /// Takes in `event`; returns the neighbour that it made stale, if it is one of ours.
    pub fn apply(&mut self, event: Event) -> Option<Key> {
        match event {
            Event::Neighbour(neighbour) => {
                let key = (self.indexes.port(neighbour.index)?, neighbour.address);
                self.set_neighbour(key, neighbour);
                return neighbour.stale.then_some(key);
            }
            Event::NeighbourGone(neighbour) => {
                let key = (self.indexes.port(neighbour.index)?, neighbour.address);
                self.clear_neighbour(key);
            }
            Event::Link(link) => {
                self.routes_due = true;
                self.set_link(&link);
            }
            Event::LinkGone(index) => {
                self.routes_due = true;
                self.forget_link(index);
            }
            Event::Routes => self.routes_due = true,
            Event::Lost => self.all_due = true,
        }
        None
    }

    /// Takes in all of Linux's links.
    pub fn set_links(&mut self, links: &[Link]) {
        let gone: Vec<u32> =
            self.indexes.ports.keys().copied().filter(|i| links.iter().all(|l| l.index != *i)).collect();
        for index in gone {
            self.forget_link(index);
        }
        for link in links {
            self.set_link(link);
        }
    }

    fn set_link(&mut self, link: &Link) {
        let Some(interface) = self.interfaces.iter().find(|i| i.name == link.name) else {
            return;
        };
        let port = interface.port;
        if self.indexes.port(link.index) == Some(port) {
            return;
        }
        if link.mac != interface.mac.0 {
            tracing::warn!(
                interface = interface.name,
                "the interface's MAC address is not its port's ({}): replies will not arrive; ip link set {} address {}",
                interface.mac,
                interface.name,
                interface.mac
            );
        }
        if let Some(old) = self.indexes.index(port) {
            self.forget_link(old);
        }
        self.indexes.ports.insert(link.index, port);
        // Its neighbours may have been announced before it was known to be ours.
        self.all_due = true;
        self.ways_changed = true;
    }

    fn forget_link(&mut self, index: u32) {
        let Some(port) = self.indexes.ports.remove(&index) else {
            return;
        };
        let gone: Vec<Key> = self.neighbours.keys().copied().filter(|(p, _)| *p == port).collect();
        for key in gone {
            self.clear_neighbour(key);
        }
        self.ways_changed = true;
    }

    /// Takes in all of Linux's neighbours.
    pub fn set_neighbours(&mut self, all: Vec<Neighbour>) {
        let ours: HashMap<Key, Neighbour> =
            all.into_iter().filter_map(|n| Some(((self.indexes.port(n.index)?, n.address), n))).collect();
        let gone: Vec<Key> = self.neighbours.keys().copied().filter(|key| !ours.contains_key(key)).collect();
        for key in gone {
            self.clear_neighbour(key);
        }
        for (key, neighbour) in ours {
            self.set_neighbour(key, neighbour);
        }
    }

    fn set_neighbour(&mut self, key: Key, neighbour: Neighbour) {
        let before = self.neighbours.insert(key, neighbour).and_then(|n| n.mac);
        if before == neighbour.mac {
            return;
        }
        let (port, address) = key;
        match (neighbour.mac, self.interfaces.iter().find(|i| i.port == port)) {
            (Some(destination), Some(interface)) => {
                self.network.set_neighbour(address, Adjacency::new(port, interface.mac, destination));
            }
            _ => self.network.clear_neighbour(port, address),
        }
        self.changed = true;
    }

    fn clear_neighbour(&mut self, key: Key) {
        if self.neighbours.remove(&key).is_some_and(|n| n.mac.is_some()) {
            self.network.clear_neighbour(key.0, key.1);
            self.changed = true;
        }
    }

    /// Takes in all of Linux's routes. Those of the configuration file stand above them.
    pub fn set_routes(&mut self, candidates: &[Candidate]) {
        let routes = routes::select(candidates, &self.indexes);
        if routes == self.routes {
            return;
        }
        let fixed = self.fixed.routes().map(|(prefix, hop)| (prefix, Way::Out(hop)));
        self.network.set_routes(routes.iter().map(|(prefix, way)| (*prefix, *way)).chain(fixed));
        self.routes = routes;
        self.changed = true;
        self.ways_changed = true;
    }

    /// Takes in which addresses Linux has, and which of them its routes prefer.
    pub fn set_sources(&mut self, candidates: &[Candidate], addresses: &[Address]) {
        let local = |address: &Address| LocalAddress {
            port: self.indexes.port(address.index),
            network: address.network,
        };
        let preferred = routes::sources(candidates).into_iter().chain(self.fixed.sources());
        let sources = Sources::new(preferred, addresses.iter().map(local));
        if sources != self.sources {
            self.network.set_sources(sources.clone());
            self.sources = sources;
            self.changed = true;
        }
    }

    /// The index of the interface to ask on; `None` if the port has none now, or no host has such an address.
    pub fn can_be_asked(&self, (port, address): Key) -> Option<u32> {
        let host = !address.is_unspecified()
            && !address.is_multicast()
            && !address.is_loopback()
            && address != IpAddr::from([255; 4]);
        self.index(port).filter(|_| host)
    }
}

#[cfg(test)]
mod tests;
