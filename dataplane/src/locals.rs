//! Local addresses and ports: what real servers by FULLNAT take for their clients'. Prepared by control and part of every snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use crate::counters::Drop;

/// How many addresses and ports are tried for a connection, so that a packet never takes long. With 9 of 10 in use, one connection in
/// 850 is refused; with 3 of 4, one in 10^8.
const TRIES: u64 = 64;

/// An address of the director's own with the ports that may be used, from the first to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The address.
    pub address: IpAddr,
    /// The lowest port.
    pub first_port: u16,
    /// The highest port.
    pub last_port: u16,
}

impl Block {
    fn ports(self) -> u64 {
        u64::from(self.last_port.saturating_sub(self.first_port)) + 1
    }
}

/// Addresses of the director's own, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    blocks: Vec<Block>,
    size: u64,
}

impl Pool {
    /// Of these addresses; those beyond the first 65536 are left out.
    ///
    /// # Errors
    /// As a packet is dropped that would need an address of it: where it is empty.
    pub fn new(mut blocks: Vec<Block>) -> Result<Self, Drop> {
        blocks.truncate(1 << 16);
        if blocks.is_empty() {
            return Err(Drop::NoLocalAddress);
        }
        let size = blocks.iter().map(|block| block.ports()).sum();
        Ok(Self { blocks, size })
    }

    /// How many connections a server may have at once.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What a connection tries in turn, by a number that is to be drawn anew for each. At random, so that long-lived connections are
    /// not met in a row, and nobody knows the next port; in a small pool all there is.
    pub fn candidates(&self, drawn: u64) -> impl Iterator<Item = (IpAddr, u16)> + '_ {
        let first = scale(drawn, self.size);
        (0..TRIES.min(self.size)).filter_map(move |n| {
            if self.size <= TRIES { self.at((first + n) % self.size) } else { self.drawn(mix(drawn, n)) }
        })
    }

    /// Each address as often as the others, however many ports they have.
    fn drawn(&self, number: u64) -> Option<(IpAddr, u16)> {
        let block = self.blocks.get(scale(number, self.blocks.len() as u64) as usize)?;
        let port = scale(number << 32, block.ports());
        Some((block.address, block.first_port + port as u16))
    }

    /// What comes at this place.
    fn at(&self, mut place: u64) -> Option<(IpAddr, u16)> {
        for block in &self.blocks {
            if place < block.ports() {
                return Some((block.address, block.first_port + place as u16));
            }
            place -= block.ports();
        }
        None
    }
}

/// As far into 0..`size` as the upper half of `number` is into its range; `size` is at most 2^32.
fn scale(number: u64, size: u64) -> u64 {
    ((number >> 32) * size) >> 32
}

/// Another number for each `n`: the finisher of splitmix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(number: u64, n: u64) -> u64 {
    let z = number.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The pools of all destinations, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Locals(Vec<Option<Arc<Pool>>>);

impl Locals {
    /// The pools of these destinations. Others have none.
    pub fn new(pools: impl IntoIterator<Item = (u32, Arc<Pool>)>) -> Self {
        let mut all = Vec::new();
        for (destination, pool) in pools {
            let place = destination as usize;
            if place >= all.len() {
                all.resize(place + 1, None);
            }
            all[place] = Some(pool);
        }
        Self(all)
    }

    /// True where no destination has a pool.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pool of a destination, or why its new connections are dropped.
    pub fn of(&self, destination: u32) -> Result<&Pool, Drop> {
        let pool = self.0.get(destination as usize).and_then(Option::as_deref);
        pool.ok_or(Drop::NoLocalAddress)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pool(addresses: u8, (first_port, last_port): (u16, u16)) -> Pool {
        let block = |n| Block { address: [192, 0, 2, n].into(), first_port, last_port };
        Pool::new((1..=addresses).map(block).collect()).unwrap()
    }

    #[test]
    fn a_small_pool_is_tried_whole() {
        for (addresses, ports, size) in [(1, (1024, 1024), 1), (3, (65530, 65535), 18), (4, (1, 16), 64)] {
            let pool = pool(addresses, ports);
            for n in 0..100 {
                let tried: HashSet<_> = pool.candidates(mix(7, n)).collect();
                assert_eq!((tried.len(), pool.size()), (size, size as u64));
                assert!(tried.iter().all(|(_, port)| (ports.0..=ports.1).contains(port)));
            }
        }
    }

    #[test]
    fn a_large_pool_is_tried_all_over() {
        let pool = pool(2, (1024, u16::MAX));
        let all: Vec<_> = (0..1000).flat_map(|n| pool.candidates(mix(7, n))).collect();
        assert_eq!(all.len(), 64_000);
        for address in [1, 2] {
            let ports = all.iter().filter(|(a, _)| *a == IpAddr::from([192, 0, 2, address])).map(|(_, p)| p);
            assert!((31_000..33_000).contains(&ports.clone().count()));
            // Of each of eight parts of the range, as many as of the others.
            let mut parts = [0; 8];
            ports.for_each(|port| parts[usize::from(port - 1024) * 8 / 64_512] += 1);
            assert!(parts.iter().all(|part| (3_700..4_300).contains(part)), "{parts:?}");
        }
        assert!(all.iter().all(|(_, port)| *port >= 1024));
    }

    #[test]
    fn destinations_have_their_pools_or_none() {
        assert_eq!(Pool::new(vec![]), Err(Drop::NoLocalAddress));
        let locals = Locals::new([(3, Arc::new(pool(1, (5, 6))))]);
        assert_eq!(locals.of(3).map(Pool::size), Ok(2));
        for without in [0, 2, 4, u32::MAX] {
            assert_eq!(locals.of(without).map(Pool::size), Err(Drop::NoLocalAddress));
        }
    }
}
