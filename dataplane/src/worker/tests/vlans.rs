//! VLANs: what comes with tags is balanced as what comes without, and leaves with those of its way.

use super::*;
use crate::packet::ethernet::ethertype;
use crate::packet::vectors::vectors;
use crate::packet::vlan::{Received, Tags, VlanId, pop};
use crate::snat;
use crate::worker::Vlan;

/// The clients are in VLAN 10 of the one port, the servers in VLAN 20 within 200 of the other, and in VLAN 30 of the first there is
/// nobody.
const CLIENTS: PortId = PortId(2);
const SERVERS_AT: PortId = PortId(3);

fn vlan_id(outer: Option<u16>, id: u16) -> VlanId {
    VlanId::new(outer, id).unwrap()
}

struct Tagged {
    lab: Lab,
    to_kernel: Vec<Arc<ArrayQueue<MemoryFrame>>>,
    from_kernel: Vec<Arc<ArrayQueue<MemoryFrame>>>,
}

/// The lab's network, with everybody in the VLANs.
fn vlan_network() -> Network {
    let mut network = Network::default();
    let hop = |port, gateway: Option<&str>| {
        Some(NextHop { port, gateway: gateway.map(|gateway| gateway.parse().unwrap()) })
    };
    network.set_routes([
        ("0.0.0.0/0".parse().unwrap(), hop(CLIENTS, Some("198.51.100.1"))),
        ("192.0.2.0/24".parse().unwrap(), hop(SERVERS_AT, None)),
        ("::/0".parse().unwrap(), hop(CLIENTS, Some("2001:db8::1"))),
        ("2001:db8:ff::/64".parse().unwrap(), hop(SERVERS_AT, None)),
    ]);
    let router = Adjacency::new(CLIENTS, WAN, ROUTER);
    network.set_neighbour("198.51.100.1".parse().unwrap(), router);
    network.set_neighbour("2001:db8::1".parse().unwrap(), router);
    for (server, mac) in SERVERS.iter().zip(SERVER_MACS) {
        network.set_neighbour(ip(server.0), Adjacency::new(SERVERS_AT, LAN, mac));
    }
    network
}

impl Tagged {
    fn new(method: Method, mtu: u16) -> Self {
        let mut lab = Lab::new(method, 1);
        lab.snapshot.network = Arc::new(vlan_network());
        lab.publish();
        let queues = || (0..3).map(|_| Arc::new(ArrayQueue::new(64))).collect::<Vec<_>>();
        let (to_kernel, from_kernel) = (queues(), queues());
        let vlan = |(number, (port, id)): (usize, (u16, VlanId))| Vlan {
            port: PortId(port),
            id,
            tags: Tags::new(id, ethertype::SERVICE_VLAN, 5),
            mac: [WAN, LAN][usize::from(port)],
            mtu,
            kernel: Some(Kernel {
                to: Arc::clone(&to_kernel[number]),
                from: Some(from_kernel[number].clone()),
            }),
        };
        let ids = [(0, vlan_id(None, 10)), (1, vlan_id(Some(200), 20)), (0, vlan_id(None, 30))];
        let vlans = ids.into_iter().enumerate().map(vlan).collect();
        let worker = lab.workers.pop().unwrap();
        lab.workers.push(worker.with_vlans(vlans));
        Self { lab, to_kernel, from_kernel }
    }

    /// What leaves by which port, with its tags, where these frames come with theirs.
    fn receive(&mut self, port: usize, frames: &[Vec<u8>]) -> Vec<(usize, Vec<u16>, Vec<u8>)> {
        let sent = self.lab.receive(0, port, frames);
        sent.into_iter().map(|(port, frame)| without_tags(port, frame)).collect()
    }
}

