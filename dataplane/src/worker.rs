//! A worker: one thread on one core that takes bursts of frames from its queues and sees each through to its end.
//!
//! No lock, no allocation, no log line and no system call on the packet's way; time is given by the caller.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::conn::entry::Entry;
use crate::conn::state::Seen;
use crate::conn::table::{Candidate, Found, Hash};
use crate::conn::{ConnectionTable, Connections, Direction, Index, NewConnection, OpenError, State, state};
use crate::counters::{Drop, Verdict, WorkerCounters};
use crate::destination::{Destinations, Tallies};
use crate::egress::{Egress, Ports};
use crate::forward::forward;
use crate::network::{MacAddr, PortId};
use crate::packet::ipv4::is_martian_source;
use crate::packet::tcp::Flags;
use crate::packet::{icmp, protocol};
use crate::parse::{self, Packet, Parsed, parse};
use crate::schedule::Arrival;
use crate::snapshot::{Resolve, Snapshot, Subscriber};
use crate::time::Tick;
use crate::wire::{BURST, Burst, Frame, Wire};

mod errors;
mod sweep;

use errors::Errors;
use sweep::Sweep;

/// A port as one worker has it.
pub struct Port<W: Wire> {
    /// The port's own address.
    pub mac: MacAddr,
    /// The longest IP packet it sends, in bytes.
    pub mtu: u16,
    /// This worker's queues.
    pub wire: W,
    /// The way to Linux, where the port has a kernel interface.
    pub kernel: Option<Kernel<W::Frame>>,
}

/// Queues between a worker and whoever serves a port's kernel interface.
pub struct Kernel<F> {
    /// What is not balanced.
    pub to: Arc<ArrayQueue<F>>,
    /// What Linux sends, where it is this worker that sends it.
    pub from: Option<Arc<ArrayQueue<F>>>,
}

/// What all workers share, and control with them.
#[derive(Clone)]
pub struct Shared {
    /// The connections.
    pub table: Arc<ConnectionTable>,
    /// The destinations' counters.
    pub destinations: Arc<Destinations>,
    /// Neighbours that workers want resolved.
    pub requests: Arc<ArrayQueue<Resolve>>,
}

/// One worker.
pub struct Worker<W: Wire> {
    table: Arc<ConnectionTable>,
    balancer: Balancer<W>,
}

/// A worker without the table, of which it may hold an entry while the rest of it changes.
struct Balancer<W: Wire> {
    macs: Vec<MacAddr>,
    wires: Vec<W>,
    kernels: Vec<Option<Kernel<W::Frame>>>,
    egress: Egress<W::Frame>,
    connections: Connections,
    destinations: Arc<Destinations>,
    tallies: Arc<Tallies>,
    snapshot: Subscriber<Snapshot>,
    counters: Arc<WorkerCounters>,
    sweep: Sweep,
    errors: Errors,
    /// Packets until the next one that drop_packet drops.
    until_drop: i32,
}

impl<W: Wire> Worker<W> {
    /// Worker number `number`, with its queue pair of every port in the order of their ids.
    pub fn new(
        number: usize,
        ports: Vec<Port<W>>,
        shared: &Shared,
        snapshot: Subscriber<Snapshot>,
        counters: Arc<WorkerCounters>,
        now: Tick,
    ) -> Self {
        let mtus: Vec<_> = ports.iter().map(|port| port.mtu).collect();
        let egress = Egress::new(&mtus, shared.requests.clone());
        let (mut macs, mut wires, mut kernels) = (Vec::new(), Vec::new(), Vec::new());
        for port in ports {
            macs.push(port.mac);
            wires.push(port.wire);
            kernels.push(port.kernel);
        }
        let table = shared.table.clone();
        let connections = Connections::new(table.clone(), number, now);
        let destinations = shared.destinations.clone();
        let tallies = destinations.tallies(number);
        let sweep = Sweep::new(number, destinations.workers(), snapshot.current().deletions, now);
        let errors = Errors::new(destinations.workers(), now);
        let balancer = Balancer {
            macs,
            wires,
            kernels,
            egress,
            connections,
            destinations,
            tallies,
            snapshot,
            counters,
            sweep,
            errors,
            until_drop: 0,
        };
        Self { table, balancer }
    }

