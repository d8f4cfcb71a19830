//! Loom models: workers that look at one note at once, in every order that the memory model allows.
//!
//! `make test-loom` runs them. A bucket has one note here, so that datagrams get in each other's way.

use std::net::Ipv4Addr;
use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use super::*;
use crate::counters;

const NOW: Tick = Tick(0);

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn datagram(number: u16) -> Datagram {
    Datagram::ipv4(1, 2, number, 17)
}

/// A decision all of whose parts are of this number.
fn decision(number: u32) -> Decision {
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
    Decision::Forward(Course {
        destination: number,
        direction: Direction::ToServer,
        in_tunnel: false,
        source: Some(address(number)),
        to: address(number),
        is_readdressed: true,
        spread: number,
        connection: (Index(number), number),
    })
}

fn part(offset: usize, length: usize, more: bool) -> Part {
    Part::new(offset, length, more).unwrap()
}

fn notes() -> Arc<Notes> {
    Arc::new(Notes::new(1).unwrap())
}

fn begin(notes: &Notes, number: u16) -> Result<(), Refused> {
    let place = notes.begin(&datagram(number), part(0, 8, true), NOW)?;
    notes.decide(place, &decision(number.into()));
    Ok(())
}

/// Tries again as long as the bucket is claimed, as a worker does from round to round.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Refused>) -> Result<T, Refused> {
    loop {
        match attempt() {
            Err(Refused::Busy) => thread::yield_now(),
            outcome => return outcome,
        }
    }
}

#[test]
fn of_two_first_fragments_one_passes() {
    check(|| {
        let notes = notes();
        let other = {
            let notes = notes.clone();
            thread::spawn(move || begin(&notes, 7))
        };
        let (mine, theirs) = (begin(&notes, 7), other.join().unwrap());
        assert!(mine.is_ok() != theirs.is_ok(), "{mine:?}, {theirs:?}");
        assert_eq!(notes.follow(&datagram(7), part(8, 8, false), NOW), Ok(decision(7)));
    });
}

#[test]
fn who_follows_finds_the_whole_decision_or_none_and_hears_of_it() {
    check(|| {
        let notes = notes();
        let other = {
            let notes = notes.clone();
            thread::spawn(move || patiently(|| begin(&notes, 7)).unwrap())
        };
        let before = notes.decisions();
        let follow = || notes.follow(&datagram(7), part(8, 8, false), NOW);
        let first = match follow() {
            Err(Refused::Unknown) if notes.decisions() != before => follow(),
            found => found,
        };
        match first {
            Ok(found) => assert_eq!(found, decision(7)),
            Err(Refused::Busy) => {}
            Err(Refused::Unknown) => assert_eq!(before, 0),
            Err(Refused::Overlap) => panic!("nothing overlaps"),
        }
        other.join().unwrap();
        // What has passed is complete.
        let again = if first.is_ok() { Err(Refused::Unknown) } else { Ok(decision(7)) };
        assert_eq!(follow(), again);
    });
}

#[test]
fn of_two_fragments_that_overlap_one_passes_at_most() {
    check(|| {
        let notes = notes();
        begin(&notes, 7).unwrap();
        let other = {
            let notes = notes.clone();
            thread::spawn(move || notes.follow(&datagram(7), part(8, 16, true), NOW))
        };
        let mine = notes.follow(&datagram(7), part(16, 16, true), NOW);
        let theirs = other.join().unwrap();
        let passed = [mine, theirs].iter().filter(|outcome| outcome.is_ok()).count();
        assert!(passed == 1, "{mine:?}, {theirs:?}");
    });
}

#[test]
fn a_datagram_is_complete_once() {
    check(|| {
        let notes = notes();
        begin(&notes, 7).unwrap();
        let follow = |notes: &Notes, part| patiently(|| notes.follow(&datagram(7), part, NOW));
        let other = {
            let notes = notes.clone();
            thread::spawn(move || follow(&notes, part(8, 8, true)))
        };
        assert_eq!(follow(&notes, part(16, 5, false)), Ok(decision(7)));
        assert_eq!(other.join().unwrap(), Ok(decision(7)));
        assert_eq!(notes.taken(), 0);
    });
}

#[test]
fn a_note_that_gives_way_is_never_taken_for_another() {
    check(|| {
        let notes = notes();
        let other = {
            let notes = notes.clone();
            thread::spawn(move || begin(&notes, 8))
        };
        let mine = begin(&notes, 7);
        match notes.follow(&datagram(7), part(8, 8, true), NOW) {
            Ok(found) => assert_eq!((mine, found), (Ok(()), decision(7))),
            Err(reason) => assert_ne!(reason, Refused::Overlap),
        }
        let theirs = other.join().unwrap();
        let kept = [7, 8].map(|n| notes.follow(&datagram(n), part(16, 8, true), NOW).is_ok());
        assert_eq!(kept.iter().filter(|is_kept| **is_kept).count(), 1, "{mine:?}, {theirs:?}");
    });
}

#[test]
fn a_drop_is_one_for_its_reason() {
    check(|| {
        let notes = notes();
        let dropped = Decision::Other(Verdict::Drop(counters::Drop::NoDestination));
        let other = {
            let notes = notes.clone();
            thread::spawn(move || {
                let place = patiently(|| notes.begin(&datagram(7), part(0, 8, true), NOW)).unwrap();
                notes.decide(place, &dropped);
            })
        };
        match notes.follow(&datagram(7), part(8, 8, true), NOW) {
            Ok(found) => assert_eq!(found, dropped),
            Err(reason) => assert_ne!(reason, Refused::Overlap),
        }
        other.join().unwrap();
    });
}
