//! Commands that read: ask, choose, print.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::name::DestinationName;
use super::shape::{self, Connection};
use super::words::{self, Command, Output};
use super::{Failure, Session, changes, misunderstood, print_json, table};
use crate::client::{CallError, Transport};
use crate::mark::MarkRule;
use crate::model::{ForwardingMethod, Stats, Tunnel, VirtualService};
use crate::protocol::{ErrorObject, Reply, Request, SchedulerEntry, SysctlEntry};
use crate::refusal::Refusal;
use crate::running::NetworkInfo;
use crate::{ipvsadm, report, sysctl};

type Out<'a> = &'a mut dyn Write;

impl Session<'_> {
    pub(super) fn list(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::Service(words::Service::List(output)) => {
                self.show(output, |t| services(None, t), |out, list| print_services(out, list))
            }
            Command::Service(words::Service::Show { service, output }) => self.show(
                output,
                |t| Ok(shape::Service::from(changes::entry(&service.0, t)?)),
                |out, service| print_service(out, service),
            ),
            Command::Destination(words::Destination::List { service, output }) => self.show(
                output,
                |t| {
                    let services = services(service.map(|s| s.0), t)?;
                    Ok(services.into_iter().flat_map(|s| s.destinations).collect::<Vec<_>>())
                },
                |out, list| print_destinations(out, list),
            ),
            Command::Destination(words::Destination::Show { service, destination, output }) => self.show(
                output,
                |t| one_destination(&service.0, destination, t),
                |out, one| print_destinations(out, std::slice::from_ref(one)),
            ),
            Command::Connection(words::Connection::List {
                client,
                virtual_address,
                destination,
                state,
                output,
            }) => self.show(
                output,
                |t| {
                    let mut rows = connections(t)?;
                    rows.retain(|row| {
                        matches(client, row.client)
                            && (virtual_address.is_none()
                                || !row.snat && matches(virtual_address, row.virtual_address))
                            && matches(destination, row.destination)
                            && state.as_ref().is_none_or(|state| state.eq_ignore_ascii_case(&row.state))
                    });
                    Ok(rows)
                },
                |out, rows| print_connections(out, rows),
            ),
            Command::Stats(words::Stats::List { service, rates, output }) => self.show(
                output,
                |t| services(service.map(|s| s.0), t),
                |out, list| print_stats(out, list, *rates),
            ),
            _ => self.list_other(command),
        }
    }

    fn list_other(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::Timeout(words::Timeout::Show(output)) => self.show(
                output,
                |t| match t.call(&Request::Timeouts)? {
                    Reply::Timeouts(timeouts) => Ok(timeouts),
                    _ => Err(misunderstood()),
                },
                |out, t| {
                    let row = |name: &str, n: u32| [name.to_owned(), n.to_string()];
                    let rows = [row("tcp", t.tcp), row("tcp-fin", t.tcp_fin), row("udp", t.udp)];
                    table::print(out, ["TIMEOUT", "#SECONDS"], rows)
                },
            ),
            Command::Sysctl(words::Sysctl::List { describe, output }) => {
                self.show(output, sysctls, |out, list| print_sysctls(out, list, *describe))
            }
            Command::Sysctl(words::Sysctl::Get { name, output }) => self.show(
                output,
                |t| {
                    let full = sysctl::find(name).map(|d| format!("{}{}", sysctl::PREFIX, d.name));
                    let one = sysctls(t)?.into_iter().find(|s| Some(&s.name) == full.as_ref());
                    one.ok_or_else(|| refused(&sysctl::unknown(name)))
                },
                |out, one| writeln!(out, "{}", one.value),
            ),
            Command::Scheduler(words::Scheduler::List(output)) => self.show(
                output,
                |t| match t.call(&Request::Schedulers)? {
                    Reply::Schedulers(schedulers) => Ok(schedulers),
                    _ => Err(misunderstood()),
                },
                |out, list| print_schedulers(out, list),
            ),
            Command::Mark(words::Mark::List(output)) => self.show(
                output,
                |t| match t.call(&Request::Marks)? {
                    Reply::Marks(rules) => Ok(rules),
                    _ => Err(misunderstood()),
                },
                |out, rules| print_marks(out, rules),
            ),
            Command::LocalAddress(words::LocalAddress::List(output)) => self.show(
                output,
                |t| match t.call(&Request::LocalAddresses)? {
                    Reply::LocalAddresses(all) => {
                        Ok(all.into_iter().map(shape::LocalAddresses::from).collect::<Vec<_>>())
                    }
                    _ => Err(misunderstood()),
                },
                |out, all| print_local_addresses(out, all),
            ),
            Command::Snat(words::Snat::List(output)) => self.show(
                output,
                |t| match t.call(&Request::Snat)? {
                    Reply::Snat(rules) => {
                        let rules = rules.into_iter().enumerate();
                        Ok(rules.map(|(place, entry)| shape::Snat::new(place, entry)).collect::<Vec<_>>())
                    }
                    _ => Err(misunderstood()),
                },
                |out, rules| print_snat(out, rules),
            ),
            Command::Daemon(words::Daemon::List(output)) => self.show(
                output,
                |t| match t.call(&Request::Daemons)? {
                    Reply::Daemons(daemons) => Ok(daemons),
                    _ => Err(misunderstood()),
                },
                |out, daemons| ipvsadm::list::daemons(out, daemons),
            ),
            Command::Network(words::Network::List(output)) => self.show(
                output,
                |t| match t.call(&Request::Network)? {
                    Reply::Network(network) => Ok(network),
                    _ => Err(misunderstood()),
                },
                |out, network| print_network(out, network),
            ),
            Command::Counters(output) => self.show(
                output,
                |t| match t.call(&Request::Counters)? {
                    Reply::Counters(workers) => Ok(workers),
                    _ => Err(misunderstood()),
                },
                |out, workers| report::counters(out, workers),
            ),
            Command::Ports(output) => self.show(
                output,
                |t| match t.call(&Request::Ports)? {
                    Reply::Ports(ports) => Ok(ports),
                    _ => Err(misunderstood()),
                },
                |out, ports| report::ports(out, ports),
            ),
            Command::Status(output) => self.show(
                output,
                |t| match t.call(&Request::Status)? {
                    Reply::Status(status) => Ok(status),
                    _ => Err(misunderstood()),
                },
                |out, status| report::status(out, status),
            ),
            _ => Err(Failure::Words("this command prints nothing".into())),
        }
    }

    /// Asks, and prints the answer as text or JSON.
    fn show<T: serde::Serialize>(
        &mut self,
        output: &Output,
        ask: impl Fn(&mut dyn Transport) -> Result<T, Failure>,
        text: impl Fn(Out<'_>, &T) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.watch(output, |transport, out| {
            let answer = ask(transport)?;
            if output.json { print_json(out, &answer, output) } else { Ok(text(out, &answer)?) }
        })
    }
}

