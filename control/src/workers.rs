//! The running workers as control sees them: takes the service table and Linux's network to them as snapshots, and asks
//! them what they have counted. Knows no DPDK; what the wires are is none of its business.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::conn::{Method, Timeouts};
use dataplane::counters::{Drop, WorkerCounters as Counters};
use dataplane::network::Network;
use dataplane::packet::protocol;
use dataplane::schedule::{self, Flags, Scheduler, TableSizes};
use dataplane::service::{Destination, Service, ServiceKey, Services};
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::worker::Shared;

use crate::model::{DestinationSpec, ForwardingMethod, Protocol, Stats, VirtualService};
use crate::running::{ConnectionRow, Dataplane, DestinationCounts, NamedCount, PortInfo, WorkerCounters};
use crate::table::{self, DestinationId, ServiceId, ServiceTable};

/// How long workers may take to notice a new snapshot. A worker looks for one at every burst; one that does not for this
/// long is not running.
const PATIENCE: Duration = Duration::from_secs(2);

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
}

/// A destination that workers see, and what only control knows of it.
#[derive(Clone, Copy, PartialEq)]
struct PublishedDestination {
    destination: Destination,
    edits: u32,
    /// Upper and lower threshold.
    thresholds: (u32, u32),
}

impl PublishedDestination {
    /// The destination as workers see it; `None` for one they cannot forward to.
    fn new(from: &table::Destination) -> Option<Self> {
        let destination = destination(from)?;
        let thresholds = (from.spec().upper_threshold, from.spec().lower_threshold);
        Some(Self { destination, edits: from.edits(), thresholds })
    }

    fn is_same_as(&self, other: &Self) -> bool {
        (self.destination.id, self.destination.sequence) == (other.destination.id, other.destination.sequence)
    }
}

/// A service that workers see, as long as it is the same one.
struct Published {
    incarnation: u64,
    scheduler_name: String,
    scheduler: Arc<dyn Scheduler>,
    /// The one added last first.
    destinations: Vec<PublishedDestination>,
    service: Arc<Service>,
}

