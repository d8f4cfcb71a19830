//! From one family of IP into the other (RFC 7915), for servers by FULLNAT whose family is not their clients': NAT64 and NAT46. A
//! header of the other family takes the place of the packet's own one with all of its options and extensions; behind it only ports
//! and checksums change. Fragments stay fragments. ICMP errors change with the packet that they quote ([`error`]).
//!
//! Nothing here is put together or cut apart: what has no counterpart in the other family is dropped by name, and what becomes too long
//! is somebody else's to [fragment](super::fragment).

mod error;

use std::net::IpAddr;

pub(crate) use error::{ErrorEnds, error};

use super::frames::{replace_front, truncate};
use super::fullnat::set_ports;
use crate::counters::Drop;
use crate::packet::checksum::{self, Difference};
use crate::packet::ipv6::{self, Ipv6, extension, mapped};
use crate::packet::{ethernet, icmp, ipv4, protocol, read_u16, udp};
use crate::parse::AnyPacket;
use crate::wire::Frame;

/// By how much a packet becomes longer over IPv6.
pub(crate) const LONGER: usize = ipv6::HEADER - ipv4::MIN_HEADER;

/// An IPv4 packet that is not longer than this may be fragmented on its way (RFC 7915 §5.1): IPv6 hosts send such packets without having
/// asked for the length that would do.
const FREELY_FRAGMENTED: usize = ipv6::MIN_MTU - LONGER;

/// IPv4's bits that say that a packet must not be fragmented, and that fragments follow; IPv6's.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_IPV4: u16 = 0x2000;
const MORE_IPV6: u16 = 1;
/// Of IPv4's field, what says where a fragment belongs, in units of eight bytes.
const OFFSET_IPV4: u16 = 0x1fff;

/// Who a packet is from and to, as it goes on. IPv4 addresses are mapped into IPv6.
pub struct Ends {
    /// Who sends it.
    pub source: u128,
    /// Who is to get it.
    pub destination: u128,
    /// Both ports, the source's in the upper half.
    pub ports: u32,
}

/// Which part of its datagram a fragment is.
#[derive(Clone, Copy)]
struct Part {
    /// Where it belongs, in bytes.
    offset: u16,
    more: bool,
    identification: u32,
}

impl Part {
    /// Of a packet over IPv4, where it is a fragment.
    fn of_ipv4(header: &[u8; ipv4::MIN_HEADER]) -> Option<Self> {
        let word = read_u16(header, 6);
        (word & (MORE_IPV4 | OFFSET_IPV4) != 0).then(|| Self {
            offset: (word & OFFSET_IPV4) * 8,
            more: word & MORE_IPV4 != 0,
            identification: read_u16(header, 4).into(),
        })
    }

    /// Of one over IPv6, where it has a header that says so; what comes behind that begins at `payload`. Further extension headers
    /// there would count as data in every fragment's place, and could not be left out of the first.
    #[cold]
    fn of_ipv6(packet: &[u8], payload: usize) -> Result<Option<Self>, Drop> {
        let fragment = Ipv6::new(packet, usize::MAX).ok().and_then(Ipv6::fragment);
        match fragment {
            Some((fragment, _)) if fragment.at + ipv6::FRAGMENT != payload => Err(Drop::Untranslatable),
            Some((ipv6::Fragment { offset, more, identification, .. }, _)) => {
                Ok(Some(Self { offset, more, identification }))
            }
            None => Ok(None),
        }
    }
}

/// What is the same in a header of either family.
struct Header {
    /// Type of service, or traffic class: DSCP and ECN.
    class: u8,
    /// Time to live, or hop limit.
    hops: u8,
    protocol: u8,
    /// The length of what comes behind the header and all that belongs to it.
    payload: usize,
    /// Of an IPv4 packet that may be fragmented and is no fragment.
    identification: u16,
    part: Option<Part>,
}

impl Header {
    /// Of a packet whose transport header begins at `transport`. `protocol` comes from there: behind IPv6's extensions it is not in the
    /// header.
    fn of(ip: &[u8], (protocol, transport): (u8, usize), length: usize) -> Result<Self, Drop> {
        let head = ip.first_chunk::<{ ipv4::MIN_HEADER }>().ok_or(Drop::Truncated)?;
        let (class, hops, part) = if head[0] >> 4 == 4 {
            (head[1], head[8], Part::of_ipv4(head))
        } else {
            let has_extensions = transport != ipv6::HEADER;
            let part = if has_extensions { Part::of_ipv6(ip, transport)? } else { None };
            ((read_u16(head, 0) >> 4) as u8, head[7], part)
        };
        let payload = length.saturating_sub(transport);
        Ok(Self { class, hops, protocol, payload, identification: 0, part })
    }

    /// The same one hop on.
    fn passed_on(self) -> Result<Self, Drop> {
        if self.hops <= 1 { Err(Drop::TtlExpired) } else { Ok(Self { hops: self.hops - 1, ..self }) }
    }