fn refused(refusal: &Refusal) -> Failure {
    CallError::Refused(ErrorObject::from(refusal)).into()
}

fn services(
    only: Option<VirtualService>,
    transport: &mut dyn Transport,
) -> Result<Vec<shape::Service>, Failure> {
    if let Some(service) = only {
        return Ok(vec![changes::entry(&service, transport)?.into()]);
    }
    let Reply::Services(mut list) = transport.call(&Request::Services { service: None })? else {
        return Err(misunderstood());
    };
    list.services.sort_unstable_by_key(|entry| entry.service.service);
    Ok(list.services.into_iter().map(shape::Service::from).collect())
}

fn one_destination(
    service: &VirtualService,
    name: &DestinationName,
    transport: &mut dyn Transport,
) -> Result<shape::Destination, Failure> {
    let entry = shape::Service::from(changes::entry(service, transport)?);
    let place = SocketAddr::new(name.address, name.port_in(service));
    let found = entry.destinations.into_iter().find(|d| d.destination == place);
    found.ok_or_else(|| {
        let change = crate::model::Change::DeleteDestination {
            service: *service,
            address: place.ip(),
            port: place.port(),
        };
        let error = ErrorObject::from(&Refusal::NoSuchDestination);
        CallError::Refused(changes::explain(error, &Request::Change(change), transport)).into()
    })
}

