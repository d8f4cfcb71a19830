//! ipvsadm's lists, column by column.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use dataplane::schedule;

use super::cut;
use super::names::Names;
use super::parse::Format;
use super::sort;
use crate::model::{
    Encapsulation, Family, ForwardingMethod, Granularity, Protocol, Rates, SchedulerFlags, ServiceSpec,
    Stats, SyncDaemon, Timeouts, Tunnel, TunnelChecksum, VirtualService, scheduler_flags,
};
use crate::protocol::{DestinationEntry, ServiceEntry, Services};
use crate::running::ConnectionRow;

/// The version of IPVS whose lists these are.
pub const IPVS_VERSION: &str = "1.2.1";
/// Bytes an IPv4 service's and destination's name may have in a list.
const SERVICE_WIDTH: usize = 33;
const DESTINATION_WIDTH: usize = 28;
/// Bytes any `address:port` may have.
const NAME_LENGTH: usize = 59;

/// Every service, with the version line and the title.
pub fn all(out: &mut dyn Write, list: Services, format: Format, names: &mut dyn Names) -> io::Result<()> {
    writeln!(out, "IP Virtual Server version {IPVS_VERSION} (size={})", list.connection_buckets)?;
    title(out, format)?;
    let services = if format.no_sort {
        // In the table's order, but for marks, which are in another table of the kernel's: it gives them last.
        let (marks, addresses): (Vec<_>, Vec<_>) = list
            .services
            .into_iter()
            .partition(|entry| matches!(entry.service.service, VirtualService::Mark { .. }));
        addresses.into_iter().chain(marks).collect()
    } else {
        sort::services(list.services)
    };
    services.into_iter().try_for_each(|entry| service(out, entry, format, names))
}

/// One service, with the title.
pub fn one(
    out: &mut dyn Write,
    entry: ServiceEntry,
    format: Format,
    names: &mut dyn Names,
) -> io::Result<()> {
    title(out, format)?;
    service(out, entry, format, names)
}

/// The timeouts.
pub fn timeouts(out: &mut dyn Write, t: Timeouts) -> io::Result<()> {
    writeln!(out, "Timeout (tcp tcpfin udp): {} {} {}", t.tcp, t.tcp_fin, t.udp)
}

/// The synchronisation daemons, one a line.
pub fn daemons(out: &mut dyn Write, daemons: &[SyncDaemon]) -> io::Result<()> {
    for daemon in daemons {
        write!(out, "{} sync daemon (mcast={}, syncid={}", daemon.role, daemon.interface, daemon.sync_id)?;
        let mut field = |name: &str, value: Option<&dyn Display>| match value {
            Some(value) => write!(out, ", {name}={value}"),
            None => Ok(()),
        };
        field("maxlen", daemon.max_length.as_ref().map(|v| v as _))?;
        field("group", daemon.group.as_ref().map(|v| v as _))?;
        field("port", daemon.port.as_ref().map(|v| v as _))?;
        field("ttl", daemon.ttl.as_ref().map(|v| v as _))?;
        writeln!(out, ")")?;
    }
    Ok(())
}

/// Connections, with their title, in the order they come.
pub fn connections(
    out: &mut dyn Write,
    rows: &[ConnectionRow],
    format: Format,
    names: &mut dyn Names,
) -> io::Result<()> {
    writeln!(out, "IPVS connection entries")?;
    let (state, source, virtual_address, destination) = ("state", "source", "virtual", "destination");
    write!(out, "pro expire {state:<11} {source:<18} {virtual_address:<18} ")?;
    if format.persistent_conn {
        writeln!(out, "{destination:<18} {:<16} pe_data", "pe name")?;
    } else {
        writeln!(out, "{destination}")?;
    }
    for row in rows {
        let mut name = |address: SocketAddr| endpoint(address, row.protocol, format.numeric, names);
        let source = name(row.client);
        let virtual_address = name(row.virtual_address);
        let destination = name(row.destination);
        // The kernel's table calls a template of a mark IP.
        let protocol = row.protocol.map_or("IP".to_owned(), |p| p.to_string());
        let expires = format!("{:02}:{:02}", row.expires / 60, row.expires % 60);
        write!(out, "{protocol:<3} {expires:<6} {:<11} {source:<18} {virtual_address:<18} ", row.state)?;
        match &row.engine {
            Some(engine) if format.persistent_conn => {
                writeln!(out, "{destination:<16} {:<18} {}", engine.name, engine.data)?;
            }
            _ => writeln!(out, "{destination}")?,
        }
    }
    Ok(())
}

