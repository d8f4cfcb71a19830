use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::conn::{Method, State};
use crate::parse::{Flow, Flow6};

const VIRTUAL: (u32, u16) = (0xc633_6408, 80);
const NET: u128 = 0x2001_0db8 << 96;
const VIRTUAL6: (u128, u16) = (NET | 0xf00d, 80);

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn v6(last: u16) -> IpAddr {
    IpAddr::V6((NET | 2 << 64 | u128::from(last)).into())
}

/// A connection of this client to this server.
fn new(six: bool, client: u16, server: IpAddr) -> NewConnection {
    let flow = if six {
        Flow6::new(6, (NET | 9, client), VIRTUAL6).into()
    } else {
        Flow::new(6, (0xcb00_7109, client), VIRTUAL).into()
    };
    NewConnection {
        flow,
        server: (server, 8080),
        method: Method::FullNat,
        destination: 3,
        state: State::Established,
    }
}

fn connections(capacity: u32) -> Connections {
    Connections::new(Arc::new(ConnectionTable::new(8, capacity, 1).unwrap()), 0, Tick(0))
}

fn open(all: &mut Connections, new: &NewConnection, locals: &[(IpAddr, u16)]) -> Result<Index, OpenError> {
    all.open_fullnat(None, (new, Announce::Nothing), locals.iter().copied(), &Timeouts::default(), Tick(0))
}

fn find(all: &Connections, flow: AnyFlow) -> Option<(Index, Direction)> {
    all.find(all.table().hash(flow), flow).map(|found| (found.index, found.direction))
}

fn reply(server: IpAddr, local: (IpAddr, u16)) -> AnyFlow {
    AnyFlow::new(6, (server, 8080), local).unwrap()
}

/// The client's family, server and local address: of one family, and of two.
fn mixes() -> [(bool, IpAddr, IpAddr); 4] {
    [(false, v4(9), v4(33)), (true, v6(9), v6(33)), (true, v4(9), v4(33)), (false, v6(9), v6(33))]
}

#[test]
fn it_is_found_by_the_client_and_by_the_server() {
    for (six, server, address) in mixes() {
        let mut all = connections(8);
        let (new, local) = (new(six, 4000, server), (address, 20_000));
        let index = open(&mut all, &new, &[local]).unwrap();
        assert_eq!(find(&all, new.flow), Some((index, Direction::ToServer)));
        assert_eq!(find(&all, reply(server, local)), Some((index, Direction::ToClient)));
        // Not from the server to the client, whom it does not know, nor in the other protocol.
        if let Some(direct) = AnyFlow::new(6, new.server, new.flow.source()) {
            assert_eq!(find(&all, direct), None);
        }
        assert_eq!(find(&all, AnyFlow::new(17, new.server, local).unwrap()), None);
        let (table, entry) = (all.table(), all.entry(index));
        assert_eq!((table.flow(entry), table.server(entry)), (new.flow, new.server));
        let inside = table.inside(entry).unwrap();
        assert_eq!((inside.server(), inside.local()), (new.server, local));
        let view = table.view(index, &Timeouts::default(), Tick(0)).unwrap();
        assert_eq!((view.flow, view.server, view.local), (new.flow, new.server, Some(local)));
        assert_eq!(view.method, Method::FullNat);

        all.close(index).unwrap();
        assert_eq!((find(&all, new.flow), find(&all, reply(server, local))), (None, None));
        assert_eq!(all.table().slots_in_use(), 0);
    }
}

#[test]
fn a_port_is_taken_towards_one_server_only_and_as_long_as_its_connection_is_there() {
    for (six, server, address) in mixes() {
        let mut all = connections(32);
        let locals = [(address, 20_000), (address, 20_001)];
        let first = open(&mut all, &new(six, 1, server), &locals).unwrap();
        let second = open(&mut all, &new(six, 2, server), &locals).unwrap();
        assert_eq!(find(&all, reply(server, locals[0])), Some((first, Direction::ToClient)));
        assert_eq!(find(&all, reply(server, locals[1])), Some((second, Direction::ToClient)));
        let none_left = open(&mut all, &new(six, 3, server), &locals);
        assert_eq!(none_left, Err(OpenError::NoLocalPort));
        assert_eq!(find(&all, new(six, 3, server).flow), None);
        // Another server may have it, too.
        let other = if server.is_ipv4() { v4(10) } else { v6(10) };
        let third = open(&mut all, &new(six, 3, other), &locals).unwrap();
        assert_eq!(find(&all, reply(other, locals[0])), Some((third, Direction::ToClient)));

        all.close(first).unwrap();
        let fourth = open(&mut all, &new(six, 4, server), &locals).unwrap();
        assert_eq!(find(&all, reply(server, locals[0])), Some((fourth, Direction::ToClient)));
        assert_eq!(all.table().slots_in_use(), 6);
    }
}

#[test]
fn a_client_has_one_connection_and_the_port_of_another_is_given_back() {
    for (six, server, address) in mixes() {
        let mut all = connections(16);
        let locals = [(address, 20_000), (address, 20_001)];
        let index = open(&mut all, &new(six, 1, server), &locals).unwrap();
        let Err(OpenError::Exists(found)) = open(&mut all, &new(six, 1, server), &locals) else { panic!() };
        assert_eq!(found.index, index);
        assert_eq!(find(&all, reply(server, locals[1])), None);
        assert_eq!(all.table().slots_in_use(), 2);
    }
}

#[test]
fn nothing_is_lost_where_entries_are_few() {
    for (six, server, address) in mixes() {
        for capacity in 1..4 {
            let needed = if six { 3 } else { 2 };
            let mut all = connections(capacity);
            let opened = open(&mut all, &new(six, 1, server), &[(address, 20_000)]);
            if capacity < needed {
                assert_eq!(opened, Err(OpenError::NoFreeEntry));
                continue;
            }
            for client in 2..100 {
                assert!(matches!(
                    open(&mut all, &new(six, client, server), &[(address, 1)]),
                    Err(OpenError::NoFreeEntry)
                ));
                all.quiesce();
            }
            all.close(opened.unwrap()).unwrap();
            (0..4).for_each(|_| all.quiesce());
            assert!(open(&mut all, &new(six, 1, server), &[(address, 20_000)]).is_ok());
        }
    }
}

#[test]
fn it_ends_when_its_time_is_up() {
    for (six, server, address) in mixes() {
        let mut all = connections(8);
        open(&mut all, &new(six, 1, server), &[(address, 20_000)]).unwrap();
        let mut ended = 0;
        for quarters in 0..4 * 902 {
            all.expire(&Timeouts::default(), Tick(16 * quarters), |_| ended += 1);
            assert_eq!(ended, usize::from(quarters >= 4 * 900), "{quarters}");
        }
        assert_eq!(all.table().slots_in_use(), 0);
    }
}
