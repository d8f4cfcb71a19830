//! LVS/FULLNAT at the worker: where new connections get their local addresses and ports from, and how packets go on.

use super::Balancer;
use super::across::is_across;
use super::snat::teller;
use crate::conn::entry::Entry;
use crate::conn::{
    Announce, ConnectionTable, Connections, Direction, Index, NewConnection, OpenError, Timeouts,
};
use crate::egress;
use crate::forward::{self, Forward, fullnat};
use crate::locals::{self, Locals};
use crate::packet::ethernet;
use crate::parse::AnyPacket;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// A worker's numbers by which local ports are drawn. Nobody outside knows them.
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(secret: u64) -> Self {
        Self(secret)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        locals::mix(self.0, 0)
    }
}

/// Opens a connection by FULLNAT with one of its destination's local addresses.
#[inline(never)]
pub(super) fn open(
    connections: &mut Connections,
    (locals, draws): (&Locals, &mut Draws),
    template: Option<Index>,
    (new, announce): (&NewConnection, Announce),
    timeouts: &Timeouts,
    now: Tick,
) -> Result<Index, OpenError> {
    match locals.of(new.destination) {
        Ok(pool) => {
            connections.open_fullnat(template, (new, announce), pool.candidates(draws.next()), timeouts, now)
        }
        Err(_) => {
            template.into_iter().for_each(|template| connections.release(template));
            Err(OpenError::NoLocalAddress)
        }
    }
}

impl<W: Wire> Balancer<W> {
    /// Replaces both addresses of a packet of the connection `entry`, and sends it.
    #[inline(never)]
    pub(super) fn forward_by_fullnat<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        mut frame: W::Frame,
        packet: &P,
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        let network = &self.snapshot.current().network;
        let adjacency = match egress::adjacency(entry, direction, network) {
            Some(adjacency) if !entry.resizes() && !self.egress.is_long(frame.len()) => adjacency,
            _ => return self.forward_as_told(table, frame, &packet.any(), (entry, direction), now),
        };
        let data = frame.data_mut();
        let sent = match packet.forward_by_fullnat(data, table, entry, direction) {
            Err(reason) => {
                return self.refuse(frame, (&packet.any(), teller(entry, direction)), reason, now);
            }
            Ok(()) => {
                ethernet::set_addresses(data, adjacency.addresses());
                self.egress.queue(frame, adjacency.port())
            }
        };
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// The same for the packets that take longer: the connection's first, long ones, and those of a connection whose packets do not stay
    /// as long as they are.
    #[inline(never)]
    fn forward_as_told(
        &mut self,
        table: &ConnectionTable,
        frame: W::Frame,
        packet: &AnyPacket,
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        let connection = (entry, direction);
        let mut mtu = usize::MAX;
        if entry.resizes() {
            mtu = self.mtu_by(table, entry, direction);
            if is_across(table, connection, packet.flow.into()) {
                return self.forward_across(table, frame, (packet, mtu), connection, now);
            }
        }
        let change = |frame: &mut W::Frame| fullnat::forward(frame, packet, table, connection, mtu);
        self.change_and_send(table, frame, packet, connection, change, now);
    }

    /// How long a packet of this connection may be where it leaves, as far as that is known.
    fn mtu_by(&self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> usize {
        let network = &self.snapshot.current().network;
        if let Some(adjacency) = egress::adjacency(entry, direction, network) {
            return self.egress.mtu(adjacency.port());
        }
        self.mtu_to(forward::next(table, entry, direction)).unwrap_or_else(|| self.egress.least_mtu())
    }
}
