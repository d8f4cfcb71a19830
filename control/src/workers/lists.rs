//! What lists show of the workers.

use std::net::SocketAddr;

use dataplane::conn::{Method, View};
use dataplane::counters::{Drop, Totals};
use dataplane::network::{MacAddr, Network, PortId, Way};
use dataplane::packet::protocol;
use dataplane::time::TICKS_PER_SECOND;

use crate::model::{ENGINES, Protocol};
use crate::running::{
    ConnectionRow, EngineData, NamedCount, NeighbourInfo, NetworkInfo, PortInfo, RouteInfo, WorkerCounters,
};

pub(super) fn connection(view: View) -> ConnectionRow {
    ConnectionRow {
        protocol: match view.flow.protocol() {
            protocol::TCP => Some(Protocol::Tcp),
            protocol::UDP => Some(Protocol::Udp),
            protocol::SCTP => Some(Protocol::Sctp),
            _ => None,
        },
        state: view.state_name().to_owned(),
        expires: view.expires / TICKS_PER_SECOND,
        client: SocketAddr::from(view.flow.source()),
        virtual_address: SocketAddr::from(view.flow.destination()),
        destination: SocketAddr::from(view.server),
        local: view.local.map(SocketAddr::from),
        snat: view.method == Method::Snat,
        engine: view.note.map(|note| EngineData {
            name: ENGINES[0].to_owned(),
            data: String::from_utf8_lossy(&note.data).into_owned(),
        }),
    }
}

/// The counters of the worker on this core.
pub(super) fn counters(core: u32, totals: &Totals) -> WorkerCounters {
    let reasons = Drop::ALL.iter();
    let dropped =
        reasons.map(|reason| NamedCount { name: reason.name().into(), count: totals.dropped_for(*reason) });
    WorkerCounters {
        core,
        received: totals.received,
        forwarded: totals.forwarded,
        unreachable: totals.unreachable,
        fragmentation_needed: totals.fragmentation_needed,
        time_exceeded: totals.time_exceeded,
        fragments: totals.fragments,
        to_kernel: totals.to_kernel,
        from_kernel: totals.from_kernel,
        from_kernel_dropped: totals.from_kernel_dropped,
        dropped: dropped.filter(|d| d.count > 0).collect(),
    }
}

pub(super) fn network(network: &Network, ports: &[PortInfo]) -> NetworkInfo {
    let name = |port: PortId| {
        ports.get(usize::from(port.0)).map_or_else(|| port.0.to_string(), |port| port.name.clone())
    };
    let route = |(prefix, way): (_, Way)| RouteInfo {
        prefix,
        port: way.hop().map(|hop| name(hop.port)),
        gateway: way.hop().and_then(|hop| hop.gateway),
        local: way == Way::Local,
    };
    let mut neighbours: Vec<_> = network.neighbours().collect();
    neighbours.sort_unstable_by_key(|(port, address, _)| (*port, *address));
    let neighbour = |(port, address, mac): (_, _, Option<MacAddr>)| NeighbourInfo {
        address,
        port: name(port),
        mac: mac.map(|mac| mac.to_string()),
    };
    NetworkInfo {
        routes: network.routes().map(route).collect(),
        neighbours: neighbours.into_iter().map(neighbour).collect(),
    }
}
