//! Reads numbers, addresses and ports as the C library does for ipvsadm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Names;
use crate::model::Protocol;

/// A whole decimal number, as `strtol` reads it, within `range`.
pub fn number(text: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let trimmed = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    trimmed.parse().ok().filter(|n| range.contains(n))
}

/// The number `text` begins with, as `atoi` reads it; 0 if it begins with none.
pub fn leading_number(text: &str) -> i64 {
    let trimmed = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (sign, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse::<i64>().map_or(0, |n| n * sign)
}

/// An IPv4 address as `inet_aton` reads it: one to four numbers, decimal, octal (`0…`) or hexadecimal (`0x…`),
/// the last one filling the bytes that are left. Anything may follow after a white-space character.
pub fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = text.split([' ', '\t', '\n', '\x0b', '\x0c', '\r']).next()?;
    let parts: Vec<u32> = text.split('.').map(c_number).collect::<Option<_>>()?;
    let (last, bytes) = parts.split_last()?;
    if bytes.len() > 3 || bytes.iter().any(|b| *b > 0xff) {
        return None;
    }
    let room = 32 - 8 * bytes.len() as u32;
    if u64::from(*last) >= 1 << room {
        return None;
    }
    let high = bytes.iter().enumerate().fold(0u32, |a, (i, b)| a | b << (24 - 8 * i));
    Some(Ipv4Addr::from(high | last))
}

/// An unsigned C literal without a sign.
fn c_number(text: &str) -> Option<u32> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) || text.contains('+') {
        return None;
    }
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(&text[1..], 8).ok(),
        None => text.parse().ok(),
    }
}

/// `ADDRESS[:PORT]`, `NAME[:PORT]` or `[IPV6]:PORT`, with the service's name instead of the port where `protocol`
/// is known. The port is `None` if there was none.
pub fn service(
    text: &str,
    protocol: Option<Protocol>,
    names: &mut dyn Names,
) -> Option<(IpAddr, Option<u16>)> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (host, bracket_port) = match text.strip_prefix('[') {
        None => (text, None),
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, Some(port.strip_prefix(':')?))
        }
    };
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        let port = bracket_port.map(|p| port(p, protocol, names).ok_or(())).transpose().ok()?;
        return Some((address.into(), port));
    }
    // The port after a bracketed address that is not IPv6 is lost in ipvsadm too.
    let (host, port_text) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let address = inet_aton(host).or_else(|| names.address(host))?;
    let port = port_text.map(|p| port(p, protocol, names).ok_or(())).transpose().ok()?;
    Some((address.into(), port))
}

fn port(text: &str, protocol: Option<Protocol>, names: &mut dyn Names) -> Option<u16> {
    match number(text, 0..=65535) {
        Some(port) => Some(port as u16),
        None => names.port(text, protocol?),
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::NoNames;
    use super::*;

    #[test]
    fn numbers_are_read_as_strtol_reads_them() {
        let read = |text| number(text, -10..=100);
        assert_eq!(
            ["5", " +5", "-3", "100", "101", "", " ", "+", "5 ", "0x5", "5x", "99999999999999999999"]
                .map(read),
            [Some(5), Some(5), Some(-3), Some(100), None, None, None, None, None, None, None, None]
        );
        assert_eq!(["64", "64x", "-1", "x", "", " 7"].map(leading_number), [64, 64, -1, 0, 0, 7]);
    }

    #[test]
    fn addresses_are_read_as_inet_aton_reads_them() {
        let cases = [
            ("1.2.3.4", Some([1, 2, 3, 4])),
            ("24", Some([0, 0, 0, 24])),
            ("10.1", Some([10, 0, 0, 1])),
            ("010.0x1.258", Some([8, 1, 1, 2])),
            ("4294967295", Some([255, 255, 255, 255])),
            ("4294967296", None),
            ("1.2.3.256", None),
            ("1.2.3.4.5", None),
            ("08.1", None),
            ("0x.1", None),
            ("1.2.3.4 junk", Some([1, 2, 3, 4])),
            ("1.2.3.", None),
            ("", None),
            ("+1.2.3.4", None),
        ];
        for (text, address) in cases {
            assert_eq!(inet_aton(text), address.map(Ipv4Addr::from), "{text}");
        }
    }

    #[test]
    fn services_are_read_with_their_oddities() {
        let read = |text| service(text, Some(Protocol::Tcp), &mut NoNames);
        let v4 = IpAddr::from([1, 2, 3, 4]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(read("1.2.3.4:80"), Some((v4, Some(80))));
        assert_eq!(read("1.2.3.4"), Some((v4, None)));
        assert_eq!(read("[2001:db8::1]:80"), Some((v6, Some(80))));
        assert_eq!(read("2001:db8::1"), Some((v6, None)));
        assert_eq!(read("[2001:db8::1]"), None);
        assert_eq!(read("[1.2.3.4]:80"), Some((v4, None)));
        for bad in ["", "80", ":80", "*:80", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:x", "[2001:db8::1", "é:é"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