    /// As bytes of the family that `to` is of; both addresses as numbers, IPv4 mapped into IPv6. `None` where it is too long for it.
    fn write(&self, source: u128, to: u128) -> Option<Front> {
        let mut front = Front::default();
        if !is_ipv4(to) {
            let (next, more) = match self.part {
                Some(_) => (extension::FRAGMENT, ipv6::FRAGMENT),
                None => (self.protocol, 0),
            };
            let payload = u16::try_from(more + self.payload).ok()?;
            front.extend([0x60 | self.class >> 4, self.class << 4, 0, 0]);
            front.extend(payload.to_be_bytes());
            front.extend([next, self.hops]);
            front.extend(source.to_be_bytes());
            front.extend(to.to_be_bytes());
            if let Some(Part { offset, more, identification }) = self.part {
                front.extend([self.protocol, 0]);
                front.extend((offset | if more { MORE_IPV6 } else { 0 }).to_be_bytes());
                front.extend(identification.to_be_bytes());
            }
            return Some(front);
        }
        let length = u16::try_from(ipv4::MIN_HEADER + self.payload).ok()?;
        let (identification, place) = match self.part {
            Some(Part { offset, more, identification }) => {
                let more = if more { MORE_IPV4 } else { 0 };
                (identification as u16, more | (offset / 8))
            }
            None if usize::from(length) <= FREELY_FRAGMENTED => (self.identification, 0),
            None => (0, DONT_FRAGMENT),
        };
        front.extend([0x45, self.class]);
        front.extend(length.to_be_bytes());
        front.extend(identification.to_be_bytes());
        front.extend(place.to_be_bytes());
        front.extend([self.hops, self.protocol, 0, 0]);
        front.extend((source as u32).to_be_bytes());
        front.extend((to as u32).to_be_bytes());
        let check = checksum::verify(&front);
        front[10..12].copy_from_slice(&check.to_be_bytes());
        Some(front)
    }
}

/// What comes in front: an IP header, that of an ICMP error, and that of the packet it quotes, a fragment maybe.
type Front = arrayvec::ArrayVec<u8, { 2 * ipv6::HEADER + ipv6::FRAGMENT + icmp::HEADER }>;

/// Whether this is an IPv4 address that is mapped into IPv6.
fn is_ipv4(address: u128) -> bool {
    address >> 32 == 0xffff
}

/// What both addresses add to a checksum over the pseudo-header.
fn addresses(source: u128, destination: u128) -> u32 {
    if is_ipv4(destination) {
        checksum::pseudo_ipv4(source as u32, destination as u32, 0, 0)
    } else {
        checksum::pseudo_ipv6(source, destination, 0, 0)
    }
}

/// The same of the addresses in a header.
fn addresses_in(ip: &[u8]) -> u32 {
    let bytes = if ip.first().is_some_and(|byte| byte >> 4 == 4) { ip.get(12..20) } else { ip.get(8..40) };
    checksum::sum(bytes.unwrap_or_default())
}

/// Whether IPv4 options say by which way the packet is to go on (RFC 7915 §4.1).
fn is_source_routed(options: &[u8]) -> bool {
    let mut rest = options;
    while let [kind, more @ ..] = rest {
        rest = match (kind, more) {
            (0, _) => return false,
            (1, _) => more,
            (131 | 137, [length, pointer, ..]) if pointer <= length => return true,
            (_, [length, ..]) if *length >= 2 => rest.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        };
    }
    false
}

/// How long what becomes of a packet is, and may be: in bytes, with its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// How long it is.
    pub(crate) length: usize,
    /// How long it may be where it leaves.
    pub(crate) longest: usize,
    /// True where it is fragmented if it is longer, and need not be told.
    pub(crate) is_fragmentable: bool,
    /// How long one of its sender's may be, as he is told.
    pub(crate) told: usize,
}

impl Fit {
    /// Of a packet of `length` bytes, whose transport header or part of a datagram begins at `front`, where packets of `mtu` bytes leave.
    ///
    /// IPv4's that may be fragmented go on in packets that every IPv6 path takes: nobody would tell who sends them of a shorter one (RFC
    /// 7915 §4). IPv6's that every path takes are fragmented where IPv4's does not (RFC 7915 §5.1).
    pub(crate) fn new(ip: &[u8], (front, length): (usize, usize), mtu: usize) -> Self {
        let Some(head) = ip.first_chunk::<{ ipv4::MIN_HEADER }>() else {
            return Self { length, longest: mtu, is_fragmentable: false, told: mtu };
        };
        let payload = length.saturating_sub(front);
        if head[0] >> 4 == 4 {
            let is_fragmentable = read_u16(head, 6) & DONT_FRAGMENT == 0;
            let more = if Part::of_ipv4(head).is_some() { ipv6::FRAGMENT } else { 0 };
            return Self {
                length: ipv6::HEADER + more + payload,
                longest: if is_fragmentable { mtu.min(ipv6::MIN_MTU) } else { mtu },
                is_fragmentable,
                told: mtu.saturating_sub(LONGER + more),
            };
        }
        let is_fragment = front != ipv6::HEADER && matches!(Part::of_ipv6(ip, front), Ok(Some(_)));
        Self {
            length: ipv4::MIN_HEADER + payload,
            longest: mtu,
            is_fragmentable: is_fragment || length <= ipv6::MIN_MTU,
            told: (mtu + LONGER).max(ipv6::MIN_MTU),
        }
    }

