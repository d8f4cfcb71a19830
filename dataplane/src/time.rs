//! Time as the dataplane sees it: an argument, counted in ticks. Nothing in this crate reads a clock.

/// Ticks in a second. A tick is the error of every timeout, and `u32` ticks wrap after 776 days.
pub const TICKS_PER_SECOND: u32 = 64;

/// A moment, in ticks since the daemon started. Wraps; compare moments only with [`Tick::since`] and
/// [`Tick::reached`], which are right for moments less than 388 days apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The moment `seconds` after the start.
    pub const fn from_seconds(seconds: u32) -> Self {
        Self(seconds.wrapping_mul(TICKS_PER_SECOND))
    }

    /// The moment `ticks` later.
    #[inline]
    #[must_use]
    pub const fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// Ticks from `earlier` to `self`; negative if `earlier` is the later one.
    #[inline]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// True once `self` is at or past `moment`.
    #[inline]
    pub const fn reached(self, moment: Self) -> bool {
        self.since(moment) >= 0
    }
}

/// Turns a cycle counter (TSC) into ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    /// Ticks in a cycle, as a fraction of 2^64.
    scale: u64,
}

impl Clock {
    /// A clock that starts at cycle `start` of a counter running at `hertz`.
    pub fn new(start: u64, hertz: u64) -> Self {
        let scale = (u128::from(TICKS_PER_SECOND) << 64) / u128::from(hertz.max(1_000));
        Self { start, scale: scale as u64 }
    }

    /// The tick that cycle `now` falls into. Counters of different cores may disagree by a little; a moment
    /// before the start counts as the start.
    #[inline]
    pub fn tick(&self, now: u64) -> Tick {
        let cycles = now.saturating_sub(self.start);
        Tick(((u128::from(cycles) * u128::from(self.scale)) >> 64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let before = Tick(u32::MAX - 1);
        let after = before.after(4);
        assert_eq!(after, Tick(2));
        assert!(after.reached(before) && !before.reached(after));
        assert_eq!(after.since(before), 4);
    }

    #[test]
    fn a_clock_counts_ticks_of_its_counter() {
        let clock = Clock::new(1_000, 2_600_000_000);
        assert_eq!(clock.tick(0), Tick(0));
        assert_eq!(clock.tick(1_000 + 2_600_000_000), Tick(TICKS_PER_SECOND - 1), "rounded down");
        let year = 365 * 86_400;
        let exact = Tick::from_seconds(year);
        assert!(exact.since(clock.tick(1_000 + 2_600_000_000 * u64::from(year))) <= 1);
    }
}
