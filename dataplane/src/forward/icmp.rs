//! ICMP errors about a connection's packets: translated as those packets are, so that who sent one finds in the error what it
//! sent. From one family into the other they are [`translate`](super::translate)d. By NAT that is an address of the error itself and, in the packet that it quotes, the same address on the other side, its port
//! and the checksums; by FULLNAT both ends of the quoted packet; by SNAT the one that is inside; by direct routing and in a tunnel only the error's time to live.

use std::net::IpAddr;

use super::local::set_address;
use crate::conn::entry::Entry;
use crate::conn::{ConnectionTable, Direction, Inside, Method};
use crate::counters::Drop;
use crate::packet::checksum::{self, Difference};
use crate::packet::ipv4::{self, Side};
use crate::packet::{echo, icmpv6, ipv6, protocol, read_u16, read_u128, tcp, udp};
use crate::parse::{IcmpError, Quoted};

/// Changes `ip`, an IP packet that is this error and quotes a packet of the connection `entry`, an entry of `table`, into what
/// goes out; but for a tunnel, which does that itself. The error goes in `direction`: to the server where it is about what the
/// server sent. Gives the address to which it goes on.
pub(crate) fn forward(
    ip: &mut [u8],
    (error, quoted): (&IcmpError, &Quoted),
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
) -> Result<IpAddr, Drop> {
    let is_alive = if error.is_ipv4 { ipv4::decrement_ttl(ip) } else { ipv6::decrement_hop_limit(ip) };
    if !is_alive {
        return Err(Drop::TtlExpired);
    }
    translate(ip, (error, quoted), table, (entry, direction))
}

/// The same for one that is not routed here: from a real server on this host, or to it.
pub(crate) fn translate(
    ip: &mut [u8],
    (error, quoted): (&IcmpError, &Quoted),
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
) -> Result<IpAddr, Drop> {
    let (flow, server) = (table.flow(entry), table.server(entry));
    let to = super::next(table, entry, direction);
    let local = table.inside(entry).map(Inside::local);
    if entry.method() == Method::Snat {
        let local = local.ok_or(Drop::NoLocalAddress)?;
        rewrite_by_snat(ip, (error, quoted), direction, local, flow.source()).ok_or(Drop::Truncated)?;
        return Ok(to);
    }
    let ends = match direction {
        Direction::ToServer => [Some((Side::Destination, server)), None],
        Direction::ToClient => {
            [Some((Side::Source, flow.destination())), local.map(|_| (Side::Destination, flow.source()))]
        }
    };
    if entry.method().sees_replies() {
        // What a server by FULLNAT has sent it has sent to the local address; that of the error itself is whoever's made it.
        let quoted_only = local.filter(|_| direction == Direction::ToServer);
        rewrite(ip, error, quoted, ends, quoted_only).ok_or(Drop::Truncated)?;
    }
    Ok(to)
}

/// By SNAT, as Linux does for what is routed: what whoever sends the error from outside is called stays what it is, and who sends one from
/// inside, be it a router there, is taken for the server's address outside.
fn rewrite_by_snat(
    ip: &mut [u8],
    (error, quoted): (&IcmpError, &Quoted),
    direction: Direction,
    local: End,
    inside: End,
) -> Option<()> {
    let ip = ip.get_mut(..error.length)?;
    let ((side, address), (quoted_side, end)) = match direction {
        Direction::ToServer => ((Side::Source, local.0), (Side::Destination, local)),
        Direction::ToClient => ((Side::Destination, inside.0), (Side::Source, inside)),
    };
    set_address(ip, side, address)?;
    set_end(ip.get_mut(error.quote()..)?, quoted, quoted_side, end)?;
    set_checksum(ip, error)
}

/// One end of packets: address, port.
type End = (IpAddr, u16);

/// Writes the address of each of `ends` on that side of the error and on the other side of the quoted packet, and there its port,
/// too; the receiver of the quoted packet becomes `quoted_only`, where there is one.
fn rewrite(
    ip: &mut [u8],
    error: &IcmpError,
    quoted: &Quoted,
    ends: [Option<(Side, End)>; 2],
    quoted_only: Option<End>,
) -> Option<()> {
    let ip = ip.get_mut(..error.length)?;
    for (side, end) in ends.into_iter().flatten() {
        set_address(ip, side, end.0)?;
        let inside = if side == Side::Source { Side::Destination } else { Side::Source };
        set_end(ip.get_mut(error.quote()..)?, quoted, inside, end)?;
    }
    if let Some(end) = quoted_only {
        set_end(ip.get_mut(error.quote()..)?, quoted, Side::Destination, end)?;
    }
    set_checksum(ip, error)
}

/// Writes one end of the quoted packet, and corrects its checksums.
fn set_end(packet: &mut [u8], quoted: &Quoted, side: Side, (address, port): End) -> Option<()> {
    let change = set_address(packet, side, address)?;
    set_port(packet.get_mut(quoted.transport..)?, quoted.flow.protocol(), side, port, change)
}

/// Writes the port, and corrects the checksum as far as the quote has it. That of SCTP, which is over a whole packet, stays.
pub(super) fn set_port(
    transport: &mut [u8],
    protocol: u8,
    side: Side,
    port: u16,
    change: Difference,
) -> Option<()> {
    if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
        echo::set_identifier(transport, protocol, port, change);
        return Some(());
    }
    let field = transport.get_mut(if side == Side::Source { 0..2 } else { 2..4 })?;
    let change = change.replace_u16(read_u16(field, 0), port);
    field.copy_from_slice(&port.to_be_bytes());
    let (at, is_udp) = match protocol {
        protocol::TCP => (tcp::CHECKSUM, false),
        protocol::UDP => (udp::CHECKSUM, true),
        _ => return Some(()),
    };
    let Some(check) = transport.get_mut(at..at + 2) else { return Some(()) };
    let new = match read_u16(check, 0) {
        // None was made.
        0 if is_udp => 0,
        old if is_udp => udp::written(change.apply(old)),
        old => change.apply(old),
    };
    check.copy_from_slice(&new.to_be_bytes());
    Some(())
}

/// Makes the error's checksum anew: it has been found right, and is over little.
fn set_checksum(ip: &mut [u8], error: &IcmpError) -> Option<()> {
    let (header, message) = ip.split_at_mut_checked(error.message)?;
    message.get_mut(2..4)?.fill(0);
    let check = if error.is_ipv4 {
        checksum::verify(message)
    } else {
        let header = header.first_chunk::<{ ipv6::HEADER }>()?;
        icmpv6::make_checksum(read_u128(header, 8), read_u128(header, 24), message)
    };
    message[2..4].copy_from_slice(&check.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests;
