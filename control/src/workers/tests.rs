//! Control over a worker that really runs, on a wire of queues: what is typed is what happens to the next packet.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use dataplane::conn::ConnectionTable;
use dataplane::destination::Destinations;
use dataplane::fragments::Notes;
use dataplane::network::{Adjacency, MacAddr, NextHop, PortId};
use dataplane::packet::{checksum, protocol};
use dataplane::snapshot;
use dataplane::wire::memory::MemoryFrame;
use dataplane::wire::{Burst, Frame, Wire};
use dataplane::worker::{Port, Worker};

use super::*;
use crate::engine::Director;
use crate::model::{
    Change, DestinationSpec, ForwardingMethod, Protocol, SchedulerFlags, ServiceSpec, VirtualService,
};
use crate::protocol::{Reply, Request};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);

/// A wire whose other end is in the test's hands.
struct QueueWire {
    incoming: Arc<ArrayQueue<MemoryFrame>>,
    sent: Arc<ArrayQueue<MemoryFrame>>,
}

impl Wire for QueueWire {
    type Frame = MemoryFrame;

    fn receive(&mut self, burst: &mut Burst<MemoryFrame>) {
        burst.extend(std::iter::from_fn(|| self.incoming.pop()).take(1));
    }

    fn send(&mut self, burst: &mut Burst<MemoryFrame>) {
        burst.drain(..).for_each(|frame| drop(self.sent.force_push(frame)));
    }
}

struct Scene {
    director: Director<Workers>,
    incoming: Arc<ArrayQueue<MemoryFrame>>,
    sent: Arc<ArrayQueue<MemoryFrame>>,
    shared: Shared,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
    client: u16,
}

impl Scene {
    fn new() -> Self {
        Self::for_destinations(8)
    }

    fn for_destinations(limit: u32) -> Self {
        let queue = || Arc::new(ArrayQueue::new(64));
        let (incoming, sent) = (queue(), queue());
        let shared = Shared {
            table: Arc::new(ConnectionTable::new(64, 64, 1).unwrap()),
            destinations: Arc::new(Destinations::new(limit as usize, 1).unwrap()),
            fragments: Arc::new(Notes::new(8).unwrap()),
            requests: Arc::new(ArrayQueue::new(4)),
        };
        let first = Arc::new(Snapshot { network: Arc::new(network(MAC)), ..Snapshot::default() });
        let (publisher, mut subscribers) = snapshot::channel(1, &first);
        let counters = Arc::new(Counters::default());
        let wire = QueueWire { incoming: incoming.clone(), sent: sent.clone() };
        let ports = vec![Port { mac: MAC, mtu: 1500, wire, kernel: None }];
        let mut worker = Worker::new(0, ports, &shared, subscribers.remove(0), counters.clone(), Tick(0));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let worker = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                worker.poll(Tick(0));
                std::thread::yield_now();
            }
        });
        let surroundings = Surroundings {
            now: Box::new(|| Tick(0)),
            ports: Box::new(Vec::new),
            wait: Box::new(std::thread::yield_now),
            servers: Box::new(|_| {}),
            interfaces: Box::new(interface_mtu),
        };
        let workers = Workers::new(shared.clone(), publisher, first, vec![(1, counters)], surroundings);
        let director = Director::new(workers, limit, Instant::now());
        Self { director, incoming, sent, shared, stop, worker: Some(worker), client: 0 }
    }

    fn request(&mut self, request: &Request) -> Result<Reply, String> {
        self.director.handle(request, Instant::now()).map_err(|refusal| refusal.to_string())
    }

    fn change(&mut self, change: Change) -> Result<(), String> {
        self.request(&Request::Change(change)).map(drop)
    }

    fn service(&mut self, scheduler: &str) -> Change {
        Change::AddService(ServiceSpec { scheduler: scheduler.into(), ..ServiceSpec::new(key()) })
    }

    /// A new connection's SYN: the last byte of the address of the server it went to, if it went to one.
    fn connect(&mut self) -> Option<u8> {
        self.client += 1;
        self.send(self.client, 2)
    }

    fn connect_many(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.connect().expect("a server")).collect()
    }

    /// A packet from this port of the client, with these TCP flags.
    fn send(&mut self, client: u16, flags: u8) -> Option<u8> {
        let before = self.done();
        self.incoming.push(MemoryFrame::new(&segment(client, flags))).unwrap();
        while self.done() == before {
            std::thread::yield_now();
        }
        // To nobody, where the client is told so.
        let is_error = |frame: &MemoryFrame| frame.data()[14 + 9] == protocol::ICMP;
        self.sent.pop().filter(|frame| !is_error(frame)).map(|frame| frame.data()[14 + 19])
    }

    /// Frames that have found their end.
    fn done(&self) -> u64 {
        let count =
            |w: &WorkerCounters| w.forwarded + w.to_kernel + w.dropped.iter().map(|d| d.count).sum::<u64>();
        self.director.dataplane().counters().iter().map(count).sum()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            worker.join().unwrap();
        }
    }
}

