//! conhash: consistent hashing with bounded load, of the source address or of QUIC's connection id. IPVS has none.
//!
//! Each of many slots goes to the destination that scores highest for it, by a hash of both and by weight (rendezvous
//! hashing: Thaler, Ravishankar, "Using name-based mappings to increase hit rates", 1998). So when a destination comes,
//! goes or changes its weight, only slots move that it gains or loses. A destination that has 5/4 of its share of all
//! connections gets no new one (Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", 2018): further
//! slots are asked, in an order that the source gives.
//!
//! `conhash-quic` (flag 1) hashes the connection id of a QUIC packet, RFC 9000, where it has one; `conhash-port` (flag 2)
//! hashes the source port, too. A short header is that of a connection that its server has already: that may have twice its
//! share, and a few, to get it. The hash has no secret, so that all directors agree; nobody can make a server take more
//! than its bound by choosing what is hashed.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::{Arrival, Flags, Scheduler, Slots, is_candidate, least_for_weight};
use crate::destination::Destinations;
use crate::service::{Destination, Service};

const SLOTS: u32 = 4096;

/// How many slots are asked before all destinations are.
const ATTEMPTS: u64 = 32;

/// How much of a connection id is hashed, in bytes. A short header does not say how long it is; a client's first one has
/// at least as many (RFC 9000, 7.2).
const CONNECTION_ID: usize = 8;

#[derive(Debug)]
pub(super) struct ConsistentHashing;

/// Hashes an address and a port.
fn hash_socket(address: IpAddr, port: u16) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, u64::from(port));
    match address {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hasher.finish()
}

/// What is hashed for a connection, and how much of its share its server may have for it.
fn key(service: &Service, arrival: Arrival<'_>) -> (u64, Bound) {
    let flags = service.flags();
    if flags.contains(Flags::FIRST)
        && let Some(id) = connection_id(arrival.datagram)
    {
        let mut hasher = SipHasher13::new_with_keys(1, 0);
        hasher.write(id);
        let is_long = arrival.datagram.first().is_some_and(|first| first & LONG_HEADER != 0);
        return (hasher.finish(), if is_long { Bound::NEW } else { Bound::MOVED });
    }
    let (address, port) = arrival.flow.source();
    (hash_socket(address, if flags.contains(Flags::SECOND) { port } else { 0 }), Bound::NEW)
}

/// How many connections a destination may have to get another: so many quarters of its share, and so many more.
#[derive(Clone, Copy)]
struct Bound {
    quarters: u128,
    more: u128,
}

impl Bound {
    /// For a connection that any server may have.
    const NEW: Self = Self { quarters: 5, more: 0 };
    /// For one that a server has already, and that has come to another address: no other can do anything with it.
    const MOVED: Self = Self { quarters: 8, more: 16 };

    fn has_room(self, connections: u64, weight: u32, (all, weights): (u128, u128)) -> bool {
        let (connections, weight) = (u128::from(connections), u128::from(weight));
        4 * connections * weights < self.quarters * all * weight + 4 * self.more * weights
    }
}

/// The bit of a QUIC packet's first byte that tells long headers from short ones (RFC 8999, 5).
const LONG_HEADER: u8 = 0x80;

/// The start of a QUIC packet's destination connection id, as all versions of QUIC have it (RFC 8999, 5). `None` where
/// there is none, or one that is too short.
fn connection_id(datagram: &[u8]) -> Option<&[u8; CONNECTION_ID]> {
    let (first, rest) = datagram.split_first()?;
    let is_long = first & LONG_HEADER != 0;
    if !is_long {
        return rest.first_chunk();
    }
    let (length, id) = rest.get(4..)?.split_first()?;
    id.get(..usize::from(*length))?.first_chunk()
}

/// SplitMix64's output function: every bit of the result depends on every bit of `word`.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Multiples of it differ in all bits (2^64 over the golden ratio).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Destinations of one weight, with the hash of each.
struct Rank {
    weight: u32,
    members: Vec<(u64, u32)>,
}

impl Rank {
    /// The one that scores highest for a slot, and the negative of its score's reciprocal: among equal weights, the
    /// highest hash wins, and only between weights is there a logarithm to take.
    fn best(&self, slot: u64) -> Option<(f64, u32)> {
        let slot = slot.wrapping_add(1).wrapping_mul(GOLDEN);
        let (hash, place) = self.members.iter().map(|(hash, place)| (mix(hash ^ slot), *place)).max()?;
        let uniform = (hash as f64 + 1.0) / 2f64.powi(64);
        Some((uniform.ln() / f64::from(self.weight), place))
    }
}