fn connections(transport: &mut dyn Transport) -> Result<Vec<Connection>, Failure> {
    match transport.call(&Request::Connections)? {
        Reply::Connections { rows, .. } => Ok(rows.into_iter().map(Connection::from).collect()),
        _ => Err(misunderstood()),
    }
}

fn sysctls(transport: &mut dyn Transport) -> Result<Vec<SysctlEntry>, Failure> {
    match transport.call(&Request::Sysctls)? {
        Reply::Sysctls(sysctls) => Ok(sysctls),
        _ => Err(misunderstood()),
    }
}

fn matches(wanted: &Option<DestinationName>, endpoint: SocketAddr) -> bool {
    wanted.is_none_or(|w| w.address == endpoint.ip() && w.port.is_none_or(|port| port == endpoint.port()))
}

fn print_services(out: Out<'_>, services: &[shape::Service]) -> io::Result<()> {
    let headings =
        ["SERVICE", "SCHEDULER", "ATTRIBUTES", "#DESTINATIONS", "#ACTIVE", "#INACTIVE", "#PERSISTENT"];
    let row = |s: &shape::Service| {
        [
            s.service.clone(),
            s.scheduler.clone(),
            attributes(s),
            s.destinations.len().to_string(),
            s.active.to_string(),
            s.inactive.to_string(),
            s.persistent.to_string(),
        ]
    };
    table::print(out, headings, services.iter().map(row))
}

/// What a service has besides its scheduler, in the words that set it.
fn attributes(service: &shape::Service) -> String {
    let mut words = Vec::new();
    if !service.flags.is_empty() {
        words.push(format!("flags {}", service.flags.join(",")));
    }
    if let Some(p) = &service.persistence {
        words.push(format!("persistence {}", p.timeout_seconds));
        match (p.mask, p.prefix_length) {
            (Some(mask), _) if mask.to_string() != "255.255.255.255" => words.push(format!("mask {mask}")),
            (_, Some(length)) if length != 128 => words.push(format!("mask {length}")),
            _ => {}
        }
    }
    words.extend(service.engine.as_ref().map(|engine| format!("engine {engine}")));
    words.extend(service.one_packet.then(|| "one-packet".to_owned()));
    words.extend(service.announce.map(|announce| format!("announce {}", announce.word())));
    words.extend(service.mss.map(|mss| format!("mss {mss}")));
    words.join(", ")
}

fn print_service(out: Out<'_>, service: &shape::Service) -> io::Result<()> {
    print_services(out, std::slice::from_ref(service))?;
    if service.destinations.is_empty() {
        return writeln!(out, "\nno destinations");
    }
    writeln!(out)?;
    print_destinations(out, &service.destinations)
}

fn print_destinations(out: Out<'_>, destinations: &[shape::Destination]) -> io::Result<()> {
    let headings = [
        "SERVICE",
        "DESTINATION",
        "METHOD",
        "#WEIGHT",
        "#UPPER",
        "#LOWER",
        "#ACTIVE",
        "#INACTIVE",
        "#PERSISTENT",
    ];
    let row = |d: &shape::Destination| {
        [
            d.service.clone(),
            d.destination.to_string(),
            method(d.method, d.tunnel.as_ref()),
            d.weight.to_string(),
            d.upper_threshold.to_string(),
            d.lower_threshold.to_string(),
            d.active.to_string(),
            d.inactive.to_string(),
            d.persistent.to_string(),
        ]
    };
    table::print(out, headings, destinations.iter().map(row))
}

