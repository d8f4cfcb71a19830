//! What is counted for each destination (real server of a service): connections, packets, bytes.
//!
//! The cells live as long as the daemon and are reached by number, so that they survive every change of the service
//! table. What schedulers compare is shared by all workers and changes only with a connection's state; what counts
//! packets is each worker's own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use zerocopy::FromZeros;

use crate::conn::{Ended, State};
use crate::counters::add;
use crate::memory::Region;

/// Connections on a destination, as schedulers compare them.
#[derive(Default, FromZeros)]
#[repr(C, align(64))]
pub struct Load {
    active: AtomicU32,
    inactive: AtomicU32,
    persistent: AtomicU32,
    /// With this many connections it is overloaded; 0 where there is no limit.
    upper: AtomicU32,
    /// With fewer than this many it is no longer; 0 stands for 3/4 of `upper`.
    lower: AtomicU32,
    /// Not 0 while it is overloaded.
    overloaded: AtomicU32,
    /// Not 0 while its weight is 0.
    quiescent: AtomicU32,
}

impl Load {
    /// Connections that count in ActiveConn.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections that count in InActConn.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::Relaxed)
    }

    /// Persistence templates that lead to it.
    #[inline]
    pub fn persistent(&self) -> u32 {
        self.persistent.load(Ordering::Relaxed)
    }

    /// True while it has had as many connections as it may have, and has not got rid of enough since. Schedulers that
    /// heed thresholds give it no new ones.
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed) != 0
    }

    /// True while its weight is 0.
    pub fn is_quiescent(&self) -> bool {
        self.quiescent.load(Ordering::Relaxed) != 0
    }

    /// All connections, as thresholds count them.
    fn total(&self) -> u64 {
        let (active, inactive) = (self.active.load(Ordering::SeqCst), self.inactive.load(Ordering::SeqCst));
        u64::from(active) + u64::from(inactive)
    }

    /// To be called when a connection has been added: marks it overloaded where that was the last it may have.
    #[inline]
    fn fill(&self) {
        let upper = self.upper.load(Ordering::Relaxed);
        if upper != 0 && self.total() >= upper.into() {
            self.overload();
        }
    }

    #[cold]
    fn overload(&self) {
        // Connections may end while this is done. Who ends one takes it off the count and then looks at the mark; we
        // make the mark and then look at the count. All of it is SeqCst, so one of us sees what the other did, and no
        // destination without connections stays marked.
        self.overloaded.store(1, Ordering::SeqCst);
        self.relax();
    }

    /// Takes the mark away where few enough connections are left.
    fn relax(&self) {
        let (upper, lower) = (self.upper.load(Ordering::Relaxed), self.lower.load(Ordering::Relaxed));
        let enough_left = match (upper, lower) {
            (0, 0) => false,
            (upper, 0) => self.total() * 4 >= u64::from(upper) * 3,
            (_, lower) => self.total() >= lower.into(),
        };
        if !enough_left {
            self.overloaded.store(0, Ordering::SeqCst);
        }
    }

    /// Sets the thresholds (`-x` and `-y`). A higher limit, or none, takes the mark away at once; a lower one marks it
    /// with the next connection only.
    fn set_thresholds(&self, upper: u32, lower: u32) {
        let before = self.upper.swap(upper, Ordering::Relaxed);
        self.lower.store(lower, Ordering::Relaxed);
        if upper == 0 || upper > before {
            self.overloaded.store(0, Ordering::SeqCst);
        }
    }

    fn cell(&self, state: State) -> &AtomicU32 {
        if state.is_active() { &self.active } else { &self.inactive }
    }
}

/// One worker's counters for one destination.
#[derive(Default, FromZeros)]
#[repr(C, align(64))]
pub(crate) struct Tally {
    connections: AtomicU64,
    in_packets: AtomicU64,
    out_packets: AtomicU64,
    in_bytes: AtomicU64,
    out_bytes: AtomicU64,
    /// Not 0 while the destination is deleted. Here and not in a place of its own, because this line is read for every
    /// packet anyway.
    gone: AtomicU32,
}

/// What one worker counts, by the destinations' numbers.
pub(crate) struct Tallies(Region<Tally>);

