//! How far the benchmark is, in the time it is expected to take, and what it leaves out so as to end in time.
//!
//! Repeats go first: a figure of fewer runs is better than none. What was left out is said, and never chosen by what was
//! measured.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on the terminal, and a clock. Expectations are in milliseconds, on a machine that has nothing else to do.
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    limit: Option<Duration>,
    planned: u64,
    /// Of what the bar has passed, what was left out.
    left_out: Cell<u64>,
    shortened: RefCell<Vec<String>>,
}

impl Progress {
    /// A bar for what is expected to take `planned` milliseconds, and may take no longer than `limit`.
    pub fn new(planned: u64, limit: Option<Duration>) -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}")?;
        Ok(Self {
            bar: ProgressBar::new(planned).with_style(style),
            start: Instant::now(),
            limit,
            planned,
            left_out: Cell::new(0),
            shortened: RefCell::default(),
        })
    }

    /// Says what is going on now.
    pub fn say(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Something is done that was expected to take so long.
    pub fn done(&self, expected: u64) {
        self.bar.inc(expected);
    }

    /// The bar is at this place, whatever was done or failed until now.
    pub fn at(&self, expected: u64) {
        self.bar.set_position(expected);
    }

    /// The numbers of `count` runs, each expected to take so long, but fewer of them where time runs out: always the first.
    /// The bar goes on with each.
    pub fn runs<'a>(&'a self, of: &'a str, count: usize, expected: u64) -> Runs<'a> {
        Runs { progress: self, of, count, expected, next: 0 }
    }

    /// Whether there is time for something that is expected to take so long; where not, it is noted as left out.
    pub fn allows(&self, what: impl FnOnce() -> String, expected: u64) -> bool {
        let elapsed = self.start.elapsed();
        let allowed = self
            .limit
            .is_none_or(|limit| elapsed + Duration::from_millis(expected).mul_f64(self.slowness()) < limit);
        if !allowed {
            self.leave_out(format!("{} left out", what()), expected);
        }
        allowed
    }

    /// What was left out or shortened, for whoever reads the figures.
    pub fn shortened(&self) -> Vec<String> {
        self.shortened.borrow().clone()
    }

    /// Takes the bar off the terminal, and gives how long it all took.
    pub fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.start.elapsed()
    }

    fn leave_out(&self, note: String, expected: u64) {
        self.left_out.set(self.left_out.get() + expected);
        self.bar.inc(expected);
        let mut shortened = self.shortened.borrow_mut();
        if !shortened.contains(&note) {
            shortened.push(note);
        }
    }

    /// How much longer things take than expected; 1 where they are faster, so that nothing is relied on.
    fn slowness(&self) -> f64 {
        slowness(self.start.elapsed(), self.bar.position(), self.left_out.get())
    }

    /// Whether all that is left would come to its end too late.
    fn is_late(&self) -> bool {
        let left = Duration::from_millis(self.planned.saturating_sub(self.bar.position()));
        self.limit.is_some_and(|limit| self.start.elapsed() + left.mul_f64(self.slowness()) > limit)
    }
}

/// What was passed on the bar, but for what was left out, took `elapsed`.
fn slowness(elapsed: Duration, passed: u64, left_out: u64) -> f64 {
    // The first second says little.
    let expected = Duration::from_millis(passed.saturating_sub(left_out).max(1000));
    elapsed.div_duration_f64(expected).max(1.0)
}

/// See [`Progress::runs`].
pub struct Runs<'a> {
    progress: &'a Progress,
    of: &'a str,
    count: usize,
    expected: u64,
    next: usize,
}

impl Iterator for Runs<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let run = self.next;
        if run > 0 {
            self.progress.done(self.expected);
        }
        if run == self.count {
            return None;
        }
        if run > 0 && self.progress.is_late() {
            let left = (self.count - run) as u64 * self.expected;
            self.progress.leave_out(format!("fewer runs in {}", self.of), left);
            self.next = self.count;
            self.expected = 0;
            return None;
        }
        self.next += 1;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_runs_are_made_where_there_is_time() {
        for limit in [None, Some(Duration::from_secs(3600))] {
            let progress = Progress::new(300, limit).unwrap();
            assert_eq!(progress.runs("part", 3, 100).collect::<Vec<_>>(), [0, 1, 2]);
            assert_eq!((progress.bar.position(), progress.shortened().len()), (300, 0));
            assert!(progress.allows(|| unreachable!(), 1000));
        }
    }

    #[test]
    fn repeats_go_first_and_it_is_said_once() {
        // An hour's work, and a minute for it.
        let progress = Progress::new(3_600_000, Some(Duration::from_secs(60))).unwrap();
        assert_eq!(progress.runs("part", 3, 1000).collect::<Vec<_>>(), [0]);
        assert_eq!(progress.runs("part", 2, 1000).collect::<Vec<_>>(), [0]);
        assert_eq!(progress.bar.position(), 5000);
        assert_eq!(progress.shortened(), ["fewer runs in part"]);
        assert!(progress.allows(|| unreachable!(), 10_000));
        assert!(!progress.allows(|| "udp".to_owned(), 3_600_000));
        assert_eq!(progress.shortened(), ["fewer runs in part", "udp left out"]);
    }

    #[test]
    fn a_slow_machine_is_expected_to_stay_so() {
        let seconds = Duration::from_secs;
        assert_eq!(slowness(seconds(20), 10_000, 0), 2.0);
        assert_eq!(slowness(seconds(20), 15_000, 5_000), 2.0);
        // Neither the beginning nor a fast machine promises anything.
        assert_eq!(slowness(Duration::from_millis(100), 0, 0), 1.0);
        assert_eq!(slowness(seconds(5), 10_000, 0), 1.0);
    }
}
