//! Silence of a worker's own making: a million connections that expire in the same minute, and a new table that is filled.
//!
//! Time is made up, a tick every so many polls, so that a poll does the same each time that the same is done. That makes a
//! minute shorter, and the worker no less busy in it.

use anyhow::{Context, ensure};
use dataplane::conn::Method;
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::wire::BURST;
use dpdk_sys::{Mempool, tsc};

use super::{Figures, Watch, subject};
use crate::Bench;
use crate::director::Director;
use crate::generator::{Generator, Order};
use crate::newconn::{FRAME_BYTES, SCHEDULER};
use crate::progress::Progress;
use crate::report::Report;
use crate::traffic::{Phase, Protocol, Sender, Stream};

/// How often everything is done for one figure. A poll is so short that the machine hardly ever pauses in the same one again.
const REPEATS: usize = 3;

/// Flows that go on all the time.
const TRAFFIC: u32 = 8192;

/// In a minute.
const MINUTE: u32 = 60 * TICKS_PER_SECOND;

/// A UDP connection's timeout, which is the same for all that are opened.
const TIMEOUT: u32 = 300 * TICKS_PER_SECOND;

/// Polls in a tick while connections expire: four times those that a worker needs for what expires in it. It looks at as
/// many timers in a poll as there are packets in a burst.
fn polls(bench: &Bench) -> u32 {
    (4 * bench.expiring / (MINUTE * BURST as u32)).max(1)
}

/// The timing wheel does the same again after so many ticks, as far as timers of minutes are concerned.
const TURN: u32 = 1 << 14;

/// Milliseconds that a run of the first takes, and one of the second.
fn one(bench: &Bench) -> [u64; 2] {
    let expiring = u64::from(bench.expiring);
    [300 + expiring / 800, 30 + expiring / 1000]
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    super::runs(bench) as u64 * one(bench).iter().sum::<u64>()
}

/// Measures both and adds the figures to `report`.
pub fn run(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) {
    if let Err(error) = expire(bench, pool, report, progress).context("silence while connections expire") {
        report.fail(&error);
    }
    if let Err(error) = fill(bench, pool, report, progress).context("silence while a new table is filled") {
        report.fail(&error);
    }
}

/// A director and its time.
struct Story {
    director: Director,
    opening: Stream,
    now: Tick,
}

impl Story {
    fn new(bench: &Bench, pool: &Mempool) -> anyhow::Result<Self> {
        let opening = Stream::new(Protocol::Udp, Sender::Clients, Phase::Opening, FRAME_BYTES)?;
        let generator = Generator::new(pool.clone(), opening.clone());
        let capacity = capacity(bench);
        let director = Director::new(Method::DirectRouting, SCHEDULER, capacity, generator, bench.hertz)?;
        Ok(Self { director, opening, now: Tick::default() })
    }

    fn send(&self, order: Order, count: usize) -> anyhow::Result<()> {
        self.director.generator().send(self.opening.clone(), order, count)
    }

    /// Flows that go on from now on, whether they are open already or not.
    fn traffic(&self) -> anyhow::Result<()> {
        self.send(Order::Random(TRAFFIC), usize::MAX)
    }

    /// Opens flows `TRAFFIC` to `TRAFFIC + count - 1` within a minute.
    fn open(&mut self, count: u32, watch: &mut Watch) -> anyhow::Result<()> {
        self.send(Order::InTurn(TRAFFIC), count as usize)?;
        let (start, mut opened) = (self.now, 0);
        watch.start(tsc());
        for poll in 0.. {
            watch.enter(poll);
            watch.poll(tsc());
            opened += self.director.poll_at(self.now) as u32;
            self.now = start.after((u64::from(opened) * u64::from(MINUTE) / u64::from(count)) as u32);
            if !self.director.generator().has_more() {
                break;
            }
        }
        self.director.few_lost()
    }

    /// Polls until `end`, so many times in a tick.
    fn go_on(&mut self, end: Tick, polls: u32, watch: &mut Watch) {
        let mut step = 0;
        watch.start(tsc());
        while !self.now.reached(end) {
            for _ in 0..polls {
                watch.enter(step);
                watch.poll(tsc());
                self.director.poll_at(self.now);
                step += 1;
            }
            self.now = self.now.after(1);
        }
        watch.poll(tsc());
    }
}

fn capacity(bench: &Bench) -> u32 {
    bench.expiring + TRAFFIC + 1024
}

/// All steps that are not watched.
fn unwatched(bench: &Bench) -> Watch {
    Watch::begin(0, bench.hertz)
}

fn expire(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
    let message = |what: &str| progress.say(format!("silence: {} connections {what}", bench.expiring));
    message("expire");
    let mut story = Story::new(bench, pool)?;
    let polls = polls(bench);
    let minute = MINUTE + 2 * TICKS_PER_SECOND;
    let watch = || Watch::begin((minute * polls) as usize, bench.hertz);
    let (mut figures, mut rest) = (Figures::default(), Figures::default());
    for _ in progress.runs("silence", super::runs(bench), one(bench)[0]) {
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            story.traffic()?;
            // Shorter than the timeout, so that the traffic's connections stay.
            let start = Tick(story.now.0.next_multiple_of(TURN));
            story.now = start;
            story.go_on(start.after(TICKS_PER_SECOND), 32, &mut unwatched(bench));
            let others = story.director.connections();
            let opened_at = story.now;
            story.open(bench.expiring, &mut unwatched(bench))?;
            let opened = story.director.connections() - others;
            ensure!(opened * 20 > u64::from(bench.expiring) * 19, "only {opened} connections were opened");
            story.traffic()?;
            let before = opened_at.after(TIMEOUT - TICKS_PER_SECOND);
            while !story.now.reached(before) {
                story.director.poll_at(story.now);
                story.now = story.now.after(8);
            }
            let mut seen = watch();
            story.go_on(before.after(minute), polls, &mut seen);
            busy.push(seen);
            let left = story.director.connections();
            ensure!(left <= u64::from(TRAFFIC), "{left} connections are left when {TRAFFIC} should be");
            // The same again, with nothing that expires.
            let mut seen = watch();
            story.go_on(story.now.after(minute), polls, &mut seen);
            idle.push(seen);
        }
        figures.add(&busy, bench.hertz);
        rest.add(&idle, bench.hertz);
    }
    figures.report(Some(rest), report, &subject("expire", bench.expiring, capacity(bench)));
    Ok(())
}

fn fill(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
    progress.say(format!("silence: {} connections in a new table", bench.expiring));
    let mut figures = Figures::default();
    for _ in progress.runs("silence", super::runs(bench), one(bench)[1]) {
        let mut repeats = Vec::new();
        for _ in 0..REPEATS {
            let mut story = Story::new(bench, pool)?;
            let mut seen = Watch::begin(bench.expiring as usize / 16, bench.hertz);
            story.open(bench.expiring, &mut seen)?;
            repeats.push(seen);
        }
        figures.add(&repeats, bench.hertz);
    }
    figures.report(None, report, &subject("fill", bench.expiring, capacity(bench)));
    Ok(())
}
