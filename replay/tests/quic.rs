//! QUIC through a whole director: its connections stay with their server wherever they come from (`conhash-quic`, RFC 9000).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use replay::frames::look;
use replay::stage::{DIRECTOR, ROUTER, Stage};

const SERVERS: u8 = 20;

/// Sends a datagram and tells the number of the server that it went to.
fn server(stage: &Stage, from: &str, to: &str, datagram: &[u8]) -> u8 {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let ethernet = PacketBuilder::ethernet2(ROUTER.0, DIRECTOR.0);
    let packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} to {to}"),
    };
    let mut frame = Vec::new();
    packet.udp(from.port(), to.port()).write(&mut frame, datagram).unwrap();
    let sent = stage.send(&frame);
    assert_eq!(sent.len(), 1);
    look(&sent[0]).unwrap().server.unwrap()
}

/// A client's first packet (RFC 9000 §17.2.2), and one of later (§17.3.1).
fn initial(id: &[u8]) -> Vec<u8> {
    [&[0xc0, 0, 0, 0, 1, id.len() as u8], id, &[8, 1, 2, 3, 4, 5, 6, 7, 8, 0], &[0x5a; 1180]].concat()
}

fn later(id: &[u8]) -> Vec<u8> {
    [&[0x43], id, &[0xa5; 40]].concat()
}

fn stage(service: &str, network: &str) -> Stage {
    let stage = Stage::new(|_| Ok(())).unwrap();
    stage.rule(&format!("-A {service} -s conhash -b conhash-quic")).unwrap();
    for number in 1..=SERVERS {
        stage.rule(&format!("-a {service} -r {network}{number} -g")).unwrap();
    }
    stage
}

#[test]
fn a_connection_keeps_its_server_from_wherever_it_comes() {
    for (service, network, to, client) in [
        ("-u 198.51.100.1:443", "192.0.2.", "198.51.100.1:443", "203.0.113."),
        ("-f 1", "192.0.2.", "198.51.100.77:443", "203.0.113."),
        ("-u 198.51.100.0/24:443-444", "192.0.2.", "198.51.100.9:444", "203.0.113."),
    ] {
        let begin = || {
            let stage = stage(service, network);
            stage.mark(1, "udp", "198.51.100.64/26").unwrap();
            stage
        };
        let mut seen = BTreeSet::new();
        for n in 0..30_u8 {
            // One with others is sent elsewhere where its server has its share already.
            let stage = begin();
            let id: Vec<_> = (0..8).map(|i| n.wrapping_mul(37) ^ i).collect();
            // A connection id may be longer: the first eight bytes count.
            let longer = [&id[..], &[n; 12]].concat();
            let at_home =
                server(&stage, &format!("{client}10:{}", 5000 + u16::from(n)), to, &initial(&longer));
            let away = server(&stage, &format!("{client}{}:4{n:03}", 20 + n), to, &later(&id));
            assert_eq!(at_home, away, "{service}: connection {n}");
            seen.insert(at_home);
        }
        assert!(seen.len() > usize::from(SERVERS) / 2, "{service}: {seen:?}");
        // What has no such id goes by its source.
        let stage = begin();
        let source = || server(&begin(), &format!("{client}200:6000"), to, &initial(&[7; 4]));
        assert_eq!(
            server(&stage, &format!("{client}200:6001"), to, &later(&[9; 4])[..6]),
            source(),
            "{service}"
        );
    }
}

#[test]
fn so_it_is_over_ipv6() {
    for n in 0..15_u8 {
        let stage = stage("-u [2001:db8:ff::1]:443", "2001:db8:2::");
        let id = [n; 8];
        let at_home = server(
            &stage,
            &format!("[2001:db8:1::10]:{}", 5000 + u16::from(n)),
            "[2001:db8:ff::1]:443",
            &initial(&id),
        );
        let away = server(&stage, &format!("[2001:db8:1::{n:x}]:77"), "[2001:db8:ff::1]:443", &later(&id));
        assert_eq!(at_home, away, "connection {n}");
    }
}
