//! The configuration as a file, and back.
//!
//! A full save is a rules file that `ipvsadm -R` would take, with what ipvsadm's own save leaves out, and with lines of
//! lbctl's own language for what ipvsadm's cannot say. `docs/lbctl.md` describes it. It is restored as one transaction:
//! whole, or not at all.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::mistakes;
use super::name::ServiceName;
use super::words::{Restore, Save};
use super::{Failure, Session, changes, misunderstood, print_json};
use crate::client::{CallError, Transport};
use crate::ipvsadm::parse::{self, Format};
use crate::ipvsadm::save;
use crate::model::{
    Change, DestinationSpec, ForwardingMethod, SchedulerFlags, SyncDaemon, VirtualService, scheduler_flags,
};
use crate::protocol::{Configuration, Reply, Request};
use crate::sysctl;

/// The first line of a full save, but for the version.
const HEADER: &str = "# director configuration, version ";
/// The version of the format that is written and read.
const VERSION: u32 = 1;

/// Prints `configuration` as [`Restore`] reads it.
pub fn full(out: &mut dyn Write, configuration: &Configuration) -> io::Result<()> {
    writeln!(out, "{HEADER}{VERSION}")?;
    for (name, value) in &configuration.sysctls {
        let value = value.to_string().replace('\t', " ");
        writeln!(out, "sysctl set {}{name} {value}", sysctl::PREFIX)?;
    }
    let times = configuration.timeouts;
    writeln!(out, "--set {} {} {}", times.tcp, times.tcp_fin, times.udp)?;
    configuration.marks.iter().try_for_each(|rule| writeln!(out, "mark add {rule}"))?;
    configuration.local_addresses.iter().try_for_each(|local| writeln!(out, "local-address add {local}"))?;
    configuration.snat.iter().try_for_each(|rule| writeln!(out, "snat add {rule}"))?;
    for service in &configuration.services {
        let key = service.service.service;
        let name = save::option(&key);
        writeln!(out, "-A {name} -s {}", save::attributes(&service.service, flag_names))?;
        for destination in &service.destinations {
            if destination.method == ForwardingMethod::Local {
                write_local_destination(out, &key, destination)?;
            } else {
                write_destination(out, &name, destination)?;
            }
        }
    }
    configuration.daemons.iter().try_for_each(|daemon| write_daemon(out, daemon))
}

fn write_destination(out: &mut dyn Write, name: &str, spec: &DestinationSpec) -> io::Result<()> {
    let server = SocketAddr::new(spec.address, spec.port);
    // ipvsadm's language gives such a destination its service's port, whatever is written. Packets arrive there anyway.
    write!(out, "-a {name} -r {server} {}", save::destination(spec))?;
    write_thresholds(out, spec, ["-x", "-y"])
}

/// The same for what ipvsadm's language has no word for.
fn write_local_destination(
    out: &mut dyn Write,
    service: &VirtualService,
    spec: &DestinationSpec,
) -> io::Result<()> {
    let (service, weight) = (ServiceName(*service), spec.weight);
    let port = if let VirtualService::Mark { .. } = service.0 { spec.port } else { service.0.port() };
    let server = SocketAddr::new(spec.address, port);
    write!(out, "destination add {service} {server} --method local --weight {weight}")?;
    write_thresholds(out, spec, ["--upper", "--lower"])
}

fn write_thresholds(
    out: &mut dyn Write,
    spec: &DestinationSpec,
    [upper, lower]: [&str; 2],
) -> io::Result<()> {
    if spec.upper_threshold != 0 {
        write!(out, " {upper} {}", spec.upper_threshold)?;
    }
    if spec.lower_threshold != 0 {
        write!(out, " {lower} {}", spec.lower_threshold)?;
    }
    writeln!(out)
}

fn write_daemon(out: &mut dyn Write, daemon: &SyncDaemon) -> io::Result<()> {
    let SyncDaemon { role, interface, sync_id, max_length, group, port, ttl } = daemon;
    write!(out, "--start-daemon {role} --mcast-interface {interface} --syncid {sync_id}")?;
    if let Some(length) = max_length {
        write!(out, " --sync-maxlen {length}")?;
    }
    if let Some(group) = group {
        write!(out, " --mcast-group {group}")?;
    }
    if let Some(port) = port {
        write!(out, " --mcast-port {port}")?;
    }
    if let Some(ttl) = ttl {
        write!(out, " --mcast-ttl {ttl}")?;
    }
    writeln!(out)
}

