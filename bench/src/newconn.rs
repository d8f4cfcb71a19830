//! Part `newconn`: every packet opens a connection, in a table whose memory has all been used before.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use dataplane::conn::Method;
use dataplane::schedule;
use dpdk_sys::{Mempool, tsc};

use crate::Bench;
use crate::director::Director;
use crate::generator::{Generator, Order};
use crate::progress::Progress;
use crate::report::{Report, Subject};
use crate::traffic::{Phase, Protocol, Sender, Stream};

/// The scheduler where it does not matter.
pub const SCHEDULER: &str = "rr";
/// The length of the frames: the shortest.
pub const FRAME_BYTES: usize = 60;

/// The modes there are, by their methods: new connections come from clients.
pub const METHODS: [(&str, Method); 2] = [("dr", Method::DirectRouting), ("nat-in", Method::Nat)];

/// What is measured. How a destination is found does not depend on the method, so one is enough for another scheduler.
const MODES: [(&str, Method, &str); 4] = [
    ("dr", Method::DirectRouting, SCHEDULER),
    ("nat-in", Method::Nat, SCHEDULER),
    ("fullnat-in", Method::FullNat, SCHEDULER),
    ("dr", Method::DirectRouting, "mh"),
];

/// Longer than the timeout of a connection of which one packet has been seen.
const LATER_SECONDS: u32 = 600;

/// Milliseconds that filling and emptying a table takes.
fn fill(bench: &Bench) -> u64 {
    20 + u64::from(bench.capacity) / 2500
}

/// Milliseconds that a run of a mode takes.
fn one(bench: &Bench) -> u64 {
    u64::from(bench.new_connections) / 2500 + 1
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    (bench.protocols.len() * MODES.len()) as u64 * (fill(bench) + bench.runs as u64 * one(bench))
}

/// Measures every combination and adds the figures to `report`.
pub fn run(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) {
    for &protocol in &bench.protocols {
        let least = MODES.len() as u64 * (fill(bench) + one(bench));
        if !progress.allows(|| format!("newconn: {}", protocol.name()), least) {
            continue;
        }
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
    progress: &Progress,
) -> anyhow::Result<()> {
    let stream = Stream::new(protocol, Sender::Clients, Phase::Opening, FRAME_BYTES)?;
    let mut directors = Vec::new();
    for (mode, method, scheduler) in MODES {
        progress.say(format!("newconn {}: filling the table, {mode} by {scheduler}", protocol.name()));
        if schedule::by_name(scheduler).is_none() {
            report.fail(&anyhow!("new connections by {scheduler}: there is no such scheduler"));
            continue;
        }
        let generator = Generator::new(pool.clone(), stream.clone());
        let mut director = Director::new(method, scheduler, bench.capacity, generator, bench.hertz)?;
        // The kernel gives memory when it is first written to; that is not what is to be measured.
        open(&mut director, &stream, 0, bench.capacity)?;
        expire(&mut director)?;
        progress.done(fill(bench));
        directors.push(Measured {
            mode,
            scheduler,
            director,
            opening: Vec::new(),
            ending: Vec::new(),
            refused: Vec::new(),
        });
    }
    for run in progress.runs("newconn", bench.runs, directors.len() as u64 * one(bench)) {
        // Each run begins with another one, so that none always comes after the same.
        let place = run % directors.len().max(1);
        let (last, first) = directors.split_at_mut(place);
        for measured in first.iter_mut().chain(last) {
            let Measured { mode, scheduler, director, opening, ending, refused } = measured;
            progress.say(format!("newconn {}: {mode} by {scheduler}", protocol.name()));
            // Other flows in every run, so that they are in other buckets.
            let first = run as u32 * bench.new_connections;
            let count = f64::from(bench.new_connections);
            let lost = director.lost();
            opening.push(open(director, &stream, first, bench.new_connections)? as f64 / count);
            refused.push((director.lost() - lost) as f64 / count * 1e6);
            ending.push(expire(director)? as f64 / count);
        }
    }
    for Measured { mode, scheduler, opening, ending, refused, .. } in directors {
        let subject = Subject {
            part: "newconn",
            mode,
            protocol: protocol.name(),
            flows: bench.new_connections,
            frame_bytes: FRAME_BYTES,
            workers: 1,
            capacity: bench.capacity,
            scheduler,
        };
        let rates = opening.iter().map(|cycles| bench.hertz as f64 / cycles).collect();
        report.add(&subject, "cycles_per_connection", "cycles", opening);
        report.add(&subject, "connections_per_second", "connections/s", rates);
        report.add(&subject, "cycles_per_expiry", "cycles", ending);
        report.add(&subject, "refused", "per million", refused);
    }
    Ok(())
}

/// A director, and what it has cost so far.
struct Measured {
    mode: &'static str,
    scheduler: &'static str,
    director: Director,
    opening: Vec<f64>,
    ending: Vec<f64>,
    refused: Vec<f64>,
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
