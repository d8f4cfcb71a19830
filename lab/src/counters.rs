//! director's counters, and the identity they keep.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Deserializer};

/// What `lbctl counters --json` says: a list of workers. Unknown members are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Counters {
    /// One of each worker, in order.
    pub workers: Vec<Worker>,
}

/// Packets of one worker since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Worker {
    /// Taken from the ports.
    pub received: u64,
    /// Sent to a client or a real server.
    pub forwarded: u64,
    /// Made in addition, by fragmenting.
    #[serde(default)]
    pub fragments: u64,
    /// Handed to Linux.
    pub to_kernel: u64,
    /// Dropped, by reason.
    #[serde(deserialize_with = "by_name")]
    pub dropped: BTreeMap<String, u64>,
}

/// `[{"name": …, "count": …}, …]` as a map.
fn by_name<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u64>, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
        count: u64,
    }
    let list = Vec::<Named>::deserialize(from)?;
    Ok(list.into_iter().map(|drop| (drop.name, drop.count)).collect())
}

impl Counters {
    /// Reads `lbctl counters --json`.
    ///
    /// # Errors
    /// When it is not of that shape.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).with_context(|| format!("`lbctl counters --json` said {json}"))
    }

    /// All workers together.
    pub fn total(&self) -> Worker {
        self.workers.iter().fold(Worker::default(), |mut sum, worker| {
            sum.received += worker.received;
            sum.forwarded += worker.forwarded;
            sum.fragments += worker.fragments;
            sum.to_kernel += worker.to_kernel;
            for (name, count) in &worker.dropped {
                *sum.dropped.entry(name.clone()).or_default() += count;
            }
            sum
        })
    }

    /// Every packet that was received or made has gone somewhere: `received + fragments = forwarded + to_kernel + Σ dropped`, in each worker. Holds
    /// when no packet is on its way.
    ///
    /// # Errors
    /// The worker for which it does not hold, with its counters.
    pub fn check_identity(&self) -> Result<()> {
        ensure!(!self.workers.is_empty(), "director has no workers");
        for (index, worker) in self.workers.iter().enumerate() {
            let gone = worker.forwarded + worker.to_kernel + worker.dropped.values().sum::<u64>();
            ensure!(
                worker.received + worker.fragments == gone,
                "worker {index}: {} received, {gone} gone: {worker:?}",
                worker.received
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Counters;

    #[test]
    fn a_packet_that_went_nowhere_is_found() {
        let json = r#"[{"core":1,"received":9,"forwarded":5,"to_kernel":1,"from_kernel":3,
                "dropped":[{"name":"no_service","count":2},{"name":"truncated","count":1}]},
            {"core":2,"received":4,"forwarded":4,"to_kernel":0,"from_kernel":0,"dropped":[]}]"#;
        let mut counters = Counters::parse(json).unwrap();
        counters.check_identity().unwrap();
        assert_eq!(counters.total().received, 13);
        counters.workers[1].received += 1;
        assert!(
            counters.check_identity().unwrap_err().to_string().starts_with("worker 1: 5 received, 4 gone")
        );
    }
}
