//! SYNs of services whose connections are held to a maximum segment size.

use super::Balancer;
use crate::clamp::Mss;
use crate::conn::entry::Entry;
use crate::conn::{ConnectionTable, Direction, Method};
use crate::forward;
use crate::network::PortId;
use crate::packet::{ethernet, ipv4, ipv6, protocol, tcp};
use crate::parse::AnyPacket;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::{Frame, Wire};

/// What TCP's data is less than an IP packet: both headers, without options.
fn headers(is_ipv4: bool) -> usize {
    tcp::MIN_HEADER + if is_ipv4 { ipv4::MIN_HEADER } else { ipv6::HEADER }
}

impl<W: Wire> Balancer<W> {
    /// Lowers what a SYN announces, either way, to what its service is held to.
    #[cold]
    #[inline(never)]
    pub(super) fn clamp(
        &self,
        table: &ConnectionTable,
        (frame, port): (&mut W::Frame, PortId),
        packet: &AnyPacket,
        connection: (&Entry, Direction),
        now: Tick,
    ) {
        if packet.flow.protocol() != protocol::TCP {
            return;
        }
        let most = match self.snapshot.current().clamps.of(connection.0.destination()) {
            Some(Mss::Bytes(most)) => most,
            Some(Mss::Auto) => self.fitting(table, port, packet, connection, now),
            None => return,
        };
        if let Some(segment) = frame.data_mut().get_mut(ethernet::HEADER + packet.transport..) {
            tcp::clamp_mss(segment, most);
        }
    }

    /// The longest segment that fits where this packet came from, which is the way of those that it asks for, and where it goes, as links are
    /// the same both ways. What cannot be told does not count.
    fn fitting(
        &self,
        table: &ConnectionTable,
        port: PortId,
        packet: &AnyPacket,
        (entry, direction): (&Entry, Direction),
        now: Tick,
    ) -> u16 {
        let Snapshot { network, tunnels, .. } = self.snapshot.current();
        let inside = headers(packet.flow.source().0.is_ipv4());
        let there = if entry.method() == Method::Tunnel && direction == Direction::ToServer {
            let tunnel = tunnels.of(entry.destination()).ok();
            tunnel.map(|tunnel| {
                let outer = tunnel.mtu(self.egress.mtu(tunnel.port), now);
                outer.saturating_sub(tunnel.encapsulation.overhead() + inside)
            })
        } else {
            let to = forward::next(table, entry, direction);
            let hop = network.route(to);
            hop.map(|hop| self.egress.mtu(hop.port).saturating_sub(headers(to.is_ipv4())))
        };
        let here = self.egress.mtu(port).saturating_sub(inside);
        let most = there.map_or(here, |there| here.min(there));
        u16::try_from(most).unwrap_or(u16::MAX).max(tcp::LEAST_MSS)
    }
}