fn without_tags(port: usize, mut frame: MemoryFrame) -> (usize, Vec<u16>, Vec<u8>) {
    let (mut controls, mut at) = (Vec::new(), 12);
    while matches!(frame.data()[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        controls.push(u16::from_be_bytes([frame.data()[at + 2], frame.data()[at + 3]]));
        at += 4;
    }
    assert!(pop(&mut frame, controls.len()));
    (port, controls, frame.data().to_vec())
}

fn with_tags(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags: Vec<_> = tags
        .iter()
        .flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()].concat())
        .collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

const IN_10: &[(u16, u16)] = &[(0x8100, 10)];
const IN_20: &[(u16, u16)] = &[(0x88a8, 200), (0x8100, 20)];
/// Priority 5 in each.
const TO_10: [u16; 1] = [5 << 13 | 10];
const TO_20: [u16; 2] = [5 << 13 | 200, 5 << 13 | 20];

fn udp(client: u16, payload: &[u8]) -> Vec<u8> {
    frame(WAN, Flow::new(protocol::UDP, (CLIENT, client), VIP), 0, payload)
}

/// Requests and replies, whole and in fragments, an error of a router's, by each method: the same bytes as without VLANs.
#[test]
fn what_has_tags_is_balanced_as_what_has_none() {
    for method in [Method::Nat, Method::DirectRouting] {
        let (mut plain, mut tagged) = (Lab::new(method, 1), Tagged::new(method, 1500));
        let mut first = udp(7, &[0x5a; 40]);
        let mut later = first.clone();
        first.truncate(14 + 20 + 24);
        later.drain(14 + 20..14 + 20 + 24);
        for (piece, length, place) in [(&mut first, 44_u16, 0x2000_u16), (&mut later, 44, 3)] {
            piece[16..18].copy_from_slice(&length.to_be_bytes());
            piece[20..22].copy_from_slice(&place.to_be_bytes());
            piece[24..26].fill(0);
            let check = checksum::verify(&piece[14..34]);
            piece[24..26].copy_from_slice(&check.to_be_bytes());
        }
        let mut steps = vec![
            (0, tcp(4000, S)),
            (0, tcp(4000, A)),
            (0, udp(4000, b"question")),
            // The later piece waits for the first.
            (0, later),
            (0, first),
        ];
        if method.sees_replies() {
            steps.push((1, tcp_reply(1, 4000, S | A)));
        }
        let mut left = 0;
        for (port, frame) in steps {
            let expected = plain.receive(0, port, std::slice::from_ref(&frame));
            let tags = if port == 0 { IN_10 } else { IN_20 };
            let sent = tagged.receive(port, &[with_tags(&frame, tags)]);
            assert_eq!(sent.len(), expected.len());
            for ((port, tags, bytes), (expected_port, expected)) in sent.iter().zip(&expected) {
                let expected_tags = if *port == 0 { &TO_10[..] } else { &TO_20 };
                assert_eq!((port, &tags[..], &bytes[..]), (expected_port, expected_tags, expected.data()));
                left += 1;
            }
        }
        assert_eq!(left, if method.sees_replies() { 6 } else { 5 });
        tagged.lab.check_balance();
        assert_eq!(tagged.lab.counters[0].read().dropped(), 0);
    }
}

#[test]
fn frames_of_several_vlans_come_in_one_burst() {
    let mut tagged = Tagged::new(Method::DirectRouting, 1500);
    let mut frames = Vec::new();
    for n in 0..21_u16 {
        frames.push(with_tags(&tcp(n, S), IN_10));
        frames.push(with_tags(&tcp(100 + n, S), &[(0x8100, 30)]));
        // One of no VLAN, with and without a priority.
        frames.push(if n % 2 == 0 {
            tcp(200 + n, S)
        } else {
            with_tags(&tcp(200 + n, S), &[(0x8100, 6 << 13)])
        });
    }
    assert!(frames.len() <= BURST);
    let sent = tagged.receive(0, &frames);
    let clients = |range: std::ops::Range<u16>| {
        let of = |(_, tags, bytes): &(usize, Vec<u16>, Vec<u8>)| {
            assert_eq!(tags, &TO_20);
            let client = read(&MemoryFrame::new(bytes)).2.source().1;
            range.contains(&client).then_some(client)
        };
        sent.iter().filter_map(of).collect::<Vec<_>>()
    };
    for start in [0, 100] {
        assert_eq!(clients(start..start + 21), (start..start + 21).collect::<Vec<_>>(), "in their order");
    }
    assert_eq!(clients(200..221).len(), 21);
    assert_eq!(tagged.lab.counters[0].read().received, 63);
    tagged.lab.check_balance();
}

