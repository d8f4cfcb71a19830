//! How a load went: counts, rates, loss and latency, for people and for programs.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::Counts;

/// What the sending side counted.
pub struct Sent {
    /// How long was sent.
    pub seconds: f64,
    /// Frames the wire took.
    pub sent: u64,
    /// Frames that were due, and that the wire did not take.
    pub refused: u64,
    /// Frames that were due while the generator did not run.
    pub skipped: u64,
    /// Frames that opened new flows.
    pub opened: u64,
    /// Frames that were to open new flows, and that were not written when they were due.
    pub not_opened: u64,
    /// How long the generator did not run, in seconds: all pauses of more than 100 µs, and the longest.
    pub paused: f64,
    /// See `paused`.
    pub longest_pause: f64,
    /// In which share of its offers the wire did not take all.
    pub full: f64,
    /// Frames that came back while others were still being sent.
    pub received_meanwhile: u64,
    /// Frames a second that were asked for.
    pub wanted_rate: Option<f64>,
    /// New flows a second that were asked for.
    pub wanted_new: Option<f64>,
}

/// The time that frames were away, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// How many it was taken of.
    pub frames: u64,
    /// The least.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: f64,
    /// Nine of ten were faster.
    pub p90_us: f64,
    /// 99 of 100 were faster.
    pub p99_us: f64,
    /// 999 of 1000 were faster.
    pub p999_us: f64,
    /// 9999 of 10000 were faster.
    pub p9999_us: f64,
    /// The most.
    pub max_us: f64,
}

/// How a load went.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// How long was sent, in seconds.
    pub seconds: f64,
    /// Frames a second that were asked for; absent where it was as many as the wire takes.
    pub wanted_rate: Option<f64>,
    /// Frames a second that were sent.
    pub sent_rate: f64,
    /// Frames a second that came back, while others were sent.
    pub received_rate: f64,
    /// Frames the wire took.
    pub sent: u64,
    /// Frames that were due, and that the wire did not take. They count as lost.
    pub refused: u64,
    /// Frames that were due while the generator did not run. They count for nothing.
    pub skipped: u64,
    /// New flows a second that were asked for; absent where none were.
    pub wanted_new: Option<f64>,
    /// Frames of those sent that opened new flows.
    pub opened: u64,
    /// New flows that were due, and whose frames were not written then: the generator or the wire was too slow for them.
    pub not_opened: u64,
    /// How long the generator did not run, in seconds: pauses of more than 100 µs.
    pub paused_seconds: f64,
    /// The longest of them, in microseconds.
    pub longest_pause_us: f64,
    /// Frames that came back, whole and each once.
    pub received: u64,
    /// Frames that were sent and did not come back whole.
    pub lost: u64,
    /// Lost and refused ones, as a share of all that were due.
    pub loss: f64,
    /// Frames that came back after one that was sent later; of other flows, too.
    pub reordered: u64,
    /// Frames that came back more than once, not counting the first time.
    pub duplicated: u64,
    /// Frames that came back changed in what a balancer does not change.
    pub damaged: u64,
    /// Frames of an earlier run.
    pub stale: u64,
    /// Frames of someone else.
    pub foreign: u64,
    /// In which share of the generator's offers the wire was full. Near 0 it was the generator that was the slower.
    pub wire_full: f64,
    /// The time that frames were away.
    pub latency: Option<Latency>,
    /// The first damaged frame.
    pub first_damage: Option<String>,
}

impl Outcome {
    /// Puts together what both sides counted. Latency is in ticks, of which there are so many in a microsecond.
    pub fn new(
        counts: Counts,
        sent: Sent,
        latency: &Histogram<u64>,
        ticks_per_us: f64,
        first_damage: Option<String>,
    ) -> Self {
        let Counts { received, reordered, duplicated, damaged, stale, foreign } = counts;
        let lost = sent.sent.saturating_sub(received);
        let due = sent.sent + sent.refused;
        let per_second = |frames: u64| if sent.seconds > 0.0 { frames as f64 / sent.seconds } else { 0.0 };
        let us = |ticks: u64| ticks as f64 / ticks_per_us;
        let quantile = |q| us(latency.value_at_quantile(q));
        let latency = (!latency.is_empty()).then(|| Latency {
            frames: latency.len(),
            min_us: us(latency.min()),
            mean_us: latency.mean() / ticks_per_us,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            p9999_us: quantile(0.9999),
            max_us: us(latency.max()),
        });
        Self {
            seconds: sent.seconds,
            wanted_rate: sent.wanted_rate,
            sent_rate: per_second(sent.sent),
            received_rate: per_second(sent.received_meanwhile),
            sent: sent.sent,
            refused: sent.refused,
            skipped: sent.skipped,
            wanted_new: sent.wanted_new,
            opened: sent.opened,
            not_opened: sent.not_opened,
            paused_seconds: sent.paused,
            longest_pause_us: sent.longest_pause * 1e6,
            received,
            lost,
            loss: if due == 0 { 0.0 } else { (lost + sent.refused) as f64 / due as f64 },
            reordered,
            duplicated,
            damaged,
            stale,
            foreign,
            wire_full: sent.full,
            latency,
            first_damage,
        }
    }

