//! LVS/NAT: on the way in the virtual address and port become the real server's, on the way out the real server's become
//! the virtual ones. The server's route to the client leads through us.

use crate::counters::Drop;
use crate::packet::checksum::Difference;
use crate::packet::ipv4::{self, Side};
use crate::packet::{ipv6, protocol, sctp, tcp, udp};
use crate::parse::{Flow, Packet, Packet6};

#[inline]
pub(super) fn to_server(ip: &mut [u8], packet: &Packet, server: (u32, u16)) -> Result<u32, Drop> {
    rewrite(ip, packet, Side::Destination, server)?;
    Ok(server.0)
}

/// `client` is the client's flow to the virtual address.
#[inline]
pub(super) fn to_client(ip: &mut [u8], packet: &Packet, client: Flow) -> Result<u32, Drop> {
    rewrite(ip, packet, Side::Source, client.destination())?;
    Ok(client.source().0)
}

#[inline]
pub(super) fn to_server_ipv6(ip: &mut [u8], packet: &Packet6, server: (u128, u16)) -> Result<u128, Drop> {
    rewrite_ipv6(ip, packet, Side::Destination, server)?;
    Ok(server.0)
}

/// `virtual_side` is what the client knows the server as.
#[inline]
pub(super) fn to_client_ipv6(
    ip: &mut [u8],
    packet: &Packet6,
    virtual_side: (u128, u16),
    client: u128,
) -> Result<u128, Drop> {
    rewrite_ipv6(ip, packet, Side::Source, virtual_side)?;
    Ok(client)
}

#[inline]
fn rewrite(ip: &mut [u8], packet: &Packet, side: Side, (address, port): (u32, u16)) -> Result<(), Drop> {
    let change = ipv4::readdress(ip, side, address).ok_or(Drop::TtlExpired)?;
    let end = usize::from(packet.length);
    set_port(ip, packet.flow.protocol(), (packet.ip_header.into(), end), side, (port, change))
}

#[inline]
fn rewrite_ipv6(
    ip: &mut [u8],
    packet: &Packet6,
    side: Side,
    (address, port): (u128, u16),
) -> Result<(), Drop> {
    let change = ipv6::readdress(ip, side, address).ok_or(Drop::TtlExpired)?;
    let end = packet.length as usize;
    set_port(ip, packet.flow.protocol(), (packet.transport.into(), end), side, (port, change))
}

/// Writes the port into the transport header, which begins at `start`, and corrects the checksum. The packet ends at `end`.
#[inline]
pub(super) fn set_port(
    ip: &mut [u8],
    protocol: u8,
    (start, end): (usize, usize),
    side: Side,
    (port, change): (u16, Difference),
) -> Result<(), Drop> {
    let transport = ip.get_mut(start..).ok_or(Drop::Truncated)?;
    match protocol {
        protocol::TCP => tcp::set_port(transport, side, port, change),
        protocol::UDP => udp::set_port(transport, side, port, change),
        // Its checksum goes over all of the packet, and nothing of its padding.
        _ => sctp::set_port(transport, side, port, end.saturating_sub(start)),
    }
    Ok(())
}
