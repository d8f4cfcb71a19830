//! The changes that commands stand for.

use super::name::{DestinationName, ServiceName};
use super::words::{
    Announce, Attributes, Checksum, Command, Daemon, Destination, DestinationWords, Encapsulation,
    LocalAddress, Mark, Method, Role, Service, Snat, Stats, Sysctl, Timeout, Zero,
};
use super::{Failure, misunderstood};
use crate::client::{CallError, Transport};
use crate::ipvsadm::parse::scheduler_flags;
use crate::model::{
    self, Change, DestinationSpec, Family, ForwardingMethod, Granularity, Persistence, Protocol, ServiceSpec,
    SyncDaemon, SyncRole, Timeouts, TunnelChecksum, VirtualService,
};
use crate::protocol::{ErrorObject, Reply, Request, ServiceEntry};
use crate::suggest::{did_you_mean, nearest_name};
use crate::sysctl;

/// The changes that `command` stands for; `None` for one that only reads. What an edit leaves as it is, is asked of the
/// daemon.
pub fn of(command: &Command, transport: &mut dyn Transport) -> Result<Option<Vec<Change>>, Failure> {
    let change = match command {
        Command::Service(command) => match command {
            Service::Add { service, attributes, .. } => {
                Change::AddService(service_spec(ServiceSpec::new(service.0), attributes)?)
            }
            Service::Edit { service, attributes, .. } => {
                let now = entry(&service.0, transport)?.service;
                Change::EditService(service_spec(now, attributes)?)
            }
            Service::Delete { service, .. } => Change::DeleteService(service.0),
            Service::Clear(_) => Change::Clear,
            Service::Zero(which) => zero(which),
            Service::List(_) | Service::Show { .. } => return Ok(None),
        },
        Command::Destination(command) => match command {
            Destination::Add(words) => {
                let service = words.service.0;
                let DestinationName { address, .. } = words.destination;
                let new = DestinationSpec::new(address, words.destination.port_in(&service));
                Change::AddDestination { service, destination: destination_spec(new, words)? }
            }
            Destination::Edit(words) => {
                let service = words.service.0;
                let now = find(&service, &words.destination, transport)?;
                Change::EditDestination { service, destination: destination_spec(now, words)? }
            }
            Destination::Delete { service: ServiceName(service), destination, .. } => {
                let port = destination.port_in(service);
                Change::DeleteDestination { service: *service, address: destination.address, port }
            }
            Destination::List { .. } | Destination::Show { .. } => return Ok(None),
        },
        Command::Stats(Stats::Zero(which)) => zero(which),
        Command::Timeout(Timeout::Set { tcp, tcp_fin, udp, .. }) => {
            if [tcp, tcp_fin, udp].iter().all(|t| t.is_none()) {
                return Err(Failure::Words("name what to set: --tcp, --tcp-fin or --udp".into()));
            }
            if [tcp, tcp_fin, udp].iter().any(|t| **t == Some(0)) {
                return Err(Failure::Words(
                    "a timeout is at least 1 second; leave out what is to stay".into(),
                ));
            }
            let or_keep = |t: &Option<u32>| t.unwrap_or(0);
            Change::SetTimeouts(Timeouts { tcp: or_keep(tcp), tcp_fin: or_keep(tcp_fin), udp: or_keep(udp) })
        }
        Command::Sysctl(Sysctl::Set { name, value, .. }) => set_sysctl(name, value)?,
        Command::Mark(Mark::Add(words)) => Change::AddMark(words.rule()),
        Command::Mark(Mark::Delete(words)) => Change::DeleteMark(words.rule()),
        Command::Mark(Mark::Clear(_)) => Change::ClearMarks,
        Command::LocalAddress(LocalAddress::Add(words)) => Change::AddLocalAddresses(words.addresses()),
        Command::LocalAddress(LocalAddress::Delete(words)) => Change::DeleteLocalAddresses(words.addresses()),
        Command::LocalAddress(LocalAddress::Clear(_)) => Change::ClearLocalAddresses,
        Command::Snat(Snat::Add { words, position }) => {
            Change::AddSnat { rule: words.rule(), position: *position }
        }
        Command::Snat(Snat::Delete(words)) => Change::DeleteSnat(words.rule()),
        Command::Snat(Snat::Clear(_)) => Change::ClearSnat,
        Command::Daemon(Daemon::Start { role, interface, sync_id, max_length, group, port, ttl, .. }) => {
            Change::StartDaemon(SyncDaemon {
                role: (*role).into(),
                interface: interface.clone(),
                sync_id: *sync_id,
                max_length: *max_length,
                group: *group,
                port: *port,
                ttl: *ttl,
            })
        }
        Command::Daemon(Daemon::Stop { role, .. }) => Change::StopDaemon((*role).into()),
        _ => return Ok(None),
    };
    Ok(Some(vec![change]))
}

