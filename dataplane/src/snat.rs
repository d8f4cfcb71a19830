//! SNAT: connections that servers open outward through the director get another source. What netfilter's targets SNAT and
//! MASQUERADE are to a director on Linux: rules in order, of which the first that takes a connection's first packet says what it
//! gets. Looks at nothing but the packet's flow and the port that it leaves by.
//!
//! A connection by SNAT is one by FULLNAT that is opened from inside ([`crate::conn::inside`]): its client is the server, and its
//! virtual address and real server are both the host outside.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::counters::Drop;
use crate::locals::mix;
use crate::mark::Addresses;
use crate::network::PortId;
use crate::parse::AnyFlow;

/// How many ports of the address that is the source's are tried for a connection, and how many of the others, so that a packet never
/// takes long.
const TRIES: u64 = 64;

/// Addresses that follow each other, all of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    first: IpAddr,
    last: IpAddr,
}

impl Block {
    /// From the first to the last one. `None` where they are not of one family, or the other way round.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// How many addresses follow the first one.
    fn more(self) -> u128 {
        number(self.last) - number(self.first)
    }

    fn at(self, place: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first).wrapping_add(place as u32)).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first).wrapping_add(place)).into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Addresses to choose from, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    blocks: Vec<Block>,
    /// How many addresses there are; what is beyond a number of 64 bits is left out.
    size: u64,
}

impl Pool {
    /// Of these addresses. `None` where there are none, or of two families.
    pub fn new(blocks: Vec<Block>) -> Option<Self> {
        let is_ipv4 = blocks.first()?.first.is_ipv4();
        if blocks.iter().any(|block| block.first.is_ipv4() != is_ipv4) {
            return None;
        }
        let more = |block: &Block| u64::try_from(block.more()).unwrap_or(u64::MAX).saturating_add(1);
        let size = blocks.iter().map(more).fold(0, u64::saturating_add);
        Some(Self { blocks, size })
    }

    /// The one address of a pool of one.
    fn of(address: IpAddr) -> [Block; 1] {
        [Block { first: address, last: address }]
    }
}

/// What a connection's source becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// It stays what it is, and the packet is Linux's.
    Nothing,
    /// The address that Linux would send from by the route to the connection's destination.
    Masquerade,
    /// One of these.
    Pool(Pool),
}

/// A rule: connections that are all of this get this source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose counters its connections count for: a number of a destination.
    pub number: u32,
    /// IP protocol number; `None` for each.
    pub protocol: Option<u8>,
    /// Where they come from.
    pub source: Addresses,
    /// Where they go to.
    pub destination: Addresses,
    /// The port by which they leave; `None` for each.
    pub out_port: Option<PortId>,
    /// What they get.
    pub translation: Translation,
    /// The ports that may be used, TCP's, UDP's and SCTP's.
    pub ports: RangeInclusive<u16>,
}

impl Rule {
    /// True where the rule is for connections of `flow` that leave by `port`.
    pub fn takes(&self, flow: AnyFlow, port: PortId) -> bool {
        let (source, destination) = (flow.source().0, flow.destination().0);
        let is_its_family = match &self.translation {
            Translation::Pool(pool) => {
                pool.blocks.iter().all(|block| block.first.is_ipv4() == source.is_ipv4())
            }
            Translation::Nothing | Translation::Masquerade => true,
        };
        self.protocol.is_none_or(|protocol| protocol == flow.protocol())
            && self.out_port.is_none_or(|out_port| out_port == port)
            && is_its_family
            && self.source.contains(source)
            && self.destination.contains(destination)
    }

