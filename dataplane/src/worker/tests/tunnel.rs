//! Workers whose destinations are behind tunnels.

use super::*;
use crate::forward::tunnel::{GueChecksum, Kind, unwrap};
use crate::network::{LocalAddress, Sources};
use crate::packet::ipv4::Ipv4;
use crate::packet::read_u16;
use crate::tunnels::{Tunnel, Tunnels};

const FROM: u32 = 0xc000_0201; // 192.0.2.1

const KINDS: [Kind; 6] = [
    Kind::IpIp,
    Kind::Gre { checksum: false },
    Kind::Gre { checksum: true },
    Kind::Gue { port: 6080, checksum: GueChecksum::None },
    Kind::Gue { port: 6080, checksum: GueChecksum::Full },
    Kind::Gue { port: 6080, checksum: GueChecksum::Remote },
];

fn lab(kind: Kind) -> Lab {
    let mut lab = Lab::new(Method::Tunnel, 1);
    let mut network = network();
    let own = LocalAddress { port: Some(PortId(1)), network: "192.0.2.1/24".parse().unwrap() };
    network.set_sources(Sources::new([], [own]));
    // Destinations 0 and 1 of TCP, 2 and 3 of UDP.
    let servers = SERVERS.iter().cycle().take(4).zip(0..);
    let tunnels = servers.map(|(server, id)| (id, Tunnel::new(kind, ip(server.0), &network)));
    lab.snapshot.tunnels = Arc::new(Tunnels::new(tunnels));
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    lab
}

fn udp(client: u16, length: usize) -> Vec<u8> {
    frame(WAN, Flow::new(protocol::UDP, (CLIENT, client), VIP), 0, &vec![7; length - 28])
}

/// The same packet without DF.
fn fragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14 + 6] = 0;
    frame[14 + 10..14 + 12].fill(0);
    let check = checksum::verify(&frame[14..34]);
    frame[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
    frame
}

/// The outer header: source, destination, and whether DF is set.
fn outer(frame: &MemoryFrame) -> (u32, u32, bool) {
    let ip = Ipv4::new(&frame.data()[14..], frame.len() - 14).unwrap();
    assert!(ip.checksum_is_right());
    assert_eq!(usize::from(ip.total_length()), frame.len() - 14);
    (ip.source(), ip.destination(), frame.data()[14 + 6] & 0x40 != 0)
}

#[test]
fn each_kind_carries_the_packet_as_it_came_but_for_the_time_to_live() {
    for kind in KINDS {
        let mut lab = lab(kind);
        for before in [tcp(4000, S), tcp(4000, A), udp(4000, 200)] {
            let (port, after) = lab.receive_one(0, before.clone()).unwrap();
            assert_eq!((port, &after.data()[..6]), (1, &SERVER_MACS[1].0[..]), "{kind:?}");
            assert_eq!(outer(&after), (FROM, SERVERS[1].0, true), "{kind:?}");
            let at = unwrap(&after.data()[14..]).unwrap().at;
            let inner = &after.data()[14 + at..];
            let differs = |n: &usize| before[14 + n] != inner[*n];
            let changed: Vec<_> = (0..inner.len()).filter(differs).collect();
            match kind {
                // The receiver makes the checksum.
                Kind::Gue { checksum: GueChecksum::Remote, .. } => assert_eq!(changed[..2], [8, 10]),
                _ => assert_eq!(changed, [8, 10], "{kind:?}: time to live, and the checksum for it"),
            }
            assert_eq!(inner.len(), before.len() - 14);
        }
        assert_eq!(lab.load(1), (1, 0), "established, as far as the client's side tells");
        lab.check_balance();
    }
}

