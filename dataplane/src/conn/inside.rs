//! The server's side of a connection by FULLNAT: the server talks to an address and port of the director's own, not to the
//! client. It is in an entry of its own, the *inside*, as the addresses of IPv6 are in an [extension](super::wide), and by the same
//! rules: it is not alive, and is allocated and retired together with the connection's first entry. Connections by other methods
//! are none the larger for it.
//!
//! Nobody keeps a list of local ports that are free. The table itself does: a connection is in a slot by its server's flow to its
//! local address and port, of two insertions of one flow one succeeds, and so a port is in use towards a server as long as there is a
//! connection with it in the table. Whoever opens one tries port after port until an insertion succeeds. A connection goes when it
//! has been quiet for as long as IPVS waits in its state: after it was closed by both sides 120 s, which is more than the 60 s that
//! Linux's end of it stays in TIME_WAIT. So a port is not used again before its old connection is quiet.

use std::net::{IpAddr, Ipv6Addr};

use super::connections::{Connections, OpenError};
use super::entry::{Direction, Entry, Index, Kind, More, NewConnection};
use super::state::Timeouts;
use super::table::{ConnectionTable, Refused};
use crate::packet::ipv6::mapped;
use crate::packet::{protocol, proxy, toa};
use crate::parse::AnyFlow;
use crate::sync::{AtomicU32, Ordering};
use crate::time::Tick;

/// How a server learns who its client is ([`crate::forward::announce`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Announce {
    /// Not at all.
    #[default]
    Nothing = 0,
    /// By the TCP option 254.
    Toa,
    /// By a header of the PROXY protocol, version 1.
    ProxyV1,
    /// By one of version 2.
    ProxyV2,
}

impl Announce {
    /// True for a header in front of the client's data.
    #[inline]
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::ProxyV1 | Self::ProxyV2)
    }

    fn of(code: u8) -> Self {
        [Self::Nothing, Self::Toa, Self::ProxyV1, Self::ProxyV2][usize::from(code % 4)]
    }

    /// By how many bytes it makes the first segment of a connection of this flow longer.
    fn length(self, flow: AnyFlow) -> u16 {
        let (client, to) = (flow.source(), flow.destination());
        match self {
            Self::Nothing => 0,
            Self::Toa if client.0.is_ipv4() => toa::IPV4_LENGTH,
            Self::Toa => toa::IPV6_LENGTH,
            Self::ProxyV1 | Self::ProxyV2 => proxy::header(self == Self::ProxyV2, client, to).len() as u16,
        }
    }
}

/// What is known of a connection's sequence numbers, a bit each.
mod known {
    /// The client's first one.
    pub(super) const CLIENT: u8 = 1;
    /// The server's first one.
    pub(super) const SERVER: u8 = 2;
    /// The server has acknowledged the header of the PROXY protocol.
    pub(super) const ANNOUNCED: u8 = 4;
}

/// The server's side of a connection. In an entry that is one, places have other meanings: `server_address` the server's port and the
/// local one, `busy_ticks` how it announces the client, `server_port` the length of that, `last_seen` and `destination` the client's and
/// the server's first sequence numbers, `method` which of these are known.
#[derive(Clone, Copy)]
pub struct Inside<'t>(&'t Entry);

