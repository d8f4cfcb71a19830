//! Names of hosts and services, from the system's resolver and services file.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use dns_lookup::{AddrInfoHints, getaddrinfo, getnameinfo};

use crate::model::Protocol;

/// Turns names into numbers and back.
pub trait Names {
    /// The first IPv4 address of `host`.
    fn address(&mut self, host: &str) -> Option<Ipv4Addr>;
    /// The port of the service `name`.
    fn port(&mut self, name: &str, protocol: Protocol) -> Option<u16>;
    /// The name of the host `address`.
    fn host(&mut self, address: IpAddr) -> Option<String>;
    /// The name of the service on `port`.
    fn service(&mut self, port: u16, protocol: Protocol) -> Option<String>;
}

/// Knows no name at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn address(&mut self, _: &str) -> Option<Ipv4Addr> {
        None
    }
    fn port(&mut self, _: &str, _: Protocol) -> Option<u16> {
        None
    }
    fn host(&mut self, _: IpAddr) -> Option<String> {
        None
    }
    fn service(&mut self, _: u16, _: Protocol) -> Option<String> {
        None
    }
}

/// Asks the C library, and each question once: a list names the same host on many lines.
#[derive(Debug, Default)]
pub struct SystemNames {
    hosts: HashMap<IpAddr, Option<String>>,
    services: HashMap<(u16, Protocol), Option<String>>,
    sctp: Option<Vec<(String, u16)>>,
}

impl SystemNames {
    /// The SCTP lines of the services file. getaddrinfo and getnameinfo know TCP and UDP only.
    fn sctp(&mut self) -> &[(String, u16)] {
        self.sctp.get_or_insert_with(|| {
            let file = std::fs::read_to_string("/etc/services").unwrap_or_default();
            file.lines().flat_map(sctp_line).collect()
        })
    }
}

fn sctp_line(line: &str) -> Vec<(String, u16)> {
    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
    let (Some(name), Some(place)) = (words.next(), words.next()) else { return Vec::new() };
    match place.split_once('/') {
        Some((port, "sctp")) => port.parse().map_or(Vec::new(), |port| {
            std::iter::once(name).chain(words).map(|name| (name.to_owned(), port)).collect()
        }),
        _ => Vec::new(),
    }
}

impl Names for SystemNames {
    fn address(&mut self, host: &str) -> Option<Ipv4Addr> {
        (host, 0).to_socket_addrs().ok()?.find_map(|a| match a {
            SocketAddr::V4(a) => Some(*a.ip()),
            SocketAddr::V6(_) => None,
        })
    }

    fn port(&mut self, name: &str, protocol: Protocol) -> Option<u16> {
        // getaddrinfo takes numbers for services, and any number at all.
        if name.is_empty() || super::address::number(name, i64::MIN..=i64::MAX).is_some() {
            return None;
        }
        let socktype = match protocol {
            Protocol::Tcp => libc::SOCK_STREAM,
            Protocol::Udp => libc::SOCK_DGRAM,
            Protocol::Sctp => return self.sctp().iter().find(|(n, _)| n == name).map(|(_, port)| *port),
        };
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let hints = AddrInfoHints { socktype, ..AddrInfoHints::default() };
        getaddrinfo(None, Some(name), Some(hints)).ok()?.flatten().next().map(|found| found.sockaddr.port())
    }

    fn host(&mut self, address: IpAddr) -> Option<String> {
        let find = || {
            let (name, _) = getnameinfo(&SocketAddr::new(address, 0), libc::NI_NAMEREQD).ok()?;
            Some(name)
        };
        self.hosts.entry(address).or_insert_with(find).clone()
    }

    fn service(&mut self, port: u16, protocol: Protocol) -> Option<String> {
        let flags = match protocol {
            Protocol::Tcp => libc::NI_NUMERICHOST,
            Protocol::Udp => libc::NI_NUMERICHOST | libc::NI_DGRAM,
            Protocol::Sctp => {
                return self.sctp().iter().find(|(_, p)| *p == port).map(|(name, _)| name.clone());
            }
        };
        let find = || {
            let (_, name) = getnameinfo(&SocketAddr::from(([0; 4], port)), flags).ok()?;
            (name != port.to_string()).then_some(name)
        };
        self.services.entry((port, protocol)).or_insert_with(find).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_file_is_asked() {
        let mut names = SystemNames::default();
        assert_eq!(names.port("http", Protocol::Tcp), Some(80));
        assert_eq!(names.service(53, Protocol::Udp).as_deref(), Some("domain"));
        for no_name in ["", "70000", "-1", "99999999999999999999", "nosuchport", "a\0b"] {
            assert_eq!(names.port(no_name, Protocol::Tcp), None, "{no_name}");
        }
        assert_eq!(names.address("a\0b"), None);
        assert_eq!(names.service(0, Protocol::Tcp), None);
        assert_eq!(sctp_line("amqp 5672/sctp queue # x"), [("amqp".into(), 5672), ("queue".into(), 5672)]);
        assert!(sctp_line("amqp 5672/tcp").is_empty() && sctp_line("# x").is_empty());
    }
}
