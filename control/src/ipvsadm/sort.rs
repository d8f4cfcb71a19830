//! The order of a list.
//!
//! ipvsadm compares by subtracting unsigned numbers and taking the difference as a signed one, so that
//! 255.255.255.255 comes before 0.0.0.0 and a mark of 4294967295 before every other. Such a comparison is not an
//! order (a < b < c < a is possible), and what a sort makes of it depends on the sort. glibc's `qsort` is a merge
//! sort that halves downwards; this is one too. The standard library's sorts may panic on such comparisons.

use std::net::IpAddr;

use crate::model::{Family, VirtualRange, VirtualService};
use crate::protocol::{DestinationEntry, ServiceEntry};

/// Puts services into ipvsadm's order.
pub fn services(services: Vec<ServiceEntry>) -> Vec<ServiceEntry> {
    merge_sort(services, &|a, b| compare_services(&a.service.service, &b.service.service))
}

/// Puts destinations into ipvsadm's order.
pub fn destinations(destinations: Vec<DestinationEntry>) -> Vec<DestinationEntry> {
    merge_sort(destinations, &|a, b| {
        let (a, b) = (&a.destination, &b.destination);
        let only_first = a.address.is_ipv4();
        first_difference(&[
            compare_addresses(a.address, b.address, only_first),
            i32::from(a.port) - i32::from(b.port),
        ])
    })
}

fn compare_services(a: &VirtualService, b: &VirtualService) -> i32 {
    let parts = |service: &VirtualService| match *service {
        VirtualService::Address { protocol, address, port } => (0, protocol.number(), address, port),
        VirtualService::Mark { mark, .. } => (mark, 0, IpAddr::from([0; 4]), 0),
        VirtualService::Range(VirtualRange { protocol, network, ports }) => {
            (0, protocol.number(), network.addr(), ports.first())
        }
    };
    // Of ranges that begin alike, the one that is for less comes first.
    let extent = |service: &VirtualService| match *service {
        VirtualService::Range(VirtualRange { network, ports, .. }) => {
            (i32::from(network.max_prefix_len() - network.prefix_len()), i32::from(ports.last()))
        }
        _ => (-1, 0),
    };
    let family = |service: &VirtualService| match service.family() {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    };
    let ((mark_a, protocol_a, address_a, port_a), (mark_b, protocol_b, address_b, port_b)) =
        (parts(a), parts(b));
    first_difference(&[
        mark_a.wrapping_sub(mark_b) as i32,
        family(a) - family(b),
        i32::from(protocol_a) - i32::from(protocol_b),
        compare_addresses(address_a, address_b, address_a.is_ipv4()),
        i32::from(port_a) - i32::from(port_b),
        extent(a).0 - extent(b).0,
        extent(a).1 - extent(b).1,
    ])
}

fn first_difference(differences: &[i32]) -> i32 {
    differences.iter().copied().find(|d| *d != 0).unwrap_or(0)
}

fn compare_addresses(a: IpAddr, b: IpAddr, only_first: bool) -> i32 {
    let (a, b) = (words(a), words(b));
    let count = if only_first { 1 } else { 4 };
    let differences: Vec<i32> = a.iter().zip(b).take(count).map(|(a, b)| a.wrapping_sub(b) as i32).collect();
    first_difference(&differences)
}

/// An address as the kernel's union holds it: four words, of which IPv4 fills the first.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(a) => [a.into(), 0, 0, 0],
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

fn merge_sort<T>(mut items: Vec<T>, compare: &dyn Fn(&T, &T) -> i32) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let right = items.split_off(items.len() / 2);
    let mut left = merge_sort(items, compare).into_iter().peekable();
    let mut right = merge_sort(right, compare).into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    loop {
        let next = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if compare(a, b) > 0 => right.next(),
            (Some(_), _) => left.next(),
            (None, _) => right.next(),
        };
        match next {
            Some(item) => merged.push(item),
            None => return merged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_is_none_is_sorted_without_panic() {
        let wrapping = |a: &u32, b: &u32| a.wrapping_sub(*b) as i32;
        let sorted = merge_sort(vec![0, 0xffff_ffff, 0xc633_6409, 0xc633_6401], &wrapping);
        assert_eq!(sorted, [0xc633_6401, 0xc633_6409, 0xffff_ffff, 0]);
        // 0 < 0x50000000 < 0xa0000000 < 0: glibc's answer is that of halving downwards.
        assert_eq!(merge_sort(vec![0xa000_0000, 0, 0x5000_0000], &wrapping), [0xa000_0000, 0, 0x5000_0000]);
    }
}
