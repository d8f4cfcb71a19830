//! Neighbours that workers met packets for and did not know: clients on the link.
//!
//! Each is asked for once a second at most, and remembered for a while, so that it can be asked for again before Linux
//! forgets it. Anyone on the link can make us want addresses; the memory for it is bounded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Key;

const MOST: usize = 65_536;
const PAUSE: Duration = Duration::from_secs(1);
const REMEMBERED: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// When each was last wanted.
    neighbours: HashMap<Key, Instant>,
    /// When all were last looked through for forgotten ones.
    swept: Option<Instant>,
}

impl Wanted {
    /// A worker wants `key`. True if Linux is to be asked now.
    pub fn want(&mut self, key: Key, now: Instant) -> bool {
        if let Some(last) = self.neighbours.get_mut(&key) {
            let due = now >= *last + PAUSE;
            if due {
                *last = now;
            }
            return due;
        }
        if self.neighbours.len() >= MOST && !self.sweep(now) {
            return false;
        }
        self.neighbours.insert(key, now);
        true
    }

    /// Whether `key` was wanted lately.
    pub fn contains(&self, key: &Key, now: Instant) -> bool {
        self.neighbours.get(key).is_some_and(|last| now < *last + REMEMBERED)
    }

    /// Forgets those not wanted for a while. True if there is room then. Looking through all is done once a second
    /// at most.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_none_or(|at| now >= at + PAUSE) {
            self.swept = Some(now);
            self.neighbours.retain(|_, last| now < *last + REMEMBERED);
        }
        self.neighbours.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::network::PortId;
    use std::net::{IpAddr, Ipv4Addr};

    fn key(n: u32) -> Key {
        (PortId(0), IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    #[test]
    fn each_is_asked_for_once_a_second() {
        let (mut wanted, start) = (Wanted::default(), Instant::now());
        assert!(wanted.want(key(1), start));
        assert!(!wanted.want(key(1), start + PAUSE / 2));
        assert!(wanted.want(key(2), start + PAUSE / 2));
        assert!(wanted.want(key(1), start + PAUSE));
    }

    #[test]
    fn memory_is_bounded_and_taken_back() {
        let (mut wanted, start) = (Wanted::default(), Instant::now());
        assert!((0..MOST as u32).all(|n| wanted.want(key(n), start)));
        assert!(!wanted.want(key(MOST as u32), start));
        assert!(wanted.contains(&key(0), start + REMEMBERED / 2));
        assert!(!wanted.contains(&key(0), start + REMEMBERED));
        assert!(wanted.want(key(MOST as u32), start + REMEMBERED));
        assert_eq!(wanted.neighbours.len(), 1);
    }
}