#[test]
fn linux_has_each_vlan_by_an_interface_of_its_own() {
    let mut tagged = Tagged::new(Method::Nat, 1500);
    for (name, frames) in vectors(include_str!("../../../tests/scapy/vlan.txt")) {
        let [with, without] = &frames[..] else { panic!("{name}") };
        if !name.ends_with("/arp") {
            continue;
        }
        assert_eq!(tagged.receive(0, std::slice::from_ref(with)), []);
        // Of VLAN 10 it is the payload that counts, of no VLAN likewise; of any other, nobody here knows.
        let ids = name.split('/').nth(1).unwrap();
        let (queue, expected) = match ids {
            "10" | "0+10" => (&tagged.to_kernel[0], without),
            "0" => (&tagged.lab.to_kernel[0], without),
            _ => (&tagged.lab.to_kernel[0], with),
        };
        assert_eq!(queue.pop(), Some(MemoryFrame::new(expected)), "{name}");
        // What Linux answers has tags; by the port itself it has none.
        tagged.from_kernel[0].push(MemoryFrame::new(without)).unwrap();
        tagged.from_kernel[1].push(MemoryFrame::new(without)).unwrap();
        tagged.lab.from_kernel[1].push(MemoryFrame::new(without)).unwrap();
        let sent: Vec<_> =
            tagged.lab.poll(0).into_iter().map(|(port, frame)| without_tags(port, frame)).collect();
        let bytes = without.clone();
        let expected =
            [(0, TO_10.to_vec(), bytes.clone()), (1, vec![], bytes.clone()), (1, TO_20.to_vec(), bytes)];
        assert_eq!(sent, expected);
    }
    let counters = tagged.lab.counters[0].read();
    assert_eq!((counters.to_kernel, counters.from_kernel, counters.from_kernel_dropped), (11, 33, 0));
    tagged.lab.check_balance();
}

/// VLAN 30 within 10, where only 10 is known: Linux's interface for 10 sees it as it would by any other driver.
#[test]
fn a_tag_within_a_known_vlan_stays() {
    let mut tagged = Tagged::new(Method::Nat, 1500);
    let frame = with_tags(&tcp(1, S), &[(0x8100, 10), (0x8100, 77)]);
    assert_eq!(tagged.receive(0, &[frame]), []);
    let expected = with_tags(&tcp(1, S), &[(0x8100, 77)]);
    assert_eq!(tagged.to_kernel[0].pop(), Some(MemoryFrame::new(&expected)));
    assert_eq!(Received::read(&expected).unwrap().candidates().next().unwrap().0, Some(vlan_id(None, 77)));
}

#[test]
fn a_wire_that_is_full_takes_them_later_with_one_set_of_tags() {
    let mut tagged = Tagged::new(Method::DirectRouting, 1500);
    tagged.lab.workers[0].balancer.wires[1].room = Some(3);
    let frames: Vec<_> = (0..10).map(|client| with_tags(&tcp(client, S), IN_10)).collect();
    assert_eq!(tagged.receive(0, &frames).len(), 3);
    tagged.lab.workers[0].balancer.wires[1].room = None;
    let sent = tagged.receive(0, &[with_tags(&tcp(99, S), IN_10)]);
    assert_eq!(sent.len(), 8);
    assert!(sent.iter().all(|(_, tags, _)| tags == &TO_20));
    tagged.lab.check_balance();
}

