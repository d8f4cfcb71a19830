//! Real servers on this host: what goes to them is Linux's, and what they send comes from Linux. And what goes past a service.

use std::net::IpAddr;

use super::Balancer;
use super::tunnel::spread;
use crate::conn::entry::Entry;
use crate::conn::key::Key;
use crate::conn::table::Found;
use crate::conn::{ConnectionTable, Direction, Method};
use crate::counters::{Drop, Verdict};
use crate::egress::Ports;
use crate::forward::{self, Forward, icmp, later, local};
use crate::fragments::Decision;
use crate::network::PortId;
use crate::packet::ethernet::{self, Ethernet};
use crate::packet::ipv4::Side;
use crate::parse::{AnyPacket, Content, IcmpError, IpPacket, Packet, Packet6, Parsed};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{BURST, Burst, Frame, Wire};

/// A frame from Linux that is not about a reply of a real server.
type NoReply<F> = Option<F>;

impl<W: Wire> Balancer<W> {
    /// Whether the real server of a connection is this host.
    pub(super) fn is_for_linux(&self, table: &ConnectionTable, entry: &Entry) -> bool {
        let network = &self.snapshot.current().network;
        entry.method() == Method::Local || network.is_local(forward::next(table, entry, Direction::ToServer))
    }

    /// Gives Linux a client's packet for a real server on this host.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_to_linux(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        packet: &AnyPacket,
        entry: &Entry,
    ) {
        let verdict = match entry.method() {
            Method::Nat => match table.server(entry) {
                (address, _) if address.is_loopback() => Verdict::Drop(Drop::LocalMartian),
                server => match local::readdress(frame.data_mut(), packet, Side::Destination, server) {
                    Ok(()) => Verdict::ToKernel,
                    Err(reason) => Verdict::Drop(reason),
                },
            },
            _ => Verdict::ToKernel,
        };
        self.dispose(verdict, port, frame);
    }

    /// Sends a packet past its service, on to its own address.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_past(
        &mut self,
        table: &ConnectionTable,
        frame: W::Frame,
        packet: &AnyPacket,
        entry: &Entry,
        now: Tick,
    ) {
        let to = packet.flow.destination().0;
        let change = |frame: &mut W::Frame| later::take_hop(frame.data_mut()).map(|()| to);
        self.change_and_send(table, frame, packet, (entry, Direction::ToServer), change, now);
    }

    /// Sends a burst of what Linux has for the port; of it, what real servers on this host send is translated.
    pub(super) fn send_from_kernel(&mut self, table: &ConnectionTable, port: PortId, now: Tick) {
        let number = usize::from(port.0);
        let Some(from) = self.kernels[number].as_ref().and_then(|kernel| kernel.from.as_ref()) else {
            return;
        };
        if from.is_empty() {
            return;
        }
        let frames: Burst<W::Frame> = std::iter::from_fn(|| from.pop()).take(BURST).collect();
        let mut burst = Burst::new();
        for frame in frames {
            // There is room for it: there are no more of them.
            burst.extend(self.reply(table, (frame, port), now));
        }
        let taken = burst.len();
        let wire = match self.egress.trunk(port) {
            None => number,
            Some((port, tags)) => {
                burst.retain(|frame| tags.push(frame));
                usize::from(port.0)
            }
        };
        let untagged = taken - burst.len();
        self.wires[wire].send(&mut burst);
        let lost = untagged + burst.len();
        self.counters.sent_for_kernel(taken - lost, lost);
        self.egress.flush(&mut Ports { wires: &mut self.wires, counters: &self.counters });
    }

    /// Sends a frame from Linux on where it is of a connection by NAT, to its client; else gives it back. Linux has addressed it, to whom it
    /// goes on to by Linux's routes.
    fn reply(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        now: Tick,
    ) -> NoReply<W::Frame> {
        let Some(to) = Ethernet::new(frame.data()).map(|ethernet| ethernet.destination()) else {
            return Some(frame);
        };
        match Packet::parse(&frame, to) {
            Parsed::Ipv6 => {
                let parsed = Packet6::parse(&frame, to);
                self.reply_of_family(table, (frame, port), parsed, now)
            }
            parsed => self.reply_of_family(table, (frame, port), parsed, now),
        }
    }

    fn reply_of_family<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        parsed: Parsed<P>,
        now: Tick,
    ) -> NoReply<W::Frame> {
        match parsed {
            Parsed::Packet(packet) => match find(table, packet.flow()) {
                Some(found) => self.send_reply(table, (frame, port), &packet, found, now),
                None => return Some(frame),
            },
            Parsed::Fragment => return self.reply_in_fragments::<P>(table, (frame, port), now),
            Parsed::Error => return self.reply_by_error(table, (frame, port), now),
            Parsed::Ipv6 | Parsed::Tagged | Parsed::Echo | Parsed::Other(_) => return Some(frame),
        }
        None
    }

    /// Translates a packet of a real server on this host and sends it to its client.
    fn send_reply<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        packet: &P,
        Found { index, .. }: Found,
        now: Tick,
    ) {
        let entry = table.entry(index);
        self.counters.received(1);
        self.account((index, entry), Direction::ToClient, packet, now);
        let virtual_side = table.flow(entry).destination();
        match local::readdress(frame.data_mut(), &packet.any(), Side::Source, virtual_side) {
            Ok(()) => self.send_addressed((frame, port), packet.any().flow.destination().0, Some(entry), now),
            Err(reason) => self.counters.dropped(reason),
        }
    }

    /// Sends what goes to the client of a connection, and Linux has addressed as it came from the real server: anew by the virtual address
    /// (snat_reroute), or so. There are no routes here by where packets come from; but Linux may have such.
    fn send_addressed(
        &mut self,
        (frame, port): (W::Frame, PortId),
        to: IpAddr,
        entry: Option<&Entry>,
        now: Tick,
    ) {
        let Self { snapshot, egress, counters, .. } = self;
        let Snapshot { network, sysctls, .. } = snapshot.current();
        let way = network.resolve(to);
        let sent = if sysctls.snat_reroute && way.is_ok() {
            let connection = entry.map(|entry| (entry, Direction::ToClient));
            egress.send_by(way, frame, to, connection, network, now)
        } else {
            egress.queue(frame, port)
        };
        if let Err(reason) = sent {
            counters.dropped(reason);
        }
    }

    /// The same for a fragment.
    fn reply_in_fragments<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        now: Tick,
    ) -> NoReply<W::Frame> {
        let Some(fragment) = P::fragment(&frame) else { return Some(frame) };
        let Some(part) = fragment.part else { return Some(frame) };
        let notes = self.fragments.notes();
        if let Content::First(packet) = fragment.content {
            let Some(found) = find(table, packet.flow()) else { return Some(frame) };
            let decision = later::decision(table, found.index, found.direction, spread(packet.any().flow));
            // Where another worker is at its bucket, those that follow go on untranslated, and nobody can use them.
            if let Ok(place) = notes.begin(&fragment.datagram, part, now) {
                notes.decide(place, &decision);
            }
            match decision {
                Decision::Forward(_) => self.send_reply(table, (frame, port), &packet, found, now),
                Decision::Other(verdict) => {
                    self.counters.received(1);
                    self.dispose(verdict, port, frame);
                }
            }
            return None;
        }
        let Ok(Decision::Forward(course)) = notes.follow(&fragment.datagram, part, now) else {
            return Some(frame);
        };
        if course.direction != Direction::ToClient {
            return Some(frame);
        }
        self.counters.received(1);
        self.tallies.of(course.destination).count_more_out(fragment.length);
        later::readdress(frame.data_mut(), &course);
        self.send_addressed((frame, port), course.to, later::connection(table, &course), now);
        None
    }

    /// The same for an ICMP error of Linux's own about a packet that a client has sent to a real server on this host.
    fn reply_by_error(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        now: Tick,
    ) -> NoReply<W::Frame> {
        let Some(error) = IcmpError::in_frame(&frame) else { return Some(frame) };
        let ip = frame.data_mut().get_mut(ethernet::HEADER..).unwrap_or_default();
        let about = error.quoted(ip).and_then(|quoted| {
            let flow = quoted.flow.reversed();
            Some((quoted, find(table, flow)?))
        });
        let Some((quoted, Found { index, direction })) = about else { return Some(frame) };
        let entry = table.entry(index);
        self.counters.received(1);
        if !error.checksum_is_right(ip) {
            self.counters.dropped(Drop::BadIcmpChecksum);
            return None;
        }
        self.tallies.of(entry.destination()).count_out(error.length as u32);
        match icmp::translate(ip, (&error, &quoted), table, (entry, direction)) {
            Ok(to) => self.send_addressed((frame, port), to, Some(entry), now),
            Err(reason) => self.counters.dropped(reason),
        }
        None
    }
}

/// The connection by NAT of which this is the flow of the real server's packets.
fn find(table: &ConnectionTable, flow: impl Key) -> Option<Found> {
    table.find(table.hash(flow), flow).filter(|found| {
        found.direction == Direction::ToClient && table.entry(found.index).method() == Method::Nat
    })
}
