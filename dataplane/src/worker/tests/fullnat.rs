//! FULLNAT through whole workers: TCP and UDP of both families, each server behind local addresses of its own family.

use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6, ip6};
use super::*;
use crate::conn::View;
use crate::locals::{Block, Locals, Pool};
use crate::packet::ipv4::Ipv4;
use crate::parse::{Flow6, Packet6};
use crate::service::Persistence;

const LOCAL: u32 = 0xc000_0221; // 192.0.2.33
const LOCAL6: u128 = 0x2001_0db8 << 96 | 2 << 80 | 0x33;

/// A lab with TCP and UDP services, of IPv6 or of IPv4, and local addresses with these ports.
pub(super) fn lab_with(ipv6: bool, workers: usize, ports: (u16, u16)) -> Lab {
    let mut lab =
        if ipv6 { super::ipv6::lab(Method::FullNat, workers) } else { Lab::new(Method::FullNat, workers) };
    let address = if ipv6 { ip6(LOCAL6) } else { ip(LOCAL) };
    let block = Block { address, first_port: ports.0, last_port: ports.1 };
    let pool = Arc::new(Pool::new(vec![block]).unwrap());
    lab.snapshot.locals = Arc::new(Locals::new((0..4).map(|id| (id, pool.clone()))));
    lab.publish();
    lab
}

pub(super) fn lab(workers: usize) -> Lab {
    lab_with(false, workers, (1024, u16::MAX))
}

fn udp(client: u16, payload: &[u8]) -> Vec<u8> {
    frame(WAN, Flow::new(protocol::UDP, (CLIENT, client), VIP), 0, payload)
}

/// The server's answer to a frame that it got.
fn answer(to: &MemoryFrame, flags: u8) -> Vec<u8> {
    let (_, _, flow) = read(to);
    frame(LAN, Flow::new(flow.protocol(), flow.destination(), flow.source()), flags, b"answer")
}

fn pass(lab: &mut Lab, seconds: u32) {
    // Steps of which a worker keeps up with the wheel.
    for _ in 0..4 * seconds {
        lab.now = lab.now.after(TICKS_PER_SECOND / 4);
        lab.poll(0);
    }
}

fn connections(lab: &Lab) -> Vec<View> {
    lab.shared.table.views(lab.snapshot.timeouts, lab.now).collect()
}

#[test]
fn the_server_sees_a_local_address_and_the_client_the_virtual_one() {
    let mut lab = lab(1);
    let (port, request) = lab.receive_one(0, tcp(4000, S)).unwrap();
    let (to, from, flow) = read(&request);
    assert_eq!((port, to, from), (1, SERVER_MACS[1], LAN));
    assert_eq!((flow.source().0, flow.destination()), (LOCAL, SERVERS[1]));
    let (port, reply) = lab.receive_one(1, answer(&request, S | A)).unwrap();
    assert_eq!((port, read(&reply)), (0, (ROUTER, WAN, Flow::new(protocol::TCP, VIP, (CLIENT, 4000)))));
    assert_eq!((request.data()[14 + 8], reply.data()[14 + 8]), (63, 63), "time to live");
    // The same port for the connection's life.
    let (_, second) = lab.receive_one(0, tcp(4000, A)).unwrap();
    assert_eq!(read(&second).2, flow);
    let [view] = &connections(&lab)[..] else { panic!() };
    assert_eq!((view.state, view.local), (State::Established, Some((ip(LOCAL), flow.source().1))));
    let stats = lab.shared.destinations.stats(1);
    assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 2, 1));
    // What the server sends to the client itself is not the connection's.
    assert_eq!(lab.receive_one(1, tcp_reply(1, 4000, A)), None);
    assert_eq!(lab.counters[0].read().to_kernel, 1);
    lab.check_balance();
}

#[test]
fn an_answer_is_understood_on_another_worker() {
    let mut lab = lab(2);
    for client in 0..10 {
        let (_, request) = lab.receive(0, 0, &[tcp(client, S)]).pop().unwrap();
        let (_, reply) = lab.receive(1, 1, &[answer(&request, S | A)]).pop().unwrap();
        assert_eq!(read(&reply).2, Flow::new(protocol::TCP, VIP, (CLIENT, client)));
    }
    lab.check_balance();
}

#[test]
fn ipv6_goes_the_same_way() {
    for protocol in [protocol::TCP, protocol::UDP] {
        let mut lab = lab_with(true, 2, (1024, u16::MAX));
        let flow = |frame: &MemoryFrame| {
            Packet6::in_frame(frame, MacAddr(frame.data()[..6].try_into().unwrap())).flow
        };
        let request = frame6(WAN, Flow6::new(protocol, (CLIENT6, 4000), VIP6), S, b"question");
        let (port, sent) = lab.receive(0, 0, &[request]).pop().unwrap();
        let inside = flow(&sent);
        assert_eq!((port, inside.source().0), (1, LOCAL6));
        assert_eq!(inside.destination(), SERVERS6[1]);
        let reply =
            frame6(LAN, Flow6::new(protocol, inside.destination(), inside.source()), S | A, b"answer");
        let (port, sent) = lab.receive(1, 1, &[reply]).pop().unwrap();
        assert_eq!((port, flow(&sent)), (0, Flow6::new(protocol, VIP6, (CLIENT6, 4000))));
        lab.check_balance();
    }
}