    /// One round: a burst from every port, a share of what has expired, and what Linux sends. Gives the number of frames
    /// received; 0 tells an idle caller that it may rest.
    pub fn poll(&mut self, now: Tick) -> usize {
        self.balancer.poll(&self.table, now)
    }
}

impl<W: Wire> Balancer<W> {
    #[inline]
    fn poll(&mut self, table: &ConnectionTable, now: Tick) -> usize {
        self.connections.quiesce();
        if self.snapshot.refresh() {
            self.egress.network_changed();
            self.sweep.wake(now);
        }
        if self.egress.has_retries(now) {
            let mut ports = Ports { wires: &mut self.wires, counters: &self.counters };
            self.egress.retry(&self.snapshot.current().network, &mut ports, now);
            self.egress.flush(&mut ports);
        }
        let mut received = 0;
        for port in 0..self.wires.len() {
            let mut burst = Burst::new();
            self.wires[port].receive(&mut burst);
            if !burst.is_empty() {
                received += burst.len();
                self.balance(table, PortId(port as u16), &mut burst, now);
            }
            self.egress.flush(&mut Ports { wires: &mut self.wires, counters: &self.counters });
            self.send_from_kernel(port);
        }
        let destinations = &self.destinations;
        self.connections.expire(&self.snapshot.current().timeouts, now, |ended| {
            destinations.ended(ended.destination, ended.state);
        });
        if self.sweep.is_due(now) {
            let Self { sweep, connections, destinations, tallies, snapshot, .. } = self;
            sweep.round(connections, table, (destinations, tallies), snapshot.current(), now);
        }
        received
    }

    /// The whole way of a burst: parse, look up, admit what is new, forward. Each stage goes over the whole burst, so that
    /// the cache misses of its packets are in flight together.
    fn balance(&mut self, table: &ConnectionTable, port: PortId, burst: &mut Burst<W::Frame>, now: Tick) {
        self.counters.received(burst.len());
        let mac = self.macs[usize::from(port.0)];
        let mut packets = [Packet::NONE; BURST];
        let mut hashes = [Hash::default(); BURST];
        let mut candidates = [Candidate::default(); BURST];

        burst.iter().for_each(Frame::prefetch);
        for ((frame, packet), hash) in burst.iter().zip(&mut packets).zip(&mut hashes) {
            *packet = parse::packet(frame, mac);
            *hash = table.hash(packet.flow);
            table.prefetch_bucket(*hash);
        }
        for (hash, candidate) in hashes[..burst.len()].iter().zip(&mut candidates) {
            *candidate = table.candidate(*hash);
        }
        for ((frame, packet), candidate) in burst.drain(..).zip(&packets).zip(&candidates) {
            match self.connection(table, &frame, mac, packet, *candidate, now) {
                Ok((found, entry)) => self.forward(table, (frame, port), packet, found, entry, now),
                Err(verdict) => self.finish(verdict, port, frame, packet, now),
            }
        }
    }

