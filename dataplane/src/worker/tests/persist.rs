//! Persistence: which server a client's connections go to, and what becomes of templates.

use super::*;
use crate::conn::View;
use crate::service::{Engine, Family, Persistence, RangeKey};

const TIMEOUT: u32 = 30;

fn destinations(weights: &[u32], method: Method) -> Vec<Destination> {
    let destination = |(n, weight): (usize, &u32)| Destination {
        id: n as u32,
        sequence: n as u32 + 1,
        address: ip(SERVERS[n].0),
        port: SERVERS[n].1,
        weight: *weight,
        last_weight: 1,
        method,
    };
    weights.iter().enumerate().map(destination).collect()
}

fn set(
    lab: &mut Lab,
    (protocol, port): (u8, u16),
    destinations: Vec<Destination>,
    mask: u32,
    one_packet: bool,
) {
    let ticks = TIMEOUT * TICKS_PER_SECOND;
    let service = Service::new(destinations, schedule::by_name("rr").unwrap())
        .with_persistence(Some(Persistence { ticks, mask: ip(mask) }))
        .with_one_packet(one_packet);
    let key = ServiceKey { protocol, address: ip(VIP.0), port };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    lab.publish();
}

fn lab(weights: &[u32]) -> Lab {
    let mut lab = Lab::new(Method::Nat, 1);
    set(&mut lab, (protocol::TCP, VIP.1), destinations(weights, Method::Nat), u32::MAX, false);
    lab
}

/// A SYN from a port of the client of this number; which server got it.
fn connect(lab: &mut Lab, client: u32, port: u16) -> Option<usize> {
    connect_to(lab, client, port, VIP.1).map(|(server, _)| server)
}

fn connect_to(lab: &mut Lab, client: u32, port: u16, to: u16) -> Option<(usize, u16)> {
    let flow = Flow::new(protocol::TCP, (CLIENT + client, port), (VIP.0, to));
    let (_, sent) = lab.receive_one(0, frame(WAN, flow, Flags::SYN, b""))?;
    let (mac, _, flow) = read(&sent);
    Some((SERVER_MACS.iter().position(|server| *server == mac).unwrap(), flow.destination().1))
}

/// Whether all that comes of a frame received on a port is that its client hears that nobody takes it.
fn is_refused(lab: &mut Lab, port: usize, frame: Vec<u8>) -> bool {
    let before = lab.counters[0].read().unreachable;
    let sent = lab.receive_one(port, frame);
    sent.is_some_and(|(port, frame)| port == 0 && frame.data()[14 + 9] == protocol::ICMP)
        && lab.counters[0].read().unreachable == before + 1
}

fn wait(lab: &mut Lab, seconds: u32) {
    // As seconds go by, so that timers fire in time.
    for _ in 0..seconds {
        lab.now = lab.now.after(TICKS_PER_SECOND);
        (0..4).for_each(|_| drop(lab.poll(0)));
    }
    for _ in 0..100 {
        lab.poll(0);
    }
}

fn templates(lab: &Lab) -> Vec<View> {
    lab.shared.table.views(lab.snapshot.timeouts, lab.now).filter(|view| view.template.is_some()).collect()
}

fn persistent(lab: &Lab) -> [u32; 2] {
    [0, 1].map(|n| lab.shared.destinations.load(n).persistent())
}

#[test]
fn a_template_stays_for_its_time_after_the_last_new_connection_and_while_there_are_any() {
    let mut lab = lab(&[1, 1]);
    let first = connect(&mut lab, 0, 4000).unwrap();
    assert_ne!(connect(&mut lab, 1, 4000), Some(first));
    wait(&mut lab, 20);
    assert_eq!(connect(&mut lab, 0, 4001), Some(first), "not the next one in turn");
    assert_eq!(persistent(&lab), [1, 1]);
    wait(&mut lab, 11);
    // The time of client 1's is up; its connection in SYN_RECV ends after 60 s.
    let left = |lab: &Lab, client| {
        let of = |view: &View| view.flow.v4().unwrap().source().0 == CLIENT + client;
        templates(lab).into_iter().find(of).map(|view| view.expires.div_ceil(TICKS_PER_SECOND))
    };
    assert_eq!((left(&lab, 0), left(&lab, 1)), (Some(19), Some(60 - 1)));
    wait(&mut lab, 20);
    assert_eq!(left(&lab, 0), Some(59), "40 s more, and its second connection is there for 29 s");
    // It stays for 60 s from now on, whatever the service says.
    assert_eq!(connect(&mut lab, 0, 4002), Some(first));
    assert_eq!(left(&lab, 0), Some(60));
    wait(&mut lab, 59);
    assert_eq!((left(&lab, 0), left(&lab, 1)), (Some(1), None));
    wait(&mut lab, 2);
    wait(&mut lab, 60);
    assert_eq!((templates(&lab), persistent(&lab)), (vec![], [0, 0]));
    assert_eq!(lab.shared.table.slots_in_use(), 0);
}