impl std::ops::Drop for Scene {
    fn drop(&mut self) {
        self.halt();
    }
}

fn key() -> VirtualService {
    VirtualService::Address { protocol: Protocol::Tcp, address: VIP.into(), port: 80 }
}

fn server(last: u8, weight: u32) -> DestinationSpec {
    let address = IpAddr::from([192, 0, 2, last]);
    DestinationSpec { weight, method: ForwardingMethod::Masquerade, ..DestinationSpec::new(address, 80) }
}

fn add(last: u8, weight: u32) -> Change {
    Change::AddDestination { service: key(), destination: server(last, weight) }
}

fn edit(last: u8, weight: u32) -> Change {
    Change::EditDestination { service: key(), destination: server(last, weight) }
}

fn delete(last: u8) -> Change {
    Change::DeleteDestination { service: key(), address: [192, 0, 2, last].into(), port: 80 }
}

fn network(server_mac: MacAddr) -> Network {
    let mut network = Network::default();
    let hop = Some(NextHop { port: PortId(0), gateway: Some([192, 0, 2, 1].into()) });
    network.set_routes([("0.0.0.0/0".parse().unwrap(), hop)]);
    let adjacency = Adjacency::new(PortId(0), MAC, server_mac);
    network.set_neighbour([192, 0, 2, 1].into(), adjacency);
    network
}

/// TCP from 203.0.113.9 to the VIP, with no more in it than its headers.
fn segment(client: u16, flags: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 203, 0, 113, 9];
    ip.extend(VIP.octets());
    let check = checksum::verify(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let mut tcp = [client.to_be_bytes(), [0, 80]].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    [&MAC.0[..], &MAC.0, &[8, 0], &ip, &tcp].concat()
}

/// As a Linux kernel chose, with r1 = .101, r2 = .102 and r3 = .103 (tests/data/sched/wrr.txt of the dataplane).
const KERNEL: [&[u8]; 4] = [
    &[103, 102, 101, 103, 103, 102, 103, 102],
    &[102, 101, 102, 102, 101, 102, 102, 101],
    &[103, 102, 101, 103, 103, 102, 103, 102],
    &[103, 102, 103, 103, 102, 103, 102, 103],
];

#[test]
fn the_next_connection_follows_each_change() {
    let mut scene = Scene::new();
    let service = scene.service("wrr");
    for change in [service, add(101, 1), add(102, 2), add(103, 3)] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect_many(8), KERNEL[0]);
    scene.change(edit(103, 0)).unwrap();
    assert_eq!(scene.connect_many(8), KERNEL[1]);
    scene.change(edit(103, 3)).unwrap();
    assert_eq!(scene.connect_many(8), KERNEL[2]);
    scene.change(delete(101)).unwrap();
    assert_eq!(scene.connect_many(8), KERNEL[3]);
}

#[test]
fn a_batch_is_as_good_as_its_lines_one_by_one() {
    let mut scene = Scene::new();
    let changes = vec![scene.service("wrr"), add(101, 1), add(102, 2), add(103, 3)];
    scene.request(&Request::Batch(changes)).unwrap();
    assert_eq!(scene.connect_many(8), KERNEL[0]);
}

#[test]
fn turns_are_kept_by_edits_and_forgotten_with_the_service() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    for change in [service.clone(), add(101, 1), add(102, 1)] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect_many(1), [102]);
    scene.change(edit(102, 5)).unwrap();
    assert_eq!(scene.connect_many(1), [101]);
    for change in [Change::DeleteService(key()), service, add(101, 1), add(102, 1)] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect_many(1), [102]);
}

