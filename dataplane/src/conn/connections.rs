//! One worker's hand on the connections: open, move on, close, expire.

use std::sync::Arc;

use super::entry::{Armed, Direction, Entry, Index, Kind, More, NewConnection};
use super::key::Key;
use super::life::Life;
use super::pool::Pool;
use super::state::{self, Seen, State, Timeouts};
use super::table::{ConnectionTable, Found, Hash, Refused};
use super::wheel::{Due, Wheel};
use crate::counters::Drop;
use crate::packet::tcp::Flags;
use crate::parse::AnyFlow;
use crate::sync::{Ordering, fence};
use crate::time::Tick;
use crate::wire::BURST;

/// Timers looked at per burst: as many as connections can be opened in one, so that none are left over when they end.
const TIMERS_PER_BURST: usize = BURST;

/// Why a connection was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another worker has opened it since it was looked up.
    Exists(Found),
    /// The buckets where it would have to be are full.
    TableFull,
    /// All entries are in use.
    NoFreeEntry,
    /// Its destination has no local address.
    NoLocalAddress,
    /// Every local port that was tried is in use towards this server.
    NoLocalPort,
}

impl From<OpenError> for Drop {
    /// Why the packet is dropped that was to open it.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NoFreeEntry => Drop::NoFreeEntry,
            OpenError::NoLocalAddress => Drop::NoLocalAddress,
            OpenError::NoLocalPort => Drop::NoLocalPort,
            OpenError::Exists(_) | OpenError::TableFull => Drop::TableFull,
        }
    }
}

/// A connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose counters it counted for.
    pub destination: u32,
    /// The state it ended in.
    pub state: State,
    /// Whether it was no connection but a persistence template.
    pub is_template: bool,
}

/// One worker's hand on the table all workers share.
pub struct Connections {
    pub(super) table: Arc<ConnectionTable>,
    worker: usize,
    pub(super) pool: Pool,
    wheel: Wheel,
}

/// How many timers a worker has room for. An entry has one that counts; one that was shortened leaves a stale one behind for a
/// while. Where these fill the other half, new connections are refused.
pub(super) const fn wheel_limit(capacity: usize) -> usize {
    2 * capacity
}

impl Connections {
    /// For worker number `worker`, which is online from now on.
    pub fn new(table: Arc<ConnectionTable>, worker: usize, now: Tick) -> Self {
        table.quiescence().pass(worker);
        let wheel = Wheel::new(now, wheel_limit(table.capacity()));
        Self { pool: Pool::new(&table), wheel, table, worker }
    }

    /// The shared table.
    #[inline]
    pub fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// The connection that a packet of `flow` belongs to.
    #[inline]
    pub fn find(&self, hash: Hash, flow: impl Key) -> Option<Found> {
        self.table.find(hash, flow)
    }

    /// The connection's entry. Of use until the next [`Connections::quiesce`].
    #[inline]
    pub fn entry(&self, index: Index) -> &Entry {
        self.table.entry(index)
    }

    /// Opens a connection, to be found from both sides where replies are seen.
    #[inline]
    pub fn open(&mut self, new: &NewConnection, timeouts: &Timeouts, now: Tick) -> Result<Index, OpenError> {
        self.open_as(new, Kind::Plain, timeouts.of(new.state), now)
    }

    /// The same for whatever kind; it is looked at after so many ticks.
    // Of the three kinds, one is opened far more often than the others, and is to pay for nothing of theirs.
    #[inline(always)]
    pub(super) fn open_as(
        &mut self,
        new: &NewConnection,
        kind: Kind,
        ticks: u32,
        now: Tick,
    ) -> Result<Index, OpenError> {
        if !self.has_timer() {
            return Err(OpenError::NoFreeEntry);
        }
        let index = self.take(new, kind, now).ok_or(OpenError::NoFreeEntry)?;
        let entry = self.table.entry(index);
        let life = entry.life();
        match new.flow {
            AnyFlow::V4(flow) if !life.is_wide() => {
                let reply = entry.is_found_by_replies(life).then(|| entry.flow_of(Direction::ToClient));
                self.publish(index, flow, reply)?;
            }
            flow => self.publish_wide(index, flow)?,
        }
        self.table.entry(index).complete();
        self.look_by(index, now.after(ticks));
        Ok(index)
    }

    /// True where there is a timer for another connection.
    #[inline]
    pub(super) fn has_timer(&self) -> bool {
        self.wheel.has_room()
    }

    /// Makes the connection that this worker has filled into an entry found by the client's flow, and by the server's where
    /// there is one. Where that fails it is gone.
    #[inline]
    fn publish<K: Key>(&mut self, index: Index, flow: K, reply: Option<K>) -> Result<(), OpenError> {
        let entry = self.table.entry(index);
        if let Err(refused) = self.table.insert(flow, Direction::ToServer, index) {
            entry.end(entry.life());
            self.leave_template(entry);
            self.put_back(index);
            return Err(match refused {
                Refused::Exists(found) => OpenError::Exists(found),
                Refused::Full => OpenError::TableFull,
            });
        }
        let is_found = reply.is_none_or(|flow| self.table.replace(flow, Direction::ToClient, index));
        if !is_found {
            self.end(index, entry.life());
            return Err(OpenError::TableFull);
        }
        Ok(())
    }