#[test]
fn clients_of_a_network_share_a_template() {
    let mut lab = lab(&[1, 1]);
    set(&mut lab, (protocol::TCP, VIP.1), destinations(&[1, 1], Method::Nat), 0xffff_fffe, false);
    // .9, .10 and .11, .12
    let servers = [0, 1, 2, 3].map(|client| connect(&mut lab, client, 4000).unwrap());
    assert_eq!((servers[1], servers[0]), (servers[2], servers[3]));
    assert_ne!(servers[0], servers[1]);
    assert_eq!(templates(&lab).len(), 3);
    assert!(
        templates(&lab)
            .iter()
            .all(|view| matches!(view.flow.v4().unwrap().source(), (address, 0) if address & 1 == 0))
    );
}

#[test]
fn weight_0_keeps_the_clients_it_has_unless_templates_expire() {
    let mut lab = lab(&[1, 0]);
    set(&mut lab, (protocol::TCP, VIP.1), destinations(&[1, 1], Method::Nat), u32::MAX, false);
    let first = connect(&mut lab, 0, 4000).unwrap();
    let weights = if first == 0 { [0, 1] } else { [1, 0] };
    set(&mut lab, (protocol::TCP, VIP.1), destinations(&weights, Method::Nat), u32::MAX, false);
    assert_eq!(connect(&mut lab, 0, 4001), Some(first));
    assert_eq!(connect(&mut lab, 1, 4000), Some(1 - first));

    lab.snapshot.sysctls.expire_quiescent_template = true;
    lab.publish();
    assert_eq!(connect(&mut lab, 0, 4002), Some(1 - first));
    assert_eq!(connect(&mut lab, 0, 4003), Some(1 - first));
    // The old one counts no longer, and is there as long as its connections.
    let mut shown: Vec<_> = templates(&lab).iter().map(|v| (v.flow.destination().1, v.server.1)).collect();
    shown.sort_unstable();
    assert_eq!(shown, [(VIP.1, SERVERS[0].1), (VIP.1, SERVERS[0].1), (u16::MAX, u16::MAX)]);
    assert_eq!(persistent(&lab)[first], 1);
    wait(&mut lab, 200);
    assert_eq!((templates(&lab), persistent(&lab)), (vec![], [0, 0]));
}

#[test]
fn a_deleted_server_keeps_nobody() {
    let mut lab = lab(&[1, 1]);
    let first = connect(&mut lab, 0, 4000).unwrap();
    let mut rest = destinations(&[1, 1], Method::Nat);
    rest.remove(first);
    set(&mut lab, (protocol::TCP, VIP.1), rest, u32::MAX, false);
    assert_eq!(connect(&mut lab, 0, 4001), Some(1 - first));
    set(&mut lab, (protocol::TCP, VIP.1), Vec::new(), u32::MAX, false);
    assert!(is_refused(&mut lab, 0, tcp(4002, Flags::SYN)));
    lab.check_balance();
}

#[test]
fn a_template_is_assured_once_a_connection_is_established() {
    let mut lab = lab(&[1, 1]);
    let server = connect(&mut lab, 0, 4000).unwrap();
    assert_eq!(templates(&lab)[0].state_name(), "NONE");
    lab.receive_one(1, tcp_reply(server, 4000, Flags::SYN | Flags::ACK));
    assert_eq!(templates(&lab)[0].state_name(), "NONE");
    lab.receive_one(0, tcp(4000, Flags::ACK));
    assert_eq!(templates(&lab)[0].state_name(), "ASSURED");
}

