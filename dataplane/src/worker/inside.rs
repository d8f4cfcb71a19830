//! The way of ICMP errors about a tunnel's outer packets, which director itself has sent: what they say of the path to the real server is
//! learnt, and the client is told what has become of the packet inside, as if whoever says so had said it of that.

use super::Balancer;
use super::tell::Problem;
use crate::conn::{ConnectionTable, Direction, Method};
use crate::counters::Drop;
use crate::forward::tunnel::unwrap;
use crate::packet::icmp::{self, kind};
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::Ipv6;
use crate::packet::{ethernet, icmpv6, read_u16, read_u32};
use crate::parse::{AnyFlow, AnyPacket, IcmpError, quoted};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// What an error about an outer packet is about.
pub(super) struct Inside {
    /// Where the client's packet begins, in bytes from the start of the error's IP header, and what is known of it.
    at: usize,
    packet: AnyPacket,
    /// Whether it may be fragmented.
    is_fragmentable: bool,
    /// Its connection's destination.
    destination: u32,
}

/// What is to be done about it.
enum Meaning {
    /// Longer packets than this do not get through.
    Length(u32),
    /// The client is to be told.
    Other(Problem),
}

/// What an error means; `None` where that is for Linux to know.
fn meaning(error: &IcmpError, ip: &[u8], inside_ipv4: bool) -> Option<Meaning> {
    let parameter = *ip.get(error.message + 4..)?.first_chunk::<4>()?;
    let unreachable = match inside_ipv4 {
        true => [kind::UNREACHABLE, icmp::code::HOST],
        false => [icmpv6::kind::UNREACHABLE, icmpv6::code::ADDRESS],
    };
    let relayed = match (error.is_ipv4, error.kind) {
        (true, kind::UNREACHABLE) if error.code == icmp::code::FRAGMENTATION_NEEDED => {
            return Some(Meaning::Length(read_u16(&parameter, 2).into()));
        }
        (false, icmpv6::kind::PACKET_TOO_BIG) => return Some(Meaning::Length(read_u32(&parameter, 0))),
        (true, kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::SOURCE_QUENCH) => inside_ipv4,
        (false, icmpv6::kind::UNREACHABLE | icmpv6::kind::TIME_EXCEEDED) => !inside_ipv4,
        // What is wrong with an outer header is ours, and not the client's.
        _ => return None,
    };
    Some(Meaning::Other(match relayed {
        true => Problem::Relayed { kind: [error.kind, error.code], parameter },
        // The other family has other words for it; RFC 2473 §8 says which.
        false => Problem::Relayed { kind: unreachable, parameter: [0; 4] },
    }))
}

impl<W: Wire> Balancer<W> {
    /// What an error is about that quotes a packet of one of our tunnels, of a connection that there is.
    pub(super) fn inside(&self, table: &ConnectionTable, error: &IcmpError, ip: &[u8]) -> Option<Inside> {
        let outer = ip.get(error.quote()..error.length)?;
        let unwrapped = unwrap(outer)?;
        let packet = outer.get(unwrapped.at..)?;
        let quoted = quoted(packet)?;
        let found = table.find(table.hash(quoted.flow), quoted.flow)?;
        let entry = table.entry(found.index);
        let destination = entry.destination();
        let tunnel = self.snapshot.current().tunnels.of(destination).ok()?;
        let is_its = found.direction == Direction::ToServer && entry.method() == Method::Tunnel;
        if !is_its || !tunnel.encapsulation.has_made(outer, &unwrapped) {
            return None;
        }
        let (length, is_fragmentable) = match quoted.flow {
            AnyFlow::V4(_) => {
                let length = usize::from(Ipv4::new(packet, usize::MAX).ok()?.total_length());
                (length, packet.get(6)? & 0x40 == 0)
            }
            AnyFlow::V6(_) => (Ipv6::new(packet, usize::MAX).ok()?.total_length(), false),
        };
        // As much of it as there is.
        let length = length.min(packet.len());
        let packet =
            AnyPacket { flow: quoted.flow, length, transport: quoted.transport, flags: Default::default() };
        Some(Inside { at: error.quote() + unwrapped.at, packet, is_fragmentable, destination })
    }

    /// Learns what there is to be learnt, and tells the client. The error is for Linux where this gives the frame back.
    pub(super) fn tell_from_inside(
        &mut self,
        mut frame: W::Frame,
        error: &IcmpError,
        Inside { at, packet, is_fragmentable, destination }: Inside,
        now: Tick,
    ) -> Option<W::Frame> {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let Some(meaning) = meaning(error, ip, matches!(packet.flow, AnyFlow::V4(_))) else {
            return Some(frame);
        };
        let Self { snapshot, egress, counters, tallies, .. } = self;
        let Snapshot { tunnels, .. } = snapshot.current();
        let problem = match (meaning, tunnels.of(destination)) {
            (Meaning::Other(problem), _) => Ok(problem),
            (Meaning::Length(mtu), Ok(tunnel)) => {
                let known = tunnel.mtu(egress.mtu(tunnel.port), now).try_into().unwrap_or(u16::MAX);
                let learnt = tunnel.path.learn(mtu, known, error.is_ipv4, now);
                match tunnel.encapsulation.inner_mtu(learnt.into()) {
                    _ if is_fragmentable => Err(Drop::PathMtu),
                    Ok(mtu) => Ok(Problem::TooBig { mtu }),
                    Err(_) => Err(Drop::TooBig),
                }
            }
            // There is a tunnel.
            (Meaning::Length(_), Err(_)) => Err(Drop::DestinationGone),
        };
        match problem {
            // What is left in front of the packet is as long as a frame's header.
            Ok(problem) if frame.trim_front(at) => {
                tallies.of(destination).count_out(packet.length as u32);
                self.tell(frame, (&packet, Direction::ToServer), problem, now);
            }
            Ok(_) => counters.dropped(Drop::Scattered),
            Err(reason) => counters.dropped(reason),
        }
        None
    }
}
