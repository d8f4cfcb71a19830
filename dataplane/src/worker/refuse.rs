//! What becomes of frames that are not forwarded: Linux gets them, or they are dropped for a reason, and a client whose
//! connection nobody takes is told so.

use std::net::Ipv4Addr;

use super::Balancer;
use crate::counters::{Drop, Verdict};
use crate::network::{MacAddr, PortId};
use crate::packet::icmp;
use crate::parse::{Packet, Parsed, parse};
use crate::time::Tick;
use crate::wire::Wire;

impl<W: Wire> Balancer<W> {
    /// What is to become of a frame that is no packet for the balancer.
    #[cold]
    pub(super) fn refuse(&self, frame: &W::Frame, mac: MacAddr) -> Verdict {
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
    pub(super) fn finish(
        &mut self,
        verdict: Verdict,
        port: PortId,
        frame: W::Frame,
        packet: &Packet,
        now: Tick,
    ) {
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
        if let Err(reason) = egress.send_single(frame, Ipv4Addr::from(client).into(), &snapshot.current().network, now) {
            counters.dropped(reason);
        }
    }
}
