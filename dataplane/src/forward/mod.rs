//! Forward: what each forwarding method changes in a packet. The frame header is not among it; see [`crate::egress`].
//!
//! Every method takes one off the time to live, as IPVS does, so that a packet that two directors send
//! to each other does not do so for ever.

mod dr;
pub(crate) mod fragment;
mod nat;
pub mod tunnel;

use crate::conn::entry::Entry;
use crate::conn::{Direction, Extension, Method};
use crate::counters::Drop;
use crate::packet::{ethernet, ipv4};
use crate::parse::{Packet, Packet6};

/// Changes `frame`, which holds `packet` of the connection `entry`, into what goes out. Gives the address, as a number,
/// to which it goes on: that of the real server or of the client. What a tunnel carries changes as by direct routing; what comes
/// in front of it, and where it is bound for, only the [tunnel](tunnel::Encapsulation) knows.
// As for the worker's own part: a call would cost each packet what it takes to hand all this over.
#[inline(always)]
pub fn forward(frame: &mut [u8], packet: &Packet, entry: &Entry, direction: Direction) -> Result<u32, Drop> {
    if frame.len() < ethernet::HEADER + ipv4::MIN_HEADER {
        return Err(Drop::Truncated);
    }
    let ip = &mut frame[ethernet::HEADER..];
    match (entry.method(), direction) {
        (Method::Nat, Direction::ToServer) => nat::to_server(ip, packet, entry.server()),
        (Method::Nat, Direction::ToClient) => nat::to_client(ip, packet, entry.flow()),
        (Method::DirectRouting | Method::Tunnel, _) => dr::to_server(ip, entry.server()),
    }
}

/// The same for an IPv6 packet; `addresses` are the connection's.
#[inline]
pub fn forward_ipv6(
    frame: &mut [u8],
    packet: &Packet6,
    entry: &Entry,
    addresses: Extension<'_>,
    direction: Direction,
) -> Result<u128, Drop> {
    let ip = frame.get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    match (entry.method(), direction) {
        (Method::Nat, Direction::ToServer) => {
            nat::to_server_ipv6(ip, packet, (addresses.server(), entry.server().1))
        }
        (Method::Nat, Direction::ToClient) => {
            let virtual_side = (addresses.virtual_address(), entry.flow().destination().1);
            nat::to_client_ipv6(ip, packet, virtual_side, addresses.client())
        }
        (Method::DirectRouting | Method::Tunnel, _) => dr::to_server_ipv6(ip, addresses.server()),
    }
}

#[cfg(test)]
mod tests;
