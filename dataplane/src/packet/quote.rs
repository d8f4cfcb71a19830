//! The packet that an ICMP or ICMPv6 error quotes: whose it was, and how its addresses are changed with those of the error
//! itself (RFC 5508 §4.2, as NAT must).
//!
//! What is quoted was somebody's packet once and is somebody else's word now: no length in it is believed, and only the
//! quoted bytes are read.

use super::checksum::Difference;
use super::ipv4::{self, Ipv4, Malformed, Side};
use super::ipv6::{self, BadChain, Ipv6};
use super::{icmp, icmpv6, protocol, read_u16, read_u32, tcp, udp};

/// An error and the packet that it quotes. Addresses, of type `A`, are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<A> {
    /// The error's type.
    pub kind: u8,
    /// The error's code.
    pub code: u8,
    /// The longest packet that would get through, in bytes with its IP header, where the error tells it.
    pub mtu: Option<u32>,
    /// Who sent the quoted packet.
    pub source: A,
    /// Who it was for.
    pub destination: A,
    /// What it carried.
    pub protocol: u8,
    /// Where in the message what it carried begins, in bytes.
    pub transport: usize,
    /// Source and destination port, of TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
}

/// Why a message has no quote that could be somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoQuote {
    /// Not an error of those that quote what a balancer hands on.
    NotAnError,
    /// Too little is quoted: not the IP header, or not the ports.
    Truncated,
    /// What is quoted is no IP header of this family.
    BadHeader,
    /// The quoted extension headers do not lead to a protocol.
    BadChain(BadChain),
    /// The quoted fragment is not the first of its packet: no ports.
    Fragment,
}

/// Where the quoted packet's IP header begins in a message.
pub const AT: usize = icmp::HEADER;

const _: () = assert!(icmp::HEADER == icmpv6::HEADER);

/// Reads an ICMP error. `message` is the IP payload without padding.
pub fn ipv4(message: &[u8]) -> Result<Quote<u32>, NoQuote> {
    let (header, quoted) = message.split_first_chunk::<AT>().ok_or(NoQuote::Truncated)?;
    let [kind, code, ..] = *header;
    use icmp::kind::{PARAMETER_PROBLEM, SOURCE_QUENCH, TIME_EXCEEDED, UNREACHABLE};
    if !matches!(kind, UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM) {
        return Err(NoQuote::NotAnError);
    }
    let tells = (kind, code) == (UNREACHABLE, icmp::code::FRAGMENTATION_NEEDED);
    // Routers older than RFC 1191 leave it 0.
    let mtu = Some(u32::from(read_u16(header, 6))).filter(|mtu| tells && *mtu != 0);
    let ip = Ipv4::new(quoted, usize::MAX)?;
    if read_u16(quoted, 6) & 0x1fff != 0 {
        return Err(NoQuote::Fragment);
    }
    let (protocol, transport) = (ip.protocol(), AT + ip.header_length());
    let ports = ports(message, protocol, transport)?;
    Ok(Quote {
        kind,
        code,
        mtu,
        source: ip.source(),
        destination: ip.destination(),
        protocol,
        transport,
        ports,
    })
}

/// Reads an ICMPv6 error. `message` is what the IPv6 header and its extensions lead to, without padding.
pub fn ipv6(message: &[u8]) -> Result<Quote<u128>, NoQuote> {
    let (header, quoted) = message.split_first_chunk::<AT>().ok_or(NoQuote::Truncated)?;
    let [kind, code, ..] = *header;
    use icmpv6::kind::{PACKET_TOO_BIG, PARAMETER_PROBLEM, TIME_EXCEEDED, UNREACHABLE};
    if !matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM) {
        return Err(NoQuote::NotAnError);
    }
    let mtu = Some(read_u32(header, 4)).filter(|_| kind == PACKET_TOO_BIG);
    let ip = Ipv6::new(quoted, usize::MAX)?;
    let upper = ip.upper().map_err(NoQuote::BadChain)?;
    if upper.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Err(NoQuote::Fragment);
    }
    let (protocol, transport) = (upper.protocol, AT + upper.offset);
    let ports = ports(message, protocol, transport)?;
    Ok(Quote {
        kind,
        code,
        mtu,
        source: ip.source(),
        destination: ip.destination(),
        protocol,
        transport,
        ports,
    })
}

