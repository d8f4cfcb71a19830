//! LVS/TUN at the worker: which tunnel a packet takes, and whether it fits.

use std::net::IpAddr;

use super::Balancer;
use super::tell::Problem;
use crate::conn::Direction;
use crate::conn::entry::Entry;
use crate::counters::Drop;
use crate::egress::Egress;
use crate::forward::tunnel::{Fit, Refused};
use crate::network::{Network, PortId};
use crate::packet::ethernet;
use crate::parse::{AnyFlow, AnyPacket};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// Numbers for packets of our own, outer ones and ICMP errors, that may be fragmented on their way. Each worker has its own, in steps as long as there are
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
    pub(super) fn take(&mut self) -> u16 {
        self.next = self.next.wrapping_add(self.step);
        self.next
    }
}

/// Which way a packet goes that travels inside another one.
pub(super) struct Through<'t> {
    /// Its destination, which has the tunnel.
    pub(super) destination: u32,
    /// A hash of its flow.
    pub(super) spread: u32,
    /// Its connection, while there is one.
    pub(super) entry: Option<&'t Entry>,
}

impl Through<'_> {
    #[inline]
    fn send<F: Frame>(
        &self,
        egress: &mut Egress<F>,
        frame: F,
        to: IpAddr,
        network: &Network,
        now: Tick,
    ) -> Result<(), Drop> {
        match self.entry {
            Some(entry) => egress.send(frame, || to, (entry, Direction::ToServer), network, now),
            None => egress.send_single(frame, to, network, now),
        }
    }
}

impl<W: Wire> Balancer<W> {
    /// Puts a packet of a client, of the connection `entry`, into its destination's tunnel, and sends it.
    #[inline(never)]
    pub(super) fn forward_by_tunnel(
        &mut self,
        received: (W::Frame, PortId),
        packet: &AnyPacket,
        entry: &Entry,
        now: Tick,
    ) {
        let (destination, spread) = (entry.destination(), spread(packet.flow));
        self.enter_tunnel(received, packet, Through { destination, spread, entry: Some(entry) }, now);
    }

    /// The same for whatever goes through a destination's tunnel.
    #[inline(always)]
    pub(super) fn enter_tunnel(
        &mut self,
        (mut frame, port): (W::Frame, PortId),
        packet: &AnyPacket,
        through: Through<'_>,
        now: Tick,
    ) {
        let Self { snapshot, egress, identifications, counters, .. } = self;
        let snapshot = snapshot.current();
        let pmtu_disc = snapshot.sysctls.pmtu_disc;
        let tunnel = match snapshot.tunnels.of(through.destination) {
            Ok(tunnel) => tunnel,
            Err(verdict) => return self.dispose(verdict, port, frame),
        };
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let mtu = tunnel.mtu(egress.mtu(tunnel.port), now);
        match tunnel.encapsulation.fit(ip, mtu, pmtu_disc) {
            Ok(Fit::Whole) => {}
            Ok(Fit::TooBig { mtu }) => {
                return self.tell_length(frame, (packet, Direction::ToServer), mtu, now);
            }
            Ok(Fit::Fragment) => return self.forward_in_pieces(frame, packet, &through, now),
            Err(_) => return counters.dropped(Drop::TooBig),
        }
        let number = identifications.take();
        let sent = match tunnel.encapsulation.encapsulate(&mut frame, number, through.spread, pmtu_disc) {
            Ok(()) => through.send(egress, frame, tunnel.to, &snapshot.network, now),
            Err(Refused::TtlExpired) => {
                return self.tell(frame, (packet, Direction::ToServer), Problem::TimeExceeded, now);
            }
            Err(refused) => Err(refused.into()),
        };
        if let Err(reason) = sent {
            counters.dropped(reason);
        }
    }

    /// The same for a packet whose outer packet has to be fragmented.
    #[cold]
    fn forward_in_pieces(
        &mut self,
        mut frame: W::Frame,
        packet: &AnyPacket,
        through: &Through<'_>,
        now: Tick,
    ) {
        let Self { snapshot, egress, identifications, counters, .. } = self;
        let Snapshot { tunnels, sysctls, .. } = snapshot.current();
        let number = identifications.take();
        // There is one, or the packet would not have been measured.
        let tunnel = tunnels.of(through.destination).map_err(|_| Drop::DestinationGone);
        let encapsulated = tunnel.and_then(|tunnel| {
            let encapsulation = &tunnel.encapsulation;
            encapsulation.encapsulate(&mut frame, number, through.spread, sysctls.pmtu_disc)?;
            Ok((tunnel.to, tunnel.mtu(egress.mtu(tunnel.port), now)))
        });
        match encapsulated {
            Ok((to, mtu)) => {
                let connection = through.entry.map(|entry| (entry, Direction::ToServer));
                self.send_in_pieces(&frame, (mtu, number), (to, connection), now);
            }
            Err(Drop::TtlExpired) => {
                self.tell(frame, (packet, Direction::ToServer), Problem::TimeExceeded, now);
            }
            Err(reason) => counters.dropped(reason),
        }
    }
}

/// Spreads flows over GUE's source ports, which come of the upper half.
#[inline]
pub(super) fn spread(flow: AnyFlow) -> u32 {
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