#[test]
fn every_port_and_ftps_have_one_template() {
    for port in [0, 21] {
        let mut lab = Lab::new(Method::Nat, 1);
        set(&mut lab, (protocol::TCP, port), destinations(&[1, 1], Method::Nat), u32::MAX, false);
        let control = if port == 0 { 443 } else { port };
        let (first, at) = connect_to(&mut lab, 0, 4000, control).unwrap();
        assert_eq!(at, if port == 0 { 443 } else { SERVERS[first].1 });
        assert_eq!(connect_to(&mut lab, 0, 4001, 50_000), Some((first, 50_000)));
        let shown: Vec<_> = templates(&lab).iter().map(|v| (v.flow.destination().1, v.server.1)).collect();
        assert_eq!(shown, [(0, 0)]);
        // Ports that no FTP server would choose are not for it.
        assert_eq!(connect_to(&mut lab, 0, 4002, 80).is_some(), port == 0);
    }
}

#[test]
fn datagrams_scheduled_one_by_one_stay_with_their_template() {
    let mut lab = Lab::new(Method::Nat, 1);
    set(&mut lab, (protocol::UDP, VIP.1), destinations(&[1, 1], Method::Nat), u32::MAX, true);
    let datagram = frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, b"x");
    let sent = lab.receive(0, 0, &vec![datagram; 10]);
    let first = read(&sent[0].1).0;
    assert!(sent.len() == 10 && sent.iter().all(|(_, frame)| read(frame).0 == first));
    assert_eq!(lab.shared.table.views(lab.snapshot.timeouts, lab.now).count(), 1, "the template");
    wait(&mut lab, TIMEOUT + 1);
    assert_eq!((templates(&lab), persistent(&lab)), (vec![], [0, 0]));
}

#[test]
fn a_mark_comes_before_addresses_and_has_one_template_for_all_its_ports() {
    use crate::mark::{Addresses, Rule};
    let mut lab = Lab::new(Method::Nat, 1);
    let service = |destinations, persistence| {
        Arc::new(Service::new(destinations, schedule::by_name("rr").unwrap()).with_persistence(persistence))
    };
    let persistence = Persistence { ticks: TIMEOUT * TICKS_PER_SECOND, mask: ip(u32::MAX) };
    let two = || destinations(&[1, 1], Method::Nat);
    let rule =
        Rule { destination: Addresses::new(ip(VIP.0).into()), in_port: Some(PortId(0)), ..Rule::new(9) };
    let other = Rule { destination_ports: 81..=81, ..Rule::new(8) };
    let key = ServiceKey { protocol: protocol::TCP, address: ip(VIP.0), port: VIP.1 };
    let services = Services::new([(key, service(Vec::new(), None))])
        .with_marks(vec![other, rule], [((Family::V4, 9), service(two(), Some(persistence)))]);
    assert!(services.is_virtual(ip(VIP.0)) && !services.is_virtual(ip(VIP.0 + 1)));
    lab.snapshot.services = Arc::new(services);
    lab.publish();
    let (first, at) = connect_to(&mut lab, 0, 4000, VIP.1).unwrap();
    assert_eq!(at, VIP.1, "servers' own ports count for no persistent service by mark");
    assert_eq!(connect_to(&mut lab, 0, 4001, 443), Some((first, 443)));
    let shown: Vec<_> =
        templates(&lab).iter().map(|v| (v.flow.protocol(), v.flow.v4().unwrap().destination())).collect();
    assert_eq!(shown, [(protocol::IP, (9, 0))]);
    // Marked 8 by the first rule, for which there is no service, and of no address's.
    assert_eq!(connect_to(&mut lab, 0, 4002, 81), None);
    assert_eq!(lab.to_kernel[0].len(), 1);
    // Received on another port it is for the address's service, which has no server.
    let flow = Flow::new(protocol::TCP, (CLIENT, 4003), VIP);
    assert!(is_refused(&mut lab, 1, frame(LAN, flow, Flags::SYN, b"")));
}

#[test]
fn a_service_by_mark_sends_to_its_servers_ports_or_to_the_clients() {
    use crate::mark::Rule;
    for (own, expected) in [(8080, 8080), (0, 443)] {
        let mut lab = Lab::new(Method::Nat, 1);
        let mut servers = destinations(&[1], Method::Nat);
        servers[0].port = own;
        let service = Arc::new(Service::new(servers, schedule::by_name("rr").unwrap()));
        lab.snapshot.services =
            Arc::new(Services::default().with_marks(vec![Rule::new(1)], [((Family::V4, 1), service)]));
        lab.publish();
        assert_eq!(connect_to(&mut lab, 0, 4000, 443), Some((0, expected)));
    }
}

