//! Connections that end before their time: those of deleted destinations (expire_nodest_conn), such as look unused while there
//! are too many (drop_entry), and those whose timeout has become shorter.
//!
//! A worker goes over its share of the table a few entries at a time, between two bursts, so that packets do not wait.

use std::ops::Range;

use crate::conn::entry::Entry;
use crate::conn::life::Life;
use crate::conn::{ConnectionTable, Connections, Index, State, Timeouts, View};
use crate::destination::{Destinations, Tallies};
use crate::snapshot::Snapshot;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Entries looked at between two bursts, at most. Workers share the table in pieces of as many.
const PIECE: usize = 64;

/// IPVS looks at so many parts of its table for unused connections, one each second.
const PARTS: usize = 32;

/// A connection that had a packet within this many ticks is not unused.
const IDLE: u32 = 60 * TICKS_PER_SECOND;

/// A connection that had packets in more ticks is of use.
const FEW: usize = 8;

/// A worker's way over its share of the table.
pub(super) struct Sweep {
    worker: usize,
    workers: usize,
    /// When there is something to do.
    due: Tick,
    /// The deletions that have been swept for, or are being.
    deletions: u32,
    /// Entries still to be swept for them: from this one of our own on.
    deleted_from: Option<usize>,
    /// The timeouts that connections' timers are set by, or are being.
    timeouts: Timeouts,
    /// Entries still to be gone over for them: from this one of our own on.
    retimed_from: Option<usize>,
    /// The next second's look at unused connections.
    next_part: Tick,
    /// Entries still to be looked at in this second, and the next of our own.
    left: usize,
    next_entry: usize,
    /// What was too little for a whole one, in parts of an entry.
    rest: usize,
    /// For each number of packets, how many connections with so many are spared before one is dropped.
    spared: [usize; FEW + 1],
}

impl Sweep {
    pub(super) fn new(worker: usize, workers: usize, snapshot: &Snapshot, now: Tick) -> Self {
        Self {
            worker,
            workers,
            due: now,
            deletions: snapshot.deletions,
            deleted_from: None,
            timeouts: snapshot.timeouts,
            retimed_from: None,
            next_part: now,
            left: 0,
            next_entry: 0,
            rest: 0,
            spared: [0; FEW + 1],
        }
    }

    /// A new snapshot has come: there may be something to do.
    pub(super) fn wake(&mut self, now: Tick) {
        self.due = now;
    }

    /// True where [`Sweep::round`] is to be called.
    #[inline]
    pub(super) fn is_due(&self, now: Tick) -> bool {
        now.reached(self.due)
    }

    /// Looks at some entries.
    #[cold]
    pub(super) fn round(
        &mut self,
        connections: &mut Connections,
        table: &ConnectionTable,
        (destinations, tallies): (&Destinations, &Tallies),
        snapshot: &Snapshot,
        now: Tick,
    ) {
        if snapshot.deletions != self.deletions {
            self.deletions = snapshot.deletions;
            self.deleted_from = Some(0);
        }
        if snapshot.timeouts != self.timeouts {
            self.timeouts = snapshot.timeouts;
            self.retimed_from = Some(0);
        }
        let own = self.own(table);
        if let Some(from) = self.retimed_from {
            for index in self.entries(from..own.min(from + PIECE)) {
                let life = table.entry(index).life();
                if let Some(ended) = connections.look_again(index, life, &snapshot.timeouts, now) {
                    destinations.closed(ended);
                }
            }
            self.retimed_from = Some(from + PIECE).filter(|next| *next < own);
        }
        let mut over = |sweep: &mut Self, entries: Range<usize>, spare_assured: bool, end: Ends| {
            for index in sweep.entries(entries) {
                let Some(seen) = Seen::new(table, index, &snapshot.timeouts, now) else { continue };
                if end(sweep, &seen, tallies) {
                    let ended = connections.drop_life(index, seen.life, spare_assured);
                    ended.into_iter().flatten().for_each(|ended| destinations.closed(ended));
                }
            }
        };
        if let Some(from) = self.deleted_from {
            let entries = from..own.min(from + PIECE);
            over(self, entries, false, |_, seen, tallies| tallies.of(seen.view.destination).is_gone());
            self.deleted_from = Some(from + PIECE).filter(|next| *next < own);
        }
        if !snapshot.defence.drop_entry {
            (self.next_part, self.left, self.rest) = (now, 0, 0);
        } else if now.reached(self.next_part) {
            self.next_part = now.after(TICKS_PER_SECOND);
            let parts = self.rest + own;
            (self.left, self.rest) = (parts / PARTS, parts % PARTS);
        }
        if self.left > 0 && own > 0 {
            let from = if self.next_entry < own { self.next_entry } else { 0 };
            let to = own.min(from + self.left.min(PIECE));
            over(self, from..to, true, |sweep, seen, _| sweep.is_unused(seen));
            (self.next_entry, self.left) = (to, self.left - (to - from));
        }
        let is_busy = self.deleted_from.is_some() || self.retimed_from.is_some() || self.left > 0;
        self.due = if is_busy { now } else { now.after(TICKS_PER_SECOND) };
    }