#[test]
fn a_packet_too_long_for_the_tunnel_is_told_its_length() {
    for kind in KINDS {
        let mut lab = lab(kind);
        let overhead = lab.snapshot.tunnels.of(3).unwrap().encapsulation.overhead();
        let longest = 1500 - overhead;
        let (port, after) = lab.receive_one(0, udp(4000, longest)).unwrap();
        assert_eq!((port, after.len() <= 14 + 1500), (1, true), "{kind:?}");
        let (port, error) = lab.receive_one(0, udp(4000, longest + 1)).unwrap();
        assert_eq!((port, outer(&error).0, outer(&error).1), (0, VIP.0, CLIENT), "{kind:?}");
        assert_eq!(error.data()[34..36], [3, 4]);
        assert_eq!(usize::from(read_u16(error.data(), 40)), longest, "{kind:?}");
        assert_eq!(checksum::verify(&error.data()[34..]), 0);
        let totals = lab.counters[0].read();
        assert_eq!((totals.fragmentation_needed, totals.dropped()), (1, 0));
        lab.check_balance();
    }
}

/// Where the client allows it, and where pmtu_disc is off, the outer packet is fragmented.
#[test]
fn what_may_be_fragmented_arrives_in_pieces() {
    for (pmtu_disc, before) in [(true, fragmentable(udp(4000, 1500))), (false, udp(4000, 1500))] {
        let mut lab = lab(Kind::IpIp);
        lab.snapshot.sysctls.pmtu_disc = pmtu_disc;
        lab.publish();
        let sent = lab.receive(0, 0, &[before.clone()]);
        let mut again = vec![];
        for (port, piece) in &sent {
            assert_eq!((*port, outer(piece)), (1, (FROM, SERVERS[1].0, false)));
            assert_eq!(usize::from(read_u16(piece.data(), 14 + 6) & 0x1fff) * 8, again.len());
            again.extend_from_slice(&piece.data()[34..]);
        }
        assert_eq!((sent.len(), &again[12..]), (2, &before[14 + 12..]));
        let number = |n: usize| read_u16(sent[n].1.data(), 14 + 4);
        assert_eq!(number(0), number(1), "one packet");
        let totals = lab.counters[0].read();
        assert_eq!((totals.received, totals.fragments, totals.forwarded), (1, 1, 2));
        lab.check_balance();
    }
}

/// A whole burst of packets, each in two pieces: more than a port takes at once.
#[test]
fn a_burst_of_fragments_leaves_whole() {
    let mut lab = lab(Kind::Gre { checksum: true });
    let frames: Vec<_> = (0..BURST as u16).map(|n| fragmentable(udp(4000 + n, 1500))).collect();
    assert_eq!(lab.receive(0, 0, &frames).len(), 2 * BURST);
    lab.check_balance();
}

#[test]
fn a_tunnel_that_leads_nowhere_says_why() {
    let mut lab = lab(Kind::IpIp);
    assert!(lab.receive_one(0, tcp(4000, S)).is_some());
    let mut dying = tcp(4000, A);
    dying[14 + 8] = 1;
    dying[14 + 10..14 + 12].fill(0);
    let check = checksum::verify(&dying[14..34]);
    dying[14 + 10..14 + 12].copy_from_slice(&check.to_be_bytes());
    assert!(lab.receive_one(0, dying).is_none());
    assert_eq!(lab.dropped(Drop::TtlExpired), 1);
    for reason in [Drop::NoRoute, Drop::NoSourceAddress] {
        lab.snapshot.tunnels = Arc::new(Tunnels::new([(1, Err(reason))]));
        lab.publish();
        assert!(lab.receive_one(0, tcp(4000, A)).is_none());
        assert_eq!(lab.dropped(reason), 1);
    }
    lab.snapshot.tunnels = Arc::default();
    lab.publish();
    assert!(lab.receive_one(0, tcp(4000, A)).is_none());
    assert_eq!(lab.dropped(Drop::DestinationGone), 1);
    lab.check_balance();
}

#[test]
fn flows_spread_over_gues_source_ports_and_stay() {
    let mut lab = lab(Kind::Gue { port: 6080, checksum: GueChecksum::None });
    let mut ports = std::collections::HashSet::new();
    for client in 0..40 {
        let mut source = || {
            let (_, frame) = lab.receive_one(0, udp(client, 100)).unwrap();
            assert_eq!(read_u16(frame.data(), 36), 6080);
            read_u16(frame.data(), 34)
        };
        let port = source();
        assert_eq!(port, source());
        assert!(port >= 0x8000);
        ports.insert(port);
    }
    assert!(ports.len() > 35, "{}", ports.len());
}
