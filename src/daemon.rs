//! The order in which the daemon starts and stops.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use control::config::{Account, Config};
use control::engine::Director;
use control::model::Change;
use control::network::{Fixed, Handle, Mirror};
use control::protocol::Request;
use control::server::{Server, SocketOptions};
use control::workers::{Surroundings, Workers, interface_mtu};
use crossbeam::queue::ArrayQueue;
use dataplane::conn::ConnectionTable;
use dataplane::counters::WorkerCounters;
use dataplane::destination::Destinations;
use dataplane::fragments::{NOTES, Notes};
use dataplane::network::Network;
use dataplane::snapshot::{self, Snapshot};
use dataplane::time::Clock;
use dataplane::wire::DpdkWire;
use dataplane::worker::{Kernel, Port, Shared, Vlan, Worker};
use dpdk_sys::{Eal, tsc};
use nix::unistd::{Group, User};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use crate::kernel::{self, KernelInterface};
use crate::links::{self, Link};
use crate::{eal, ports, workers};

/// Requests of workers for neighbours that wait to be passed on.
const REQUESTS: usize = 1024;

/// How long Linux may take to tell its routes and neighbours.
const FIRST_NETWORK: Duration = Duration::from_secs(5);

/// How often rates are looked at, and what nobody uses any more is freed.
const TICK: Duration = Duration::from_secs(1);

/// How long to rest while workers take a new snapshot.
const SETTLING: Duration = Duration::from_micros(20);

/// Runs the daemon until it is told to stop. `cores` are those it may use.
pub fn run(config: &Config, cores: &[usize]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        // Before any device is touched: another director may have them.
        let options = socket_options(config)?;
        let _directory = Directory::of(&config.control.socket)?;
        let server = Server::bind(options)?;
        let eal = eal::start(config, cores)?;
        let stopped = async {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: stopping"),
                _ = interrupt.recv() => info!("SIGINT: stopping"),
            }
        };
        let outcome = serve(config, &eal, server, stopped).await;
        match eal.cleanup() {
            Ok(()) if outcome.is_ok() => info!("stopped; every mbuf came back"),
            Ok(()) => {}
            Err(left) => warn!("stopped; DPDK is left as it is: {left}"),
        }
        outcome
    })
}

/// Everything between the start and the end of the EAL.
async fn serve(
    config: &Config,
    eal: &Eal,
    server: Server,
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (ports, wires) = ports::open(eal, config)?;
    let links = Rc::new(links::of(config, &ports));
    let ports = Rc::new(ports);
    let kernels = links.iter().map(KernelInterface::make).collect::<anyhow::Result<Vec<_>>>()?;
    for link in links.iter() {
        link.bring_up().await?;
    }
    let fixed = Fixed::new(config, |port| links[usize::from(port.0)].mac);
    let (mirror, resolver, mut networks) = Mirror::new(links::interfaces(&links), fixed);
    let clock = Clock::new(tsc(), eal.tsc_hz());
    let shared = shared(config)?;
    let first = Arc::new(Snapshot { network: networks.borrow_and_update().clone(), ..Snapshot::default() });
    let (publisher, subscribers) = snapshot::channel(config.cores.len(), &first);
    let counters: Vec<_> = config.cores.iter().map(|_| Arc::new(WorkerCounters::default())).collect();

    let running = workers_of((config, wires), &links, &kernels, &shared, subscribers, &counters, clock);
    let threads = Threads::start(config, eal, running, clock, kernels, &shared, &resolver)?;

    let dataplane = Workers::new(
        shared,
        publisher,
        first,
        config.cores.iter().map(|core| *core as u32).zip(counters).collect(),
        Surroundings {
            now: Box::new(move || clock.tick(tsc())),
            ports: {
                let (ports, links, queues) = (ports.clone(), links, config.cores.len() as u16);
                let info = move |(number, link): (usize, &Link)| link.info(number, &ports, queues);
                Box::new(move || links.iter().enumerate().filter_map(&info).collect())
            },
            wait: Box::new(|| std::thread::sleep(SETTLING)),
            servers: Box::new(move |servers| resolver.set_kept(servers.iter().copied().collect())),
            interfaces: Box::new(interface_mtu),
        },
    )
    .with_table_sizes(config.schedulers);
    let mut director = Director::new(dataplane, config.connections.destinations, Instant::now());
    configure(config, &mut director)?;
    let director = Rc::new(RefCell::new(director));
    let (outcome, threads) = control(config, mirror, networks, server, director, threads, stopped).await;
    // Nothing more can be told to systemd where there is none.
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    threads.join();
    let ports = Rc::into_inner(ports).ok_or_else(|| anyhow!("the ports are still in use"))?;
    for port in ports {
        let name = port.config.name.clone();
        if let Err(error) = port.close() {
            warn!(port = name, %error, "the port does not close");
        }
    }
    outcome
}

