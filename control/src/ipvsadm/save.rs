//! The rules that make a table: what `-S` prints and `-R` reads.
//!
//! As in ipvsadm, thresholds, timeouts and daemons are not among them.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;

use super::list::{endpoint, flag_names, granularity};
use super::names::{Names, NoNames};
use super::parse::Format;
use super::sort;
use crate::model::{
    DestinationSpec, Encapsulation, Family, ForwardingMethod, Granularity, Protocol, SchedulerFlags,
    ServiceSpec, TunnelChecksum, VirtualService,
};
use crate::protocol::Services;

/// Prints the rules of every service.
pub fn rules(out: &mut dyn Write, list: Services, format: Format, names: &mut dyn Names) -> io::Result<()> {
    for entry in sort::services(list.services) {
        let key = entry.service.service;
        let name = service_name(&key, format.numeric, names);
        writeln!(out, "-A {name} -s {}", attributes(&entry.service, flag_names))?;
        for d in sort::destinations(entry.destinations) {
            let spec = d.destination;
            let server = SocketAddr::new(spec.address, spec.port);
            let server = endpoint(server, key.protocol(), format.numeric, names);
            writeln!(out, "-a {name} -r {server} {}", destination(&spec))?;
        }
    }
    Ok(())
}

fn service_name(service: &VirtualService, numeric: bool, names: &mut dyn Names) -> String {
    match *service {
        VirtualService::Mark { mark, family: Family::Ipv4 } => format!("-f {}", mark as i32),
        VirtualService::Mark { mark, family: Family::Ipv6 } => format!("-f {} -6", mark as i32),
        VirtualService::Address { protocol, address, port } => {
            let name = endpoint(SocketAddr::new(address, port), Some(protocol), numeric, names);
            format!("{} {name}", protocol_option(protocol))
        }
        VirtualService::Range(range) => format!("{} {range}", protocol_option(range.protocol)),
    }
}

fn protocol_option(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    }
}

/// The option that names `service`, with numbers, as `-A` reads it.
pub fn option(service: &VirtualService) -> String {
    match *service {
        // As ipvsadm prints them, marks above 2147483647 cannot be read.
        VirtualService::Mark { mark, family: Family::Ipv4 } => format!("-f {mark}"),
        VirtualService::Mark { mark, family: Family::Ipv6 } => format!("-f {mark} -6"),
        VirtualService::Address { .. } | VirtualService::Range(_) => {
            service_name(service, true, &mut NoNames)
        }
    }
}

/// A service's scheduler and whatever options follow it; `flag_names` says how flags are called.
pub fn attributes(spec: &ServiceSpec, flag_names: fn(&str, SchedulerFlags) -> String) -> String {
    let mut text = spec.scheduler.clone();
    if let Some(persistence) = spec.persistence {
        let _ = write!(text, " -p {}", persistence.timeout_seconds);
        if persistence.granularity != Granularity::whole(spec.service.family()) {
            let _ = write!(text, " -M {}", granularity(persistence.granularity));
        }
    }
    if let Some(engine) = &spec.engine {
        let _ = write!(text, " --pe {engine}");
    }
    if spec.one_packet {
        text.push_str(" -o");
    }
    if let Some(announce) = spec.announce {
        let _ = write!(text, " --announce {}", announce.word());
    }
    if let Some(mss) = spec.mss {
        let _ = write!(text, " --mss {mss}");
    }
    if !spec.flags.is_empty() {
        let _ = write!(text, " -b {}", flag_names(&spec.scheduler, spec.flags));
    }
    text
}

/// A destination's method, weight and tunnel options.
pub fn destination(spec: &DestinationSpec) -> String {
    let method = match spec.method {
        ForwardingMethod::Masquerade => "-m",
        ForwardingMethod::Tunnel => "-i",
        ForwardingMethod::FullNat => "--fullnat",
        ForwardingMethod::Local | ForwardingMethod::DirectRouting => "-g",
    };
    let rule = format!("{method} -w {}", spec.weight);
    if spec.method != ForwardingMethod::Tunnel {
        return rule;
    }
    let checksum = match spec.tunnel.checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    };
    match spec.tunnel.encapsulation {
        Encapsulation::Ipip => format!("{rule} --tun-type ipip"),
        Encapsulation::Gue => {
            format!("{rule} --tun-type gue --tun-port {} {checksum}", spec.tunnel.port)
        }
        Encapsulation::Gre => format!("{rule} --tun-type gre {checksum}"),
    }
}
