//! Part `newconn`: every packet opens a connection, in a table whose memory has all been used before.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dataplane::conn::Method;
use dpdk_sys::{Mempool, tsc};
use indicatif::ProgressBar;

use crate::Bench;
use crate::director::Director;
use crate::generator::{Generator, Order};
use crate::report::{Report, Subject};
use crate::traffic::{Phase, Protocol, Sender, Stream};

const SCHEDULER: &str = "rr";
const FRAME_BYTES: usize = 60;

/// The modes there are: new connections come from clients.
const MODES: [(&str, Method); 2] = [("dr", Method::DirectRouting), ("nat-in", Method::Nat)];

/// Longer than the timeout of a connection of which one packet has been seen.
const LATER_SECONDS: u32 = 600;

/// How many steps [`run`] makes `progress` go.
pub fn steps(bench: &Bench) -> u64 {
    (bench.protocols.len() * MODES.len() * (1 + bench.runs)) as u64
}

/// Measures every combination and adds the figures to `report`.
pub fn run(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &ProgressBar) {
    for &protocol in &bench.protocols {
        let outcome = measure(bench, protocol, pool, report, progress)
            .with_context(|| format!("new connections, {}", protocol.name()));
        if let Err(error) = outcome {
            report.fail(&error);
        }
    }
}

fn measure(
    bench: &Bench,
    protocol: Protocol,
    pool: &Mempool,
    report: &mut Report,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let stream = Stream::new(protocol, Sender::Clients, Phase::Opening, FRAME_BYTES)?;
    let mut directors = Vec::new();
    for (mode, method) in MODES {
        progress.set_message(format!("newconn {}: filling the table, {mode}", protocol.name()));
        let generator = Generator::new(pool.clone(), stream.clone());
        let mut director = Director::new(method, SCHEDULER, bench.capacity, generator, bench.hertz)?;
        // The kernel gives memory when it is first written to; that is not what is to be measured.
        open(&mut director, &stream, 0, bench.capacity)?;
        expire(&mut director)?;
        progress.inc(1);
        directors.push((mode, director, Vec::new(), Vec::new(), Vec::new()));
    }
    for run in 0..bench.runs as u32 {
        for (mode, director, opening, ending, refused) in &mut directors {
            progress.set_message(format!("newconn {}: {mode}", protocol.name()));
            // Other flows in every run, so that they are in other buckets.
            let first = run * bench.new_connections;
            let count = f64::from(bench.new_connections);
            let lost = director.lost();
            opening.push(open(director, &stream, first, bench.new_connections)? as f64 / count);
            refused.push((director.lost() - lost) as f64 / count * 1e6);
            ending.push(expire(director)? as f64 / count);
            progress.inc(1);
        }
    }
    for (mode, _, opening, ending, refused) in directors {
        let subject = Subject {
            part: "newconn",
            mode,
            protocol: protocol.name(),
            flows: bench.new_connections,
            frame_bytes: FRAME_BYTES,
            workers: 1,
            capacity: bench.capacity,
            scheduler: SCHEDULER,
        };
        let rates = opening.iter().map(|cycles| bench.hertz as f64 / cycles).collect();
        report.add(&subject, "cycles_per_connection", "cycles", opening);
        report.add(&subject, "connections_per_second", "connections/s", rates);
        report.add(&subject, "cycles_per_expiry", "cycles", ending);
        report.add(&subject, "refused", "per million", refused);
    }
    Ok(())
}

/// Opens connections with a packet each, `count` but for those that a nearly full table refuses: the cycles it took.
fn open(director: &mut Director, stream: &Stream, first: u32, count: u32) -> anyhow::Result<u64> {
    let (before, lost) = (director.connections(), director.lost());
    let start = tsc();
    director.pass(stream.clone(), Order::InTurn(first), count as usize)?;
    let cycles = tsc() - start;
    let (opened, lost) = (director.connections() - before, director.lost() - lost);
    ensure!(
        opened + lost == u64::from(count),
        "{opened} connections opened, {lost} lost, by {count} packets"
    );
    Ok(cycles)
}

/// Lets every connection's time run out: the cycles it took to end them all.
fn expire(director: &mut Director) -> anyhow::Result<u64> {
    director.skip(LATER_SECONDS);
    let (start, limit) = (tsc(), Instant::now() + Duration::from_secs(60));
    while director.connections() > 0 {
        // Asking how many are left costs more than a round does.
        for _ in 0..64 {
            director.poll();
        }
        if Instant::now() > limit {
            bail!("{} connections do not end although their time is up", director.connections());
        }
    }
    Ok(tsc() - start)
}
