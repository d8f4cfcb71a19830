//! The way of fragments: the first one of a datagram is looked up as any packet, the others follow it, by the [note](Notes) of what
//! became of it. Those that come before it wait for it: not long, and not many.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Balancer;
use super::across::is_across;
use super::tunnel::{Through, spread};
use crate::conn::table::Found;
use crate::conn::{ConnectionTable, Direction, Method};
use crate::counters::{Drop, Verdict};
use crate::egress::{self, Ports};
use crate::forward::{Forward, later, translate};
use crate::fragments::{Course, Datagram, Decision, Notes, Part, Refused};
use crate::network::PortId;
use crate::packet::ethernet;
use crate::packet::tcp::Flags;
use crate::parse::{AnyPacket, Content, Fragment, Packet, Packet6};
use crate::snapshot::Snapshot;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::wire::{Frame, Wire};

/// The most fragments of one worker that wait for the first ones of their datagrams.
pub const WAITING: usize = 512;

/// The most of one datagram: enough for the longest, cut for the usual MTU.
const WAITING_EACH: u8 = 48;

/// Datagrams are told apart by this much of a hash; two that share a place share what one may have.
const PLACES: usize = 1024;

/// How long a fragment waits for the first one.
const PATIENCE: i32 = TICKS_PER_SECOND as i32;

/// The most fragments tried again in one round, so that the next burst is not long in coming.
const RETRIES: usize = 64;

/// A fragment that waits.
struct Waiting<F> {
    frame: F,
    port: PortId,
    datagram: Datagram,
    part: Part,
    place: usize,
    since: Tick,
}

/// What one worker has to do with fragments.
pub(super) struct Fragments<F> {
    notes: Arc<Notes>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting<F>>,
    /// How many wait of the datagrams of each place.
    each: Box<[u8]>,
    /// [`Notes::decisions`] when it was last looked at.
    decisions: u64,
    /// The next one to be tried again.
    next: usize,
    /// How many have not been tried since something may have changed.
    untried: usize,
    /// One of them has met another worker, and is tried again whether anything changes or not.
    was_busy: bool,
}

impl<F> Fragments<F> {
    pub(super) fn new(notes: Arc<Notes>) -> Self {
        Self {
            notes,
            waiting: VecDeque::with_capacity(WAITING),
            each: vec![0; PLACES].into(),
            decisions: 0,
            next: 0,
            untried: 0,
            was_busy: false,
        }
    }

    /// What became of datagrams.
    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// True while none waits.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts one behind all that wait. Gives the frame that has to go for it: it itself, or the one that has waited longest, whose
    /// first fragment is least likely to come.
    fn keep(&mut self, waiting: Waiting<F>, reason: Refused) -> Option<F> {
        if self.each[waiting.place] == WAITING_EACH {
            return Some(waiting.frame);
        }
        let oldest = if self.waiting.len() == WAITING { self.remove(0) } else { None };
        self.each[waiting.place] += 1;
        self.waiting.push_back(waiting);
        self.was_busy |= reason == Refused::Busy;
        oldest.map(|waiting| waiting.frame)
    }

    fn remove(&mut self, number: usize) -> Option<Waiting<F>> {
        let removed = self.waiting.remove(number)?;
        self.each[removed.place] -= 1;
        self.next -= usize::from(number < self.next);
        Some(removed)
    }

    /// The one that has waited longest, where that is too long.
    fn take_overdue(&mut self, now: Tick) -> Option<Waiting<F>> {
        let is_overdue = self.waiting.front().is_some_and(|oldest| now.since(oldest.since) > PATIENCE);
        if is_overdue { self.remove(0) } else { None }
    }

    /// The next one that waits for something that may be there now: it, and for one that follows what it is to do.
    fn take_released(&mut self, now: Tick) -> Option<(Waiting<F>, Released)> {
        while self.untried > 0 && !self.waiting.is_empty() {
            self.untried -= 1;
            if self.next >= self.waiting.len() {
                self.next = 0;
            }
            let Waiting { datagram, part, .. } = self.waiting.get(self.next)?;
            let released = if part.is_first() {
                Released::First
            } else {
                match self.notes.follow(datagram, *part, now) {
                    Err(reason @ (Refused::Unknown | Refused::Busy)) => {
                        self.was_busy |= reason == Refused::Busy;
                        self.next += 1;
                        continue;
                    }
                    outcome => Released::Later(outcome),
                }
            };
            return Some((self.remove(self.next)?, released));
        }
        None
    }
}

