//! What holds whatever sequence of commands, connections and time passes: counts equal the table, thresholds hold, and nobody
//! gets what is not for them.

use std::collections::BTreeMap;

use super::*;
use crate::locals::{Block, Locals, Pool};
use crate::parse::AnyFlow;
use crate::schedule::{NAMES, Scheduler, Summary};
use crate::service::Persistence;

/// The servers there may be, by the numbers of their counters, which they keep while they are deleted.
const ALL: u32 = 5;
const WORKERS: usize = 2;

/// What servers by FULLNAT take for their clients'.
const LOCAL: u32 = 0xc000_0221; // 192.0.2.33

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// The server is added, or edited where it is there: weight, thresholds.
    Set(u32, u32, (u32, u32)),
    Delete(u32),
    /// The service is edited.
    Edit {
        scheduler: &'static str,
        persistence: Option<u32>,
        one_packet: bool,
    },
    Sysctls {
        conn_reuse_mode: i32,
        expire_nodest_conn: bool,
        expire_quiescent_template: bool,
        sloppy_tcp: bool,
    },
    Defence {
        drop_entry: bool,
        drop_rate: i32,
        secure_tcp: bool,
    },
    /// A worker receives packets of clients, by their numbers, in one burst.
    Requests(usize, Vec<(u16, u8)>),
    /// A worker receives packets of servers: which of the connections there are, in the table's order.
    Replies(usize, Vec<(usize, u8)>),
    Wait(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flags = || prop_oneof![4 => Just(S), 4 => Just(A), 1 => Just(F | A), 1 => Just(R), 1 => Just(S | A)];
    let thresholds =
        prop_oneof![Just((0, 0)), (1u32..8, 0u32..4).prop_map(|(upper, lower)| (upper, lower.min(upper)))];
    let set = (0..ALL, prop_oneof![1 => Just(0u32), 3 => 1u32..4], thresholds);
    let edit = (prop::sample::select(&NAMES[..]), prop::option::of(1u32..100), any::<bool>());
    let event = prop_oneof![
        3 => set.prop_map(|(id, weight, thresholds)| Event::Set(id, weight, thresholds)),
        1 => (0..ALL).prop_map(Event::Delete),
        1 => edit.prop_map(|(scheduler, persistence, one_packet)| {
            Event::Edit { scheduler, persistence, one_packet }
        }),
        1 => (prop::sample::select(vec![0, 1, 3]), any::<[bool; 3]>()).prop_map(
            |(conn_reuse_mode, [expire_nodest_conn, expire_quiescent_template, sloppy_tcp])| {
                Event::Sysctls { conn_reuse_mode, expire_nodest_conn, expire_quiescent_template, sloppy_tcp }
            }
        ),
        1 => (any::<[bool; 2]>(), prop_oneof![3 => Just(0), 1 => 2..5]).prop_map(
            |([drop_entry, secure_tcp], drop_rate)| Event::Defence { drop_entry, drop_rate, secure_tcp }
        ),
        8 => (0..WORKERS, prop::collection::vec((0u16..40, flags()), 1..8))
            .prop_map(|(worker, packets)| Event::Requests(worker, packets)),
        3 => (0..WORKERS, prop::collection::vec((0usize..40, flags()), 1..8))
            .prop_map(|(worker, packets)| Event::Replies(worker, packets)),
        2 => (1u32..150 * TICKS_PER_SECOND).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..60)
}

