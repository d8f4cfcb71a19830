//! LVS/LOCALNODE: the real server is this host itself. By NAT the packet is translated as any other, and then Linux has it, as the packet
//! of its own that it has become; by the other methods Linux has it as it came. It is not routed, and so loses nothing of its
//! time to live. What the server sends back comes from Linux, and is translated on its way out.

use std::net::IpAddr;

use super::nat::set_port;
use crate::counters::Drop;
use crate::packet::checksum::Difference;
use crate::packet::ipv4::{self, Side};
use crate::packet::{ethernet, ipv6, read_u32, read_u128};
use crate::parse::AnyPacket;

/// Writes an address and a port on one side of this packet, of a balanced protocol, in `frame`, and corrects the checksums.
///
/// # Errors
/// Why the packet is to be dropped.
pub(crate) fn readdress(
    frame: &mut [u8],
    packet: &AnyPacket,
    side: Side,
    (address, port): (IpAddr, u16),
) -> Result<(), Drop> {
    let ip = frame.get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let change = set_address(ip, side, address).ok_or(Drop::Truncated)?;
    set_port(ip, packet.flow.protocol(), (packet.transport, packet.length), side, (port, change))
}

/// Writes the address, corrects an IPv4 header's checksum, and gives what the change means to a checksum that covers the pseudo-header.
/// `ip` begins with a header of the address's family; `None` where it is shorter.
pub(super) fn set_address(ip: &mut [u8], side: Side, address: IpAddr) -> Option<Difference> {
    let at = |source, destination| if side == Side::Source { source } else { destination };
    let unchanged = Difference::default();
    Some(match address {
        IpAddr::V4(address) => {
            let old = read_u32(ip.first_chunk::<{ ipv4::MIN_HEADER }>()?, at(12, 16));
            ipv4::set_address(ip, side, address.into());
            unchanged.replace_u32(old, address.into())
        }
        IpAddr::V6(address) => {
            let old = read_u128(ip.first_chunk::<{ ipv6::HEADER }>()?, at(8, 24));
            ipv6::set_address(ip, side, address.into());
            unchanged.replace_u128(old, address.into())
        }
    })
}
