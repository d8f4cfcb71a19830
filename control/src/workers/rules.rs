//! Marking rules and SNAT rules as workers have them, made of those that control keeps.

use dataplane::mark::Rule;
use dataplane::network::PortId;
use dataplane::snat;

use crate::running::PortInfo;
use crate::snat::SnatRule;
use crate::table::{DestinationId, ServiceTable, Snat};

/// Finds director's ports by name; asks for them where they are wanted only.
fn finder(is_wanted: bool, ports: impl FnOnce() -> Vec<PortInfo>) -> impl Fn(&str) -> Option<PortId> {
    let ports = if is_wanted { ports() } else { Vec::new() };
    move |name| ports.iter().position(|port| port.name == name).map(|n| PortId(n as u16))
}

/// The marking rules.
pub(super) fn marks(table: &ServiceTable, ports: impl FnOnce() -> Vec<PortInfo>) -> Vec<Rule> {
    let port = finder(table.marks().iter().any(|rule| rule.in_port.is_some()), ports);
    table.marks().iter().filter_map(|rule| rule.for_workers(&port)).collect()
}

/// The SNAT rules.
pub(super) fn snat(table: &ServiceTable, ports: impl FnOnce() -> Vec<PortInfo>) -> snat::Rules {
    let port = finder(table.snat().iter().any(|snat| snat.rule().out_port.is_some()), ports);
    let rule = |snat: &Snat| snat.rule().for_workers(snat.id().0, &port);
    snat::Rules::new(table.snat().iter().filter_map(rule))
}

/// Whether these are the SNAT rules of the table.
pub(super) fn is_same(table: &ServiceTable, known: &[(DestinationId, SnatRule)]) -> bool {
    let rules = table.snat().iter().map(|snat| (snat.id(), snat.rule()));
    rules.eq(known.iter().map(|(id, rule)| (*id, rule)))
}