/// The method in the words that set it.
fn method(method: ForwardingMethod, tunnel: Option<&Tunnel>) -> String {
    match (method, tunnel) {
        (ForwardingMethod::Local, _) => "local".to_owned(),
        (ForwardingMethod::Masquerade, _) => "nat".to_owned(),
        (ForwardingMethod::DirectRouting, _) => "dr".to_owned(),
        (ForwardingMethod::FullNat, _) => "fullnat".to_owned(),
        (ForwardingMethod::Tunnel, tunnel) => {
            let info = tunnel.map(|t| ipvsadm::list::tunnel_info(method, t)).unwrap_or_default();
            format!("tunnel {info}")
        }
    }
}

fn print_connections(out: Out<'_>, rows: &[Connection]) -> io::Result<()> {
    let headings = ["PROTOCOL", "STATE", "#EXPIRES", "CLIENT", "VIRTUAL", "LOCAL", "DESTINATION", "ENGINE"];
    let row = |c: &Connection| {
        [
            match c.protocol {
                Some(protocol) => protocol.to_string().to_lowercase(),
                None => if c.snat { "icmp" } else { "ip" }.to_owned(),
            },
            c.state.clone(),
            format!("{} s", c.expires_seconds),
            c.client.to_string(),
            if c.snat { "-".to_owned() } else { c.virtual_address.to_string() },
            c.local.map_or_else(|| "-".to_owned(), |local| local.to_string()),
            c.destination.to_string(),
            c.engine.as_ref().map(|e| format!("{} {}", e.name, e.data)).unwrap_or_default(),
        ]
    };
    table::print(out, headings, rows.iter().map(row))
}

fn print_stats(out: Out<'_>, services: &[shape::Service], rates: bool) -> io::Result<()> {
    let headings = if rates {
        ["SERVICE", "DESTINATION", "#CONN/S", "#PKT/S IN", "#PKT/S OUT", "#BYTE/S IN", "#BYTE/S OUT"]
    } else {
        ["SERVICE", "DESTINATION", "#CONNECTIONS", "#PACKETS IN", "#PACKETS OUT", "#BYTES IN", "#BYTES OUT"]
    };
    let row = |service: &str, destination: String, stats: &Stats| {
        let Stats { connections, in_packets, out_packets, in_bytes, out_bytes } = stats;
        let [a, b, c, d, e] =
            [connections, in_packets, out_packets, in_bytes, out_bytes].map(ToString::to_string);
        [service.to_owned(), destination, a, b, c, d, e]
    };
    let rows = services.iter().flat_map(|s| {
        let numbers = |stats: &Stats, r: &crate::model::Rates| {
            if !rates {
                return *stats;
            }
            Stats {
                connections: r.connections,
                in_packets: r.in_packets,
                out_packets: r.out_packets,
                in_bytes: r.in_bytes,
                out_bytes: r.out_bytes,
            }
        };
        let whole = row(&s.service, String::new(), &numbers(&s.stats, &s.rates));
        let each = s
            .destinations
            .iter()
            .map(move |d| row(&d.service, d.destination.to_string(), &numbers(&d.stats, &d.rates)));
        std::iter::once(whole).chain(each).collect::<Vec<_>>()
    });
    table::print(out, headings, rows)
}

fn print_sysctls(out: Out<'_>, sysctls: &[SysctlEntry], describe: bool) -> io::Result<()> {
    if !describe {
        return sysctls.iter().try_for_each(|s| writeln!(out, "{} = {}", s.name, s.value));
    }
    for s in sysctls {
        let unit = if s.unit.is_empty() { String::new() } else { format!(" {}", s.unit) };
        writeln!(out, "{} = {}{unit}", s.name, s.value)?;
        writeln!(out, "    {}", s.description)?;
        let note = if s.acts { "" } else { "; kept, and nothing heeds it" };
        writeln!(out, "    {}; default {}{note}", s.takes, s.default)?;
    }
    Ok(())
}

