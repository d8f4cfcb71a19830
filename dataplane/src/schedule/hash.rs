//! What the hashing schedulers share: how they fold an address, and how they fall back.

use std::net::IpAddr;

use crate::destination::Destinations;
use crate::service::{Destination, Service};

use super::{Arrival, Flags, is_candidate};

/// An address as the kernel's schedulers hash it: IPv4 as the number it is, IPv6 as its four 32-bit words xored.
#[inline]
pub(super) fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let words = u128::from(address);
            (words >> 96) as u32 ^ (words >> 64) as u32 ^ (words >> 32) as u32 ^ words as u32
        }
    }
}

/// What sh and mh hash: the client's address, and its port where the service's second flag (sh-port, mh-port) is set.
#[inline]
pub(super) fn source(service: &Service, arrival: &Arrival<'_>) -> u32 {
    let (address, port) = arrival.flow.source();
    let port = if service.flags().contains(Flags::SECOND) { port } else { 0 };
    fold(address).wrapping_add(port.into())
}

/// The highest `bits` bits of `value` times 2^32 over the golden ratio (Linux, hash_32).
#[inline]
pub(super) fn multiplicative(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> (32 - bits)
}

/// The destination in the slot that `hash(0)` falls into. If that one is no candidate and the service falls back, the
/// slots of `hash(1)` and so on are asked; the first offset is the slot itself, as in the kernel.
#[inline]
pub(super) fn look_up<'s>(
    service: &'s Service,
    loads: &Destinations,
    falls_back: bool,
    hash: impl Fn(u32) -> u32,
) -> Option<&'s Destination> {
    let first = hash(0);
    let destination = service.in_slot(first)?;
    if is_candidate(destination, loads) {
        return Some(destination);
    }
    // Without the second test, a service whose servers are all full would have every slot asked for every packet.
    if !falls_back || !service.destinations().iter().any(|d| is_candidate(d, loads)) {
        return None;
    }
    let slots = service.slots().count();
    let start = first % slots;
    let offsets = (start..slots).chain(0..start);
    let mut others = offsets.filter_map(|offset| service.in_slot(hash(offset)));
    others.find(|d| is_candidate(d, loads))
}
