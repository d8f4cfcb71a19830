//! Which of Linux's routes counts for each prefix.
//!
//! Linux's rules for its own lookup are followed: the table `local`, as far as it says which addresses are the host's own, then
//! `main`, then (IPv4 only) `default`; the lowest metric of those that are alive. What cannot be followed hides shorter prefixes all the same, so that no packet takes a way
//! that Linux would not have taken.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::network::{NextHop, Way};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};

use super::Indexes;

const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// Routes by prefix, ready for [`Network::set_routes`](dataplane::network::Network::set_routes).
pub(super) type Routes = BTreeMap<IpNet, Way>;

/// A route that Linux could choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    prefix: IpNet,
    table: Table,
    /// Lower wins.
    metric: u32,
    /// The interface and the gateway; `None` where packets are Linux's own, end (blackhole) or need what workers do not do.
    way: Option<(u32, Option<IpAddr>)>,
    /// The address that Linux sends from by this route (`src`), where it says.
    source: Option<IpAddr>,
}

/// Linux's tables, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    /// The host's own addresses.
    Local,
    Main,
    Default,
}

impl Candidate {
    /// `None` for what Linux would pass over, and for what is none of a worker's business.
    pub fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.source_prefix_length != 0 || header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let ends = match header.kind {
            RouteType::Unicast => false,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Local => true,
            _ => return None,
        };
        let (mut table, mut metric, mut destination) = (u32::from(header.table), 0, None);
        let (mut hops, mut encapsulated, mut source) = (None, false, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(t) => table = *t,
                RouteAttribute::Priority(m) => metric = *m,
                RouteAttribute::Destination(RouteAddress::Inet(a)) => destination = Some(IpAddr::V4(*a)),
                RouteAttribute::Destination(RouteAddress::Inet6(a)) => destination = Some(IpAddr::V6(*a)),
                RouteAttribute::PrefSource(RouteAddress::Inet(a)) => source = Some(IpAddr::V4(*a)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(a)) => source = Some(IpAddr::V6(*a)),
                RouteAttribute::MultiPath(list) => hops = Some(list),
                RouteAttribute::EncapType(_) => encapsulated = true,
                _ => {}
            }
        }
        let length = header.destination_prefix_length;
        let prefix: IpNet = match (header.address_family, destination) {
            (AddressFamily::Inet, None) => Ipv4Net::new([0; 4].into(), length).ok()?.into(),
            (AddressFamily::Inet6, None) => Ipv6Net::new([0; 16].into(), length).ok()?.into(),
            (_, Some(address)) => IpNet::new(address, length).ok()?,
            _ => return None,
        };
        // Every interface has its own; none of them can count for all.
        if matches!(prefix, IpNet::V6(p) if p.addr().is_unicast_link_local()) {
            return None;
        }
        let table = match (table, prefix, header.kind) {
            (TABLE_LOCAL, _, RouteType::Local) => Table::Local,
            (_, _, RouteType::Local) => return None,
            (TABLE_MAIN, ..) => Table::Main,
            (TABLE_DEFAULT, IpNet::V4(_), _) => Table::Default,
            _ => return None,
        };
        let way = if ends {
            None
        } else if let Some(hops) = hops {
            let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
            let hop = hops.iter().find(|h| !h.flags.intersects(dead))?;
            let plain = !hop.attributes.iter().any(|a| matches!(a, RouteAttribute::EncapType(_)));
            plain.then(|| (hop.interface_index, gateway(&hop.attributes)))
        } else if header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown) {
            return None;
        } else {
            let out = message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            out.filter(|_| !encapsulated).map(|index| (index, gateway(&message.attributes)))
        };
        Some(Self { prefix, table, metric, way, source })
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(a)) | RouteAttribute::Via(RouteVia::Inet(a)) => {
            Some(IpAddr::V4(*a))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(a)) | RouteAttribute::Via(RouteVia::Inet6(a)) => {
            Some(IpAddr::V6(*a))
        }
        _ => None,
    })
}

/// The route that counts for each prefix.
pub(super) fn select(candidates: &[Candidate], indexes: &Indexes) -> Routes {
    let hop = |candidate: &Candidate| {
        let (index, gateway) = candidate.way?;
        Some(NextHop { port: indexes.port(index)?, gateway })
    };
    let way = |candidate: &Candidate| match candidate.table {
        Table::Local => Way::Local,
        Table::Main | Table::Default => hop(candidate).into(),
    };
    chosen(candidates).map(|(prefix, candidate)| (prefix, way(candidate))).collect()
}

/// The source addresses that these routes say to send from, by their prefixes.
pub(super) fn sources(candidates: &[Candidate]) -> BTreeMap<IpNet, IpAddr> {
    chosen(candidates).filter_map(|(prefix, candidate)| Some((prefix, candidate.source?))).collect()
}

/// Of equal ones the first in Linux's order counts.
fn chosen(candidates: &[Candidate]) -> impl Iterator<Item = (IpNet, &Candidate)> {
    let best = |table| {
        let mut best: BTreeMap<IpNet, &Candidate> = BTreeMap::new();
        for candidate in candidates.iter().filter(|candidate| candidate.table == table) {
            let known = best.entry(candidate.prefix).or_insert(candidate);
            if candidate.metric < known.metric {
                *known = candidate;
            }
        }
        best
    };
    let mut chosen = best(Table::Local);
    // A table is asked only where nothing at all in those before it has matched, however short.
    for table in [Table::Main, Table::Default] {
        let mut next = best(table);
        next.retain(|prefix, _| {
            let around = std::iter::successors(Some(*prefix), IpNet::supernet);
            !around.into_iter().any(|around| chosen.contains_key(&around))
        });
        chosen.extend(next);
    }
    chosen.into_iter()
}

#[cfg(test)]
mod tests;
