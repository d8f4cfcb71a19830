//! Egress: from the address a packet goes on to, to a frame on a port: route, neighbour, frame header, transmit queue.
//!
//! A packet whose neighbour is not resolved waits, for a second at most and not too many of them; nothing is ever sent to
//! a neighbour that is unknown.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::conn::Direction;
use crate::conn::entry::Entry;
use crate::counters::{Drop, WorkerCounters};
use crate::network::{Adjacency, AdjacencyId, Network, PortId, Unreachable};
use crate::packet::ethernet;
use crate::packet::vlan::Tags;
use crate::snapshot::Resolve;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::wire::{Burst, Frame, Wire};

/// The most packets of one worker that wait for neighbours. Linux lets about 100 wait for each; this is for all of them.
const WAITING: usize = 512;

/// The most packets tried again in one round, so that the next burst is not long in coming.
const RETRIES: usize = 64;

/// How long a packet waits: as long as Linux takes between two requests (retrans_time).
const PATIENCE: u32 = TICKS_PER_SECOND;

/// How many servers' adjacencies are kept, as a power of two.
const RECENT_BITS: u32 = 8;

/// Adjacencies that new connections' servers were found to have. There are few servers and many connections to each, and a look at the
/// routes and then at the neighbours takes as long as all else that opening a connection does.
struct Recent([Known; 1 << RECENT_BITS]);

#[derive(Clone, Copy)]
struct Known {
    /// Of the network in which it was looked up; 0, which no network has, where nothing was.
    generation: u32,
    id: AdjacencyId,
    to: IpAddr,
}

impl Recent {
    fn new() -> Self {
        let nothing = Known { generation: 0, id: AdjacencyId(0), to: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        Self([nothing; 1 << RECENT_BITS])
    }

    /// Where what is known of this address is kept. One that comes to the same place takes it over.
    #[inline]
    fn place(&mut self, to: IpAddr) -> &mut Known {
        let word = match to {
            IpAddr::V4(to) => u64::from(u32::from(to)),
            IpAddr::V6(to) => {
                let number = u128::from(to);
                (number >> 64) as u64 ^ (number as u64).rotate_left(29)
            }
        };
        // Fibonacci hashing.
        let place = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - RECENT_BITS);
        &mut self.0[place as usize % (1 << RECENT_BITS)]
    }

    /// As [`Network::resolve`]. In one generation a destination has one id, so that what was found out once holds, and only
    /// whether the neighbour is resolved is to be looked at again.
    #[inline]
    fn resolve(&mut self, to: IpAddr, network: &Network) -> Result<AdjacencyId, Unreachable> {
        let known = self.place(to);
        let is_it = known.generation == network.generation() && known.to == to;
        if is_it && network.adjacency(known.id).is_some() {
            return Ok(known.id);
        }
        let id = network.resolve(to)?;
        *known = Known { generation: network.generation(), id, to };
        Ok(id)
    }
}

struct Waiting<F> {
    frame: F,
    /// The address it goes on to.
    to: IpAddr,
    since: Tick,
}

/// A port, from the inside.
struct Out<F> {
    /// The longest frame it sends, in bytes without the frame check sequence.
    longest: usize,
    /// What leaves at the end of the burst.
    frames: Burst<F>,
}

/// A VLAN on its way to the wire.
struct Trunk {
    /// The port by which it leaves.
    port: PortId,
    tags: Tags,
    /// How many of the frames that wait for the wire have their tags already.
    tagged: usize,
}

/// One worker's way out.
pub(crate) struct Egress<F> {
    /// The ports that have wires, and after them the VLANs.
    ports: Vec<Out<F>>,
    /// The VLANs, the first one that of the first port without a wire.
    trunks: Vec<Trunk>,
    /// The longest frame that every port sends, in bytes without the frame check sequence.
    shortest: usize,
    waiting: VecDeque<Waiting<F>>,
    /// How many of those waiting have not been tried again since the network last changed.
    untried: usize,
    requests: Arc<ArrayQueue<Resolve>>,
    recent: Box<Recent>,
}

