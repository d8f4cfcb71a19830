//! Packets that are longer than their way takes: their senders are told so, or they go in pieces.

use std::net::IpAddr;

use super::Balancer;
use super::snat::teller;
use crate::conn::entry::Entry;
use crate::conn::{ConnectionTable, Direction};
use crate::counters::Drop;
use crate::egress::{self, Ports};
use crate::forward::{self, Forward, fragment};
use crate::network::PortId;
use crate::packet::{ethernet, read_u16};
use crate::parse::AnyPacket;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Burst, Frame, Wire};

impl<W: Wire> Balancer<W> {
    /// Sends a packet of a connection, in a frame that is too long for some port.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_long<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        packet: &P,
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        let network = &self.snapshot.current().network;
        let is_known = egress::adjacency(entry, direction, network).is_some();
        if !is_known && direction == Direction::ToServer && self.is_for_linux(table, entry) {
            return self.forward_to_linux(table, (frame, port), &packet.any(), entry);
        }
        let change =
            |frame: &mut W::Frame| packet.forward(frame.data_mut(), table, entry, direction).map(Into::into);
        self.change_and_send(table, frame, &packet.any(), (entry, direction), change, now);
    }

    /// Sends a packet of a connection once `change` has made of it what goes out, and given the address that it goes on to. Where it
    /// cannot go on, its sender is told.
    #[inline(always)]
    pub(super) fn change_and_send(
        &mut self,
        table: &ConnectionTable,
        mut frame: W::Frame,
        packet: &AnyPacket,
        (entry, direction): (&Entry, Direction),
        change: impl FnOnce(&mut W::Frame) -> Result<IpAddr, Drop>,
        now: Tick,
    ) {
        if self.egress.is_long(frame.len()) {
            let to = forward::next(table, entry, direction);
            match self.mtu_to(to) {
                Some(mtu) if packet.length > mtu => {
                    return self.forward_too_long(frame, (packet, mtu), (entry, direction), change, now);
                }
                _ if !unpad(&mut frame, packet) => return self.counters.dropped(Drop::TooBig),
                _ => {}
            }
        }
        let Snapshot { network, .. } = self.snapshot.current();
        let sent = match change(&mut frame) {
            Ok(to) => self.egress.send(frame, || to, (entry, direction), network, now),
            Err(reason) => return self.refuse(frame, (packet, teller(entry, direction)), reason, now),
        };
        match sent {
            Err(Drop::NoRoute) => self.counters.dropped(self.without_route(table, (entry, direction))),
            Err(reason) => self.counters.dropped(reason),
            Ok(()) => {}
        }
    }

    /// Why a packet of a method that takes frames is dropped that has no way out. By FULLNAT to this host it would be from an address of
    /// Linux's own, and from outside.
    #[cold]
    pub(super) fn without_route(
        &self,
        table: &ConnectionTable,
        (entry, direction): (&Entry, Direction),
    ) -> Drop {
        let is_local = direction == Direction::ToServer && self.is_for_linux(table, entry);
        if is_local { Drop::LocalMartian } else { Drop::NoRoute }
    }

    /// The longest packet that the first link of the way to this address takes.
    pub(super) fn mtu_to(&self, to: IpAddr) -> Option<usize> {
        Some(self.egress.mtu(self.snapshot.current().network.route(to)?.port))
    }

    #[cold]
    #[inline(never)]
    fn forward_too_long(
        &mut self,
        mut frame: W::Frame,
        (packet, mtu): (&AnyPacket, usize),
        (entry, direction): (&Entry, Direction),
        change: impl FnOnce(&mut W::Frame) -> Result<IpAddr, Drop>,
        now: Tick,
    ) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        if !fragment::may_be_made_of(ip) {
            let mtu = mtu.try_into().unwrap_or(u16::MAX);
            return self.tell_length(frame, (packet, teller(entry, direction)), mtu, now);
        }
        let identification = ip.get(4..6).map_or(0, |bytes| read_u16(bytes, 0));
        if !unpad(&mut frame, packet) {
            return self.counters.dropped(Drop::Scattered);
        }
        match change(&mut frame) {
            Ok(to) => {
                let way = (to, Some((entry, direction)));
                self.send_in_pieces(&frame, (mtu, identification), way, now);
            }
            Err(reason) => self.refuse(frame, (packet, teller(entry, direction)), reason, now),
        }
    }

    /// Sends a packet on to an address in pieces of at most so many bytes.
    #[cold]
    pub(super) fn send_in_pieces(
        &mut self,
        frame: &W::Frame,
        (mtu, identification): (usize, u16),
        (to, connection): (IpAddr, Option<(&Entry, Direction)>),
        now: Tick,
    ) {
        let Self { snapshot, egress, counters, wires, .. } = self;
        let Snapshot { network, .. } = snapshot.current();
        let mut pieces = Burst::new();
        if let Err(reason) = fragment::split(frame, mtu, identification.into(), &mut pieces) {
            return counters.dropped(reason);
        }
        if !egress.has_room(pieces.len()) {
            egress.flush(&mut Ports { wires, counters });
            if !egress.has_room(pieces.len()) {
                // Some of the pieces would be of no use.
                return counters.dropped(Drop::TxFull);
            }
        }
        counters.fragmented(pieces.len());
        for piece in pieces {
            let sent = match connection {
                Some(connection) => egress.send(piece, || to, connection, network, now),
                None => egress.send_single(piece, to, network, now),
            };
            if let Err(reason) = sent {
                counters.dropped(reason);
            }
        }
    }
}

/// Takes off what is behind the packet, where it is more than nothing. False where that is not all in the frame's last piece.
fn unpad<F: Frame>(frame: &mut F, packet: &AnyPacket) -> bool {
    frame.truncate(ethernet::HEADER + packet.length)
}
