//! Forward: what each forwarding method changes in a packet. The frame header is not among it; see [`crate::egress`].
//!
//! Every method takes one off the time to live, as IPVS does, so that a packet that two directors send
//! to each other does not do so for ever.

mod dr;
mod nat;

use crate::conn::entry::Entry;
use crate::conn::{Direction, Extension, Method};
use crate::counters::Drop;
use crate::packet::ethernet;
use crate::parse::{Packet, Packet6};
use crate::wire::Frame;

/// Changes `frame`, which holds `packet` of the connection `entry`, into what goes out. Gives the address, as a number,
/// to which it goes on: that of the real server or of the client.
// As for the worker's own part: a call would cost each packet what it takes to hand all this over.
#[inline(always)]
pub fn forward<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    entry: &Entry,
    direction: Direction,
) -> Result<u32, Drop> {
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    match (entry.method(), direction) {
        (Method::Nat, Direction::ToServer) => nat::to_server(ip, packet, entry.server()),
        (Method::Nat, Direction::ToClient) => nat::to_client(ip, packet, entry.flow()),
        (Method::DirectRouting, _) => dr::to_server(ip, entry.server()),
    }
}

/// The same for an IPv6 packet; `addresses` are the connection's.
#[inline]
pub fn forward_ipv6<F: Frame>(
    frame: &mut F,
    packet: &Packet6,
    entry: &Entry,
    addresses: Extension<'_>,
    direction: Direction,
) -> Result<u128, Drop> {
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    match (entry.method(), direction) {
        (Method::Nat, Direction::ToServer) => {
            nat::to_server_ipv6(ip, packet, (addresses.server(), entry.server().1))
        }
        (Method::Nat, Direction::ToClient) => {
            let virtual_side = (addresses.virtual_address(), entry.flow().destination().1);
            nat::to_client_ipv6(ip, packet, virtual_side, addresses.client())
        }
        (Method::DirectRouting, _) => dr::to_server_ipv6(ip, addresses.server()),
    }
}

#[cfg(test)]
mod tests;