/// Where packets of the connection `entry` go on to, as far as that is known from an earlier one.
#[inline]
pub(crate) fn adjacency<'n>(
    entry: &Entry,
    direction: Direction,
    network: &'n Network,
) -> Option<&'n Adjacency> {
    network.adjacency(entry.adjacency(direction, network.generation())?)
}

impl<F: Frame> Egress<F> {
    /// For ports of these MTUs. What is unresolved is asked for in `requests`.
    pub(crate) fn new(mtus: &[u16], requests: Arc<ArrayQueue<Resolve>>) -> Self {
        let longest = |mtu: &u16| ethernet::HEADER + usize::from(*mtu);
        Self {
            ports: mtus.iter().map(|mtu| Out { longest: longest(mtu), frames: Burst::new() }).collect(),
            shortest: mtus.iter().map(longest).min().unwrap_or_default(),
            trunks: Vec::new(),
            waiting: VecDeque::with_capacity(WAITING),
            untried: 0,
            requests,
            recent: Box::new(Recent::new()),
        }
    }

    /// Adds a VLAN: one more port, whose frames leave by another one, with these tags.
    pub(crate) fn add_vlan(&mut self, port: PortId, tags: Tags, mtu: u16) {
        let longest = ethernet::HEADER + usize::from(mtu);
        self.ports.push(Out { longest, frames: Burst::new() });
        self.trunks.push(Trunk { port, tags, tagged: 0 });
        self.shortest = self.shortest.min(longest);
    }

    /// The port by which a VLAN's frames leave, and their tags; `None` for a port that has a wire.
    pub(crate) fn trunk(&self, vlan: PortId) -> Option<(PortId, &Tags)> {
        let number = usize::from(vlan.0).checked_sub(self.ports.len() - self.trunks.len())?;
        self.trunks.get(number).map(|trunk| (trunk.port, &trunk.tags))
    }

    /// The longest IP packet that a port sends, in bytes; 0 for a port there is none of.
    #[inline]
    pub(crate) fn mtu(&self, port: PortId) -> usize {
        self.ports.get(usize::from(port.0)).map_or(0, |port| port.longest - ethernet::HEADER)
    }

    /// True for the length of a frame that not every port sends.
    #[inline]
    pub(crate) fn is_long(&self, length: usize) -> bool {
        length > self.shortest
    }

    /// The least of all ports' MTUs, in bytes.
    pub(crate) fn least_mtu(&self) -> usize {
        self.shortest.saturating_sub(ethernet::HEADER)
    }

    /// True where so many frames may be sent before the next [`Egress::flush`], by whatever port.
    pub(crate) fn has_room(&self, frames: usize) -> bool {
        self.ports.iter().all(|port| port.frames.remaining_capacity() >= frames)
    }

    /// Sends `frame`, which is of the connection `entry`, on to the address that `to` gives, with the next [`Egress::flush`],
    /// which must come before another burst.
    #[inline]
    pub(crate) fn send(
        &mut self,
        frame: F,
        to: impl FnOnce() -> IpAddr,
        (entry, direction): (&Entry, Direction),
        network: &Network,
        now: Tick,
    ) -> Result<(), Drop> {
        match adjacency(entry, direction, network) {
            Some(adjacency) => self.transmit(frame, adjacency),
            None => self.resolve(frame, to(), Some((entry, direction)), network, now),
        }
    }

    /// Sends a frame of no connection on to the address `to`.
    pub(crate) fn send_single(
        &mut self,
        frame: F,
        to: IpAddr,
        network: &Network,
        now: Tick,
    ) -> Result<(), Drop> {
        self.resolve(frame, to, None, network, now)
    }

    /// Sends `frame` on to the address `to`: for a connection without a [known adjacency](adjacency), because nothing of it has
    /// been sent since the network last changed, or for none.
    #[inline(never)]
    pub(crate) fn resolve(
        &mut self,
        frame: F,
        to: IpAddr,
        connection: Option<(&Entry, Direction)>,
        network: &Network,
        now: Tick,
    ) -> Result<(), Drop> {
        let way = self.way(to, connection.map(|(_, direction)| direction), network);
        self.send_by(way, frame, to, connection, network, now)
    }

