//! What lists show of counters, as IPVS's estimator has it: summed up every two seconds, and per second as a moving average
//! of weight 1/4.
//!
//! All arithmetic is the kernel's fixed point, so that lists show what a kernel would, and when it would. It must never be asked
//! for a time: whoever calls [`Estimator::sample`] sees to it that two seconds lie between two calls.

use std::time::Duration;

use crate::model::{Rates, Stats};

/// The time between two samples.
pub const SAMPLE_PERIOD: Duration = Duration::from_secs(2);

/// Averages are kept as 2^10 times packets per second, and 2^5 times bytes per second.
const PACKET_SCALE: u32 = 10;
const BYTE_SCALE: u32 = 5;

/// The sums and moving averages of one service or destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimator {
    /// What had been counted at the last sample.
    summed: Stats,
    /// What of it was there when the counters were last zeroed.
    zero: Stats,
    average: Stats,
}

impl Estimator {
    /// One that has seen nothing yet, over counters that have counted `counted` for others.
    pub fn new(counted: Stats) -> Self {
        Self { summed: counted, zero: counted, average: Stats::default() }
    }

    /// Starts at zero again. Like the kernel's, it does so with what it summed up last: what has been counted since shows after
    /// the next sample.
    pub fn zero(&mut self) {
        *self = Self::new(self.summed);
    }

    /// What was counted from when it was zeroed to the last sample.
    pub fn stats(&self) -> Stats {
        self.summed.since(self.zero)
    }

    /// Takes in what was counted since the last sample.
    pub fn sample(&mut self, now: Stats) {
        let counted = now.since(self.summed);
        self.summed = now;
        let packets = |average, n| step(average, n, PACKET_SCALE);
        let bytes = |average, n| step(average, n, BYTE_SCALE);
        self.average = Stats {
            connections: packets(self.average.connections, counted.connections),
            in_packets: packets(self.average.in_packets, counted.in_packets),
            out_packets: packets(self.average.out_packets, counted.out_packets),
            in_bytes: bytes(self.average.in_bytes, counted.in_bytes),
            out_bytes: bytes(self.average.out_bytes, counted.out_bytes),
        };
    }

    /// The averages, rounded as the kernel rounds them.
    pub fn rates(&self) -> Rates {
        let packets = |average: u64| average.saturating_add(0x1ff) >> PACKET_SCALE;
        let bytes = |average: u64| average.saturating_add(0xf) >> BYTE_SCALE;
        Rates {
            connections: packets(self.average.connections),
            in_packets: packets(self.average.in_packets),
            out_packets: packets(self.average.out_packets),
            in_bytes: bytes(self.average.in_bytes),
            out_bytes: bytes(self.average.out_bytes),
        }
    }
}

/// One step of the average towards `counted` per two seconds. The shift is an arithmetic one: a falling
/// average is rounded down.
fn step(average: u64, counted: u64, scale: u32) -> u64 {
    let rate = (counted as i64).wrapping_shl(scale - 1);
    average.wrapping_add_signed(rate.wrapping_sub(average as i64) >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_packets_fade_as_a_kernel_showed_it() {
        let mut estimator = Estimator::default();
        let counted = Stats { connections: 1, in_packets: 9, in_bytes: 261, ..Stats::default() };
        estimator.sample(counted);
        assert_eq!(estimator.rates().in_bytes, 33);
        estimator.sample(counted);
        estimator.sample(counted);
        let rates = estimator.rates();
        assert_eq!((rates.connections, rates.in_packets, rates.in_bytes), (0, 1, 18));
        for _ in 0..40 {
            estimator.sample(counted);
        }
        assert_eq!(estimator.rates(), Rates::default());
    }

    /// Of lists-traffic.txt: what was counted at once, and its rates two samples later.
    #[test]
    fn traffic_fades_to_the_numbers_that_a_kernel_listed() {
        let rates_after = |samples: &[(u64, u64)]| {
            let (mut estimator, mut all) = (Estimator::default(), Stats::default());
            for (in_packets, in_bytes) in samples {
                all = all.plus(Stats { in_packets: *in_packets, in_bytes: *in_bytes, ..Stats::default() });
                estimator.sample(all);
            }
            let rates = estimator.rates();
            (rates.in_packets, rates.in_bytes)
        };
        for (packets, bytes, packet_rate, byte_rate) in [
            (1, 36, 0, 3),
            (1, 53, 0, 4),
            (1, 68, 0, 5),
            (3, 282, 0, 20),
            (3, 366, 0, 26),
            (6, 328, 0, 23),
            (10, 6748, 1, 474),
            (12, 656, 1, 46),
            (12, 6664, 1, 469),
            (15, 10_122, 1, 712),
            (18, 984, 1, 69),
            (18, 9996, 1, 703),
            (25, 16_870, 2, 1186),
            (30, 16_660, 2, 1171),
        ] {
            let rates = rates_after(&[(packets, bytes), (0, 0), (0, 0)]);
            assert_eq!(rates, (packet_rate, byte_rate), "{packets} packets of {bytes} bytes");
        }
        // One-packet scheduling's last packet came after the sample of the first five.
        assert_eq!(rates_after(&[(1, 50), (1, 51), (0, 0)]), (0, 8));
        assert_eq!(rates_after(&[(5, 322), (1, 51), (0, 0)]), (0, 27));
    }

    #[test]
    fn counts_show_once_they_are_summed_up_and_zeroing_starts_from_there() {
        let counted = |in_packets| Stats { in_packets, ..Stats::default() };
        let mut estimator = Estimator::new(counted(100));
        assert_eq!(estimator.stats(), counted(0));
        estimator.sample(counted(107));
        assert_eq!((estimator.stats(), estimator.rates().in_packets), (counted(7), 1));
        estimator.zero();
        assert_eq!((estimator.stats(), estimator.rates()), (counted(0), Rates::default()));
        // Two of these may have been counted before it was zeroed.
        estimator.sample(counted(112));
        assert_eq!(estimator.stats(), counted(5));
    }

    #[test]
    fn a_steady_rate_is_reached() {
        let mut estimator = Estimator::default();
        for second in 1..100 {
            estimator.sample(Stats {
                in_packets: second * 2000,
                in_bytes: second * 3000,
                ..Stats::default()
            });
        }
        let rates = estimator.rates();
        assert_eq!((rates.in_packets, rates.in_bytes), (1000, 1500));
    }
}
