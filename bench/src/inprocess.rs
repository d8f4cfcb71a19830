//! Part `inprocess`: established connections, at random, through the real worker, against a MAC swap on the same wire.

use anyhow::{Context, ensure};
use dataplane::conn::Method;
use dataplane::time::Clock;
use dataplane::wire::{Burst, Frame, Wire};
use dpdk_sys::{Mempool, tsc};

use crate::director::{self, Director, Site};
use crate::generator::{Generator, Order, Unwrapping};
use crate::limit::Limit;
use crate::progress::Progress;
use crate::report::{Report, Subject};
use crate::traffic::{Phase, Protocol, SERVERS, Sender, Stream};
use crate::{Bench, Mode, machine};

const SCHEDULER: &str = "rr";

/// Bytes that a connection takes at most, in entries, buckets and timers, rounded up.
const BYTES_PER_CONNECTION: u64 = 256;

/// Tables with a connection for each flow that there are at once; by FULLNAT one takes two entries.
const TABLES: u64 = 6;

/// Milliseconds that it takes to open so many flows.
fn opening(flows: u32) -> u64 {
    50 + u64::from(flows) / 1000
}

/// Milliseconds that a run of all modes takes.
fn one(bench: &Bench) -> u64 {
    (bench.packets * bench.modes.len()) as u64 / 20_000 + 1
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    let runs = (bench.frames.len() * bench.runs) as u64 * one(bench);
    let of_protocol: u64 = bench.flows.iter().map(|flows| opening(*flows) + runs).sum();
    bench.protocols.len() as u64 * of_protocol
}

/// Measures every combination and adds the figures to `report`.
pub fn run(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) {
    for &protocol in &bench.protocols {
        for &flows in &bench.flows {
            let needed = TABLES * u64::from(flows) * BYTES_PER_CONNECTION;
            if machine::available_memory().is_some_and(|available| available < needed) {
                report.note(format!("inprocess: {flows} flows left out; they need {needed} bytes of memory"));
                continue;
            }
            let least = opening(flows) + bench.frames.len() as u64 * one(bench);
            if !progress.allows(|| format!("inprocess: {} with {flows} flows", protocol.name()), least) {
                continue;
            }
            let outcome = measure(bench, protocol, flows, pool, report, progress)
                .with_context(|| format!("{} with {flows} flows", protocol.name()));
            if let Err(error) = outcome {
                report.fail(&error);
            }
        }
    }
}