    /// Whether the generator itself kept to what was asked for so well that a trial says something of the other side: to the rate
    /// and, where frames are sent as fast as the wire takes them, to sending.
    pub fn kept_pace(&self) -> bool {
        let sent_all_the_time = self.wanted_rate.is_some() || self.paused_seconds * 100.0 <= self.seconds;
        sent_all_the_time && self.is_within(100)
    }

    /// Whether it was about the rates that were asked for.
    pub fn is_of_the_rate(&self) -> bool {
        self.is_within(10)
    }

    /// Whether about as many new flows were opened as were asked for.
    pub fn opened_enough(&self) -> bool {
        self.not_opened * 10 <= self.opened + self.not_opened
    }

    /// Whether no more than one in `share` was skipped.
    fn is_within(&self, share: u64) -> bool {
        self.skipped * share <= self.due() && self.not_opened * share <= self.opened + self.not_opened
    }

    /// Whether frames may have been lost because the generator did not run: the receive queues, which hold so many frames, may have
    /// been full at its end of the wire.
    pub fn may_have_lost(&self, queued: usize) -> bool {
        let rate = if self.seconds > 0.0 { self.sent as f64 / self.seconds } else { 0.0 };
        // Half of them: what was in them at the beginning of a pause is not known.
        self.longest_pause_us / 1e6 * rate * 2.0 > queued as f64
    }

