//! LVS/FULLNAT: both addresses and ports are replaced, both ways. The server sees a client at an address of the director's own, and
//! so its answers come back through us from wherever it is, on whatever route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::announce;
use super::translate::{self, Ends};
use crate::conn::entry::Entry;
use crate::conn::{Announce, ConnectionTable, Direction, Inside, State};
use crate::counters::Drop;
use crate::packet::checksum::Difference;
use crate::packet::ipv6::mapped;
use crate::packet::{echo, ethernet, ipv4, ipv6, protocol, sctp, tcp, udp};
use crate::parse::{AnyFlow, AnyPacket, Packet, Packet6};
use crate::wire::Frame;

impl Ends {
    fn of(table: &ConnectionTable, entry: &Entry, inside: Inside<'_>, direction: Direction) -> Self {
        match direction {
            Direction::ToServer => Self {
                source: inside.local_address(),
                destination: inside.server_address(),
                ports: inside.ports().rotate_left(16),
            },
            Direction::ToClient => {
                let flow = table.flow(entry);
                let ((client, client_port), (virtual_address, virtual_port)) =
                    (flow.source(), flow.destination());
                Self {
                    source: mapped(virtual_address),
                    destination: mapped(client),
                    ports: u32::from(virtual_port) << 16 | u32::from(client_port),
                }
            }
        }
    }

    /// The same of a connection over IPv4, whose flow is in its entry.
    #[inline]
    fn of_ipv4(entry: &Entry, inside: Inside<'_>, direction: Direction) -> Self {
        match direction {
            Direction::ToServer => Self {
                source: inside.local_address(),
                destination: inside.server_address(),
                ports: inside.ports().rotate_left(16),
            },
            Direction::ToClient => {
                let [addresses, ports] = entry.flow().words();
                Self {
                    source: (addresses as u32).into(),
                    destination: (addresses >> 32).into(),
                    ports: ((ports >> 32) as u32).rotate_left(16),
                }
            }
        }
    }

    /// Writes them into an IPv4 packet of this protocol, whose transport header begins at `start` and which ends at `end`: the address
    /// to which it goes on.
    #[inline]
    fn write_ipv4(&self, ip: &mut [u8], protocol: u8, place: (usize, usize)) -> Result<u32, Drop> {
        let (source, destination) = (self.source as u32, self.destination as u32);
        let addresses = u64::from(source) << 32 | u64::from(destination);
        let change = ipv4::readdress_both(ip, addresses).ok_or(Drop::TtlExpired)?;
        set_ports(ip, protocol, place, self.ports, change)?;
        Ok(destination)
    }

    /// The same over IPv6.
    fn write_ipv6(&self, ip: &mut [u8], protocol: u8, place: (usize, usize)) -> Result<u128, Drop> {
        let change = ipv6::readdress_both(ip, self.source, self.destination).ok_or(Drop::TtlExpired)?;
        set_ports(ip, protocol, place, self.ports, change)?;
        Ok(self.destination)
    }
}

/// Changes `frame`, which holds this packet of the connection `entry`, an entry of `table`, into what goes out. Gives the
/// address to which it goes on. It becomes longer where the server is told who the client is, but not longer than `longest`.
///
/// # Errors
/// Why the packet is to be dropped.
pub(crate) fn forward<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
    longest: usize,
) -> Result<IpAddr, Drop> {
    let (changed, ends) = announced(frame, packet, table, (entry, direction), longest)?;
    let packet = changed.as_ref().unwrap_or(packet);
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let place = (packet.transport, packet.length);
    match packet.flow {
        AnyFlow::V4(flow) => ends.write_ipv4(ip, flow.protocol(), place).map(|to| Ipv4Addr::from(to).into()),
        AnyFlow::V6(flow) => ends.write_ipv6(ip, flow.protocol(), place).map(|to| Ipv6Addr::from(to).into()),
    }
}

