//! Which packets that would open connections are too many (drop_packet): one in so many.

use crate::sysctl::{Defence, Sysctls};
use crate::time::{TICKS_PER_SECOND, Tick};

/// A worker's count of such packets.
pub(super) struct Surplus {
    /// How many may come until one is dropped.
    left: i32,
    /// When it last began anew.
    since: Tick,
}

impl Surplus {
    pub(super) fn new(now: Tick) -> Self {
        Self { left: 0, since: now }
    }

    /// Whether a packet is to be dropped: one in `drop_rate`, all where that is negative. IPVS begins to count anew each second
    /// while it follows memory (modes 1 and 2), so that few packets lose none.
    #[inline]
    pub(super) fn has(&mut self, defence: &Defence, sysctls: &Sysctls, now: Tick) -> bool {
        defence.drop_rate != 0 && self.count(defence.drop_rate, sysctls.drop_packet != 3, now)
    }

    #[cold]
    fn count(&mut self, rate: i32, is_automatic: bool, now: Tick) -> bool {
        if is_automatic && now.since(self.since) as u32 >= TICKS_PER_SECOND {
            (self.left, self.since) = (rate, now);
        }
        self.left = self.left.saturating_sub(1).min(rate);
        let is_over = self.left <= 0;
        if is_over {
            self.left = rate;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of so many packets a second.
    fn dropped(mode: u8, rate: i32, seconds: u32, packets: u32) -> usize {
        let defence = Defence { drop_rate: rate, ..Defence::default() };
        let sysctls = Sysctls { drop_packet: mode, ..Sysctls::default() };
        let mut surplus = Surplus::new(Tick(0));
        let seconds = (1..=seconds).map(|second| Tick(second * TICKS_PER_SECOND));
        let packets = seconds.flat_map(|now| std::iter::repeat_n(now, packets as usize));
        packets.filter(|now| surplus.has(&defence, &sysctls, *now)).count()
    }

    #[test]
    fn one_in_so_many_is_dropped() {
        for (rate, expected) in [(0, 0), (1, 120), (3, 40), (10, 12), (-1, 120)] {
            assert_eq!(dropped(3, rate, 10, 12), expected, "rate {rate}");
        }
    }

    #[test]
    fn it_counts_anew_each_second_while_it_follows_memory() {
        for mode in [1, 2] {
            assert_eq!(dropped(mode, 13, 10, 12), 0);
            assert_eq!(dropped(mode, 12, 10, 12), 10);
            assert_eq!(dropped(mode, 5, 10, 12), 20);
            assert_eq!(dropped(mode, 1, 10, 12), 120);
        }
    }
}
