//! The SNAT rules of the table. Each has a place in the dataplane's slab of counters, as a destination has, and keeps it while there are
//! connections of its: these go on when it is deleted, as netfilter's do.

use imbl::Vector;

use super::{Counts, DestinationId, ServiceTable};
use crate::model::Stats;
use crate::refusal::Refusal;
use crate::snat::{SnatEntry, SnatRule};

/// A rule in the table.
#[derive(Clone, Debug)]
pub struct Snat {
    id: DestinationId,
    rule: SnatRule,
    /// What the id had counted when the rule was added.
    bound: Stats,
}

impl Snat {
    /// Its place in the dataplane's slab of counters.
    pub fn id(&self) -> DestinationId {
        self.id
    }

    /// What was configured.
    pub fn rule(&self) -> &SnatRule {
        &self.rule
    }
}

/// The dataplane counts what the one sends that opens a connection as `in`. Here that is a server, and what servers send is `out`.
fn seen_from_servers(stats: Stats) -> Stats {
    let Stats { connections, in_packets, out_packets, in_bytes, out_bytes } = stats;
    Stats {
        connections,
        in_packets: out_packets,
        out_packets: in_packets,
        in_bytes: out_bytes,
        out_bytes: in_bytes,
    }
}

impl ServiceTable {
    /// The SNAT rules, in the order in which they are asked.
    pub fn snat(&self) -> &Vector<Snat> {
        &self.snat
    }

    /// The same with what they have counted.
    pub fn snat_entries(&self, counts: Counts<'_>) -> Vec<SnatEntry> {
        let entry = |snat: &Snat| {
            let counted = counts(snat.id);
            SnatEntry {
                rule: snat.rule.clone(),
                active: counted.active,
                inactive: counted.inactive,
                stats: seen_from_servers(counted.stats.since(snat.bound)),
            }
        };
        self.snat.iter().map(entry).collect()
    }

    pub(super) fn check_snat(&self, rule: &SnatRule, position: Option<u32>) -> Result<(), Refusal> {
        rule.check()?;
        if self.snat.iter().any(|snat| snat.rule == *rule) {
            return Err(Refusal::SnatExists);
        }
        if position.is_some_and(|position| position == 0 || position as usize > self.snat.len() + 1) {
            return Err(Refusal::BadSnat(
                "a position is that of a rule there is, from 1, or behind the last one",
            ));
        }
        let is_back = self.snat_trash.iter().any(|snat| snat.rule == *rule);
        if is_back || self.has_free_id() { Ok(()) } else { Err(Refusal::NoMemory) }
    }

    pub(super) fn add_snat(&mut self, rule: &SnatRule, position: Option<u32>, counts: Counts<'_>) {
        let back = self.snat_trash.iter().position(|snat| snat.rule == *rule);
        let snat = back.map(|place| self.snat_trash.remove(place)).unwrap_or_else(|| {
            let id = self.take_id();
            Snat { id, rule: rule.clone(), bound: counts(id).stats }
        });
        let last = self.snat.len();
        self.snat.insert(position.map_or(last, |position| (position as usize - 1).min(last)), snat);
    }

    pub(super) fn delete_snat(&mut self, rule: &SnatRule) {
        if let Some(place) = self.snat.iter().position(|snat| snat.rule == *rule) {
            self.snat_trash.push_back(self.snat.remove(place));
        }
    }

    pub(super) fn clear_snat(&mut self) {
        self.snat_trash.append(std::mem::take(&mut self.snat));
    }

    /// Frees the ids of deleted rules that have no connection left.
    pub(super) fn expire_snat(&mut self, counts: Counts<'_>) {
        let idle: Vec<_> = self.snat_trash.iter().map(Snat::id).filter(|id| counts(*id).is_idle()).collect();
        self.snat_trash.retain(|snat| !idle.contains(&snat.id));
        self.free_destinations.extend(idle);
    }
}
