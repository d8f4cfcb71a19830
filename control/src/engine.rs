//! The engine of the control side: takes requests, keeps the table, tells the dataplane.
//!
//! Every change is made on a copy of the table, which shares all but the change with the original; the copy is published and only then becomes the table. What the
//! workers see and what lists show can therefore never differ, and a change that fails leaves nothing behind.
//! The engine must never block on anything but [`Dataplane::publish`] and never read a clock.

use std::time::Instant;

use crate::local::LocalAddresses;
use crate::mark::MarkRule;
use crate::model::Change;
use crate::protocol::{
    Configuration, ConfiguredService, DestinationEntry, Outcome, Reply, Request, SchedulerEntry,
    ServiceEntry, Services, Status, SysctlEntry, TableCounts,
};
use crate::rates::SAMPLE_PERIOD;
use crate::refusal::Refusal;
use crate::running::Dataplane;
use crate::snat::SnatRule;
use crate::table::{Service, ServiceTable};
use crate::{model, supported, sysctl};

/// A test that a change must pass besides IPVS's own, usually [`supported::check`].
pub type ChangeCheck = fn(&Change) -> Result<(), Refusal>;

/// The control side's engine over a running dataplane.
pub struct Director<D> {
    dataplane: D,
    table: ServiceTable,
    supports: ChangeCheck,
    started: Instant,
    sampled: Instant,
    requests: u64,
}

impl<D: Dataplane> Director<D> {
    /// A director with an empty table for `destinations` destinations (the dataplane's slab of counters). It
    /// refuses what the dataplane cannot do.
    pub fn new(dataplane: D, destinations: u32, now: Instant) -> Self {
        Self::with_check(dataplane, destinations, now, supported::check)
    }

    /// As [`Director::new`], with another idea of what the dataplane can do.
    pub fn with_check(dataplane: D, destinations: u32, now: Instant, supports: ChangeCheck) -> Self {
        let table = ServiceTable::new(destinations);
        Self { dataplane, table, supports, started: now, sampled: now, requests: 0 }
    }

    /// The table in force.
    pub fn table(&self) -> &ServiceTable {
        &self.table
    }

    /// The dataplane.
    pub fn dataplane(&self) -> &D {
        &self.dataplane
    }

