//! SYNs through whole workers whose services hold connections to a maximum segment size.

use super::ipv6::{CLIENT6, SERVERS6, VIP6, frame6};
use super::*;
use crate::clamp::{Clamps, Mss};
use crate::forward::tunnel::{GueChecksum, Kind};
use crate::packet::checksum::Difference;
use crate::packet::read_u16;
use crate::parse::Flow6;

/// The same SYN or SYN-ACK, which has four bytes of data, with these as its option: 1460 bytes at most.
pub(super) fn announcing(mut frame: Vec<u8>, header: usize) -> Vec<u8> {
    let tcp = &mut frame[14 + header..];
    let old = read_u16(tcp, 12);
    let new = old & 0x0fff | 0x6000;
    let check = Difference::default().replace_u16(old, new).apply(read_u16(tcp, 16));
    tcp[12..14].copy_from_slice(&new.to_be_bytes());
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    assert_eq!(tcp[20..], OPTION);
    frame
}

pub(super) const OPTION: [u8; 4] = [2, 4, 5, 180];

fn syn(client: u16) -> Vec<u8> {
    announcing(frame(WAN, Flow::new(protocol::TCP, (CLIENT, client), VIP), S, &OPTION), 20)
}

fn syn_ack(server: usize, client: u16) -> Vec<u8> {
    announcing(frame(LAN, Flow::new(protocol::TCP, SERVERS[server], (CLIENT, client)), S | A, &OPTION), 20)
}

fn mss(frame: &[u8], header: usize) -> u16 {
    read_u16(frame, 14 + header + 22)
}

/// Both destinations of the first service are held to this.
fn hold(lab: &mut Lab, mss: Mss) {
    lab.snapshot.clamps = Arc::new(Clamps::new([(0, mss), (1, mss)]));
    lab.publish();
}

#[test]
fn syns_of_both_sides_are_held_to_what_was_set_and_nothing_else_is() {
    for (held, expected) in [(Mss::Bytes(1400), 1400), (Mss::Bytes(1460), 1460), (Mss::Bytes(9000), 1460)] {
        let mut lab = Lab::new(Method::Nat, 1);
        hold(&mut lab, held);
        for _retransmitted in 0..2 {
            let (_, request) = lab.receive_one(0, syn(4000)).unwrap();
            // Verifies the checksums.
            assert_eq!((read(&request).2.destination(), mss(request.data(), 20)), (SERVERS[1], expected));
        }
        let (_, reply) = lab.receive_one(1, syn_ack(1, 4000)).unwrap();
        assert_eq!((read(&reply).2.source(), mss(reply.data(), 20)), (VIP, expected));
        // The same bytes, as data.
        let data = frame(WAN, Flow::new(protocol::TCP, (CLIENT, 4000), VIP), A, &OPTION);
        let (_, data) = lab.receive_one(0, data).unwrap();
        assert_eq!(mss(data.data(), 20), 1460);
        read(&data);
        lab.check_balance();
    }
}

#[test]
fn other_services_announce_what_they_like() {
    let mut lab = Lab::new(Method::Nat, 1);
    lab.snapshot.clamps = Arc::new(Clamps::new([(9, Mss::Bytes(1000))]));
    lab.publish();
    assert_eq!(mss(lab.receive_one(0, syn(4000)).unwrap().1.data(), 20), 1460);
    assert_eq!(mss(lab.receive_one(1, syn_ack(1, 4000)).unwrap().1.data(), 20), 1460);
}

#[test]
fn over_ipv6_too() {
    let mut lab = super::ipv6::lab(Method::Nat, 1);
    hold(&mut lab, Mss::Bytes(1380));
    let request = frame6(WAN, Flow6::new(protocol::TCP, (CLIENT6, 4000), VIP6), S, &OPTION);
    let (_, request) = lab.receive_one(0, announcing(request, 40)).unwrap();
    assert_eq!(mss(request.data(), 40), 1380);
    assert_eq!(super::ipv6::read6(&request).2.destination(), SERVERS6[1]);
    let reply = frame6(LAN, Flow6::new(protocol::TCP, SERVERS6[1], (CLIENT6, 4000)), S | A, &OPTION);
    let (_, reply) = lab.receive_one(1, announcing(reply, 40)).unwrap();
    assert_eq!((mss(reply.data(), 40), super::ipv6::read6(&reply).2.source()), (1380, VIP6));
    hold(&mut lab, Mss::Auto);
    let request = frame6(WAN, Flow6::new(protocol::TCP, (CLIENT6, 4001), VIP6), S, &OPTION);
    let (_, request) = lab.receive_one(0, announcing(request, 40)).unwrap();
    assert_eq!(mss(request.data(), 40), 1440, "of 1500, two headers less");
}

/// Auto is what fits the narrower of the two links, whichever way the SYN goes.
#[test]
fn by_itself_it_is_what_fits_both_links() {
    for (mtus, expected) in
        [([1500, 1500], 1460), ([1500, 1400], 1360), ([1300, 9000], 1260), ([100, 1500], 88)]
    {
        let mut lab = super::long::lab(Method::Nat, mtus);
        hold(&mut lab, Mss::Auto);
        let (_, request) = lab.receive_one(0, syn(4000)).unwrap();
        let (_, reply) = lab.receive_one(1, syn_ack(1, 4000)).unwrap();
        assert_eq!([mss(request.data(), 20), mss(reply.data(), 20)], [expected; 2], "{mtus:?}");
        read(&request);
        read(&reply);
    }
}

#[test]
fn into_a_tunnel_it_is_what_fits_that_as_far_as_is_known() {
    let kinds = [
        (Kind::IpIp, 20),
        (Kind::Gre { checksum: true }, 28),
        (Kind::Gue { port: 6080, checksum: GueChecksum::Remote }, 40),
    ];
    for (kind, overhead) in kinds {
        let mut lab = super::tunnel::lab_of(kind, 4, 1);
        hold(&mut lab, Mss::Auto);
        let inside = |lab: &mut Lab, client| {
            let (_, outer) = lab.receive_one(0, syn(client)).unwrap();
            let at = outer.len() - 44;
            let segment = &outer.data()[at + 20..];
            (
                read_u16(segment, 22),
                transport_checksum(Flow::new(protocol::TCP, (CLIENT, client), VIP), segment),
            )
        };
        let remote = matches!(kind, Kind::Gue { .. });
        let (announced, check) = inside(&mut lab, 4000);
        assert_eq!((announced, check == 0 || remote), (1500 - overhead - 40, true), "{kind:?}");
        let tunnel = lab.snapshot.tunnels.of(0).unwrap();
        tunnel.path.learn(1400, 1500, true, lab.now);
        lab.snapshot.tunnels.of(1).unwrap().path.learn(1400, 1500, true, lab.now);
        assert_eq!(inside(&mut lab, 4001).0, 1400 - overhead - 40, "{kind:?}");
    }
}
