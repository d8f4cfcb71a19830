//! The running workers as control sees them: takes the service table and Linux's network to them as snapshots, and asks
//! them what they have counted. Knows no DPDK; what the wires are is none of its business.

mod lists;
mod published;
mod replay;
mod rules;
mod servers;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::conn::{self, Method, Timeouts};
use dataplane::counters::WorkerCounters as Counters;
use dataplane::locals::Locals;
use dataplane::network::Network;
use dataplane::schedule::{self, Flags, TableSizes};
use dataplane::service::{Destination, Engine, Service, Services};
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::time::Tick;
use dataplane::worker::Shared;
use imbl::Vector;
use published::{
    Published, PublishedDestination, clamps, mark, persistence, range_key, service_key, tunnels,
};

use crate::local::{self, LocalAddresses};
use crate::mark::MarkRule;
use crate::model::{NO_SCHEDULER, Stats};
use crate::running::{ConnectionRow, Dataplane, DestinationCounts, NetworkInfo, PortInfo, WorkerCounters};
use crate::snat::SnatRule;
use crate::table::{self, DestinationId, ServiceId, ServiceTable, Snat};

/// How long workers may take to notice a new snapshot. A worker looks for one at every burst; one that does not for this
/// long is not running.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a connection takes of the memory for them.
const ENTRY_BYTES: usize = 64;

/// Tells the MTU of a network interface by its name.
pub type InterfaceMtus = Box<dyn Fn(&str) -> Option<u32>>;

/// Who is told the addresses of all real servers.
pub type ServersListener = Box<dyn Fn(&[IpAddr])>;

/// What control needs of the daemon besides the workers' shared state.
pub struct Surroundings {
    /// The time as workers see it.
    pub now: Box<dyn Fn() -> Tick>,
    /// The ports and what their drivers say of them.
    pub ports: Box<dyn Fn() -> Vec<PortInfo>>,
    /// Lets a moment go by, for workers to take a new snapshot: sleeps, or runs the worker where it has no thread of its own.
    pub wait: Box<dyn Fn()>,
    /// To be told the real servers' addresses whenever they change: their neighbours are to be kept resolved.
    pub servers: ServersListener,
    /// The MTU of the host's network interface of this name; see [`interface_mtu`].
    pub interfaces: InterfaceMtus,
}

/// The MTU of Linux's network interface of this name, in bytes; `None` if there is none.
pub fn interface_mtu(name: &str) -> Option<u32> {
    // Linux takes neither in an interface's name.
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return None;
    }
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

/// What of a table workers do not see yet.
#[derive(Default)]
struct Difference {
    /// Services that are new or not as they were.
    changed: Vec<(ServiceId, Published)>,
    /// Services that are no more.
    gone: Vec<ServiceId>,
}

/// The workers.
pub struct Workers {
    shared: Shared,
    publisher: Publisher<Snapshot>,
    snapshot: Arc<Snapshot>,
    counters: Vec<(u32, Arc<Counters>)>,
    services: HashMap<ServiceId, Published>,
    /// The real servers, and how many destinations each is.
    servers: BTreeMap<IpAddr, u32>,
    surroundings: Surroundings,
    sizes: TableSizes,
    /// The marking rules that workers have.
    marks: Vector<MarkRule>,
    /// The local addresses of which they have pools.
    local_addresses: Vector<LocalAddresses>,
    /// The SNAT rules that they have, by their places in the slab of counters.
    snat: Vec<(DestinationId, SnatRule)>,
}

impl Workers {
    /// Workers that share `shared`, see what `publisher` publishes (and `snapshot` until then), and count in `counters`,
    /// each with its core.
    pub fn new(
        shared: Shared,
        publisher: Publisher<Snapshot>,
        snapshot: Arc<Snapshot>,
        counters: Vec<(u32, Arc<Counters>)>,
        surroundings: Surroundings,
    ) -> Self {
        let (services, servers, sizes) = (HashMap::new(), BTreeMap::new(), TableSizes::default());
        let (marks, local_addresses, snat) = (Vector::new(), Vector::new(), Vec::new());
        Self {
            shared,
            publisher,
            snapshot,
            counters,
            services,
            servers,
            surroundings,
            sizes,
            marks,
            local_addresses,
            snat,
        }
    }

    /// The same, where schedulers are to have tables of these sizes.
    #[must_use]
    pub fn with_table_sizes(self, sizes: TableSizes) -> Self {
        Self { sizes, ..self }
    }

