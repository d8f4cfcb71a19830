//! Egress: from the address a packet goes on to, to a frame on a port: route, neighbour, frame header, transmit queue.
//!
//! A packet whose neighbour is not resolved waits, for a second at most and not too many of them; nothing is ever sent to
//! a neighbour that is unknown.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::conn::Direction;
use crate::conn::entry::Entry;
use crate::counters::{Drop, WorkerCounters};
use crate::network::{Adjacency, Network, PortId, Unreachable};
use crate::packet::ethernet;
use crate::snapshot::Resolve;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::wire::{Burst, Frame, Wire};

/// The most packets of one worker that wait for neighbours. Linux lets about 100 wait for each; this is for all of them.
const WAITING: usize = 512;

/// The most packets tried again in one round, so that the next burst is not long in coming.
const RETRIES: usize = 64;

/// How long a packet waits: as long as Linux takes between two requests (retrans_time).
const PATIENCE: u32 = TICKS_PER_SECOND;

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

/// One worker's way out.
pub(crate) struct Egress<F> {
    ports: Vec<Out<F>>,
    waiting: VecDeque<Waiting<F>>,
    /// How many of those waiting have not been tried again since the network last changed.
    untried: usize,
    requests: Arc<ArrayQueue<Resolve>>,
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
        Self {
            ports: mtus
                .iter()
                .map(|mtu| Out { longest: ethernet::HEADER + usize::from(*mtu), frames: Burst::new() })
                .collect(),
            waiting: VecDeque::with_capacity(WAITING),
            untried: 0,
            requests,
        }
    }

    /// The longest IP packet that a port sends, in bytes; 0 for a port there is none of.
    #[inline]
    pub(crate) fn mtu(&self, port: PortId) -> usize {
        self.ports.get(usize::from(port.0)).map_or(0, |port| port.longest - ethernet::HEADER)
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
        match network.resolve(to) {
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
        self.queue(frame, adjacency.port())
    }

    /// Sends `frame`, which has its frame header, from `port` with the next [`Egress::flush`], which must come before another
    /// burst.
    #[inline]
    pub(crate) fn queue(&mut self, frame: F, port: PortId) -> Result<(), Drop> {
        let Out { longest, frames } = self.ports.get_mut(usize::from(port.0)).ok_or(Drop::NoRoute)?;
        if frame.len() > *longest {
            return Err(Drop::TooBig);
        }
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
        for (port, Out { frames, .. }) in self.ports.iter_mut().enumerate() {
            if !frames.is_empty() {
                ports.flush(PortId(port as u16), frames);
            }
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