impl Inside<'_> {
    /// The real server: address, port.
    #[inline]
    pub fn server(self) -> (IpAddr, u16) {
        (Ipv6Addr::from(self.0.first_words()).to_canonical(), (self.ports() >> 16) as u16)
    }

    /// What the server takes for the client: address, port.
    #[inline]
    pub fn local(self) -> (IpAddr, u16) {
        (Ipv6Addr::from(self.0.second_words()).to_canonical(), self.ports() as u16)
    }

    /// The server's address, IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2).
    #[inline]
    pub(crate) fn server_address(self) -> u128 {
        self.0.first_words()
    }

    /// The local address, likewise.
    #[inline]
    pub(crate) fn local_address(self) -> u128 {
        self.0.second_words()
    }

    /// The server's port and the local one, as one number of twice 16 bits.
    #[inline]
    pub(crate) fn ports(self) -> u32 {
        self.0.server_address.load(Ordering::Relaxed)
    }

    /// How the server learns who the client is.
    #[inline]
    pub(crate) fn announce(self) -> Announce {
        Announce::of(self.0.busy_ticks.load(Ordering::Relaxed))
    }

    /// By how many bytes that makes segments longer.
    #[inline]
    pub(crate) fn header_length(self) -> u16 {
        self.0.server_port.load(Ordering::Relaxed)
    }

    /// The client begins with this sequence number. What was known of an earlier attempt counts no longer.
    pub(crate) fn begin(self, sequence: u32) {
        if self.client_began() != Some(sequence) {
            self.0.last_seen.store(sequence, Ordering::Relaxed);
            // Release: who sees that it is known sees the number. Pairs with the Acquire in `number`.
            self.0.method.store(known::CLIENT, Ordering::Release);
        }
    }

    /// The server begins with this sequence number.
    pub(crate) fn server_begins(self, sequence: u32) {
        self.0.destination.store(sequence, Ordering::Relaxed);
        self.0.method.fetch_or(known::SERVER, Ordering::Release);
    }

    /// The server has acknowledged the header.
    pub(crate) fn set_announced(self) {
        self.0.method.fetch_or(known::ANNOUNCED, Ordering::Release);
    }

    fn number(self, which: u8, place: &AtomicU32) -> Option<u32> {
        let is_known = self.0.method.load(Ordering::Acquire) & which != 0;
        is_known.then(|| place.load(Ordering::Relaxed))
    }

    /// The sequence number of the client's SYN.
    pub(crate) fn client_began(self) -> Option<u32> {
        self.number(known::CLIENT, &self.0.last_seen)
    }

    /// The sequence number of the server's SYN.
    pub(crate) fn server_began(self) -> Option<u32> {
        self.number(known::SERVER, &self.0.destination)
    }

    /// True once the server has acknowledged the header.
    pub(crate) fn is_announced(self) -> bool {
        self.0.method.load(Ordering::Acquire) & known::ANNOUNCED != 0
    }

    /// Whether the server's packets of this flow are the connection's, but for their protocol.
    #[inline]
    fn is_between(self, flow: AnyFlow) -> bool {
        let ((from, from_port), (to, to_port)) = (flow.source(), flow.destination());
        self.ports() == u32::from(from_port) << 16 | u32::from(to_port)
            && self.server_address() == mapped(from)
            && self.local_address() == mapped(to)
    }
}

impl Entry {
    /// Writes a connection's server into a free entry, which becomes its inside.
    pub(super) fn fill_inside(&self, new: &NewConnection, announce: Announce) {
        let rest = u128::from(new.server.1) << 112 | u128::from(announce.length(new.flow)) << 16;
        self.set_words([mapped(new.server.0), 0, rest | announce as u128]);
    }

    /// Of an inside: gives the connection a local address and port. Nobody finds it by them yet.
    fn set_local(&self, (address, port): (IpAddr, u16)) {
        self.set_second_words(mapped(address));
        let server_port = self.server_address.load(Ordering::Relaxed) & 0xffff_0000;
        self.server_address.store(server_port | u32::from(port), Ordering::Relaxed);
    }
}

impl ConnectionTable {
    /// The server's side of the connection in `entry`, where it has one of its own. As with [`ConnectionTable::extension`].
    #[inline]
    pub fn inside(&self, entry: &Entry) -> Option<Inside<'_>> {
        let Index(index) = entry.inside()?;
        self.entries.get(index as usize).map(Inside)
    }

    /// The flow of the server's packets to the connection's local address.
    #[inline(never)]
    pub(super) fn reply_inside(&self, entry: &Entry) -> Option<AnyFlow> {
        let inside = self.inside(entry)?;
        AnyFlow::new(entry.protocol(), inside.server(), inside.local())
    }

    /// Whether packets of this flow are those of the server of the connection in `entry` to its local address.
    #[inline(never)]
    pub(super) fn leads_back(&self, entry: &Entry, direction: Direction, flow: AnyFlow) -> bool {
        direction == Direction::ToClient
            && self.inside(entry).is_some_and(|inside| inside.is_between(flow))
            && entry.protocol() == flow.protocol()
    }
}

