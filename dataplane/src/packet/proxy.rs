//! The PROXY protocol (HAProxy's, doc/proxy-protocol.txt): what is put in front of a connection's data to say who the client is.

use std::fmt::{self, Write};
use std::net::IpAddr;

use arrayvec::ArrayVec;

/// The longest header: of version 1, with IPv6 addresses.
pub const MAX_LENGTH: usize = 107;

/// A header's bytes.
pub type Header = ArrayVec<u8, MAX_LENGTH>;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Writes text, as far as there is room.
struct Text<'h>(&'h mut Header);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_extend_from_slice(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// The header of a TCP connection between these, both of one family, in version 2 or in version 1.
pub fn header(is_v2: bool, client: (IpAddr, u16), to: (IpAddr, u16)) -> Header {
    let mut header = Header::new();
    if !is_v2 {
        let family = if client.0.is_ipv4() { "TCP4" } else { "TCP6" };
        // There is room for the longest.
        let _ = write!(Text(&mut header), "PROXY {family} {} {} {} {}\r\n", client.0, to.0, client.1, to.1);
        return header;
    }
    header.extend(SIGNATURE);
    let (family, length): (u8, u16) = if client.0.is_ipv4() { (TCP4, 12) } else { (TCP6, 36) };
    header.extend([PROXY, family]);
    header.extend(length.to_be_bytes());
    for address in [client.0, to.0] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    header.extend(client.1.to_be_bytes());
    header.extend(to.1.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, to: &str) -> [(IpAddr, u16); 2] {
        [(client.parse().unwrap(), 56324), (to.parse().unwrap(), 443)]
    }

    #[test]
    fn version_1_is_a_line() {
        let [client, to] = ends("192.168.0.1", "192.168.0.11");
        assert_eq!(&header(false, client, to)[..], b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        let [client, to] = ends("2001:db8::1", "2001:db8::2");
        assert_eq!(&header(false, client, to)[..], b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n");
        let longest = "2001:1111:2222:3333:4444:5555:6666:7777";
        let [(client, _), (to, _)] = ends(longest, longest);
        assert_eq!(header(false, (client, 65535), (to, 65535)).last(), Some(&b'\n'));
    }

    #[test]
    fn version_2_is_binary() {
        let [client, to] = ends("192.168.0.1", "192.168.0.11");
        let expected =
            [&SIGNATURE[..], &[0x21, 0x11, 0, 12, 192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb]];
        assert_eq!(header(true, client, to)[..], expected.concat());
        let [client, to] = ends("2001:db8::1", "2001:db8::2");
        let long = header(true, client, to);
        assert_eq!((long.len(), &long[12..18]), (52, &[0x21, 0x21, 0, 36, 0x20, 0x01][..]));
    }
}
