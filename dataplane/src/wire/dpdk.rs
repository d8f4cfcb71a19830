//! A queue pair of a DPDK port as a wire.

use std::ops::Range;

use dpdk_sys::{Mbuf, RxQueue, TxQueue};

use super::{Burst, Frame, Wire};

impl Frame for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        Mbuf::data(self)
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        Mbuf::data_mut(self)
    }

    #[inline]
    fn len(&self) -> usize {
        Mbuf::len(self)
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        // What it gives is the new bytes alone.
        Mbuf::prepend(self, n)?;
        Some(Mbuf::data_mut(self))
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> bool {
        self.adj(n).is_some()
    }

    fn truncate(&mut self, length: usize) -> bool {
        let beyond = Mbuf::len(self).saturating_sub(length);
        beyond == 0 || self.trim(beyond)
    }

    fn copy(&self, bytes: Range<usize>) -> Option<Self> {
        let mut copy = self.sibling()?;
        let mut start = 0;
        for segment in self.segments() {
            let end = start + segment.len();
            let part = bytes.start.max(start)..bytes.end.min(end);
            if !part.is_empty() && !copy.extend_from_slice(&segment[part.start - start..part.end - start]) {
                return None;
            }
            start = end;
        }
        (Mbuf::len(&copy) == bytes.len()).then_some(copy)
    }

    #[inline]
    fn prefetch(&self) {
        Mbuf::prefetch(self);
    }
}

/// A receive queue and a transmit queue of one port.
#[derive(Debug)]
pub struct DpdkWire {
    rx: RxQueue,
    tx: TxQueue,
    is_bond: bool,
}

impl DpdkWire {
    /// The wire of these queues, of one port.
    pub fn new(rx: RxQueue, tx: TxQueue) -> Self {
        Self { rx, tx, is_bond: false }
    }

    /// The wire of these queues, of a port that is a bond of others. Its driver speaks LACP while it is asked to send, and must be asked
    /// ten times a second, be it for nothing.
    pub fn of_bond(rx: RxQueue, tx: TxQueue) -> Self {
        Self { rx, tx, is_bond: true }
    }
}

impl Wire for DpdkWire {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        self.rx.burst(burst);
        if self.is_bond {
            self.tx.burst(&mut Burst::new());
        }
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<Mbuf>) {
        self.tx.burst(burst);
    }
}
