//! The service table: the owner of the configuration.
//!
//! Pure and deterministic: the same changes at the same times give the same table, ids included. It knows IPVS's
//! rules for what may be changed and for what happens to a deleted destination; it must never read a clock, talk
//! to the dataplane or print.
//!
//! A destination has a [`DestinationId`], its place in the dataplane's fixed slab of counters, and so has a SNAT rule. Those counters are
//! never reset; the table remembers where each owner started from. A deleted destination keeps its id in the
//! trash while connections may still count on it.
//!
//! A table is cloned for every change, so that one that fails leaves nothing behind. Its collections are persistent
//! ones: clones share what has not changed, and a change costs no more in a large table than in a small one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use imbl::{HashMap, Vector};

use crate::local::LocalAddresses;
use crate::mark::MarkRule;
use crate::model::{
    Change, DestinationSpec, Rates, ServiceSpec, Stats, SyncDaemon, Timeouts, VirtualService,
};
use crate::rates::Estimator;
use crate::refusal::Refusal;
use crate::running::DestinationCounts;
use crate::sysctl;

mod check;
mod daemons;
mod snat;

pub use snat::Snat;

/// How long a destination in the trash must have been without connections before its id is given to another
/// (`IP_VS_DEST_TRASH_PERIOD`).
pub const TRASH_PERIOD: Duration = Duration::from_secs(120);

/// A service's place in the table. Small, and given to another service after this one is deleted; see
/// [`Service::incarnation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// A destination's place in the dataplane's slab of counters, or a SNAT rule's. Belongs to one from the moment it is
/// added until it leaves the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationId(pub u32);

/// How the table learns what the dataplane has counted.
pub type Counts<'a> = &'a dyn Fn(DestinationId) -> DestinationCounts;

/// How the table learns of Linux's network interfaces: the MTU in bytes of the one of that name, if there is one.
pub type Interfaces<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// A virtual service in the table.
#[derive(Clone, Debug)]
pub struct Service {
    id: ServiceId,
    incarnation: u64,
    revision: u64,
    spec: ServiceSpec,
    destinations: Vec<DestinationId>,
    trashed: Vec<DestinationId>,
    next_sequence: u32,
    /// What destinations that are gone had counted for this service.
    folded: Stats,
    estimator: Estimator,
}

impl Service {
    /// Its place in the table.
    pub fn id(&self) -> ServiceId {
        self.id
    }

    /// A number no other service ever had: tells a service from an earlier one with its id.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// A number that changes whenever the service, its destinations or their attributes do, and that no other service
    /// ever had.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What was configured.
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// What its destinations, and those it used to have, had counted at the last sample, since it was last zeroed.
    pub fn stats(&self) -> Stats {
        self.estimator.stats()
    }

    /// Its rates.
    pub fn rates(&self) -> Rates {
        self.estimator.rates()
    }
}

/// A destination in the table.
#[derive(Clone, Debug)]
pub struct Destination {
    id: DestinationId,
    sequence: u32,
    spec: DestinationSpec,
    last_weight: u32,
    edits: u32,
    service: ServiceId,
    incarnation: u64,
    key: VirtualService,
    /// What the id had counted when the destination was bound to its service.
    bound: Stats,
    estimator: Estimator,
    trashed: bool,
    idle_since: Option<Instant>,
}

impl Destination {
    /// Its place in the dataplane's slab of counters.
    pub fn id(&self) -> DestinationId {
        self.id
    }

    /// Grows by one with each destination added to the service. The kernel puts a new destination at the head
    /// of its list, so schedulers visit destinations by descending sequence.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// What was configured.
    pub fn spec(&self) -> &DestinationSpec {
        &self.spec
    }

    /// The weight it had last that was not 0. A destination that is added starts anew with the weight it is given, be
    /// that 0.
    pub fn last_weight(&self) -> u32 {
        self.last_weight
    }

    /// How often it has been edited. An edit that changes nothing counts: schedulers are told of it, too.
    pub fn edits(&self) -> u32 {
        self.edits
    }

    /// What it had counted at the last sample, since it was last zeroed.
    pub fn stats(&self) -> Stats {
        self.estimator.stats()
    }

    /// Its rates.
    pub fn rates(&self) -> Rates {
        self.estimator.rates()
    }

    fn place(&self) -> (IpAddr, u16) {
        (self.spec.address, self.spec.port)
    }
}

