//! Persistence: where a new connection goes of a client that has others, or had some a while ago (the kernel's
//! ip_vs_sched_persist).

use crate::conn::{Connections, Index, NewConnection, Note, OpenError, State};
use crate::counters::Drop;
use crate::destination::Destinations;
use crate::parse::AnyFlow;
use crate::schedule::Arrival;
use crate::service::{Destination, FTP, Match, Persistence, Wide};
use crate::sysctl::Sysctls;

/// How often a template is looked for that other workers keep ending or opening.
const ATTEMPTS: usize = 8;

/// The template for the connection that `arrival` opens, there already or new, adopted for it; and where it leads.
pub(super) fn template<'s>(
    found: Match<'s>,
    arrival: Arrival<'_>,
    destinations: &Destinations,
    connections: &mut Connections,
    sysctls: &Sysctls,
) -> Result<(&'s Destination, Index), Drop> {
    let Match { service, .. } = found;
    let Some(persistence) = service.persistence() else { return Err(Drop::NoDestination) };
    let key = key(found, persistence, arrival.flow);
    let (key, note) = match service.engine() {
        None => (key, None),
        Some(engine) => {
            let data = engine.data(arrival.datagram).ok_or(Drop::NoCallId)?;
            let client = persistence.network(arrival.flow.source().0);
            (connections.table().engine_key(key, data), Some(Note::new(client, data)))
        }
    };
    let one_packet = service.has_one_packet();
    let mut chosen = None;
    for _ in 0..ATTEMPTS {
        if let Some(template) = connections.find_template(key) {
            let destination = connections.entry(template).destination();
            let known = service.destinations().iter().find(|known| known.id == destination);
            match known.filter(|known| known.weight > 0 || !sysctls.expire_quiescent_template) {
                Some(known) if connections.adopt(template, arrival.now) => return Ok((known, template)),
                Some(_) if !connections.entry(template).life().is_invalid() => continue,
                _ => connections.invalidate(template),
            }
        }
        let destination = match chosen {
            Some(destination) => destination,
            None => {
                service.scheduler().schedule(service, destinations, arrival).ok_or(Drop::NoDestination)?
            }
        };
        chosen = Some(destination);
        // A template for every port leads to no certain one.
        let port = if key.destination().1 == 0 { 0 } else { destination.port };
        let new = NewConnection {
            flow: key,
            server: (destination.address, port),
            method: destination.method,
            destination: destination.id,
            state: State::None,
        };
        destinations.template_opening(destination.id);
        match connections.open_template(&new, (persistence.ticks, one_packet), note.as_ref(), arrival.now) {
            Ok(template) => return Ok((destination, template)),
            Err(refused) => {
                destinations.template_ended(destination.id);
                // Another worker may have opened it.
                if !matches!(refused, OpenError::Exists(_)) {
                    return Err(refused.into());
                }
            }
        }
    }
    Err(Drop::TableFull)
}

/// The template's key. A mark's is of no protocol and of the mark in the address's place, a range's of the range. Else it is of the
/// service's own port where that is one port. FTP's is one for all ports, since clients open connections to others, too.
fn key(found: Match<'_>, persistence: Persistence, flow: AnyFlow) -> AnyFlow {
    let (address, port) = flow.destination();
    let client = persistence.network(flow.source().0);
    match found.wide {
        Some(Wide::Mark(mark)) => return AnyFlow::mark_template(client, mark),
        Some(Wide::Range(range)) => return range.template(client),
        None => {}
    }
    let port = if port == found.port && port != FTP { port } else { 0 };
    AnyFlow::template(flow.protocol(), client, (address, port))
}
