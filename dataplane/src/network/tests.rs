use super::*;

fn adjacency(last: u8) -> Adjacency {
    Adjacency::new(PortId(0), MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 1, last]))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_longest_route_wins_and_its_neighbour_is_the_gateway() {
    let mut network = Network::default();
    network.set_routes([
        (net("0.0.0.0/0"), Some(NextHop { port: PortId(0), gateway: Some(ip("198.51.100.1")) })),
        (net("192.0.2.0/24"), Some(NextHop { port: PortId(1), gateway: None })),
    ]);
    let far = network.resolve(ip("203.0.113.9"));
    assert_eq!(far, Err(Unreachable::Unresolved { port: PortId(0), neighbour: ip("198.51.100.1") }));
    assert_eq!(
        network.resolve(ip("192.0.2.9")),
        Err(Unreachable::Unresolved { port: PortId(1), neighbour: ip("192.0.2.9") })
    );
    network.set_neighbour(ip("198.51.100.1"), adjacency(1));
    let id = network.resolve(ip("203.0.113.9")).unwrap();
    assert_eq!(network.adjacency(id), Some(&adjacency(1)));
    assert_eq!(network.resolve(ip("2001:db8::1")), Err(Unreachable::NoRoute));
}

#[test]
fn a_new_mac_keeps_id_and_generation_a_new_route_does_not() {
    let mut network = Network::default();
    network.set_routes([(net("192.0.2.0/24"), Some(NextHop { port: PortId(0), gateway: None }))]);
    network.set_neighbour(ip("192.0.2.9"), adjacency(1));
    let (id, generation) = (network.resolve(ip("192.0.2.9")).unwrap(), network.generation());
    network.set_neighbour(ip("192.0.2.9"), adjacency(2));
    assert_eq!(network.resolve(ip("192.0.2.9")), Ok(id));
    assert_eq!(network.adjacency(id), Some(&adjacency(2)));
    network.clear_neighbour(PortId(0), ip("192.0.2.9"));
    assert_eq!(network.adjacency(id), None);
    assert_eq!(network.generation(), generation);
    network.set_routes([] as [(IpNet, Way); 0]);
    assert_ne!(network.generation(), generation);
}

#[test]
fn compact_takes_back_ids_and_says_so() {
    let mut network = Network::default();
    network.set_routes([(net("192.0.2.0/24"), Some(NextHop { port: PortId(0), gateway: None }))]);
    for last in 0..100u8 {
        network.set_neighbour(IpAddr::from([192, 0, 2, last]), adjacency(last));
    }
    for last in 0..90u8 {
        network.clear_neighbour(PortId(0), IpAddr::from([192, 0, 2, last]));
    }
    let generation = network.generation();
    network.compact();
    assert_ne!(network.generation(), generation);
    for last in 90..100u8 {
        let id = network.resolve(IpAddr::from([192, 0, 2, last])).unwrap();
        assert!(id.0 < 10);
        assert_eq!(network.adjacency(id), Some(&adjacency(last)));
    }
}

#[test]
fn mac_addresses_are_read_and_written_alike() {
    let mac: MacAddr = "02:00:5e:00:00:fF".parse().unwrap();
    assert_eq!(mac.to_string(), "02:00:5e:00:00:ff");
    for bad in [
        "",
        "02:00:5e:00:00",
        "02:00:5e:00:00:ff:00",
        "2:0:5e:0:0:ff",
        "02-00-5e-00-00-ff",
        "0x:00:5e:00:00:ff",
    ] {
        assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMacAddr), "{bad:?}");
    }
    assert!(MacAddr([0xff; 6]).is_group() && !mac.is_group());
}

#[test]
fn a_route_that_leads_elsewhere_hides_the_shorter_ones() {
    let mut network = Network::default();
    let default = NextHop { port: PortId(0), gateway: Some(ip("198.51.100.1")) };
    network.set_routes([(net("0.0.0.0/0"), Some(default)), (net("10.0.0.0/8"), None)]);
    assert_eq!(network.resolve(ip("10.1.2.3")), Err(Unreachable::NoRoute));
    assert_eq!(network.route(ip("11.1.2.3")), Some(default));
}

#[test]
fn what_is_local_has_no_way_out() {
    let mut network = Network::default();
    let lan = NextHop { port: PortId(1), gateway: None };
    network.set_routes([
        (net("192.0.2.0/24"), Way::Out(lan)),
        (net("192.0.2.1/32"), Way::Local),
        (net("2001:db8::1/128"), Way::Local),
        (net("10.0.0.0/8"), Way::Elsewhere),
    ]);
    network.set_neighbour(ip("192.0.2.1"), adjacency(1));
    for local in ["192.0.2.1", "2001:db8::1"] {
        assert!(network.is_local(ip(local)));
        assert_eq!((network.route(ip(local)), network.source(ip(local))), (None, None));
        assert_eq!(network.resolve(ip(local)), Err(Unreachable::NoRoute));
    }
    assert!(["192.0.2.2", "10.0.0.1", "2001:db8::2", "8.8.8.8"].iter().all(|a| !network.is_local(ip(a))));
    assert_eq!(network.route(ip("192.0.2.2")), Some(lan));
}