/// Why one need not wait any longer.
enum Released {
    /// It is a first one that another worker's work kept from having a note, and is as if it had just come.
    First,
    /// There is a note.
    Later(Result<Decision, Refused>),
}

impl<W: Wire> Balancer<W> {
    /// What becomes of a frame that holds a fragment.
    #[cold]
    #[inline(never)]
    pub(super) fn fragment<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (frame, port): (W::Frame, PortId),
        since: Tick,
        now: Tick,
    ) {
        // Does not come about: it has been parsed before.
        let Some(fragment) = P::fragment(&frame) else { return self.dispose(Verdict::ToKernel, port, frame) };
        let Fragment { datagram, content, .. } = fragment;
        let Some(part) = fragment.part else { return self.counters.dropped(Drop::BadHeader) };
        if !part.is_first() {
            if matches!(content, Content::Tiny) {
                return self.counters.dropped(Drop::FragmentTiny);
            }
            return match self.fragments.notes.follow(&datagram, part, now) {
                Err(reason @ (Refused::Unknown | Refused::Busy)) => {
                    self.keep((frame, port), datagram, part, since, reason);
                }
                outcome => self.follow(table, (frame, port), &fragment, outcome, now),
            };
        }
        let place = match self.fragments.notes.begin(&datagram, part, now) {
            Ok(place) => place,
            Err(Refused::Overlap) => return self.counters.dropped(Drop::FragmentOverlap),
            Err(reason) => return self.keep((frame, port), datagram, part, since, reason),
        };
        // What follows takes no time to speak of, so that nobody is kept waiting for the decision.
        let found = match &content {
            Content::First(packet) => self.first(table, &frame, port, packet, now),
            Content::Tiny => Err(Verdict::Drop(Drop::FragmentTiny)),
            Content::Foreign | Content::Later => Err(Verdict::ToKernel),
        };
        let decision = match (&found, &content) {
            (Ok(found), Content::First(packet)) => decision(table, *found, &frame, &packet.any()),
            (Ok(_), _) => Decision::Other(Verdict::ToKernel),
            (Err(verdict), _) => Decision::Other(*verdict),
        };
        self.fragments.notes.decide(place, &decision);
        match (decision, found, content) {
            (Decision::Forward(_), Ok(found), Content::First(packet)) => {
                let entry = table.entry(found.index);
                self.forward(table, (frame, port), &packet, found, entry, now);
            }
            (Decision::Other(verdict), _, Content::First(packet)) => {
                self.finish(table, verdict, (frame, port), &packet, now);
            }
            (Decision::Other(verdict), ..) => self.dispose(verdict, port, frame),
            (Decision::Forward(_), ..) => self.dispose(Verdict::ToKernel, port, frame),
        }
    }

    /// The connection of a first fragment.
    fn first<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        frame: &W::Frame,
        port: PortId,
        packet: &P,
        now: Tick,
    ) -> Result<Found, Verdict> {
        let found = self.search(table, packet.flow(), &packet.any(), (frame.data(), port), now)?;
        let is_gone = self.tallies.of(table.entry(found.index).destination()).is_gone();
        if found.direction == Direction::ToServer && is_gone {
            return self.elsewhere(table, packet, (frame.data(), port), (found.index, now));
        }
        Ok(found)
    }

    fn keep(
        &mut self,
        (frame, port): (W::Frame, PortId),
        datagram: Datagram,
        part: Part,
        since: Tick,
        reason: Refused,
    ) {
        let place = self.fragments.notes.hash(&datagram) as usize % PLACES;
        let waiting = Waiting { frame, port, datagram, part, place, since };
        if self.fragments.keep(waiting, reason).is_some() {
            self.counters.dropped(Drop::FragmentQueueFull);
        }
    }

    /// What becomes of a fragment that is not the first one, once it is known.
    fn follow<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        (mut frame, port): (W::Frame, PortId),
        fragment: &Fragment<P>,
        outcome: Result<Decision, Refused>,
        now: Tick,
    ) {
        let course = match outcome {
            Ok(Decision::Forward(course)) => course,
            Ok(Decision::Other(verdict)) => return self.dispose(verdict, port, frame),
            Err(_) => return self.counters.dropped(Drop::FragmentOverlap),
        };
        let tally = self.tallies.of(course.destination);
        match course.direction {
            Direction::ToServer if tally.is_gone() => return self.counters.dropped(Drop::DestinationGone),
            Direction::ToServer => tally.count_more_in(fragment.length),
            Direction::ToClient => tally.count_more_out(fragment.length),
        }
        let entry = later::connection(table, &course);
        if let Some(entry) = entry {
            entry.seen(now);
        }
        let network = &self.snapshot.current().network;
        let is_known =
            entry.is_some_and(|entry| egress::adjacency(entry, course.direction, network).is_some());
        if !is_known && course.direction == Direction::ToServer && network.is_local(course.to) {
            if course.source.is_some() {
                return self.counters.dropped(Drop::LocalMartian);
            }
            if course.is_readdressed {
                later::readdress(frame.data_mut(), &course);
            }
            return self.dispose(Verdict::ToKernel, port, frame);
        }
        if course.in_tunnel {
            let Course { destination, spread, .. } = course;
            return self.enter_tunnel(
                (frame, port),
                &as_packet(fragment),
                Through { destination, spread, entry },
                now,
            );
        }
        if course.to.is_ipv6() != fragment.datagram.is_ipv6() {
            return self.follow_across(frame, fragment, &course, entry, now);
        }
        let Snapshot { network, .. } = self.snapshot.current();
        let sent = later::forward(frame.data_mut(), &course).and_then(|()| match entry {
            Some(entry) => self.egress.send(frame, || course.to, (entry, course.direction), network, now),
            None => self.egress.send_single(frame, course.to, network, now),
        });
        if let Err(reason) = sent {
            self.counters.dropped(reason);
        }
    }

    /// What becomes of one that need not wait any longer.
    fn release<P: Forward>(
        &mut self,
        table: &ConnectionTable,
        received: (W::Frame, PortId),
        released: Released,
        (since, now): (Tick, Tick),
    ) {
        match (released, P::fragment(&received.0)) {
            (Released::Later(outcome), Some(fragment)) => {
                self.follow(table, received, &fragment, outcome, now);
            }
            (Released::First, _) | (_, None) => self.fragment::<P>(table, received, since, now),
        }
    }

    /// Looks at those that wait, where there are any: once a round.
    #[cold]
    #[inline(never)]
    pub(super) fn look_at_fragments(&mut self, table: &ConnectionTable, now: Tick) {
        while self.fragments.take_overdue(now).is_some() {
            self.counters.dropped(Drop::FragmentTimeout);
        }
        let decisions = self.fragments.notes.decisions();
        if decisions != self.fragments.decisions || std::mem::take(&mut self.fragments.was_busy) {
            self.fragments.decisions = decisions;
            self.fragments.untried = self.fragments.waiting.len();
        }
        let later_rounds = self.fragments.untried.saturating_sub(RETRIES);
        self.fragments.untried -= later_rounds;
        while let Some((waiting, released)) = self.fragments.take_released(now) {
            if !self.egress.has_room(1) {
                self.egress.flush(&mut Ports { wires: &mut self.wires, counters: &self.counters });
            }
            let Waiting { frame, port, datagram, since, .. } = waiting;
            let received = (frame, port);
            match datagram.is_ipv6() {
                false => self.release::<Packet>(table, received, released, (since, now)),
                true => self.release::<Packet6>(table, received, released, (since, now)),
            }
        }
        self.fragments.untried = later_rounds;
        self.egress.flush(&mut Ports { wires: &mut self.wires, counters: &self.counters });
    }
}

/// What becomes of a datagram whose first fragment, which is this packet, leads to a connection.
fn decision<F: Frame>(table: &ConnectionTable, found: Found, frame: &F, packet: &AnyPacket) -> Decision {
    let Found { index, direction } = found;
    let connection = (table.entry(index), direction);
    if connection.0.method() == Method::FullNat && is_across(table, connection, packet.flow.into()) {
        let ip = frame.data().get(ethernet::HEADER..).unwrap_or_default();
        if let Err(reason) = translate::check(ip, packet) {
            return Decision::Other(Verdict::Drop(reason));
        }
    }
    later::decision(table, index, direction, spread(packet.flow))
}

/// The fragment as what a tunnel asks of a packet: it has no ports.
fn as_packet<P>(fragment: &Fragment<P>) -> AnyPacket {
    AnyPacket {
        flow: fragment.datagram.flow(),
        length: usize::from(fragment.front) + usize::from(fragment.length),
        transport: fragment.front.into(),
        flags: Flags::default(),
    }
}