impl Tallies {
    #[inline]
    pub(crate) fn of(&self, destination: u32) -> &Tally {
        &self.0[destination as usize]
    }
}

impl Tally {
    /// A connection has been opened.
    #[inline]
    pub(crate) fn opened(&self) {
        add(&self.connections, 1);
    }

    /// True while the destination is deleted; its connections' packets are dropped.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed) != 0
    }

    /// A packet from a client.
    #[inline]
    pub(crate) fn count_in(&self, bytes: impl Into<u64>) {
        add(&self.in_packets, 1);
        add(&self.in_bytes, bytes.into());
    }

    /// More of a packet from a client that has been counted: its first fragment was.
    pub(crate) fn count_more_in(&self, bytes: impl Into<u64>) {
        add(&self.in_bytes, bytes.into());
    }

    /// More of a packet from the server that has been counted.
    pub(crate) fn count_more_out(&self, bytes: impl Into<u64>) {
        add(&self.out_bytes, bytes.into());
    }

    /// A packet from the server.
    #[inline]
    pub(crate) fn count_out(&self, bytes: impl Into<u64>) {
        add(&self.out_packets, 1);
        add(&self.out_bytes, bytes.into());
    }
}

/// IPVS's five counters. Bytes are those of IP packets, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from the server that passed the director.
    pub out_packets: u64,
    /// Bytes of `in_packets`.
    pub in_bytes: u64,
    /// Bytes of `out_packets`.
    pub out_bytes: u64,
}

/// The cells of all destinations.
pub struct Destinations {
    loads: Region<Load>,
    tallies: Vec<Arc<Tallies>>,
}

impl Destinations {
    /// Room for destinations number 0 to `limit - 1`, and [nobody](Destinations::nobody), and `workers` workers.
    pub fn new(limit: usize, workers: usize) -> io::Result<Self> {
        let cells = limit + 1;
        let of_worker = |_| Region::new(cells).map(|cells| Arc::new(Tallies(cells)));
        let tallies = (0..workers).map(of_worker).collect::<io::Result<_>>()?;
        Ok(Self { loads: Region::new(cells)?, tallies })
    }

    /// How many destinations there is room for.
    pub fn limit(&self) -> usize {
        self.nobody() as usize
    }

    /// The number for what goes past all destinations.
    pub fn nobody(&self) -> u32 {
        self.loads.len() as u32 - 1
    }

    /// The connections on a destination.
    #[inline]
    pub fn load(&self, destination: u32) -> &Load {
        &self.loads[destination as usize]
    }

    /// A connection in this state is about to be opened. Counted before anyone can find it, so that no other worker ends
    /// it first.
    #[inline]
    pub(crate) fn opening(&self, destination: u32, state: State) {
        let load = self.load(destination);
        load.cell(state).fetch_add(1, Ordering::SeqCst);
        load.fill();
    }