/// Services, destinations, timeouts, sysctls and synchronisation daemons.
#[derive(Clone, Debug)]
pub struct ServiceTable {
    limit: u32,
    services: Vector<Option<Service>>,
    free_services: Vector<ServiceId>,
    by_key: HashMap<VirtualService, ServiceId>,
    destinations: Vector<Option<Destination>>,
    free_destinations: Vector<DestinationId>,
    live: HashMap<(ServiceId, IpAddr, u16), DestinationId>,
    trash: HashMap<(VirtualService, IpAddr, u16), DestinationId>,
    next_incarnation: u64,
    next_revision: u64,
    timeouts: Timeouts,
    sysctls: sysctl::Values,
    marks: Vector<MarkRule>,
    local_addresses: Vector<LocalAddresses>,
    snat: Vector<Snat>,
    /// Deleted rules that keep their ids while they have connections.
    snat_trash: Vector<Snat>,
    daemons: [Option<SyncDaemon>; 2],
}

impl ServiceTable {
    /// An empty table for at most `limit` destinations and SNAT rules, those in the trash included.
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            services: Vector::new(),
            free_services: Vector::new(),
            by_key: HashMap::new(),
            destinations: Vector::new(),
            free_destinations: Vector::new(),
            live: HashMap::new(),
            trash: HashMap::new(),
            next_incarnation: 0,
            next_revision: 0,
            timeouts: Timeouts::default(),
            sysctls: sysctl::Values::default(),
            marks: Vector::new(),
            local_addresses: Vector::new(),
            snat: Vector::new(),
            snat_trash: Vector::new(),
            daemons: [None, None],
        }
    }

    /// Every service, by id.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten()
    }

    /// The service `key` names.
    pub fn service(&self, key: &VirtualService) -> Option<&Service> {
        let id = self.by_key.get(key)?;
        self.services[id.0 as usize].as_ref()
    }

    /// The destinations of `service`, the one added last first: the order of the kernel's list.
    pub fn destinations<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Destination> {
        service.destinations.iter().rev().filter_map(|id| self.destination(*id))
    }

    /// The destination that has `id`, be it in the trash.
    pub fn destination(&self, id: DestinationId) -> Option<&Destination> {
        self.destinations.get(id.0 as usize)?.as_ref()
    }

    /// Destinations that were deleted and keep their id for now.
    pub fn trash(&self) -> impl Iterator<Item = &Destination> {
        self.trash.values().filter_map(|id| self.destination(*id))
    }

    /// The most destinations and SNAT rules there may be, those in the trash included.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The timeouts in force.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Shows in the modes of defence that are automatic whether memory is scarce, as the kernel does.
    pub fn follow_memory(&mut self, is_scarce: bool) {
        self.sysctls.follow_memory(is_scarce);
    }

    /// The sysctls in force.
    pub fn sysctls(&self) -> &sysctl::Values {
        &self.sysctls
    }

    /// The marking rules, in the order in which they are asked.
    pub fn marks(&self) -> &Vector<MarkRule> {
        &self.marks
    }

    /// The local addresses for FULLNAT, in the order in which they were added.
    pub fn local_addresses(&self) -> &Vector<LocalAddresses> {
        &self.local_addresses
    }

    /// The synchronisation daemons, master first, with every attribute filled in.
    pub fn daemons(&self) -> impl Iterator<Item = &SyncDaemon> {
        self.daemons.iter().flatten()
    }

    /// What has been counted for `service` until now.
    fn counted(&self, service: &Service, counts: Counts<'_>) -> Stats {
        let ids = service.destinations.iter().chain(&service.trashed);
        ids.filter_map(|id| self.destination(*id))
            .fold(service.folded, |sum, d| sum.plus(counts(d.id).stats.since(d.bound)))
    }

    fn find(&self, service: ServiceId, address: IpAddr, port: u16) -> Result<DestinationId, Refusal> {
        self.live.get(&(service, address, port)).copied().ok_or(Refusal::NoSuchDestination)
    }

    /// Makes `change`, or refuses it and leaves everything as it was.
    pub fn apply(
        &mut self,
        change: &Change,
        counts: Counts<'_>,
        interfaces: Interfaces<'_>,
    ) -> Result<(), Refusal> {
        self.check(change, interfaces)?;
        match change {
            Change::AddService(spec) => self.add_service(spec),
            Change::EditService(spec) => {
                if let Some(service) = self.changing(&spec.service) {
                    service.spec = spec.clone();
                }
            }
            Change::DeleteService(key) => self.delete_service(key),
            Change::Clear => {
                let keys: Vec<_> = self.services().map(|s| s.spec.service).collect();
                keys.iter().for_each(|key| self.delete_service(key));
            }
            Change::AddDestination { service, destination } => {
                self.add_destination(service, destination, counts);
            }
            Change::EditDestination { service, destination } => {
                if let Some(owner) = self.changing(service).map(|s| s.id)
                    && let Ok(id) = self.find(owner, destination.address, destination.port)
                    && let Some(d) = &mut self.destinations[id.0 as usize]
                {
                    d.spec = *destination;
                    d.edits = d.edits.wrapping_add(1);
                    if destination.weight != 0 {
                        d.last_weight = destination.weight;
                    }
                }
            }
            Change::DeleteDestination { service, address, port } => {
                if let Some(owner) = self.service(service).map(|s| s.id)
                    && let Some(id) = self.live.remove(&(owner, *address, *port))
                {
                    self.put_in_trash(id);
                    if let Some(owner) = self.changing(service) {
                        owner.destinations.retain(|d| *d != id);
                        owner.trashed.push(id);
                    }
                }
            }
            Change::ZeroService(key) => self.zero(key),
            Change::ZeroAll => {
                let keys: Vec<_> = self.services().map(|s| s.spec.service).collect();
                keys.iter().for_each(|key| self.zero(key));
            }
            Change::SetTimeouts(new) => {
                let keep = |old: &mut u32, new| *old = if new == 0 { *old } else { new };
                keep(&mut self.timeouts.tcp, new.tcp);
                keep(&mut self.timeouts.tcp_fin, new.tcp_fin);
                keep(&mut self.timeouts.udp, new.udp);
            }
            Change::SetSysctl { name, value } => {
                // Checked before; what is refused there does not get here.
                let _ = self.sysctls.set(name, *value);
            }
            Change::AddMark(rule) => self.marks.push_back(rule.clone()),
            Change::DeleteMark(rule) => self.marks.retain(|known| known != rule),
            Change::ClearMarks => self.marks.clear(),
            Change::AddLocalAddresses(local) => self.local_addresses.push_back(local.clone()),
            Change::DeleteLocalAddresses(local) => self.local_addresses.retain(|known| known != local),
            Change::ClearLocalAddresses => self.local_addresses.clear(),
            Change::AddSnat { rule, position } => self.add_snat(rule, *position, counts),
            Change::DeleteSnat(rule) => self.delete_snat(rule),
            Change::ClearSnat => self.clear_snat(),
            Change::ResetSysctls => self.sysctls = sysctl::Values::default(),
            Change::StartDaemon(daemon) => {
                self.daemons[daemon.role as usize] = daemons::complete(daemon, interfaces);
            }
            Change::StopDaemon(role) => self.daemons[*role as usize] = None,
        }
        Ok(())
    }

    fn service_mut(&mut self, key: &VirtualService) -> Option<&mut Service> {
        let id = self.by_key.get(key)?;
        self.services[id.0 as usize].as_mut()
    }

    /// The service, which is about to change in a way that workers notice.
    fn changing(&mut self, key: &VirtualService) -> Option<&mut Service> {
        let revision = self.new_revision();
        let service = self.service_mut(key)?;
        service.revision = revision;
        Some(service)
    }

    fn new_revision(&mut self) -> u64 {
        self.next_revision += 1;
        self.next_revision
    }

    fn add_service(&mut self, spec: &ServiceSpec) {
        let revision = self.new_revision();
        let id = self.free_services.pop_front().unwrap_or_else(|| {
            self.services.push_back(None);
            ServiceId((self.services.len() - 1) as u32)
        });
        self.services[id.0 as usize] = Some(Service {
            id,
            incarnation: self.next_incarnation,
            revision,
            spec: spec.clone(),
            destinations: Vec::new(),
            trashed: Vec::new(),
            next_sequence: 0,
            folded: Stats::default(),
            estimator: Estimator::default(),
        });
        self.next_incarnation += 1;
        self.by_key.insert(spec.service, id);
    }

    fn delete_service(&mut self, key: &VirtualService) {
        let Some(id) = self.by_key.remove(key) else { return };
        let Some(service) = self.services[id.0 as usize].take() else { return };
        for d in service.destinations {
            if let Some((address, port)) = self.destination(d).map(Destination::place) {
                self.live.remove(&(id, address, port));
            }
            self.put_in_trash(d);
        }
        self.free_services.push_back(id);
    }

    fn put_in_trash(&mut self, id: DestinationId) {
        let Some(d) = &mut self.destinations[id.0 as usize] else { return };
        d.trashed = true;
        d.idle_since = None;
        let (address, port) = d.place();
        self.trash.insert((d.key, address, port), id);
    }

    fn add_destination(&mut self, key: &VirtualService, spec: &DestinationSpec, counts: Counts<'_>) {
        let Some(service) = self.changing(key) else { return };
        let (owner, incarnation, sequence) = (service.id, service.incarnation, service.next_sequence);
        service.next_sequence += 1;

        let back = self.trash.remove(&(*key, spec.address, spec.port));
        let id = back.unwrap_or_else(|| self.take_id());
        let counted = counts(id).stats;
        // A destination that comes back to the service it left goes on counting; one whose service was deleted
        // and made anew meanwhile starts from zero, as in the kernel.
        let old = self.destinations[id.0 as usize].take();
        let (bound, estimator) = match old {
            None => (counted, Estimator::new(counted)),
            Some(old) if old.incarnation == incarnation => (old.bound, old.estimator),
            Some(mut old) => {
                old.estimator.zero();
                (counted, old.estimator)
            }
        };
        self.destinations[id.0 as usize] = Some(Destination {
            id,
            sequence,
            spec: *spec,
            last_weight: spec.weight,
            edits: 0,
            service: owner,
            incarnation,
            key: *key,
            bound,
            estimator,
            trashed: false,
            idle_since: None,
        });
        self.live.insert((owner, spec.address, spec.port), id);
        if let Some(service) = self.service_mut(key) {
            service.trashed.retain(|d| *d != id);
            service.destinations.push(id);
        }
    }

    /// An id that is nobody's.
    fn take_id(&mut self) -> DestinationId {
        self.free_destinations.pop_front().unwrap_or_else(|| {
            self.destinations.push_back(None);
            DestinationId((self.destinations.len() - 1) as u32)
        })
    }

    /// Whether there is an id that is nobody's.
    fn has_free_id(&self) -> bool {
        !self.free_destinations.is_empty() || (self.destinations.len() as u64) < u64::from(self.limit)
    }

    fn zero(&mut self, key: &VirtualService) {
        let Some(service) = self.service_mut(key) else { return };
        service.estimator.zero();
        for id in service.destinations.clone() {
            if let Some(d) = &mut self.destinations[id.0 as usize] {
                d.estimator.zero();
            }
        }
    }

    /// Frees the ids of destinations in the trash that have had no connection for [`TRASH_PERIOD`], and those of deleted SNAT rules. To be
    /// called every few seconds. Returns how many of destinations were freed.
    pub fn expire(&mut self, now: Instant, counts: Counts<'_>) -> usize {
        self.expire_snat(counts);
        let mut gone = Vec::new();
        for id in self.trash.values() {
            let Some(d) = &mut self.destinations[id.0 as usize] else { continue };
            if !counts(*id).is_idle() {
                d.idle_since = None;
                continue;
            }
            let since = *d.idle_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= TRASH_PERIOD {
                gone.push(*id);
            }
        }
        gone.sort_unstable();
        gone.iter().for_each(|id| self.free(*id, counts));
        gone.len()
    }

    fn free(&mut self, id: DestinationId, counts: Counts<'_>) {
        let Some(d) = self.destinations[id.0 as usize].take() else { return };
        let (address, port) = d.place();
        self.trash.remove(&(d.key, address, port));
        self.free_destinations.push_back(id);
        if let Some(service) = &mut self.services[d.service.0 as usize]
            && service.incarnation == d.incarnation
        {
            service.trashed.retain(|t| *t != id);
            service.folded = service.folded.plus(counts(id).stats.since(d.bound));
        }
    }

    /// Takes a sample of all counters, for lists to show. To be called every [`crate::rates::SAMPLE_PERIOD`].
    pub fn sample(&mut self, counts: Counts<'_>) {
        let counted: Vec<_> = self.services().map(|s| (s.id, self.counted(s, counts))).collect();
        for (id, stats) in counted {
            if let Some(service) = &mut self.services[id.0 as usize] {
                service.estimator.sample(stats);
            }
        }
        for d in self.destinations.iter_mut().filter_map(Option::as_mut).filter(|d| !d.trashed) {
            d.estimator.sample(counts(d.id).stats);
        }
    }
}

#[cfg(test)]
mod tests;
