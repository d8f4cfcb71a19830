//! A worker's ends of a port: packets in, packets out. A queue must never be used by two threads at once, which its only
//! owner cannot do.

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::burst::{add_len, keep_from, take_raw, vacant};
use crate::mbuf::Mbuf;
use crate::port::{OpenPort, PortId};
use crate::raw;

/// All queues of a port, each in the order of its number.
#[derive(Debug)]
pub struct Queues {
    /// From the device.
    pub rx: Vec<RxQueue>,
    /// To the device.
    pub tx: Vec<TxQueue>,
}

/// A receive queue. It keeps its port open and started.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    queue: u16,
    _open: Arc<OpenPort>,
}

/// A transmit queue. It keeps its port open and started.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    queue: u16,
    _open: Arc<OpenPort>,
}

impl RxQueue {
    /// The port must be started, have this queue, and have no other owner for it. (Not `unsafe`: one caller, `Port`.)
    pub(crate) fn new(open: &Arc<OpenPort>, queue: u16) -> Self {
        Self { port: open.id().number(), queue, _open: Arc::clone(open) }
    }

    /// The port it belongs to.
    pub fn port(&self) -> PortId {
        PortId::new(self.port)
    }

    /// Its number, from 0.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Adds the packets that have arrived to `burst` (a [`Burst`](crate::Burst), or an array of the caller's own), as many as
    /// it has room for, and returns how many they are. Does not wait. Give it an empty one: many drivers receive in fours or
    /// eights and return nothing for less room.
    #[inline]
    pub fn burst<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let room = u16::try_from(burst.remaining_capacity()).unwrap_or(u16::MAX);
        // SAFETY: the port is started and has this queue, for it is stopped only when no queue holds `_open`; `&mut self` of the
        // only RxQueue for it makes this the only thread receiving. The driver writes at most `room` mbufs, for which
        // there is room, and hands each over with its only reference.
        unsafe {
            let received = raw::shim_rx_burst(self.port, self.queue, vacant(burst), room).into();
            add_len(burst, received);
            received
        }
    }
}

impl TxQueue {
    /// The port must be started, have this queue, and have no other owner for it. (Not `unsafe`: one caller, `Port`.)
    pub(crate) fn new(open: &Arc<OpenPort>, queue: u16) -> Self {
        Self { port: open.id().number(), queue, _open: Arc::clone(open) }
    }

    /// The port it belongs to.
    pub fn port(&self) -> PortId {
        PortId::new(self.port)
    }

    /// Its number, from 0.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Gives the packets to the device, from the first on, and returns how many it took. The others stay in `burst`, in
    /// order: call again, or clear it to drop them. Does not wait.
    #[inline]
    pub fn burst<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let (mbufs, len) = take_raw(burst);
        let offered = u16::try_from(len).unwrap_or(u16::MAX);
        // SAFETY: the port is started and has this queue, for it is stopped only when no queue holds `_open`; `&mut self` of the
        // only TxQueue for it makes this the only thread sending. The first `len` mbufs are ours; the driver takes exactly
        // the `sent` first ones, and from `sent` on they are still ours.
        unsafe {
            let sent = raw::shim_tx_burst(self.port, self.queue, mbufs, offered).into();
            keep_from(burst, sent, len as usize);
            sent
        }
    }
}
