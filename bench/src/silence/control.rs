//! Silence of control's making: a large service table published over and over, lists and statistics read over and over.
//!
//! Control is the daemon's: its engine behind its socket, on a core of its own, asked by a client as `lbctl` is. Worker and
//! control share what they share in the daemon, and nothing else.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use control::client::{Client, Transport};
use control::engine;
use control::model::{Change, DestinationSpec, Protocol as ServiceProtocol, ServiceSpec, VirtualService};
use control::protocol::{Outcome, Reply, Request};
use control::server::{Server, SocketOptions};
use control::workers::{Surroundings, Workers};
use crossbeam::utils::CachePadded;
use dataplane::conn::Method;
use dataplane::service::Services;
use dataplane::time::Clock;
use dpdk_sys::{Mempool, tsc};
use tokio::sync::oneshot;

use super::{Figures, Watch, subject};
use crate::director::{Director, Site};
use crate::generator::{Generator, Order};
use crate::newconn::{FRAME_BYTES, SCHEDULER};
use crate::progress::Progress;
use crate::report::Report;
use crate::traffic::{self, Phase, Protocol, SERVERS, Sender, Stream};
use crate::{Bench, machine};

/// Destinations of each service.
const DESTINATIONS: u32 = 10;

/// Changes in one request, so that its line is not too long for the socket.
const BATCH: usize = 2000;

/// How often everything is asked for, for one figure. A request takes so long that the machine may well pause while it does;
/// it must not do so every time.
fn repeats(bench: &Bench) -> usize {
    if bench.quick { 5 } else { 8 }
}

/// The daemon looks at rates, and frees what nobody uses any more, so often.
const TICK: Duration = Duration::from_secs(1);

/// The service that the traffic is for is the first; each of the others has its own address.
fn service(number: u32) -> VirtualService {
    let (first, port) = traffic::SERVICE;
    let address =
        if number == 0 { first } else { Ipv4Addr::from(u32::from_be_bytes([100, 64, 0, 0]) + number) };
    VirtualService::Address { protocol: ServiceProtocol::Udp, address: address.into(), port }
}

/// Destination `place` of service `number`. Of the first service, the real servers that there are, and two more that get no
/// connections.
fn destination(number: u32, place: u32, weight: u32) -> DestinationSpec {
    let (address, weight): (IpAddr, u32) = match (number, u8::try_from(place)) {
        (0, Ok(server)) if server < SERVERS => (traffic::server(server).0.into(), weight),
        (0, _) => (Ipv4Addr::new(192, 0, 2, 100 + place as u8).into(), 0),
        _ => {
            let first = u32::from_be_bytes([10, 128, 0, 0]);
            (Ipv4Addr::from(first + number * DESTINATIONS + place).into(), weight)
        }
    };
    DestinationSpec { weight, ..DestinationSpec::new(address, traffic::SERVICE.1) }
}

/// The changes that make the table.
fn table(services: u32) -> Vec<Change> {
    let of_service = |number| {
        let spec = ServiceSpec { scheduler: SCHEDULER.to_owned(), ..ServiceSpec::new(service(number)) };
        let destinations = (0..DESTINATIONS).map(move |place| Change::AddDestination {
            service: service(number),
            destination: destination(number, place, 1),
        });
        std::iter::once(Change::AddService(spec)).chain(destinations)
    };
    (0..services).flat_map(of_service).collect()
}

/// What control is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// Publishes the table, with a few changes each time that are undone again.
    Publish,
    /// Reads all connections, all services with their statistics, and the workers' counters.
    List,
}

impl Activity {
    fn name(self) -> &'static str {
        match self {
            Activity::Publish => "publish",
            Activity::List => "list",
        }
    }

    /// What is asked for one after the other. Afterwards all is as before, so that it can be asked again.
    fn requests(self, services: u32) -> Vec<Request> {
        let weights = |weight| {
            // The service that has traffic, and some that are spread over the table.
            let changed = (0..services).step_by((services as usize / 10).max(1));
            let edit = |number| Change::EditDestination {
                service: service(number),
                destination: destination(number, 0, weight),
            };
            Request::Batch(changed.map(edit).collect())
        };
        let last = services - 1;
        let DestinationSpec { address, port, .. } = destination(last, DESTINATIONS - 1, 1);
        let (service, destination) = (service(last), destination(last, DESTINATIONS - 1, 1));
        match self {
            Activity::Publish => vec![
                weights(2),
                Request::Change(Change::DeleteDestination { service, address, port }),
                Request::Change(Change::AddDestination { service, destination }),
                weights(1),
            ],
            Activity::List => {
                vec![
                    Request::Connections,
                    Request::Services { service: None },
                    Request::Counters,
                    Request::Status,
                ]
            }
        }
    }
}