    /// The dataplane, for what is not the table's (neighbours and routes, say). The table must go to it through
    /// requests only.
    pub fn dataplane_mut(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// To be called about once a second: samples the counters, frees what deleted destinations held, and has the dataplane do
    /// what is due.
    pub fn tick(&mut self, now: Instant) {
        self.dataplane.tick();
        self.table.follow_memory(self.dataplane.memory_is_scarce());
        let Self { dataplane, table, .. } = self;
        let counts = |id| dataplane.destination_counts(id);
        table.expire(now, &counts);
        if now.saturating_duration_since(self.sampled) >= SAMPLE_PERIOD {
            self.sampled += SAMPLE_PERIOD;
            // After a pause longer than a period the missed samples are not made up for.
            if now.saturating_duration_since(self.sampled) >= SAMPLE_PERIOD {
                self.sampled = now;
            }
            if table.sysctls().for_workers().run_estimation {
                table.sample(&counts);
            }
        }
    }

    /// Does what `request` asks for.
    pub fn handle(&mut self, request: &Request, now: Instant) -> Result<Reply, Refusal> {
        self.requests += 1;
        match request {
            Request::Change(change) => match self.change(std::slice::from_ref(change)).pop() {
                Some(Err(refusal)) => Err(refusal),
                _ => Ok(Reply::Done),
            },
            Request::Batch(changes) => {
                let outcomes = self.change(changes).into_iter();
                Ok(Reply::Batch(
                    outcomes
                        .map(|o| o.err().map_or(Outcome::Done, |r| Outcome::Error((&r).into())))
                        .collect(),
                ))
            }
            Request::Transaction(changes) => self.transaction(changes).map(|()| Reply::Done),
            Request::Services { service } => self.services(service.as_ref()).map(Reply::Services),
            Request::Connections => {
                let mut rows = Vec::new();
                self.dataplane.connections(&mut |row| rows.push(row));
                Ok(Reply::Connections { rows, more: false })
            }
            Request::Timeouts => Ok(Reply::Timeouts(self.table.timeouts())),
            Request::Daemons => Ok(Reply::Daemons(self.table.daemons().cloned().collect())),
            Request::Marks => Ok(Reply::Marks(self.table.marks().iter().cloned().collect())),
            Request::LocalAddresses => {
                Ok(Reply::LocalAddresses(self.table.local_addresses().iter().cloned().collect()))
            }
            Request::Snat => {
                Ok(Reply::Snat(self.table.snat_entries(&|id| self.dataplane.destination_counts(id))))
            }
            Request::Sysctls => Ok(Reply::Sysctls(self.sysctls())),
            Request::Schedulers => Ok(Reply::Schedulers(schedulers())),
            Request::Network => Ok(Reply::Network(self.dataplane.network())),
            Request::Configuration => Ok(Reply::Configuration(self.configuration())),
            Request::Counters => Ok(Reply::Counters(self.dataplane.counters())),
            Request::Ports => Ok(Reply::Ports(self.dataplane.ports())),
            Request::Status => Ok(Reply::Status(self.status(now))),
        }
    }

    /// Makes the changes that can be made, each by itself, and publishes the result once.
    fn change(&mut self, changes: &[Change]) -> Vec<Result<(), Refusal>> {
        let mut table = self.table.clone();
        let mut published = false;
        let mut outcomes: Vec<_> = changes
            .iter()
            .map(|change| {
                self.make(&mut table, change)?;
                published |= is_for_workers(change);
                Ok(())
            })
            .collect();
        if published && let Err(reason) = self.dataplane.publish(&table) {
            tracing::error!(reason, "the dataplane did not take a change of the configuration");
            for outcome in outcomes.iter_mut().filter(|o| o.is_ok()) {
                *outcome = Err(Refusal::NotPublished(reason.clone()));
            }
            return outcomes;
        }
        self.table = table;
        if published {
            self.table.follow_memory(self.dataplane.memory_is_scarce());
        }
        outcomes
    }

    /// Makes all changes, or none.
    fn transaction(&mut self, changes: &[Change]) -> Result<(), Refusal> {
        let mut table = self.table.clone();
        for (i, change) in changes.iter().enumerate() {
            let at = |reason| Refusal::At { change: i, reason: Box::new(reason) };
            self.make(&mut table, change).map_err(at)?;
        }
        if changes.iter().any(is_for_workers)
            && let Err(reason) = self.dataplane.publish(&table)
        {
            tracing::error!(reason, "the dataplane did not take a change of the configuration");
            return Err(Refusal::NotPublished(reason));
        }
        self.table = table;
        Ok(())
    }

    fn make(&self, table: &mut ServiceTable, change: &Change) -> Result<(), Refusal> {
        let interfaces = |name: &str| self.dataplane.interface_mtu(name);
        table.check(change, &interfaces)?;
        if let Change::AddMark(MarkRule { in_port: Some(name), .. })
        | Change::AddLocalAddresses(LocalAddresses { port: Some(name), .. })
        | Change::AddSnat { rule: SnatRule { out_port: Some(name), .. }, .. } = change
            && self.dataplane.ports().iter().all(|port| port.name != *name)
        {
            return Err(Refusal::NoSuchPort(name.clone()));
        }
        (self.supports)(change)?;
        table.apply(change, &|id| self.dataplane.destination_counts(id), &interfaces)
    }

    fn sysctls(&self) -> Vec<SysctlEntry> {
        let entry = |(definition, value): (&sysctl::Definition, _)| SysctlEntry {
            name: format!("{}{}", sysctl::PREFIX, definition.name),
            value,
            default: definition.default,
            takes: definition.takes.to_string(),
            unit: definition.unit.to_owned(),
            description: definition.what.to_owned(),
            acts: supported::acts(definition.name),
        };
        self.table.sysctls().iter().map(entry).collect()
    }

    fn configuration(&self) -> Configuration {
        let service = |service: &Service| {
            let mut destinations: Vec<_> = self.table.destinations(service).map(|d| *d.spec()).collect();
            destinations.reverse();
            ConfiguredService { service: service.spec().clone(), destinations }
        };
        // Ids are given again; incarnations tell which was added first.
        let mut services: Vec<_> = self.table.services().collect();
        services.sort_unstable_by_key(|service| service.incarnation());
        let changed = self.table.sysctls().iter().filter(|(definition, value)| definition.default != *value);
        Configuration {
            services: services.into_iter().map(service).collect(),
            timeouts: self.table.timeouts(),
            daemons: self.table.daemons().cloned().collect(),
            sysctls: changed.map(|(definition, value)| (definition.name.to_owned(), value)).collect(),
            marks: self.table.marks().iter().cloned().collect(),
            local_addresses: self.table.local_addresses().iter().cloned().collect(),
            snat: self.table.snat().iter().map(|snat| snat.rule().clone()).collect(),
        }
    }

    fn services(&self, only: Option<&crate::model::VirtualService>) -> Result<Services, Refusal> {
        let services = match only {
            Some(key) => vec![self.entry(self.table.service(key).ok_or(Refusal::NoSuchService)?)],
            None => self.table.services().map(|s| self.entry(s)).collect(),
        };
        Ok(Services { connection_buckets: self.dataplane.connection_buckets(), services })
    }

    fn entry(&self, service: &Service) -> ServiceEntry {
        let destinations = self.table.destinations(service).map(|d| {
            let counts = self.dataplane.destination_counts(d.id());
            DestinationEntry {
                destination: *d.spec(),
                active: counts.active,
                inactive: counts.inactive,
                persistent: counts.persistent,
                stats: d.stats(),
                rates: d.rates(),
            }
        });
        ServiceEntry {
            service: service.spec().clone(),
            stats: service.stats(),
            rates: service.rates(),
            destinations: destinations.collect(),
        }
    }

    fn status(&self, now: Instant) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            workers: self.dataplane.counters().len(),
            ports: self.dataplane.ports().len(),
            connection_buckets: self.dataplane.connection_buckets(),
            requests: self.requests,
            table: TableCounts {
                services: self.table.services().count(),
                destinations: self.table.services().map(|s| self.table.destinations(s).count()).sum(),
                trashed_destinations: self.table.trash().count(),
                destination_limit: self.table.limit(),
            },
        }
    }
}

/// True if workers are to know of it.
fn is_for_workers(change: &Change) -> bool {
    !matches!(change, Change::ZeroAll | Change::ZeroService(_))
}

fn schedulers() -> Vec<SchedulerEntry> {
    let entry = |name: &&str| SchedulerEntry {
        name: (*name).to_owned(),
        description: model::scheduler_description(name).to_owned(),
        // Of the others, flag-1 to flag-3 can be set and mean nothing.
        flags: model::scheduler_flags(name)
            .filter(|(_, flag)| flag.starts_with(name))
            .map(|(_, flag)| flag.to_owned())
            .collect(),
    };
    model::SCHEDULERS.iter().map(entry).collect()
}
