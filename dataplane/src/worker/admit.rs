//! What the first packet of a connection goes through: classify, schedule, insert. And when a packet of a connection that
//! there is counts as the first one of another.
//!
//! Runs on the packet's way, for the packets that open connections: takes no lock and allocates nothing.

use std::net::IpAddr;

use super::{Balancer, persist};
use crate::conn::entry::Entry;
use crate::conn::key::Key;
use crate::conn::state::Seen;
use crate::conn::table::Found;
use crate::conn::{ConnectionTable, Direction, Index, NewConnection, OpenError, State, state};
use crate::counters::{Drop, Verdict};
use crate::network::PortId;
use crate::packet::tcp::Flags;
use crate::packet::{ipv4, ipv6, protocol};
use crate::parse::{AnyPacket, Packet};
use crate::schedule::Arrival;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

impl<W: Wire> Balancer<W> {
    /// The same for a packet whose bucket did not lead to its connection at once.
    #[inline(never)]
    pub(super) fn search(
        &mut self,
        table: &ConnectionTable,
        flow: impl Key,
        packet: &AnyPacket,
        received: (&[u8], PortId),
        now: Tick,
    ) -> Result<Found, Verdict> {
        if let Some(found) = table.find(table.hash(flow), flow) {
            let opens = packet.flags.any(Flags::SYN) && found.direction == Direction::ToServer;
            if !opens || !self.is_over(table.entry(found.index)) {
                return Ok(found);
            }
            self.close(found.index);
        }
        self.admit(packet, received, now)
    }

    /// Whether a client that asks for a connection where there is this one is to get another: it uses the port again
    /// (conn_reuse_mode; not under a template, which would lead it to the same server), or the server takes nothing new
    /// (expire_nodest_conn).
    fn is_over(&self, entry: &Entry) -> bool {
        let sysctls = &self.snapshot.current().sysctls;
        let life = entry.life();
        let one_sided = Seen::from_client(entry.method(), life.has_replied()) == Seen::InOnly;
        life.state().ends_at_syn(sysctls.conn_reuse_mode, one_sided) && !entry.is_under_template()
            || sysctls.expire_nodest_conn && self.destinations.load(entry.destination()).is_quiescent()
    }

    fn close(&mut self, index: Index) {
        if let Some(ended) = self.connections.close(index) {
            self.destinations.closed(ended);
        }
    }

    /// Classify, schedule, insert: what the first packet of a connection goes through.
    #[inline(always)]
    fn admit(
        &mut self,
        packet: &AnyPacket,
        (frame, port): (&[u8], PortId),
        now: Tick,
    ) -> Result<Found, Verdict> {
        let Snapshot { services, timeouts, sysctls, defence, .. } = self.snapshot.current();
        let flow = packet.flow;
        // Linux answers what belongs to no connection; a SYN alone opens one, or an INIT.
        let is_sloppy = match flow.protocol() {
            protocol::UDP => true,
            protocol::SCTP => sysctls.sloppy_sctp,
            _ => sysctls.sloppy_tcp,
        };
        if packet.flags.any(Flags::RST) || !(is_sloppy || packet.flags.any(Flags::SYN)) {
            return Err(Verdict::ToKernel);
        }
        let found = services.find(flow, port).ok_or(Verdict::ToKernel)?;
        let service = found.service;
        let is_martian = match flow.source().0 {
            IpAddr::V4(address) => ipv4::is_martian_source(address.into()),
            IpAddr::V6(address) => ipv6::is_martian_source(address.into()),
        };
        if is_martian {
            return Err(Verdict::Drop(Drop::MartianSource));
        }
        if is_surplus(&mut self.until_drop, defence.drop_rate) {
            return Err(Verdict::Drop(Drop::Overload));
        }
        let arrival = Arrival::new(packet, frame, now, sysctls.scheduling());
        let (destinations, connections) = (&*self.destinations, &mut self.connections);
        let (destination, template) = if service.persistence().is_some() {
            let chosen = persist::template(found, arrival, destinations, connections, sysctls);
            let (destination, template) = chosen.map_err(|reason| match reason {
                Drop::NoDestination => found.refusal(flow),
                reason => Verdict::Drop(reason),
            })?;
            (destination, Some(template))
        } else {
            let destination = service.scheduler().schedule(service, destinations, arrival);
            (destination.ok_or_else(|| found.refusal(flow))?, None)
        };
        let initial = State::initial(flow.protocol());
        let new = NewConnection {
            flow,
            server: (destination.address, found.server_port(destination, flow)),
            method: destination.method,
            destination: destination.id,
            state: if initial.is_sctp() {
                // A second INIT means something else than the first one: it is counted once, where the packet is sent on. A
                // SYN may be counted twice, which saves a timer.
                initial
            } else {
                let seen = Seen::from_client(destination.method, false);
                state::next(initial, seen, packet.flags, defence.secure_tcp)
            },
        };
        destinations.opening(new.destination, new.state);
        let is_one_packet = service.is_one_packet(flow.protocol());
        let opened = match template {
            None if !is_one_packet => connections.open(&new, timeouts, now),
            Some(template) if !is_one_packet => connections.open_under(template, &new, timeouts, now),
            template => connections.open_once(template, &new, now),
        };
        if is_one_packet || opened.is_err() {
            destinations.ended(new.destination, new.state);
        }
        match opened {
            Ok(index) => {
                self.tallies.of(new.destination).opened();
                Ok(Found { index, direction: Direction::ToServer })
            }
            Err(OpenError::Exists(found)) => Ok(found),
            Err(refused) => Err(Verdict::Drop(refused.into())),
        }
    }

    /// For a packet whose connection's destination has been deleted: dropped in silence, or, with expire_nodest_conn, the
    /// connection ends and the packet is what it is without one.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_elsewhere(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        packet: &Packet,
        index: Index,
        now: Tick,
    ) {
        match self.elsewhere(table, packet.flow, &packet.into(), (frame.data(), port), (index, now)) {
            Ok(found) => {
                self.forward(table, (frame, port), packet, found, table.entry(found.index), now);
            }
            Err(verdict) => self.finish(verdict, port, frame, packet, now),
        }
    }

    /// The connection that such a packet opens, whose destination is there.
    pub(super) fn elsewhere(
        &mut self,
        table: &ConnectionTable,
        flow: impl Key,
        packet: &AnyPacket,
        received: (&[u8], PortId),
        (index, now): (Index, Tick),
    ) -> Result<Found, Verdict> {
        const GONE: Verdict = Verdict::Drop(Drop::DestinationGone);
        if !self.snapshot.current().sysctls.expire_nodest_conn {
            return Err(GONE);
        }
        self.close(index);
        let found = self.search(table, flow, packet, received, now)?;
        // Deleted between the snapshot in which it was chosen and now.
        let is_gone = self.tallies.of(table.entry(found.index).destination()).is_gone();
        if is_gone { Err(GONE) } else { Ok(found) }
    }
}

/// Whether a packet that would open a connection is one of those that drop_packet drops: one in `rate`, all where that is
/// negative. `left` is how many may come until then.
fn is_surplus(left: &mut i32, rate: i32) -> bool {
    if rate == 0 {
        return false;
    }
    *left = left.saturating_sub(1).min(rate);
    let is_surplus = *left <= 0;
    if is_surplus {
        *left = rate;
    }
    is_surplus
}