#[test]
fn a_template_is_assured_by_an_association_too() {
    const INIT: u8 = 1;
    const COOKIE_ECHO: u8 = 10;
    let mut lab = Lab::new(Method::DirectRouting, 1);
    let servers = destinations(&[1, 1], Method::DirectRouting);
    set(&mut lab, (protocol::SCTP, VIP.1), servers, u32::MAX, false);
    let client = Flow::new(protocol::SCTP, (CLIENT, 7), VIP);
    for (chunk, name) in [(INIT, "NONE"), (COOKIE_ECHO, "ASSURED")] {
        lab.receive_one(0, sctp(WAN, (client, chunk))).unwrap();
        assert_eq!(templates(&lab)[0].state_name(), name);
    }
}

#[test]
fn a_template_is_assured_by_a_connection_that_is_established_at_once() {
    let mut lab = lab(&[1, 1]);
    lab.snapshot.sysctls.sloppy_tcp = true;
    lab.publish();
    lab.receive_one(0, tcp(4000, Flags::ACK)).unwrap();
    assert_eq!(templates(&lab)[0].state_name(), "ASSURED");
}

#[test]
fn templates_end_with_their_connections_under_drop_entry_unless_assured() {
    for assured in [false, true] {
        let mut lab = lab(&[1, 1]);
        let server = connect(&mut lab, 0, 4000).unwrap();
        if assured {
            lab.receive_one(0, tcp(4000, Flags::ACK));
            lab.receive_one(1, tcp_reply(server, 4000, Flags::RST));
            connect(&mut lab, 0, 4001).unwrap();
        }
        lab.snapshot.defence.drop_entry = true;
        lab.publish();
        // Two entries a second.
        wait(&mut lab, 5);
        let left = lab.shared.table.views(lab.snapshot.timeouts, lab.now).count();
        assert_eq!(
            (left, templates(&lab).len()),
            if assured { (2, 1) } else { (0, 0) },
            "the one in CLOSE stays"
        );
        assert_eq!(persistent(&lab)[server], u32::from(assured));
        assert_eq!(lab.load(server as u32), (0, u32::from(assured)));
    }
}

#[test]
fn templates_of_datagrams_scheduled_one_by_one_stay_under_drop_entry() {
    let mut lab = Lab::new(Method::Nat, 1);
    set(&mut lab, (protocol::UDP, VIP.1), destinations(&[1, 1], Method::Nat), u32::MAX, true);
    let datagram = frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, b"x");
    lab.receive_one(0, datagram).unwrap();
    lab.snapshot.defence.drop_entry = true;
    lab.publish();
    wait(&mut lab, 5);
    assert_eq!(templates(&lab).len(), 1);
}

#[test]
fn templates_end_with_their_deleted_server_where_connections_do() {
    let mut lab = lab(&[1, 1]);
    lab.snapshot.sysctls.expire_nodest_conn = true;
    let servers = [0, 1].map(|client| connect(&mut lab, client, 4000).unwrap());
    lab.receive_one(0, tcp(4000, Flags::ACK));
    assert_eq!(templates(&lab).iter().filter(|view| view.template == Some(true)).count(), 1);
    let mut rest = destinations(&[1, 1], Method::Nat);
    rest.remove(servers[0]);
    set(&mut lab, (protocol::TCP, VIP.1), rest, u32::MAX, false);
    lab.shared.destinations.set_gone(servers[0] as u32, true);
    lab.snapshot.deletions += 1;
    lab.publish();
    for _ in 0..4 {
        lab.poll(0);
    }
    let (gone, there) = (servers[0] as u32, servers[1] as u32);
    assert_eq!((lab.load(gone), lab.load(there)), ((0, 0), (1, 0)));
    assert_eq!((persistent(&lab)[servers[0]], persistent(&lab)[servers[1]]), (0, 1), "though it was assured");
    assert_eq!(connect(&mut lab, 0, 4001), Some(servers[1]));
}

#[test]
fn without_a_server_ftps_clients_are_told_and_others_are_left_to_linux() {
    let mut lab = Lab::new(Method::Nat, 1);
    set(&mut lab, (protocol::TCP, 21), Vec::new(), u32::MAX, false);
    let syn = |port| frame(WAN, Flow::new(protocol::TCP, (CLIENT, 4000), (VIP.0, port)), Flags::SYN, b"");
    assert!(is_refused(&mut lab, 0, syn(21)));
    assert_eq!(lab.receive_one(0, syn(50_000)), None);
    assert_eq!(lab.to_kernel[0].len(), 1);
    lab.check_balance();
}

