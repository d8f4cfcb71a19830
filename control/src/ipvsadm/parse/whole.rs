//! The command as a whole, once every word has been looked at: whether the options go together, and the change or the list that they
//! stand for.

use super::super::options::{Kind, Switch, check_command, check_tunnel};
use super::{Command, Raw, Subject};
use crate::model::{
    Change, DestinationSpec, Encapsulation, ForwardingMethod, Granularity, Persistence, Protocol,
    ServiceSpec, SyncDaemon, SyncRole, VirtualService,
};

/// The interface of a daemon that is given none.
const DEFAULT_INTERFACE: &str = "eth0";

impl Raw {
    pub(super) fn finish(mut self, command: Switch) -> Result<Command, String> {
        check_command(command, self.given)?;
        if matches!(command, Switch::AddService | Switch::EditService) {
            self.check_service()?;
        }
        if matches!(command, Switch::AddServer | Switch::EditServer) {
            self.check_server()?;
        }
        let service = self.key();
        let destination = self.destination();
        let change = match (command, service, destination) {
            (Switch::AddService, Some(service), _) => Change::AddService(self.spec(service)),
            (Switch::EditService, Some(service), _) => Change::EditService(self.spec(service)),
            (Switch::DeleteService, Some(service), _) => Change::DeleteService(service),
            (Switch::Zero, Some(service), _) => Change::ZeroService(service),
            (Switch::Zero, None, _) => Change::ZeroAll,
            (Switch::Clear, ..) => Change::Clear,
            (Switch::AddServer, Some(service), Some(destination)) => {
                Change::AddDestination { service, destination }
            }
            (Switch::EditServer, Some(service), Some(destination)) => {
                Change::EditDestination { service, destination }
            }
            (Switch::DeleteServer, Some(service), Some(DestinationSpec { address, port, .. })) => {
                Change::DeleteDestination { service, address, port }
            }
            (Switch::Set, ..) => Change::SetTimeouts(self.timeouts.unwrap_or_default()),
            (Switch::StartDaemon, ..) => Change::StartDaemon(self.daemon()),
            (Switch::StopDaemon, ..) => Change::StopDaemon(self.role.unwrap_or(SyncRole::Master)),
            (Switch::List, service, _) => return self.list(service),
            (Switch::Save, ..) => return Ok(Command::Save(self.format)),
            (Switch::Restore, ..) => return Ok(Command::Restore),
            // check_command has seen to it that nothing is missing.
            _ => return Err(format!("the command {command:?} is not complete")),
        };
        Ok(Command::Change(change))
    }

    fn check_service(&self) -> Result<(), String> {
        let is_every_port = self.range.map_or(self.port, |range| range.ports.last()) == 0;
        if self.mark == 0 && is_every_port && self.persistence.is_none() {
            return Err("Zero port specified for non-persistent service".to_owned());
        }
        if self.one_packet && self.mark == 0 && self.protocol != Some(Protocol::Udp) {
            return Err("One-Packet Scheduling is only for UDP virtual services".to_owned());
        }
        if self.announce.is_some() && self.mark == 0 && self.protocol != Some(Protocol::Tcp) {
            return Err("Clients are announced for TCP virtual services only".to_owned());
        }
        if self.mss.is_some() && self.mark == 0 && self.protocol != Some(Protocol::Tcp) {
            return Err("A maximum segment size is only for TCP virtual services".to_owned());
        }
        Ok(())
    }

    fn check_server(&mut self) -> Result<(), String> {
        let family = self.family;
        if let Some(server) = &mut self.server {
            // Packets that are not translated arrive at the port they were sent to.
            if self.mark == 0 && !self.method.translates() {
                server.port = self.port;
            }
            let same_family = family == Some(server.address.into());
            if !same_family && !self.method.crosses_families() {
                return Err("Different address family is allowed only for tunneling servers".to_owned());
            }
        }
        let tunnel_options = [
            Kind::TunnelType,
            Kind::TunnelPort,
            Kind::TunnelNoChecksum,
            Kind::TunnelChecksum,
            Kind::TunnelRemoteChecksum,
        ];
        if self.given.has_any(&tunnel_options) && self.method != ForwardingMethod::Tunnel {
            return Err("Tunnel options conflict with forward method".to_owned());
        }
        let name = match self.encapsulation {
            Encapsulation::Ipip => "ipip",
            Encapsulation::Gue => "gue",
            Encapsulation::Gre => "gre",
        };
        check_tunnel(name, self.given)
    }

    fn key(&self) -> Option<VirtualService> {
        if self.mark != 0 {
            return Some(VirtualService::Mark { mark: self.mark, family: self.family? });
        }
        if let Some(range) = self.range {
            return Some(range.service());
        }
        Some(VirtualService::Address { protocol: self.protocol?, address: self.address?, port: self.port })
    }

    fn spec(&self, service: VirtualService) -> ServiceSpec {
        let whole = Granularity::whole(service.family());
        let persistence = self.persistence.map(|timeout_seconds| Persistence {
            timeout_seconds,
            granularity: self.granularity.unwrap_or(whole),
        });
        let mut spec = ServiceSpec::new(service);
        if !self.scheduler.is_empty() {
            spec.scheduler.clone_from(&self.scheduler);
        }
        ServiceSpec {
            flags: self.flags,
            persistence,
            engine: self.engine.clone(),
            one_packet: self.one_packet,
            announce: self.announce,
            mss: self.mss,
            ..spec
        }
    }

    fn destination(&self) -> Option<DestinationSpec> {
        let mut spec = self.server?;
        spec.method = self.method;
        spec.weight = self.weight.unwrap_or(spec.weight);
        spec.upper_threshold = self.upper;
        spec.lower_threshold = self.lower;
        spec.tunnel.encapsulation = self.encapsulation;
        spec.tunnel.port = self.tunnel_port;
        spec.tunnel.checksum = self.checksum;
        Some(spec)
    }

    fn daemon(self) -> SyncDaemon {
        let interface = if self.interface.is_empty() { DEFAULT_INTERFACE.to_owned() } else { self.interface };
        SyncDaemon {
            role: self.role.unwrap_or(SyncRole::Master),
            interface,
            sync_id: self.sync_id,
            max_length: self.max_length,
            group: self.group,
            port: self.mcast_port,
            ttl: self.ttl,
        }
    }

    fn list(self, service: Option<VirtualService>) -> Result<Command, String> {
        let has = |kinds: &[Kind]| self.given.has_any(kinds);
        if has(&[Kind::Connection, Kind::Timeout, Kind::Daemon])
            && has(&[Kind::Stats, Kind::Rate, Kind::Thresholds])
            || has(&[Kind::Timeout, Kind::Daemon]) && has(&[Kind::PersistentConn])
        {
            return Err("options conflicts in the list command".to_owned());
        }
        let subject = if has(&[Kind::Connection]) {
            Subject::Connections
        } else if let Some(service) = service {
            Subject::Service(service)
        } else if has(&[Kind::Timeout]) {
            Subject::Timeouts
        } else if has(&[Kind::Daemon]) {
            Subject::Daemons
        } else {
            Subject::All
        };
        Ok(Command::List(subject, self.format))
    }
}
