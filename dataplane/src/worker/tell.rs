//! What senders are told of packets that cannot go on: ICMP and ICMPv6 errors of our own, at Linux's rates.

use std::net::IpAddr;

use super::Balancer;
use crate::conn::Direction;
use crate::counters::Drop;
use crate::packet::{ethernet, icmp, icmpv6, ipv4, ipv6};
use crate::parse::{AnyFlow, AnyPacket};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// Why a packet cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Nobody takes its connection.
    NoDestination,
    /// It belongs to no connection, and a server has sent it.
    NoConnection,
    /// Its time to live has run out here.
    TimeExceeded,
    /// It is longer than this, in bytes with its IP header.
    TooBig {
        /// The longest packet that would do.
        mtu: u16,
    },
    /// Somebody on its way has said so, in ICMP of its own family.
    Relayed {
        /// ICMP's type and code.
        kind: [u8; 2],
        /// What comes behind the checksum.
        parameter: [u8; 4],
    },
}

impl Problem {
    /// What the packet is counted as where nobody is told.
    fn reason(self) -> Drop {
        match self {
            Self::NoDestination => Drop::NoDestination,
            Self::NoConnection => Drop::NoConnection,
            Self::TimeExceeded => Drop::TtlExpired,
            Self::TooBig { .. } => Drop::TooBig,
            Self::Relayed { .. } => Drop::ErrorRate,
        }
    }

    fn icmp(self) -> icmp::Error {
        match self {
            Self::NoDestination | Self::NoConnection => icmp::Error::PortUnreachable,
            Self::TimeExceeded => icmp::Error::TimeExceeded,
            Self::TooBig { mtu } => icmp::Error::FragmentationNeeded { mtu },
            Self::Relayed { kind: [kind, code], parameter } => icmp::Error::Relayed { kind, code, parameter },
        }
    }

    fn icmpv6(self) -> icmpv6::Error {
        match self {
            Self::NoDestination | Self::NoConnection => icmpv6::Error::PortUnreachable,
            Self::TimeExceeded => icmpv6::Error::TimeExceeded,
            Self::TooBig { mtu } => icmpv6::Error::PacketTooBig { mtu: mtu.into() },
            Self::Relayed { kind: [kind, code], parameter } => {
                icmpv6::Error::Relayed { kind, code, parameter }
            }
        }
    }
}

impl<W: Wire> Balancer<W> {
    /// Tells the sender of a packet that goes this way that it is longer than `mtu`, and its way takes no more.
    pub(super) fn tell_length(
        &mut self,
        mut frame: W::Frame,
        (packet, direction): (&AnyPacket, Direction),
        mtu: u16,
        now: Tick,
    ) {
        // IPVS takes one off the time to live first; what is routed is measured first.
        let lives = direction == Direction::ToClient || decrement(&mut frame, packet);
        let problem = if lives { Problem::TooBig { mtu } } else { Problem::TimeExceeded };
        self.tell(frame, (packet, direction), problem, now);
    }

    /// Tells the sender of a packet that goes this way what has become of it, unless it has been told often enough. A client is told
    /// by the address that it has sent to, and a server by the one that Linux would tell it by.
    ///
    /// How long a packet may be is told each time, as Linux does: what one is told once a second costs a transfer a second each time.
    #[cold]
    #[inline(never)]
    pub(super) fn tell(
        &mut self,
        mut frame: W::Frame,
        (packet, direction): (&AnyPacket, Direction),
        problem: Problem,
        now: Tick,
    ) {
        let (sender, _) = packet.flow.source();
        let Self { errors, egress, snapshot, identifications, counters, .. } = self;
        let Snapshot { network, .. } = snapshot.current();
        let from = match direction {
            Direction::ToServer => None,
            Direction::ToClient => network.source(sender),
        };
        let is_limited = !matches!(problem, Problem::TooBig { .. });
        let is_known = direction == Direction::ToServer || from.is_some();
        if !is_known
            || is_limited && !errors.take(sender, now)
            || !make(&mut frame, packet, problem, from, identifications.take())
        {
            return counters.dropped(problem.reason());
        }
        match problem {
            Problem::NoDestination | Problem::NoConnection => counters.unreachable(),
            Problem::TimeExceeded => counters.time_exceeded(),
            Problem::TooBig { .. } => counters.fragmentation_needed(),
            Problem::Relayed { .. } => {}
        }
        if let Err(reason) = egress.send_single(frame, sender, network, now) {
            counters.dropped(reason);
        }
    }
}

/// Takes one off the packet's time to live. False where there is none left.
fn decrement<F: Frame>(frame: &mut F, packet: &AnyPacket) -> bool {
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).unwrap_or_default();
    match packet.flow {
        AnyFlow::V4(_) => ipv4::decrement_ttl(ip),
        AnyFlow::V6(_) => ipv6::decrement_hop_limit(ip),
    }
}

/// Makes of the packet's frame the error that says this of it. False where that cannot be told.
fn make<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    problem: Problem,
    from: Option<IpAddr>,
    identification: u16,
) -> bool {
    let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
    match (packet.flow, from) {
        (AnyFlow::V4(_), None | Some(IpAddr::V4(_))) => {
            let from =
                from.and_then(|from| if let IpAddr::V4(from) = from { Some(from.into()) } else { None });
            // No IPv4 packet is longer than 65535 bytes.
            let length = packet.length as u16;
            icmp::may_answer(ip) && icmp::make_error(frame, problem.icmp(), length, from, identification)
        }
        (AnyFlow::V6(_), None | Some(IpAddr::V6(_))) => {
            let from =
                from.and_then(|from| if let IpAddr::V6(from) = from { Some(from.into()) } else { None });
            let error = problem.icmpv6();
            icmpv6::may_answer(ip, error) && icmpv6::make_error(frame, error, packet.length, from)
        }
        _ => false,
    }
}
