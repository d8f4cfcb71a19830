//! The way of ICMP errors: those about a balanced packet go where that came from, as the packets of its connection do. All else of
//! ICMP is Linux's.

use super::Balancer;
use super::across::is_across;
use super::tunnel::{Through, spread};
use crate::conn::table::Found;
use crate::conn::{ConnectionTable, Direction, Method};
use crate::counters::{Drop, Verdict};
use crate::forward::icmp;
use crate::network::PortId;
use crate::packet::tcp::Flags;
use crate::packet::{ethernet, protocol};
use crate::parse::{AnyPacket, IcmpError, Quoted};
use crate::service::Family;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// The error, and the packet that it is about.
type About = (IcmpError, Quoted);

impl<W: Wire> Balancer<W> {
    /// What becomes of a frame that holds an ICMP error.
    #[cold]
    #[inline(never)]
    pub(super) fn relate(&mut self, table: &ConnectionTable, (frame, port): (W::Frame, PortId), now: Tick) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let Some(error) = IcmpError::in_frame(&frame) else {
            // Does not come about but where it lies in several pieces, and no network makes one as long.
            return self.dispose(Verdict::ToKernel, port, frame);
        };
        let about = error.quoted(ip).and_then(|quoted| {
            // What somebody was sent comes back with its sides as they were.
            let flow = quoted.flow.reversed();
            Some(((error, quoted), table.find(table.hash(flow), flow)?))
        });
        match about {
            Some(_) if !error.checksum_is_right(ip) => self.counters.dropped(Drop::BadIcmpChecksum),
            Some((about, found)) => self.hand_on(table, (frame, port), &about, found, now),
            None => self.relate_inside(table, (frame, port), &error, now),
        }
    }

    /// The same for one that is not about a packet as clients and servers know it.
    fn relate_inside(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        error: &IcmpError,
        now: Tick,
    ) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let rest = match self.inside(table, error, ip) {
            Some(_) if !error.checksum_is_right(ip) => return self.counters.dropped(Drop::BadIcmpChecksum),
            Some(inside) => self.tell_from_inside(frame, error, inside, now),
            None => Some(frame),
        };
        let Some(frame) = rest else { return };
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        match error.quoted(ip).filter(|quoted| self.may_schedule(quoted)) {
            Some(quoted) => self.schedule_error(table, (frame, port), (*error, quoted), now),
            None => self.dispose(Verdict::ToKernel, port, frame),
        }
    }

    /// Whether an error about such a packet may open a connection (schedule_icmp). There are no services for echoes.
    fn may_schedule(&self, quoted: &Quoted) -> bool {
        let is_balanced = !matches!(quoted.flow.protocol(), protocol::ICMP | protocol::ICMPV6);
        is_balanced && self.snapshot.current().sysctls.schedule_icmp
    }

    /// The same for one about a packet from a virtual address to a client that has no connection here: it gets one (schedule_icmp), to
    /// the server that the client's own packets would go to, as another director may have sent them there.
    fn schedule_error(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        (error, quoted): About,
        now: Tick,
    ) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        let packet = as_packet(&error, &quoted);
        let verdict = match self.admit_by_error(&packet, port, now) {
            Ok(_) if !error.checksum_is_right(ip) => Verdict::Drop(Drop::BadIcmpChecksum),
            Ok(found) => return self.hand_on(table, (frame, port), &(error, quoted), found, now),
            Err(verdict) => verdict,
        };
        self.dispose(verdict, port, frame);
    }

    /// Sends an error on to the one whose packet it is about. It neither changes its connection's state nor keeps it.
    fn hand_on(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        (error, quoted): &About,
        Found { index, direction }: Found,
        now: Tick,
    ) {
        let entry = table.entry(index);
        let (destination, length) = (entry.destination(), error.length);
        let tally = self.tallies.of(destination);
        match direction {
            Direction::ToServer => tally.count_in(length as u32),
            Direction::ToClient => tally.count_out(length as u32),
        }
        if entry.method() == Method::Tunnel && direction == Direction::ToServer {
            let packet = as_packet(error, quoted);
            let through = Through { destination, spread: spread(packet.flow), entry: Some(entry) };
            return self.enter_tunnel((frame, port), &packet, through, now);
        }
        let family = if error.is_ipv4 { Family::V4 } else { Family::V6 };
        if is_across(table, (entry, direction), family) {
            return self.hand_across(table, frame, (error, quoted), (entry, direction), now);
        }
        let is_for_linux = direction == Direction::ToServer && self.is_for_linux(table, entry);
        let Snapshot { network, .. } = self.snapshot.current();
        let ip = frame.data_mut().get_mut(ethernet::HEADER..).unwrap_or_default();
        if is_for_linux {
            let translated = icmp::translate(ip, (error, quoted), table, (entry, direction));
            let verdict = translated.map_or_else(Verdict::Drop, |_| Verdict::ToKernel);
            return self.dispose(verdict, port, frame);
        }
        let sent = icmp::forward(ip, (error, quoted), table, (entry, direction))
            .and_then(|to| self.egress.send(frame, || to, (entry, direction), network, now));
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }
}

/// The error as a packet of the connection of what it quotes, which goes the other way.
fn as_packet(error: &IcmpError, quoted: &Quoted) -> AnyPacket {
    let (flow, length, transport) = (quoted.flow.reversed(), error.length, error.message);
    AnyPacket { flow, length, transport, flags: Flags::default() }
}
