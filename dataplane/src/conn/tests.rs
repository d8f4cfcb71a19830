use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::connections::wheel_limit;
use super::entry::Index;
use super::state::Seen;
use super::*;
use crate::packet::sctp::Event;
use crate::packet::tcp::Flags;
use crate::parse::Flow;
use crate::time::{TICKS_PER_SECOND, Tick};

const VIRTUAL: (u32, u16) = (0xc633_6408, 80);
const SERVER: (u32, u16) = (0xc000_0209, 8080);

fn flow(client: u32) -> Flow {
    Flow::new(6, (0xcb00_0000 + (client >> 16), client as u16), VIRTUAL)
}

fn reply(client: u32) -> Flow {
    Flow::new(6, SERVER, flow(client).source())
}

fn server() -> (IpAddr, u16) {
    (Ipv4Addr::from(SERVER.0).into(), SERVER.1)
}

fn new(client: u32, method: Method, state: State) -> NewConnection {
    NewConnection { flow: flow(client).into(), server: server(), method, destination: 0, state }
}

fn find(connections: &Connections, flow: Flow) -> Option<table::Found> {
    connections.find(connections.table().hash(flow), flow)
}

fn connections(buckets: usize, capacity: u32) -> Connections {
    Connections::new(Arc::new(ConnectionTable::new(buckets, capacity, 1).unwrap()), 0, Tick(0))
}

/// Lets time pass, and everything that is to happen by then happen. Gives the number of connections that ended.
fn pass(connections: &mut Connections, now: Tick) -> usize {
    let mut ended = 0;
    for _ in 0..10_000 {
        connections.quiesce();
        connections.expire(&Timeouts::default(), now, |_| ended += 1);
    }
    ended
}

/// What a worker does for a packet.
fn step(
    all: &mut Connections,
    index: Index,
    direction: Direction,
    flags: Flags,
    timeouts: &Timeouts,
    now: Tick,
) -> Option<(State, State)> {
    let entry = all.entry(index);
    entry.seen(now);
    entry
        .life()
        .may_change(direction, flags)
        .then(|| all.step(index, direction, flags, (timeouts, false), now))?
}

#[test]
fn what_is_passed_over_would_have_changed_nothing() {
    let mut all = connections(8, 8);
    for (state, flags) in
        State::ALL.into_iter().flat_map(|state| (0..=255).map(move |flags| (state, Flags(flags))))
    {
        let index = all.open(&new(1, Method::Nat, state), &Timeouts::default(), Tick(0)).unwrap();
        for direction in [Direction::ToServer, Direction::ToClient] {
            let life = all.entry(index).life();
            let passed_over = !life.may_change(direction, flags);
            // Control bits that no SCTP chunk stands for.
            if state.is_sctp() && Event::from_flags(flags).to_flags() != flags {
                continue;
            }
            let change = all.step(index, direction, flags, (&Timeouts::default(), false), Tick(0));
            assert!(
                !passed_over || (change.is_none() && all.entry(index).life() == life),
                "{state:?} {flags:?}"
            );
        }
        all.close(index);
        all.quiesce();
        all.quiesce();
    }
}

#[test]
fn a_segment_without_any_control_bit_closes_its_connection() {
    let mut all = connections(8, 8);
    for state in [State::SynRecv, State::Established, State::TimeWait] {
        let index = all.open(&new(1, Method::Nat, state), &Timeouts::default(), Tick(0)).unwrap();
        let push = Flags(Flags::PSH);
        let change = step(&mut all, index, Direction::ToServer, push, &Timeouts::default(), Tick(0));
        assert_eq!(change, Some((state, State::Close)));
        all.close(index);
    }
    let index = all.open(&new(1, Method::Nat, State::Udp), &Timeouts::default(), Tick(0)).unwrap();
    let change = step(&mut all, index, Direction::ToServer, Flags(0), &Timeouts::default(), Tick(0));
    assert_eq!(change, None);
}

