use super::*;
use dataplane::network::{MacAddr, Unreachable};

const PORT: PortId = PortId(0);
const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xff]);

fn server() -> IpAddr {
    [192, 0, 2, 9].into()
}

fn neighbour(last: u8) -> Neighbour {
    Neighbour {
        index: 7,
        address: server(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, last])),
        stale: false,
        settled: false,
        managed: false,
        learned: false,
    }
}

fn link(index: u32) -> Link {
    Link { index, name: "wan0".into(), mac: OWN.0.to_vec() }
}

fn state() -> State {
    let interface = Interface { port: PORT, name: "wan0".into(), mac: OWN };
    let mut state = State::new(vec![interface], Fixed::default());
    state.set_links(&[link(7), Link { index: 1, name: "lo".into(), mac: vec![0; 6] }]);
    state.all_due = false;
    state.routes_due = false;
    state.take();
    state
}

fn mac(state: &State, address: IpAddr) -> Option<MacAddr> {
    let mut network = state.network().clone();
    let hop = dataplane::network::NextHop { port: PORT, gateway: None };
    network.set_routes([("0.0.0.0/0".parse().unwrap(), Some(hop))]);
    match network.resolve(address) {
        Ok(id) => network.adjacency(id).map(|a| {
            assert_eq!((a.port(), a.source()), (PORT, OWN));
            a.destination()
        }),
        Err(Unreachable::Unresolved { .. }) => None,
        Err(e) => panic!("{e:?}"),
    }
}

#[test]
fn a_neighbour_follows_its_events() {
    let mut state = state();
    state.apply(Event::Neighbour(neighbour(9)));
    assert!(state.has_changed());
    assert_eq!(mac(&state, server()), Some(MacAddr([2, 0, 0, 0, 0, 9])));
    state.take();
    assert_eq!(
        state.apply(Event::Neighbour(Neighbour { stale: true, ..neighbour(9) })),
        Some((PORT, server()))
    );
    assert!(!state.has_changed(), "the same address again");
    state.apply(Event::Neighbour(neighbour(10)));
    assert_eq!(mac(&state, server()), Some(MacAddr([2, 0, 0, 0, 0, 10])));
    state.apply(Event::Neighbour(Neighbour { mac: None, ..neighbour(10) }));
    assert_eq!(mac(&state, server()), None);
    state.apply(Event::Neighbour(neighbour(9)));
    state.apply(Event::NeighbourGone(neighbour(9)));
    assert_eq!(mac(&state, server()), None);
}

#[test]
fn neighbours_of_other_interfaces_do_not_count() {
    let mut state = state();
    assert_eq!(state.apply(Event::Neighbour(Neighbour { index: 8, stale: true, ..neighbour(9) })), None);
    state.set_neighbours(vec![Neighbour { index: 8, ..neighbour(9) }]);
    assert!(!state.has_changed());
    assert!(state.neighbours().is_empty());
}

#[test]
fn a_dump_takes_away_what_it_does_not_have() {
    let mut state = state();
    state.set_neighbours(vec![neighbour(9)]);
    assert_eq!(mac(&state, server()), Some(MacAddr([2, 0, 0, 0, 0, 9])));
    state.set_neighbours(vec![]);
    assert_eq!(mac(&state, server()), None);
}

#[test]
fn a_lost_announcement_calls_for_everything_and_others_for_routes() {
    for (event, all, routes) in [
        (Event::Lost, true, false),
        (Event::Routes, false, true),
        (Event::LinkGone(1), false, true),
        (Event::Link(link(7)), false, true),
        (Event::Neighbour(neighbour(9)), false, false),
    ] {
        let mut state = state();
        state.apply(event.clone());
        assert_eq!((state.all_due, state.routes_due), (all, routes), "{event:?}");
    }
}

#[test]
fn an_interface_that_comes_again_is_another() {
    let mut state = state();
    state.apply(Event::Neighbour(neighbour(9)));
    state.apply(Event::LinkGone(7));
    assert_eq!(mac(&state, server()), None);
    assert_eq!(state.can_be_asked((PORT, server())), None);
    state.apply(Event::Link(link(12)));
    assert!(state.all_due, "what was announced of it before is not known");
    assert_eq!(state.can_be_asked((PORT, server())), Some(12));
    assert_eq!(state.can_be_asked((PORT, [224, 0, 0, 1].into())), None);
}

#[test]
fn packets_of_the_directors_own_come_from_the_interfaces_address() {
    let mut state = state();
    state.set_routes(&[]);
    state.take();
    let mut network = state.network().clone();
    assert_eq!(network.source(server()), None);
    let address = |index, network: &str| Address { index, network: network.parse().unwrap() };
    state.set_sources(&[], &[address(1, "198.51.100.1/24"), address(7, "192.0.2.1/24")]);
    assert!(state.has_changed());
    network = (*state.take()).clone();
    let hop = dataplane::network::NextHop { port: PORT, gateway: None };
    network.set_routes([("0.0.0.0/0".parse().unwrap(), Some(hop))]);
    assert_eq!(network.source(server()), Some([192, 0, 2, 1].into()));
    state.set_sources(&[], &[address(1, "198.51.100.1/24"), address(7, "192.0.2.1/24")]);
    assert!(!state.has_changed(), "nothing new");
}
