use super::*;
use dataplane::network::PortId;
use rtnetlink::packet_route::route::{RouteLwEnCapType, RouteNextHop};

/// Interface 2 is port 0, interface 3 is port 1; 9 is nobody's.
fn indexes() -> Indexes {
    Indexes { ports: [(2, PortId(0)), (3, PortId(1))].into() }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn route(prefix: &str, table: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let prefix = net(prefix);
    let mut message = RouteMessage::default();
    message.header.address_family =
        if matches!(prefix, IpNet::V4(_)) { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = table;
    message.header.kind = RouteType::Unicast;
    message.attributes = attributes;
    if prefix.prefix_len() != 0 {
        message.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
    }
    message
}

fn out(index: u32) -> RouteAttribute {
    RouteAttribute::Oif(index)
}

fn via(text: &str) -> RouteAttribute {
    RouteAttribute::Gateway(text.parse::<IpAddr>().unwrap().into())
}

fn selected(messages: &[RouteMessage]) -> Vec<(String, Way)> {
    let candidates: Vec<_> = messages.iter().filter_map(Candidate::read).collect();
    select(&candidates, &indexes()).into_iter().map(|(p, h)| (p.to_string(), h)).collect()
}

fn hop(port: u16, gateway: Option<&str>) -> Way {
    Way::Out(NextHop { port: PortId(port), gateway: gateway.map(|g| g.parse().unwrap()) })
}

#[test]
fn routes_by_our_interfaces_lead_to_ports_and_others_nowhere() {
    let messages = [
        route("0.0.0.0/0", 254, vec![out(2), via("198.51.100.1")]),
        route("192.0.2.0/24", 254, vec![out(3)]),
        route("10.0.0.0/8", 254, vec![out(9), via("10.9.9.9")]),
        route("2001:db8::/32", 254, vec![out(2), via("fe80::1")]),
    ];
    assert_eq!(
        selected(&messages),
        [
            ("0.0.0.0/0".into(), hop(0, Some("198.51.100.1"))),
            ("10.0.0.0/8".into(), Way::Elsewhere),
            ("192.0.2.0/24".into(), hop(1, None)),
            ("2001:db8::/32".into(), hop(0, Some("fe80::1"))),
        ]
    );
}

#[test]
fn the_lowest_metric_wins_and_of_equals_the_first() {
    let with = |metric, index| route("0.0.0.0/0", 254, vec![out(index), RouteAttribute::Priority(metric)]);
    assert_eq!(selected(&[with(200, 2), with(100, 3)]), [("0.0.0.0/0".into(), hop(1, None))]);
    assert_eq!(selected(&[with(100, 3), with(100, 2)]), [("0.0.0.0/0".into(), hop(1, None))]);
    assert_eq!(selected(&[with(100, 9), with(200, 2)]), [("0.0.0.0/0".into(), Way::Elsewhere)]);
}

#[test]
fn dead_next_hops_are_passed_over() {
    let mut dead = route("0.0.0.0/0", 254, vec![out(2)]);
    dead.header.flags = RouteFlags::Dead;
    let mut down = route("0.0.0.0/0", 254, vec![out(2), RouteAttribute::Priority(5)]);
    down.header.flags = RouteFlags::Linkdown;
    let alive = route("0.0.0.0/0", 254, vec![out(3), RouteAttribute::Priority(9)]);
    assert_eq!(selected(&[dead.clone(), down.clone(), alive]), [("0.0.0.0/0".into(), hop(1, None))]);
    assert_eq!(selected(&[dead, down]), []);
}

#[test]
fn of_a_multipath_route_the_first_that_is_alive_counts() {
    let leg = |flags, index, gateway| {
        let mut leg = RouteNextHop::default();
        leg.flags = flags;
        leg.interface_index = index;
        leg.attributes = vec![via(gateway)];
        leg
    };
    let down = leg(RouteNextHopFlags::Linkdown, 2, "198.51.100.1");
    let alive = leg(RouteNextHopFlags::empty(), 3, "192.0.2.1");
    let route = |legs| route("0.0.0.0/0", 254, vec![RouteAttribute::MultiPath(legs)]);
    assert_eq!(
        selected(&[route(vec![down.clone(), alive])]),
        [("0.0.0.0/0".into(), hop(1, Some("192.0.2.1")))]
    );
    assert_eq!(selected(&[route(vec![down])]), []);
}

#[test]
fn other_tables_types_and_selectors_do_not_count() {
    let local = route("192.0.2.1/32", 255, vec![out(2)]);
    let far = route("192.0.2.0/24", 252, vec![out(2), RouteAttribute::Table(1000)]);
    let mut multicast = route("192.0.2.0/24", 254, vec![out(2)]);
    multicast.header.kind = RouteType::Multicast;
    let mut tos = route("192.0.2.0/24", 254, vec![out(2)]);
    tos.header.tos = 0x10;
    let mut from = route("2001:db8::/32", 254, vec![out(2)]);
    from.header.source_prefix_length = 64;
    let link_local = route("fe80::/64", 254, vec![out(2)]);
    assert_eq!(selected(&[local, far, multicast, tos, from, link_local]), []);
}

#[test]
fn blackholes_and_tunnels_hide_shorter_prefixes() {
    let mut hole = route("10.0.0.0/8", 254, vec![]);
    hole.header.kind = RouteType::BlackHole;
    let tunnel = route("11.0.0.0/8", 254, vec![out(2), RouteAttribute::EncapType(RouteLwEnCapType::Mpls)]);
    assert_eq!(
        selected(&[hole, tunnel]),
        [("10.0.0.0/8".into(), Way::Elsewhere), ("11.0.0.0/8".into(), Way::Elsewhere)]
    );
}

#[test]
fn the_default_table_is_for_what_main_does_not_cover() {
    let last = route("0.0.0.0/0", 253, vec![out(2)]);
    let inner = route("10.1.0.0/16", 253, vec![out(2)]);
    let main = route("10.0.0.0/8", 254, vec![out(3)]);
    assert_eq!(
        selected(&[last, inner, main]),
        [("0.0.0.0/0".into(), hop(0, None)), ("10.0.0.0/8".into(), hop(1, None))]
    );
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_gateway() {
    let via6 = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
    let message = route("192.0.2.0/24", 254, vec![out(2), via6]);
    assert_eq!(selected(&[message]), [("192.0.2.0/24".into(), hop(0, Some("fe80::1")))]);
}

#[test]
fn the_source_that_the_chosen_route_prefers_is_kept() {
    let source = |a: &str| RouteAttribute::PrefSource(RouteAddress::Inet(a.parse().unwrap()));
    let metric = RouteAttribute::Priority;
    let candidates: Vec<_> = [
        route("192.0.2.0/24", 254, vec![out(2), source("192.0.2.1")]),
        route("10.0.0.0/8", 254, vec![out(2), source("192.0.2.7"), metric(9)]),
        route("10.0.0.0/8", 254, vec![out(2), metric(5)]),
    ]
    .iter()
    .filter_map(Candidate::read)
    .collect();
    let expected = [(net("192.0.2.0/24"), [192, 0, 2, 1].into())];
    assert_eq!(sources(&candidates).into_iter().collect::<Vec<_>>(), expected);
}

/// Linux asks the table `local` first, and what it has there hides whatever the others have inside it.
#[test]
fn own_addresses_are_local_before_anything_else() {
    let local = |prefix: &str, table| {
        let mut message = route(prefix, table, vec![out(1)]);
        message.header.kind = RouteType::Local;
        message
    };
    let mut broadcast = route("192.0.2.255/32", 255, vec![out(3)]);
    broadcast.header.kind = RouteType::Broadcast;
    let messages = [
        local("192.0.2.1/32", 255),
        local("10.0.0.0/8", 255),
        local("2001:db8::1/128", 255),
        local("172.16.0.1/32", 254),
        broadcast,
        route("192.0.2.0/24", 254, vec![out(3)]),
        route("10.1.0.0/16", 254, vec![out(2)]),
    ];
    assert_eq!(
        selected(&messages),
        [
            ("10.0.0.0/8".into(), Way::Local),
            ("192.0.2.0/24".into(), hop(1, None)),
            ("192.0.2.1/32".into(), Way::Local),
            ("2001:db8::1/128".into(), Way::Local),
        ]
    );
}