/// Milliseconds that making the table takes, and a run of an activity.
fn durations(bench: &Bench) -> (u64, u64) {
    let (services, listed) = (u64::from(bench.services), u64::from(bench.listed));
    (100 + services / 10, repeats(bench) as u64 * (services / 100 + listed / 500) + 10)
}

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    let (table, run) = durations(bench);
    table + 2 * super::runs(bench) as u64 * run
}

/// Measures both and adds the figures to `report`.
pub fn run(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) {
    if let Err(error) = measure(bench, pool, report, progress).context("silence while control is busy") {
        report.fail(&error);
    }
}

fn measure(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
    let [_, other_core] = bench.two_cores()?;
    let directory = tempfile::tempdir().context("cannot make a directory for a socket")?;
    let socket = directory.path().join("socket");
    let destinations = bench.services * DESTINATIONS;
    let (capacity, hertz) = (bench.listed + 1024, bench.hertz);
    let (site, mut seats) =
        Site::new((Method::DirectRouting, Services::default()), capacity, 2 * destinations as usize, 1)?;
    let seat = seats.pop().context("no place for the worker")?;
    let blank = Stream::new(Protocol::Udp, Sender::Clients, Phase::Established, FRAME_BYTES)?;
    let generator = Generator::new(pool.clone(), blank.clone());
    let mut director = Director::on(seat, generator.clone(), generator, Method::DirectRouting, hertz);
    thread::scope(|scope| {
        let board = Arc::new(Board::default());
        let (stop, stopped) = oneshot::channel();
        let daemon = {
            let socket = &socket;
            spawn(scope, "control", other_core, move || serve(site, destinations, hertz, socket, stopped))?
        };
        let worker = || -> anyhow::Result<()> {
            progress.say(format!("silence: making a table of {} services", bench.services));
            let mut asking = Asking { scope, board, socket: &socket, core: other_core };
            asking.whole_table(bench, &mut director)?;
            director.open(Protocol::Udp, bench.listed)?;
            director.generator().send(blank.clone(), Order::Random(bench.listed), usize::MAX)?;
            let (table, run) = durations(bench);
            progress.done(table);
            for activity in [Activity::Publish, Activity::List] {
                let (mut figures, mut rest) = (Figures::default(), Figures::default());
                let mut lengths = Vec::new();
                for _ in progress.runs("silence", super::runs(bench), run) {
                    progress.say(format!("silence: {}", activity.name()));
                    let requests = activity.requests(bench.services);
                    let (busy, length) = asking.repeats(&requests, None, bench, &mut director)?;
                    let (idle, _) = asking.repeats(&requests, Some(length), bench, &mut director)?;
                    figures.add(&busy, hertz);
                    rest.add(&idle, hertz);
                    lengths.push(length.as_secs_f64() * 1e3);
                }
                director.few_lost()?;
                let subject = subject(activity.name(), bench.listed, capacity);
                figures.report(Some(rest), report, &subject);
                report.add(&subject, "request_takes", "ms", lengths);
            }
            Ok(())
        };
        let outcome = worker();
        // Where the daemon has ended by itself, it says why below.
        let _ = stop.send(());
        let daemon = daemon.join().map_err(|_| anyhow!("control has panicked"));
        daemon??;
        outcome
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    core: usize,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'scope,
) -> anyhow::Result<ScopedJoinHandle<'scope, anyhow::Result<T>>> {
    let run = move || {
        machine::pin(core)?;
        work()
    };
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run).context("cannot start a thread")
}

/// The daemon's control thread: engine, socket, and what it does once a second.
fn serve(
    site: Site,
    destinations: u32,
    hertz: u64,
    socket: &Path,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let Site { shared, publisher, snapshot, counters } = site;
    let clock = Clock::new(tsc(), hertz);
    let counters = counters.into_iter().enumerate().map(|(core, counters)| (core as u32, counters));
    let surroundings = Surroundings {
        now: Box::new(move || clock.tick(tsc())),
        ports: Box::new(Vec::new),
        wait: Box::new(|| std::thread::sleep(Duration::from_micros(20))),
        servers: Box::new(|_| ()),
        interfaces: Box::new(|_| None),
    };
    let workers = Workers::new(shared, publisher, snapshot, counters.collect(), surroundings);
    let director = engine::Director::new(workers, 2 * destinations, Instant::now());
    let director = Rc::new(RefCell::new(director));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind(SocketOptions::new(socket))?;
        let ticks = async {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let mut director = director.borrow_mut();
                director.tick(Instant::now());
                director.dataplane().collect();
            }
        };
        tokio::select! {
            () = server.run(director.clone(), async { let _ = stopped.await; }) => Ok(()),
            () = ticks => Ok(()),
        }
    })
}