/// The workers.
pub struct Workers {
    shared: Shared,
    publisher: Publisher<Snapshot>,
    snapshot: Arc<Snapshot>,
    counters: Vec<(u32, Arc<Counters>)>,
    services: HashMap<ServiceId, Published>,
    servers: Vec<IpAddr>,
    surroundings: Surroundings,
    sizes: TableSizes,
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
        let (services, servers, sizes) = (HashMap::new(), Vec::new(), TableSizes::default());
        Self { shared, publisher, snapshot, counters, services, servers, surroundings, sizes }
    }

    /// The same, where schedulers are to have tables of these sizes.
    #[must_use]
    pub fn with_table_sizes(self, sizes: TableSizes) -> Self {
        Self { sizes, ..self }
    }

    /// Makes `network` what workers see, at their next burst.
    pub fn set_network(&mut self, network: Arc<Network>) {
        self.snapshot = Arc::new(Snapshot { network, ..(*self.snapshot).clone() });
        self.publisher.publish(&self.snapshot);
    }

    /// Makes these the settings of all schedulers, from workers' next burst on.
    pub fn set_scheduling(&mut self, scheduling: schedule::Settings) {
        self.snapshot = Arc::new(Snapshot { scheduling, ..(*self.snapshot).clone() });
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
    fn service(&mut self, table: &ServiceTable, service: &table::Service) -> Result<Published, String> {
        let name = &service.spec().scheduler;
        let old = self.services.get(&service.id()).filter(|old| old.incarnation == service.incarnation());
        let same = old.filter(|old| old.scheduler_name == *name);
        let scheduler = match same {
            Some(old) => old.scheduler.clone(),
            None => {
                schedule::sized(name, &self.sizes).ok_or_else(|| format!("no scheduler is called {name}"))?
            }
        };
        let flags = Flags(service.spec().flags.0);
        let destinations: Vec<_> =
            table.destinations(service).filter_map(PublishedDestination::new).collect();
        let seen = || destinations.iter().map(|d| d.destination);
        let service_arc = match same {
            Some(old)
                if old.service.flags() == flags && old.service.destinations().iter().copied().eq(seen()) =>
            {
                old.service.clone()
            }
            _ => Arc::new(Service::new(seen().collect(), scheduler.clone()).with_flags(flags)),
        };
        Ok(Published {
            incarnation: service.incarnation(),
            scheduler_name: name.clone(),
            scheduler,
            destinations,
            service: service_arc,
        })
    }

    /// Tells a scheduler of its service's changes one by one, in the order in which they were made as far as the tables
    /// before and after tell: taken away, edited, added.
    fn tell_scheduler(before: &[PublishedDestination], now: &Published) {
        let mut seen: Vec<_> = before.iter().map(|d| d.destination).collect();
        let mut tell = |change: &mut dyn FnMut(&mut Vec<Destination>)| {
            change(&mut seen);
            now.scheduler.changed(&seen);
        };
        for gone in before.iter().filter(|b| !now.destinations.iter().any(|d| d.is_same_as(b))) {
            tell(&mut |all| all.retain(|d| d.id != gone.destination.id));
        }
        let mut added: Vec<_> = Vec::new();
        for new in &now.destinations {
            match before.iter().find(|b| b.is_same_as(new)) {
                Some(same) if same == new => {}
                Some(_) => tell(&mut |all| {
                    let id = new.destination.id;
                    all.iter_mut().filter(|d| d.id == id).for_each(|d| *d = new.destination);
                }),
                None => added.push(new.destination),
            }
        }
        for destination in added.into_iter().rev() {
            tell(&mut |all| all.insert(0, destination));
        }
    }

    fn set_thresholds<'a>(&self, services: impl Iterator<Item = &'a Published>) {
        for destination in services.flat_map(|s| &s.destinations) {
            let (upper, lower) = destination.thresholds;
            self.shared.destinations.set_thresholds(destination.destination.id, upper, lower);
        }
    }

    /// The snapshot for `table`, and its services as they are to be remembered.
    fn prepare(
        &mut self,
        table: &ServiceTable,
    ) -> Result<(Arc<Snapshot>, HashMap<ServiceId, Published>), String> {
        let mut published = HashMap::new();
        let mut services = Vec::new();
        for service in table.services() {
            let prepared = self.service(table, service)?;
            if let Some(key) = service_key(&service.spec().service) {
                services.push((key, prepared.service.clone()));
            }
            published.insert(service.id(), prepared);
        }
        let times = table.timeouts();
        let snapshot = Arc::new(Snapshot {
            network: self.snapshot.network.clone(),
            services: Arc::new(Services::new(services)),
            timeouts: Timeouts::default().set(times.tcp, times.tcp_fin, times.udp),
            scheduling: self.snapshot.scheduling,
        });
        Ok((snapshot, published))
    }

    fn tell_servers(&mut self, table: &ServiceTable) {
        let servers = table.services().flat_map(|s| table.destinations(s)).map(|d| d.spec().address);
        let mut servers: Vec<IpAddr> = servers.collect();
        servers.sort_unstable();
        servers.dedup();
        if servers != self.servers {
            (self.surroundings.servers)(&servers);
            self.servers = servers;
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
            persistent: 0,
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
        let socket = |(address, port): (u32, u16)| SocketAddr::from((address.to_be_bytes(), port));
        for view in self.shared.table.views(self.snapshot.timeouts, (self.surroundings.now)()) {
            visit(ConnectionRow {
                protocol: match view.flow.protocol() {
                    protocol::TCP => Some(Protocol::Tcp),
                    protocol::UDP => Some(Protocol::Udp),
                    _ => None,
                },
                state: view.state.name().to_owned(),
                expires: view.expires / TICKS_PER_SECOND,
                client: socket(view.flow.source()),
                virtual_address: socket(view.flow.destination()),
                destination: socket(view.server),
                engine: None,
            });
        }
    }

    fn counters(&self) -> Vec<WorkerCounters> {
        let worker = |(core, counters): &(u32, Arc<Counters>)| {
            let totals = counters.read();
            let reasons = Drop::ALL.iter();
            let dropped = reasons
                .map(|reason| NamedCount { name: reason.name().into(), count: totals.dropped_for(*reason) });
            WorkerCounters {
                core: *core,
                received: totals.received,
                forwarded: totals.forwarded,
                to_kernel: totals.to_kernel,
                from_kernel: totals.from_kernel,
                from_kernel_dropped: totals.from_kernel_dropped,
                dropped: dropped.filter(|d| d.count > 0).collect(),
            }
        };
        self.counters.iter().map(worker).collect()
    }

    fn ports(&self) -> Vec<PortInfo> {
        (self.surroundings.ports)()
    }

    fn publish(&mut self, table: &ServiceTable) -> Result<(), String> {
        let (snapshot, services) = self.prepare(table)?;
        let old = std::mem::replace(&mut self.snapshot, snapshot);
        // A destination that is back from the trash takes packets before it takes connections.
        for destination in table.services().flat_map(|s| table.destinations(s)) {
            self.shared.destinations.set_gone(destination.id().0, false);
        }
        self.set_thresholds(services.values());
        for (id, service) in &services {
            let before = self.services.get(id).filter(|b| Arc::ptr_eq(&b.scheduler, &service.scheduler));
            Self::tell_scheduler(before.map_or(&[], |b| &b.destinations), service);
        }
        self.publisher.publish(&self.snapshot);
        if let Err(reason) = self.settle() {
            self.publisher.publish(&old);
            self.snapshot = old;
            self.set_thresholds(self.services.values());
            return Err(reason);
        }
        // Not before every worker has taken the table without it: until then it may be chosen.
        for destination in table.trash() {
            self.shared.destinations.set_gone(destination.id().0, true);
        }
        self.services = services;
        self.tell_servers(table);
        Ok(())
    }

    fn tick(&mut self) {
        let (now, settings) = ((self.surroundings.now)(), self.snapshot.scheduling);
        self.services.values().for_each(|service| service.scheduler.sweep(now, &settings));
    }
}

/// The key by which workers find a service; `None` for one they have no way to look up.
fn service_key(service: &VirtualService) -> Option<ServiceKey> {
    let VirtualService::Address { protocol, address: IpAddr::V4(address), port } = service else {
        return None;
    };
    Some(ServiceKey { protocol: protocol.number(), address: (*address).into(), port: *port })
}

fn destination(destination: &table::Destination) -> Option<Destination> {
    let spec: &DestinationSpec = destination.spec();
    let IpAddr::V4(address) = spec.address else { return None };
    Some(Destination {
        id: destination.id().0,
        // Workers keep 0 for "before all".
        sequence: destination.sequence().saturating_add(1),
        address: address.into(),
        port: spec.port,
        weight: spec.weight,
        last_weight: destination.last_weight(),
        method: match spec.method {
            ForwardingMethod::Masquerade => Method::Nat,
            ForwardingMethod::DirectRouting => Method::DirectRouting,
            ForwardingMethod::Local | ForwardingMethod::Tunnel => return None,
        },
    })
}

#[cfg(test)]
mod tests;
