//! Keeps the time from each poll to the next. It must cost a poll next to nothing, and remember nothing of one that was not
//! long.

use nix::sys::resource::{UsageWho, getrusage};

/// A gap longer than this is counted, in parts of a second: 100 µs.
const LONG: u64 = 10_000;

/// Of a gap longer than this it is asked whether the kernel has given the core to somebody else meanwhile, in parts of a
/// second: 20 µs.
const SUSPICIOUS: u64 = 50_000;

/// What was seen of a loop that polls.
pub struct Watch {
    begun: u64,
    /// When the last poll began.
    last: u64,
    step: usize,
    /// The longest gap of each step, those left out in which this thread was put aside.
    steps: Vec<u64>,
    longest: u64,
    long: u64,
    long_limit: u64,
    suspicious: u64,
    switches: i64,
}

impl Watch {
    /// A watch over something that goes through so many steps, with times of a counter at `hertz`.
    pub fn begin(steps: usize, hertz: u64) -> Self {
        // Written to before it counts: memory that is fresh from the kernel would cost a page fault now and then.
        let mut longest_of_steps = vec![1; steps];
        longest_of_steps.fill(0);
        Self {
            begun: 0,
            last: 0,
            step: 0,
            steps: longest_of_steps,
            longest: 0,
            long: 0,
            long_limit: hertz / LONG,
            suspicious: hertz / SUSPICIOUS,
            switches: switches(),
        }
    }

    /// The loop begins now, at this cycle.
    pub fn start(&mut self, now: u64) {
        (self.begun, self.last) = (now, now);
    }

    /// What comes belongs to this step.
    #[inline]
    pub fn enter(&mut self, step: usize) {
        self.step = step;
    }

    /// A poll begins at cycle `now`.
    #[inline]
    pub fn poll(&mut self, now: u64) {
        let gap = now.saturating_sub(self.last);
        self.last = now;
        let longest = self.steps.get_mut(self.step);
        if gap > self.suspicious {
            self.suspect(gap);
        } else if let Some(longest) = longest {
            *longest = gap.max(*longest);
        }
    }

    #[cold]
    fn suspect(&mut self, gap: u64) {
        self.longest = gap.max(self.longest);
        self.long += u64::from(gap > self.long_limit);
        let switches = switches();
        // A worker never gives its core away by itself. So whoever has had it was given it by the kernel.
        let put_aside = switches != self.switches;
        self.switches = switches;
        if let Some(longest) = self.steps.get_mut(self.step).filter(|_| !put_aside) {
            *longest = gap.max(*longest);
        }
    }

    /// The longest gap of each step, in cycles.
    pub fn steps(&self) -> &[u64] {
        &self.steps
    }

    /// The longest gap of all, whatever its cause, in cycles.
    pub fn longest(&self) -> u64 {
        self.longest.max(self.steps.iter().copied().max().unwrap_or_default())
    }

    /// Gaps longer than 100 µs, whatever their cause.
    pub fn long(&self) -> u64 {
        self.long
    }

    /// From the beginning to the last poll, in cycles.
    pub fn duration(&self) -> u64 {
        self.last - self.begun
    }
}

/// How often the kernel has put this thread aside for another.
fn switches() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}