impl From<Announce> for model::Announce {
    fn from(announce: Announce) -> Self {
        match announce {
            Announce::Toa => Self::Toa,
            Announce::ProxyV1 => Self::ProxyV1,
            Announce::ProxyV2 => Self::ProxyV2,
        }
    }
}

impl From<Role> for SyncRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Master => Self::Master,
            Role::Backup => Self::Backup,
        }
    }
}

fn zero(which: &Zero) -> Change {
    which.service.map_or(Change::ZeroAll, |ServiceName(service)| Change::ZeroService(service))
}

/// `NAME VALUE`, `NAME = VALUE` and `NAME=VALUE`.
fn set_sysctl(name: &str, value: &[String]) -> Result<Change, Failure> {
    let text = [&[name.to_owned()], value].concat().join(" ");
    let (name, value) = text.split_once(['=', ' ']).unwrap_or((&text, ""));
    let value = value.trim_start_matches([' ', '=']);
    let value = value.parse().map_err(|e: sysctl::NoValue| Failure::Words(e.to_string()))?;
    Ok(Change::SetSysctl { name: name.trim().to_owned(), value })
}

/// What the daemon knows of `service`.
pub fn entry(service: &VirtualService, transport: &mut dyn Transport) -> Result<ServiceEntry, Failure> {
    let request = Request::Services { service: Some(*service) };
    match transport.call(&request) {
        Ok(Reply::Services(mut list)) => list.services.pop().ok_or_else(misunderstood),
        Ok(_) => Err(misunderstood()),
        Err(CallError::Refused(error)) => Err(CallError::Refused(explain(error, &request, transport)).into()),
        Err(error) => Err(error.into()),
    }
}

fn find(
    service: &VirtualService,
    name: &DestinationName,
    transport: &mut dyn Transport,
) -> Result<DestinationSpec, Failure> {
    let (address, port) = (name.address, name.port_in(service));
    let is_it = |d: &DestinationSpec| (d.address, d.port) == (address, port);
    let found = entry(service, transport)?.destinations.into_iter().map(|d| d.destination).find(is_it);
    found.ok_or_else(|| {
        let request = Request::Change(Change::DeleteDestination { service: *service, address, port });
        let refusal = &crate::refusal::Refusal::NoSuchDestination;
        CallError::Refused(explain(refusal.into(), &request, transport)).into()
    })
}