fn measure(
    bench: &Bench,
    protocol: Protocol,
    flows: u32,
    pool: &Mempool,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    let capacity = flows.max(1024);
    let blank = Stream::new(protocol, Sender::Clients, Phase::Established, 60)?;
    let opened = |method, name| {
        progress.say(format!("inprocess {}: opening {flows} flows, {name}", protocol.name()));
        let generator = Generator::new(pool.clone(), blank.clone());
        let mut director = Director::new(method, SCHEDULER, capacity, generator, bench.hertz)?;
        director.open(protocol, flows)?;
        anyhow::Ok(director)
    };
    let mut dr = opened(Method::DirectRouting, "dr")?;
    let mut nat = opened(Method::Nat, "nat")?;
    let mut tun = {
        progress.say(format!("inprocess {}: opening {flows} flows, tun", protocol.name()));
        let generator = Generator::new(pool.clone(), blank.clone());
        let services = director::services(Method::Tunnel, SCHEDULER)?;
        let (_, mut seats) = Site::new((Method::Tunnel, services), capacity, 2 * usize::from(SERVERS), 1)?;
        let seat = seats.pop().context("no place for the one worker")?;
        let wire = Unwrapping(generator.clone());
        let mut director = Director::on(seat, wire, generator, Method::Tunnel, bench.hertz);
        director.open(protocol, flows)?;
        director
    };
    // In no order, as the other modes' flows come.
    let mut fullnat = {
        progress.say(format!("inprocess {}: opening {flows} flows, fullnat", protocol.name()));
        let generator = Generator::new(pool.clone(), blank.clone());
        Director::new(Method::FullNat, SCHEDULER, capacity, generator, bench.hertz)?
    };
    let answers = fullnat.open_fullnat(protocol, flows)?;
    let mut swapper = Generator::new(pool.clone(), blank.clone());
    let generator = Generator::new(pool.clone(), blank.clone());
    let clock = Clock::new(tsc(), bench.hertz);
    let mut limit = Limit::new(generator, protocol, flows, director::buckets(capacity))?;
    progress.done(opening(flows));

    for &frame_bytes in &bench.frames {
        let established = |from: Sender<'_>| Stream::new(protocol, from, Phase::Established, frame_bytes);
        let from_clients = established(Sender::Clients)?;
        let from_servers = established(Sender::Servers(nat.turns()))?;
        let to_locals = established(Sender::Answering(&answers))?;
        let random = Order::Random(flows);
        // Its flows are in no order as they are; to choose among them at random would cost the generator a cache miss for each.
        let round = Order::Round { next: 0, flows: answers.len() as u32 };
        dr.check(from_clients.clone(), Mode::Dr, random.clone())?;
        nat.check(from_clients.clone(), Mode::NatIn, random.clone())?;
        nat.check(from_servers.clone(), Mode::NatOut, random.clone())?;
        tun.check(from_clients.clone(), Mode::Tun, random.clone())?;
        fullnat.check(from_clients.clone(), Mode::FullnatIn, random.clone())?;
        fullnat.check(to_locals.clone(), Mode::FullnatOut, round.clone())?;

        let mut cycles: Vec<_> = bench.modes.iter().map(|_| Vec::with_capacity(bench.runs)).collect();
        let mut lost = cycles.clone();
        for run in progress.runs("inprocess", bench.runs, one(bench)) {
            // The modes take turns, so that what else the machine does meets all of them, and begin with another one
            // in every run, so that none always comes after the same.
            for place in 0..bench.modes.len() {
                let which = (place + run) % bench.modes.len();
                let mode = bench.modes[which];
                progress.say(format!(
                    "inprocess {}: {flows} flows, {frame_bytes} bytes, {}",
                    protocol.name(),
                    mode.name()
                ));
                let (generator, stream, order) = match mode {
                    Mode::Macswap => (&swapper, &from_clients, &random),
                    Mode::Limit | Mode::LimitBare => (limit.wire(), &from_clients, &random),
                    Mode::Dr => (dr.generator(), &from_clients, &random),
                    Mode::NatIn => (nat.generator(), &from_clients, &random),
                    Mode::NatOut => (nat.generator(), &from_servers, &random),
                    Mode::Tun => (tun.generator(), &from_clients, &random),
                    Mode::FullnatIn => (fullnat.generator(), &from_clients, &random),
                    Mode::FullnatOut => (fullnat.generator(), &to_locals, &round),
                };
                generator.send(stream.clone(), order.clone(), usize::MAX)?;
                let (before, found) = (dr.lost() + nat.lost() + tun.lost() + fullnat.lost(), limit.found());
                let (taken, frames) = match mode {
                    Mode::Macswap => time(bench.packets, || macswap(&mut swapper)),
                    Mode::Limit => time(bench.packets, || limit.poll::<true>(clock.tick(tsc()))),
                    Mode::LimitBare => time(bench.packets, || limit.poll::<false>(clock.tick(tsc()))),
                    Mode::Dr => time(bench.packets, || dr.poll()),
                    Mode::NatIn | Mode::NatOut => time(bench.packets, || nat.poll()),
                    Mode::Tun => time(bench.packets, || tun.poll()),
                    Mode::FullnatIn | Mode::FullnatOut => time(bench.packets, || fullnat.poll()),
                };
                let all_lost = dr.lost() + nat.lost() + tun.lost() + fullnat.lost();
                if mode.is_yardstick() && mode != Mode::Macswap {
                    ensure!(
                        limit.found() - found == frames as u64,
                        "the limit loop did not find every packet"
                    );
                }
                cycles[which].push(taken);
                lost[which].push((all_lost - before) as f64 / frames as f64 * 1e6);
            }
        }
        dr.few_lost()?;
        nat.few_lost()?;
        tun.few_lost()?;
        fullnat.few_lost()?;
        // The MAC swap comes first.
        let swaps = &cycles[0];
        let of = |mode| bench.modes.iter().position(|is| *is == mode).map(|at| &cycles[at]);
        let limits = [("ratio_to_limit", of(Mode::Limit)), ("ratio_to_limit_bare", of(Mode::LimitBare))];
        for ((mode, lost), cycles) in bench.modes.iter().zip(lost).zip(&cycles) {
            let subject = Subject {
                part: "inprocess",
                mode: mode.name(),
                protocol: protocol.name(),
                flows,
                frame_bytes,
                workers: 1,
                capacity,
                scheduler: SCHEDULER,
            };
            let rates = cycles.iter().map(|cycles| bench.hertz as f64 / cycles).collect();
            let ratios = cycles.iter().zip(swaps).map(|(cycles, swap)| cycles / swap).collect();
            report.add(&subject, "cycles_per_packet", "cycles", cycles.clone());
            report.add(&subject, "packets_per_second", "packets/s", rates);
            let over =
                |cycles: &[f64]| cycles.iter().zip(swaps).map(|(cycles, swap)| cycles - swap).collect();
            let added: Vec<f64> = over(cycles);
            report.add(&subject, "ratio_to_macswap", "1", ratios);
            if *mode != Mode::Macswap {
                report.add(&subject, "cycles_over_macswap", "cycles", added.clone());
            }
            for (metric, limits) in limits.iter().filter(|_| !mode.is_yardstick()) {
                let Some(limits) = limits else { continue };
                let ratios = added.iter().zip(over(limits)).map(|(added, limit)| added / limit).collect();
                report.add(&subject, metric, "1", ratios);
            }
            report.add(&subject, "lost", "per million", lost);
        }
    }
    Ok(())
}

/// Cycles per packet of `packets` of them or a few more, after an eighth as many that are not timed; and how many packets
/// it were in all.
fn time(packets: usize, mut poll: impl FnMut() -> usize) -> (f64, usize) {
    let mut cycles_of = |packets: usize| {
        let (mut done, start) = (0, tsc());
        while done < packets {
            done += poll();
        }
        ((tsc() - start) as f64 / done as f64, done)
    };
    let (_, before) = cycles_of(packets / 8);
    let (cycles, timed) = cycles_of(packets);
    (cycles, before + timed)
}

/// What a worker's round is measured against: a burst received, its MAC addresses swapped, and sent.
#[inline]
pub fn macswap(wire: &mut impl Wire) -> usize {
    let mut burst = Burst::new();
    wire.receive(&mut burst);
    let received = burst.len();
    for frame in &mut burst {
        if let Some((destination, rest)) = frame.data_mut().split_first_chunk_mut::<6>()
            && let Some(source) = rest.first_chunk_mut::<6>()
        {
            std::mem::swap(destination, source);
        }
    }
    wire.send(&mut burst);
    received
}
