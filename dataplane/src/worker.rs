//! A worker: one thread on one core that takes bursts of frames from its queues and sees each through to its end.
//!
//! No lock, no allocation, no log line and no system call on the packet's way; time is given by the caller.

use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use crate::conn::entry::Entry;
use crate::conn::key::Key;
use crate::conn::table::{Candidate, Found, Hash};
use crate::conn::{ConnectionTable, Connections, Direction, Method};
use crate::counters::{Verdict, WorkerCounters};
use crate::destination::{Destinations, Tallies};
use crate::egress::{self, Egress, Ports};
use crate::forward::forward;
use crate::network::{MacAddr, PortId};
use crate::packet::ethernet;
use crate::packet::tcp::Flags;
use crate::parse::{self, Packet};
use crate::snapshot::{Resolve, Snapshot, Subscriber};
use crate::time::Tick;
use crate::wire::{BURST, Burst, Frame, Wire};

mod admit;
mod errors;
mod persist;
mod refuse;
mod sweep;
mod tunnel;
mod v6;

use errors::Errors;
use sweep::Sweep;
use tunnel::Identifications;

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
    identifications: Identifications,
    /// IPv6 frames of the burst that is being balanced.
    ipv6: Burst<W::Frame>,
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
        let identifications = Identifications::new(number, destinations.workers());
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
            ipv6: Burst::new(),
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
        self.counters.received(burst.len());
        let mac = self.macs[usize::from(port.0)];
        let mut lookups = ArrayVec::<_, BURST>::new();

        burst.iter().for_each(Frame::prefetch);
        for frame in burst.iter() {
            match parse::plain(frame, mac) {
                Some(packet) => lookups.push(Lookup::begin(packet, packet.flow, table)),
                None => Lookup::begin_unusual(&mut lookups, frame, mac, table),
            }
        }
        for lookup in &mut lookups {
            lookup.candidate = table.candidate(lookup.hash);
        }
        for (frame, Lookup { packet, candidate, .. }) in burst.drain(..).zip(&lookups) {
            match self.connection(table, &frame, port, packet, *candidate, now) {
                Ok((found, entry)) => self.forward(table, (frame, port), packet, found, entry, now),
                Err(verdict) => self.finish(verdict, port, frame, packet, now),
            }
        }
        if !self.ipv6.is_empty() {
            self.balance_ipv6(table, port, now);
        }
    }

    /// The connection the packet belongs to: one there is, or a new one where it may open one.
    #[inline]
    fn connection<'t>(
        &mut self,
        table: &'t ConnectionTable,
        frame: &W::Frame,
        port: PortId,
        packet: &Packet,
        candidate: Candidate,
        now: Tick,
    ) -> Result<(Found, &'t Entry), Verdict> {
        // A SYN may be that of a new connection, also where there is an old one. What is no packet has no candidate.
        match table.confirm(candidate, packet.flow) {
            Some(found) if !packet.flags.any(Flags::SYN) => Ok(found),
            _ if packet.is_some() => {
                let found = self.search(table, packet.flow, &packet.into(), (frame.data(), port), now)?;
                Ok((found, table.entry(found.index)))
            }
            _ => Err(self.refuse(frame, self.macs[usize::from(port.0)])),
        }
    }

    /// Counts the packet, moves its connection on, changes what its forwarding method changes, and sends it.
    // A call of its own would cost each packet what it takes to hand all this over.
    #[inline(always)]
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
        if entry.method() == Method::Tunnel {
            return self.forward_by_tunnel(frame, &packet.into(), entry, now);
        }
        let data = frame.data_mut();
        let sent = match forward(data, packet, entry, direction) {
            Err(reason) => Err(reason),
            Ok(to) => match egress::adjacency(entry, direction, network) {
                Some(adjacency) => {
                    ethernet::set_addresses(data, adjacency.addresses());
                    self.egress.queue(frame, adjacency.port())
                }
                None => self.egress.resolve(
                    frame,
                    Ipv4Addr::from(to).into(),
                    Some((entry, direction)),
                    network,
                    now,
                ),
            },
        };
        if let Err(reason) = sent {
            self.counters.dropped(reason);
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

/// How far a packet of a burst has come on the way to its connection.
#[derive(Clone, Copy)]
struct Lookup<P> {
    packet: P,
    hash: Hash,
    candidate: Candidate,
}

impl<P> Lookup<P> {
    /// Of a packet of this flow.
    #[inline]
    fn begin(packet: P, flow: impl Key, table: &ConnectionTable) -> Self {
        let hash = table.hash(flow);
        table.prefetch_bucket(hash);
        Self { packet, hash, candidate: Candidate::NONE }
    }
}

impl Lookup<Packet> {
    #[cold]
    #[inline(never)]
    fn begin_unusual<F: Frame>(
        lookups: &mut ArrayVec<Self, BURST>,
        frame: &F,
        mac: MacAddr,
        table: &ConnectionTable,
    ) {
        let packet = parse::unusual(frame, mac);
        lookups.push(Self::begin(packet, packet.flow, table));
    }
}

#[cfg(test)]
mod tests;
