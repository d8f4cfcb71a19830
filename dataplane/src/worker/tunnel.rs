//! LVS/TUN at the worker: which tunnel a packet takes, whether it fits, and what its sender is told where it does not.

use super::Balancer;
use crate::conn::Direction;
use crate::conn::entry::Entry;
use crate::counters::Drop;
use crate::egress::Ports;
use crate::forward::fragment;
use crate::forward::tunnel::{Fit, Refused};
use crate::packet::{ethernet, icmp, icmpv6, ipv4, ipv6};
use crate::parse::{AnyFlow, AnyPacket};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Burst, Frame, Wire};

/// Numbers for outer packets that may be fragmented on their way. Each worker has its own, in steps as long as there are
/// workers, so that two of them do not give the same one at about the same time.
pub(super) struct Identifications {
    next: u16,
    step: u16,
}

impl Identifications {
    /// For worker number `number` of so many.
    pub(super) fn new(number: usize, workers: usize) -> Self {
        // A power of two goes into 65536 without a rest.
        Self { next: number as u16, step: workers.next_power_of_two() as u16 }
    }

    #[inline]
    fn take(&mut self) -> u16 {
        self.next = self.next.wrapping_add(self.step);
        self.next
    }
}

impl<W: Wire> Balancer<W> {
    /// Puts a packet of a client, of the connection `entry`, into its destination's tunnel, and sends it.
    #[inline(never)]
    pub(super) fn forward_by_tunnel(
        &mut self,
        mut frame: W::Frame,
        packet: &AnyPacket,
        entry: &Entry,
        now: Tick,
    ) {
        let Self { snapshot, egress, identifications, counters, .. } = self;
        let snapshot = snapshot.current();
        let pmtu_disc = snapshot.sysctls.pmtu_disc;
        let tunnel = match snapshot.tunnels.of(entry.destination()) {
            Ok(tunnel) => tunnel,
            Err(reason) => return counters.dropped(reason),
        };
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        match tunnel.encapsulation.fit(ip, egress.mtu(tunnel.port), pmtu_disc) {
            Ok(Fit::Whole) => {}
            Ok(Fit::TooBig { mtu }) => return self.tell_too_big(frame, packet, mtu, now),
            Ok(Fit::Fragment) => return self.forward_in_pieces(frame, packet, entry, now),
            Err(_) => return counters.dropped(Drop::TooBig),
        }
        let sent = tunnel
            .encapsulation
            .encapsulate(&mut frame, identifications.take(), spread(packet.flow), pmtu_disc)
            .map_err(Drop::from)
            .and_then(|()| {
                let connection = (entry, Direction::ToServer);
                egress.send(frame, || tunnel.to, connection, &snapshot.network, now)
            });
        if let Err(reason) = sent {
            counters.dropped(reason);
        }
    }

    /// The same for a packet whose outer packet has to be fragmented.
    #[cold]
    fn forward_in_pieces(&mut self, mut frame: W::Frame, packet: &AnyPacket, entry: &Entry, now: Tick) {
        let Self { snapshot, egress, identifications, counters, wires, .. } = self;
        let Snapshot { tunnels, sysctls, network, .. } = snapshot.current();
        let mut pieces = Burst::new();
        let number = identifications.take();
        let split = tunnels.of(entry.destination()).and_then(|tunnel| {
            let encapsulation = &tunnel.encapsulation;
            encapsulation.encapsulate(&mut frame, number, spread(packet.flow), sysctls.pmtu_disc)?;
            fragment::split(&frame, egress.mtu(tunnel.port), number.into(), &mut pieces)?;
            Ok(tunnel.to)
        });
        let to = match split {
            Ok(to) => to,
            Err(reason) => return counters.dropped(reason),
        };
        if !egress.has_room(pieces.len()) {
            egress.flush(&mut Ports { wires, counters });
            if !egress.has_room(pieces.len()) {
                // Some of the pieces would be of no use.
                return counters.dropped(Drop::TxFull);
            }
        }
        counters.fragmented(pieces.len());
        for piece in pieces {
            let connection = (entry, Direction::ToServer);
            if let Err(reason) = egress.send(piece, || to, connection, network, now) {
                counters.dropped(reason);
            }
        }
    }

    /// Tells the client how long a packet may be. As often as it sends one that is too long, as Linux does: what one is told once
    /// a second costs a transfer a second each time.
    #[cold]
    fn tell_too_big(&mut self, mut frame: W::Frame, packet: &AnyPacket, mtu: u16, now: Tick) {
        let Self { egress, snapshot, identifications, counters, .. } = self;
        let ip = frame.data_mut().get_mut(ethernet::HEADER..).unwrap_or_default();
        let is_alive = match packet.flow {
            AnyFlow::V4(_) => ipv4::decrement_ttl(ip),
            AnyFlow::V6(_) => ipv6::decrement_hop_limit(ip),
        };
        if !is_alive {
            return counters.dropped(Drop::TtlExpired);
        }
        if !make_too_big(&mut frame, packet, mtu, identifications) {
            return counters.dropped(Drop::TooBig);
        }
        counters.fragmentation_needed();
        let (client, _) = packet.flow.source();
        if let Err(reason) = egress.send_single(frame, client, &snapshot.current().network, now) {
            counters.dropped(reason);
        }
    }
}

/// Makes of the packet's frame the error that says how long it may be. False where that cannot be told.
fn make_too_big<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    mtu: u16,
    identifications: &mut Identifications,
) -> bool {
    let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
    match packet.flow {
        AnyFlow::V4(_) => {
            let error = icmp::Error::FragmentationNeeded { mtu };
            // No IPv4 packet is longer than 65535 bytes.
            let length = packet.length as u16;
            icmp::may_answer(ip) && icmp::make_error(frame, error, length, None, identifications.take())
        }
        AnyFlow::V6(_) => {
            let error = icmpv6::Error::PacketTooBig { mtu: mtu.into() };
            icmpv6::may_answer(ip, error) && icmpv6::make_error(frame, error, packet.length, None)
        }
    }
}

/// Spreads flows over GUE's source ports, which come of the upper half.
#[inline]
fn spread(flow: AnyFlow) -> u32 {
    let words = match flow {
        AnyFlow::V4(flow) => {
            let [addresses, ports] = flow.words();
            addresses ^ ports.rotate_left(23)
        }
        AnyFlow::V6(flow) => {
            let ((from, from_port), (to, to_port)) = (flow.source(), flow.destination());
            let addresses = from.rotate_left(64) ^ to;
            let ports = u64::from(from_port) << 16 | u64::from(to_port);
            (addresses >> 64) as u64 ^ (addresses as u64).rotate_left(29) ^ ports.rotate_left(47)
        }
    };
    // Fibonacci hashing.
    (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl From<Refused> for Drop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed => Drop::BadHeader,
            Refused::TtlExpired => Drop::TtlExpired,
            Refused::NoHeadroom => Drop::NoHeadroom,
            Refused::Scattered => Drop::Scattered,
            Refused::TooLong => Drop::TooBig,
        }
    }
}
