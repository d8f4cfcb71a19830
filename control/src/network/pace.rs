//! How often something costly may be done: at once when it has not been done for a while, and never more than a
//! fifth of the time.

use std::time::{Duration, Instant};

/// What happens within this time of the last one is done together.
const LEAST_PAUSE: Duration = Duration::from_millis(2);

/// When the next one may start.
#[derive(Debug)]
pub(super) struct Pace {
    not_before: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { not_before: now }
    }

    pub fn allows(&self, now: Instant) -> bool {
        now >= self.not_before
    }

    pub fn not_before(&self) -> Instant {
        self.not_before
    }

    /// One was done between the two; the pause after it is four times as long.
    pub fn done(&mut self, started: Instant, ended: Instant) {
        self.not_before = ended + LEAST_PAUSE.max(4 * ended.duration_since(started));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_free_and_a_slow_one_is_followed_by_a_long_pause() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.allows(start));
        let end = start + Duration::from_secs(1);
        pace.done(start, end);
        assert!(!pace.allows(end + Duration::from_millis(3999)));
        assert!(pace.allows(end + Duration::from_secs(4)));
        pace.done(end, end);
        assert!(!pace.allows(end));
        assert_eq!(pace.not_before(), end + LEAST_PAUSE);
    }
}