    /// What the network [says](Network::resolve) of the address to which a packet of a connection goes on in this direction, or one of none.
    #[inline]
    pub(crate) fn way(
        &mut self,
        to: IpAddr,
        direction: Option<Direction>,
        network: &Network,
    ) -> Result<AdjacencyId, Unreachable> {
        match direction {
            Some(Direction::ToServer) => self.recent.resolve(to, network),
            // Clients are many, and come back seldom.
            _ => network.resolve(to),
        }
    }

    /// The same where it is known what the network [says](Network::resolve) of that address.
    // Once a connection and direction: a call would cost more than it saves.
    #[inline(always)]
    pub(crate) fn send_by(
        &mut self,
        way: Result<AdjacencyId, Unreachable>,
        frame: F,
        to: IpAddr,
        connection: Option<(&Entry, Direction)>,
        network: &Network,
        now: Tick,
    ) -> Result<(), Drop> {
        match way {
            Ok(id) => {
                if let Some((entry, direction)) = connection {
                    entry.set_adjacency(direction, network.generation(), id);
                }
                let adjacency = network.adjacency(id).ok_or(Drop::NoRoute)?;
                self.transmit(frame, adjacency)
            }
            Err(Unreachable::NoRoute) => Err(Drop::NoRoute),
            Err(Unreachable::Unresolved { port, neighbour }) => {
                if self.waiting.len() == WAITING {
                    return Err(Drop::NeighbourQueueFull);
                }
                // Where the queue of requests is full, the same is being asked for already, or is asked for again
                // with the next packet.
                let _ = self.requests.push(Resolve { port, neighbour });
                self.waiting.push_back(Waiting { frame, to, since: now });
                Ok(())
            }
        }
    }

    fn transmit(&mut self, mut frame: F, adjacency: &Adjacency) -> Result<(), Drop> {
        ethernet::set_addresses(frame.data_mut(), adjacency.addresses());
        if self.is_long(frame.len()) && frame.len() > ethernet::HEADER + self.mtu(adjacency.port()) {
            return Err(Drop::TooBig);
        }
        self.queue(frame, adjacency.port())
    }

    /// Sends `frame`, which has its frame header and is not [long](Egress::is_long), from `port` with the next [`Egress::flush`], which
    /// must come before another burst.
    #[inline]
    pub(crate) fn queue(&mut self, frame: F, port: PortId) -> Result<(), Drop> {
        let Out { frames, .. } = self.ports.get_mut(usize::from(port.0)).ok_or(Drop::NoRoute)?;
        frames.try_push(frame).map_err(|_| Drop::TxFull)
    }

    /// The network has changed: something may be known now that was not.
    #[inline]
    pub(crate) fn network_changed(&mut self) {
        self.untried = self.waiting.len();
    }

    /// True while a packet is to be tried again, or the one that has waited longest has waited too long.
    #[inline]
    pub(crate) fn has_retries(&self, now: Tick) -> bool {
        let is_overdue = |oldest: &Waiting<F>| now.since(oldest.since) > PATIENCE as i32;
        self.untried > 0 || self.waiting.front().is_some_and(is_overdue)
    }

    /// Tries some of what waits again, and gives up what has waited too long.
    pub(crate) fn retry<W: Wire<Frame = F>>(
        &mut self,
        network: &Network,
        ports: &mut Ports<'_, W>,
        now: Tick,
    ) {
        for _ in 0..self.waiting.len().min(RETRIES) {
            let Some(Waiting { frame, to, since }) = self.waiting.pop_front() else { break };
            self.untried = self.untried.saturating_sub(1);
            let adjacency = network.resolve(to).ok().and_then(|id| network.adjacency(id));
            let outcome = match adjacency {
                Some(adjacency) => {
                    if self.ports.iter().any(|port| port.frames.is_full()) {
                        self.flush(ports);
                    }
                    self.transmit(frame, adjacency)
                }
                None if now.since(since) > PATIENCE as i32 => Err(Drop::NeighbourTimeout),
                None => {
                    self.waiting.push_back(Waiting { frame, to, since });
                    Ok(())
                }
            };
            if let Err(reason) = outcome {
                ports.counters.dropped(reason);
            }
        }
    }