    /// Frames that were due.
    pub fn due(&self) -> u64 {
        self.sent + self.refused + self.skipped
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let million = |rate: f64| rate / 1e6;
        write!(f, "sent      {:>12}  {:>9.4} M/s", self.sent, million(self.sent_rate))?;
        match self.wanted_rate {
            Some(rate) => writeln!(f, " of {:.4} M/s wanted", million(rate))?,
            None => writeln!(f, ", as fast as the wire takes them")?,
        }
        writeln!(f, "received  {:>12}  {:>9.4} M/s", self.received, million(self.received_rate))?;
        writeln!(f, "lost      {:>12}  {:.6} % with those refused", self.lost, self.loss * 100.0)?;
        let others = [
            ("refused", self.refused, "the wire was full when they were due"),
            ("skipped", self.skipped, "due while the generator did not run"),
            ("opened", self.opened, "new flows"),
            (
                "unopened",
                self.not_opened,
                "new flows that were due, and for which the wire or the generator was too slow",
            ),
            ("reordered", self.reordered, "came after one that was sent later"),
            ("duplicated", self.duplicated, "came more than once"),
            ("damaged", self.damaged, "came changed"),
            ("stale", self.stale, "of an earlier run"),
            ("foreign", self.foreign, "someone else's"),
        ];
        for (name, count, meaning) in others.iter().filter(|(_, count, _)| *count > 0) {
            writeln!(f, "{name:<10}{count:>12}  {meaning}")?;
        }
        if self.longest_pause_us > 0.0 {
            let (all, longest) = (self.paused_seconds * 1e3, self.longest_pause_us / 1e3);
            writeln!(
                f,
                "paused    {all:>12.3}  ms in all, {longest:.3} ms at longest: the generator did not run"
            )?;
        }
        if !self.kept_pace() {
            let what = match self.wanted_rate {
                Some(_) => "keep to the rate: it needs a core of its own, or a lower one",
                None if self.opened_enough() => "run all the time: it needs a core of its own",
                None => "open as many new flows as were asked for",
            };
            writeln!(f, "the generator did not {what}")?;
        }
        if let Some(damage) = &self.first_damage {
            writeln!(f, "the first damaged frame: {damage}")?;
        }
        writeln!(
            f,
            "wire full {:>11.1}%  of the times that frames were offered to it",
            self.wire_full * 100.0
        )?;
        if let Some(latency) = &self.latency {
            let Latency { min_us, mean_us, p50_us, p90_us, p99_us, p999_us, p9999_us, max_us, .. } = latency;
            write!(
                f,
                "latency   min {min_us:.1}  mean {mean_us:.1}  50 % {p50_us:.1}  90 % {p90_us:.1}  99 % {p99_us:.1}  \
                 99.9 % {p999_us:.1}  99.99 % {p9999_us:.1}  max {max_us:.1} us"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(counts: Counts, sent: u64, refused: u64, skipped: u64) -> Outcome {
        let mut latency = Histogram::new_with_bounds(1, u64::from(u32::MAX), 3).unwrap();
        (1..=1000).for_each(|ticks| latency.record(ticks).unwrap());
        let sent = Sent {
            seconds: 2.0,
            sent,
            refused,
            skipped,
            opened: 0,
            not_opened: 0,
            paused: 0.0,
            longest_pause: 0.0,
            full: 0.25,
            received_meanwhile: counts.received - 10,
            wanted_rate: Some(500.0),
            wanted_new: None,
        };
        Outcome::new(counts, sent, &latency, 10.0, None)
    }

    #[test]
    fn frames_add_up() {
        let counts = Counts { received: 900, reordered: 1, duplicated: 2, damaged: 3, ..Counts::default() };
        let outcome = outcome(counts, 950, 50, 0);
        assert_eq!((outcome.lost, outcome.loss), (50, 0.1));
        assert_eq!((outcome.sent_rate, outcome.received_rate), (475.0, 445.0));
        let latency = outcome.latency.as_ref().unwrap();
        assert_eq!(
            (latency.min_us, latency.p50_us, latency.p99_us, latency.max_us),
            (0.1, 50.0, 99.0, 100.0)
        );
        let text = outcome.to_string();
        for words in ["10.000000 %", "damaged              3", "50 % 50.0"] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        assert!(!text.contains("foreign"));
    }

    #[test]
    fn a_generator_that_was_away_for_long_has_proved_nothing() {
        let counts = Counts { received: 1000, ..Counts::default() };
        let says = |outcome: &Outcome| outcome.to_string().contains("did not keep to the rate");
        let good = outcome(counts, 1000, 0, 10);
        assert!(good.kept_pace() && !says(&good));
        let late = outcome(counts, 1000, 0, 11);
        assert!(!late.kept_pace() && says(&late) && late.is_of_the_rate());
        assert!(outcome(counts, 1000, 0, 111).is_of_the_rate());
        assert!(!outcome(counts, 1000, 0, 112).is_of_the_rate());
    }

    #[test]
    fn new_flows_that_were_not_opened_are_as_bad_as_frames_that_were_not_sent() {
        let of = |opened, not_opened| Outcome {
            wanted_rate: None,
            wanted_new: Some(500.0),
            opened,
            not_opened,
            ..outcome(Counts { received: 1000, ..Counts::default() }, 1000, 0, 0)
        };
        assert!(of(99, 1).kept_pace() && of(90, 10).is_of_the_rate());
        assert!(!of(98, 2).kept_pace() && !of(89, 11).is_of_the_rate());
        assert!(of(89, 11).to_string().contains("unopened            11"));
    }

    #[test]
    fn pauses_are_told_and_may_be_what_lost_frames() {
        // 1000 frames in two seconds.
        let of = |paused_seconds, longest_pause_us, wanted_rate| Outcome {
            wanted_rate,
            paused_seconds,
            longest_pause_us,
            ..outcome(Counts { received: 1000, ..Counts::default() }, 1000, 0, 0)
        };
        // With a rate, what counts is what was skipped.
        assert!(of(0.03, 10e3, Some(500.0)).kept_pace());
        assert!(!of(0.03, 10e3, None).kept_pace() && of(0.02, 10e3, None).kept_pace());
        assert!(of(0.03, 10e3, None).to_string().contains("30.000  ms in all, 10.000 ms at longest"));
        // A tenth of a second's frames are 50.
        assert!(of(0.1, 100e3, None).may_have_lost(99) && !of(0.1, 100e3, None).may_have_lost(100));
    }
}