    /// How many entries of what has been used of the table are ours.
    fn own(&self, table: &ConnectionTable) -> usize {
        let used = table.used();
        let pieces = (used.div_ceil(PIECE) + self.workers - 1 - self.worker) / self.workers;
        // All of them are whole but the last.
        let whole = pieces.saturating_sub(1) * PIECE;
        whole + used.saturating_sub(entry(self.worker, self.workers, whole)).min(PIECE)
    }

    /// Some of our own.
    fn entries(&self, own: Range<usize>) -> impl Iterator<Item = Index> + use<> {
        let Self { worker, workers, .. } = *self;
        own.map(move |own| Index(entry(worker, workers, own) as u32))
    }

    /// Whether IPVS's random_dropentry would drop the connection, which for idle ones also depends on how many with as few
    /// packets it has seen.
    fn is_unused(&mut self, seen: &Seen<'_>) -> bool {
        if let Some(is_assured) = seen.view.template {
            // One of one-packet connections counts by its packets, and it has none of its own.
            return !is_assured && !seen.life.is_for_one_packet();
        }
        match seen.view.state {
            State::SynRecv | State::SynAck | State::SctpInit1 | State::SctpInit => true,
            State::Established | State::Udp | State::SctpEstablished => self.is_next(seen),
            _ => false,
        }
    }

    fn is_next(&mut self, seen: &Seen<'_>) -> bool {
        if (seen.now.since(seen.entry.last_seen()) as u32) < IDLE {
            return false;
        }
        let packets = usize::from(seen.entry.busy_ticks());
        let Some(spared) = self.spared.get_mut(packets).filter(|_| packets > 0) else { return false };
        *spared = spared.saturating_sub(1);
        let is_next = *spared == 0;
        if is_next {
            *spared = packets;
        }
        is_next
    }
}

/// Which entry of the table is the one of a worker's own at this place.
fn entry(worker: usize, workers: usize, own: usize) -> usize {
    (own / PIECE * workers + worker) * PIECE + own % PIECE
}

/// Whether the connection is to end.
type Ends = fn(&mut Sweep, &Seen<'_>, &Tallies) -> bool;

/// A connection as it is looked at.
struct Seen<'t> {
    entry: &'t Entry,
    life: Life,
    view: View,
    now: Tick,
}

impl<'t> Seen<'t> {
    fn new(table: &'t ConnectionTable, index: Index, timeouts: &Timeouts, now: Tick) -> Option<Self> {
        let entry = table.entry(index);
        let life = entry.life();
        // What ends is the connection of this life; had it gone before the view was made, nothing ends.
        Some(Self { entry, life, view: table.view(index, timeouts, now)?, now })
    }
}