/// `spec` with what `attributes` say.
fn service_spec(mut spec: ServiceSpec, attributes: &Attributes) -> Result<ServiceSpec, Failure> {
    let wrong = |message: &str| Failure::Words(message.to_owned());
    if let Some(scheduler) = &attributes.scheduler {
        if *scheduler != spec.scheduler {
            // Flags mean something else to another scheduler.
            spec.flags = model::SchedulerFlags::default();
        }
        spec.scheduler.clone_from(scheduler);
    }
    if let Some(flags) = &attributes.flags {
        spec.flags = scheduler_flags(&spec.scheduler, flags).map_err(|e| {
            let known = model::scheduler_flags(&spec.scheduler).map(|(_, flag)| flag);
            Failure::Words(format!("{e}; {} takes {}", spec.scheduler, known.collect::<Vec<_>>().join(", ")))
        })?;
    }
    let family = spec.service.family();
    if attributes.no_persistence {
        spec.persistence = None;
    }
    if let Some(timeout_seconds) = attributes.persistence {
        let granularity = spec.persistence.map_or(Granularity::whole(family), |p| p.granularity);
        spec.persistence = Some(Persistence { timeout_seconds, granularity });
    }
    if let Some(mask) = &attributes.mask {
        let Some(persistence) = &mut spec.persistence else {
            return Err(wrong("--mask needs --persistence"));
        };
        persistence.granularity = granularity(mask, family)?;
    }
    match &attributes.engine {
        Some(engine) => spec.engine = Some(engine.clone()),
        None if attributes.no_engine => spec.engine = None,
        None => {}
    }
    spec.one_packet = attributes.one_packet.unwrap_or(spec.one_packet);
    match attributes.announce {
        Some(announce) => spec.announce = Some(announce.into()),
        None if attributes.no_announce => spec.announce = None,
        None => {}
    }
    match attributes.mss {
        Some(mss) => spec.mss = Some(mss),
        None if attributes.no_mss => spec.mss = None,
        None => {}
    }
    let is_every_port = match spec.service {
        VirtualService::Address { port, .. } => port == 0,
        VirtualService::Range(range) => range.ports.last() == 0,
        VirtualService::Mark { .. } => false,
    };
    if is_every_port && spec.persistence.is_none() {
        return Err(wrong("a service of port 0, which is every port, needs --persistence"));
    }
    if spec.one_packet && spec.service.protocol().is_some_and(|protocol| protocol != Protocol::Udp) {
        return Err(wrong("--one-packet is for UDP services and marks"));
    }
    if spec.announce.is_some() && spec.service.protocol().is_some_and(|protocol| protocol != Protocol::Tcp) {
        return Err(wrong("--announce is for TCP services and marks"));
    }
    if spec.mss.is_some() && spec.service.protocol().is_some_and(|protocol| protocol != Protocol::Tcp) {
        return Err(wrong("--mss is for TCP services and marks"));
    }
    Ok(spec)
}

fn granularity(mask: &str, family: Family) -> Result<Granularity, Failure> {
    let wrong = match family {
        Family::Ipv4 => "the mask of an IPv4 service is written as 255.255.255.0",
        Family::Ipv6 => "the mask of an IPv6 service is the length of a prefix, 1 to 128",
    };
    let read = match family {
        Family::Ipv4 => mask.parse().ok().map(Granularity::Mask),
        Family::Ipv6 => mask.parse().ok().filter(|n| (1..=128).contains(n)).map(Granularity::Prefix),
    };
    read.ok_or_else(|| Failure::Words(wrong.to_owned()))
}

/// `spec` with what `words` say.
fn destination_spec(mut spec: DestinationSpec, words: &DestinationWords) -> Result<DestinationSpec, Failure> {
    let wrong = |message: String| Err(Failure::Words(message));
    if let Some(method) = words.method {
        spec.method = match method {
            Method::Dr => ForwardingMethod::DirectRouting,
            Method::Nat => ForwardingMethod::Masquerade,
            Method::Tunnel => ForwardingMethod::Tunnel,
            Method::Fullnat => ForwardingMethod::FullNat,
            Method::Local => ForwardingMethod::Local,
        };
    }
    spec.weight = words.weight.unwrap_or(spec.weight);
    spec.upper_threshold = words.upper.unwrap_or(spec.upper_threshold);
    spec.lower_threshold = words.lower.unwrap_or(spec.lower_threshold);
    if let Some(encapsulation) = words.tunnel {
        spec.tunnel.encapsulation = match encapsulation {
            Encapsulation::Ipip => model::Encapsulation::Ipip,
            Encapsulation::Gue => model::Encapsulation::Gue,
            Encapsulation::Gre => model::Encapsulation::Gre,
        };
    }
    spec.tunnel.port = words.tunnel_port.unwrap_or(spec.tunnel.port);
    if let Some(checksum) = words.tunnel_checksum {
        spec.tunnel.checksum = match checksum {
            Checksum::None => TunnelChecksum::None,
            Checksum::Full => TunnelChecksum::Full,
            Checksum::Remote => TunnelChecksum::Remote,
        };
    }
    let (service, tunnel) = (&words.service.0, &spec.tunnel);
    let is_tunnel = spec.method == ForwardingMethod::Tunnel;
    if !is_tunnel
        && (words.tunnel.is_some() || words.tunnel_port.is_some() || words.tunnel_checksum.is_some())
    {
        return wrong("tunnel options need --method tunnel".into());
    }
    match tunnel.encapsulation {
        model::Encapsulation::Gue if tunnel.port == 0 => return wrong("gue needs --tunnel-port".into()),
        model::Encapsulation::Gre if tunnel.checksum == TunnelChecksum::Remote => {
            return wrong("gre has no remote checksum offload; --tunnel-checksum takes none or full".into());
        }
        _ => {}
    }
    if service.family() != spec.address.into() && !spec.method.crosses_families() {
        return wrong("only --method tunnel and fullnat lead to the other address family".into());
    }
    // Packets that are not translated arrive at the port they were sent to.
    if !matches!(service, VirtualService::Mark { .. })
        && !spec.method.translates()
        && spec.port != service.port()
    {
        let port = service.port();
        return wrong(format!(
            "only --method nat and fullnat lead to another port than the service's, {port}"
        ));
    }
    if spec.lower_threshold > spec.upper_threshold {
        let (lower, upper) = (spec.lower_threshold, spec.upper_threshold);
        return wrong(format!("the lower threshold, {lower}, must not be above the upper one, {upper}"));
    }
    Ok(spec)
}

