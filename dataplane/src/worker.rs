//! A worker: one thread on one core that takes bursts of frames from its queues and sees each through to its end.
//!
//! No lock, no allocation, no log line and no system call on the packet's way; time is given by the caller.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use crate::conn::entry::Entry;
use crate::conn::table::{Candidate, Found, Hash};
use crate::conn::{ConnectionTable, Connections, Direction, Index, Method};
use crate::counters::{Verdict, WorkerCounters};
use crate::destination::{Destinations, Tallies};
use crate::egress::{self, Egress, Ports};
use crate::forward::Forward;
use crate::fragments::Notes;
use crate::network::{MacAddr, PortId, Unreachable};
use crate::packet::ethernet;
use crate::packet::tcp::Flags;
use crate::parse::{self, IpPacket, Packet, Packet6};
use crate::snapshot::{Resolve, Snapshot, Subscriber};
use crate::time::Tick;
use crate::wire::{BURST, Burst, Frame, Wire};

mod across;
mod admit;
mod clamp;
mod errors;
mod fragments;
mod fullnat;
mod icmp;
mod inside;
mod local;
mod long;
mod persist;
mod refuse;
mod snat;
mod surplus;
mod sweep;
mod tell;
mod tunnel;
mod vlans;

use errors::Errors;
use fragments::Fragments;
pub use fragments::WAITING as WAITING_FRAGMENTS;
use fullnat::Draws;
use surplus::Surplus;
use sweep::Sweep;
use tunnel::Identifications;
pub use vlans::Vlan;
use vlans::Vlans;

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
    /// What became of datagrams whose fragments are still coming.
    pub fragments: Arc<Notes>,
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
    identifications: Identifications,
    draws: Draws,
    fragments: Fragments<W::Frame>,
    /// IPv6 frames of the burst that is being balanced.
    ipv6: Burst<W::Frame>,
    /// What is behind the wires' own ports: those after them are VLANs.
    vlans: Vlans<W::Frame>,
    surplus: Surplus,
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
        let sweep = Sweep::new(number, destinations.workers(), snapshot.current(), now);
        let errors = Errors::new(destinations.workers(), now);
        let identifications = Identifications::new(number, destinations.workers());
        let draws = Draws::new(table.secret(number));
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
            identifications,
            draws,
            fragments: Fragments::new(shared.fragments.clone()),
            ipv6: Burst::new(),
            vlans: Vlans::default(),
            surplus: Surplus::new(now),
        };
        Self { table, balancer }
    }

    /// The same with these VLANs: ports whose ids follow those of the ports proper.
    #[must_use]
    pub fn with_vlans(mut self, vlans: Vec<Vlan<W::Frame>>) -> Self {
        vlans.into_iter().for_each(|vlan| self.balancer.add_vlan(vlan));
        self
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
        if !self.fragments.is_idle() {
            self.look_at_fragments(table, now);
        }
        let mut received = 0;
        for port in 0..self.wires.len() {
            let mut burst = Burst::new();
            self.wires[port].receive(&mut burst);
            let mut at = PortId(port as u16);
            if !burst.is_empty() {
                received += burst.len();
                self.counters.received(burst.len());
            }
            while !burst.is_empty() {
                self.balance(table, at, &mut burst, now);
                if self.vlans.has_untagged() {
                    at = self.vlans.take(&mut burst);
                }
            }
            self.egress.flush(&mut Ports { wires: &mut self.wires, counters: &self.counters });
            self.send_from_kernel(table, PortId(port as u16), now);
        }
        self.send_from_kernel_to_vlans(table, now);
        let destinations = &self.destinations;
        self.connections.expire(&self.snapshot.current().timeouts, now, |ended| {
            destinations.closed(ended);
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
        let mac = self.macs[usize::from(port.0)];
        let mut lookups = Lookups::<Packet>::new();

        burst.iter().for_each(Frame::prefetch);
        for frame in burst.iter() {
            match parse::plain(frame, mac) {
                Some(packet) => lookups.push(Lookup::begin(packet, table)),
                None => Lookup::begin_unusual(&mut lookups, frame, mac, table),
            }
        }
        for lookup in &mut lookups {
            lookup.candidate = table.candidate(lookup.hash);
        }
        if self.snapshot.current().has_insides() {
            prefetch_insides(&lookups, table);
        }
        self.forward_all(table, port, burst, &lookups, now);
        if !self.ipv6.is_empty() {
            self.balance_ipv6(table, port, now);
        }
    }

    /// The same for the IPv6 frames of a burst, in the order in which they came. There is one stage more: the addresses of an
    /// IPv6 connection are in a cache line of their own, which is known once the connection's entry is there.
    #[inline(never)]
    fn balance_ipv6(&mut self, table: &ConnectionTable, port: PortId, now: Tick) {
        let mut burst = std::mem::take(&mut self.ipv6);
        let mac = self.macs[usize::from(port.0)];
        let mut lookups = Lookups::<Packet6>::new();

        for frame in &burst {
            lookups.push(Lookup::begin(Packet6::in_frame(frame, mac), table));
        }
        for lookup in &mut lookups {
            lookup.candidate = table.candidate(lookup.hash);
        }
        for lookup in &lookups {
            table.prefetch_extension(lookup.candidate);
        }
        if self.snapshot.current().has_insides() {
            prefetch_insides(&lookups, table);
        }
        self.forward_all(table, port, &mut burst, &lookups, now);
    }

    /// The last stage, packet by packet: a connection that one opens may be the next one's.
    #[inline(always)]
    fn forward_all<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        port: PortId,
        burst: &mut Burst<W::Frame>,
        lookups: &Lookups<P>,
        now: Tick,
    ) {
        for (mut frame, Lookup { packet, candidate, .. }) in burst.drain(..).zip(lookups) {
            match self.connection(table, &mut frame, port, packet, *candidate, now) {
                Ok((found, entry)) => self.forward(table, (frame, port), packet, found, entry, now),
                Err(verdict) => self.finish(table, verdict, (frame, port), packet, now),
            }
        }
    }

    /// The connection the packet belongs to: one there is, or a new one where it may open one.
    #[inline]
    fn connection<'t, P: Forward>(
        &mut self,
        table: &'t ConnectionTable,
        frame: &mut W::Frame,
        port: PortId,
        packet: &P,
        candidate: Candidate,
        now: Tick,
    ) -> Result<(Found, &'t Entry), Verdict> {
        // A SYN may be that of a new connection, also where there is an old one. What is no packet has no candidate.
        match table.confirm(candidate, packet.flow()) {
            Some(found) if !packet.flags().any(Flags::SYN) => Ok(found),
            _ if packet.is_some() => {
                let found = self.search(table, packet.flow(), &packet.any(), (frame.data(), port), now)?;
                let entry = table.entry(found.index);
                if packet.flags().any(Flags::SYN) && !self.snapshot.current().clamps.is_empty() {
                    self.clamp(table, (frame, port), &packet.any(), (entry, found.direction), now);
                }
                Ok((found, entry))
            }
            // Of no account: what is no packet is looked at again.
            _ => Err(Verdict::ToKernel),
        }
    }

    /// Counts the packet, moves its connection on, changes what its forwarding method changes, and sends it.
    // A call of its own would cost each packet what it takes to hand all this over.
    #[inline(always)]
    fn forward<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        packet: &P,
        found: Found,
        entry: &Entry,
        now: Tick,
    ) {
        let Found { index, direction } = found;
        if !self.account((index, entry), direction, packet, now) {
            return self.forward_elsewhere(table, (frame, port), packet, index, now);
        }
        if entry.method().takes_frames() {
            return self.forward_frame(table, (frame, port), packet, (entry, direction), now);
        }
        if self.egress.is_long(frame.len()) {
            return self.forward_long(table, (frame, port), packet, (entry, direction), now);
        }
        let network = &self.snapshot.current().network;
        let Some(adjacency) = egress::adjacency(entry, direction, network) else {
            return self.forward_first(table, (frame, port), packet, (entry, direction), now);
        };
        let data = frame.data_mut();
        let sent = match packet.forward(data, table, entry, direction) {
            Err(reason) => return self.refuse(frame, (&packet.any(), direction), reason, now),
            Ok(_) => {
                ethernet::set_addresses(data, adjacency.addresses());
                self.egress.queue(frame, adjacency.port())
            }
        };
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// Counts a packet of a connection and moves the connection on. False, and nothing done, for one to a destination that has
    /// been deleted.
    #[inline(always)]
    fn account<P: Forward>(
        &mut self,
        (index, entry): (Index, &Entry),
        direction: Direction,
        packet: &P,
        now: Tick,
    ) -> bool {
        let destination = entry.destination();
        let tally = self.tallies.of(destination);
        match direction {
            Direction::ToServer if tally.is_gone() => return false,
            Direction::ToServer => tally.count_in(packet.length()),
            Direction::ToClient => tally.count_out(packet.length()),
        }
        entry.seen(now);
        let Snapshot { timeouts, defence, .. } = self.snapshot.current();
        if entry.life().may_change(direction, packet.flags())
            && let Some((from, to)) =
                self.connections.step(index, direction, packet.flags(), (timeouts, defence.secure_tcp), now)
        {
            self.destinations.moved(destination, from, to);
        }
        true
    }

    /// The rest of the way for a packet of a connection of which none has gone this way since the network last changed.
    #[inline(never)]
    fn forward_first<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        packet: &P,
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        let network = &self.snapshot.current().network;
        let to = packet.next(table, entry, direction).into();
        let way = self.egress.way(to, Some(direction), network);
        if way == Err(Unreachable::NoRoute) && network.is_local(to) && direction == Direction::ToServer {
            return self.forward_to_linux(table, (frame, port), &packet.any(), entry);
        }
        let sent = match packet.forward(frame.data_mut(), table, entry, direction) {
            Err(reason) => return self.refuse(frame, (&packet.any(), direction), reason, now),
            Ok(_) => self.egress.send_by(way, frame, to, Some((entry, direction)), network, now),
        };
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// The rest of it for methods that take more than the frame's bytes, or none of them.
    #[inline(always)]
    fn forward_frame<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        packet: &P,
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) {
        match entry.method() {
            Method::FullNat | Method::Snat => {
                self.forward_by_fullnat(table, frame, packet, (entry, direction), now)
            }
            Method::Tunnel => self.forward_by_tunnel((frame, port), &packet.any(), entry, now),
            Method::Bypass => self.forward_past(table, frame, &packet.any(), entry, now),
            _ => self.forward_to_linux(table, (frame, port), &packet.any(), entry),
        }
    }
}

/// How far a packet of a burst has come on the way to its connection.
#[derive(Clone, Copy)]
struct Lookup<P> {
    packet: P,
    hash: Hash,
    candidate: Candidate,
}

type Lookups<P> = ArrayVec<Lookup<P>, BURST>;

/// Asks for the server's side of the burst's connections. A stage of its own, as each entry has to be there for it.
#[inline(never)]
fn prefetch_insides<P>(lookups: &Lookups<P>, table: &ConnectionTable) {
    for lookup in lookups {
        table.prefetch_inside(lookup.candidate);
    }
}

impl<P: IpPacket> Lookup<P> {
    #[inline]
    fn begin(packet: P, table: &ConnectionTable) -> Self {
        let hash = table.hash(packet.flow());
        table.prefetch_bucket(hash);
        Self { packet, hash, candidate: Candidate::NONE }
    }

    #[cold]
    #[inline(never)]
    fn begin_unusual<F: Frame>(lookups: &mut Lookups<P>, frame: &F, mac: MacAddr, table: &ConnectionTable) {
        lookups.push(Self::begin(P::in_frame(frame, mac), table));
    }
}

#[cfg(test)]
mod tests;
