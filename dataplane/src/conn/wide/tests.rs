use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::conn::key::Key;
use crate::conn::{Connections, Method, OpenError, State, Timeouts};
use crate::parse::Flow;
use crate::time::Tick;

const NET: u128 = 0x2001_0db8 << 96;
const VIRTUAL: (u128, u16) = (NET | 0xf00d, 80);
const SERVER: (u128, u16) = (NET | 0x5e << 64 | 9, 8080);

fn flow(client: u16) -> Flow6 {
    Flow6::new(6, (NET | 1 << 64 | u128::from(client), client), VIRTUAL)
}

fn reply(client: u16) -> Flow6 {
    Flow6::new(6, SERVER, flow(client).source())
}

fn new(client: u16, method: Method) -> NewConnection {
    let server = (IpAddr::V6(SERVER.0.into()), SERVER.1);
    NewConnection { flow: flow(client).into(), server, method, destination: 3, state: State::Established }
}

fn connections(capacity: u32) -> Connections {
    Connections::new(Arc::new(ConnectionTable::new(8, capacity, 1).unwrap()), 0, Tick(0))
}

fn open(all: &mut Connections, new: &NewConnection) -> Result<Index, OpenError> {
    all.open(new, &Timeouts::default(), Tick(0))
}

fn find(all: &Connections, flow: Flow6) -> Option<(Index, Direction)> {
    all.find(all.table().hash(flow), flow).map(|found| (found.index, found.direction))
}

#[test]
fn it_is_found_from_both_sides_and_has_its_addresses() {
    let mut all = connections(8);
    let nat = open(&mut all, &new(1, Method::Nat)).unwrap();
    let dr = open(&mut all, &new(2, Method::DirectRouting)).unwrap();
    assert_eq!(find(&all, flow(1)), Some((nat, Direction::ToServer)));
    assert_eq!(find(&all, reply(1)), Some((nat, Direction::ToClient)));
    assert_eq!(find(&all, flow(2)), Some((dr, Direction::ToServer)));
    assert_eq!(find(&all, reply(2)), None);
    let other = |flow: Flow6, bit: u32| {
        let (from, to) = (flow.source(), flow.destination());
        [
            Flow6::new(6, (from.0 ^ 1 << bit, from.1), to),
            Flow6::new(6, from, (to.0 ^ 1 << bit, to.1)),
            Flow6::new(17, from, to),
            Flow6::new(6, (from.0, from.1 ^ 1), to),
            Flow6::new(6, from, (to.0, to.1 ^ 1)),
        ]
    };
    let (table, entry) = (all.table(), all.entry(nat));
    for (flow, direction) in [(flow(1), Direction::ToServer), (reply(1), Direction::ToClient)] {
        assert!(flow.matches(table, entry, direction));
        for other in (0..128).flat_map(|bit| other(flow, bit)) {
            assert!(!other.matches(table, entry, direction), "{other:?}");
        }
    }
    assert_eq!(table.flow(entry), flow(1).into());
    assert_eq!(table.server(entry), (IpAddr::V6(SERVER.0.into()), SERVER.1));
    let addresses = table.extension(entry).unwrap();
    assert_eq!(
        (addresses.client(), addresses.virtual_address(), addresses.server()),
        (flow(1).source().0, VIRTUAL.0, SERVER.0)
    );
    all.close(nat).unwrap();
    assert_eq!((find(&all, flow(1)), find(&all, reply(1))), (None, None));
    assert_eq!(all.table().slots_in_use(), 1);
}

#[test]
fn no_flow_of_ipv4_is_taken_for_it() {
    let mut all = connections(8);
    let index = open(&mut all, &new(1, Method::Nat)).unwrap();
    let entry = all.entry(index);
    for direction in [Direction::ToServer, Direction::ToClient] {
        let same = entry.flow_of(direction);
        // What the first line would be, read as one of IPv4: no packet has such a flow, nor has what stands for no packet.
        assert!(same.protocol() == 0 && same != Flow::new(0, (0, 0), (0, 0)));
    }
    let plain = open(
        &mut all,
        &NewConnection {
            flow: Flow::new(6, (1, 1), (2, 2)).into(),
            server: (Ipv4Addr::new(0, 0, 0, 1).into(), 8080),
            ..new(1, Method::Nat)
        },
    );
    let entry = all.entry(plain.unwrap());
    assert!(all.table().extension(entry).is_none());
    assert!(!flow(1).matches(all.table(), entry, Direction::ToServer));
}

#[test]
fn families_may_differ() {
    let mut all = connections(8);
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), IpAddr::V6(SERVER.0.into()));
    let client = Flow::new(17, (0xcb00_7109, 4000), (0xc633_6408, 53));
    for (flow, server) in [(AnyFlow::V6(flow(1)), v4), (AnyFlow::V4(client), v6)] {
        let mixed = NewConnection { flow, server: (server, 53), ..new(1, Method::DirectRouting) };
        let index = open(&mut all, &mixed).unwrap();
        let entry = all.entry(index);
        assert_eq!(all.table().flow(entry), flow);
        assert_eq!(all.table().server(entry), (server, 53));
        assert_eq!(all.table().find(all.table().hash(flow), flow).map(|found| found.index), Some(index));
        let view = all.table().view(index, &Timeouts::default(), Tick(0)).unwrap();
        assert_eq!((view.flow, view.server), (flow, (server, 53)));
    }
}