impl Session<'_> {
    pub(super) fn save(&mut self, save: &Save) -> Result<(), Failure> {
        if !save.full && !save.json {
            let Reply::Services(services) = self.transport.call(&Request::Services { service: None })? else {
                return Err(misunderstood());
            };
            let format = Format { numeric: true, ..Format::default() };
            return Ok(save::rules(self.out, services, format, self.names)?);
        }
        let Reply::Configuration(configuration) = self.transport.call(&Request::Configuration)? else {
            return Err(misunderstood());
        };
        if save.json {
            return print_json(self.out, &configuration, &super::Output::default());
        }
        Ok(full(self.out, &configuration)?)
    }

    pub(super) fn restore(&mut self, restore: &Restore) -> Result<(), Failure> {
        let mut text = String::new();
        match &restore.file {
            None => drop(self.input.read_to_string(&mut text)?),
            Some(path) => {
                text = std::fs::read_to_string(path)
                    .map_err(|e| Failure::Words(format!("{}: cannot be read: {e}", path.display())))?;
            }
        }
        let Changes { changes, lines } = self.read(&text)?;
        self.change(changes, restore.json.json).map_err(|failure| match failure {
            Failure::Call(CallError::Refused(mut error)) => {
                let line = error.change.and_then(|change| lines.get(change).copied().flatten());
                if let Some(line) = line {
                    error.message = format!("line {line}: {}; nothing was changed", error.message);
                }
                Failure::Call(CallError::Refused(error))
            }
            failure => failure,
        })
    }

    /// The changes that put what `text` says in the place of what is there.
    fn read(&mut self, text: &str) -> Result<Changes, Failure> {
        let mut changes = Changes::default();
        if text.trim_start().starts_with('{') {
            let configuration: Configuration = serde_json::from_str(text)
                .map_err(|e| Failure::Words(format!("this is no saved configuration: {e}")))?;
            self.begin(&mut changes, true)?;
            changes.add_configuration(configuration);
            return Ok(changes);
        }
        let version = text.lines().next().and_then(|line| line.strip_prefix(HEADER));
        if let Some(version) = version
            && version.trim().parse() != Ok(VERSION)
        {
            let message =
                format!("line 1: this lbctl reads version {VERSION} of a saved configuration, not {version}");
            return Err(Failure::Words(message));
        }
        self.begin(&mut changes, version.is_some())?;
        for (number, line) in (1..).zip(text.lines()) {
            let words = line.split_whitespace().skip_while(|word| matches!(*word, "ipvsadm" | "lbctl"));
            let words: Vec<String> = words.map(str::to_owned).collect();
            if words.first().is_none_or(|word| word.starts_with('#')) {
                continue;
            }
            let read = self.line(&words).map_err(|message| {
                Failure::Words(format!("line {number}: {message}; nothing was changed"))
            })?;
            read.into_iter().for_each(|change| changes.add(change, Some(number)));
        }
        if version.is_none() && changes.lines.iter().all(Option::is_none) {
            // As from `lbctl save --full | lbctl restore` where the save has failed.
            return Err(Failure::Words(
                "there is nothing in it; nothing was changed (lbctl -C clears the table)".to_owned(),
            ));
        }
        Ok(changes)
    }

    /// What is to go before anything is put in its place.
    fn begin(&mut self, changes: &mut Changes, full: bool) -> Result<(), Failure> {
        changes.add(Change::Clear, None);
        if full {
            let Reply::Daemons(daemons) = self.transport.call(&Request::Daemons)? else {
                return Err(misunderstood());
            };
            daemons.iter().for_each(|daemon| changes.add(Change::StopDaemon(daemon.role), None));
            changes.add(Change::ResetSysctls, None);
            changes.add(Change::ClearMarks, None);
            changes.add(Change::ClearLocalAddresses, None);
            changes.add(Change::ClearSnat, None);
        }
        Ok(())
    }

    fn line(&mut self, words: &[String]) -> Result<Vec<Change>, String> {
        if words[0].starts_with('-') {
            return match parse::parse(words, self.names) {
                Ok(parse::Command::Change(change)) => Ok(vec![change]),
                Ok(_) | Err(parse::Failure::NoCommand) => {
                    Err(format!("{} is no command that changes something", words.join(" ")))
                }
                Err(parse::Failure::Option(message) | parse::Failure::Words(message)) => Err(message),
            };
        }
        let arguments = mistakes::read(words).map_err(|e| mistakes::in_one_line(&e))?;
        match changes::of(&arguments.command, &mut Nobody) {
            Ok(Some(changes)) => Ok(changes),
            Ok(None) => Err(format!("{} is no command that changes something", words.join(" "))),
            Err(Failure::Words(message)) => Err(message),
            Err(_) => Err("an edit depends on what is there; add it with all it is to have".to_owned()),
        }
    }
}

/// Changes, with the lines they come from.
#[derive(Default)]
struct Changes {
    changes: Vec<Change>,
    lines: Vec<Option<usize>>,
}

impl Changes {
    fn add(&mut self, change: Change, line: Option<usize>) {
        self.changes.push(change);
        self.lines.push(line);
    }

    fn add_configuration(&mut self, configuration: Configuration) {
        let Configuration { services, timeouts, daemons, sysctls, marks, local_addresses, snat } =
            configuration;
        sysctls.into_iter().for_each(|(name, value)| self.add(Change::SetSysctl { name, value }, None));
        self.add(Change::SetTimeouts(timeouts), None);
        marks.into_iter().for_each(|rule| self.add(Change::AddMark(rule), None));
        local_addresses.into_iter().for_each(|local| self.add(Change::AddLocalAddresses(local), None));
        snat.into_iter().for_each(|rule| self.add(Change::AddSnat { rule, position: None }, None));
        for service in services {
            let key = service.service.service;
            self.add(Change::AddService(service.service), None);
            for destination in service.destinations {
                self.add(Change::AddDestination { service: key, destination }, None);
            }
        }
        daemons.into_iter().for_each(|daemon| self.add(Change::StartDaemon(daemon), None));
    }
}

/// No daemon: a line of a file must not depend on what is there.
struct Nobody;

impl Transport for Nobody {
    fn call(&mut self, _: &Request) -> Result<Reply, CallError> {
        Err(CallError::Failed("nobody is asked".into()))
    }
}

/// All flags by name, also those that ipvsadm has none for.
fn flag_names(scheduler: &str, flags: SchedulerFlags) -> String {
    let set = scheduler_flags(scheduler).filter(|(flag, _)| flags.contains(*flag));
    set.map(|(_, name)| name).collect::<Vec<_>>().join(",")
}