    /// The connection the packet belongs to: one there is, or a new one where it may open one.
    #[inline]
    fn connection<'t>(
        &mut self,
        table: &'t ConnectionTable,
        frame: &W::Frame,
        mac: MacAddr,
        packet: &Packet,
        candidate: Candidate,
        now: Tick,
    ) -> Result<(Found, &'t Entry), Verdict> {
        // A SYN may be that of a new connection, also where there is an old one. What is no packet has no candidate.
        match table.confirm(candidate, packet.flow) {
            Some(found) if !packet.flags.any(Flags::SYN) => Ok(found),
            _ if packet.is_some() => {
                let found = self.search(table, packet, frame.data(), now)?;
                Ok((found, table.entry(found.index)))
            }
            _ => Err(self.refuse(frame, mac)),
        }
    }

    /// The same for a packet whose bucket did not lead to its connection at once.
    #[inline(never)]
    fn search(
        &mut self,
        table: &ConnectionTable,
        packet: &Packet,
        frame: &[u8],
        now: Tick,
    ) -> Result<Found, Verdict> {
        if let Some(found) = table.find(table.hash(packet.flow), packet.flow) {
            let opens = packet.flags.any(Flags::SYN) && found.direction == Direction::ToServer;
            if !opens || !self.is_over(table.entry(found.index)) {
                return Ok(found);
            }
            self.close(found.index);
        }
        self.admit(packet, frame, now)
    }

    /// Whether a client that asks for a connection where there is this one is to get another: it uses the port again
    /// (conn_reuse_mode), or the server takes nothing new (expire_nodest_conn).
    fn is_over(&self, entry: &Entry) -> bool {
        let sysctls = &self.snapshot.current().sysctls;
        let life = entry.life();
        let one_sided = Seen::from_client(entry.method(), life.has_replied()) == Seen::InOnly;
        life.state().ends_at_syn(sysctls.conn_reuse_mode, one_sided)
            || sysctls.expire_nodest_conn && self.destinations.load(entry.destination()).is_quiescent()
    }

    fn close(&mut self, index: Index) {
        if let Some(ended) = self.connections.close(index) {
            self.destinations.ended(ended.destination, ended.state);
        }
    }

    /// Classify, schedule, insert: what the first packet of a connection goes through.
    fn admit(&mut self, packet: &Packet, frame: &[u8], now: Tick) -> Result<Found, Verdict> {
        let Snapshot { services, timeouts, sysctls, defence, .. } = self.snapshot.current();
        let flow = packet.flow;
        // Linux answers what belongs to no connection; a SYN alone opens one, or an INIT.
        let is_sloppy = match flow.protocol() {
            protocol::UDP => true,
            protocol::SCTP => sysctls.sloppy_sctp,
            _ => sysctls.sloppy_tcp,
        };
        let opens = (is_sloppy || packet.flags.any(Flags::SYN)) && !packet.flags.any(Flags::RST);
        let service = services.find(flow).filter(|_| opens).ok_or(Verdict::ToKernel)?;
        if is_martian_source(flow.source().0) {
            return Err(Verdict::Drop(Drop::MartianSource));
        }
        if is_surplus(&mut self.until_drop, defence.drop_rate) {
            return Err(Verdict::Drop(Drop::Overload));
        }
        let arrival = Arrival::new(packet, frame, now, sysctls.scheduling());
        let destination = service
            .scheduler()
            .schedule(service, &self.destinations, arrival)
            .ok_or(Verdict::Drop(Drop::NoDestination))?;
        let initial = State::initial(flow.protocol());
        let new = NewConnection {
            flow,
            server: (destination.address, destination.port),
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
        self.destinations.opening(new.destination, new.state);
        let refused = match self.connections.open(&new, timeouts, now) {
            Ok(index) => {
                self.tallies.of(new.destination).opened();
                return Ok(Found { index, direction: Direction::ToServer });
            }
            Err(refused) => refused,
        };
        self.destinations.ended(new.destination, new.state);
        match refused {
            OpenError::Exists(found) => Ok(found),
            OpenError::TableFull => Err(Verdict::Drop(Drop::TableFull)),
            OpenError::NoFreeEntry => Err(Verdict::Drop(Drop::NoFreeEntry)),
        }
    }

    /// Counts the packet, moves its connection on, changes what its forwarding method changes, and sends it.
    #[inline]
    fn forward(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        packet: &Packet,
        found: Found,
        entry: &Entry,
        now: Tick,
    ) {
        let Found { index, direction } = found;
        let destination = entry.destination();
        let tally = self.tallies.of(destination);
        match direction {
            Direction::ToServer if tally.is_gone() => {
                return self.forward_elsewhere(table, (frame, port), packet, index, now);
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
        let sent = forward(&mut frame, packet, entry, direction)
            .and_then(|to| self.egress.send(frame, to, (entry, direction), network, now));
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// For a packet whose connection's destination has been deleted: dropped in silence, or, with expire_nodest_conn, the
    /// connection ends and the packet is what it is without one.
    #[cold]
    fn forward_elsewhere(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        packet: &Packet,
        index: Index,
        now: Tick,
    ) {
        if !self.snapshot.current().sysctls.expire_nodest_conn {
            return self.counters.dropped(Drop::DestinationGone);
        }
        self.close(index);
        match self.admit(packet, frame.data(), now) {
            // Deleted between the snapshot in which it was chosen and now.
            Ok(found) if self.tallies.of(table.entry(found.index).destination()).is_gone() => {
                self.counters.dropped(Drop::DestinationGone);
            }
            Ok(found) => {
                self.forward(table, (frame, port), packet, found, table.entry(found.index), now);
            }
            Err(verdict) => self.finish(verdict, port, frame, packet, now),
        }
    }

    /// What is to become of a frame that is no packet for the balancer.
    #[cold]
    fn refuse(&self, frame: &W::Frame, mac: MacAddr) -> Verdict {
        match parse(frame, mac) {
            Parsed::Other(verdict) => verdict,
            // A fragment has no ports to look up. Linux must not get one that is for a service: it would answer that
            // nobody listens.
            Parsed::Fragment { destination } if self.snapshot.current().services.is_virtual(destination) => {
                Verdict::Drop(Drop::Fragment)
            }
            Parsed::Fragment { .. } | Parsed::Packet(_) => Verdict::ToKernel,
        }
    }

    /// What becomes of a frame that is not forwarded.
    #[inline(never)]
    fn finish(&mut self, verdict: Verdict, port: PortId, frame: W::Frame, packet: &Packet, now: Tick) {
        if verdict == Verdict::Drop(Drop::NoDestination) {
            return self.tell_unreachable(frame, packet, now);
        }
        let outcome = match (verdict, &self.kernels[usize::from(port.0)]) {
            (Verdict::ToKernel, Some(kernel)) => kernel.to.push(frame).map_err(|_| Drop::KernelQueueFull),
            (Verdict::ToKernel, None) => Err(Drop::NoKernelInterface),
            (Verdict::Drop(reason), _) => Err(reason),
        };
        match outcome {
            Ok(()) => self.counters.to_kernel(),
            Err(reason) => self.counters.dropped(reason),
        }
    }

    /// Tells the client that nobody takes its connection, unless it has been told often enough.
    fn tell_unreachable(&mut self, mut frame: W::Frame, packet: &Packet, now: Tick) {
        let (client, _) = packet.flow.source();
        let Self { errors, egress, snapshot, counters, .. } = self;
        if !errors.take(client, now)
            || !icmp::make_port_unreachable(&mut frame, packet.length, errors.identification())
        {
            return counters.dropped(Drop::NoDestination);
        }
        counters.unreachable();
        if let Err(reason) = egress.send_single(frame, client, &snapshot.current().network, now) {
            counters.dropped(reason);
        }
    }

    /// Sends a burst of what Linux has for the port.
    fn send_from_kernel(&mut self, port: usize) {
        let Some(from) = self.kernels[port].as_ref().and_then(|kernel| kernel.from.as_ref()) else { return };
        if from.is_empty() {
            return;
        }
        let mut burst: Burst<W::Frame> = std::iter::from_fn(|| from.pop()).take(BURST).collect();
        let taken = burst.len();
        self.wires[port].send(&mut burst);
        self.counters.sent_for_kernel(taken - burst.len(), burst.len());
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

#[cfg(test)]
mod tests;