#[test]
fn a_nat_connection_is_found_from_both_sides_and_a_dr_connection_from_one() {
    let mut all = connections(8, 8);
    let nat = all.open(&new(1, Method::Nat, State::SynRecv), &Timeouts::default(), Tick(0)).unwrap();
    let dr = all.open(&new(2, Method::DirectRouting, State::SynRecv), &Timeouts::default(), Tick(0)).unwrap();
    let found = |flow| find(&all, flow).map(|f| (f.index, f.direction));
    assert_eq!(found(flow(1)), Some((nat, Direction::ToServer)));
    assert_eq!(found(reply(1)), Some((nat, Direction::ToClient)));
    assert_eq!(found(flow(2)), Some((dr, Direction::ToServer)));
    assert_eq!(found(reply(2)), None);
    all.close(nat);
    assert_eq!((find(&all, flow(1)), find(&all, reply(1))), (None, None));
    assert_eq!(all.table().slots_in_use(), 1);
}

#[test]
fn the_same_flow_is_opened_once() {
    let mut all = connections(8, 8);
    let index = all.open(&new(1, Method::Nat, State::SynRecv), &Timeouts::default(), Tick(0)).unwrap();
    let again = all.open(&new(1, Method::Nat, State::SynRecv), &Timeouts::default(), Tick(0));
    assert!(matches!(again, Err(OpenError::Exists(found)) if found.index == index));
}

#[test]
fn of_two_virtual_addresses_the_newer_one_gets_the_replies() {
    let mut all = connections(8, 8);
    let first = all.open(&new(1, Method::Nat, State::TimeWait), &Timeouts::default(), Tick(0)).unwrap();
    let mut other = new(1, Method::Nat, State::SynRecv);
    other.flow = Flow::new(6, flow(1).source(), (VIRTUAL.0 + 1, 80)).into();
    let second = all.open(&other, &Timeouts::default(), Tick(0)).unwrap();
    assert_eq!(find(&all, reply(1)).unwrap().index, second);
    all.close(first);
    assert_eq!(find(&all, reply(1)).unwrap().index, second);
    all.close(second);
    assert_eq!(all.table().slots_in_use(), 0);
}

#[test]
fn idle_connections_expire_in_time_and_busy_ones_do_not() {
    let mut all = connections(8, 8);
    let timeouts = Timeouts::default();
    let idle = all.open(&new(1, Method::Nat, State::SynRecv), &timeouts, Tick(0)).unwrap();
    let busy = all.open(&new(2, Method::Nat, State::SynRecv), &timeouts, Tick(0)).unwrap();
    let second = |s: u32| Tick(s * TICKS_PER_SECOND);
    for s in 1..=59 {
        step(&mut all, busy, Direction::ToServer, Flags(Flags::ACK), &timeouts, second(s));
        assert_eq!(pass(&mut all, second(s)), 0, "after {s} s");
    }
    assert_eq!(pass(&mut all, second(60)), 1);
    assert_eq!(find(&all, flow(1)), None);
    assert_eq!(all.table().view(idle, &timeouts, second(60)), None);
    assert_eq!(pass(&mut all, second(59 + 900).after(u32::MAX)), 0, "a tick before");
    assert_eq!(pass(&mut all, second(59 + 900)), 1);
    assert_eq!(all.table().slots_in_use(), 0);
}

#[test]
fn a_shorter_timeout_counts_from_the_packet_that_brought_it() {
    let mut all = connections(8, 8);
    let timeouts = Timeouts::default();
    let index = all.open(&new(1, Method::Nat, State::Established), &timeouts, Tick(0)).unwrap();
    let change =
        step(&mut all, index, Direction::ToClient, Flags(Flags::RST), &timeouts, Tick::from_seconds(5));
    assert_eq!(change, Some((State::Established, State::Close)));
    assert_eq!(pass(&mut all, Tick::from_seconds(15).after(u32::MAX)), 0);
    assert_eq!(pass(&mut all, Tick::from_seconds(15)), 1);
}

