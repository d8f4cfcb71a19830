use super::*;
use std::net::IpAddr;

use dataplane::network::MacAddr;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteMessage;

fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn neighbour() -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = 7;
    message.header.state = NeighbourState::Reachable;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 9].into())),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]),
    ];
    message
}

fn decoded(datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    decode(datagram, &mut events);
    events
}

#[test]
fn every_message_of_a_datagram_is_read() {
    let mut datagram = bytes(RouteNetlinkMessage::NewNeighbour(neighbour()));
    datagram.extend(bytes(RouteNetlinkMessage::NewRoute(RouteMessage::default())));
    datagram.extend(bytes(RouteNetlinkMessage::DelNeighbour(neighbour())));
    let known = Neighbour::read(&neighbour()).unwrap();
    assert_eq!(known.mac, Some(MacAddr([2, 0, 0, 0, 0, 9])));
    assert_eq!(decoded(&datagram), [Event::Neighbour(known), Event::Routes, Event::NeighbourGone(known)]);
}

#[test]
fn a_link_that_leaves_a_bridge_is_not_gone() {
    let mut message = LinkMessage::default();
    message.header.index = 7;
    assert_eq!(decoded(&bytes(RouteNetlinkMessage::DelLink(message.clone()))), [Event::LinkGone(7)]);
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(decoded(&bytes(RouteNetlinkMessage::DelLink(message))), [Event::Routes]);
}

#[test]
fn next_hop_objects_may_change_routes() {
    let mut datagram = bytes(RouteNetlinkMessage::NewRoute(RouteMessage::default()));
    for kind in [104_u16, 105] {
        datagram[4..6].copy_from_slice(&kind.to_ne_bytes());
        assert_eq!(decoded(&datagram), [Event::Routes]);
    }
}

#[test]
fn what_is_not_understood_counts_as_lost() {
    let mut unknown = bytes(RouteNetlinkMessage::NewRoute(RouteMessage::default()));
    unknown[4..6].copy_from_slice(&9999_u16.to_ne_bytes());
    assert_eq!(decoded(&unknown), [Event::Lost]);
    let whole = bytes(RouteNetlinkMessage::NewNeighbour(neighbour()));
    for length in 1..whole.len() {
        assert_eq!(decoded(&whole[..length]), [Event::Lost], "{length} bytes");
    }
}

#[test]
fn an_overrun_is_a_loss_and_other_errors_are_errors() {
    assert_eq!(lost(io::Error::from_raw_os_error(105)).unwrap(), Event::Lost);
    assert_eq!(lost(io::Error::from_raw_os_error(9)).unwrap_err().raw_os_error(), Some(9));
}

/// The kernel itself must report the overrun: announcements are left unread until the buffer is full.
#[test]
fn a_full_socket_says_that_announcements_were_lost_as_root() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: only root may make network namespaces");
        return;
    }
    // The namespace is the thread's own and goes with it.
    let test = async {
        let (connection, linux, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let mut events = Events::subscribe().unwrap();
        events.socket.socket_mut().set_rx_buf_sz(256_i32).unwrap();
        for last in 1..100 {
            linux.address().add(1, IpAddr::from([192, 0, 2, last]), 32).execute().await.unwrap();
        }
        let mut found = Vec::new();
        events.next(&mut found).await.unwrap();
        assert!(found.contains(&Event::Lost), "{found:?}");
    };
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    });
    thread.join().unwrap();
}
