//! Schedulers: which destination gets a new connection. One file each; each is named in [`SCHEDULERS`] and nowhere else.
//!
//! Meaning, arithmetic and tie-breaks are IPVS's. A scheduler's own state (whose turn it is) is one atomic word, so that
//! a choice is one step over all workers, and it outlives the snapshots in which the service is published.

mod lc;
mod rr;
mod wlc;
mod wrr;

use std::fmt::Debug;
use std::sync::Arc;

use crate::destination::{Destinations, Load};
use crate::parse::Flow;
use crate::service::{Destination, Service};

/// Chooses a destination for each new connection of one service.
pub trait Scheduler: Debug + Send + Sync {
    /// The destination for a new connection, or `None` where there is no candidate.
    fn schedule<'s>(&self, service: &'s Service, loads: &Destinations, flow: Flow)
    -> Option<&'s Destination>;

    /// The service's destinations are about to become those of `service`: one was added, deleted or edited.
    fn changed(&self, service: &Service) {
        let _ = service;
    }
}

/// A scheduler's entry in the register: the name that `-s` takes, and how one is made.
pub type Registered = (&'static str, fn() -> Arc<dyn Scheduler>);

/// Every scheduler there is.
pub const SCHEDULERS: &[Registered] = &[
    ("rr", || Arc::<rr::RoundRobin>::default()),
    ("wrr", || Arc::<wrr::WeightedRoundRobin>::default()),
    ("lc", || Arc::new(lc::LeastConnections)),
    ("wlc", || Arc::new(wlc::WeightedLeastConnections)),
];

/// A new scheduler of this name.
pub fn by_name(name: &str) -> Option<Arc<dyn Scheduler>> {
    SCHEDULERS.iter().find(|(known, _)| *known == name).map(|(_, make)| make())
}

/// True where a destination may get a new connection.
fn is_candidate(destination: &Destination) -> bool {
    destination.weight > 0
}

/// What a connection costs its server, as lc, wlc and their like count it: an active one as much as 256 inactive.
fn overhead(load: &Load) -> u64 {
    (u64::from(load.active()) << 8) + u64::from(load.inactive())
}

#[cfg(test)]
mod tests;
