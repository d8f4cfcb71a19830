//! Part `silence`: the longest time between two polls of a worker while something else goes on.
//!
//! A machine has pauses of its own (interrupts, the hypervisor, other programs). They come at any time; what our code costs
//! comes again whenever it does the same. So everything is done several times, the time from each poll to the next is
//! noted by how far things had got, and of what was noted at the same place the shortest counts: see [`caused`]. The same
//! loop without the activity, in turns with it, shows how well that tells them apart.

mod connections;
mod control;
mod watch;

use dpdk_sys::Mempool;

use crate::progress::Progress;
use crate::report::{Report, Subject};
use crate::{Bench, newconn};
use watch::Watch;

/// Milliseconds that all of it takes.
pub fn expected(bench: &Bench) -> u64 {
    connections::expected(bench) + control::expected(bench)
}

/// Each takes as long as many of another part, because everything is done several times in it.
fn runs(bench: &Bench) -> usize {
    bench.runs.min(if bench.quick { 2 } else { 3 })
}

/// Measures every activity and adds the figures to `report`.
pub fn run(bench: &Bench, pool: &Mempool, report: &mut Report, progress: &Progress) {
    connections::run(bench, pool, report, progress);
    control::run(bench, pool, report, progress);
}

/// One value for each run, in microseconds or a second's share.
#[derive(Default)]
struct Figures {
    silence: Vec<f64>,
    gap: Vec<f64>,
    long_gaps: Vec<f64>,
}

impl Figures {
    /// Adds a run: what was seen each time that the same was done, in the same steps.
    fn add(&mut self, repeats: &[Watch], hertz: u64) {
        let microseconds = |cycles: u64| cycles as f64 * 1e6 / hertz as f64;
        let longest = repeats.iter().map(Watch::longest).max().unwrap_or_default();
        let cycles: u64 = repeats.iter().map(Watch::duration).sum();
        let long: u64 = repeats.iter().map(Watch::long).sum();
        self.silence.push(microseconds(caused(repeats)));
        self.gap.push(microseconds(longest));
        self.long_gaps.push(long as f64 * hertz as f64 / cycles.max(1) as f64);
    }

    /// Hands them over, beside those of the same loop without the activity.
    fn report(self, rest: Option<Self>, report: &mut Report, subject: &Subject) {
        report.add(subject, "longest_silence", "us", self.silence);
        report.add(subject, "longest_gap", "us", self.gap);
        report.add(subject, "gaps_over_100us", "gaps/s", self.long_gaps);
        let Some(rest) = rest else { return };
        report.add(subject, "machine_longest_silence", "us", rest.silence);
        report.add(subject, "machine_longest_gap", "us", rest.gap);
        report.add(subject, "machine_gaps_over_100us", "gaps/s", rest.long_gaps);
    }
}

/// The longest gap that came again every time: of each step the shortest over the repeats, and of these the longest. In
/// cycles.
fn caused(repeats: &[Watch]) -> u64 {
    let steps = repeats.iter().map(|watch| watch.steps().len()).max().unwrap_or_default();
    let shortest = |step: usize| {
        let at = |watch: &Watch| watch.steps().get(step).copied().unwrap_or_default();
        repeats.iter().map(at).min().unwrap_or_default()
    };
    (0..steps).map(shortest).max().unwrap_or_default()
}

fn subject(mode: &'static str, flows: u32, capacity: u32) -> Subject {
    Subject {
        part: "silence",
        mode,
        protocol: "udp",
        flows,
        frame_bytes: newconn::FRAME_BYTES,
        workers: 1,
        capacity,
        scheduler: newconn::SCHEDULER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(gaps: &[u64]) -> Watch {
        let mut watch = Watch::begin(gaps.len(), 1_000_000_000);
        watch.start(0);
        let mut now = 0;
        for (step, gap) in gaps.iter().enumerate() {
            watch.enter(step);
            now += gap;
            watch.poll(now);
        }
        watch
    }

    #[test]
    fn what_comes_again_is_ours_and_what_does_not_is_the_machines() {
        // The machine has paused at other steps each time; at step 2 we have cost 40 or more every time.
        let repeats = [watch(&[5, 9000, 45, 5]), watch(&[5, 6, 40, 7000]), watch(&[8000, 5, 9000, 5])];
        assert_eq!(caused(&repeats), 40);
        assert_eq!(repeats.iter().map(Watch::longest).max(), Some(9000));
    }

    #[test]
    fn figures_are_in_microseconds_and_by_the_second() {
        let mut figures = Figures::default();
        // Of a counter at 1 GHz: two gaps longer than 100 µs in half a millisecond.
        figures.add(&[watch(&[5_000, 200_000]), watch(&[95_000, 200_000])], 1_000_000_000);
        assert_eq!((figures.silence[0], figures.gap[0]), (200.0, 200.0));
        assert!((figures.long_gaps[0] - 4000.0).abs() < 1.0, "{}", figures.long_gaps[0]);
    }
}
