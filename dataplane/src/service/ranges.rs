//! Services for more than one address or port, and which of them a flow is for.
//!
//! The one of the longest prefix; of these, the one of the fewest ports; of these, the one whose first port is lower. Every port
//! of a network has one answer, which is laid out when the services are published.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::Service;
use crate::packet::protocol;
use crate::parse::AnyFlow;

/// The key of a service for a network's addresses, and ports from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RangeKey {
    /// IP protocol number.
    pub protocol: u8,
    /// Virtual addresses.
    pub network: IpNet,
    /// The lowest virtual port, and the highest; 0 and 65535 for every port.
    pub ports: (u16, u16),
}

impl RangeKey {
    fn has(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    fn width(&self) -> u16 {
        self.ports.1 - self.ports.0
    }

    /// The key of the persistence template that connections of the network `client` to any address and port of the range share.
    pub(crate) fn template(&self, client: IpAddr) -> AnyFlow {
        let (first, last) = self.ports;
        AnyFlow::template(self.protocol, client, (self.network.addr(), first))
            .of_range(self.network.prefix_len(), last)
    }
}

/// The ports of one protocol of one network, from `first` up to the next piece's.
#[derive(Debug)]
struct Piece {
    first: u16,
    service: Option<(RangeKey, Arc<Service>)>,
}

type Pieces = [Vec<Piece>; 3];

/// All such services at one moment.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    v4: PrefixMap<Ipv4Net, Pieces>,
    v6: PrefixMap<Ipv6Net, Pieces>,
}

/// The place of a protocol's pieces.
fn place(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(0),
        protocol::UDP => Some(1),
        protocol::SCTP => Some(2),
        _ => None,
    }
}

impl Ranges {
    /// Of these services, whose keys differ.
    pub(super) fn new(services: impl IntoIterator<Item = (RangeKey, Arc<Service>)>) -> Self {
        let mut services: Vec<_> = services.into_iter().collect();
        let mut ranges = Self::default();
        let order = |key: &RangeKey| (key.network, key.protocol, key.width(), key.ports.0);
        services.sort_by_key(|(key, _)| order(key));
        for group in services.chunk_by(|(a, _), (b, _)| (a.network, a.protocol) == (b.network, b.protocol)) {
            let Some(((key, _), place)) = group.first().zip(place(group[0].0.protocol)) else { continue };
            let pieces = match key.network {
                IpNet::V4(network) => ranges.v4.entry(network).or_default(),
                IpNet::V6(network) => ranges.v6.entry(network).or_default(),
            };
            pieces[place] = lay_out(group);
        }
        ranges
    }

    /// True where there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The service for packets to this address and port.
    pub(super) fn find(
        &self,
        protocol: u8,
        (address, port): (IpAddr, u16),
    ) -> Option<(&RangeKey, &Arc<Service>)> {
        let place = place(protocol)?;
        // From the shortest prefix to the longest.
        match address {
            IpAddr::V4(address) => longest(self.v4.cover(&Ipv4Net::from(address)), place, port),
            IpAddr::V6(address) => longest(self.v6.cover(&Ipv6Net::from(address)), place, port),
        }
    }

    /// True for an address that some service has.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).is_some(),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).is_some(),
        }
    }
}

/// The service for this port in the last of these networks that has one.
fn longest<'r, N>(
    networks: impl Iterator<Item = (N, &'r Pieces)>,
    place: usize,
    port: u16,
) -> Option<(&'r RangeKey, &'r Arc<Service>)> {
    networks.filter_map(|(_, pieces)| at(&pieces[place], port)).last()
}

fn at(pieces: &[Piece], port: u16) -> Option<(&RangeKey, &Arc<Service>)> {
    let after = pieces.partition_point(|piece| piece.first <= port);
    let (key, service) = pieces.get(after.checked_sub(1)?)?.service.as_ref()?;
    Some((key, service))
}

/// Which of these services, of one network and protocol and those of the fewest ports first, has which ports.
fn lay_out(services: &[(RangeKey, Arc<Service>)]) -> Vec<Piece> {
    let ends = services.iter().flat_map(|(key, _)| [Some(key.ports.0), key.ports.1.checked_add(1)]);
    let mut firsts: Vec<u16> = ends.flatten().collect();
    firsts.sort_unstable();
    firsts.dedup();
    let mut pieces: Vec<_> = firsts.into_iter().map(|first| Piece { first, service: None }).collect();
    // Those of the most ports first, so that the others take their places.
    for (key, service) in services.iter().rev() {
        let start = pieces.partition_point(|piece| piece.first < key.ports.0);
        for piece in pieces[start..].iter_mut().take_while(|piece| key.has(piece.first)) {
            piece.service = Some((*key, service.clone()));
        }
    }
    pieces
}

#[cfg(test)]
mod tests;
