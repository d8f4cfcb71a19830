//! How often a worker tells clients of errors: as often as Linux does by default (icmp_ratelimit 1000 ms with a burst of
//! 6 for each address, icmp_msgs_per_sec 1000 with icmp_msgs_burst 50 for all).

use std::net::IpAddr;

use crate::time::{TICKS_PER_SECOND, Tick};

/// Addresses that are remembered; of two that share a place, the later one counts.
const PEERS: usize = 1024;

/// What one error to an address costs, in ticks, and how much may be saved up.
const COST: u32 = TICKS_PER_SECOND;
const SAVED: u32 = 6 * COST;

/// Errors a second, and at once, of all workers together.
const RATE: u32 = 1000;
const BURST: u32 = 50;

#[derive(Clone, Copy)]
struct Peer {
    /// [`number`] of its address.
    address: u64,
    credit: u32,
    since: Tick,
}

/// A worker's budget of ICMP errors.
pub(super) struct Errors {
    peers: Box<[Peer]>,
    /// In 1/64 errors, so that a tick's share is whole.
    credit: u32,
    since: Tick,
    rate: u32,
    burst: u32,
}

impl Errors {
    /// For one of so many workers, which share what there is evenly.
    pub(super) fn new(workers: usize, now: Tick) -> Self {
        let workers = (workers as u32).max(1);
        let peer = Peer { address: 0, credit: SAVED, since: now };
        let burst = (BURST / workers).max(1) * TICKS_PER_SECOND;
        let rate = (RATE / workers).max(1);
        Self { peers: vec![peer; PEERS].into(), credit: burst, since: now, rate, burst }
    }

    /// Whether `address` may be told of an error now; counts it as told.
    pub(super) fn take(&mut self, address: IpAddr, now: Tick) -> bool {
        let elapsed = elapsed(self.since, now);
        self.since = now;
        self.credit = (self.credit + elapsed * self.rate).min(self.burst);
        if self.credit < TICKS_PER_SECOND {
            return false;
        }
        self.credit -= TICKS_PER_SECOND;
        // Fibonacci hashing: neighbouring addresses in places far apart.
        let address = number(address);
        let place = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % PEERS;
        let Some(peer) = self.peers.get_mut(place) else { return false };
        if peer.address != address {
            *peer = Peer { address, credit: SAVED, since: now };
        }
        peer.credit = (peer.credit + self::elapsed(peer.since, now)).min(SAVED);
        peer.since = now;
        let may = peer.credit >= COST;
        if may {
            peer.credit -= COST;
        }
        may
    }
}

/// The address as one number. Of an IPv6 client all of the network counts, which has as many addresses as it likes.
fn number(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
    }
}

/// Ticks from `since` to `now`, as far as they matter.
fn elapsed(since: Tick, now: Tick) -> u32 {
    now.since(since).clamp(0, SAVED as i32) as u32
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_is_told_six_times_and_then_once_a_second() {
        let mut errors = Errors::new(1, Tick(0));
        let told =
            |errors: &mut Errors, now, n| (0..n).filter(|_| errors.take(IpAddr::V4(7.into()), now)).count();
        assert_eq!(told(&mut errors, Tick(0), 20), 6);
        assert_eq!(told(&mut errors, Tick::from_seconds(1), 20), 1);
        assert_eq!(told(&mut errors, Tick::from_seconds(4), 20), 3);
        assert_eq!(told(&mut errors, Tick::from_seconds(90), 20), 6);
    }

    #[test]
    fn all_addresses_together_have_a_thousand_a_second() {
        for workers in [1, 4] {
            let mut errors = Errors::new(workers, Tick(0));
            // Never the same address twice.
            let mut next = 0..;
            let mut all = |errors: &mut Errors, now| {
                next.by_ref().take(2000).filter(|n| errors.take(IpAddr::V4(Ipv4Addr::from(*n)), now)).count()
            };
            assert_eq!(all(&mut errors, Tick(0)), 50 / workers, "{workers} workers");
            let second: usize = (1..=64).map(|tick| all(&mut errors, Tick(1000 + tick))).sum();
            // What the tick before the second brought is in it, too.
            let share = 1000 / workers;
            assert!((share..share + 60).contains(&second), "{workers} workers: {second}");
        }
    }
}