    #[inline(never)]
    fn publish_wide(&mut self, index: Index, flow: AnyFlow) -> Result<(), OpenError> {
        let entry = self.table.entry(index);
        self.publish(index, flow, self.table.reply(entry, entry.life()))
    }

    /// A connection of one packet (`-o`), which nobody ever finds and no list shows: over as soon as it is there, and then not
    /// under the template any more that was [adopted](Connections::adopt) for it. Its entry is of use until this worker opens
    /// another connection.
    #[inline(never)]
    pub fn open_once(
        &mut self,
        template: Option<Index>,
        new: &NewConnection,
        now: Tick,
    ) -> Result<Index, OpenError> {
        if let Some(template) = template {
            self.release(template);
        }
        let index = self.take(new, Kind::Plain, now).ok_or(OpenError::NoFreeEntry)?;
        let entry = self.table.entry(index);
        entry.end(entry.life());
        self.put_back(index);
        Ok(index)
    }

    /// A free entry with the new connection in it, which nobody finds yet; two where it is [wide](super::wide).
    #[inline(always)]
    fn take(&mut self, new: &NewConnection, kind: Kind, now: Tick) -> Option<Index> {
        let index = self.pool.allocate(&self.table)?;
        let extension = if new.is_wide() { Some(self.take_extension(new, index)?) } else { None };
        self.table.entry(index).fill(new, More { extension, inside: None }, kind, now);
        Some(index)
    }

    /// An entry with the addresses of the new connection for which the one at `index` was taken; that is put back where there is
    /// none.
    #[inline(never)]
    pub(super) fn take_extension(&mut self, new: &NewConnection, index: Index) -> Option<Index> {
        let Some(extension) = self.pool.allocate(&self.table) else {
            self.pool.put_back(&self.table, index);
            return None;
        };
        self.table.entry(extension).fill_extension(new);
        Some(extension)
    }

    /// Undoes that. What is in the entries is of use until others are taken.
    pub(super) fn put_back(&mut self, index: Index) {
        let entry = self.table.entry(index);
        if let Some(inside) = entry.inside() {
            self.pool.put_back(&self.table, inside);
        }
        if let Some(extension) = entry.extension() {
            if entry.life().has_note() {
                let note = entry.note().and_then(|(first, _)| first);
                note.into_iter().for_each(|first| self.put_back_pieces(first));
            }
            self.pool.put_back(&self.table, extension);
        }
        self.pool.put_back(&self.table, index);
    }

    /// A packet with these control bits has come (`strict`: while secure_tcp is in force): its connection's state before and
    /// after, where that has changed. `None`
    /// also for a connection that has just ended. Needed only where the packet [may change](Life::may_change) anything.
    #[inline(never)]
    pub fn step(
        &mut self,
        index: Index,
        direction: Direction,
        flags: Flags,
        (timeouts, strict): (&Timeouts, bool),
        now: Tick,
    ) -> Option<(State, State)> {
        let entry = self.table.entry(index);
        let mut life = entry.life();
        loop {
            let old = life.state();
            let seen = match direction {
                Direction::ToServer => Seen::from_client(entry.method(), life.has_replied()),
                Direction::ToClient => Seen::Out,
            };
            let new = state::next(old, seen, flags, strict);
            let replied = seen == Seen::Out && !life.has_replied();
            if !life.is_alive() || (new == old && !replied) {
                return None;
            }
            let next = if replied { life.with_state(new).with_reply() } else { life.with_state(new) };
            // Read while the connection is alive, which the exchange confirms: in a dead entry it is something else.
            let template = entry.template();
            let assures = (new.assures() && old != new) || (new == State::Udp && replied);
            match entry.change_life(life, next) {
                Err(now) => life = now,
                Ok(()) => {
                    if assures && let Some(template) = template {
                        self.table.entry(template).assure();
                    }
                    if new == old {
                        return None;
                    }
                    if timeouts.of(new) < timeouts.of(old) {
                        self.look_by(index, now.after(timeouts.of(new)));
                    }
                    return Some((old, new));
                }
            }
        }
    }

    /// Sees to it that the connection is looked at no later than at `deadline`. Where it has a timer and this worker has
    /// no room for an earlier one, it is looked at when that fires: late, and not wrong.
    pub(super) fn look_by(&mut self, index: Index, deadline: Tick) {
        let entry = self.table.entry(index);
        // The connection is alive before its timer is looked at; pairs with the fence in `look_at`.
        fence(Ordering::SeqCst);
        let armed = entry.armed();
        let room = armed == Armed::NONE || self.wheel.len() < self.table.capacity();
        // Where the exchange fails, another worker has just looked at the connection and armed a timer for it.
        if !armed.is_by(deadline) && room && entry.rearm(armed, Armed::at(self.wheel.tick_for(deadline))) {
            self.wheel.arm(index, deadline);
        }
    }