/// Serves the socket, follows Linux, and watches over the threads, until one of them ends or the daemon is to stop.
async fn control(
    config: &Config,
    mirror: Mirror,
    mut networks: watch::Receiver<Arc<Network>>,
    server: Server,
    director: Rc<RefCell<Director<Workers>>>,
    mut threads: Threads,
    stopped: impl Future<Output = ()>,
) -> (anyhow::Result<()>, Threads) {
    let publish_networks = async {
        let follows_linux = config.links().any(|(_, interface)| interface.is_some());
        if follows_linux && timeout(FIRST_NETWORK, networks.changed()).await.is_err() {
            warn!("Linux has not told its routes and neighbours within {} s", FIRST_NETWORK.as_secs());
        }
        publish_network(&director, &mut networks);
        ready(config);
        while networks.changed().await.is_ok() {
            publish_network(&director, &mut networks);
        }
        std::future::pending::<()>().await;
    };
    let ticks = async {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut director = director.borrow_mut();
            director.tick(Instant::now());
            director.dataplane().collect();
        }
    };
    let outcome = tokio::select! {
        () = server.run(director.clone(), stopped) => Ok(()),
        Err(error) = mirror.run() => Err(error.into()),
        Some(core) = threads.ended.recv() => Err(anyhow!("the worker on core {core} has ended; its log says why")),
        () = publish_networks => Ok(()),
        () = ticks => Ok(()),
    };
    (outcome, threads)
}

/// Makes what the configuration file says so.
fn configure(config: &Config, director: &mut Director<Workers>) -> anyhow::Result<()> {
    let set = |&(name, value): &(&'static str, _)| Change::SetSysctl { name: name.to_owned(), value };
    let marks = config.marks.iter().cloned().map(Change::AddMark);
    let locals = config.local_addresses.iter().cloned().map(Change::AddLocalAddresses);
    let snat = config.snat.iter().cloned().map(|rule| Change::AddSnat { rule, position: None });
    let changes: Vec<_> = config.sysctls.iter().map(set).chain(marks).chain(locals).chain(snat).collect();
    if !changes.is_empty() {
        director
            .handle(&Request::Transaction(changes), Instant::now())
            .context("[sysctl], [[mark]], [[local_address]] and [[snat]]")?;
    }
    Ok(())
}

fn publish_network(director: &RefCell<Director<Workers>>, networks: &mut watch::Receiver<Arc<Network>>) {
    let network = networks.borrow_and_update().clone();
    director.borrow_mut().dataplane_mut().set_network(network);
}

fn ready(config: &Config) {
    info!(workers = config.cores.len(), ports = config.ports.len(), "ready");
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        warn!(%error, "cannot tell systemd that director is ready");
    }
}

/// The threads that carry packets.
struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<usize>,
}

impl Threads {
    fn start(
        config: &Config,
        eal: &Eal,
        running: Vec<Worker<DpdkWire>>,
        clock: Clock,
        kernels: Vec<Option<KernelInterface>>,
        shared: &Shared,
        resolver: &Handle,
    ) -> anyhow::Result<Self> {
        let (sender, ended) = mpsc::unbounded_channel();
        let mut threads = Self { stop: Arc::default(), handles: Vec::new(), ended };
        for (worker, core) in running.into_iter().zip(&config.cores) {
            let stop = threads.stop.clone();
            threads.handles.push(workers::start(worker, *core, clock, eal.handle(), stop, sender.clone())?);
        }
        let interfaces: Vec<_> = kernels.into_iter().flatten().collect();
        let (requests, resolver, stop) = (shared.requests.clone(), resolver.clone(), threads.stop.clone());
        let eal = eal.handle();
        let carrier = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || kernel::carry(&interfaces, &requests, &resolver, &eal, &stop))
            .context("cannot start the thread for the kernel interfaces")?;
        threads.handles.push(carrier);
        Ok(threads)
    }

    fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.handles.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                error!(thread = name, "the thread has panicked");
            }
        }
    }
}