/// A director with one service for TCP and UDP each, of the same servers, as control would keep it.
struct Model {
    lab: Lab,
    /// Weight and thresholds of the servers that are there.
    servers: BTreeMap<u32, (u32, (u32, u32))>,
    sequences: u32,
    schedulers: [(&'static str, Arc<dyn Scheduler>); 2],
    persistence: Option<u32>,
    one_packet: bool,
    /// What the last added server of a number was given.
    sequence: BTreeMap<u32, u32>,
}

impl Model {
    fn new(method: Method) -> Self {
        let mut lab = Lab::new(method, WORKERS);
        let mut network = network();
        for id in 0..ALL {
            network.set_neighbour(ip(address(id)), Adjacency::new(PortId(1), LAN, SERVER_MACS[0]));
        }
        lab.snapshot.network = Arc::new(network);
        let block = Block { address: ip(LOCAL), first_port: 1024, last_port: u16::MAX };
        let pool = Arc::new(Pool::new(vec![block]).unwrap());
        lab.snapshot.locals = Arc::new(Locals::new((0..2 * ALL).map(|id| (id, pool.clone()))));
        let schedulers = [0, 1].map(|_| ("rr", schedule::by_name("rr").unwrap()));
        let (servers, sequence) = (BTreeMap::new(), BTreeMap::new());
        let mut model =
            Self { lab, servers, sequences: 0, schedulers, persistence: None, one_packet: false, sequence };
        model.publish(method);
        model
    }

    /// TCP's servers have numbers from 0 on, UDP's from [`ALL`] on.
    fn publish(&mut self, method: Method) {
        let [tcp, udp] = [(protocol::TCP, 0), (protocol::UDP, ALL)].map(|(protocol, first)| {
            let destinations: Vec<_> = self
                .servers
                .iter()
                .map(|(id, (weight, _))| Destination {
                    id: first + id,
                    sequence: self.sequence[id],
                    address: ip(address(*id)),
                    port: if method.sees_replies() { 8080 } else { VIP.1 },
                    weight: *weight,
                    last_weight: (*weight).max(1),
                    method,
                })
                .collect();
            let scheduler = &self.schedulers[usize::from(protocol == protocol::UDP)].1;
            scheduler.changed(destinations.iter().map(Summary::from).sum());
            let persistence = self
                .persistence
                .map(|seconds| Persistence { ticks: seconds * TICKS_PER_SECOND, mask: ip(!1) });
            let service = Service::new(destinations, scheduler.clone())
                .with_persistence(persistence)
                .with_one_packet(self.one_packet);
            (ServiceKey { protocol, address: ip(VIP.0), port: VIP.1 }, Arc::new(service))
        });
        self.lab.snapshot.services = Arc::new(Services::new([tcp, udp]));
        for (id, (weight, (upper, lower))) in &self.servers {
            for id in [*id, ALL + id] {
                self.lab.shared.destinations.set_gone(id, false);
                self.lab.shared.destinations.set_thresholds(id, *upper, *lower);
                self.lab.shared.destinations.set_quiescent(id, *weight == 0);
            }
        }
        self.settle();
        for id in (0..ALL).filter(|id| !self.servers.contains_key(id)) {
            for id in [id, ALL + id] {
                self.lab.shared.destinations.set_gone(id, true);
            }
        }
    }

    /// Lets every worker take what is new.
    fn settle(&mut self) {
        self.lab.publish();
        (0..WORKERS).for_each(|worker| drop(self.lab.poll(worker)));
    }

    fn happen(&mut self, event: &Event, method: Method) {
        match event {
            Event::Set(id, weight, thresholds) => {
                if self.servers.insert(*id, (*weight, *thresholds)).is_none() {
                    self.sequences += 1;
                    self.sequence.insert(*id, self.sequences);
                }
                self.publish(method);
            }
            Event::Delete(id) => {
                if self.servers.remove(id).is_some() {
                    self.publish(method);
                    if self.lab.snapshot.sysctls.expire_nodest_conn {
                        self.lab.snapshot.deletions += 1;
                    }
                    self.settle();
                }
            }
            Event::Edit { scheduler, persistence, one_packet } => {
                (self.persistence, self.one_packet) = (*persistence, *one_packet);
                for kept in &mut self.schedulers {
                    if kept.0 != *scheduler {
                        *kept = (scheduler, schedule::by_name(scheduler).unwrap());
                    }
                }
                self.publish(method);
            }
            Event::Sysctls { conn_reuse_mode, expire_nodest_conn, expire_quiescent_template, sloppy_tcp } => {
                let sysctls = &mut self.lab.snapshot.sysctls;
                sysctls.conn_reuse_mode = *conn_reuse_mode;
                sysctls.expire_nodest_conn = *expire_nodest_conn;
                sysctls.expire_quiescent_template = *expire_quiescent_template;
                sysctls.sloppy_tcp = *sloppy_tcp;
                self.settle();
            }
            Event::Defence { drop_entry, drop_rate, secure_tcp } => {
                let (drop_entry, drop_rate, secure_tcp) = (*drop_entry, *drop_rate, *secure_tcp);
                self.lab.snapshot.defence = crate::sysctl::Defence { drop_entry, drop_rate, secure_tcp };
                self.settle();
            }
            Event::Requests(worker, packets) => {
                let of = |(client, flags): &(u16, u8)| {
                    // The first clients speak UDP.
                    let protocol = if *client < 12 { protocol::UDP } else { protocol::TCP };
                    let from = (CLIENT + u32::from(client % 7), 1000 + client);
                    frame(WAN, Flow::new(protocol, from, VIP), *flags, b"")
                };
                let frames: Vec<_> = packets.iter().map(of).collect();
                self.lab.receive(*worker, 0, &frames);
            }
            Event::Replies(worker, packets) => {
                let there: Vec<_> = self.views().filter(|view| view.template.is_none()).collect();
                let of = |(which, flags): &(usize, u8)| {
                    let view = there.get(which % there.len().max(1))?;
                    let client = view.local.unwrap_or(view.flow.source());
                    match AnyFlow::new(view.flow.protocol(), view.server, client)? {
                        AnyFlow::V4(flow) => Some(frame(LAN, flow, *flags, b"")),
                        AnyFlow::V6(_) => None,
                    }
                };
                let frames: Vec<_> = packets.iter().filter_map(of).collect();
                self.lab.receive(*worker, 1, &frames);
            }
            Event::Wait(ticks) => {
                // No longer steps than a worker's timers take in a round.
                for _ in 0..ticks.div_ceil(32) {
                    self.lab.now = self.lab.now.after(32);
                    (0..WORKERS).for_each(|worker| drop(self.lab.poll(worker)));
                }
            }
        }
    }

    fn views(&self) -> impl Iterator<Item = crate::conn::View> + '_ {
        self.lab.shared.table.views(self.lab.snapshot.timeouts, self.lab.now)
    }

    /// What is counted for each server, in the trash or not: active, inactive and persistent.
    fn counted(&self) -> Vec<[u32; 3]> {
        let load = |id| {
            let load = self.lab.shared.destinations.load(id);
            [load.active(), load.inactive(), load.persistent()]
        };
        (0..2 * ALL).map(load).collect()
    }

    /// What is in the table.
    fn listed(&self) -> Vec<[u32; 3]> {
        let mut listed = vec![[0; 3]; 2 * ALL as usize];
        for view in self.views() {
            let kind = match view.template {
                Some(_) => 2,
                None => usize::from(!view.state.is_active()),
            };
            listed[view.destination as usize][kind] += 1;
        }
        listed
    }

    fn opened(&self) -> Vec<u64> {
        (0..2 * ALL).map(|id| self.lab.shared.destinations.stats(id).connections).collect()
    }
}

fn address(id: u32) -> u32 {
    SERVERS[0].0 + id
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn counts_equal_the_table_and_nobody_gets_what_is_not_for_them(
        events in events(),
        method in prop::sample::select(vec![
            Method::Nat, Method::DirectRouting, Method::FullNat, Method::Local,
        ]),
    ) {
        let mut model = Model::new(method);
        // Something to begin with, or many sequences would find no server.
        model.happen(&Event::Set(0, 1, (0, 0)), method);
        for event in events {
            let (before, opened, marked) = (model.counted(), model.opened(), overloaded(&model));
            model.happen(&event, method);
            let after = model.counted();
            prop_assert_eq!(&after, &model.listed(), "{:?}", event);
            for id in 0..2 * ALL {
                let [new, was] = [model.opened(), opened.clone()].map(|opened| opened[id as usize]);
                let (before, after) = (before[id as usize], after[id as usize]);
                let Some((weight, (upper, _))) = model.servers.get(&(id % ALL)) else {
                    prop_assert_eq!(new, was, "one that is not there got a connection: {:?}", event);
                    continue;
                };
                if *weight == 0 {
                    let follows = model.persistence.is_some() && !model.lab.snapshot.sysctls.expire_quiescent_template;
                    prop_assert!(new == was || follows, "{}, of weight 0, got a connection: {:?}", id, event);
                    prop_assert!(after[2] <= before[2], "and a template: {:?}", event);
                }
                // Whom a template leads there comes in any case, and lblc heeds no threshold for addresses it knows.
                let heeds = model.persistence.is_none() && model.schedulers[0].0 != "lblc";
                if *upper > 0 && heeds {
                    let [before, after] = [before, after].map(|[active, inactive, _]| active + inactive);
                    // After a lower threshold was set, one more connection makes it count.
                    prop_assert!(after <= (*upper).max(before + 1), "{} has {}, {:?}", id, after, event);
                    prop_assert!(new == was || !marked[id as usize] || after <= before, "{}: {:?}", id, event);
                }
            }
            model.lab.check_balance();
        }
        // In the end nothing is left over.
        model.persistence = None;
        model.lab.snapshot.defence = Default::default();
        model.settle();
        for _ in 0..20 {
            model.happen(&Event::Wait(60 * TICKS_PER_SECOND), method);
        }
        prop_assert_eq!(model.counted(), vec![[0; 3]; 2 * ALL as usize]);
        prop_assert_eq!(model.lab.shared.table.slots_in_use(), 0);
        prop_assert!(!overloaded(&model).contains(&true));
    }
}

fn overloaded(model: &Model) -> Vec<bool> {
    (0..2 * ALL).map(|id| model.lab.shared.destinations.load(id).is_overloaded()).collect()
}

/// Workers that really run at the same time: each may have one connection under way when a server fills up.
#[test]
fn at_most_what_is_under_way_goes_beyond_a_threshold() {
    for scheduler in ["rr", "wlc", "sh"] {
        let mut lab = Lab::new(Method::DirectRouting, 4);
        let destination = |id| {
            let (port, method, weight) = (VIP.1, Method::DirectRouting, 1);
            Destination {
                id,
                sequence: id + 1,
                address: ip(SERVERS[id as usize].0),
                port,
                weight,
                last_weight: 1,
                method,
            }
        };
        let service =
            Service::new(vec![destination(0), destination(1)], schedule::by_name(scheduler).unwrap());
        let key = ServiceKey { protocol: protocol::TCP, address: ip(VIP.0), port: VIP.1 };
        lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
        for id in [0, 1] {
            lab.shared.destinations.set_thresholds(id, 10, 0);
        }
        lab.publish();
        for (n, worker) in lab.workers.iter_mut().enumerate() {
            let syn = |client| {
                let from = (CLIENT + client, 1000 + 100 * n as u16);
                MemoryFrame::new(&frame(WAN, Flow::new(protocol::TCP, from, VIP), S, b""))
            };
            worker.balancer.wires[0].incoming.extend((0..30).map(syn));
        }
        std::thread::scope(|scope| {
            for worker in &mut lab.workers {
                scope.spawn(|| while worker.poll(Tick(0)) > 0 {});
            }
        });
        for id in [0, 1] {
            let (active, inactive) = lab.load(id);
            assert!((10..10 + 4).contains(&(active + inactive)), "{scheduler}: {active} and {inactive}");
        }
    }
}