    /// Timeouts have changed: ends the connection of this life where its time is up by now, and else sees to it that it is
    /// looked at when it is.
    pub fn look_again(&mut self, index: Index, life: Life, timeouts: &Timeouts, now: Tick) -> Option<Ended> {
        if !life.is_alive() || !life.is_complete() || life.is_template() {
            return None;
        }
        let deadline = self.table.entry(index).last_seen().after(timeouts.of(life.state()));
        if now.reached(deadline) {
            return self.close_life(index, life);
        }
        self.look_by(index, deadline);
        None
    }

    /// Ends a connection now. `None` where another worker was first, and for a template with connections under it.
    pub fn close(&mut self, index: Index) -> Option<Ended> {
        self.close_life(index, self.table.entry(index).life())
    }

    /// The same for the connection that had this life: none that has come into its entry since. Nor one that is
    /// [being opened](Life::is_complete).
    pub fn close_life(&mut self, index: Index, life: Life) -> Option<Ended> {
        // In an extension, which is not alive, there is nothing that could be sealed.
        let is_open = life.is_alive() && life.is_complete();
        if !is_open || (life.is_template() && !self.table.entry(index).seal()) {
            return None;
        }
        self.end(index, life)
    }

    #[inline]
    pub(super) fn end(&mut self, index: Index, life: Life) -> Option<Ended> {
        let entry = self.table.entry(index);
        let life = entry.end(life)?;
        let (destination, state, is_template) = (entry.destination(), life.state(), life.is_template());
        let ended = Ended { destination, state, is_template };
        if life.has_more_entries() {
            self.remove_wide(index, life);
        } else {
            self.table.remove(entry.flow(), Direction::ToServer, index);
            if entry.is_found_by_replies(life) {
                self.table.remove(entry.flow_of(Direction::ToClient), Direction::ToClient, index);
            }
        }
        let entry = self.table.entry(index);
        self.leave_template(entry);
        self.pool.retire(&self.table, index);
        Some(ended)
    }

    /// Takes a connection of several entries out of its buckets, and gives up the others.
    #[inline(never)]
    fn remove_wide(&mut self, index: Index, life: Life) {
        let entry = self.table.entry(index);
        self.table.remove(self.table.flow(entry), Direction::ToServer, index);
        if let Some(reply) = self.table.reply(entry, life) {
            self.table.remove(reply, Direction::ToClient, index);
        }
        let (extension, inside) = (entry.extension(), entry.inside());
        if life.has_note() {
            self.retire_note(index);
        }
        for more in [extension, inside].into_iter().flatten() {
            self.pool.retire(&self.table, more);
        }
    }

    /// Ends connections whose time is up, a burst's share of them.
    pub fn expire(&mut self, timeouts: &Timeouts, now: Tick, mut ended: impl FnMut(Ended)) {
        for _ in 0..TIMERS_PER_BURST {
            let Some(due) = self.wheel.due(now) else { return };
            if let Some(end) = self.look_at(due, timeouts, now) {
                ended(end);
            }
        }
    }

    /// Handles a timer: ends the connection or arms another one. A stale timer, and one of a free entry, is at its end.
    pub(super) fn look_at(&mut self, due: Due, timeouts: &Timeouts, now: Tick) -> Option<Ended> {
        let entry = self.table.entry(due.index);
        if !entry.rearm(Armed::at(due.tick), Armed::NONE) {
            return None;
        }
        // Now there is no timer: either we see the connection that another worker is opening in this entry and arm one,
        // or it sees that it has to. Pairs with the fence in `look_by`.
        fence(Ordering::SeqCst);
        let life = entry.life();
        if !life.is_alive() {
            return None;
        }
        let mut deadline = entry.last_seen().after(entry.time_to_live(life, timeouts));
        if now.reached(deadline) {
            let ended = self.close_life(due.index, life);
            if ended.is_some() || !life.is_template() {
                return ended;
            }
            deadline = self.table.entry(due.index).stay(now);
        }
        let entry = self.table.entry(due.index);
        if entry.rearm(Armed::NONE, Armed::at(self.wheel.tick_for(deadline))) {
            self.wheel.arm(due.index, deadline);
        }
        None
    }

    /// Nothing found before this call is in use any more. Once a burst; frees what has ended long enough ago.
    #[inline]
    pub fn quiesce(&mut self) {
        self.table.quiescence().pass(self.worker);
        self.pool.reclaim(&self.table);
    }
}

impl std::ops::Drop for Connections {
    fn drop(&mut self) {
        self.table.quiescence().leave(self.worker);
    }
}
