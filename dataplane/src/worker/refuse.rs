//! What becomes of frames that are not forwarded: Linux gets them, or they are dropped for a reason, of which some senders are
//! told.

use super::Balancer;
use super::tell::Problem;
use crate::conn::{ConnectionTable, Direction};
use crate::counters::{Drop, Verdict};
use crate::forward::Forward;
use crate::network::PortId;
use crate::parse::{AnyPacket, Parsed};
use crate::time::Tick;
use crate::wire::Wire;

impl<W: Wire> Balancer<W> {
    /// What becomes of a frame that is not forwarded.
    #[inline(never)]
    pub(super) fn finish<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        verdict: Verdict,
        (frame, port): (W::Frame, PortId),
        packet: &P,
        now: Tick,
    ) {
        let (direction, problem) = match verdict {
            _ if !packet.is_some() => return self.other::<P>(table, (frame, port), now),
            Verdict::Drop(Drop::NoDestination) => (Direction::ToServer, Problem::NoDestination),
            Verdict::Drop(Drop::NoConnection) => (Direction::ToClient, Problem::NoConnection),
            verdict => return self.dispose(verdict, port, frame),
        };
        self.tell(frame, (&packet.any(), direction), problem, now);
    }

    /// What becomes of a frame that holds no packet to look up.
    fn other<P: Forward>(&mut self, table: &ConnectionTable, (frame, port): (W::Frame, PortId), now: Tick) {
        let verdict = match P::parse(&frame, self.macs[usize::from(port.0)]) {
            Parsed::Ipv6 => return self.set_aside(frame, port),
            Parsed::Tagged => return self.untag(frame, port),
            Parsed::Fragment => return self.fragment::<P>(table, (frame, port), now, now),
            Parsed::Error => return self.relate(table, (frame, port), now),
            Parsed::Echo => return self.echo::<P>(table, (frame, port), now),
            Parsed::Other(verdict) => verdict,
            // Does not come about: it has been parsed before.
            Parsed::Packet(_) => Verdict::ToKernel,
        };
        self.dispose(verdict, port, frame);
    }

    /// Keeps a frame with an IPv6 packet until the others of its burst are done.
    fn set_aside(&mut self, frame: W::Frame, port: PortId) {
        // There is room for it: these are the frames of one burst.
        if let Err(full) = self.ipv6.try_push(frame) {
            self.dispose(Verdict::ToKernel, port, full.element());
        }
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

    /// What becomes of a packet that its forwarding method has not changed, for this reason.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse(
        &mut self,
        frame: W::Frame,
        (packet, direction): (&AnyPacket, Direction),
        reason: Drop,
        now: Tick,
    ) {
        match reason {
            Drop::TtlExpired => self.tell(frame, (packet, direction), Problem::TimeExceeded, now),
            reason => self.counters.dropped(reason),
        }
    }
}