    /// Makes `network` what workers see, at their next burst.
    pub fn set_network(&mut self, network: Arc<Network>) {
        let tunnels = if self.snapshot.tunnels.is_empty() {
            self.snapshot.tunnels.clone()
        } else {
            Arc::new(tunnels(self.services.values(), &network).sharing_paths(&self.snapshot.tunnels))
        };
        // By which port a server is reached may have changed.
        let locals = if self.local_addresses.is_empty() {
            self.snapshot.locals.clone()
        } else {
            Arc::new(self.locals(self.services.values(), &self.local_addresses, &network))
        };
        self.snapshot = Arc::new(Snapshot { network, tunnels, locals, ..(*self.snapshot).clone() });
        self.publisher.publish(&self.snapshot);
    }

    /// Frees what workers have let go of. To be called now and then; publishing does it, too.
    pub fn collect(&self) -> bool {
        self.publisher.settled()
    }

    /// Waits until every worker has taken the newest snapshot.
    fn settle(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.publisher.settled() {
            if Instant::now() > deadline {
                let seconds = PATIENCE.as_secs();
                return Err(format!("a worker has not taken the new configuration within {seconds} s"));
            }
            (self.surroundings.wait)();
        }
        Ok(())
    }

    /// The service as workers are to see it: the one they see already where nothing has changed.
    fn service(&self, table: &ServiceTable, service: &table::Service) -> Result<Published, String> {
        let name = &service.spec().scheduler;
        let old = self.services.get(&service.id()).filter(|old| old.incarnation == service.incarnation());
        let same = old.filter(|old| old.scheduler_name == *name);
        let scheduler = match same {
            Some(old) => old.scheduler.clone(),
            None if name == NO_SCHEDULER => schedule::none(),
            None => {
                schedule::sized(name, &self.sizes).ok_or_else(|| format!("no scheduler is called {name}"))?
            }
        };
        let flags = Flags(service.spec().flags.0);
        let one_packet = service.spec().one_packet;
        let persistence = service.spec().persistence.map(persistence);
        let engine = service.spec().engine.as_ref().map(|_| Engine::Sip);
        let announce = service.spec().announce.map_or(conn::Announce::Nothing, published::announce);
        let tunnels: HashMap<_, _> = old
            .iter()
            .flat_map(|old| &old.destinations)
            .filter(|old| old.tunnel.is_some())
            .map(|old| (old.destination.id, old))
            .collect();
        let destinations: Vec<_> = table
            .destinations(service)
            .map(|d| PublishedDestination::new(d, tunnels.get(&d.id().0).copied()))
            .collect();
        let seen = || destinations.iter().map(|d| d.destination);
        let service_arc = match same {
            Some(old)
                if old.service.flags() == flags
                    && old.service.has_one_packet() == one_packet
                    && old.service.persistence() == persistence
                    && old.service.engine() == engine
                    && old.service.announce() == announce
                    && old.service.destinations().iter().copied().eq(seen()) =>
            {
                old.service.clone()
            }
            _ => {
                let service = Service::new(seen().collect(), scheduler.clone());
                let service = service.with_flags(flags).with_one_packet(one_packet);
                let service = service.with_persistence(persistence).with_engine(engine);
                Arc::new(service.with_announce(announce))
            }
        };
        Ok(Published {
            key: service.spec().service,
            incarnation: service.incarnation(),
            revision: service.revision(),
            scheduler_name: name.clone(),
            scheduler,
            destinations,
            service: service_arc,
            mss: service.spec().mss,
        })
    }

