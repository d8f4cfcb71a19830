//! Parse, for fragments: of which datagram it is one, which part, and for the first one the packet that it would be.

use super::{Packet, Packet6, Parsed, is_balanced};
use crate::fragments::{Datagram, Part};
use crate::packet::ethernet::{self, Ethernet};
use crate::packet::ipv4::Ipv4;
use crate::packet::ipv6::{self, BadChain, Ipv6};
use crate::packet::{protocol, sctp, tcp};
use crate::wire::Frame;

/// A fragment of a packet that may be somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<P> {
    /// What it has in common with the others.
    pub datagram: Datagram,
    /// Which part it is; `None` where it cannot be one.
    pub part: Option<Part>,
    /// What is in it.
    pub content: Content<P>,
    /// Where the datagram's part begins, in bytes from the start of the IP header.
    pub front: u16,
    /// The length of that part in bytes.
    pub length: u16,
}

/// What a fragment has of its datagram's transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<P> {
    /// All of it: the first fragment, as the packet that it would be if it were all.
    First(P),
    /// Less than all of it in the first one (RFC 1858 §3, RFC 7112), or some in another one (RFC 3128).
    Tiny,
    /// The first one, of a protocol that is not balanced.
    Foreign,
    /// Nothing: another one.
    Later,
}

impl<P> Content<P> {
    /// Of a fragment that begins at byte `offset` of the datagram.
    fn new(protocol: u8, offset: u16, packet: impl FnOnce() -> Option<P>) -> Self {
        let header = match protocol {
            protocol::TCP => tcp::MIN_HEADER,
            protocol::SCTP => sctp::HEADER + sctp::CHUNK_HEADER,
            // UDP's ends where the second fragment may begin.
            _ => 0,
        };
        match offset {
            0 if !is_balanced(protocol) => Self::Foreign,
            0 => packet().map_or(Self::Tiny, Self::First),
            _ if usize::from(offset) < header => Self::Tiny,
            _ => Self::Later,
        }
    }
}

pub(super) fn of_ipv4<F: Frame>(frame: &F) -> Option<Fragment<Packet>> {
    let ethernet = Ethernet::new(frame.data())?;
    let ip = Ipv4::new(ethernet.payload(), frame.len() - ethernet::HEADER).ok()?;
    if !ip.is_fragment() {
        return None;
    }
    let (offset, front) = (ip.fragment_offset(), ip.header_length() as u16);
    let length = ip.total_length() - front;
    Some(Fragment {
        datagram: Datagram::ipv4(ip.source(), ip.destination(), ip.identification(), ip.protocol()),
        part: Part::new(offset.into(), length.into(), ip.has_more_fragments()),
        content: Content::new(ip.protocol(), offset, || Packet::of(ip, ethernet.payload())),
        front,
        length,
    })
}

pub(super) fn of_ipv6<F: Frame>(frame: &F) -> Option<Fragment<Packet6>> {
    let ethernet = Ethernet::new(frame.data())?;
    let payload = ethernet.payload();
    let ip = Ipv6::new(payload, frame.len() - ethernet::HEADER).ok()?;
    let upper = match ip.upper() {
        Ok(upper) => Some(upper),
        Err(BadChain::Fragmented) => None,
        Err(_) => return None,
    };
    let (fragment, _) = ip.fragment().filter(|(fragment, _)| !fragment.is_whole())?;
    let front = fragment.at + ipv6::FRAGMENT;
    // Both within a packet, whose length field has 16 bits and does not count the header.
    let length = (ip.total_length() - front) as u16;
    Some(Fragment {
        datagram: Datagram::ipv6(ip.source(), ip.destination(), fragment.identification),
        part: Part::new(fragment.offset.into(), length.into(), fragment.more),
        content: match upper {
            None => Content::Tiny,
            Some(upper) => Content::new(upper.protocol, fragment.offset, || Packet6::of(ip, upper, payload)),
        },
        front: front as u16,
        length,
    })
}

/// What an IPv6 fragment is whose headers, as far as they are in it, end with this protocol.
#[cold]
pub(super) fn parsed_ipv6(ip: Ipv6<'_>, protocol: u8) -> Parsed<Packet6> {
    // Behind other extension headers there may be anything, which the first fragment alone tells.
    if is_balanced(protocol) || ip.fragment().is_some_and(|(_, next)| ipv6::is_extension(next)) {
        Parsed::Fragment
    } else {
        Parsed::TO_KERNEL
    }
}

#[cfg(test)]
mod tests;