/// The daemon's error with what it is about, and what may have been meant.
pub fn explain(mut error: ErrorObject, request: &Request, transport: &mut dyn Transport) -> ErrorObject {
    let change = match request {
        Request::Change(change) => Some(change),
        Request::Transaction(changes) => changes.get(error.change.unwrap_or(usize::MAX)),
        _ => None,
    };
    let service = match (change, request) {
        (_, Request::Services { service: Some(service) }) => *service,
        (Some(Change::AddService(spec) | Change::EditService(spec)), _) => spec.service,
        (Some(Change::DeleteService(service) | Change::ZeroService(service)), _) => *service,
        (
            Some(
                Change::AddDestination { service, .. }
                | Change::EditDestination { service, .. }
                | Change::DeleteDestination { service, .. },
            ),
            _,
        ) => *service,
        _ => return error,
    };
    let name = ServiceName(service).to_string();
    let destination = match change {
        Some(
            Change::AddDestination { destination: d, .. } | Change::EditDestination { destination: d, .. },
        ) => Some((d.address, d.port)),
        Some(Change::DeleteDestination { address, port, .. }) => Some((*address, *port)),
        _ => None,
    };
    let destination = destination.map(|place| std::net::SocketAddr::from(place).to_string());
    let destination = destination.unwrap_or_default();
    error.message = match error.code.as_str() {
        "service_exists" => format!("{name} exists already; lbctl service edit changes it"),
        "no_such_service" | "service_not_defined" => {
            let known = names(transport, |entry| vec![ServiceName(entry.service.service).to_string()]);
            let hint = did_you_mean(&nearest_name(&name, known));
            format!("there is no service {name}{hint}")
        }
        "destination_exists" => {
            format!("{name} has the destination {destination} already; lbctl destination edit changes it")
        }
        "no_such_destination" => {
            let known = names(transport, |entry| {
                let is_it = entry.service.service == service;
                let places = entry.destinations.iter().filter(|_| is_it);
                let place = |d: &DestinationSpec| std::net::SocketAddr::new(d.address, d.port).to_string();
                places.map(|d| place(&d.destination)).collect()
            });
            let hint = did_you_mean(&nearest_name(&destination, known));
            format!("{name} has no destination {destination}{hint}")
        }
        "invalid" if !destination.is_empty() => {
            format!("{destination} cannot be a destination of {name}: {}", error.message)
        }
        _ => return error,
    };
    error
}

/// What `of` finds in every service, to suggest one of it. Nothing where the daemon does not answer.
fn names(transport: &mut dyn Transport, of: impl Fn(&ServiceEntry) -> Vec<String>) -> Vec<String> {
    match transport.call(&Request::Services { service: None }) {
        Ok(Reply::Services(list)) => list.services.iter().flat_map(of).collect(),
        _ => Vec::new(),
    }
}