#[test]
fn it_takes_two_entries_and_gives_both_back() {
    let mut all = connections(5);
    for round in 0..20u16 {
        let opened: Vec<_> = (0..3).map(|n| open(&mut all, &new(4 * round + n, Method::Nat))).collect();
        assert_eq!(opened[2], Err(OpenError::NoFreeEntry));
        let small = NewConnection {
            flow: Flow::new(6, (1, 1), (2, 2)).into(),
            server: (Ipv4Addr::LOCALHOST.into(), 1),
            ..new(1, Method::DirectRouting)
        };
        let last = open(&mut all, &small).unwrap();
        let listed: HashSet<_> = all.table().views(Timeouts::default(), Tick(0)).map(|v| v.flow).collect();
        let expected = [flow(4 * round).into(), flow(4 * round + 1).into(), small.flow];
        assert_eq!(listed, expected.into());
        for index in [opened[0].unwrap(), opened[1].unwrap(), last] {
            assert!(all.close(index).is_some());
        }
        for index in 0..5 {
            assert_eq!(all.close(Index(index)), None, "none of them is alive");
        }
        (0..3).for_each(|_| all.quiesce());
    }
    assert_eq!((all.table().slots_in_use(), all.table().overflow()), (0, 0));
}

#[test]
fn old_timers_of_an_extension_leave_its_addresses_alone() {
    let mut all = connections(2);
    let timeouts = Timeouts::default();
    // Each entry has had a connection of its own, whose timer is still armed.
    let plain = |client| NewConnection {
        flow: Flow::new(6, (client, 1), (2, 2)).into(),
        server: (Ipv4Addr::LOCALHOST.into(), 1),
        ..new(1, Method::DirectRouting)
    };
    let indexes = [plain(1), plain(2)].map(|new| open(&mut all, &new).unwrap());
    indexes.into_iter().for_each(|index| assert!(all.close(index).is_some()));
    (0..3).for_each(|_| all.quiesce());
    let index = open(&mut all, &new(7, Method::Nat)).unwrap();
    let later = Tick::from_seconds(899);
    all.entry(index).seen(later);
    for seconds in [899, 901, 1700] {
        (0..1000).for_each(|_| {
            all.quiesce();
            all.expire(&timeouts, Tick::from_seconds(seconds), |_| panic!("nothing is over"));
        });
        assert_eq!(find(&all, flow(7)), Some((index, Direction::ToServer)), "after {seconds} s");
    }
}

#[test]
fn templates_are_found_by_their_keys() {
    let mut all = connections(8);
    let key = Flow6::template(6, NET | 1 << 64, VIRTUAL);
    let new = NewConnection { flow: key.into(), ..new(1, Method::Nat) };
    let template = all.open_template(&new, (640, false), None, Tick(0)).unwrap();
    assert_eq!(all.find_template(key.into()), Some(template));
    assert!(all.entry(template).life().is_template());
    assert_eq!(all.table().slots_in_use(), 1, "no reply leads to a template");
    let under = NewConnection { flow: flow(1).into(), ..new };
    let child = all.open_under(template, &under, &Timeouts::default(), Tick(0)).unwrap();
    assert_eq!((all.entry(child).template(), all.close(template)), (Some(template), None));
    all.invalidate(template);
    let view = all.table().view(template, &Timeouts::default(), Tick(0)).unwrap();
    assert_eq!(view.flow, Flow6::template(6, NET | 1 << 64, (VIRTUAL.0, u16::MAX)).into());
    assert_eq!((view.server.1, view.template), (u16::MAX, Some(true)));
    all.close(child).unwrap();
    assert!(all.close(template).is_some_and(|ended| ended.is_template));
    assert_eq!(all.table().slots_in_use(), 0);
}

#[test]
fn clients_spread_over_the_buckets() {
    let table = ConnectionTable::new(1 << 10, 8, 1).unwrap();
    let low = |flow: Flow6| flow.digest([0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211]) as usize % 1024;
    // Ports of one client; one port of many clients of a network; of many networks; of many virtual addresses.
    let varied: [fn(u16) -> Flow6; 4] = [
        |n| Flow6::new(6, (NET | 9, n), VIRTUAL),
        |n| Flow6::new(6, (NET | u128::from(n), 4000), VIRTUAL),
        |n| Flow6::new(6, (NET | u128::from(n) << 64 | 1, 4000), VIRTUAL),
        |n| Flow6::new(6, (NET | 9, 4000), (NET | u128::from(n), 80)),
    ];
    for flows in varied {
        let mut buckets = [0u32; 1024];
        (0..8192).for_each(|n| buckets[low(flows(n))] += 1);
        // 8 on average; of so many drawn at random one above 30 comes once in a million times.
        assert!(buckets.iter().all(|n| *n <= 30), "{:?}", buckets.iter().max());
        let hashes: HashSet<_> =
            (0..8192).map(|n| flows(n).digest([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03])).collect();
        assert_eq!(hashes.len(), 8192);
    }
    assert_ne!(table.hash(flow(1)), table.hash(flow(2)));
}