    /// By how much it may become longer: by nothing where it goes in pieces. `None` where it cannot go on.
    pub(crate) fn room(self) -> Option<usize> {
        match self.longest.checked_sub(self.length) {
            None if self.is_fragmentable => Some(0),
            room => room,
        }
    }
}

/// Why a packet cannot be translated whatever else becomes of it, nor the fragments that follow it.
pub(crate) fn check(ip: &[u8], packet: &AnyPacket) -> Result<(), Drop> {
    read(ip, packet).map(drop)
}

/// The packet's header, and whether it has to get a checksum that it has none of.
fn read(ip: &[u8], packet: &AnyPacket) -> Result<(Header, bool), Drop> {
    let protocol = packet.flow.protocol();
    let is_from_ipv4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
    if is_from_ipv4 && is_source_routed(ip.get(ipv4::MIN_HEADER..packet.transport).unwrap_or_default()) {
        return Err(Drop::Untranslatable);
    }
    let header = Header::of(ip, (protocol, packet.transport), packet.length)?;
    let has_none = ip.get(packet.transport + udp::CHECKSUM..).is_some_and(|at| at.starts_with(&[0, 0]));
    let wants_checksum = is_from_ipv4 && protocol == protocol::UDP && has_none;
    if wants_checksum && header.part.is_some() {
        // It would have to be over all of the datagram (RFC 7915 §4.5).
        return Err(Drop::Untranslatable);
    }
    Ok((header, wants_checksum))
}

/// Changes `frame`, which holds this packet, or first fragment of one, into one of the other family between these ends. `identification`
/// is for an IPv4 packet that may be fragmented.
///
/// # Errors
/// Why the packet cannot go on; the frame is as it was, but for padding, or of no use. As it was where its time to live has run out.
pub(crate) fn packet<F: Frame>(
    frame: &mut F,
    packet: &AnyPacket,
    ends: &Ends,
    identification: u16,
) -> Result<(), Drop> {
    let ip = frame.data().get(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let (header, wants_checksum) = read(ip, packet)?;
    let header = Header { identification, ..header.passed_on()? };
    let front = header.write(ends.source, ends.destination).ok_or(Drop::TooBig)?;
    truncate(frame, ethernet::HEADER + packet.length)?;
    let protocol = header.protocol;
    let ip = frame.data_mut().get_mut(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    if wants_checksum && ip.len() < packet.length {
        return Err(Drop::Scattered);
    }
    let change =
        Difference::default().remove(addresses_in(ip)).insert(addresses(ends.source, ends.destination));
    set_ports(ip, protocol, (packet.transport, packet.length), ends.ports, change)?;
    if wants_checksum {
        // Over IPv6 there has to be one (RFC 8200 §8.1), over as much as the datagram says that it has.
        let datagram = ip.get_mut(packet.transport..packet.length).ok_or(Drop::Scattered)?;
        let length =
            usize::from(read_u16(datagram.first_chunk::<{ udp::HEADER }>().ok_or(Drop::Truncated)?, 4));
        let datagram = datagram.get_mut(..length).filter(|_| length >= udp::HEADER).ok_or(Drop::BadHeader)?;
        let pseudo = checksum::pseudo_ipv6(ends.source, ends.destination, protocol, datagram.len() as u32);
        let check = udp::written(!checksum::fold(pseudo + checksum::sum(datagram)));
        if let Some(field) = datagram.get_mut(udp::CHECKSUM..udp::CHECKSUM + 2) {
            field.copy_from_slice(&check.to_be_bytes());
        }
    }
    replace_front(frame, ethernet::HEADER + packet.transport, &front)
}

/// The same for a fragment that is not the first: `length` bytes, whose part of the datagram begins at `front`.
///
/// # Errors
/// Why it cannot go on.
pub(crate) fn fragment<F: Frame>(
    frame: &mut F,
    (front, length): (usize, usize),
    (source, to): (IpAddr, IpAddr),
) -> Result<(), Drop> {
    let ip = frame.data().get(ethernet::HEADER..).ok_or(Drop::Truncated)?;
    let protocol = if to.is_ipv4() {
        let fragment = Ipv6::new(ip, usize::MAX).ok().and_then(Ipv6::fragment);
        let (_, next) = fragment.ok_or(Drop::Truncated)?;
        if ipv6::is_extension(next) {
            return Err(Drop::Untranslatable);
        }
        next
    } else {
        if is_source_routed(ip.get(ipv4::MIN_HEADER..front).unwrap_or_default()) {
            return Err(Drop::Untranslatable);
        }
        *ip.get(9).ok_or(Drop::Truncated)?
    };
    let header = Header::of(ip, (protocol, front), length)?.passed_on()?;
    let bytes = header.write(mapped(source), mapped(to)).ok_or(Drop::TooBig)?;
    truncate(frame, ethernet::HEADER + length)?;
    replace_front(frame, ethernet::HEADER + front, &bytes)
}

#[cfg(test)]
mod tests;