/// The same where it goes on in the other family of IP. `longest` is still of the one that it comes in, and `identification` for an IPv4
/// packet that may be fragmented.
pub(crate) fn translate<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    table: &ConnectionTable,
    connection: (&Entry, Direction),
    (longest, identification): (usize, u16),
) -> Result<IpAddr, Drop> {
    let (changed, ends) = announced(frame, packet, table, connection, longest)?;
    translate::packet(frame, changed.as_ref().unwrap_or(packet), &ends, identification)?;
    Ok(Ipv6Addr::from(ends.destination).to_canonical())
}

/// The packet as it is once the server is told what it is to be told, where it is; and who it is from and to as it goes on.
#[inline(always)]
fn announced<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
    longest: usize,
) -> Result<(Option<AnyPacket>, Ends), Drop> {
    // A connection by FULLNAT has one.
    let inside = table.inside(entry).ok_or(Drop::NoLocalAddress)?;
    let mut changed = None;
    if inside.announce() != Announce::Nothing {
        let connection = (inside, table.flow(entry), entry.life().state());
        changed = Some(announce(frame, packet, connection, direction, longest)?);
    }
    Ok((changed, Ends::of(table, entry, inside, direction)))
}

/// Tells the server who the client is, or takes out of the sequence numbers what that has made of them. Gives the packet as it is now.
#[cold]
#[inline(never)]
fn announce<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    (inside, client, state): (Inside<'_>, AnyFlow, State),
    direction: Direction,
    longest: usize,
) -> Result<AnyPacket, Drop> {
    // Before anything has changed: who sent it is told with what it sent.
    let ip = frame.data().get(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let left = match packet.flow {
        AnyFlow::V4(_) => ip.get(8),
        AnyFlow::V6(_) => ip.get(7),
    };
    if left.is_none_or(|left| *left <= 1) {
        return Err(Drop::TtlExpired);
    }
    let mut packet = *packet;
    match direction {
        Direction::ToServer => {
            let is_opening = matches!(state, State::None | State::SynRecv | State::SynAck);
            packet.length = announce::to_server(frame, &packet, (inside, client), longest, is_opening)?;
        }
        Direction::ToClient => announce::to_client(frame, &packet, inside),
    }
    Ok(packet)
}

/// As [`forward`] for a packet, `ip`, of a connection whose server is not told who the client is: it stays as long as it is.
#[inline]
pub(super) fn readdress(
    ip: &mut [u8],
    packet: &Packet,
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
) -> Result<(), Drop> {
    let inside = table.inside(entry).ok_or(Drop::NoLocalAddress)?;
    let ends = Ends::of_ipv4(entry, inside, direction);
    let place = (packet.ip_header.into(), packet.length.into());
    ends.write_ipv4(ip, packet.flow.protocol(), place).map(drop)
}

/// The same over IPv6.
#[inline]
pub(super) fn readdress_ipv6(
    ip: &mut [u8],
    packet: &Packet6,
    table: &ConnectionTable,
    (entry, direction): (&Entry, Direction),
) -> Result<(), Drop> {
    let inside = table.inside(entry).ok_or(Drop::NoLocalAddress)?;
    let ends = Ends::of(table, entry, inside, direction);
    let place = (packet.transport.into(), packet.length as usize);
    ends.write_ipv6(ip, packet.flow.protocol(), place).map(drop)
}

/// Writes the ports into the transport header, which begins at `start`, and corrects its checksum. The packet ends at `end`.
#[inline]
pub(super) fn set_ports(
    ip: &mut [u8],
    protocol: u8,
    (start, end): (usize, usize),
    ports: u32,
    change: Difference,
) -> Result<(), Drop> {
    let transport = ip.get_mut(start..).ok_or(Drop::Truncated)?;
    match protocol {
        protocol::TCP => tcp::set_ports(transport, ports, change),
        protocol::UDP => udp::set_ports(transport, ports, change),
        // Goes out by SNAT only.
        protocol::ICMP | protocol::ICMPV6 => echo::set_ports(transport, protocol, ports, change),
        // The checksum goes over all of the packet, and nothing of its padding.
        _ => sctp::set_ports(transport, ports, end.saturating_sub(start)),
    }
    Ok(())
}
