//! Persistence templates: entries that no packet finds, and that say where new connections of a client go.
//!
//! A template counts the connections under it and is not ended while there are any, so that they can refer to it by its
//! entry. Who wants to be under it counts itself first; who ends it seals the count first, at 0. Of the two, the one that
//! comes first wins.

use super::connections::{Connections, Ended, OpenError};
use super::entry::{Entry, Index, Kind, NewConnection};
use super::life::Life;
use super::note::Note;
use super::state::Timeouts;
use crate::parse::AnyFlow;
use crate::sync::Ordering;
use crate::time::{TICKS_PER_SECOND, Tick};

/// In place of the count of connections: the template ends.
const SEALED: u64 = 1 << 63;

/// How long a template stays whose time is up while there are connections under it, in ticks. From then on for good, as in
/// the kernel.
const MEANWHILE: u32 = 60 * TICKS_PER_SECOND;

impl Entry {
    /// True for what is found by the server's flow, too.
    #[inline]
    pub(super) fn is_found_by_replies(&self, life: Life) -> bool {
        self.method().sees_replies() && !life.is_template()
    }

    /// The template that the connection is under. Of use only where the connection is known to be alive.
    #[inline]
    pub(super) fn template(&self) -> Option<Index> {
        self.link().load(Ordering::Relaxed).checked_sub(1).map(Index)
    }

    /// True for a connection under a template.
    #[inline]
    pub fn is_under_template(&self) -> bool {
        self.template().is_some()
    }

    /// How many ticks it stays after its last packet, or the template after its last new connection.
    #[inline]
    pub(super) fn time_to_live(&self, life: Life, timeouts: &Timeouts) -> u32 {
        if life.is_template() {
            self.persistence().load(Ordering::Relaxed) as u32
        } else {
            timeouts.of(life.state())
        }
    }

    /// The template's time is up and there are connections under it: when to look again.
    pub(super) fn stay(&self, now: Tick) -> Tick {
        self.persistence().store(MEANWHILE.into(), Ordering::Relaxed);
        self.seen(now);
        now.after(MEANWHILE)
    }

    /// Counts one more connection under the template. False where it is at its end.
    fn adopt(&self) -> bool {
        let one_more = |count| (count != SEALED).then_some(count + 1);
        // AcqRel: pairs with `seal`; either it sees this connection, or we see that it was first.
        self.children().fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// Makes sure that no connection is under the template, and none will be. True for the one caller that did.
    pub(super) fn seal(&self) -> bool {
        self.children().compare_exchange(0, SEALED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Changes what the life of the template says, as long as it is this one.
    fn mark(&self, change: impl Fn(Life) -> Life) -> bool {
        let mut life = self.life();
        let generation = life.generation();
        while life.is_alive() && life.generation() == generation && change(life) != life {
            match self.change_life(life, change(life)) {
                Ok(()) => return true,
                Err(now) => life = now,
            }
        }
        false
    }

    /// A connection under the template has been established.
    pub(super) fn assure(&self) {
        self.mark(Life::with_assurance);
    }
}

impl Connections {
    /// The template of this key. To be used only under [`Connections::adopt`].
    pub fn find_template(&self, key: AnyFlow) -> Option<Index> {
        self.table.find(self.table.hash(key), key).map(|found| found.index)
    }

    /// Takes the template for a new connection: it stays for its whole time from now on, and at least until the connection
    /// ends. False where it is at its end, or counts no longer.
    pub fn adopt(&self, template: Index, now: Tick) -> bool {
        let entry = self.table.entry(template);
        if entry.life().is_invalid() || !entry.adopt() {
            return false;
        }
        entry.seen(now);
        true
    }

    /// Undoes [`Connections::adopt`].
    pub fn release(&self, template: Index) {
        // Release: what was done under the template comes before its end; pairs with `seal`.
        self.table.entry(template).children().fetch_sub(1, Ordering::Release);
    }

    /// The connection in `entry`, which this worker has just ended, is under its template no longer.
    pub(super) fn leave_template(&self, entry: &Entry) {
        if let Some(template) = entry.template() {
            self.release(template);
        }
    }

    /// Opens a template (its flow is a [key](crate::parse::Flow::template)) that stays for so many ticks after its last new connection, of a
    /// service that schedules each packet by itself or of another, and [adopts](Connections::adopt) it. Where something is noted with
    /// it, the key is one of [an engine's](AnyFlow::engine_template).
    #[inline(never)]
    pub fn open_template(
        &mut self,
        new: &NewConnection,
        (ticks, one_packet): (u32, bool),
        note: Option<&Note>,
        now: Tick,
    ) -> Result<Index, OpenError> {
        let note = match note {
            Some(note) => Some(self.take_note(note).ok_or(OpenError::NoFreeEntry)?),
            None => None,
        };
        let opened = self.open_as(new, Kind::Template { ticks, one_packet, note }, ticks, now);
        if let (Some(note), Err(OpenError::NoFreeEntry)) = (note, opened) {
            self.put_back_pieces(note.0);
        }
        opened
    }

    /// Opens a connection under a template that was [adopted](Connections::adopt) for it; where that fails, it is released.
    #[inline(never)]
    pub fn open_under(
        &mut self,
        template: Index,
        new: &NewConnection,
        timeouts: &Timeouts,
        now: Tick,
    ) -> Result<Index, OpenError> {
        let opened = self.open_as(new, Kind::Under(template), timeouts.of(new.state), now);
        self.opened_under(template, new, &opened);
        opened
    }

    /// A connection has been opened under a template that was adopted for it, or has not.
    pub(super) fn opened_under(
        &self,
        template: Index,
        new: &NewConnection,
        opened: &Result<Index, OpenError>,
    ) {
        if opened.is_ok() && new.state.assures() {
            self.table.entry(template).assure();
        }
        // Where there was no entry for it, nobody has released the template.
        if *opened == Err(OpenError::NoFreeEntry) {
            self.release(template);
        }
    }

    /// Ends the connection of this life before its time, as IPVS drops one: a template stays while there are connections under
    /// it, and goes with the last of them; one that is assured only where `spare_assured` is not set. Gives all that ended.
    pub fn drop_life(&mut self, index: Index, life: Life, spare_assured: bool) -> [Option<Ended>; 2] {
        // Of use where it is this connection that ends.
        let template = self.table.entry(index).template();
        let Some(ended) = self.close_life(index, life) else { return [None, None] };
        let drops = |template: &Index| !(spare_assured && self.table.entry(*template).life().is_assured());
        [Some(ended), template.filter(drops).and_then(|template| self.close(template))]
    }

    /// The template leads nobody to its server any more; it stays until its time is up, as in the kernel.
    pub fn invalidate(&self, template: Index) {
        let entry = self.table.entry(template);
        entry.mark(Life::invalid);
        // Also where another worker was first: it may not have come to this yet, and the key has to be free.
        self.table.remove(self.table.flow(entry), super::Direction::ToServer, template);
    }
}