/// Where the worker sees how far the client has got.
#[derive(Default)]
struct Board {
    step: CachePadded<AtomicUsize>,
    over: AtomicBool,
}

/// Says that the client is done, however it ended.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A client that asks on another core while the caller polls.
struct Asking<'scope, 'env, 'path> {
    scope: &'scope thread::Scope<'scope, 'env>,
    board: Arc<Board>,
    socket: &'path Path,
    core: usize,
}

impl<'scope, 'path: 'scope> Asking<'scope, '_, 'path> {
    /// Polls `director` until a client has done `work`, which is given the socket and says how far it has got. What was seen
    /// in these `steps`.
    fn while_it<T: Send + 'scope>(
        &mut self,
        steps: usize,
        hertz: u64,
        director: &mut Director,
        work: impl FnOnce(&mut Client, &dyn Fn(usize)) -> anyhow::Result<T> + Send + 'scope,
    ) -> anyhow::Result<(Watch, T)> {
        self.board.step.store(0, Ordering::Relaxed);
        self.board.over.store(false, Ordering::Relaxed);
        let (board, socket) = (self.board.clone(), self.socket);
        let client = spawn(self.scope, "client", self.core, move || {
            let _over = Over(&board.over);
            work(&mut Client::new(socket), &|step| board.step.store(step, Ordering::Relaxed))
        })?;
        let mut watch = Watch::begin(steps, hertz);
        watch.start(tsc());
        while !self.board.over.load(Ordering::Acquire) {
            watch.enter(self.board.step.load(Ordering::Relaxed));
            let now = tsc();
            watch.poll(now);
            director.poll_when(now);
        }
        let result = client.join().map_err(|_| anyhow!("the client has panicked"))??;
        Ok((watch, result))
    }

    /// Makes the table, and sees that it is there.
    fn whole_table(&mut self, bench: &Bench, director: &mut Director) -> anyhow::Result<()> {
        let changes = table(bench.services);
        let services = bench.services as usize;
        self.while_it(1, bench.hertz, director, move |client, _| {
            // Control is on its way.
            let start = Instant::now();
            while client.call(&Request::Status).is_err() && start.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(1));
            }
            for batch in changes.chunks(BATCH) {
                ask(client, &Request::Batch(batch.to_vec()))?;
            }
            match client.call(&Request::Status)? {
                Reply::Status(status) => {
                    let counts = status.table;
                    ensure!(
                        (counts.services, counts.destinations)
                            == (services, services * DESTINATIONS as usize),
                        "the table has {} services and {} destinations",
                        counts.services,
                        counts.destinations
                    );
                }
                _ => bail!("control answers something else when asked how it is"),
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Asks for `requests` one after the other, and all over again: what was seen each time, and how long a request took.
    /// Given a length, nothing is asked for, and every step is as long as that: the core is kept busy, as it would be, by
    /// something that shares nothing with the worker.
    fn repeats(
        &mut self,
        requests: &[Request],
        length: Option<Duration>,
        bench: &Bench,
        director: &mut Director,
    ) -> anyhow::Result<(Vec<Watch>, Duration)> {
        let (mut seen, mut taken) = (Vec::new(), Duration::ZERO);
        for _ in 0..repeats(bench) {
            let requests = requests.to_vec();
            let (watch, time) = self.while_it(requests.len(), bench.hertz, director, move |client, at| {
                let start = Instant::now();
                for (step, request) in requests.iter().enumerate() {
                    at(step);
                    match length {
                        None => ask(client, request)?,
                        Some(length) => spin(length),
                    }
                }
                Ok(start.elapsed())
            })?;
            seen.push(watch);
            taken += time;
        }
        Ok((seen, taken / (repeats(bench) * requests.len()) as u32))
    }
}

fn spin(length: Duration) {
    let start = Instant::now();
    while start.elapsed() < length {
        std::hint::spin_loop();
    }
}

/// Has `request` done, which control must not refuse.
fn ask(client: &mut Client, request: &Request) -> anyhow::Result<()> {
    let reply = client.call(request)?;
    if let Reply::Batch(outcomes) = &reply
        && let Some(Outcome::Error(error)) = outcomes.iter().find(|outcome| **outcome != Outcome::Done)
    {
        bail!("control refuses a change: {}", error.message);
    }
    Ok(())
}