#[test]
fn a_full_pool_and_a_full_table_are_said_and_everything_comes_back() {
    let mut all = connections(8, 40);
    let timeouts = Timeouts::default();
    for round in 0..5 {
        let mut opened = Vec::new();
        let refused = loop {
            let client = round * 1000 + opened.len() as u32;
            match all.open(&new(client, Method::Nat, State::Established), &timeouts, Tick(0)) {
                Ok(index) => opened.push(index),
                Err(refused) => break refused,
            }
        };
        // 56 slots for 2 x 40: the table is full first.
        assert_eq!(refused, OpenError::TableFull);
        assert!(opened.len() >= 24, "{}", opened.len());
        for n in 0..opened.len() as u32 {
            assert!(
                find(&all, flow(round * 1000 + n)).is_some() && find(&all, reply(round * 1000 + n)).is_some()
            );
        }
        for index in opened {
            assert!(all.close(index).is_some() && all.close(index).is_none());
        }
        assert_eq!((all.table().slots_in_use(), all.table().overflow()), (0, 0));
        pass(&mut all, Tick(0));
    }
    let mut all = connections(1024, 40);
    let open = |n| all.open(&new(n, Method::Nat, State::Established), &timeouts, Tick(0));
    let outcomes: Vec<_> = (0..41).map(open).collect();
    assert!(outcomes[..40].iter().all(Result::is_ok));
    assert_eq!(outcomes[40], Err(OpenError::NoFreeEntry));
}

