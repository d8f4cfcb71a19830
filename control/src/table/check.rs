//! What IPVS takes, and what it refuses and why.

use std::net::IpAddr;

use super::{Interfaces, ServiceTable};
use crate::model::{
    Change, DestinationSpec, ENGINES, Encapsulation, Family, Granularity, NO_SCHEDULER, Protocol, SCHEDULERS,
    ServiceSpec, VirtualService,
};
use crate::refusal::Refusal;

/// The longest timeout the kernel takes, in seconds: INT_MAX jiffies at 250 Hz.
const LONGEST_TIMEOUT: u32 = 8_589_934;

impl ServiceTable {
    /// Whether IPVS would take `change`, and if not, its reason. The order of the tests is the kernel's.
    pub fn check(&self, change: &Change, interfaces: Interfaces<'_>) -> Result<(), Refusal> {
        match change {
            Change::AddService(spec) => {
                if self.by_key.contains_key(&spec.service) {
                    return Err(Refusal::ServiceExists);
                }
                check_service(spec)
            }
            Change::EditService(spec) => {
                self.service(&spec.service).ok_or(Refusal::NoSuchService)?;
                check_service(spec)
            }
            Change::DeleteService(key) | Change::ZeroService(key) => {
                self.service(key).map(drop).ok_or(Refusal::NoSuchService)
            }
            Change::AddDestination { service, destination } => self.check_add(service, destination),
            Change::EditDestination { service, destination } => {
                let owner = self.service(service).ok_or(Refusal::ServiceNotDefined)?;
                self.check_destination(service, destination)?;
                self.find(owner.id, destination.address, destination.port).map(drop)
            }
            Change::DeleteDestination { service, address, port } => {
                let owner = self.service(service).ok_or(Refusal::ServiceNotDefined)?;
                self.find(owner.id, *address, *port).map(drop)
            }
            Change::SetTimeouts(t) => {
                let fits = [t.tcp, t.tcp_fin, t.udp].into_iter().all(|t| t <= LONGEST_TIMEOUT);
                if fits { Ok(()) } else { Err(Refusal::Invalid) }
            }
            Change::SetSysctl { name, value } => self.sysctls().clone().set(name, *value),
            Change::StartDaemon(daemon) => self.check_start(daemon, interfaces),
            Change::StopDaemon(role) => self.check_stop(*role),
            Change::AddMark(rule) => {
                rule.check()?;
                if self.marks.contains(rule) { Err(Refusal::MarkExists) } else { Ok(()) }
            }
            Change::DeleteMark(rule) => {
                if self.marks.contains(rule) {
                    Ok(())
                } else {
                    Err(Refusal::NoSuchMark)
                }
            }
            Change::AddLocalAddresses(local) => {
                local.check()?;
                let exists = self.local_addresses.contains(local);
                if exists { Err(Refusal::LocalAddressExists) } else { Ok(()) }
            }
            Change::DeleteLocalAddresses(local) => {
                let exists = self.local_addresses.contains(local);
                if exists { Ok(()) } else { Err(Refusal::NoSuchLocalAddress) }
            }
            Change::AddSnat { rule, position } => self.check_snat(rule, *position),
            Change::DeleteSnat(rule) => {
                let exists = self.snat.iter().any(|snat| snat.rule() == rule);
                if exists { Ok(()) } else { Err(Refusal::NoSuchSnat) }
            }
            Change::Clear
            | Change::ZeroAll
            | Change::ResetSysctls
            | Change::ClearMarks
            | Change::ClearLocalAddresses
            | Change::ClearSnat => Ok(()),
        }
    }

    fn check_add(&self, key: &VirtualService, spec: &DestinationSpec) -> Result<(), Refusal> {
        let owner = self.service(key).ok_or(Refusal::ServiceNotDefined)?;
        self.check_destination(key, spec)?;
        if self.live.contains_key(&(owner.id, spec.address, spec.port)) {
            return Err(Refusal::DestinationExists);
        }
        if self.trash.contains_key(&(*key, spec.address, spec.port)) {
            return Ok(());
        }
        if !is_unicast(spec.address) {
            return Err(Refusal::Invalid);
        }
        if self.has_free_id() { Ok(()) } else { Err(Refusal::NoMemory) }
    }

    fn check_destination(&self, key: &VirtualService, spec: &DestinationSpec) -> Result<(), Refusal> {
        if Family::from(spec.address) != key.family()
            // The synchronisation's messages have no place for two families.
            && (!spec.method.crosses_families() || self.daemons().next().is_some())
        {
            return Err(Refusal::Invalid);
        }
        if spec.weight > i32::MAX as u32 || spec.lower_threshold > spec.upper_threshold {
            return Err(Refusal::OutOfRange);
        }
        if spec.tunnel.encapsulation == Encapsulation::Gue && spec.tunnel.port == 0 {
            return Err(Refusal::Invalid);
        }
        Ok(())
    }
}

fn check_service(spec: &ServiceSpec) -> Result<(), Refusal> {
    if !SCHEDULERS.contains(&spec.scheduler.as_str()) && spec.scheduler != NO_SCHEDULER {
        return Err(Refusal::SchedulerNotFound);
    }
    if spec.engine.as_deref().is_some_and(|engine| !ENGINES.contains(&engine)) {
        return Err(Refusal::SchedulerNotFound);
    }
    let granularity_fits = spec.persistence.is_none_or(|p| match p.granularity {
        Granularity::Mask(_) => spec.service.family() == Family::Ipv4,
        Granularity::Prefix(length) => spec.service.family() == Family::Ipv6 && (1..=128).contains(&length),
    });
    let key_fits = match spec.service {
        VirtualService::Mark { mark, .. } => mark != 0,
        VirtualService::Address { port, protocol, .. } => {
            (port != 0 || spec.persistence.is_some()) && (!spec.one_packet || protocol == Protocol::Udp)
        }
        VirtualService::Range(range) => {
            range.is_sound()
                && (range.ports.last() != 0 || spec.persistence.is_some())
                && (!spec.one_packet || range.protocol == Protocol::Udp)
        }
    };
    // Of a mark's packets those of TCP have them.
    let is_tcp = matches!(spec.service.protocol(), None | Some(Protocol::Tcp));
    let tcp_fits = is_tcp || spec.announce.is_none() && spec.mss.is_none();
    if granularity_fits && key_fits && tcp_fits && spec.flags.0 < 8 { Ok(()) } else { Err(Refusal::Invalid) }
}

/// The kernel asks its routing table; without one, what is never a host is ruled out.
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_broadcast() || a.is_multicast()),
        IpAddr::V6(a) => {
            let no_host = a.is_unspecified() || a.is_multicast() || a.to_ipv4_mapped().is_some();
            !(no_host || a.is_unicast_link_local())
        }
    }
}
