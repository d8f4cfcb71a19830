//! From one family of IP into the other at the worker: FULLNAT's servers that are not of their clients' family.

use std::net::IpAddr;

use super::Balancer;
use crate::conn::entry::Entry;
use crate::conn::{ConnectionTable, Direction, Inside};
use crate::counters::Drop;
use crate::forward::translate::{self, ErrorEnds, Fit};
use crate::forward::{self, fullnat};
use crate::fragments::Course;
use crate::packet::{ethernet, read_u16};
use crate::parse::{AnyPacket, Fragment, IcmpError, Quoted};
use crate::service::Family;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// Whether a packet of this family, of the connection `entry`, goes on in the other one.
pub(super) fn is_across(
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
    family: Family,
) -> bool {
    Family::from(forward::next(table, entry, direction)) != family
}

/// The identification of what is an IPv4 packet.
fn identification<F: Frame>(frame: &F) -> Option<u16> {
    let head = frame.data().get(ethernet::HEADER..)?.first_chunk::<6>()?;
    (head[0] >> 4 == 4).then(|| read_u16(head, 4))
}

impl<W: Wire> Balancer<W> {
    /// Sends a packet on in the other family, by a way that takes packets of `mtu` bytes.
    #[inline(never)]
    pub(super) fn forward_across(
        &mut self,
        table: &ConnectionTable,
        mut frame: W::Frame,
        (packet, mtu): (&AnyPacket, usize),
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let fit = Fit::new(ip, (packet.transport, packet.length), mtu);
        let Some(room) = fit.room() else {
            let mtu = fit.told.try_into().unwrap_or(u16::MAX);
            return self.tell_length(frame, (packet, direction), mtu, now);
        };
        let before = identification(&frame);
        let longest = (packet.length + room, self.identifications.take());
        match fullnat::translate(&mut frame, packet, table, (entry, direction), longest) {
            Ok(to) => match self.send_across(frame, (fit, before), (to, Some((entry, direction))), now) {
                Err(Drop::NoRoute) => self.counters.dropped(self.without_route(table, (entry, direction))),
                Err(reason) => self.counters.dropped(reason),
                Ok(()) => {}
            },
            Err(reason) => self.refuse(frame, (packet, direction), reason, now),
        }
    }

    /// The same for a fragment that is not the first of its datagram.
    pub(super) fn follow_across<P>(
        &mut self,
        mut frame: W::Frame,
        fragment: &Fragment<P>,
        course: &Course,
        entry: Option<&Entry>,
        now: Tick,
    ) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let front = usize::from(fragment.front);
        let place = (front, front + usize::from(fragment.length));
        let mtu = self.mtu_to(course.to).unwrap_or_else(|| self.egress.least_mtu());
        let fit = Fit::new(ip, place, mtu);
        let before = identification(&frame);
        let sent = match (fit.room(), course.source) {
            (None, _) => Err(Drop::TooBig),
            // By FULLNAT there is one.
            (_, None) => Err(Drop::NoLocalAddress),
            (Some(_), Some(source)) => translate::fragment(&mut frame, place, (source, course.to)),
        };
        let connection = entry.map(|entry| (entry, course.direction));
        let sent = sent.and_then(|()| self.send_across(frame, (fit, before), (course.to, connection), now));
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// Sends what has been translated, whole or in pieces. `before` is the identification of the IPv4 packet that it was.
    fn send_across(
        &mut self,
        frame: W::Frame,
        (fit, before): (Fit, Option<u16>),
        (to, connection): (IpAddr, Option<(&Entry, Direction)>),
        now: Tick,
    ) -> Result<(), Drop> {
        if frame.len() > ethernet::HEADER + fit.longest {
            let number = identification(&frame).or(before).unwrap_or_default();
            self.send_in_pieces(&frame, (fit.longest, number), (to, connection), now);
            return Ok(());
        }
        let Snapshot { network, .. } = self.snapshot.current();
        match connection {
            Some(connection) => self.egress.send(frame, || to, connection, network, now),
            None => self.egress.send_single(frame, to, network, now),
        }
    }

    /// Sends an ICMP error about a packet of the connection `entry` on in the other family. It is from an address of director's: no other
    /// stands for who has sent it.
    pub(super) fn hand_across(
        &mut self,
        table: &ConnectionTable,
        mut frame: W::Frame,
        about: (&IcmpError, &Quoted),
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        let (flow, server) = (table.flow(entry), table.server(entry));
        // By FULLNAT there is one.
        let local = table.inside(entry).map_or(flow.source(), Inside::local);
        let (from, to) = match direction {
            Direction::ToServer => (server, local),
            Direction::ToClient => (flow.source(), flow.destination()),
        };
        let ends = ErrorEnds { source: to.0, destination: from.0, from, to };
        let number = self.identifications.take();
        let Snapshot { network, .. } = self.snapshot.current();
        let sent = translate::error(&mut frame, about, &ends, number)
            .and_then(|()| self.egress.send(frame, || from.0, (entry, direction), network, now));
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }
}