#[test]
fn an_edit_that_changes_nothing_starts_a_new_round() {
    let mut scene = Scene::new();
    let service = scene.service("wrr");
    for change in [service, add(101, 1), add(102, 1), add(103, 1)] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect_many(2), [103, 102]);
    scene.change(edit(102, 1)).unwrap();
    assert_eq!(scene.connect_many(2), [103, 102]);
}

#[test]
fn a_server_gets_no_more_than_its_upper_threshold_allows() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    let limited = |upper_threshold, lower_threshold| DestinationSpec {
        upper_threshold,
        lower_threshold,
        ..server(102, 1)
    };
    let edit = |upper, lower| Change::EditDestination { service: key(), destination: limited(upper, lower) };
    let add_limited = Change::AddDestination { service: key(), destination: limited(2, 1) };
    for change in [service, add(101, 1), add_limited] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect_many(6), [102, 101, 102, 101, 101, 101]);
    scene.change(edit(3, 1)).unwrap();
    assert_eq!(scene.connect_many(4), [102, 101, 101, 101], "a higher limit counts at once");
    scene.change(edit(2, 0)).unwrap();
    assert_eq!(scene.connect_many(2), [101, 101], "a lower one lifts nothing");
    scene.change(edit(0, 0)).unwrap();
    assert_eq!(scene.connect_many(2), [102, 101], "no limit");
    scene.change(edit(2, 0)).unwrap();
    assert_eq!(scene.connect_many(3), [102, 101, 101], "a new one counts from the next connection on");
    assert_eq!(scene.shared.destinations.load(1).active(), 5);
}

#[test]
fn scheduler_flags_can_be_edited() {
    let mut scene = Scene::new();
    let with = |flags| ServiceSpec { scheduler: "sh".into(), flags, ..ServiceSpec::new(key()) };
    scene.change(Change::AddService(with(SchedulerFlags::default()))).unwrap();
    for change in [add(101, 1), add(102, 1)] {
        scene.change(change).unwrap();
    }
    let one = scene.connect_many(8);
    assert!(one.iter().all(|server| *server == one[0]), "one client, one server: {one:?}");
    scene.change(Change::EditService(with(SchedulerFlags::SECOND))).unwrap();
    let both = scene.connect_many(30);
    assert!(both.contains(&101) && both.contains(&102), "its ports count now: {both:?}");
    scene.change(edit(one[0], 0)).unwrap();
    scene.change(Change::EditService(with(SchedulerFlags::default()))).unwrap();
    assert_eq!(scene.connect(), None);
    scene.change(Change::EditService(with(SchedulerFlags::FIRST))).unwrap();
    assert_eq!(scene.connect(), Some(if one[0] == 101 { 102 } else { 101 }));
}

#[test]
fn a_quiesced_server_finds_its_clients_again() {
    let mut scene = Scene::new();
    let service = scene.service("mh");
    for change in [service, add(101, 1), add(102, 1), add(103, 0)] {
        scene.change(change).unwrap();
    }
    let before = scene.connect().unwrap();
    assert_ne!(before, 103, "added with weight 0 it has no slots");
    scene.change(edit(before, 0)).unwrap();
    assert_eq!(scene.connect(), None, "its slots stay its own");
    scene.change(edit(before, 1)).unwrap();
    assert_eq!(scene.connect(), Some(before));
}

#[test]
fn a_deleted_server_gets_nothing_and_its_connections_come_back_with_it() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    for change in [service, add(101, 1), add(102, 1)] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect_many(2), [102, 101]);
    scene.change(delete(102)).unwrap();
    assert_eq!(scene.connect_many(3), [101, 101, 101]);
    assert_eq!(scene.send(1, 0x10), None, "silence");
    scene.change(add(102, 1)).unwrap();
    assert_eq!(scene.send(1, 0x10), Some(102));
    scene.change(edit(102, 0)).unwrap();
    assert_eq!(scene.connect_many(2), [101, 101], "weight 0 takes nothing new");
    assert_eq!(scene.send(1, 0x10), Some(102), "and keeps what it has");
}

