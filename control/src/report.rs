//! What `lbctl` prints for its readable commands.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::protocol::Status;
use crate::running::{PortInfo, WorkerCounters};

/// Workers' counters: a column a worker, drops by name below.
pub fn counters(out: &mut dyn Write, workers: &[WorkerCounters]) -> io::Result<()> {
    let row = |out: &mut dyn Write, name: &str, of: &dyn Fn(&WorkerCounters) -> u64| {
        write!(out, "{name:<28}")?;
        for worker in workers {
            write!(out, " {:>16}", of(worker))?;
        }
        let total: u64 = workers.iter().map(of).sum();
        writeln!(out, " {total:>16}")
    };
    write!(out, "{:<28}", "packets")?;
    for worker in workers {
        write!(out, " {:>16}", format!("core {}", worker.core))?;
    }
    writeln!(out, " {:>16}", "total")?;
    row(out, "received", &|w| w.received)?;
    row(out, "forwarded", &|w| w.forwarded)?;
    if workers.iter().any(|w| w.unreachable != 0) {
        row(out, "  port unreachable", &|w| w.unreachable)?;
    }
    if workers.iter().any(|w| w.fragmentation_needed != 0) {
        row(out, "  fragmentation needed", &|w| w.fragmentation_needed)?;
    }
    if workers.iter().any(|w| w.time_exceeded != 0) {
        row(out, "  time exceeded", &|w| w.time_exceeded)?;
    }
    if workers.iter().any(|w| w.fragments != 0) {
        row(out, "fragments made", &|w| w.fragments)?;
    }
    row(out, "to kernel", &|w| w.to_kernel)?;
    row(out, "from kernel", &|w| w.from_kernel)?;
    row(out, "from kernel, not sent", &|w| w.from_kernel_dropped)?;
    let dropped = |w: &WorkerCounters| w.dropped.iter().map(|d| d.count).sum();
    row(out, "dropped", &dropped)?;
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for drop in workers.iter().flat_map(|w| &w.dropped) {
        *reasons.entry(&drop.name).or_default() += drop.count;
    }
    for (reason, _) in reasons.iter().filter(|(_, count)| **count != 0) {
        let of = |w: &WorkerCounters| w.dropped.iter().filter(|d| d.name == *reason).map(|d| d.count).sum();
        row(out, &format!("  {reason}"), &of)?;
    }
    Ok(())
}

/// Ports, a paragraph each.
pub fn ports(out: &mut dyn Write, ports: &[PortInfo]) -> io::Result<()> {
    for port in ports {
        let link = match (port.link_up, port.speed_mbps) {
            (false, _) => "down".to_owned(),
            (true, 0) => "up".to_owned(),
            (true, speed) => format!("up, {speed} Mbit/s"),
        };
        writeln!(out, "{}: link {link}", port.name)?;
        writeln!(out, "  device {} ({}), {}, {} queues", port.device, port.driver, port.mac, port.queues)?;
        let interface = port.kernel_interface.as_deref().unwrap_or("none");
        writeln!(out, "  kernel interface {interface}")?;
        for counter in &port.counters {
            writeln!(out, "  {:<26} {:>16}", counter.name, counter.count)?;
        }
    }
    Ok(())
}

/// The daemon's state.
pub fn status(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    let up = status.uptime_seconds;
    let (days, hours, minutes, seconds) = (up / 86_400, up / 3600 % 24, up / 60 % 60, up % 60);
    let table = &status.table;
    writeln!(out, "director {}, process {}", status.version, status.process)?;
    writeln!(out, "up            {days} d {hours:02}:{minutes:02}:{seconds:02}")?;
    writeln!(out, "workers       {}", status.workers)?;
    writeln!(out, "ports         {}", status.ports)?;
    writeln!(out, "services      {}", table.services)?;
    writeln!(
        out,
        "destinations  {} of {} ({} deleted ones still hold a place)",
        table.destinations, table.destination_limit, table.trashed_destinations
    )?;
    writeln!(out, "connections   {} buckets", status.connection_buckets)?;
    writeln!(out, "requests      {}", status.requests)
}
