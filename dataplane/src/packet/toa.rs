//! TOA: the TCP option by which LVS and DPVS tell a real server its client's address. Kind 254 (RFC 4727: for experiments), length 8 or 20,
//! then the port and the IPv4 or IPv6 address, all in network order.

use std::net::IpAddr;

use arrayvec::ArrayVec;

/// The option's kind.
pub const KIND: u8 = 254;
/// Its length with an IPv4 address.
pub const IPV4_LENGTH: u16 = 8;
/// Its length with an IPv6 address.
pub const IPV6_LENGTH: u16 = 20;

/// The option for a client.
pub fn option((address, port): (IpAddr, u16)) -> ArrayVec<u8, { IPV6_LENGTH as usize }> {
    let mut option = ArrayVec::new();
    let length = if address.is_ipv4() { IPV4_LENGTH } else { IPV6_LENGTH };
    option.extend([KIND, length as u8]);
    option.extend(port.to_be_bytes());
    match address {
        IpAddr::V4(address) => option.extend(address.octets()),
        IpAddr::V6(address) => option.extend(address.octets()),
    }
    option
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_behind_the_port() {
        let v4 = option(([203, 0, 113, 9].into(), 40_000));
        assert_eq!(v4[..], [254, 8, 0x9c, 0x40, 203, 0, 113, 9]);
        let v6 = option(("2001:db8::9".parse().unwrap(), 80));
        assert_eq!((v6.len(), &v6[..6], v6[19]), (20, &[254, 20, 0, 80, 0x20, 0x01][..], 9));
    }
}