impl Drop for Threads {
    /// Also where the start fails halfway.
    fn drop(&mut self) {
        self.end();
    }
}

fn workers_of(
    (config, mut wires): (&Config, Vec<VecDeque<DpdkWire>>),
    links: &[Link],
    kernels: &[Option<KernelInterface>],
    shared: &Shared,
    subscribers: Vec<snapshot::Subscriber<Snapshot>>,
    counters: &[Arc<WorkerCounters>],
    clock: Clock,
) -> Vec<Worker<DpdkWire>> {
    let mut running = Vec::new();
    for (number, (subscriber, counters)) in subscribers.into_iter().zip(counters).enumerate() {
        // What Linux sends is sent by the first worker, so that it stays in order.
        let kernel = |kernel: &Option<KernelInterface>| {
            kernel.as_ref().map(|kernel| Kernel {
                to: kernel.to.clone(),
                from: (number == 0).then(|| kernel.from.clone()),
            })
        };
        let queues = wires.iter_mut().filter_map(VecDeque::pop_front).zip(links).zip(kernels);
        let ports = queues.map(|((wire, link), side)| Port {
            mac: link.mac,
            mtu: link.mtu,
            wire,
            kernel: kernel(side),
        });
        let ports: Vec<_> = ports.collect();
        let behind = links.iter().zip(kernels).skip(ports.len());
        let vlans = config.vlans.iter().zip(behind).map(|(vlan, (link, side))| Vlan {
            port: vlan.port,
            id: vlan.id,
            tags: vlan.tags,
            mac: link.mac,
            mtu: link.mtu,
            kernel: kernel(side),
        });
        let now = clock.tick(tsc());
        let worker = Worker::new(number, ports, shared, subscriber, counters.clone(), now);
        running.push(worker.with_vlans(vlans.collect()));
    }
    running
}

fn shared(config: &Config) -> anyhow::Result<Shared> {
    let (sizes, workers) = (&config.connections, config.cores.len());
    Ok(Shared {
        table: ConnectionTable::new(sizes.buckets as usize, sizes.capacity, workers)
            .map(Arc::new)
            .context("cannot reserve the connection table; choose smaller [connections]")?,
        destinations: Destinations::new(sizes.destinations as usize, workers)
            .map(Arc::new)
            .context("cannot reserve the destinations; choose fewer in [connections]")?,
        fragments: Notes::new(NOTES).map(Arc::new).context("no memory for notes of fragments")?,
        requests: Arc::new(ArrayQueue::new(REQUESTS)),
    })
}

fn socket_options(config: &Config) -> anyhow::Result<SocketOptions> {
    let control = &config.control;
    let mut options = SocketOptions::new(&control.socket);
    options.mode = control.mode;
    options.group = control.group.as_ref().map(group).transpose()?;
    options.change_uids = control.change.iter().map(user).collect::<anyhow::Result<_>>()?;
    Ok(options)
}

/// The socket's directory, where it was not there before: it goes with the daemon.
struct Directory(Option<PathBuf>);

impl Directory {
    fn of(socket: &Path) -> anyhow::Result<Self> {
        let Some(directory) = socket.parent().filter(|directory| !directory.exists()) else {
            return Ok(Self(None));
        };
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the socket's directory {}", directory.display()))?;
        Ok(Self(Some(directory.to_owned())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            // It stays where others have put something into it.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

fn group(account: &Account) -> anyhow::Result<u32> {
    match account {
        Account::Id(id) => Ok(*id),
        Account::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            _ => bail!("[control] group: there is no group {name}; groupadd makes one"),
        },
    }
}

fn user(account: &Account) -> anyhow::Result<u32> {
    match account {
        Account::Id(id) => Ok(*id),
        Account::Name(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            _ => bail!("[control] change: there is no user {name}; useradd makes one"),
        },
    }
}
