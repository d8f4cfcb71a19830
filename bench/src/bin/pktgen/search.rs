//! The highest rate at which no more is lost than allowed: a binary search after RFC 2544, section 26.1. It sends nothing
//! itself.

/// The search: ask it for a rate, tell it whether that rate passed.
#[derive(Debug, Clone)]
pub struct Search {
    /// The highest rate that has passed; 0 if none has.
    passed: f64,
    /// The lowest rate that has not.
    failed: Option<f64>,
    most: f64,
    /// It ends when the two are as close together as this share of the highest.
    precision: f64,
}

impl Search {
    /// A search from `most` frames a second downwards, to a precision that is a share of it.
    pub fn new(most: f64, precision: f64) -> Self {
        Self { passed: 0.0, failed: None, most, precision }
    }

    /// The rate to try next; `None` when the search has ended.
    pub fn next_rate(&self) -> Option<f64> {
        match self.failed {
            _ if self.passed >= self.most => None,
            None => Some(self.most),
            Some(failed) if failed - self.passed <= self.most * self.precision => None,
            Some(failed) => Some((self.passed + failed) / 2.0),
        }
    }

    /// Takes down how the trial at `rate` went.
    pub fn record(&mut self, rate: f64, passed: bool) {
        if passed {
            self.passed = self.passed.max(rate);
        } else {
            self.failed = Some(self.failed.map_or(rate, |failed| failed.min(rate)));
        }
    }

    /// The highest rate that passed; `None` where not even the lowest that was tried did.
    pub fn result(&self) -> Option<f64> {
        (self.passed > 0.0).then_some(self.passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(capacity: f64, most: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(most, 0.01);
        let mut trials = 0;
        while let Some(rate) = search.next_rate() {
            assert!((0.0..=most).contains(&rate));
            search.record(rate, rate <= capacity);
            trials += 1;
        }
        (search.result(), trials)
    }

    #[test]
    fn the_limit_is_found_to_the_precision() {
        for capacity in [0.3e6, 1e6, 5.55e6, 9.99e6] {
            let (found, trials) = find(capacity, 10e6);
            let found = found.unwrap();
            assert!(found <= capacity && capacity - found <= 0.1e6, "{found} for {capacity}");
            assert!(trials <= 8, "{trials} trials");
        }
    }

    #[test]
    fn one_trial_is_enough_where_nothing_is_lost() {
        assert_eq!(find(20e6, 10e6), (Some(10e6), 1));
    }

    #[test]
    fn where_everything_is_lost_there_is_no_rate() {
        assert_eq!(find(-1.0, 10e6).0, None);
    }
}