#[test]
fn frames_without_room_or_an_end_are_dropped_by_name() {
    let mut tagged = Tagged::new(Method::DirectRouting, 1500);
    // Its buffer has room for the one tag that it came with, and not for two.
    let bytes = with_tags(&tcp(1, S), IN_10);
    let frame = MemoryFrame::with_headroom(&bytes, 0);
    tagged.lab.workers[0].balancer.wires[0].incoming.push_back(frame);
    assert_eq!(tagged.lab.poll(0), []);
    assert_eq!(tagged.lab.dropped(Drop::NoHeadroom), 1);
    let cut = bytes[..15].to_vec();
    assert_eq!(tagged.receive(0, &[cut]), []);
    assert_eq!(tagged.lab.dropped(Drop::Truncated), 1);
    tagged.lab.check_balance();
}

/// What is too long for the VLAN is fragmented, or its sender told: the tags do not count.
#[test]
fn a_vlan_has_an_mtu_of_its_own() {
    let mut tagged = Tagged::new(Method::DirectRouting, 600);
    let mut long = udp(9, &[1; 900]);
    long[20..22].fill(0);
    long[24..26].fill(0);
    let check = checksum::verify(&long[14..34]);
    long[24..26].copy_from_slice(&check.to_be_bytes());
    let sent = tagged.receive(0, &[with_tags(&long, IN_10)]);
    let lengths: Vec<_> = sent.iter().map(|(_, tags, bytes)| (tags.len(), bytes.len())).collect();
    assert_eq!(lengths, [(2, 14 + 596), (2, 14 + 20 + 928 - 20 - 576)]);
    // With DF.
    let sent = tagged.receive(0, &[with_tags(&udp(9, &[1; 900]), IN_10)]);
    let [(0, tags, bytes)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(
        (&tags[..], bytes[34], bytes[35], &bytes[40..42]),
        (&TO_10[..], 3, 4, &[600_u16.to_be_bytes()[0], 600_u16.to_be_bytes()[1]][..])
    );
    tagged.lab.check_balance();
}

/// By SNAT the VLAN that a connection leaves by is its outgoing port.
#[test]
fn servers_in_a_vlan_open_connections_outward_by_another_one() {
    let mut tagged = Tagged::new(Method::Nat, 1500);
    let own = "198.51.100.40".parse().unwrap();
    let rule = |out_port| snat::Rule {
        number: 9,
        protocol: None,
        source: Default::default(),
        destination: Default::default(),
        out_port: Some(out_port),
        translation: snat::Translation::Pool(
            snat::Pool::new(vec![snat::Block::new(own, own).unwrap()]).unwrap(),
        ),
        ports: 2000..=2000,
    };
    let other = snat::Rule { translation: snat::Translation::Masquerade, ..rule(SERVERS_AT) };
    tagged.lab.snapshot.snat = Arc::new(snat::Rules::new([other, rule(CLIENTS)]));
    tagged.lab.publish();
    let (inside, outside) = ((SERVERS[0].0, 40_000), (CLIENT, 53));
    let question = frame(LAN, Flow::new(protocol::UDP, inside, outside), 0, b"?");
    let [(port, tags, sent)] = &tagged.receive(1, &[with_tags(&question, IN_20)])[..] else { panic!() };
    let flow = read(&MemoryFrame::new(sent)).2;
    assert_eq!((*port, &tags[..], flow.source()), (0, &TO_10[..], (0xc633_6428, 2000)));
    let answer = frame(WAN, Flow::new(protocol::UDP, flow.destination(), flow.source()), 0, b"!");
    let [(port, tags, sent)] = &tagged.receive(0, &[with_tags(&answer, IN_10)])[..] else { panic!() };
    assert_eq!((*port, &tags[..]), (1, &TO_20[..]));
    assert_eq!(read(&MemoryFrame::new(sent)).2, Flow::new(protocol::UDP, outside, inside));
    tagged.lab.check_balance();
}
