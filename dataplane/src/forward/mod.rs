//! Forward: what each forwarding method changes in a packet. The frame header is not among it; see [`crate::egress`].
//!
//! Every method takes one off the time to live, as IPVS does, so that a packet that two directors send
//! to each other does not do so for ever.

mod announce;
mod dr;
pub(crate) mod fragment;
mod frames;
pub(crate) mod fullnat;
pub(crate) mod icmp;
pub(crate) mod later;
pub(crate) mod local;
mod nat;
pub(crate) mod translate;
pub mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::conn::entry::Entry;
use crate::conn::{ConnectionTable, Direction, Extension, Method};
use crate::counters::Drop;
use crate::packet::{ethernet, ipv4};
use crate::parse::{IpPacket, Packet, Packet6};

/// A packet that the methods know how to change.
pub trait Forward: IpPacket {
    /// An address of its family.
    type Address: Into<IpAddr>;

    /// Changes `frame`, which holds this packet of the connection `entry`, an entry of `table`, into what goes out. Gives the
    /// address to which it goes on: that of the real server or of the client. Not for methods that [take
    /// frames](Method::takes_frames): what a tunnel carries would change as by direct routing; what comes in front of it, and where it
    /// is bound for, only the [tunnel](tunnel::Encapsulation) knows.
    fn forward(
        &self,
        frame: &mut [u8],
        table: &ConnectionTable,
        entry: &Entry,
        direction: Direction,
    ) -> Result<Self::Address, Drop>;

    /// The same by FULLNAT, in a connection whose packets [stay as long as they are](Entry::resizes).
    fn forward_by_fullnat(
        &self,
        frame: &mut [u8],
        table: &ConnectionTable,
        entry: &Entry,
        direction: Direction,
    ) -> Result<(), Drop>;

    /// The address to which packets of the connection `entry` go on, by the methods of [`Forward::forward`].
    fn next(&self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> Self::Address;
}

/// Where packets of the connection `entry`, an entry of `table`, go on to: the real server, or the client.
pub(crate) fn next(table: &ConnectionTable, entry: &Entry, direction: Direction) -> IpAddr {
    match direction {
        Direction::ToServer if entry.method() == Method::Bypass => table.flow(entry).destination().0,
        Direction::ToServer => table.server(entry).0,
        Direction::ToClient => table.flow(entry).source().0,
    }
}

impl Forward for Packet {
    type Address = Ipv4Addr;

    // As for the worker's own part: a call would cost each packet what it takes to hand all this over.
    #[inline(always)]
    fn forward(
        &self,
        frame: &mut [u8],
        _: &ConnectionTable,
        entry: &Entry,
        direction: Direction,
    ) -> Result<Ipv4Addr, Drop> {
        if frame.len() < ethernet::HEADER + ipv4::MIN_HEADER {
            return Err(Drop::Truncated);
        }
        let ip = &mut frame[ethernet::HEADER..];
        let to = match (entry.method(), direction) {
            (Method::Nat, Direction::ToServer) => nat::to_server(ip, self, entry.server()),
            (Method::Nat, Direction::ToClient) => nat::to_client(ip, self, entry.flow()),
            // The others take frames.
            _ => dr::to_server(ip, entry.server()),
        };
        to.map(Ipv4Addr::from)
    }

    #[inline]
    fn forward_by_fullnat(
        &self,
        frame: &mut [u8],
        table: &ConnectionTable,
        entry: &Entry,
        direction: Direction,
    ) -> Result<(), Drop> {
        let ip = frame.get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
        fullnat::readdress(ip, self, table, (entry, direction))
    }

    #[inline]
    fn next(&self, _: &ConnectionTable, entry: &Entry, direction: Direction) -> Ipv4Addr {
        match direction {
            Direction::ToServer => entry.server().0.into(),
            Direction::ToClient => entry.flow().source().0.into(),
        }
    }
}

impl Forward for Packet6 {
    type Address = Ipv6Addr;

    #[inline]
    fn forward(
        &self,
        frame: &mut [u8],
        table: &ConnectionTable,
        entry: &Entry,
        direction: Direction,
    ) -> Result<Ipv6Addr, Drop> {
        // What an IPv6 flow led to has them.
        let addresses = table.extension(entry).ok_or(Drop::NoFreeEntry)?;
        let ip = frame.get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
        let to = match (entry.method(), direction) {
            (Method::Nat, Direction::ToServer) => {
                nat::to_server_ipv6(ip, self, (addresses.server(), entry.server().1))
            }
            (Method::Nat, Direction::ToClient) => {
                let virtual_side = (addresses.virtual_address(), entry.flow().destination().1);
                nat::to_client_ipv6(ip, self, virtual_side, addresses.client())
            }
            _ => dr::to_server_ipv6(ip, addresses.server()),
        };
        to.map(Ipv6Addr::from)
    }

    #[inline]
    fn forward_by_fullnat(
        &self,
        frame: &mut [u8],
        table: &ConnectionTable,
        entry: &Entry,
        direction: Direction,
    ) -> Result<(), Drop> {
        let ip = frame.get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
        fullnat::readdress_ipv6(ip, self, table, (entry, direction))
    }

    #[inline]
    fn next(&self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> Ipv6Addr {
        let of = |addresses: Extension<'_>| match direction {
            Direction::ToServer => addresses.server(),
            Direction::ToClient => addresses.client(),
        };
        table.extension(entry).map_or(Ipv6Addr::UNSPECIFIED, |addresses| of(addresses).into())
    }
}

#[cfg(test)]
mod tests;
