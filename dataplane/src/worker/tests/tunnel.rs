//! Workers whose destinations are behind tunnels.

use std::net::Ipv6Addr;

use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6, ip6};
use super::*;
use crate::forward::tunnel::{GueChecksum, Kind, unwrap};
use crate::network::{LocalAddress, Sources};
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::Ipv6;
use crate::packet::{read_u16, read_u128};
use crate::parse::Flow6;
use crate::tunnels::{Tunnel, Tunnels};

const FROM: u32 = 0xc000_0201; // 192.0.2.1

pub(super) const KINDS: [Kind; 6] = [
    Kind::IpIp,
    Kind::Gre { checksum: false },
    Kind::Gre { checksum: true },
    Kind::Gue { port: 6080, checksum: GueChecksum::None },
    Kind::Gue { port: 6080, checksum: GueChecksum::Full },
    Kind::Gue { port: 6080, checksum: GueChecksum::Remote },
];

/// A lab with TCP and UDP services of both families, whose two servers are of the family `over`, behind tunnels of this kind.
fn lab_over(kind: Kind, over: u8) -> Lab {
    lab_of(kind, over, 1)
}

/// The same with so many workers.
pub(super) fn lab_of(kind: Kind, over: u8, workers: usize) -> Lab {
    let mut lab = Lab::new(Method::Tunnel, workers);
    let mut network = super::ipv6::network();
    let own = ["192.0.2.1/24", "2001:db8:2::1/64"].map(|network| network.parse().unwrap());
    let own = own.map(|network| LocalAddress { port: Some(PortId(1)), network });
    network.set_sources(Sources::new([], own));
    let servers = [0, 1].map(|n| if over == 4 { ip(SERVERS[n].0) } else { ip6(SERVERS6[n].0) });
    let vips = [ip(VIP.0), ip6(VIP6.0)];
    let keys = vips.into_iter().flat_map(|vip| [protocol::TCP, protocol::UDP].map(|p| (vip, p)));
    let services = keys.zip((0..).step_by(2)).map(|((address, protocol), first)| {
        let destination = |n: u32| Destination {
            id: first + n,
            sequence: n + 1,
            address: servers[n as usize],
            port: VIP.1,
            weight: 1,
            last_weight: 1,
            method: Method::Tunnel,
        };
        let service = Service::new(vec![destination(0), destination(1)], schedule::by_name("rr").unwrap());
        (ServiceKey { protocol, address, port: VIP.1 }, Arc::new(service))
    });
    lab.snapshot.services = Arc::new(Services::new(services));
    let tunnels = (0..8).map(|id| (id, Tunnel::new(kind, servers[id as usize % 2], &network)));
    lab.snapshot.tunnels = Arc::new(Tunnels::new(tunnels).sharing_paths(&Tunnels::default()));
    lab.snapshot.network = Arc::new(network);
    lab.publish();
    lab
}

fn lab(kind: Kind) -> Lab {
    lab_over(kind, 4)
}

/// A datagram over IPv6 of `length` bytes.
fn udp6(client: u16, length: usize) -> Vec<u8> {
    frame6(WAN, Flow6::new(protocol::UDP, (CLIENT6, client), VIP6), 0, &vec![7; length - 48])
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
        let sent = lab.receive(0, 0, std::slice::from_ref(&before));
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
    let (port, told) = lab.receive_one(0, dying).unwrap();
    assert_eq!((port, outer(&told).0, outer(&told).1), (0, VIP.0, CLIENT));
    assert_eq!((&told.data()[34..36], lab.counters[0].read().time_exceeded), (&[11, 0][..], 1));
    for reason in [Drop::NoRoute, Drop::NoSourceAddress] {
        lab.snapshot.tunnels = Arc::new(Tunnels::new([(1, Err(Verdict::Drop(reason)))]));
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

/// Source and destination of an outer IPv6 header.
fn outer6(frame: &MemoryFrame) -> (u128, u128) {
    let ip = Ipv6::new(&frame.data()[14..], frame.len() - 14).unwrap();
    assert_eq!(ip.total_length(), frame.len() - 14);
    assert_eq!(frame.data()[12..14], [0x86, 0xdd]);
    (read_u128(frame.data(), 22), read_u128(frame.data(), 38))
}

#[test]
fn all_four_mixes_of_families_arrive_and_are_told_what_fits() {
    let own = u128::from("2001:db8:2::1".parse::<Ipv6Addr>().unwrap());
    for kind in KINDS {
        for (inside, over) in [(4, 4), (4, 6), (6, 4), (6, 6)] {
            let name = format!("{kind:?}: {inside} over {over}");
            let mut lab = lab_over(kind, over);
            let datagram = if inside == 4 { udp } else { udp6 };
            let longest = 1500 - lab.snapshot.tunnels.of(3).unwrap().encapsulation.overhead();
            for length in [100, longest] {
                let before = datagram(4000, length);
                let (port, after) = lab.receive_one(0, before.clone()).unwrap();
                assert_eq!((port, &after.data()[..6]), (1, &SERVER_MACS[1].0[..]), "{name}");
                match over {
                    4 => assert_eq!(outer(&after), (FROM, SERVERS[1].0, inside == 4), "{name}"),
                    _ => assert_eq!(outer6(&after), (own, SERVERS6[1].0), "{name}"),
                }
                let at = unwrap(&after.data()[14..]).unwrap().at;
                assert_eq!(after.data()[14 + at..].len(), before.len() - 14, "{name}");
                assert_eq!(after.data()[14 + at] >> 4, inside, "{name}");
            }
            let (port, error) = lab.receive_one(0, datagram(4000, longest + 1)).unwrap();
            assert_eq!(port, 0, "{name}");
            if inside == 4 {
                assert_eq!((outer(&error).1, usize::from(read_u16(error.data(), 40))), (CLIENT, longest));
            } else {
                assert_eq!((outer6(&error), error.data()[54]), ((VIP6.0, CLIENT6), 2), "{name}");
                assert_eq!(usize::from(read_u16(error.data(), 60)), longest, "{name}");
            }
            lab.check_balance();
        }
    }
}

/// A server of the other family than its service is listed as what it is.
#[test]
fn a_connection_to_a_server_of_the_other_family_is_listed() {
    for (over, server) in [(4, ip(SERVERS[1].0)), (6, ip6(SERVERS6[1].0))] {
        let mut lab = lab_over(Kind::IpIp, over);
        for frame in [udp(4000, 100), udp6(4000, 100)] {
            assert!(lab.receive_one(0, frame).is_some());
        }
        let views: Vec<_> = lab.shared.table.views(Default::default(), lab.now).collect();
        assert_eq!(views.len(), 2);
        assert!(views.iter().all(|view| view.server == (server, VIP.1)), "{views:?}");
    }
}

/// Over IPv6 no router fragments; the director does, at the tunnel's beginning.
#[test]
fn an_outer_ipv6_packet_is_fragmented_by_its_sender() {
    let mut lab = lab_over(Kind::Gre { checksum: true }, 6);
    let sent = lab.receive(0, 0, &[fragmentable(udp(4000, 1500))]);
    assert_eq!(sent.len(), 2);
    for (_, piece) in &sent {
        assert!(piece.len() <= 14 + 1500);
        let ip = Ipv6::new(&piece.data()[14..], piece.len() - 14).unwrap();
        assert!(ip.upper().unwrap().fragment.is_some());
    }
    lab.check_balance();
}