#[test]
fn a_port_used_again_belongs_to_the_old_connection_under_a_template() {
    let mut lab = lab(&[1, 1]);
    let server = connect(&mut lab, 0, 4000).unwrap();
    lab.receive_one(1, tcp_reply(server, 4000, Flags::RST | Flags::ACK));
    assert_eq!(connect(&mut lab, 0, 4000), Some(server));
    assert_eq!(lab.shared.destinations.stats(server as u32).connections, 1);
}

#[test]
fn a_range_has_one_template_for_all_its_addresses_and_ports() {
    let mut lab = Lab::new(Method::Nat, 1);
    let ticks = TIMEOUT * TICKS_PER_SECOND;
    let key = RangeKey {
        protocol: protocol::TCP,
        network: "198.51.100.0/24".parse().unwrap(),
        ports: (8000, 8099),
    };
    let set = |lab: &mut Lab, persistence| {
        // The one without a port gets the client's.
        let mut destinations = destinations(&[1, 1], Method::Nat);
        destinations[0].port = 0;
        let service =
            Service::new(destinations, schedule::by_name("rr").unwrap()).with_persistence(persistence);
        lab.snapshot.services = Arc::new(Services::default().with_ranges([(key, Arc::new(service))]));
        lab.publish();
    };
    let connect = |lab: &mut Lab, port: u16, to: (u32, u16)| {
        let flow = Flow::new(protocol::TCP, (CLIENT, port), to);
        let (_, sent) = lab.receive_one(0, frame(WAN, flow, Flags::SYN, b""))?;
        let (_, _, flow) = read(&sent);
        Some(
            SERVERS
                .map(|(address, _)| address)
                .iter()
                .position(|a| *a == flow.destination().0)
                .map(|n| (n, flow.destination().1))
                .unwrap(),
        )
    };
    set(&mut lab, None);
    assert_eq!(connect(&mut lab, 1, (VIP.0, 8000)), Some((1, 8080)));
    assert_eq!(connect(&mut lab, 2, (VIP.0, 8099)), Some((0, 8099)));
    // What belongs to no range is Linux's.
    assert_eq!((connect(&mut lab, 3, (VIP.0, 8100)), lab.to_kernel[0].len()), (None, 1));
    // Replies are from where the client sent to.
    let (_, reply) = lab
        .receive_one(1, frame(LAN, Flow::new(protocol::TCP, (SERVERS[0].0, 8099), (CLIENT, 2)), S | A, b""))
        .unwrap();
    assert_eq!(read(&reply).2.source(), (VIP.0, 8099));

    set(&mut lab, Some(Persistence { ticks, mask: ip(u32::MAX) }));
    let (first, _) = connect(&mut lab, 10, (VIP.0, 8001)).unwrap();
    for (n, to) in [(VIP.0, 8002), (VIP.0 + 1, 8001), (VIP.0 + 9, 8099)].into_iter().enumerate() {
        let port = if first == 0 { to.1 } else { 8080 };
        assert_eq!(connect(&mut lab, 11 + n as u16, to), Some((first, port)));
    }
    let templates = templates(&lab);
    let [template] = &templates[..] else { panic!("{templates:?}") };
    assert_eq!(
        (template.flow.source(), template.flow.destination()),
        ((ip(CLIENT), 0), ("198.51.100.0".parse().unwrap(), 8000))
    );
    lab.check_balance();
}

/// A SIP request of a client with this Call-ID line.
fn sip(client: u32, port: u16, line: &str) -> Vec<u8> {
    let message = format!("INVITE sip:a@b SIP/2.0\r\nVia: x\r\n{line}\r\n\r\n");
    frame(WAN, Flow::new(protocol::UDP, (CLIENT + client, port), VIP), 0, message.as_bytes())
}