fn ranks(destinations: &[Destination]) -> Vec<Rank> {
    let mut ranks: Vec<Rank> = Vec::new();
    for (place, d) in (0..).zip(destinations).filter(|(_, d)| d.weight > 0) {
        let member = (hash_socket(d.address, d.port), place);
        match ranks.iter_mut().find(|rank| rank.weight == d.weight) {
            Some(rank) => rank.members.push(member),
            None => ranks.push(Rank { weight: d.weight, members: vec![member] }),
        }
    }
    ranks
}

fn connections(destination: &Destination, loads: &Destinations) -> u64 {
    let load = loads.load(destination.id);
    u64::from(load.active()) + u64::from(load.inactive())
}

impl Scheduler for ConsistentHashing {
    fn schedule<'s>(
        &self,
        service: &'s Service,
        loads: &Destinations,
        arrival: Arrival<'_>,
    ) -> Option<&'s Destination> {
        let candidates = || service.destinations().iter().filter(|d| is_candidate(d, loads));
        let (all, weights) = candidates().fold((1, 0), |(all, weights), d| {
            (all + u128::from(connections(d, loads)), weights + u128::from(d.weight))
        });
        let (key, bound) = key(service, arrival);
        let has_room = |d: &Destination| bound.has_room(connections(d, loads), d.weight, (all, weights));
        let slots = (0..ATTEMPTS).map(|n| mix(key.wrapping_add(n.wrapping_mul(GOLDEN))) as u32);
        let mut asked = slots.filter_map(|slot| service.in_slot(slot));
        let found = asked.find(|d| is_candidate(d, loads) && has_room(d));
        found.or_else(|| least_for_weight(candidates().map(|d| (connections(d, loads), d))))
    }

    fn slots(&self, destinations: &[Destination]) -> Slots {
        let ranks = ranks(destinations);
        let best = |slot: u32| {
            let best = ranks.iter().filter_map(|rank| rank.best(slot.into()));
            best.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, place)| place)
        };
        (0..SLOTS).filter_map(best).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::conn::{Method, State};
    use crate::parse::Flow;
    use crate::schedule::{Settings, by_name};
    use crate::time::Tick;

    const CLIENTS: u32 = 4000;

    fn destination(n: u32, weight: u32) -> Destination {
        let (address, method) = (Ipv4Addr::from(0xc000_0264 + n).into(), Method::Nat);
        Destination { id: n, sequence: n, address, port: 443, weight, last_weight: weight, method }
    }

    fn service(destinations: &[Destination], flags: Flags) -> Service {
        Service::new(destinations.to_vec(), by_name("conhash").unwrap()).with_flags(flags)
    }

    fn choose(service: &Service, loads: &Destinations, client: (u32, u16), datagram: &[u8]) -> u32 {
        let flow = Flow::new(17, client, (1, 443)).into();
        let arrival = Arrival { flow, now: Tick(0), datagram, settings: Settings::default() };
        service.scheduler().schedule(service, loads, arrival).unwrap().id
    }

    /// Whom each client gets while there are no connections.
    fn choices(destinations: &[Destination]) -> Vec<u32> {
        let (service, loads) = (service(destinations, Flags::default()), Destinations::new(64, 1).unwrap());
        (0..CLIENTS).map(|client| choose(&service, &loads, (client, 9), &[])).collect()
    }

    #[test]
    fn only_those_move_whose_server_changes() {
        let mut servers: Vec<_> = (1..=9).map(|n| destination(n, 1 + n % 3)).collect();
        let before = choices(&servers);
        let gone = servers.remove(4);
        let without = choices(&servers);
        let moved = before.iter().zip(&without).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(a, _)| *a == gone.id) && moved.count() > 0);
        // It comes back last, as far as the order goes.
        servers.push(Destination { sequence: 99, ..gone });
        assert_eq!(choices(&servers), before);

        servers[0].weight += 3;
        let heavier = choices(&servers);
        let moved = before.iter().zip(&heavier).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(_, b)| *b == servers[0].id) && moved.count() > 0);
    }

    #[test]
    fn weights_give_shares() {
        let servers = [destination(1, 100), destination(2, 100), destination(3, 300), destination(4, 0)];
        let choices = choices(&servers);
        let share = |id| choices.iter().filter(|c| **c == id).count() as f64 / f64::from(CLIENTS);
        for (id, expected) in [(1, 0.2), (2, 0.2), (3, 0.6), (4, 0.0)] {
            assert!((share(id) - expected).abs() < 0.04, "r{id} has {}", share(id));
        }
    }

    #[test]
    fn nobody_gets_more_than_five_quarters_of_his_share() {
        let servers: Vec<_> = (1..=7).map(|n| destination(n, n)).collect();
        let (service, loads) = (service(&servers, Flags::default()), Destinations::new(64, 1).unwrap());
        for client in 0..CLIENTS {
            // Half of all connections come from one address.
            let client = if client % 2 == 0 { 77 } else { client };
            let chosen = choose(&service, &loads, (client, 9), &[]);
            loads.opening(chosen, State::Established);
        }
        for server in &servers {
            // 5/4 of its part of the 28 that all weights make.
            let most = (5 * u64::from(CLIENTS) * u64::from(server.weight)).div_ceil(4 * 28);
            let has = connections(server, &loads);
            assert!(has <= most, "r{} has {has}, and may have {most}", server.id);
        }
    }

    #[test]
    fn a_quic_connection_is_known_by_its_id_wherever_it_comes_from() {
        let servers: Vec<_> = (1..=50).map(|n| destination(n, 1)).collect();
        let loads = Destinations::new(64, 1).unwrap();
        let (by_id, by_source) = (service(&servers, Flags::FIRST), service(&servers, Flags::default()));
        let id = |n: u8| (0..20).map(|i| n ^ i).collect::<Vec<u8>>();
        let long = |id: &[u8]| [&[0xc3, 0, 0, 0, 1, id.len() as u8], id, &[0, 0x44, 9, 1]].concat();
        let short = |id: &[u8]| [&[0x41], id, &[0xab; 30]].concat();
        let mut seen = std::collections::HashSet::new();
        for n in 0..100 {
            let chosen = choose(&by_id, &loads, (u32::from(n), 5), &long(&id(n)));
            assert_eq!(choose(&by_id, &loads, (99_999, 6), &short(&id(n))), chosen);
            assert_eq!(choose(&by_id, &loads, (99_999, 7), &short(&id(n)[..9])), chosen, "9 bytes of it");
            seen.insert(chosen);
            let source = choose(&by_source, &loads, (u32::from(n), 5), &long(&id(n)));
            for no_id in [&[][..], &[0x41, 1, 2], &long(&id(n)[..7]), &long(&id(n))[..12]] {
                assert_eq!(choose(&by_id, &loads, (u32::from(n), 6), no_id), source, "{no_id:x?}");
            }
        }
        assert!(seen.len() > 35, "{}", seen.len());
    }

    #[test]
    fn a_connection_that_moves_finds_its_server_though_that_has_its_share() {
        let servers: Vec<_> = (1..=20).map(|n| destination(n, 1)).collect();
        let loads = Destinations::new(64, 1).unwrap();
        let service = service(&servers, Flags::FIRST);
        let (long, short) =
            ([&[0xc0, 0, 0, 0, 1, 8][..], &[7; 20]].concat(), [&[0x40][..], &[7; 40]].concat());
        let first = choose(&service, &loads, (1, 5), &long);
        let open = |count| (0..count).for_each(|_| loads.opening(first, State::Udp));
        open(1);
        assert_ne!(choose(&service, &loads, (2, 5), &long), first, "one more than its share of two");
        for _ in 0..15 {
            assert_eq!(choose(&service, &loads, (3, 5), &short), first);
            open(1);
        }
        open(4);
        assert_ne!(choose(&service, &loads, (3, 5), &short), first, "whoever asks for it");
        // Of many, twice its share.
        servers.iter().for_each(|server| (0..100).for_each(|_| loads.opening(server.id, State::Udp)));
        assert_eq!(choose(&service, &loads, (3, 5), &short), first);
        open(140);
        assert_ne!(choose(&service, &loads, (3, 5), &short), first);
    }

    #[test]
    fn ports_count_only_where_they_are_to() {
        let servers: Vec<_> = (1..=50).map(|n| destination(n, 1)).collect();
        let loads = Destinations::new(64, 1).unwrap();
        for (flags, expected) in [(Flags::default(), 1..=1), (Flags::SECOND, 35..=50)] {
            let service = service(&servers, flags);
            let chosen = (0..100).map(|port| choose(&service, &loads, (1, port), &[]));
            let chosen: std::collections::HashSet<_> = chosen.collect();
            assert!(expected.contains(&chosen.len()), "{flags:?}: {}", chosen.len());
        }
    }
}
