//! Which tunnel leads to which destination: what a worker finds by the destination's number, prepared by control and part of
//! every snapshot.

use std::net::IpAddr;

use crate::counters::Drop;
use crate::forward::tunnel::{Encapsulation, Kind, MixedFamilies};
use crate::network::{Network, PortId};

/// The way to one destination.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// What is put in front of a packet.
    pub encapsulation: Encapsulation,
    /// The outer destination: the real server.
    pub to: IpAddr,
    /// The port that the route leaves by.
    pub port: PortId,
}

impl Tunnel {
    /// The tunnel to the real server `to` in this network. A tunnel is not made anew for each packet, so it has to be when the
    /// routes or the host's addresses change.
    ///
    /// # Errors
    /// For what reason packets to this server are dropped: no route leads there, or there is no address to send from.
    pub fn new(kind: Kind, to: IpAddr, network: &Network) -> Result<Self, Drop> {
        let port = network.route(to).ok_or(Drop::NoRoute)?.port;
        let from = network.source(to).ok_or(Drop::NoSourceAddress)?;
        let encapsulation =
            Encapsulation::new(kind, from, to).map_err(|_: MixedFamilies| Drop::NoSourceAddress)?;
        Ok(Self { encapsulation, to, port })
    }
}

/// All tunnels, by the numbers of their destinations.
#[derive(Clone, Debug, Default)]
pub struct Tunnels(Vec<Result<Tunnel, Drop>>);

impl Tunnels {
    /// The tunnels to these destinations. Others have none.
    pub fn new(tunnels: impl IntoIterator<Item = (u32, Result<Tunnel, Drop>)>) -> Self {
        let mut all = Vec::new();
        for (destination, tunnel) in tunnels {
            let place = destination as usize;
            if place >= all.len() {
                all.resize(place + 1, Err(Drop::DestinationGone));
            }
            all[place] = tunnel;
        }
        Self(all)
    }

    /// True where no destination has a tunnel.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tunnel to a destination, or why its packets are dropped.
    #[inline]
    pub fn of(&self, destination: u32) -> Result<&Tunnel, Drop> {
        match self.0.get(destination as usize) {
            Some(tunnel) => tunnel.as_ref().map_err(|reason| *reason),
            None => Err(Drop::DestinationGone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{LocalAddress, NextHop, Sources};

    fn network() -> Network {
        let mut network = Network::default();
        let hop = NextHop { port: PortId(1), gateway: None };
        network.set_routes([
            ("192.0.2.0/24".parse().unwrap(), Some(hop)),
            ("2001:db8::/32".parse().unwrap(), Some(hop)),
        ]);
        let network_of = |text: &str| LocalAddress { port: Some(PortId(1)), network: text.parse().unwrap() };
        network.set_sources(Sources::new([], [network_of("192.0.2.1/24")]));
        network
    }

    #[test]
    fn a_destination_has_its_tunnel_or_a_reason() {
        let tunnel = |to: &str| Tunnel::new(Kind::IpIp, to.parse().unwrap(), &network());
        let tunnels =
            Tunnels::new([(7, tunnel("192.0.2.9")), (2, tunnel("10.0.0.1")), (3, tunnel("2001:db8::9"))]);
        let reasons = |n| tunnels.of(n).map(|tunnel| tunnel.to).map_err(Drop::name);
        assert_eq!(reasons(7), Ok([192, 0, 2, 9].into()));
        assert_eq!(reasons(2), Err("no_route"));
        assert_eq!(reasons(3), Err("no_source_address"));
        for without in [0, 5, 8, u32::MAX] {
            assert_eq!(reasons(without), Err("destination_gone"));
        }
    }
}
