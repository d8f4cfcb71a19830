//! A queue pair of a DPDK port as a wire.

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
}

impl DpdkWire {
    /// The wire of these queues, of one port.
    pub fn new(rx: RxQueue, tx: TxQueue) -> Self {
        Self { rx, tx }
    }
}

impl Wire for DpdkWire {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        self.rx.burst(burst);
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<Mbuf>) {
        self.tx.burst(burst);
    }
}
