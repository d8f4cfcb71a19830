//! Connections whose addresses do not fit into a cache line: a second entry of the pool, the *extension*, holds them.
//!
//! The first line stays what it is to everybody who does not ask for addresses: ports, state, timer, counters. In place of the
//! server's address it has the extension's index. An extension is an entry that is not alive: no list shows it, no timer is
//! armed for it. It is allocated and retired together with the first line, so that whoever may use the one may use the other.
//! What outlives connections in an entry (its generation, the timer that counts) and what lists of dead ones use (the link) is
//! left alone in an extension, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::entry::{Direction, Entry, Index, NewConnection};
use super::inside::Inside;
use super::life::Life;
use super::table::ConnectionTable;
use crate::packet::ipv6::mapped;
use crate::parse::{AnyFlow, Flow6};

impl NewConnection {
    /// True where the connection takes two entries.
    #[inline]
    pub(super) fn is_wide(&self) -> bool {
        matches!(self.flow, AnyFlow::V6(_)) || self.server.0.is_ipv6()
    }
}

/// The addresses of a connection that has two entries.
#[derive(Clone, Copy)]
pub struct Extension<'t>(&'t Entry);

impl Extension<'_> {
    /// Whether a packet of `flow` that goes this way is between these addresses.
    #[inline]
    pub(super) fn are_between(self, flow: Flow6, direction: Direction) -> bool {
        let (from, to) = match direction {
            Direction::ToServer => (self.client(), self.virtual_address()),
            Direction::ToClient => (self.server(), self.client()),
        };
        flow.source().0 == from && flow.destination().0 == to
    }

    /// The client's address; IPv4 mapped into IPv6, as with the others.
    #[inline]
    pub fn client(self) -> u128 {
        self.0.first_words()
    }

    /// The virtual address.
    #[inline]
    pub fn virtual_address(self) -> u128 {
        self.0.second_words()
    }

    /// The real server's address.
    #[inline]
    pub fn server(self) -> u128 {
        self.0.third_words()
    }
}

impl Entry {
    /// Writes a connection's addresses into a free entry, which becomes its extension.
    pub(super) fn fill_extension(&self, new: &NewConnection) {
        let (client, to) = (new.flow.source().0, new.flow.destination().0);
        self.set_words([mapped(client), mapped(to), mapped(new.server.0)]);
    }
}

impl ConnectionTable {
    /// The addresses of the connection in `entry`, where they are not in it. They are read only after the entry was found to be
    /// the one that was looked for; those of an entry that changes meanwhile may be anyone's.
    #[inline]
    pub fn extension(&self, entry: &Entry) -> Option<Extension<'_>> {
        let Index(index) = entry.extension()?;
        self.entries.get(index as usize).map(Extension)
    }

    /// The client's flow, to the virtual address, of whatever family.
    pub fn flow(&self, entry: &Entry) -> AnyFlow {
        match self.extension(entry).filter(|_| entry.is_ipv6()) {
            Some(addresses) => {
                let ports = entry.ports_of(Direction::ToServer);
                Flow6::from_parts(addresses.client(), addresses.virtual_address(), ports).into()
            }
            None => entry.flow().into(),
        }
    }

    /// The real server, of whatever family: address, port.
    pub fn server(&self, entry: &Entry) -> (IpAddr, u16) {
        self.inside(entry).map_or_else(|| self.server_in(entry), Inside::server)
    }

    /// The same of a connection without an inside.
    #[inline]
    fn server_in(&self, entry: &Entry) -> (IpAddr, u16) {
        let (address, port) = entry.server();
        let address = match self.extension(entry) {
            Some(addresses) => Ipv6Addr::from(addresses.server()).to_canonical(),
            None => Ipv4Addr::from(address).into(),
        };
        (address, port)
    }

    /// The flow of the server's packets to the client, where they come to the director as the server sent them and lead to the
    /// connection.
    #[inline]
    pub(super) fn reply(&self, entry: &Entry, life: Life) -> Option<AnyFlow> {
        if !entry.is_found_by_replies(life) {
            return None;
        }
        if life.has_inside() {
            return self.reply_inside(entry);
        }
        let flow = self.flow(entry);
        AnyFlow::new(flow.protocol(), self.server_in(entry), flow.source())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
