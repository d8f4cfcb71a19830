//! What becomes of frames that are not forwarded: Linux gets them, or they are dropped for a reason, and a client whose
//! connection nobody takes is told so.

use std::net::{IpAddr, Ipv4Addr};

use super::Balancer;
use crate::counters::{Drop, Verdict};
use crate::network::{MacAddr, PortId};
use crate::packet::{ethernet, icmp, icmpv6};
use crate::parse::{self, AnyFlow, AnyPacket, Packet, Parsed, parse};
use crate::time::Tick;
use crate::wire::{Frame, Wire};

impl<W: Wire> Balancer<W> {
    /// What is to become of a frame that is no packet for the balancer.
    #[cold]
    pub(super) fn refuse(&self, frame: &W::Frame, mac: MacAddr) -> Verdict {
        match parse(frame, mac) {
            Parsed::Other(verdict) => verdict,
            Parsed::Fragment { destination } => self.refuse_fragment(Ipv4Addr::from(destination).into()),
            Parsed::Packet(_) => Verdict::ToKernel,
        }
    }

    /// What is to become of a fragment, which has no ports to look up.
    pub(super) fn refuse_fragment(&self, destination: IpAddr) -> Verdict {
        // Linux must not get one that is for a service: it would answer that nobody listens.
        if self.snapshot.current().services.is_virtual(destination) {
            Verdict::Drop(Drop::Fragment)
        } else {
            Verdict::ToKernel
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
            return self.tell_unreachable(frame, &packet.into(), now);
        }
        if !packet.is_some() && parse::is_ipv6(&frame, self.macs[usize::from(port.0)]) {
            // There is room for it: these are the frames of one burst.
            if let Err(full) = self.ipv6.try_push(frame) {
                self.dispose(verdict, port, full.element());
            }
            return;
        }
        self.dispose(verdict, port, frame);
    }

    /// Gives the frame to Linux, or drops it.
    pub(super) fn dispose(&mut self, verdict: Verdict, port: PortId, frame: W::Frame) {
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
    pub(super) fn tell_unreachable(&mut self, mut frame: W::Frame, packet: &AnyPacket, now: Tick) {
        let (client, _) = packet.flow.source();
        let Self { errors, egress, snapshot, counters, .. } = self;
        if !errors.take(client, now) || !make_unreachable(&mut frame, packet, errors.identification()) {
            return counters.dropped(Drop::NoDestination);
        }
        counters.unreachable();
        if let Err(reason) = egress.send_single(frame, client, &snapshot.current().network, now) {
            counters.dropped(reason);
        }
    }
}

/// Makes of the packet's frame the error that nobody is at its port. False where that cannot be told.
fn make_unreachable<F: Frame>(frame: &mut F, packet: &AnyPacket, identification: u16) -> bool {
    match packet.flow {
        // No IPv4 packet is longer than 65535 bytes.
        AnyFlow::V4(_) => icmp::make_port_unreachable(frame, packet.length as u16, identification),
        AnyFlow::V6(_) => {
            let error = icmpv6::Error::PortUnreachable;
            let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
            icmpv6::may_answer(ip, error) && icmpv6::make_error(frame, error, packet.length, None)
        }
    }
}