    fn set_thresholds<'a>(&self, services: impl Iterator<Item = &'a Published>) {
        for destination in services.flat_map(|s| &s.destinations) {
            let (upper, lower) = destination.thresholds;
            let Destination { id, weight, .. } = destination.destination;
            self.shared.destinations.set_thresholds(id, upper, lower);
            self.shared.destinations.set_quiescent(id, weight == 0);
        }
    }

    /// What is left of a destination at a place that is a SNAT rule's now means nothing for its connections.
    fn set_unlimited(&self, table: &ServiceTable) {
        let places = table.snat().iter().map(Snat::id);
        for DestinationId(id) in places.filter(|id| self.snat.iter().all(|(known, _)| known != id)) {
            self.shared.destinations.set_gone(id, false);
            self.shared.destinations.set_thresholds(id, 0, 0);
            self.shared.destinations.set_quiescent(id, false);
        }
    }

    /// What of `table` is other than what workers see.
    fn difference(&self, table: &ServiceTable) -> Result<Difference, String> {
        let mut difference = Difference::default();
        for service in table.services() {
            let old = self.services.get(&service.id());
            if old.is_none_or(|old| old.revision != service.revision()) {
                difference.changed.push((service.id(), self.service(table, service)?));
            }
        }
        // As many services as there were, and no new id: then none is gone.
        let added = difference.changed.iter().filter(|(id, _)| !self.services.contains_key(id)).count();
        if self.services.len() + added != table.services().count() {
            let here: HashSet<_> = table.services().map(table::Service::id).collect();
            difference.gone = self.services.keys().filter(|id| !here.contains(id)).copied().collect();
        }
        Ok(difference)
    }

    /// The snapshot in which `difference` is made to what workers see now.
    fn snapshot(&self, table: &ServiceTable, difference: &Difference) -> Arc<Snapshot> {
        let changed: HashMap<_, _> = difference.changed.iter().map(|(id, service)| (*id, service)).collect();
        let network = self.snapshot.network.clone();
        let is_same = difference.changed.is_empty() && difference.gone.is_empty();
        let gone: HashSet<_> = difference.gone.iter().chain(changed.keys()).collect();
        let kept = self.services.iter().filter(|(id, _)| !gone.contains(id)).map(|(_, service)| service);
        let all = kept.chain(changed.values().copied());
        let tunnels = if is_same {
            self.snapshot.tunnels.clone()
        } else {
            Arc::new(tunnels(all.clone(), &network).sharing_paths(&self.snapshot.tunnels))
        };
        let clamps = if is_same { self.snapshot.clamps.clone() } else { Arc::new(clamps(all.clone())) };
        let masqueraded = match (table.sysctls().for_workers().nat_icmp_send, is_same) {
            (false, _) => Arc::default(),
            (true, true) if self.snapshot.sysctls.nat_icmp_send => self.snapshot.masqueraded.clone(),
            (true, _) => Arc::new(servers::masqueraded(table)),
        };
        let locals = if is_same && self.local_addresses == *table.local_addresses() {
            self.snapshot.locals.clone()
        } else {
            Arc::new(self.locals(all, table.local_addresses(), &network))
        };
        let snat = if rules::is_same(table, &self.snat) {
            self.snapshot.snat.clone()
        } else {
            Arc::new(rules::snat(table, || self.ports()))
        };
        let services = if is_same && self.marks == *table.marks() {
            self.snapshot.services.clone()
        } else {
            let services: Vec<_> = table
                .services()
                .filter_map(|service| {
                    let id = service.id();
                    let published = changed.get(&id).copied().or_else(|| self.services.get(&id))?;
                    Some((service.spec().service, published.service.clone()))
                })
                .collect();
            let by_address = services.iter().filter_map(|(key, s)| Some((service_key(key)?, s.clone())));
            let by_mark = services.iter().filter_map(|(key, s)| Some((mark(key)?, s.clone())));
            let by_range = services.iter().filter_map(|(key, s)| Some((range_key(key)?, s.clone())));
            let all = Services::new(by_address).with_marks(rules::marks(table, || self.ports()), by_mark);
            Arc::new(all.with_ranges(by_range))
        };
        let times = table.timeouts();
        let sysctls = table.sysctls().for_workers();
        Arc::new(Snapshot {
            network,
            services,
            tunnels,
            clamps,
            masqueraded,
            locals,
            snat,
            timeouts: Timeouts::default().set(times.tcp, times.tcp_fin, times.udp),
            sysctls,
            defence: sysctls.defence(self.pages_left()),
            deletions: self.snapshot.deletions,
        })
    }

    /// What is left of the memory for connections, in pages of 4096 bytes.
    fn pages_left(&self) -> i64 {
        (self.shared.table.available() / (4096 / ENTRY_BYTES)) as i64
    }

    /// Publishes what only the dataplane knows to have changed.
    fn publish_again(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = (*self.snapshot).clone();
        change(&mut snapshot);
        self.snapshot = Arc::new(snapshot);
        self.publisher.publish(&self.snapshot);
    }

    /// The pools of all destinations by FULLNAT.
    fn locals<'a>(
        &self,
        services: impl Iterator<Item = &'a Published>,
        all: &Vector<LocalAddresses>,
        network: &Network,
    ) -> Locals {
        let ports = if all.iter().any(|local| local.port.is_some()) { self.ports() } else { Vec::new() };
        // Servers of a service that are reached by the same port share a pool.
        let mut pools = HashMap::new();
        let by_fullnat = services.flat_map(|service| {
            let servers = service.destinations.iter().map(|published| published.destination);
            servers.filter(|server| server.method == Method::FullNat).map(|server| (service.key, server))
        });
        Locals::new(by_fullnat.filter_map(|(service, Destination { id, address, .. })| {
            let port = network.route(address).map(|hop| hop.port);
            let name = port.and_then(|port| ports.get(usize::from(port.0))).map(|port| port.name.as_str());
            let pool = pools
                .entry((service, address.is_ipv4(), port))
                .or_insert_with(|| local::pool(all.iter(), &service, address, name).map(Arc::new));
            Some((id, pool.clone()?))
        }))
    }

    /// Remembers what workers see now, and tells who wants to know of the real servers.
    fn remember(&mut self, difference: Difference) {
        let mut any = false;
        let mut old: Vec<_> = difference.gone.iter().filter_map(|id| self.services.remove(id)).collect();
        for (id, service) in difference.changed {
            for destination in &service.destinations {
                let count = self.servers.entry(destination.destination.address).or_insert(0);
                any |= *count == 0;
                *count += 1;
            }
            old.extend(self.services.insert(id, service));
        }
        for destination in old.iter().flat_map(|service| &service.destinations) {
            if let Entry::Occupied(mut count) = self.servers.entry(destination.destination.address) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    any = true;
                }
            }
        }
        if any {
            let servers: Vec<_> = self.servers.keys().copied().collect();
            (self.surroundings.servers)(&servers);
        }
    }
}

