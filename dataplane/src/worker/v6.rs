//! The way of IPv6 packets: that of [`Balancer::balance`], for the frames of a burst that turned out to hold them.
//!
//! The stages are the same, with one more: the addresses of an IPv6 connection are in a cache line of their own, which is
//! known once the connection's entry is there.

use std::net::Ipv6Addr;

use arrayvec::ArrayVec;

use super::{Balancer, Lookup};
use crate::conn::entry::Entry;
use crate::conn::table::{Candidate, Found};
use crate::conn::{ConnectionTable, Direction, Method};
use crate::counters::{Drop, Verdict};
use crate::forward::forward_ipv6;
use crate::network::{MacAddr, PortId};
use crate::packet::tcp::Flags;
use crate::parse::{Packet6, Parsed6, packet_ipv6, parse_ipv6};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{BURST, Frame, Wire};

impl<W: Wire> Balancer<W> {
    /// The whole way of the IPv6 frames of a burst, in the order in which they came.
    #[inline(never)]
    pub(super) fn balance_ipv6(&mut self, table: &ConnectionTable, port: PortId, now: Tick) {
        let mut burst = std::mem::take(&mut self.ipv6);
        let mac = self.macs[usize::from(port.0)];
        let mut lookups = ArrayVec::<_, BURST>::new();

        for frame in &burst {
            let packet = packet_ipv6(frame, mac);
            lookups.push(Lookup::begin(packet, packet.flow, table));
        }
        for lookup in &mut lookups {
            lookup.candidate = table.candidate(lookup.hash);
        }
        for lookup in &lookups {
            table.prefetch_extension(lookup.candidate);
        }
        for (frame, Lookup { packet, candidate, .. }) in burst.drain(..).zip(&lookups) {
            match self.connection_ipv6(table, &frame, port, packet, *candidate, now) {
                Ok((found, entry)) => self.forward_ipv6(table, (frame, port), packet, found, entry, now),
                Err(verdict) => self.finish_ipv6(verdict, port, frame, packet, now),
            }
        }
    }

    #[inline]
    fn connection_ipv6<'t>(
        &mut self,
        table: &'t ConnectionTable,
        frame: &W::Frame,
        port: PortId,
        packet: &Packet6,
        candidate: Candidate,
        now: Tick,
    ) -> Result<(Found, &'t Entry), Verdict> {
        match table.confirm(candidate, packet.flow) {
            Some(found) if !packet.flags.any(Flags::SYN) => Ok(found),
            _ if packet.is_some() => {
                let found = self.search(table, packet.flow, &packet.into(), (frame.data(), port), now)?;
                Ok((found, table.entry(found.index)))
            }
            _ => Err(self.refuse_ipv6(frame, self.macs[usize::from(port.0)])),
        }
    }

    #[inline]
    fn forward_ipv6(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        packet: &Packet6,
        found: Found,
        entry: &Entry,
        now: Tick,
    ) {
        let Found { index, direction } = found;
        let destination = entry.destination();
        let tally = self.tallies.of(destination);
        match direction {
            Direction::ToServer if tally.is_gone() => {
                let received = (frame.data(), port);
                let there = self.elsewhere(table, packet.flow, &packet.into(), received, (index, now));
                return match there {
                    Ok(found) => {
                        let entry = table.entry(found.index);
                        self.forward_ipv6(table, (frame, port), packet, found, entry, now);
                    }
                    Err(verdict) => self.finish_ipv6(verdict, port, frame, packet, now),
                };
            }
            Direction::ToServer => tally.count_in(packet.length),
            Direction::ToClient => tally.count_out(packet.length),
        }
        entry.seen(now);
        let Snapshot { network, timeouts, defence, .. } = self.snapshot.current();
        if entry.life().may_change(direction, packet.flags)
            && let Some((from, to)) =
                self.connections.step(index, direction, packet.flags, (timeouts, defence.secure_tcp), now)
        {
            self.destinations.moved(destination, from, to);
        }
        if entry.method() == Method::Tunnel {
            return self.forward_by_tunnel(frame, &packet.into(), entry, now);
        }
        // What an IPv6 flow led to has them.
        let addresses = table.extension(entry).ok_or(Drop::NoFreeEntry);
        let sent = addresses
            .and_then(|addresses| forward_ipv6(frame.data_mut(), packet, entry, addresses, direction))
            .and_then(|to| {
                let to = || Ipv6Addr::from(to).into();
                self.egress.send(frame, to, (entry, direction), network, now)
            });
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// What is to become of a frame that is no packet for the balancer.
    #[cold]
    fn refuse_ipv6(&self, frame: &W::Frame, mac: MacAddr) -> Verdict {
        match parse_ipv6(frame, mac) {
            Parsed6::Other(verdict) => verdict,
            Parsed6::Fragment { destination } => self.refuse_fragment(Ipv6Addr::from(destination).into()),
            Parsed6::Packet(_) => Verdict::ToKernel,
        }
    }

    /// What becomes of a frame that is not forwarded.
    #[inline(never)]
    fn finish_ipv6(&mut self, verdict: Verdict, port: PortId, frame: W::Frame, packet: &Packet6, now: Tick) {
        if verdict == Verdict::Drop(Drop::NoDestination) {
            self.tell_unreachable(frame, &packet.into(), now);
        } else {
            self.dispose(verdict, port, frame);
        }
    }
}