fn print_marks(out: Out<'_>, rules: &[MarkRule]) -> io::Result<()> {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let row = |rule: &MarkRule| {
        [
            rule.mark.to_string(),
            text(rule.protocol.map(|protocol| protocol.to_string().to_lowercase())),
            text(rule.from.map(|network| network.to_string())),
            text(rule.from_ports.map(|ports| ports.to_string())),
            text(rule.to.map(|network| network.to_string())),
            text(rule.to_ports.map(|ports| ports.to_string())),
            text(rule.in_port.clone()),
        ]
    };
    let headings = ["#MARK", "PROTOCOL", "FROM", "PORTS", "TO", "PORTS", "RECEIVED BY"];
    table::print(out, headings, rules.iter().map(row))
}

fn print_local_addresses(out: Out<'_>, all: &[shape::LocalAddresses]) -> io::Result<()> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let row = |local: &shape::LocalAddresses| {
        let ports = local.ports.map(|ports| ports.to_string());
        [local.addresses.to_string(), text(&ports), text(&local.service), text(&local.port)]
    };
    table::print(out, ["LOCAL ADDRESSES", "PORTS", "SERVICE", "DIRECTOR'S PORT"], all.iter().map(row))
}

fn print_snat(out: Out<'_>, rules: &[shape::Snat]) -> io::Result<()> {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let row = |rule: &shape::Snat| {
        [
            rule.position.to_string(),
            rule.translate_to.to_string(),
            text(rule.ports.map(|ports| ports.to_string())),
            text(rule.protocol.map(|protocol| protocol.to_string().to_lowercase())),
            text(rule.from.map(|network| network.to_string())),
            text(rule.to.map(|network| network.to_string())),
            text(rule.out_port.clone()),
            rule.active.to_string(),
            rule.inactive.to_string(),
            rule.stats.connections.to_string(),
            rule.stats.out_packets.to_string(),
            rule.stats.in_packets.to_string(),
            rule.stats.out_bytes.to_string(),
            rule.stats.in_bytes.to_string(),
        ]
    };
    let headings = [
        "#RULE",
        "TRANSLATE TO",
        "PORTS",
        "PROTOCOL",
        "FROM",
        "TO",
        "LEAVES BY",
        "#ACTIVE",
        "#INACTIVE",
        "#CONNECTIONS",
        "#PACKETS OUT",
        "#PACKETS IN",
        "#BYTES OUT",
        "#BYTES IN",
    ];
    table::print(out, headings, rules.iter().map(row))
}

fn print_schedulers(out: Out<'_>, schedulers: &[SchedulerEntry]) -> io::Result<()> {
    let row = |s: &SchedulerEntry| [s.name.clone(), s.flags.join(","), s.description.clone()];
    table::print(out, ["SCHEDULER", "FLAGS", "CHOOSES"], schedulers.iter().map(row))
}

fn print_network(out: Out<'_>, network: &NetworkInfo) -> io::Result<()> {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let routes = network.routes.iter().map(|r| {
        let port = if r.local { Some("Linux".to_owned()) } else { r.port.clone() };
        [r.prefix.to_string(), text(r.gateway.map(|g| g.to_string())), text(port)]
    });
    table::print(out, ["ROUTE", "GATEWAY", "PORT"], routes)?;
    writeln!(out)?;
    let neighbours = network.neighbours.iter().map(|n| {
        let mac = n.mac.clone().unwrap_or_else(|| "unresolved".to_owned());
        [n.address.to_string(), mac, n.port.clone()]
    });
    table::print(out, ["NEIGHBOUR", "MAC ADDRESS", "PORT"], neighbours)
}