#[test]
fn a_new_network_is_taken() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    scene.change(service).unwrap();
    scene.change(add(101, 1)).unwrap();
    scene.connect().unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 7]);
    scene.director.dataplane_mut().set_network(Arc::new(network(mac)));
    while !scene.director.dataplane().collect() {
        std::thread::yield_now();
    }
    scene.incoming.push(MemoryFrame::new(&segment(1, 0x10))).unwrap();
    let sent = loop {
        match scene.sent.pop() {
            Some(frame) => break frame,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(sent.data()[..6], mac.0);
}

#[test]
fn what_no_worker_takes_is_refused_whole() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    scene.change(service).unwrap();
    // A worker that is there and does not run.
    scene.halt();
    let (publisher, subscribers) = snapshot::channel(1, &scene.director.dataplane().snapshot);
    scene.director.dataplane_mut().publisher = publisher;
    let refused = scene.change(add(101, 1)).unwrap_err();
    assert!(refused.contains("has not taken the new configuration"), "{refused}");
    let Reply::Services(list) = scene.request(&Request::Services { service: None }).unwrap() else {
        panic!()
    };
    assert!(list.services[0].destinations.is_empty());
    drop(subscribers);
}

#[test]
fn connections_are_listed_as_ipvs_does() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    scene.change(service).unwrap();
    scene.change(add(101, 1)).unwrap();
    scene.connect().unwrap();
    let Reply::Connections { rows, .. } = scene.request(&Request::Connections).unwrap() else { panic!() };
    let row = &rows[0];
    assert_eq!(
        (rows.len(), row.protocol, row.state.as_str(), row.expires),
        (1, Some(Protocol::Tcp), "SYN_RECV", 60)
    );
    let shown = [row.client, row.virtual_address, row.destination].map(|a| a.to_string());
    assert_eq!(shown, ["203.0.113.9:1", "198.51.100.8:80", "192.0.2.101:80"]);
    assert_eq!(scene.shared.destinations.load(0).active(), 1);
}

/// What workers see of the service on this port.
fn seen(scene: &Scene, port: u16) -> Option<Arc<Service>> {
    let table = scene.director.table();
    let id = table.service(&on_port(port))?.id();
    scene.director.dataplane().services.get(&id).map(|published| published.service.clone())
}

fn on_port(port: u16) -> VirtualService {
    VirtualService::Address { protocol: Protocol::Tcp, address: VIP.into(), port }
}

#[test]
fn a_change_rebuilds_its_own_service_only_and_neighbours_are_those_of_all() {
    let mut scene = Scene::for_destinations(30_000);
    let told: Arc<std::sync::Mutex<Vec<usize>>> = Arc::default();
    let listener = told.clone();
    scene.director.dataplane_mut().surroundings.servers =
        Box::new(move |servers| listener.lock().unwrap().push(servers.len()));
    let add =
        |port: u16, last: u8| Change::AddDestination { service: on_port(port), destination: server(last, 1) };
    let begin = Instant::now();
    for port in 1..=1000 {
        let service = ServiceSpec { scheduler: "wrr".into(), ..ServiceSpec::new(on_port(port)) };
        let mut changes = vec![Change::AddService(service)];
        changes.extend((1..=20).map(|last| add(port, last)));
        scene.request(&Request::Transaction(changes)).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(*told.lock().unwrap(), [20], "the same servers in every service");

    let before: Vec<_> = (1..=1000).map(|port| seen(&scene, port).unwrap()).collect();
    scene.change(add(500, 99)).unwrap();
    for (port, before) in (1..=1000).zip(&before) {
        assert_eq!(Arc::ptr_eq(before, &seen(&scene, port).unwrap()), port != 500, "{port}");
    }
    scene.change(Change::DeleteService(on_port(500))).unwrap();
    assert_eq!(*told.lock().unwrap(), [20, 21, 20]);
    assert_eq!(scene.shared.destinations.limit(), 30_000);
    scene.change(Change::Clear).unwrap();
    assert_eq!(*told.lock().unwrap(), [20, 21, 20, 0]);
    assert!(scene.director.dataplane().services.is_empty());
    assert_eq!(scene.connect(), None);
}

#[test]
fn a_configuration_replaced_whole_lets_nothing_slip_between() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    scene.request(&Request::Transaction(vec![service.clone(), add(101, 1), add(102, 1)])).unwrap();
    assert_eq!(scene.connect_many(2), [102, 101]);
    // The server that is in both tables keeps its connections, the other one's are silent.
    scene.request(&Request::Transaction(vec![Change::Clear, service.clone(), add(101, 1)])).unwrap();
    assert_eq!((scene.send(2, 0x10), scene.send(1, 0x10)), (Some(101), None));
    assert_eq!(scene.connect_many(2), [101, 101]);
    let refused = scene.director.handle(
        &Request::Transaction(vec![Change::Clear, service, add(101, 1), add(101, 1)]),
        Instant::now(),
    );
    let reason = Box::new(crate::refusal::Refusal::DestinationExists);
    assert_eq!(refused, Err(crate::refusal::Refusal::At { change: 3, reason }));
    assert_eq!(scene.connect_many(1), [101], "as it was");
}

