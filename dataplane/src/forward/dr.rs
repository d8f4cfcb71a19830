//! LVS/DR: the packet goes to the real server as it came, in a frame addressed to the server. The server has the virtual
//! address, and answers the client without us.

use crate::counters::Drop;
use crate::packet::{ipv4, ipv6};

#[inline]
pub(super) fn to_server(ip: &mut [u8], server: (u32, u16)) -> Result<u32, Drop> {
    if !ipv4::decrement_ttl(ip) {
        return Err(Drop::TtlExpired);
    }
    Ok(server.0)
}

#[inline]
pub(super) fn to_server_ipv6(ip: &mut [u8], server: u128) -> Result<u128, Drop> {
    if !ipv6::decrement_hop_limit(ip) {
        return Err(Drop::TtlExpired);
    }
    Ok(server)
}