    /// What a connection of `flow` tries in turn, by a number that is to be drawn anew for each; `own` is the address that Linux would
    /// send from, if there is one.
    ///
    /// All connections of a server have the same address as long as it has ports left (RFC 4787 §4.1, "paired"), and the server's own
    /// port where that may be used and nobody has it. Else ports are drawn at random, so that long-lived connections are not met in
    /// a row, and nobody outside knows the next one; of few ports all are tried.
    ///
    /// # Errors
    /// Why the packet is dropped: there is no address of its family to send from.
    pub fn candidates(
        &self,
        flow: AnyFlow,
        own: impl FnOnce() -> Option<IpAddr>,
        drawn: u64,
    ) -> Result<impl Iterator<Item = (IpAddr, u16)> + '_, Drop> {
        let (blocks, size) = match &self.translation {
            Translation::Nothing => return Err(Drop::NoSourceAddress),
            Translation::Masquerade => (Few::One(Pool::of(own().ok_or(Drop::NoSourceAddress)?)), 1),
            Translation::Pool(pool) => (Few::All(&pool.blocks), pool.size),
        };
        let (source, port) = flow.source();
        let home = scale(mix(number(source) as u64 ^ (number(source) >> 64) as u64, 0), size);
        let (first_port, ports) = (*self.ports.start(), u64::from(self.ports.end() - self.ports.start()) + 1);
        let kept = self.ports.contains(&port).then_some((home, port));
        let at_home = (0..TRIES.min(ports)).map(move |n| (home, in_turn(drawn, n, ports)));
        // As places: an address after the other, each with all of its ports.
        let places = (size - 1).saturating_mul(ports);
        let elsewhere = (0..TRIES.min(places)).map(move |n| {
            let drawn = mix(drawn, TRIES);
            match places <= TRIES {
                true => {
                    let place = in_turn(drawn, n, places);
                    (place / ports, place % ports)
                }
                false => (scale(mix(drawn, 2 * n + 1), size - 1), scale(mix(drawn, 2 * n + 2), ports)),
            }
        });
        // The others are those behind it, and around.
        let elsewhere = elsewhere.map(move |(address, port)| (around(home, address, size), port));
        let by_number =
            at_home.chain(elsewhere).map(move |(address, port)| (address, first_port + port as u16));
        Ok(kept
            .into_iter()
            .chain(by_number)
            .filter_map(move |(address, port)| Some((blocks.at(address)?, port))))
    }
}

/// One block, or those of a pool.
enum Few<'p> {
    One([Block; 1]),
    All(&'p [Block]),
}

impl Few<'_> {
    /// The address at this place.
    fn at(&self, place: u64) -> Option<IpAddr> {
        let blocks = match self {
            Self::One(block) => &block[..],
            Self::All(blocks) => blocks,
        };
        let mut place = u128::from(place);
        for block in blocks {
            if place <= block.more() {
                return Some(block.at(place));
            }
            place -= block.more() + 1;
        }
        None
    }
}

/// The `n`th number in 0..`size` that is tried: of few one after the other, from a place that is drawn; of many one that is drawn.
fn in_turn(drawn: u64, n: u64, size: u64) -> u64 {
    if size <= TRIES { (scale(drawn, size) + n) % size } else { scale(mix(drawn, n), size) }
}

/// The place in 0..`size` that is `more` behind the one that follows `home`, and around.
fn around(home: u64, more: u64, size: u64) -> u64 {
    ((u128::from(home) + 1 + u128::from(more)) % u128::from(size)) as u64
}

/// As far into 0..`size` as `number` is into its range.
fn scale(number: u64, size: u64) -> u64 {
    ((u128::from(number) * u128::from(size)) >> 64) as u64
}