#[test]
fn a_call_stays_with_its_server_whoever_of_the_network_calls() {
    let mut lab = Lab::new(Method::Nat, 1);
    let set = |lab: &mut Lab, mask: u32, one_packet| {
        let ticks = TIMEOUT * TICKS_PER_SECOND;
        let service = Service::new(destinations(&[1, 1], Method::Nat), schedule::by_name("rr").unwrap())
            .with_persistence(Some(Persistence { ticks, mask: ip(mask) }))
            .with_engine(Some(Engine::Sip))
            .with_one_packet(one_packet);
        let key = ServiceKey { protocol: protocol::UDP, address: ip(VIP.0), port: VIP.1 };
        lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
        lab.publish();
    };
    let call = |lab: &mut Lab, client, port, line: &str| {
        let (_, sent) = lab.receive_one(0, sip(client, port, line))?;
        let (mac, ..) = read(&sent);
        SERVER_MACS.iter().position(|server| *server == mac)
    };
    set(&mut lab, 0xffff_ff00, false);
    let first = call(&mut lab, 0, 5000, "Call-ID: a@h").unwrap();
    assert_eq!(
        call(&mut lab, 0, 5001, "Call-ID: b@h"),
        Some(1 - first),
        "another call, the next server's turn"
    );
    assert_eq!(call(&mut lab, 0, 5002, "i: a@h"), Some(first));
    assert_eq!(call(&mut lab, 7, 5002, "Call-ID: a@h"), Some(first), "another client of the network");
    // A client of another network is another caller.
    assert_eq!(call(&mut lab, 256, 5000, "Call-ID: a@h"), Some(1));
    // What is no SIP, or too long, is dropped in silence, as the kernel does it.
    assert_eq!(call(&mut lab, 0, 5003, "Call: a@h"), None);
    assert_eq!(call(&mut lab, 0, 5003, &format!("Call-ID: {}", "x".repeat(256))), None);
    assert_eq!((lab.dropped(Drop::NoCallId), lab.counters[0].read().unreachable), (2, 0));
    // Its connection goes on with whatever it says.
    assert_eq!(call(&mut lab, 0, 5000, "no call"), Some(first));
    let long = "y".repeat(255);
    call(&mut lab, 0, 5004, &format!("Call-ID: {long}")).unwrap();
    let mut shown: Vec<_> = templates(&lab)
        .into_iter()
        .map(|view| {
            let note = view.note.unwrap();
            (view.flow.source(), view.flow.destination(), String::from_utf8(note.data.to_vec()).unwrap())
        })
        .collect();
    shown.sort_by(|a, b| (&a.2, a.0).cmp(&(&b.2, b.0)));
    let network = |client: u32| (ip((CLIENT + client) & 0xffff_ff00), 0);
    let to = (ip(VIP.0), VIP.1);
    assert_eq!(
        shown,
        [
            (network(0), to, "a@h".to_owned()),
            (network(256), to, "a@h".into()),
            (network(0), to, "b@h".into()),
            (network(0), to, long),
        ]
    );
    // All of it is given back.
    wait(&mut lab, 400);
    assert_eq!((templates(&lab), lab.shared.table.slots_in_use()), (vec![], 0));

    // By one-packet scheduling nothing but the template remembers.
    set(&mut lab, u32::MAX, true);
    let first = call(&mut lab, 0, 5000, "Call-ID: c").unwrap();
    assert_eq!([5000, 5001, 5000].map(|port| call(&mut lab, 0, port, "Call-ID: c")), [Some(first); 3]);
    assert_eq!(call(&mut lab, 0, 5000, "Call-ID: d"), Some(1 - first));
    lab.check_balance();
}

#[test]
fn no_entry_of_a_call_is_lost_where_there_are_not_enough() {
    let mut lab = Lab::new(Method::Nat, 1);
    let ticks = TIMEOUT * TICKS_PER_SECOND;
    let service = Service::new(destinations(&[1, 1], Method::Nat), schedule::by_name("rr").unwrap())
        .with_persistence(Some(Persistence { ticks, mask: ip(u32::MAX) }))
        .with_engine(Some(Engine::Sip));
    let key = ServiceKey { protocol: protocol::UDP, address: ip(VIP.0), port: VIP.1 };
    lab.snapshot.services = Arc::new(Services::new([(key, Arc::new(service))]));
    lab.publish();
    // Ten entries each: the template's two, seven for the Call-ID, one for the connection.
    let line = |n: u16| format!("Call-ID: {n:0>255}");
    let fill =
        |lab: &mut Lab| (0..20).filter(|n| lab.receive_one(0, sip(0, 5000 + n, &line(*n))).is_some()).count();
    let opened = fill(&mut lab);
    assert!((5..=6).contains(&opened), "{opened} of 64 entries");
    assert_eq!(lab.dropped(Drop::NoFreeEntry), 20 - opened as u64);
    wait(&mut lab, 400);
    assert_eq!((templates(&lab), lab.shared.table.slots_in_use()), (vec![], 0));
    assert_eq!(fill(&mut lab), opened, "as many as before");
    lab.check_balance();
}