fn title(out: &mut dyn Write, format: Format) -> io::Result<()> {
    let local = "Prot LocalAddress:Port";
    let counters = |out: &mut dyn Write, [a, b, c, d, e]: [&str; 5]| {
        writeln!(out, "{local:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n  -> RemoteAddress:Port")
    };
    if format.stats {
        counters(out, ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"])
    } else if format.rate {
        counters(out, ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"])
    } else if format.thresholds {
        writeln!(out, "{local:<33} Uthreshold Lthreshold ActiveConn InActConn \n  -> RemoteAddress:Port")
    } else if format.persistent_conn {
        writeln!(out, "{local:<33} Weight    PersistConn ActiveConn InActConn \n  -> RemoteAddress:Port")
    } else {
        let tunnel = if format.tunnel_info { "TunnelInfo    " } else { "" };
        let server = "  -> RemoteAddress:Port           Forward";
        writeln!(out, "{local} Scheduler Flags\n{server} {tunnel}Weight ActiveConn InActConn")
    }
}

fn service(
    out: &mut dyn Write,
    entry: ServiceEntry,
    format: Format,
    names: &mut dyn Names,
) -> io::Result<()> {
    let spec = &entry.service;
    let name = service_name(&spec.service, format.numeric, names);
    if format.stats {
        writeln!(out, "{name:<33}{}", numbers(stats_columns(&entry.stats), format.exact))?;
    } else if format.rate {
        writeln!(out, "{name:<33}{}", numbers(rate_columns(&entry.rates), format.exact))?;
    } else {
        writeln!(out, "{name} {}", attributes(spec))?;
    }
    let destinations =
        if format.no_sort { entry.destinations } else { sort::destinations(entry.destinations) };
    let protocol = spec.service.protocol();
    destinations.iter().try_for_each(|d| destination(out, d, protocol, format, names))
}

fn service_name(service: &VirtualService, numeric: bool, names: &mut dyn Names) -> String {
    match *service {
        // The kernel's marks are unsigned; ipvsadm prints them as signed.
        VirtualService::Mark { mark, family: Family::Ipv4 } => format!("FWM  {}", mark as i32),
        VirtualService::Mark { mark, family: Family::Ipv6 } => format!("FWM  {} IPv6", mark as i32),
        VirtualService::Address { protocol, address, port } => {
            let name = endpoint(SocketAddr::new(address, port), Some(protocol), numeric, names);
            let name = format!("{protocol:<4} {name}");
            if address.is_ipv4() { cut(&name, SERVICE_WIDTH) } else { name }
        }
        VirtualService::Range(range) => format!("{:<4} {range}", range.protocol),
    }
}

/// Scheduler, flags, persistence, one-packet, how clients are announced, maximum segment size.
fn attributes(spec: &ServiceSpec) -> String {
    let mut text = spec.scheduler.clone();
    if !spec.flags.is_empty() {
        let _ = write!(text, " ({})", flag_names(&spec.scheduler, spec.flags));
    }
    if let Some(persistence) = spec.persistence {
        let _ = write!(text, " persistent {}", persistence.timeout_seconds);
        if persistence.granularity != Granularity::whole(spec.service.family()) {
            let _ = write!(text, " mask {}", granularity(persistence.granularity));
        }
        if let Some(engine) = &spec.engine {
            let _ = write!(text, " pe {engine}");
        }
    }
    if spec.one_packet {
        text.push_str(" ops");
    }
    if let Some(announce) = spec.announce {
        let _ = write!(text, " announce {}", announce.word());
    }
    if let Some(mss) = spec.mss {
        let _ = write!(text, " mss {mss}");
    }
    text
}

fn destination(
    out: &mut dyn Write,
    entry: &DestinationEntry,
    protocol: Option<Protocol>,
    format: Format,
    names: &mut dyn Names,
) -> io::Result<()> {
    let spec = &entry.destination;
    let name = endpoint(SocketAddr::new(spec.address, spec.port), protocol, format.numeric, names);
    let name = if spec.address.is_ipv4() { cut(&name, DESTINATION_WIDTH) } else { name };
    let DestinationEntry { active, inactive, persistent, .. } = entry;
    write!(out, "  -> {name:<28}")?;
    if format.stats {
        return writeln!(out, "{}", numbers(stats_columns(&entry.stats), format.exact));
    }
    if format.rate {
        let [cps, inpps, outpps, inbps, outbps] = rate_columns(&entry.rates);
        let bytes = numbers([inbps, outbps], format.exact);
        return writeln!(out, " {cps:>8} {inpps:>8} {outpps:>8}{bytes}");
    }
    let connections = format!("{active:<10} {inactive:<10}");
    if format.thresholds {
        let (upper, lower) = (spec.upper_threshold, spec.lower_threshold);
        return writeln!(out, " {upper:<10} {lower:<10} {connections}");
    }
    if format.persistent_conn {
        return writeln!(out, " {:<9} {persistent:<11} {connections}", spec.weight);
    }
    write!(out, " {:<7} ", method_name(spec.method))?;
    if format.tunnel_info {
        write!(out, "{:<13} ", tunnel_info(spec.method, &spec.tunnel))?;
    }
    writeln!(out, "{:<6} {connections}", spec.weight)
}

fn method_name(method: ForwardingMethod) -> &'static str {
    match method {
        ForwardingMethod::Local => "Local",
        ForwardingMethod::Masquerade => "Masq",
        ForwardingMethod::Tunnel => "Tunnel",
        ForwardingMethod::DirectRouting => "Route",
        ForwardingMethod::FullNat => "FullNat",
    }
}

/// What a tunnelled packet is wrapped in, as `--tun-info` prints it.
pub fn tunnel_info(method: ForwardingMethod, tunnel: &Tunnel) -> String {
    if method != ForwardingMethod::Tunnel {
        return "n/a".to_owned();
    }
    let checksum = match tunnel.checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match tunnel.encapsulation {
        Encapsulation::Ipip => "ipip".to_owned(),
        Encapsulation::Gue => format!("gue:{}:{checksum}", tunnel.port),
        Encapsulation::Gre => format!("gre:{checksum}"),
    }
}

/// The names of `flags`, which depend on the scheduler: as with ipvsadm, of one that has flags of its own no others.
pub fn flag_names(scheduler: &str, flags: SchedulerFlags) -> String {
    let own = schedule::flag_names(scheduler);
    let is_named = |name: &str| own.is_empty() || own.contains(&name);
    let set = scheduler_flags(scheduler).filter(|(flag, name)| flags.contains(*flag) && is_named(name));
    set.map(|(_, name)| name).collect::<Vec<_>>().join(",")
}

/// A persistence mask or prefix length.
pub fn granularity(granularity: Granularity) -> String {
    match granularity {
        Granularity::Mask(mask) => mask.to_string(),
        Granularity::Prefix(length) => length.to_string(),
    }
}

/// `address:port`, by number or by name.
pub fn endpoint(
    endpoint: SocketAddr,
    protocol: Option<Protocol>,
    numeric: bool,
    names: &mut dyn Names,
) -> String {
    let (address, port) = (endpoint.ip(), endpoint.port());
    let known = |name: Option<String>, number: String| if numeric { number } else { name.unwrap_or(number) };
    let host = if numeric { None } else { names.host(address) };
    let host = known(host, address.to_string());
    let service = if numeric { None } else { protocol.and_then(|protocol| names.service(port, protocol)) };
    let service = known(service, port.to_string());
    let text = match address {
        IpAddr::V4(_) => format!("{host}:{service}"),
        IpAddr::V6(_) => format!("[{host}]:{service}"),
    };
    cut(&text, NAME_LENGTH)
}

fn stats_columns(stats: &Stats) -> [u64; 5] {
    [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes]
}

fn rate_columns(rates: &Rates) -> [u64; 5] {
    [rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes]
}

fn numbers<const N: usize>(columns: [u64; N], exact: bool) -> String {
    columns.map(|n| large(n, exact)).concat()
}

/// A number in nine columns: in thousands and so on where it is too long, or with more columns if it must be
/// exact.
fn large(n: u64, exact: bool) -> String {
    if exact {
        let digits = n.to_string();
        let width = if digits.len() <= 8 { 9 } else { digits.len() + 1 };
        return format!("{digits:>width$}");
    }
    match n {
        0..=99_999_999 => format!("{n:>9}"),
        100_000_000..=999_999_999 => format!("{:>8}K", n / 1_000),
        1_000_000_000..=99_999_999_999 => format!("{:>8}M", n / 1_000_000),
        100_000_000_000..=99_999_999_999_999 => format!("{:>8}G", n / 1_000_000_000),
        _ => format!("{:>8}T", n / 1_000_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_take_nine_columns() {
        let cases = [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (99_999_999_999_999, "   99999G"),
            (100_000_000_000_000, "     100T"),
        ];
        for (n, text) in cases {
            assert_eq!(large(n, false), text);
        }
        assert_eq!(large(12_345_678, true), " 12345678");
        assert_eq!(large(123_456_789, true), " 123456789");
        assert_eq!(large(u64::MAX, true), " 18446744073709551615");
    }

    #[test]
    fn ipv4_names_are_cut_and_ipv6_names_are_not() {
        struct Long;
        impl Names for Long {
            fn address(&mut self, _: &str) -> Option<std::net::Ipv4Addr> {
                None
            }
            fn port(&mut self, _: &str, _: Protocol) -> Option<u16> {
                None
            }
            fn host(&mut self, _: IpAddr) -> Option<String> {
                Some("a-rather-long-name.of-a-host.example.com".to_owned())
            }
            fn service(&mut self, _: u16, _: Protocol) -> Option<String> {
                None
            }
        }
        let service = |address: &str| VirtualService::Address {
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port: 80,
        };
        assert_eq!(service_name(&service("10.0.0.1"), false, &mut Long), "TCP  a-rather-long-name.of-a-host");
        let v6 = service_name(&service("::1"), false, &mut Long);
        assert_eq!(v6, "TCP  [a-rather-long-name.of-a-host.example.com]:80");
    }

    #[test]
    fn daemons_are_listed_with_what_they_have() {
        let daemon = SyncDaemon {
            role: crate::model::SyncRole::Master,
            interface: "e1".into(),
            sync_id: 3,
            max_length: Some(1000),
            group: Some("224.0.0.90".parse().unwrap()),
            port: Some(8850),
            ttl: Some(3),
        };
        let mut out = Vec::new();
        daemons(&mut out, &[daemon]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "master sync daemon (mcast=e1, syncid=3, maxlen=1000, group=224.0.0.90, port=8850, ttl=3)\n"
        );
    }
}
