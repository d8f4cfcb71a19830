//! VLANs at the worker: ports without a wire of their own, whose frames travel by another port with tags in front of their type. A
//! received frame has its tags taken out and is then balanced as one that its VLAN's port has received; one that is sent gets them at the
//! [egress](crate::egress). Nothing in between knows of tags.
//!
//! The priority and the drop eligible bit that a frame comes with end here, as they do at a Linux router: it goes on with the priority
//! of the VLAN that it leaves by.

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use super::{Balancer, Kernel};
use crate::conn::ConnectionTable;
use crate::counters::{Drop, Verdict};
use crate::network::{MacAddr, PortId};
use crate::packet::vlan::{self, Received, Tags, VlanId};
use crate::time::Tick;
use crate::wire::{BURST, Burst, Frame, Wire};

/// A VLAN as one worker has it.
pub struct Vlan<F> {
    /// The port by which its frames come and go.
    pub port: PortId,
    /// Which of them are its.
    pub id: VlanId,
    /// What those that are sent have in front of their type.
    pub tags: Tags,
    /// Its own address: that of the port.
    pub mac: MacAddr,
    /// The longest IP packet it sends, in bytes.
    pub mtu: u16,
    /// The way to Linux, where it has a kernel interface.
    pub kernel: Option<Kernel<F>>,
}

/// The VLANs of one worker.
pub(super) struct Vlans<F> {
    ids: HashMap<(PortId, VlanId), PortId>,
    /// Frames of the burst that is being balanced, whose tags have been taken out, and where they are received.
    untagged: ArrayVec<(PortId, F), BURST>,
}

impl<F> Default for Vlans<F> {
    fn default() -> Self {
        Self { ids: HashMap::new(), untagged: ArrayVec::new() }
    }
}

impl<F: Frame> Vlans<F> {
    /// True while there are frames to be balanced whose tags have been taken out.
    #[inline]
    pub(super) fn has_untagged(&self) -> bool {
        !self.untagged.is_empty()
    }

    /// Appends to `burst` those of one VLAN, in their order, and gives its port.
    #[cold]
    #[inline(never)]
    pub(super) fn take(&mut self, burst: &mut Burst<F>) -> PortId {
        let first = self.untagged.first().map_or(PortId(0), |(port, _)| *port);
        for (port, frame) in std::mem::take(&mut self.untagged) {
            // There is room for all: these are the frames of one burst.
            match port == first {
                true => burst.push(frame),
                false => self.untagged.push((port, frame)),
            }
        }
        first
    }

    /// Where a frame is received that comes by a port, and how many of its tags say so; `None` where that is for Linux to know.
    fn place(&self, frame: &F, port: PortId) -> Result<Option<(PortId, usize)>, Drop> {
        let received = Received::read(frame.data()).ok_or(Drop::Truncated)?;
        let place = received.candidates().find_map(|(id, tags)| {
            // Without a VLAN it is the port's own.
            let at = id.map_or(Some(port), |id| self.ids.get(&(port, id)).copied())?;
            Some((at, tags))
        });
        Ok(place)
    }
}

impl<W: Wire> Balancer<W> {
    pub(super) fn add_vlan(&mut self, vlan: Vlan<W::Frame>) {
        let Vlan { port, id, tags, mac, mtu, kernel } = vlan;
        self.vlans.ids.insert((port, id), PortId(self.macs.len() as u16));
        self.macs.push(mac);
        self.kernels.push(kernel);
        self.egress.add_vlan(port, tags, mtu);
    }

    /// Takes the tags out of a frame and keeps it until the others of its burst are done. One of a VLAN that is not known here goes
    /// to Linux as it came.
    pub(super) fn untag(&mut self, mut frame: W::Frame, port: PortId) {
        match self.vlans.place(&frame, port) {
            Ok(Some((at, tags))) if vlan::pop(&mut frame, tags) => {
                if let Err(full) = self.vlans.untagged.try_push((at, frame)) {
                    // Does not come about: these are the frames of one burst.
                    self.dispose(Verdict::Drop(Drop::KernelQueueFull), port, full.element().1);
                }
            }
            Ok(_) => self.dispose(Verdict::ToKernel, port, frame),
            Err(reason) => self.counters.dropped(reason),
        }
    }

    /// Sends a burst of what Linux has for each VLAN.
    pub(super) fn send_from_kernel_to_vlans(&mut self, table: &ConnectionTable, now: Tick) {
        for vlan in self.wires.len()..self.kernels.len() {
            self.send_from_kernel(table, PortId(vlan as u16), now);
        }
    }
}