    /// A connection has gone from one state to another.
    #[inline]
    pub(crate) fn moved(&self, destination: u32, from: State, to: State) {
        if from.is_active() != to.is_active() {
            let load = self.load(destination);
            load.cell(from).fetch_sub(1, Ordering::Relaxed);
            load.cell(to).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection has ended in this state, or was not opened after all.
    #[inline]
    pub(crate) fn ended(&self, destination: u32, state: State) {
        let load = self.load(destination);
        load.cell(state).fetch_sub(1, Ordering::SeqCst);
        if load.overloaded.load(Ordering::SeqCst) != 0 {
            load.relax();
        }
    }

    /// A persistence template is about to be opened.
    pub(crate) fn template_opening(&self, destination: u32) {
        self.load(destination).persistent.fetch_add(1, Ordering::Relaxed);
    }

    /// A persistence template has ended, or was not opened after all.
    pub(crate) fn template_ended(&self, destination: u32) {
        self.load(destination).persistent.fetch_sub(1, Ordering::Relaxed);
    }

    /// What was in the table is no more.
    #[inline]
    pub(crate) fn closed(&self, ended: Ended) {
        if ended.is_template {
            self.template_ended(ended.destination);
        } else {
            self.ended(ended.destination, ended.state);
        }
    }

    /// Sets how many connections a destination may have: overloaded with `upper` of them (0: never), and no longer once
    /// there are fewer than `lower` (0: than 3/4 of `upper`).
    pub fn set_thresholds(&self, destination: u32, upper: u32, lower: u32) {
        self.load(destination).set_thresholds(upper, lower);
    }

    /// Says whether the destination's weight is 0.
    pub fn set_quiescent(&self, destination: u32, quiescent: bool) {
        self.load(destination).quiescent.store(quiescent.into(), Ordering::Relaxed);
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.tallies.len()
    }

    /// What `worker`, and nobody else, counts.
    pub(crate) fn tallies(&self, worker: usize) -> Arc<Tallies> {
        self.tallies[worker].clone()
    }

    /// Says whether the destination is deleted.
    pub fn set_gone(&self, destination: u32, gone: bool) {
        for tallies in &self.tallies {
            tallies.of(destination).gone.store(gone.into(), Ordering::Relaxed);
        }
    }

    /// What all workers have counted since the start, for whichever destination had this number.
    pub fn stats(&self, destination: u32) -> Stats {
        let mut sum = Stats::default();
        for tallies in &self.tallies {
            let tally = tallies.of(destination);
            sum.connections += tally.connections.load(Ordering::Relaxed);
            sum.in_packets += tally.in_packets.load(Ordering::Relaxed);
            sum.out_packets += tally.out_packets.load(Ordering::Relaxed);
            sum.in_bytes += tally.in_bytes.load(Ordering::Relaxed);
            sum.out_bytes += tally.out_bytes.load(Ordering::Relaxed);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(destinations: &Destinations, n: usize) {
        (0..n).for_each(|_| destinations.opening(0, State::Established));
    }

    /// How many connections are left when it is no longer overloaded.
    fn drain(destinations: &Destinations) -> u64 {
        while destinations.load(0).is_overloaded() {
            destinations.ended(0, State::Established);
        }
        destinations.load(0).total()
    }

    #[test]
    fn overload_begins_and_ends_at_its_thresholds() {
        for (upper, lower, left) in [(10, 0, 7), (10, 4, 3), (4, 0, 2), (1, 0, 0), (1, 1, 0), (10, 10, 9)] {
            let destinations = Destinations::new(1, 1).unwrap();
            destinations.set_thresholds(0, upper, lower);
            fill(&destinations, upper as usize - 1);
            assert!(!destinations.load(0).is_overloaded(), "-x {upper} -y {lower}");
            // Inactive ones count as well, and one that becomes inactive changes nothing.
            destinations.opening(0, State::TimeWait);
            assert!(destinations.load(0).is_overloaded(), "-x {upper} -y {lower}");
            destinations.moved(0, State::TimeWait, State::Established);
            assert_eq!(drain(&destinations), left, "-x {upper} -y {lower}");
        }
    }

    #[test]
    fn only_a_higher_limit_or_none_lifts_an_overload_at_once() {
        let destinations = Destinations::new(1, 1).unwrap();
        destinations.set_thresholds(0, 4, 0);
        fill(&destinations, 4);
        for (upper, lower, overloaded) in [(4, 3, true), (3, 0, true), (4, 0, false)] {
            destinations.set_thresholds(0, upper, lower);
            assert_eq!(destinations.load(0).is_overloaded(), overloaded, "-x {upper} -y {lower}");
        }
        fill(&destinations, 1);
        assert!(destinations.load(0).is_overloaded());
        destinations.set_thresholds(0, 0, 0);
        assert!(!destinations.load(0).is_overloaded());
        fill(&destinations, 10);
        assert!(!destinations.load(0).is_overloaded());
    }

    /// The mark is set by whoever opens and taken by whoever ends; in the end, with no connection, it must be gone.
    #[test]
    fn nobody_without_connections_stays_overloaded() {
        let destinations = Destinations::new(1, 1).unwrap();
        destinations.set_thresholds(0, 2, 0);
        for _ in 0..200 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            destinations.opening(0, State::Established);
                            destinations.ended(0, State::Established);
                        }
                    });
                }
            });
            assert!(!destinations.load(0).is_overloaded());
        }
    }
}