impl Dataplane for Workers {
    fn destination_counts(&self, id: DestinationId) -> DestinationCounts {
        let load = self.shared.destinations.load(id.0);
        let stats = self.shared.destinations.stats(id.0);
        DestinationCounts {
            active: load.active(),
            inactive: load.inactive(),
            persistent: load.persistent(),
            stats: Stats {
                connections: stats.connections,
                in_packets: stats.in_packets,
                out_packets: stats.out_packets,
                in_bytes: stats.in_bytes,
                out_bytes: stats.out_bytes,
            },
        }
    }

    fn connection_buckets(&self) -> usize {
        self.shared.table.bucket_count()
    }

    fn connections(&self, visit: &mut dyn FnMut(ConnectionRow)) {
        let now = (self.surroundings.now)();
        self.shared.table.views(self.snapshot.timeouts, now).map(lists::connection).for_each(visit);
    }

    fn counters(&self) -> Vec<WorkerCounters> {
        self.counters.iter().map(|(core, counters)| lists::counters(*core, &counters.read())).collect()
    }

    fn ports(&self) -> Vec<PortInfo> {
        (self.surroundings.ports)()
    }

    fn network(&self) -> NetworkInfo {
        lists::network(&self.snapshot.network, &self.ports())
    }

    fn interface_mtu(&self, name: &str) -> Option<u32> {
        (self.surroundings.interfaces)(name)
    }

    fn publish(&mut self, table: &ServiceTable) -> Result<(), String> {
        let difference = self.difference(table)?;
        let snapshot = self.snapshot(table, &difference);
        let old = std::mem::replace(&mut self.snapshot, snapshot);
        let here: HashSet<_> =
            difference.changed.iter().flat_map(|(_, s)| &s.destinations).map(|d| d.destination.id).collect();
        // A destination that is back from the trash takes packets before it takes connections.
        here.iter().for_each(|id| self.shared.destinations.set_gone(*id, false));
        self.set_thresholds(difference.changed.iter().map(|(_, service)| service));
        self.set_unlimited(table);
        for (id, service) in &difference.changed {
            let before = self.services.get(id).filter(|b| Arc::ptr_eq(&b.scheduler, &service.scheduler));
            for summary in replay::steps(before.map_or(&[], |b| &b.destinations), &service.destinations) {
                service.scheduler.changed(summary);
            }
        }
        self.publisher.publish(&self.snapshot);
        if let Err(reason) = self.settle() {
            self.publisher.publish(&old);
            self.snapshot = old;
            self.set_thresholds(self.services.values());
            return Err(reason);
        }
        // Not before every worker has taken the table without it: until then it may be chosen.
        let changed = difference.changed.iter().map(|(id, _)| id);
        let were = changed.chain(&difference.gone).filter_map(|id| self.services.get(id));
        let mut any_gone = false;
        for gone in were.flat_map(|s| &s.destinations).filter(|d| !here.contains(&d.destination.id)) {
            self.shared.destinations.set_gone(gone.destination.id, true);
            any_gone = true;
        }
        self.marks = table.marks().clone();
        self.local_addresses = table.local_addresses().clone();
        self.snat = table.snat().iter().map(|snat| (snat.id(), snat.rule().clone())).collect();
        self.remember(difference);
        if any_gone && self.snapshot.sysctls.expire_nodest_conn {
            self.publish_again(|snapshot| snapshot.deletions = snapshot.deletions.wrapping_add(1));
            // Their connections end soon, and nobody waits for it; a worker that does not run has been seen above.
            let _ = self.settle();
        }
        Ok(())
    }

    fn memory_is_scarce(&self) -> bool {
        self.snapshot.sysctls.is_scarce(self.pages_left())
    }

    fn tick(&mut self) {
        let defence = self.snapshot.sysctls.defence(self.pages_left());
        if defence != self.snapshot.defence {
            self.publish_again(|snapshot| snapshot.defence = defence);
        }
        let (now, settings) = ((self.surroundings.now)(), self.snapshot.sysctls.scheduling());
        self.services.values().for_each(|service| service.scheduler.sweep(now, &settings));
    }
}

#[cfg(test)]
mod tests;