impl Connections {
    /// Opens a connection by FULLNAT, under a template if one was [adopted](Connections::adopt) for it, with the first of these local
    /// addresses and ports that is free towards its server. They are of the server's family.
    #[inline(never)]
    pub fn open_fullnat(
        &mut self,
        template: Option<Index>,
        (new, announce): (&NewConnection, Announce),
        locals: impl Iterator<Item = (IpAddr, u16)>,
        timeouts: &Timeouts,
        now: Tick,
    ) -> Result<Index, OpenError> {
        let kind = template.map_or(Kind::Plain, Kind::Under);
        let opened = match self.take_fullnat((new, announce), kind, now) {
            Some(index) => self.publish_fullnat(index, new, locals),
            None => Err(OpenError::NoFreeEntry),
        };
        if let Some(template) = template {
            self.opened_under(template, new, &opened);
        }
        let index = opened?;
        self.table.entry(index).complete();
        self.look_by(index, now.after(timeouts.of(new.state)));
        Ok(index)
    }

    /// Free entries with the new connection in them, which nobody finds yet.
    // A copy in each of the two that open connections: a call would cost each connection what it takes to hand all this over.
    #[inline(always)]
    fn take_fullnat(
        &mut self,
        (new, announce): (&NewConnection, Announce),
        kind: Kind,
        now: Tick,
    ) -> Option<Index> {
        if !self.has_timer() {
            return None;
        }
        let index = self.pool.allocate(&self.table)?;
        let extension = match new.flow {
            AnyFlow::V6(_) => Some(self.take_extension(new, index)?),
            AnyFlow::V4(_) => None,
        };
        let Some(inside) = self.pool.allocate(&self.table) else {
            for taken in extension.into_iter().chain([index]) {
                self.pool.put_back(&self.table, taken);
            }
            return None;
        };
        let announce = if new.flow.protocol() == protocol::TCP { announce } else { Announce::Nothing };
        self.table.entry(inside).fill_inside(new, announce);
        self.table.entry(index).fill(new, More { extension, inside: Some(inside) }, kind, now);
        let is_across = new.server.0.is_ipv4() != new.flow.source().0.is_ipv4();
        if announce != Announce::Nothing || is_across {
            self.table.entry(index).set_resizing();
        }
        Some(index)
    }

    /// Makes it found by the server's flow to the first local address and port that is free, and then by the client's: a client's
    /// packet that finds it finds it whole. Where that fails it is gone.
    fn publish_fullnat(
        &mut self,
        index: Index,
        new: &NewConnection,
        locals: impl Iterator<Item = (IpAddr, u16)>,
    ) -> Result<Index, OpenError> {
        let entry = self.table.entry(index);
        if let Err(refused) = self.reserve(index, new, locals) {
            entry.end(entry.life());
            self.leave_template(entry);
            self.put_back(index);
            return Err(refused);
        }
        let Err(refused) = self.table.insert(new.flow, Direction::ToServer, index) else { return Ok(index) };
        // It has been found by the server's flow, if by nobody's packet.
        self.end(index, entry.life());
        Err(match refused {
            Refused::Exists(found) => OpenError::Exists(found),
            Refused::Full => OpenError::TableFull,
        })
    }

    /// Reserves one of `locals` for the connection.
    fn reserve(
        &self,
        index: Index,
        new: &NewConnection,
        locals: impl Iterator<Item = (IpAddr, u16)>,
    ) -> Result<(), OpenError> {
        let Some(inside) = self.table.entry(index).inside() else { return Err(OpenError::NoLocalPort) };
        for local in locals {
            // Of another family than the server's: does not come about.
            let Some(reply) = AnyFlow::new(new.flow.protocol(), new.server, local) else { continue };
            // Other workers may look at it, as long as a slot of ours is pending: at an old one, which counts no longer, or at this.
            self.table.entry(inside).set_local(local);
            match self.table.insert(reply, Direction::ToClient, index) {
                Ok(()) => return Ok(()),
                Err(Refused::Exists(_)) => {}
                Err(Refused::Full) => return Err(OpenError::TableFull),
            }
        }
        Err(OpenError::NoLocalPort)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