/// Rules, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// In this order.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self(rules.into_iter().collect())
    }

    /// True where nobody gets another source.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first rule for connections of `flow` that leave by `port`, where that gives them another source.
    pub fn find(&self, flow: AnyFlow, port: PortId) -> Option<&Rule> {
        let rule = self.0.iter().find(|rule| rule.takes(flow, port))?;
        (rule.translation != Translation::Nothing).then_some(rule)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::parse::{Flow, Flow6};

    fn block(first: &str, last: &str) -> Block {
        Block::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    fn rule(blocks: Vec<Block>, ports: RangeInclusive<u16>) -> Rule {
        let (source, destination) = Default::default();
        let translation = Translation::Pool(Pool::new(blocks).unwrap());
        Rule { number: 0, protocol: None, source, destination, out_port: None, translation, ports }
    }

    fn candidates(rule: &Rule, flow: AnyFlow, drawn: u64) -> Vec<(IpAddr, u16)> {
        rule.candidates(flow, || None, mix(7, drawn)).unwrap().collect()
    }

    fn from(port: u16) -> AnyFlow {
        Flow::new(6, (0xc000_0209, port), (0xcb00_7109, 443)).into()
    }

    #[test]
    fn a_small_pool_is_tried_whole_and_no_other() {
        for (blocks, ports, size) in [
            (vec![block("192.0.2.1", "192.0.2.1")], 5..=5, 1),
            (vec![block("192.0.2.1", "192.0.2.3"), block("192.0.2.9", "192.0.2.9")], 65_530..=65_535, 24),
            (vec![block("192.0.2.1", "192.0.2.4")], 1..=16, 64),
        ] {
            let rule = rule(blocks, ports);
            for n in 0..100 {
                let tried: HashSet<_> = candidates(&rule, from(4), n).into_iter().collect();
                assert_eq!(tried.len(), size);
                assert!(tried.iter().all(|(_, port)| rule.ports.contains(port)));
            }
        }
    }

    #[test]
    fn a_large_pool_is_tried_all_over_from_the_sources_own_address_on() {
        let rule = rule(vec![block("2001:db8:64::", "2001:db8:64::ffff:ffff:ffff:ffff")], 1024..=65_535);
        let source = Flow6::new(6, (0x2001_0db8 << 96 | 9, 40_000), (1 << 100, 443)).into();
        let all: Vec<_> = (0..100).map(|n| candidates(&rule, source, n)).collect();
        let home = all[0][0].0;
        for tried in &all {
            assert_eq!((tried.len() as u64, tried[0]), (1 + 2 * TRIES, (home, 40_000)));
            let (own, others) = tried.split_at(1 + TRIES as usize);
            assert!(own.iter().all(|(address, port)| *address == home && *port >= 1024));
            assert!(others.iter().all(|(address, _)| *address != home));
        }
        let ports: HashSet<_> = all.iter().flatten().map(|(_, port)| port).collect();
        let others: HashSet<_> = all.iter().flatten().map(|(address, _)| address).collect();
        assert!(ports.len() > 10_000 && others.len() > 6_000, "{} {}", ports.len(), others.len());
    }

    #[test]
    fn sources_are_spread_over_the_addresses() {
        let rule = rule(vec![block("192.0.2.1", "192.0.2.4")], 1024..=65_535);
        let mut used = [0; 4];
        for source in 0..1000 {
            let flow = Flow::new(17, (0xc633_6400 + source, 5353), (0xcb00_7109, 53)).into();
            let IpAddr::V4(address) = candidates(&rule, flow, 0)[0].0 else { panic!() };
            used[usize::from(address.octets()[3]) - 1] += 1;
        }
        assert!(used.iter().all(|n| (200..300).contains(n)), "{used:?}");
    }

    #[test]
    fn a_pool_is_of_one_family_and_not_empty() {
        assert_eq!(Pool::new(vec![]), None);
        assert_eq!(Pool::new(vec![block("192.0.2.1", "192.0.2.1"), block("::2", "::2")]), None);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(Block::new(address("192.0.2.2"), address("192.0.2.1")), None);
        assert_eq!(Block::new(address("192.0.2.2"), address("::1")), None);
        // More than can be counted: the first ones.
        let all = rule(vec![block("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], 1..=u16::MAX);
        let flow = Flow6::new(6, (9, 40_000), (1 << 100, 443)).into();
        assert_eq!(candidates(&all, flow, 0).len() as u64, 1 + 2 * TRIES);
        assert!(!all.takes(from(1), PortId(0)), "of the other family");
    }
}
