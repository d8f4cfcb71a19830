//! When frames are due, for a rate. Time is an argument.

/// How much of a delay of its own the generator makes up for, in seconds. More would reach the other side as a burst that
/// nobody asked for, and what the other side then loses would not be its fault.
pub const SLACK: f64 = 100e-6;

/// A burst may always be made up for.
const LEAST_SLACK: u64 = 32;

/// Says how many frames are due.
#[derive(Debug)]
pub struct Pacer {
    start: u64,
    /// Frames in a cycle of the clock.
    rate: f64,
    slack: u64,
    /// Frames given out, or skipped.
    given: u64,
    skipped: u64,
}

impl Pacer {
    /// Paces `rate` frames a second from the time `start` on, in cycles of a clock of `hertz`.
    pub fn new(rate: f64, start: u64, hertz: u64) -> Self {
        let slack = ((rate * SLACK) as u64).max(LEAST_SLACK);
        Self { start, rate: rate / hertz as f64, slack, given: 0, skipped: 0 }
    }

    /// Gives out the frames that are due at `now`, at most `most`.
    #[inline]
    pub fn take(&mut self, now: u64, most: usize) -> usize {
        let due = (now.saturating_sub(self.start) as f64 * self.rate) as u64;
        let mut waiting = due.saturating_sub(self.given);
        if waiting > self.slack {
            self.skipped += waiting - self.slack;
            self.given += waiting - self.slack;
            waiting = self.slack;
        }
        let taken = waiting.min(most as u64);
        self.given += taken;
        taken as usize
    }

    /// Nothing more is given out, and time is up at `end`: what should have been given out until then, and is more than the
    /// generator makes up for, is skipped.
    pub fn end(&mut self, end: u64) {
        let due = (end.saturating_sub(self.start) as f64 * self.rate) as u64;
        let waiting = due.saturating_sub(self.given);
        if waiting > self.slack {
            self.skipped += waiting;
            self.given += waiting;
        }
    }

    /// Frames that were due and never given out, because the generator came too late for them.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// When the generator did not run although it had something to do: others had its core, or the machine stood still.
/// Meanwhile it sent nothing, and what came back filled its receive queues.
#[derive(Debug)]
pub struct Pauses {
    last: u64,
    /// What is longer than this, in cycles, is a pause.
    limit: u64,
    longest: u64,
    total: u64,
}

impl Pauses {
    /// None yet, at the time `now` of a clock of `hertz`.
    pub fn new(now: u64, hertz: u64) -> Self {
        Self { last: now, limit: (hertz as f64 * SLACK) as u64, longest: 0, total: 0 }
    }

    /// It runs at `now`.
    #[inline]
    pub fn run(&mut self, now: u64) {
        let gap = now.saturating_sub(self.last);
        self.last = now;
        if gap > self.limit {
            self.longest = self.longest.max(gap);
            self.total += gap;
        }
    }

    /// The longest, in cycles; 0 without one.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// All of them, in cycles.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERTZ: u64 = 1_000_000_000;

    #[test]
    fn the_rate_is_kept_whatever_the_steps() {
        for rate in [1.0, 999.0, 1e6, 14.88e6] {
            let mut pacer = Pacer::new(rate, 5, HERTZ);
            let (mut now, mut taken, mut random) = (5, 0, fastrand::Rng::with_seed(1));
            while now < 5 + 2 * HERTZ {
                now += random.u64(1..1500);
                taken += pacer.take(now, 32);
            }
            assert!((taken as f64 - 2.0 * rate).abs() <= 33.0, "{taken} at {rate}");
            assert_eq!(pacer.skipped(), 0);
        }
    }

    #[test]
    fn nothing_is_due_at_the_start_or_before_it() {
        let mut pacer = Pacer::new(1e6, 1000, HERTZ);
        assert_eq!((pacer.take(0, 32), pacer.take(1000, 32)), (0, 0));
        assert_eq!(pacer.take(3000, 32), 2);
    }

    #[test]
    fn a_long_pause_is_skipped_and_counted() {
        let mut pacer = Pacer::new(1e6, 0, HERTZ);
        // A tenth of a second late: 100,000 frames, of which 100 microseconds' are made up for.
        let taken: usize = (0..10).map(|_| pacer.take(HERTZ / 10, 32)).sum();
        assert_eq!((taken, pacer.skipped()), (100, 99_900));
        assert_eq!(pacer.take(HERTZ / 10 + 1000, 32), 1);
    }

    #[test]
    fn a_pause_at_the_end_is_skipped_and_counted_as_well() {
        let mut pacer = Pacer::new(1e6, 0, HERTZ);
        assert_eq!(pacer.take(HERTZ / 100_000, 32), 10);
        pacer.end(HERTZ / 10);
        assert_eq!(pacer.skipped(), 99_990);
        // What is on time is not.
        let mut pacer = Pacer::new(1e6, 0, HERTZ);
        assert_eq!(pacer.take(HERTZ / 100_000, 32), 10);
        pacer.end(HERTZ / 50_000);
        assert_eq!(pacer.skipped(), 0);
    }

    #[test]
    fn what_is_longer_than_the_slack_is_a_pause() {
        let mut pauses = Pauses::new(50, HERTZ);
        // 100, 101, 300 and again 100 microseconds.
        for now in [100_050, 201_050, 501_050, 601_050] {
            pauses.run(now);
        }
        assert_eq!((pauses.longest(), pauses.total()), (300_000, 401_000));
    }
}