#[test]
fn a_port_in_use_is_not_given_to_another_until_it_is_quiet() {
    let mut lab = lab_with(false, 1, (2000, 2001));
    // Two servers in turn, each with two ports.
    let opened: Vec<_> = (0..8).filter_map(|client| lab.receive_one(0, udp(client, b"?"))).collect();
    assert_eq!((opened.len(), lab.dropped(Drop::NoLocalPort)), (4, 4));
    let mut flows: Vec<_> = opened.iter().map(|(_, frame)| read(frame).2).collect();
    flows.sort_by_key(|flow| (flow.destination(), flow.source()));
    flows.dedup();
    assert_eq!(flows.len(), 4);
    assert_eq!(connections(&lab).len(), 4);
    // Quiet for as long as UDP's timeout says, they are gone, and their ports free.
    pass(&mut lab, 301);
    assert_eq!(connections(&lab).len(), 0);
    let again = (10..14).filter_map(|client| lab.receive_one(0, udp(client, b"?"))).count();
    assert_eq!((again, lab.dropped(Drop::NoLocalPort)), (4, 4));
    lab.check_balance();
}

#[test]
fn without_a_local_address_there_is_no_connection() {
    let mut lab = Lab::new(Method::FullNat, 1);
    assert_eq!(lab.receive_one(0, tcp(1, S)), None);
    assert_eq!((lab.dropped(Drop::NoLocalAddress), connections(&lab).len()), (1, 0));
    assert_eq!((lab.load(0), lab.load(1)), ((0, 0), (0, 0)));
    lab.check_balance();
}

#[test]
fn a_one_packet_service_keeps_its_connections_and_a_persistent_one_its_templates() {
    for (one_packet, persistent) in [(true, false), (false, true), (true, true)] {
        let mut lab = lab(1);
        let list = service_list(Method::FullNat, &[protocol::UDP]);
        let service = |old: &Service| {
            let persistence = Persistence { ticks: 30 * TICKS_PER_SECOND, mask: ip(u32::MAX) };
            Service::new(old.destinations().to_vec(), schedule::by_name("rr").unwrap())
                .with_one_packet(one_packet)
                .with_persistence(persistent.then_some(persistence))
        };
        let services = list.iter().map(|(key, old)| (*key, Arc::new(service(old))));
        lab.snapshot.services = Arc::new(Services::new(services));
        lab.publish();
        let (_, request) = lab.receive_one(0, udp(1, b"?")).unwrap();
        let (_, reply) = lab.receive_one(1, answer(&request, 0)).unwrap();
        assert_eq!(read(&reply).2, Flow::new(protocol::UDP, VIP, (CLIENT, 1)));
        assert_eq!(connections(&lab).len(), 1 + usize::from(persistent));
        pass(&mut lab, 400);
        assert_eq!((connections(&lab).len(), lab.shared.table.slots_in_use()), (0, 0));
    }
}

/// The pieces of a datagram.
pub(super) fn fragments(whole: &[u8], ends: &[usize]) -> Vec<Vec<u8>> {
    let from = std::iter::once(&0).chain(ends);
    let piece = |(&from, &to): (&usize, &usize)| {
        let mut piece = [&whole[..34], &whole[34 + from..34 + to]].concat();
        let more = 34 + to < whole.len();
        piece[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        piece[20..22].copy_from_slice(&(u16::from(more) << 13 | (from / 8) as u16).to_be_bytes());
        piece[24..26].fill(0);
        let check = checksum::verify(&piece[14..34]);
        piece[24..26].copy_from_slice(&check.to_be_bytes());
        piece
    };
    from.zip(ends).map(piece).collect()
}

/// What was sent, put together again.
pub(super) fn whole(sent: &[(usize, MemoryFrame)]) -> (usize, MemoryFrame) {
    let mut whole = sent[0].1.data()[..34].to_vec();
    for (_, frame) in sent {
        let ip = Ipv4::new(&frame.data()[14..], frame.len() - 14).unwrap();
        assert!(ip.checksum_is_right());
        assert_eq!(whole.len() - 34, usize::from(ip.fragment_offset()));
        assert_eq!((&frame.data()[26..34], frame.data()[22]), (&whole[26..34], whole[22]));
        whole.extend(&frame.data()[34..]);
    }
    let length = whole.len() as u16 - 14;
    whole[16..18].copy_from_slice(&length.to_be_bytes());
    whole[20..22].fill(0);
    whole[24..26].fill(0);
    let check = checksum::verify(&whole[14..34]);
    whole[24..26].copy_from_slice(&check.to_be_bytes());
    (sent[0].0, MemoryFrame::new(&whole))
}

#[test]
fn fragments_follow_the_first_one() {
    let mut lab = lab(1);
    let ends = [16, 32, 48];
    let sent = lab.receive(0, 0, &fragments(&udp(7, &[1; 40]), &ends));
    let (port, request) = whole(&sent);
    let (_, _, flow) = read(&request);
    assert_eq!((port, flow.source().0, flow.destination()), (1, LOCAL, SERVERS[1]));
    let reply = frame(LAN, Flow::new(protocol::UDP, flow.destination(), flow.source()), 0, &[2; 40]);
    let sent = lab.receive(0, 1, &fragments(&reply, &ends));
    let (port, reply) = whole(&sent);
    assert_eq!((port, read(&reply).2), (0, Flow::new(protocol::UDP, VIP, (CLIENT, 7))));
    lab.check_balance();
}