    /// Hands every port what is for it. What its queue does not take now is tried again after the next burst.
    #[inline]
    pub(crate) fn flush<W: Wire<Frame = F>>(&mut self, ports: &mut Ports<'_, W>) {
        for (port, Out { frames, .. }) in self.ports.iter_mut().enumerate().take(ports.wires.len()) {
            if !frames.is_empty() {
                ports.flush(PortId(port as u16), frames);
            }
        }
        if !self.trunks.is_empty() {
            self.flush_vlans(ports);
        }
    }

    #[inline(never)]
    fn flush_vlans<W: Wire<Frame = F>>(&mut self, ports: &mut Ports<'_, W>) {
        let first = self.ports.len() - self.trunks.len();
        for (Out { frames, .. }, trunk) in self.ports[first..].iter_mut().zip(&mut self.trunks) {
            if frames.is_empty() {
                continue;
            }
            let before = frames.len();
            let mut number = 0;
            frames.retain(|frame| {
                number += 1;
                number <= trunk.tagged || trunk.tags.push(frame)
            });
            for _ in frames.len()..before {
                ports.counters.dropped(Drop::NoHeadroom);
            }
            ports.flush(trunk.port, frames);
            trunk.tagged = frames.len();
        }
    }
}

/// The wires to send on, and where to count what was sent.
pub(crate) struct Ports<'a, W> {
    pub(crate) wires: &'a mut [W],
    pub(crate) counters: &'a WorkerCounters,
}

impl<W: Wire> Ports<'_, W> {
    #[inline]
    fn flush(&mut self, port: PortId, out: &mut Burst<W::Frame>) {
        let before = out.len();
        if let Some(wire) = self.wires.get_mut(usize::from(port.0)) {
            wire.send(out);
        }
        self.counters.forwarded(before - out.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{MacAddr, NextHop};
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    /// So many that some meet in a place.
    const ADDRESSES: u32 = 60;

    fn address(n: u32) -> IpAddr {
        if n.is_multiple_of(2) {
            Ipv4Addr::from(0xc000_0200 + n).into()
        } else {
            Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n)).into()
        }
    }

    #[test]
    fn some_addresses_share_a_place() {
        let mut recent = Recent::new();
        let mut places: Vec<_> =
            (0..ADDRESSES).map(|n| std::ptr::from_ref(recent.place(address(n)))).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() < ADDRESSES as usize);
    }

    proptest! {
        #[test]
        fn what_was_found_out_before_is_what_the_network_says(
            steps in prop::collection::vec((0..5_u8, 0..ADDRESSES, 0..2_u16), 1..100),
        ) {
            let (mut network, mut recent) = (Network::default(), Recent::new());
            for (what, n, port) in steps {
                let port = PortId(port);
                match what {
                    0 | 1 => {
                        let gateway = |family: u32| (what == 0).then(|| address(n / 2 * 2 + family));
                        let hop = |family| Some(NextHop { port, gateway: gateway(family) });
                        let v4 = ("192.0.2.0/24".parse().unwrap(), hop(0));
                        network.set_routes([v4, ("2001:db8::/32".parse().unwrap(), hop(1))]);
                    }
                    2 => {
                        let mac = MacAddr([2, 0, 0, 0, 0, n as u8]);
                        network.set_neighbour(address(n), Adjacency::new(port, MacAddr::default(), mac));
                    }
                    3 => network.clear_neighbour(port, address(n)),
                    _ => network.compact(),
                }
                for to in (0..ADDRESSES).map(address) {
                    prop_assert_eq!(recent.resolve(to, &network), network.resolve(to));
                }
            }
        }
    }
}