#[test]
fn lists_show_what_is_there() {
    let mut all = connections(64, 64);
    let timeouts = Timeouts::default();
    for client in 0..10 {
        all.open(&new(client, Method::Nat, State::SynRecv), &timeouts, Tick(0)).unwrap();
    }
    let gone = find(&all, flow(3)).unwrap().index;
    all.close(gone);
    let now = Tick::from_seconds(13);
    let mut seen: Vec<_> =
        all.table().views(timeouts, now).map(|v| (v.flow, v.server, v.state, v.expires)).collect();
    seen.sort_by_key(|v| v.0.source().1);
    let expected = (0..10)
        .filter(|c| *c != 3)
        .map(|c| (flow(c).into(), server(), State::SynRecv, 47 * TICKS_PER_SECOND));
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

/// Flows as they come in life, with little to tell them apart, spread like others, whatever the seed of the table.
#[test]
fn flows_that_are_alike_find_room() {
    type Family = fn(u32) -> Flow;
    let families: [(&str, Family); 4] = [
        ("ports of a client", |n| Flow::new(6, (0xcb00_7109, 1024 + n as u16), VIRTUAL)),
        ("every second port", |n| Flow::new(6, (0xcb00_7109, 32_768 + 2 * n as u16), VIRTUAL)),
        ("clients of a network", |n| Flow::new(17, (0xcb00_0000 + n, 53), VIRTUAL)),
        ("networks", |n| Flow::new(17, (n << 16, 53), VIRTUAL)),
    ];
    for (family, flow) in families {
        for table in 0..200 {
            // As many buckets as there are by default, with half of the slots that NAT would use.
            let mut all = connections(512, 1024);
            for n in 0..1000 {
                let new = NewConnection { flow: flow(n).into(), ..new(n, Method::DirectRouting, State::Udp) };
                let opened = all.open(&new, &Timeouts::default(), Tick(0));
                assert!(opened.is_ok(), "{family}: number {n} in table {table}: {opened:?}");
            }
        }
    }
}

/// Threads open, find and close flows that they share, each as a worker does; afterwards nothing is left and nothing is
/// lost.
#[test]
fn workers_at_odds_leave_nothing_behind() {
    const WORKERS: usize = 4;
    let table = Arc::new(ConnectionTable::new(64, 256, WORKERS).unwrap());
    let opened: Vec<usize> = std::thread::scope(|scope| {
        let workers = (0..WORKERS).map(|worker| {
            let table: Arc<ConnectionTable> = table.clone();
            scope.spawn(move || {
                let mut all = Connections::new(table, worker, Tick(0));
                let mut opened = 0;
                let mut random = worker as u32 + 1;
                for _ in 0..50_000 {
                    all.quiesce();
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let client = random >> 16 & 63;
                    match find(&all, flow(client)) {
                        Some(found) => {
                            assert_eq!(all.entry(found.index).flow(), flow(client));
                            if random >> 30 == 0 {
                                all.close(found.index);
                            }
                        }
                        None => {
                            let new = new(client, Method::DirectRouting, State::SynRecv);
                            opened += usize::from(all.open(&new, &Timeouts::default(), Tick(0)).is_ok());
                        }
                    }
                }
                opened
            })
        });
        workers.collect::<Vec<_>>().into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert!(opened.iter().sum::<usize>() > 1_000, "{opened:?}");
    let mut live: HashMap<Flow, usize> = HashMap::new();
    for view in table.views(Timeouts::default(), Tick(0)) {
        *live.entry(view.flow.v4().unwrap()).or_default() += 1;
    }
    assert!(live.values().all(|n| *n == 1), "a flow is there twice");
    assert_eq!(table.slots_in_use(), live.len());
    let mut all = Connections::new(table.clone(), 0, Tick(0));
    for index in 0..256 {
        all.close(Index(index));
    }
    assert_eq!((table.slots_in_use(), table.overflow()), (0, 0));
}

#[test]
fn any_number_of_buckets_will_do() {
    for buckets in [8, 9, 600, 1023] {
        let count = 2 * buckets as u32;
        let mut all = connections(buckets, count);
        let open = |client| new(client, Method::Nat, State::Established);
        for client in 0..count {
            all.open(&open(client), &Timeouts::default(), Tick(0)).unwrap();
        }
        // Two slots for each; with replies to this server and flows to this address, none is in the other's way.
        assert_eq!(all.table().slots_in_use(), 2 * count as usize, "{buckets} buckets");
        for client in 0..count {
            let [there, back] = [flow(client), reply(client)].map(|flow| find(&all, flow).unwrap().index);
            assert_eq!(there, back, "{buckets} buckets");
        }
        for index in 0..count {
            all.close(Index(index));
        }
        assert_eq!((all.table().slots_in_use(), all.table().overflow()), (0, 0), "{buckets} buckets");
    }
}

/// All of it, room for as many stale timers as connections included: whatever the capacity, also just past a power of two.
#[test]
fn a_connection_takes_128_bytes_at_most() {
    let powers = (16..=24).map(|power| 1_u32 << power).flat_map(|n| [n - 1, n, n + 1]);
    for capacity in (1 << 16..1 << 24).step_by(251).chain(powers).filter(|n| *n >= 1 << 16) {
        let table = table::bytes(ConnectionTable::buckets_for(capacity) as usize, capacity as usize);
        let bytes = table + wheel::Wheel::bytes(wheel_limit(capacity as usize));
        assert!(bytes <= 128 * capacity as usize, "{capacity} connections take {bytes} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is opened, moved on, closed and left to time: the table agrees with a plain map at every step.
    #[test]
    fn the_table_agrees_with_a_map(steps in prop::collection::vec((0u8..5, 0u32..24, 0u32..90), 1..200)) {
        let mut all = connections(16, 24);
        let timeouts = Timeouts::default();
        let mut model: HashMap<u32, (Index, State, Tick)> = HashMap::new();
        let mut now = Tick(u32::MAX - 500);
        all.expire(&timeouts, now, |_| {});
        let mut all = Connections::new(Arc::new(ConnectionTable::new(16, 24, 1).unwrap()), 0, now);
        for (what, client, seconds) in steps {
            match what {
                0 => {
                    let opened = all.open(&new(client, Method::Nat, State::SynRecv), &timeouts, now);
                    match opened {
                        Ok(index) => prop_assert!(model.insert(client, (index, State::SynRecv, now)).is_none()),
                        Err(OpenError::Exists(found)) => prop_assert_eq!(model[&client].0, found.index),
                        Err(_) => prop_assert!(model.len() >= 20, "refused with {} open", model.len()),
                    }
                }
                1 | 2 => if let Some((index, state, seen)) = model.get_mut(&client) {
                    let flags = Flags(if what == 1 { Flags::ACK } else { Flags::RST });
                    step(&mut all, *index, Direction::ToClient, flags, &timeouts, now);
                    *state = state::next(*state, Seen::Out, flags, false);
                    *seen = now;
                },
                3 => if let Some((index, state, _)) = model.remove(&client) {
                    prop_assert_eq!(all.close(index).map(|ended| ended.state), Some(state));
                },
                _ => {
                    now = now.after(seconds * TICKS_PER_SECOND);
                    let before = model.len();
                    model.retain(|_, (_, state, seen)| !now.reached(seen.after(timeouts.of(*state))));
                    prop_assert_eq!(pass(&mut all, now), before - model.len());
                }
            }
            all.quiesce();
            for client in 0..24 {
                let expected = model.get(&client).map(|(index, ..)| *index);
                prop_assert_eq!(find(&all, flow(client)).map(|f| f.index), expected);
                prop_assert_eq!(find(&all, reply(client)).map(|f| f.index), expected);
            }
            prop_assert_eq!(all.table().slots_in_use(), 2 * model.len());
        }
    }
}
