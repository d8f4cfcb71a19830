//! Fragments that come after the first of their datagram. They have neither ports nor checksum: those are in the first one, and
//! the checksum it has then is right for the whole datagram, as it was corrected by what changed and not made anew. What is left
//! to change is in their IP headers.

use std::net::IpAddr;

use crate::conn::entry::Entry;
use crate::conn::{ConnectionTable, Direction, Index, Inside, Method};
use crate::counters::{Drop, Verdict};
use crate::fragments::{Course, Decision};
use crate::packet::ipv4::Side;
use crate::packet::{ethernet, ipv4, ipv6, protocol};

/// What becomes of a datagram whose first fragment belongs to the connection at `index` and goes this way. `spread` is a hash of its
/// flow.
pub(crate) fn decision(table: &ConnectionTable, index: Index, direction: Direction, spread: u32) -> Decision {
    let entry = table.entry(index);
    let (flow, server) = (table.flow(entry), table.server(entry));
    let is_nat = entry.method().sees_replies();
    let local = table.inside(entry).map(Inside::local);
    let has_new_port =
        server.1 != flow.destination().1 || local.is_some_and(|(_, port)| port != flow.source().1);
    if is_nat && flow.protocol() == protocol::SCTP && has_new_port {
        // A new port changes the checksum, which is over all of the packet (RFC 9260 §6.8).
        return Decision::Other(Verdict::Drop(Drop::Scattered));
    }
    if entry.method() == Method::Local {
        return Decision::Other(Verdict::ToKernel);
    }
    let to = super::next(table, entry, direction);
    let source = match direction {
        Direction::ToServer => local.map(|(address, _)| address),
        Direction::ToClient => Some(flow.destination().0),
    };
    Decision::Forward(Course {
        destination: entry.destination(),
        direction,
        in_tunnel: entry.method() == Method::Tunnel,
        source: source.filter(|_| is_nat),
        to,
        is_readdressed: is_nat && (direction == Direction::ToServer || local.is_some()),
        spread,
        connection: (index, entry.life().generation()),
    })
}

/// The connection by which the first fragment has gone, while it lives.
pub(crate) fn connection<'t>(table: &'t ConnectionTable, course: &Course) -> Option<&'t Entry> {
    let (index, generation) = course.connection;
    let entry = table.entry(index);
    let life = entry.life();
    (life.is_alive() && life.generation() == generation).then_some(entry)
}

/// Changes `frame`, which holds such a fragment, into what goes out; but for a tunnel, which does that itself.
pub(crate) fn forward(frame: &mut [u8], course: &Course) -> Result<(), Drop> {
    take_hop(frame)?;
    readdress(frame, course);
    Ok(())
}

/// Takes one off the time to live, or hop limit, of the packet in this frame.
pub(crate) fn take_hop(frame: &mut [u8]) -> Result<(), Drop> {
    let ip = frame.get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let is_ipv4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
    let lives = if is_ipv4 { ipv4::decrement_ttl(ip) } else { ipv6::decrement_hop_limit(ip) };
    if lives { Ok(()) } else { Err(Drop::TtlExpired) }
}

/// Writes the addresses that its datagram goes on with.
pub(crate) fn readdress(frame: &mut [u8], course: &Course) {
    let Some(ip) = frame.get_mut(ethernet::HEADER..) else { return };
    let destination = course.is_readdressed.then_some(course.to);
    for (side, address) in [(Side::Source, course.source), (Side::Destination, destination)] {
        match address {
            Some(IpAddr::V4(address)) => ipv4::set_address(ip, side, address.into()),
            Some(IpAddr::V6(address)) => ipv6::set_address(ip, side, address.into()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ipv4::Ipv4;

    const COURSE: Course = Course {
        destination: 0,
        direction: Direction::ToServer,
        in_tunnel: false,
        source: None,
        to: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)),
        is_readdressed: false,
        spread: 0,
        connection: (Index(0), 0),
    };

    /// A fragment from 203.0.113.9 to 198.51.100.8.
    fn frame(ttl: u8) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 28, 0, 1, 0x20, 7, ttl, 17, 0, 0, 203, 0, 113, 9, 198, 51, 100, 8];
        let check = crate::packet::checksum::verify(&ip);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        [&[2; 12][..], &[8, 0], &ip, &[0xaa; 8]].concat()
    }

    #[test]
    fn either_address_or_both_are_written() {
        let (client, vip, server, own) = (0xcb00_7109, 0xc633_6408, 0xc000_0209, 0xc000_0201_u32);
        for (source, is_readdressed, expected) in [
            (None, false, (client, vip)),
            (None, true, (client, server)),
            (Some(own), false, (own, vip)),
            (Some(own), true, (own, server)),
        ] {
            let source = source.map(|address| IpAddr::V4(address.into()));
            let mut frame = frame(64);
            forward(&mut frame, &Course { source, is_readdressed, ..COURSE }).unwrap();
            let ip = Ipv4::new(&frame[14..], 28).unwrap();
            assert!(ip.checksum_is_right());
            assert_eq!(((ip.source(), ip.destination()), frame[14 + 8]), (expected, 63));
            assert_eq!(frame[34..], [0xaa; 8]);
        }
    }

    #[test]
    fn the_last_hop_is_not_taken_off() {
        let mut frame = frame(1);
        let before = frame.clone();
        assert_eq!(forward(&mut frame, &COURSE), Err(Drop::TtlExpired));
        assert_eq!(frame, before);
        assert_eq!(forward(&mut frame[..10], &COURSE), Err(Drop::Truncated));
    }
}
