//! Services and destinations as workers see them, made of those that control keeps.

use std::net::Ipv6Addr;
use std::sync::Arc;

use dataplane::clamp::Clamps;
use dataplane::conn::{self, Method};
use dataplane::forward::tunnel::{GueChecksum, Kind};
use dataplane::network::Network;
use dataplane::schedule::Scheduler;
use dataplane::service::{self, Destination, RangeKey, Service, ServiceKey};
use dataplane::time::TICKS_PER_SECOND;
use dataplane::tunnels::{Tunnel, Tunnels};

use crate::model::{
    Announce, DestinationSpec, Encapsulation, Family, ForwardingMethod, Granularity, Mss, Persistence,
    TunnelChecksum, VirtualRange, VirtualService,
};
use crate::table;

/// How servers by FULLNAT are told who their client is, as workers have it.
pub(super) fn announce(announce: Announce) -> conn::Announce {
    match announce {
        Announce::Toa => conn::Announce::Toa,
        Announce::ProxyV1 => conn::Announce::ProxyV1,
        Announce::ProxyV2 => conn::Announce::ProxyV2,
    }
}

/// A destination that workers see, and what only control knows of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PublishedDestination {
    pub(super) destination: Destination,
    pub(super) edits: u32,
    /// Upper and lower threshold.
    pub(super) thresholds: (u32, u32),
    /// How packets travel to it by tunnel. Also of one that is reached otherwise now: its connections from before go on as they
    /// began, by what the new options say.
    pub(super) tunnel: Option<Kind>,
}

impl PublishedDestination {
    /// The destination as workers see it, which saw it as `old` until now.
    pub(super) fn new(from: &table::Destination, old: Option<&Self>) -> Self {
        let destination = destination(from);
        let thresholds = (from.spec().upper_threshold, from.spec().lower_threshold);
        let was_tunnel = old.is_some_and(|old| old.tunnel.is_some());
        let tunnel = (was_tunnel || destination.method == Method::Tunnel).then(|| kind(from.spec()));
        Self { destination, edits: from.edits(), thresholds, tunnel }
    }

    /// What it is known by as long as it is the same one: its number may be another's later.
    pub(super) fn identity(&self) -> (u32, u32) {
        (self.destination.id, self.destination.sequence)
    }
}

/// A service that workers see, as long as it is the same one.
pub(super) struct Published {
    pub(super) key: VirtualService,
    pub(super) incarnation: u64,
    pub(super) revision: u64,
    pub(super) scheduler_name: String,
    pub(super) scheduler: Arc<dyn Scheduler>,
    /// The one added last first.
    pub(super) destinations: Vec<PublishedDestination>,
    pub(super) service: Arc<Service>,
    /// What its connections may announce.
    pub(super) mss: Option<Mss>,
}

/// The key by which workers find a service; `None` for one by mark.
pub(super) fn service_key(service: &VirtualService) -> Option<ServiceKey> {
    match *service {
        VirtualService::Address { protocol, address, port } => {
            Some(ServiceKey { protocol: protocol.number(), address, port })
        }
        VirtualService::Mark { .. } | VirtualService::Range(_) => None,
    }
}

/// The range by which workers find a service; `None` for one that has none.
pub(super) fn range_key(service: &VirtualService) -> Option<RangeKey> {
    match *service {
        VirtualService::Range(VirtualRange { protocol, network, ports }) => {
            let ports = if ports.last() == 0 { (0, u16::MAX) } else { (ports.first(), ports.last()) };
            Some(RangeKey { protocol: protocol.number(), network, ports })
        }
        _ => None,
    }
}

/// The mark by which workers find a service, and for packets of which family; `None` for one that has none.
pub(super) fn mark(service: &VirtualService) -> Option<(service::Family, u32)> {
    match *service {
        VirtualService::Mark { mark, family: Family::Ipv4 } => Some((service::Family::V4, mark)),
        VirtualService::Mark { mark, family: Family::Ipv6 } => Some((service::Family::V6, mark)),
        VirtualService::Address { .. } | VirtualService::Range(_) => None,
    }
}

pub(super) fn persistence(spec: Persistence) -> service::Persistence {
    let mask = match spec.granularity {
        Granularity::Mask(mask) => mask.into(),
        Granularity::Prefix(length) => {
            let ones = u32::from(length.min(128));
            let mask = u128::MAX.checked_shl(128 - ones).unwrap_or(0);
            Ipv6Addr::from(mask).into()
        }
    };
    service::Persistence { ticks: spec.timeout_seconds.saturating_mul(TICKS_PER_SECOND), mask }
}

fn destination(destination: &table::Destination) -> Destination {
    let spec: &DestinationSpec = destination.spec();
    Destination {
        id: destination.id().0,
        // Workers keep 0 for "before all".
        sequence: destination.sequence().saturating_add(1),
        address: spec.address,
        port: spec.port,
        weight: spec.weight,
        last_weight: destination.last_weight(),
        method: match spec.method {
            ForwardingMethod::Masquerade => Method::Nat,
            ForwardingMethod::DirectRouting => Method::DirectRouting,
            ForwardingMethod::Tunnel => Method::Tunnel,
            ForwardingMethod::FullNat => Method::FullNat,
            ForwardingMethod::Local => Method::Local,
        },
    }
}

/// How packets travel to a destination behind a tunnel.
fn kind(spec: &DestinationSpec) -> Kind {
    let tunnel = &spec.tunnel;
    match tunnel.encapsulation {
        Encapsulation::Ipip => Kind::IpIp,
        // GRE has no such thing as remote checksum offload; the command line refuses it.
        Encapsulation::Gre => Kind::Gre { checksum: tunnel.checksum != TunnelChecksum::None },
        Encapsulation::Gue => Kind::Gue {
            port: tunnel.port,
            checksum: match tunnel.checksum {
                TunnelChecksum::None => GueChecksum::None,
                TunnelChecksum::Full => GueChecksum::Full,
                TunnelChecksum::Remote => GueChecksum::Remote,
            },
        },
    }
}

/// The tunnels to all destinations of these services that are or were reached by one.
pub(super) fn tunnels<'a>(services: impl Iterator<Item = &'a Published>, network: &Network) -> Tunnels {
    Tunnels::new(services.flat_map(|service| &service.destinations).filter_map(|published| {
        let Destination { id, address, .. } = published.destination;
        Some((id, Tunnel::new(published.tunnel?, address, network)))
    }))
}

/// What connections to destinations of these services may announce, where they are held to anything.
pub(super) fn clamps<'a>(services: impl Iterator<Item = &'a Published>) -> Clamps {
    let held = services.filter_map(|service| Some((service, service.mss?)));
    Clamps::new(held.flat_map(|(service, mss)| {
        service.destinations.iter().map(move |published| (published.destination.id, mss.into()))
    }))
}
