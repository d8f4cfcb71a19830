//! LVS/NAT: on the way in the virtual address and port become the real server's, on the way out the real server's become
//! the virtual ones. The server's route to the client leads through us.

use crate::counters::Drop;
use crate::packet::ipv4::{self, Side};
use crate::packet::{protocol, sctp, tcp, udp};
use crate::parse::{Flow, Packet};

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
fn rewrite(ip: &mut [u8], packet: &Packet, side: Side, (address, port): (u32, u16)) -> Result<(), Drop> {
    let change = ipv4::readdress(ip, side, address).ok_or(Drop::TtlExpired)?;
    let transport = ip.get_mut(usize::from(packet.ip_header)..).ok_or(Drop::Truncated)?;
    match packet.flow.protocol() {
        protocol::TCP => tcp::set_port(transport, side, port, change),
        protocol::UDP => udp::set_port(transport, side, port, change),
        _ => return rewrite_sctp(transport, packet, side, port),
    }
    Ok(())
}

/// The rest of it for SCTP, whose checksum goes over all of the packet, and nothing of its padding.
#[cold]
#[inline(never)]
fn rewrite_sctp(transport: &mut [u8], packet: &Packet, side: Side, port: u16) -> Result<(), Drop> {
    let length = usize::from(packet.length).saturating_sub(packet.ip_header.into());
    sctp::set_port(transport.get_mut(..length).ok_or(Drop::Scattered)?, side, port);
    Ok(())
}
