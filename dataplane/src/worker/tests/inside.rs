//! ICMP errors about tunnels' outer packets, through whole workers.

use super::icmp::{error, error6};
use super::ipv6::{CLIENT6, VIP6, frame6, ip6};
use super::long::{told, with};
use super::tunnel::{KINDS, lab_of};
use super::*;
use crate::forward::tunnel::{GueChecksum, Kind, unwrap};
use crate::packet::ipv6;
use crate::parse::Flow6;

const FROM: u32 = 0xc000_0201; // 192.0.2.1
const FROM6: u128 = 0x2001_0db8_0002 << 80 | 1;
const HOP: u32 = 0xc000_02fe;
const HOP6: u128 = FROM6 | 0xfe;

fn udp(inside: u8, length: usize) -> Vec<u8> {
    match inside {
        4 => frame(WAN, Flow::new(protocol::UDP, (CLIENT, 4000), VIP), 0, &vec![7; length - 28]),
        _ => frame6(WAN, Flow6::new(protocol::UDP, (CLIENT6, 4000), VIP6), 0, &vec![7; length - 48]),
    }
}

/// An error of this kind from the way to the server, with this in the last two bytes of its parameter.
fn from_the_way(over: u8, kind: [u8; 2], parameter: u16, packet: &[u8]) -> Vec<u8> {
    let mut error = match over {
        4 => error(LAN, (HOP, FROM), kind, packet, 548),
        _ => error6(LAN, (HOP6, FROM6), kind, packet, 1232),
    };
    let message = if over == 4 { 34 } else { 54 };
    error[message + 2..message + 4].fill(0);
    error[message + 6..message + 8].copy_from_slice(&parameter.to_be_bytes());
    let check = match over {
        4 => checksum::verify(&error[message..]),
        _ => crate::packet::icmpv6::make_checksum(HOP6, FROM6, &error[message..]),
    };
    error[message + 2..message + 4].copy_from_slice(&check.to_be_bytes());
    error
}

/// All that a path's errors can be about: kind of tunnel, family inside, family outside.
fn mixes() -> impl Iterator<Item = (Kind, u8, u8)> {
    KINDS
        .into_iter()
        .flat_map(|kind| [(4, 4), (4, 6), (6, 4), (6, 6)].map(|(inside, over)| (kind, inside, over)))
}

#[test]
fn a_client_is_told_what_a_path_takes_and_so_is_the_next() {
    for (kind, inside, over) in mixes() {
        let name = format!("{kind:?}: {inside} over {over}");
        let mut lab = lab_of(kind, over, 1);
        let (_, sent) = lab.receive_one(0, udp(inside, 1400)).unwrap();
        let at = unwrap(&sent.data()[14..]).unwrap().at;
        let too_big = if over == 4 { [3, 4] } else { [2, 0] };
        let (port, error) =
            lab.receive_one(1, from_the_way(over, too_big, 1390, &sent.data()[14..])).expect(&name);
        let overhead = lab.snapshot.tunnels.of(3).unwrap().encapsulation.overhead();
        let (vip, client, own) = match inside {
            4 => (ip(VIP.0), ip(CLIENT), [3, 4]),
            _ => (ip6(VIP6.0), ip6(CLIENT6), [2, 0]),
        };
        let said = told(&error);
        assert_eq!((port, said.0, said.1, said.2), (0, vip, client, own), "{name}");
        assert_eq!(said.3 as usize, 1390 - overhead, "{name}");
        let inner = &sent.data()[14 + at..];
        assert_eq!(said.4, inner[..said.4.len()], "{name}: the packet as director sent it on");
        // What is known now is told at once, to whom it was not.
        let (port, error) = lab.receive_one(0, udp(inside, 1391 - overhead)).expect(&name);
        assert_eq!((port, told(&error).2, told(&error).3 as usize), (0, own, 1390 - overhead), "{name}");
        assert_eq!(lab.receive_one(0, udp(inside, 1390 - overhead)).unwrap().0, 1, "{name}");
        // After ten minutes a longer one is tried again.
        lab.now = Tick::from_seconds(601);
        assert_eq!(lab.receive_one(0, udp(inside, 1400)).unwrap().0, 1, "{name}");
        assert_eq!(lab.counters[0].read().dropped(), 0, "{name}");
        lab.check_balance();
    }
}

/// A client that lets its packets be fragmented is not told: they are from now on.
#[test]
fn what_may_be_fragmented_is_once_the_path_is_known() {
    let mut lab = lab_of(Kind::IpIp, 4, 1);
    let before = with(udp(4, 1400), &[(20, 0)]);
    let (_, sent) = lab.receive_one(0, before.clone()).unwrap();
    assert_eq!(lab.receive_one(1, from_the_way(4, [3, 4], 1000, &sent.data()[14..])), None);
    assert_eq!(lab.dropped(Drop::PathMtu), 1);
    let sent = lab.receive(0, 0, &[before]);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(port, piece)| *port == 1 && piece.len() <= 14 + 1000));
    lab.check_balance();
}