impl From<Malformed> for NoQuote {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Truncated => NoQuote::Truncated,
            Malformed::BadHeader => NoQuote::BadHeader,
        }
    }
}

fn ports(message: &[u8], protocol: u8, transport: usize) -> Result<Option<(u16, u16)>, NoQuote> {
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return Ok(None);
    }
    let ports = message.get(transport..transport + 4).ok_or(NoQuote::Truncated)?;
    Ok(Some((read_u16(ports, 0), read_u16(ports, 2))))
}

/// Writes `address` and, where there are ports, `port` on one side of the packet that `message` quotes, and corrects the
/// checksums: of the quoted IP header, of the quoted TCP or UDP header where it is quoted that far, and of the error. The addresses
/// of the error's own IP header are not covered by it and are the caller's to change. `quote` was read of this message.
pub fn readdress_ipv4(message: &mut [u8], quote: &Quote<u32>, side: Side, address: u32, port: u16) {
    let at = AT + if side == Side::Source { 12 } else { 16 };
    if quote.transport > message.len() || quote.transport < AT + ipv4::MIN_HEADER {
        return;
    }
    let change = Difference::default().replace_u32(read_u32(message, at), address);
    message[at..at + 4].copy_from_slice(&address.to_be_bytes());
    let mut sum = change;
    replace_check(message, AT + 10, &mut sum, |check| change.apply(check));
    rewrite_transport(message, quote.protocol, quote.transport, side, port, change, &mut sum);
    replace_check(message, 2, &mut Difference::default(), |check| sum.apply(check));
}

/// The same for ICMPv6, whose checksum covers the addresses of the error's own IPv6 header: `outer` is how those change, as
/// [`ipv6::readdress`] tells it.
pub fn readdress_ipv6(
    message: &mut [u8],
    quote: &Quote<u128>,
    side: Side,
    address: u128,
    port: u16,
    outer: Difference,
) {
    let at = AT + if side == Side::Source { 8 } else { 24 };
    if quote.transport > message.len() || quote.transport < AT + ipv6::HEADER {
        return;
    }
    let change = Difference::default().replace_u128(super::read_u128(message, at), address);
    message[at..at + 16].copy_from_slice(&address.to_be_bytes());
    let mut sum = change;
    rewrite_transport(message, quote.protocol, quote.transport, side, port, change, &mut sum);
    replace_check(message, 2, &mut Difference::default(), |check| outer.and(sum).apply(check));
}

/// Writes `port` into the quoted transport header and corrects its checksum, as far as they are quoted. `change` is that of
/// the address; what is changed here is added to `sum`.
fn rewrite_transport(
    message: &mut [u8],
    protocol: u8,
    transport: usize,
    side: Side,
    port: u16,
    change: Difference,
    sum: &mut Difference,
) {
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return;
    }
    let at = transport + if side == Side::Source { 0 } else { 2 };
    let Some(field) = message.get_mut(at..at + 2) else { return };
    let old = read_u16(field, 0);
    field.copy_from_slice(&port.to_be_bytes());
    *sum = sum.replace_u16(old, port);
    let change = change.replace_u16(old, port);
    match protocol {
        protocol::TCP => replace_check(message, transport + tcp::CHECKSUM, sum, |check| change.apply(check)),
        protocol::UDP => replace_check(message, transport + udp::CHECKSUM, sum, |check| match check {
            0 => 0,
            check => udp::written(change.apply(check)),
        }),
        // SCTP's checksum covers what is not quoted.
        _ => {}
    }
}

/// Replaces the checksum field at `at`, where the message goes that far, and adds the replacement to `sum`.
fn replace_check(message: &mut [u8], at: usize, sum: &mut Difference, new: impl FnOnce(u16) -> u16) {
    let Some(field) = message.get_mut(at..at + 2) else { return };
    let old = read_u16(field, 0);
    let new = new(old);
    field.copy_from_slice(&new.to_be_bytes());
    *sum = sum.replace_u16(old, new);
}

#[cfg(test)]
mod tests;
