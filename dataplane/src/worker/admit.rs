//! What the first packet of a connection goes through: classify, schedule, insert. And when a packet of a connection that
//! there is counts as the first one of another.
//!
//! Runs on the packet's way, for the packets that open connections: takes no lock and allocates nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Balancer, fullnat, persist};
use crate::conn::entry::Entry;
use crate::conn::key::Key;
use crate::conn::state::Seen;
use crate::conn::table::Found;
use crate::conn::{ConnectionTable, Direction, Index, Method, NewConnection, OpenError, State, state};
use crate::counters::{Drop, Verdict};
use crate::forward::Forward;
use crate::network::PortId;
use crate::packet::tcp::Flags;
use crate::packet::{ipv4, ipv6, protocol};
use crate::parse::{AnyFlow, AnyPacket};
use crate::schedule::Arrival;
use crate::service::{Match, Wide};
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
        let Snapshot { sysctls, masqueraded, .. } = self.snapshot.current();
        let flow = packet.flow;
        let is_reset = packet.flags.any(Flags::RST);
        if sysctls.nat_icmp_send && !is_reset && masqueraded.contains(flow.protocol(), flow.source()) {
            return Err(Verdict::Drop(Drop::NoConnection));
        }
        // Linux answers what belongs to no connection; a SYN alone opens one, or an INIT.
        let is_sloppy = match flow.protocol() {
            protocol::UDP => true,
            protocol::SCTP => sysctls.sloppy_sctp,
            _ => sysctls.sloppy_tcp,
        };
        if is_reset || !(is_sloppy || packet.flags.any(Flags::SYN)) {
            return Err(Verdict::ToKernel);
        }
        self.schedule(packet, (frame, port), Some(packet.flags), now)
    }

    /// The same for a packet that an ICMP error is about, sent by a server that nobody here knows of (schedule_icmp): for the client's
    /// flow. What else is in the error is not the client's.
    #[inline(never)]
    pub(super) fn admit_by_error(
        &mut self,
        packet: &AnyPacket,
        port: PortId,
        now: Tick,
    ) -> Result<Found, Verdict> {
        self.schedule(packet, (&[], port), None, now)
    }

    /// Opens a connection for a packet that may, whose state follows from the control bits that it has, if any.
    #[inline(always)]
    fn schedule(
        &mut self,
        packet: &AnyPacket,
        (frame, port): (&[u8], PortId),
        flags: Option<Flags>,
        now: Tick,
    ) -> Result<Found, Verdict> {
        let Snapshot { services, timeouts, sysctls, defence, locals, snat, .. } = self.snapshot.current();
        let flow = packet.flow;
        let Some(found) = services.find(flow, port) else {
            return if snat.is_empty() { Err(Verdict::ToKernel) } else { self.outward(packet, flags, now) };
        };
        let service = found.service;
        let is_martian = match flow.source().0 {
            IpAddr::V4(address) => ipv4::is_martian_source(address.into()),
            IpAddr::V6(address) => ipv6::is_martian_source(address.into()),
        };
        if is_martian {
            return Err(Verdict::Drop(Drop::MartianSource));
        }
        if self.surplus.has(defence, sysctls, now) {
            return Err(Verdict::Drop(Drop::Overload));
        }
        let arrival = Arrival::new(packet, frame, now, sysctls.scheduling());
        let (destinations, connections) = (&*self.destinations, &mut self.connections);
        let (destination, template) = if service.persistence().is_some() {
            match persist::template(found, arrival, destinations, connections, sysctls) {
                Ok((destination, template)) => (destination, Some(template)),
                Err(Drop::NoDestination) => {
                    let left = Left::by(&found, flow);
                    return self.without_destination(packet, left, flags, now);
                }
                Err(reason) => return Err(Verdict::Drop(reason)),
            }
        } else {
            match service.scheduler().schedule(service, destinations, arrival) {
                Some(destination) => (destination, None),
                None => {
                    let left = Left::by(&found, flow);
                    return self.without_destination(packet, left, flags, now);
                }
            }
        };
        let initial = State::initial(flow.protocol());
        let new = NewConnection {
            flow,
            server: (destination.address, found.server_port(destination, flow)),
            method: destination.method,
            destination: destination.id,
            state: match flags {
                Some(flags) if !initial.is_sctp() => {
                    let seen = Seen::from_client(destination.method, false);
                    state::next(initial, seen, flags, defence.secure_tcp)
                }
                // A second INIT means something else than the first one: it is counted once, where the packet is sent on. A
                // SYN may be counted twice, which saves a timer.
                _ => initial,
            },
        };
        destinations.opening(new.destination, new.state);
        // By FULLNAT the server's answer would not find back without a connection.
        let is_fullnat = new.method == Method::FullNat;
        let is_one_packet = service.is_one_packet(flow.protocol()) && !is_fullnat;
        let opened = match template {
            template if is_fullnat => {
                let new = (&new, service.announce());
                fullnat::open(connections, (locals, &mut self.draws), template, new, timeouts, now)
            }
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

    /// For a packet that would open a connection, and its service has no destination for it: on its way to another host, and for its service by
    /// its mark, it goes on past that (cache_bypass); else it is refused. What an error has opened nobody goes past.
    #[cold]
    #[inline(never)]
    fn without_destination(
        &mut self,
        packet: &AnyPacket,
        Left { refusal, is_by_mark, is_one_packet }: Left,
        flags: Option<Flags>,
        now: Tick,
    ) -> Result<Found, Verdict> {
        let Snapshot { network, timeouts, sysctls, defence, .. } = self.snapshot.current();
        let flow = packet.flow;
        let is_past = sysctls.cache_bypass && is_by_mark && network.route(flow.destination().0).is_some();
        let Some(flags) = flags.filter(|_| is_past) else { return Err(refusal) };
        let nowhere = match flow {
            AnyFlow::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AnyFlow::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (method, initial) = (Method::Bypass, State::initial(flow.protocol()));
        let seen = Seen::from_client(method, false);
        let new = NewConnection {
            flow,
            server: (nowhere, 0),
            method,
            destination: self.destinations.nobody(),
            state: if initial.is_sctp() {
                initial
            } else {
                state::next(initial, seen, flags, defence.secure_tcp)
            },
        };
        self.destinations.opening(new.destination, new.state);
        let opened = if is_one_packet {
            self.connections.open_once(None, &new, now)
        } else {
            self.connections.open(&new, timeouts, now)
        };
        if is_one_packet || opened.is_err() {
            self.destinations.ended(new.destination, new.state);
        }
        match opened {
            Ok(index) => Ok(Found { index, direction: Direction::ToServer }),
            Err(OpenError::Exists(found)) => Ok(found),
            Err(refused) => Err(Verdict::Drop(refused.into())),
        }
    }

    /// For a packet whose connection's destination has been deleted: dropped in silence, or, with expire_nodest_conn, the
    /// connection ends and the packet is what it is without one.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_elsewhere<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        packet: &P,
        index: Index,
        now: Tick,
    ) {
        match self.elsewhere(table, packet, (frame.data(), port), (index, now)) {
            Ok(found) => {
                self.forward(table, (frame, port), packet, found, table.entry(found.index), now);
            }
            Err(verdict) => self.finish(table, verdict, (frame, port), packet, now),
        }
    }

    /// The connection that such a packet opens, whose destination is there.
    pub(super) fn elsewhere<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        packet: &P,
        received: (&[u8], PortId),
        (index, now): (Index, Tick),
    ) -> Result<Found, Verdict> {
        const GONE: Verdict = Verdict::Drop(Drop::DestinationGone);
        if !self.snapshot.current().sysctls.expire_nodest_conn {
            return Err(GONE);
        }
        self.close(index);
        let found = self.search(table, packet.flow(), &packet.any(), received, now)?;
        // Deleted between the snapshot in which it was chosen and now.
        let is_gone = self.tallies.of(table.entry(found.index).destination()).is_gone();
        if is_gone { Err(GONE) } else { Ok(found) }
    }
}

/// What a service leaves a packet to for which it has no destination.
struct Left {
    /// What becomes of it unless it goes past the service.
    refusal: Verdict,
    is_by_mark: bool,
    is_one_packet: bool,
}

impl Left {
    #[cold]
    fn by(found: &Match<'_>, flow: AnyFlow) -> Self {
        Self {
            refusal: found.refusal(flow),
            is_by_mark: matches!(found.wide, Some(Wide::Mark(_))),
            is_one_packet: found.service.is_one_packet(flow.protocol()),
        }
    }
}
