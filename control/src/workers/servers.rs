//! What workers are told of real servers besides where services may send packets.

use dataplane::service::Masqueraded;

use crate::model::{ForwardingMethod, Protocol};
use crate::table::ServiceTable;

/// The servers by NAT of all services.
pub(super) fn masqueraded(table: &ServiceTable) -> Masqueraded {
    Masqueraded::new(table.services().flat_map(|service| {
        let protocol = service.spec().service.protocol().map_or(0, Protocol::number);
        let servers = table.destinations(service).map(|destination| destination.spec());
        let by_nat = servers.filter(|spec| spec.method == ForwardingMethod::Masquerade);
        by_nat.map(move |spec| (protocol, spec.address, spec.port))
    }))
}