#[test]
fn sysctls_reach_the_workers() {
    let mut scene = Scene::new();
    let value = crate::sysctl::Value::Number(0);
    scene.change(Change::SetSysctl { name: "run_estimation".into(), value }).unwrap();
    let dataplane = scene.director.dataplane();
    assert!(!dataplane.snapshot.sysctls.run_estimation);
    assert_eq!(dataplane.interface_mtu("lo"), Some(65536));
    assert_eq!((dataplane.interface_mtu("../lo"), dataplane.interface_mtu("nosuch")), (None, None));
    let network = dataplane.network();
    assert_eq!(network.routes[0].gateway, Some([192, 0, 2, 1].into()));
    assert_eq!(network.neighbours[0].mac.as_deref(), Some("02:00:00:00:00:01"));
}

#[test]
fn workers_know_servers_by_nat_while_these_are_to_be_told_of_lost_connections() {
    let mut scene = Scene::new();
    let set = |scene: &mut Scene, value| {
        let (name, value) = ("nat_icmp_send".to_owned(), crate::sysctl::Value::Number(value));
        scene.change(Change::SetSysctl { name, value }).unwrap();
    };
    let is_known = |scene: &Scene, last: u8| {
        let server = server(last, 1);
        let known = &scene.director.dataplane().snapshot.masqueraded;
        known.contains(6, (server.address, server.port))
    };
    let service = scene.service("rr");
    scene.change(service).unwrap();
    scene.change(add(9, 1)).unwrap();
    assert!(!is_known(&scene, 9));
    set(&mut scene, 1);
    assert!(is_known(&scene, 9) && !is_known(&scene, 10));
    scene.change(add(10, 1)).unwrap();
    scene.change(delete(9)).unwrap();
    assert!(!is_known(&scene, 9) && is_known(&scene, 10));
    set(&mut scene, 0);
    assert!(!is_known(&scene, 10));
}

#[test]
fn lblc_forgets_as_soon_as_its_sysctl_says() {
    for (expiration, forgets) in [(86_400, false), (60, true), (-1, true)] {
        let mut scene = Scene::new();
        let service = scene.service("lblc");
        for change in [service, add(101, 10), add(102, 10)] {
            scene.change(change).unwrap();
        }
        assert_eq!(scene.connect_many(2), [102, 102]);
        let value = crate::sysctl::Value::Number(expiration);
        scene.change(Change::SetSysctl { name: "lblc_expiration".into(), value }).unwrap();
        for minute in 0..=60 {
            let now = Tick::from_seconds(60 * minute);
            scene.director.dataplane_mut().surroundings.now = Box::new(move || now);
            scene.director.tick(Instant::now());
        }
        assert_eq!(scene.connect(), Some(if forgets { 101 } else { 102 }), "{expiration}");
    }
}

#[test]
fn without_a_scheduler_nobody_is_chosen() {
    let mut scene = Scene::new();
    let service = scene.service("none");
    for change in [service, add(101, 1)] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect(), None);
    let spec = ServiceSpec { scheduler: "rr".into(), ..ServiceSpec::new(key()) };
    scene.change(Change::EditService(spec)).unwrap();
    assert_eq!(scene.connect(), Some(101));
}

