//! SNAT at the worker: what a packet goes through that belongs to no connection and no service and is on its way out.
//!
//! Such packets are Linux's where no rule takes them. Nothing here is on the way of a packet whose connection is there.

use std::net::{IpAddr, Ipv4Addr};

use super::Balancer;
use crate::conn::entry::Entry;
use crate::conn::state::Seen;
use crate::conn::table::Found;
use crate::conn::{Announce, ConnectionTable, Direction, Method, NewConnection, OpenError, State, state};
use crate::counters::{Drop, Verdict};
use crate::forward::Forward;
use crate::network::{Network, PortId};
use crate::packet::tcp::Flags;
use crate::packet::{ipv4, ipv6, protocol};
use crate::parse::AnyPacket;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::wire::Wire;

/// Who is told what has become of a connection's packet is told by director's own address where the connection is by SNAT: the packet is
/// routed here, from whichever side, and nobody has sent it to a virtual address.
pub(super) fn teller(entry: &Entry, direction: Direction) -> Direction {
    if entry.method() == Method::Snat { Direction::ToClient } else { direction }
}

impl<W: Wire> Balancer<W> {
    /// What becomes of a frame that holds an ICMP echo: it goes on where it is of a connection or opens one, and else is Linux's.
    #[cold]
    #[inline(never)]
    pub(super) fn echo<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        now: Tick,
    ) {
        // Does not come about: it has been parsed before.
        let Some(packet) = P::echo(&frame) else { return self.dispose(Verdict::ToKernel, port, frame) };
        let found = match table.find(table.hash(packet.flow()), packet.flow()) {
            Some(found) => Ok(found),
            None => self.outward(&packet.any(), Some(packet.flags()), now),
        };
        match found {
            Ok(found) => {
                let entry = table.entry(found.index);
                self.forward(table, (frame, port), &packet, found, entry, now);
            }
            Err(verdict) => self.dispose(verdict, port, frame),
        }
    }

    /// Opens a connection for a packet that no service takes and a rule does. `flags` are its control bits; none are known of a
    /// packet that an error quotes, which opens none.
    #[cold]
    #[inline(never)]
    pub(super) fn outward(
        &mut self,
        packet: &AnyPacket,
        flags: Option<Flags>,
        now: Tick,
    ) -> Result<Found, Verdict> {
        let Snapshot { snat, network, timeouts, sysctls, defence, .. } = self.snapshot.current();
        let flow = packet.flow;
        let sloppy = (sysctls.sloppy_tcp, sysctls.sloppy_sctp);
        let opening = flags.filter(|flags| !snat.is_empty() && opens(packet, *flags, sloppy));
        let Some(flags) = opening else { return Err(Verdict::ToKernel) };
        let rule = way_out(packet, network).and_then(|out_port| snat.find(flow, out_port));
        let Some(rule) = rule else { return Err(Verdict::ToKernel) };
        let initial = State::initial(flow.protocol());
        let method = Method::Snat;
        let state = if initial.is_sctp() {
            initial
        } else {
            state::next(initial, Seen::from_client(method, false), flags, defence.secure_tcp)
        };
        let destination = rule.number;
        let new = NewConnection { flow, server: flow.destination(), method, destination, state };
        let own = || network.source(flow.destination().0);
        let candidates = rule.candidates(flow, own, self.draws.next()).map_err(Verdict::Drop)?;
        self.destinations.opening(destination, state);
        let new = (&new, Announce::Nothing);
        let opened = self.connections.open_fullnat(None, new, candidates, timeouts, now);
        if opened.is_err() {
            self.destinations.ended(destination, state);
        }
        match opened {
            Ok(index) => {
                self.tallies.of(destination).opened();
                Ok(Found { index, direction: Direction::ToServer })
            }
            Err(OpenError::Exists(found)) => Ok(found),
            Err(OpenError::NoLocalPort) => Err(Verdict::Drop(Drop::NoSnatPort)),
            Err(refused) => Err(Verdict::Drop(refused.into())),
        }
    }
}

/// The port by which a packet leaves whose both ends may have it sent on by a router, and between which director is one.
fn way_out(packet: &AnyPacket, network: &Network) -> Option<PortId> {
    let (source, destination) = (packet.flow.source().0, packet.flow.destination().0);
    let is_martian = match source {
        IpAddr::V4(address) => ipv4::is_martian_source(address.into()),
        IpAddr::V6(address) => ipv6::is_martian_source(address.into()),
    };
    let is_routed = |address: IpAddr| match address {
        IpAddr::V4(address) => !address.is_link_local() && address != Ipv4Addr::BROADCAST,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    if is_martian || destination.is_multicast() || !is_routed(source) || !is_routed(destination) {
        return None;
    }
    // A way back is needed as well; from an address of this host itself nobody else sends.
    network.route(source)?;
    network.route(destination).map(|hop| hop.port)
}

/// Whether such a packet opens a connection. By TCP that is a SYN, and no answer to one; an ICMP echo does, and no reply to one. `sloppy` are sloppy_tcp and sloppy_sctp, with which any
/// segment does, and any chunk.
fn opens(packet: &AnyPacket, flags: Flags, (sloppy_tcp, sloppy_sctp): (bool, bool)) -> bool {
    match packet.flow.protocol() {
        protocol::UDP => true,
        _ if flags.any(Flags::RST) => false,
        protocol::ICMP | protocol::ICMPV6 => flags.any(Flags::SYN),
        protocol::TCP => sloppy_tcp || flags.any(Flags::SYN) && !flags.any(Flags::ACK | Flags::FIN),
        _ => sloppy_sctp || flags.any(Flags::SYN),
    }
}