#[test]
fn other_errors_are_handed_on_at_linuxs_rates() {
    for (kind, inside, over) in mixes() {
        let name = format!("{kind:?}: {inside} over {over}");
        let mut lab = lab_of(kind, over, 1);
        let (_, sent) = lab.receive_one(0, udp(inside, 200)).unwrap();
        let at = unwrap(&sent.data()[14..]).unwrap().at;
        let unreachable = if inside == 4 { [3, 1] } else { [1, 3] };
        let cases: &[[u8; 2]] =
            if over == 4 { &[[3, 0], [3, 13], [11, 0], [4, 0]] } else { &[[1, 0], [1, 4], [3, 0]] };
        for kind in cases {
            let (port, error) =
                lab.receive_one(1, from_the_way(over, *kind, 7, &sent.data()[14..])).expect(&name);
            let said = told(&error);
            let expected = if inside == over { (*kind, 7) } else { (unreachable, 0) };
            assert_eq!((port, (said.2, said.3)), (0, expected), "{name}, {kind:?}");
            assert_eq!(said.4, sent.data()[14 + at..], "{name}");
        }
        for _ in cases.len()..8 {
            lab.receive_one(1, from_the_way(over, cases[0], 7, &sent.data()[14..]));
        }
        assert_eq!(lab.dropped(Drop::ErrorRate), 2, "{name}: six at once");
        assert_eq!(lab.shared.destinations.stats(if inside == 4 { 3 } else { 7 }).out_packets, 8, "{name}");
        lab.check_balance();
    }
}

#[test]
fn linux_gets_what_is_not_about_our_tunnels() {
    let mut lab = lab_of(Kind::Gue { port: 6080, checksum: GueChecksum::None }, 4, 1);
    let (_, sent) = lab.receive_one(0, udp(4, 200)).unwrap();
    let packet = sent.data()[14..].to_vec();
    let changed = |changes: &[(usize, u8)]| {
        let mut packet = packet.clone();
        changes.iter().for_each(|&(at, value)| packet[at] = value);
        from_the_way(4, [3, 4], 1000, &packet)
    };
    for (name, frame) in [
        ("from another address", changed(&[(15, 77)])),
        ("to another server", changed(&[(19, 10 ^ packet[19])])),
        ("to another port", changed(&[(23, 0xff)])),
        ("by another protocol", changed(&[(9, 4)])),
        ("of no connection", changed(&[(32 + 20, 0xff)])),
        ("cut within the packet inside", from_the_way(4, [3, 4], 1000, &packet[..32 + 23])),
        ("a fragment", changed(&[(7, 1)])),
        ("a wrong parameter of the outer header", from_the_way(4, [12, 0], 0, &packet)),
    ] {
        assert_eq!(lab.receive_one(1, frame.clone()), None, "{name}");
        assert_eq!(lab.to_kernel[1].pop(), Some(MemoryFrame::new(&frame)), "{name}");
    }
    assert_eq!(lab.receive_one(0, udp(4, 1400)).unwrap().0, 1, "nothing was learnt");
    let mut wrong = changed(&[]);
    wrong[34 + 7] ^= 1;
    assert_eq!(lab.receive_one(1, wrong), None);
    assert_eq!(lab.dropped(Drop::BadIcmpChecksum), 1);
    assert_eq!(lab.receive_one(0, udp(4, 1400)).unwrap().0, 1, "nothing was learnt");
    lab.check_balance();
}

/// IPv6 cannot be told less than what every link takes.
#[test]
fn a_path_too_narrow_for_a_tunnel_has_a_name() {
    let mut lab = lab_of(Kind::IpIp, 6, 1);
    let (_, sent) = lab.receive_one(0, udp(6, ipv6::MIN_MTU)).unwrap();
    assert_eq!(lab.receive_one(1, from_the_way(6, [2, 0], 1280, &sent.data()[14..])), None);
    assert_eq!(lab.receive_one(0, udp(6, ipv6::MIN_MTU)), None);
    assert_eq!(lab.dropped(Drop::TooBig), 2);
    lab.check_balance();
}

/// Two services of one server: what one has learnt the other knows, as it is one path.
#[test]
fn workers_share_what_they_have_learnt() {
    let mut lab = lab_of(Kind::IpIp, 4, 2);
    let (_, sent) = lab.receive(0, 0, &[udp(4, 1400)]).pop().unwrap();
    lab.receive(1, 1, &[from_the_way(4, [3, 4], 1000, &sent.data()[14..])]);
    for worker in [0, 1] {
        let sent = lab.receive(worker, 0, &[udp(4, 1400)]);
        assert_eq!((sent[0].0, told(&sent[0].1).3), (0, 980));
    }
    lab.check_balance();
}