fn local(addresses: &str, port: Option<&str>) -> LocalAddresses {
    LocalAddresses { port: port.map(str::to_owned), ..LocalAddresses::new(addresses.parse().unwrap()) }
}

#[test]
fn a_server_by_fullnat_sees_a_local_address_as_soon_as_there_is_one() {
    let mut scene = Scene::new();
    let service = scene.service("rr");
    let fullnat = DestinationSpec { method: ForwardingMethod::FullNat, ..server(101, 1) };
    for change in [service, Change::AddDestination { service: key(), destination: fullnat }] {
        scene.change(change).unwrap();
    }
    assert_eq!(scene.connect(), None);
    let dropped = |scene: &Scene| {
        let counters = scene.director.dataplane().counters();
        counters[0].dropped.iter().find(|d| d.name == "no_local_address").map(|d| d.count)
    };
    assert_eq!(dropped(&scene), Some(1));
    scene.change(Change::AddLocalAddresses(local("192.0.2.33/32", None))).unwrap();
    assert_eq!(scene.connect(), Some(101));
    let rows = |scene: &Scene| {
        let mut rows = Vec::new();
        scene.director.dataplane().connections(&mut |row| rows.push(row.local.map(|local| local.ip())));
        rows
    };
    assert_eq!(rows(&scene), [Some(IpAddr::from([192, 0, 2, 33]))]);
    // Those of another service are not for it, and its own connections go on without any.
    scene.change(Change::ClearLocalAddresses).unwrap();
    let other = VirtualService::Address { protocol: Protocol::Tcp, address: VIP.into(), port: 81 };
    let of_other = LocalAddresses { service: Some(other), ..local("192.0.2.34/32", None) };
    scene.change(Change::AddLocalAddresses(of_other)).unwrap();
    assert_eq!((scene.connect(), scene.send(2, 0x10)), (None, Some(101)));
    assert_eq!(
        scene.change(Change::AddLocalAddresses(local("192.0.2.35/32", Some("lan")))),
        Err("director has no port lan (lbctl ports)".into())
    );
}

/// In place of a deleted destination, whose connections' packets were dropped.
#[test]
fn snat_rules_act_as_soon_as_they_are_there() {
    let mut scene = Scene::for_destinations(1);
    let spec = ServiceSpec { scheduler: "rr".into(), ..ServiceSpec::new(key()) };
    let overloaded = DestinationSpec { upper_threshold: 1, weight: 0, ..server(101, 1) };
    scene.change(Change::AddService(spec)).unwrap();
    scene.change(Change::AddDestination { service: key(), destination: overloaded }).unwrap();
    scene.change(Change::Clear).unwrap();
    for seconds in [0, 121] {
        let later = Instant::now() + Duration::from_secs(seconds);
        scene.director.tick(later);
    }
    assert_eq!(scene.connect(), None);
    let rule = SnatRule::new("192.0.2.33".parse().unwrap());
    let elsewhere = SnatRule { out_port: Some("wan".into()), ..rule.clone() };
    assert_eq!(
        scene.change(Change::AddSnat { rule: elsewhere, position: None }),
        Err("director has no port wan (lbctl ports)".into())
    );
    scene.change(Change::AddSnat { rule: rule.clone(), position: None }).unwrap();
    assert_eq!(scene.connect_many(3), [VIP.octets()[3]; 3]);
    let rows = |scene: &Scene| {
        let mut rows = Vec::new();
        scene
            .director
            .dataplane()
            .connections(&mut |row| rows.push((row.snat, row.local.map(|local| local.ip()))));
        rows
    };
    assert_eq!(rows(&scene), [(true, Some(IpAddr::from([192, 0, 2, 33]))); 3]);
    let Ok(Reply::Snat(entries)) = scene.request(&Request::Snat) else { panic!() };
    let [entry] = &entries[..] else { panic!() };
    assert_eq!((entry.active, entry.stats.connections, entry.stats.out_packets), (3, 3, 3));
    // Its connections go on without it, and there are no new ones.
    scene.change(Change::DeleteSnat(rule.clone())).unwrap();
    assert_eq!((scene.connect(), scene.send(2, 0x10)), (None, Some(VIP.octets()[3])));
}
