use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW: Tick = Tick(1000);

fn datagram(number: u16) -> Datagram {
    Datagram::ipv4(0xcb00_7109, 0xc633_6408, number, 17)
}

fn datagram6(number: u32) -> Datagram {
    Datagram::ipv6(0x2001_0db8 << 96 | 9, 0x2001_0db8 << 96 | 0x80, number)
}

const KERNEL: Decision = Decision::Other(Verdict::ToKernel);

fn part(offset: usize, length: usize, more: bool) -> Part {
    Part::new(offset, length, more).unwrap()
}

/// Notes of one bucket, and one for this datagram in them.
fn begun(datagram: &Datagram) -> Notes {
    let notes = Notes::new(1).unwrap();
    begin(&notes, datagram, NOW).unwrap();
    notes
}

fn begin(notes: &Notes, datagram: &Datagram, now: Tick) -> Result<(), Refused> {
    let place = notes.begin(datagram, part(0, 16, true), now)?;
    notes.decide(place, &KERNEL);
    Ok(())
}

#[test]
fn parts_that_cannot_be_are_none() {
    let bad =
        [(0, 0, true), (8, 0, false), (8, 12, true), (9, 8, true), (65_528, 8, true), (65_528, 8, false)];
    for (offset, length, more) in bad {
        assert_eq!(Part::new(offset, length, more), None, "{offset} {length} {more}");
    }
    assert_eq!(Part::new(65_528, 7, false).map(Part::units), Some(1));
    assert_eq!(Part::new(0, 65_528, true).map(Part::units), Some(8191));
    assert_eq!(Part::new(usize::MAX, 8, true), None);
}

#[test]
fn a_decision_is_found_as_it_was_made() {
    let course = Course {
        destination: 7,
        direction: Direction::ToClient,
        in_tunnel: false,
        source: Some("198.51.100.8".parse().unwrap()),
        to: "2001:db8::7".parse().unwrap(),
        is_readdressed: false,
        spread: 0xdead_beef,
        connection: (Index(0xffff_fff0), 0x8000_0001),
    };
    let tunnel = Course {
        direction: Direction::ToServer,
        in_tunnel: true,
        source: None,
        to: "192.0.2.9".parse().unwrap(),
        is_readdressed: true,
        ..course
    };
    let decisions = [Decision::Forward(course), Decision::Forward(tunnel), KERNEL]
        .into_iter()
        .chain(counters::Drop::ALL.iter().map(|reason| Decision::Other(Verdict::Drop(*reason))));
    for (decision, n) in decisions.zip(0..) {
        for datagram in [datagram(n), datagram6(n.into())] {
            let notes = Notes::new(1).unwrap();
            let place = notes.begin(&datagram, part(0, 16, true), NOW).unwrap();
            assert_eq!(notes.follow(&datagram, part(16, 8, true), NOW), Err(Refused::Unknown), "none yet");
            notes.decide(place, &decision);
            assert_eq!(notes.follow(&datagram, part(16, 8, true), NOW), Ok(decision));
            assert_eq!(notes.decisions(), 1);
        }
    }
}

#[test]
fn all_of_the_datagram_counts() {
    let notes = begun(&datagram(1));
    let (client, vip) = (0xcb00_7109, 0xc633_6408);
    let others = [
        datagram(2),
        Datagram::ipv4(client, vip, 1, 6),
        Datagram::ipv4(client + 1, vip, 1, 17),
        Datagram::ipv4(client, vip + 1, 1, 17),
        Datagram::ipv6(client.into(), vip.into(), 1),
    ];
    for other in others {
        assert_eq!(notes.follow(&other, part(16, 8, true), NOW), Err(Refused::Unknown), "{other:?}");
    }
    assert_eq!(notes.follow(&datagram(1), part(16, 8, true), NOW), Ok(KERNEL));
}

#[test]
fn a_note_goes_with_the_last_of_its_datagram_in_whatever_order() {
    for order in [[16, 24, 32], [16, 32, 24], [24, 16, 32], [24, 32, 16], [32, 16, 24], [32, 24, 16]] {
        let notes = begun(&datagram(1));
        for (n, offset) in order.into_iter().enumerate() {
            assert_eq!(notes.taken(), 1);
            let part = if offset == 32 { part(32, 3, false) } else { part(offset, 8, true) };
            assert_eq!(notes.follow(&datagram(1), part, NOW), Ok(KERNEL), "{order:?}, {n}");
        }
        assert_eq!(notes.taken(), 0, "{order:?}");
        // The same identification, at once; nothing is left of the one before.
        begin(&notes, &datagram(1), NOW).unwrap();
        assert_eq!(notes.follow(&datagram(1), part(24, 8, true), NOW), Ok(KERNEL));
    }
}

#[test]
fn what_overlaps_ends_the_datagram_and_what_is_repeated_does_not() {
    // What has passed: 0 to 16, 32 to 48, and the end at 64.
    let notes = || {
        let notes = begun(&datagram(1));
        for part in [part(32, 16, true), part(56, 8, false)] {
            notes.follow(&datagram(1), part, NOW).unwrap();
        }
        notes
    };
    let follow = |notes: &Notes, part| notes.follow(&datagram(1), part, NOW);
    let overlaps = [
        part(8, 16, true),
        part(16, 24, true),
        part(40, 16, true),
        part(24, 40, true),
        part(48, 16, false),
        part(64, 8, true),
        part(64, 8, false),
        part(24, 8, false),
    ];
    for overlap in overlaps {
        let notes = notes();
        assert_eq!(follow(&notes, overlap), Err(Refused::Overlap), "{overlap:?}");
        assert_eq!(follow(&notes, part(16, 8, true)), Err(Refused::Overlap), "after {overlap:?}");
        assert_eq!(begin(&notes, &datagram(1), NOW), Err(Refused::Overlap));
    }
    for repeated in [part(8, 8, true), part(32, 16, true), part(40, 8, true), part(56, 8, false)] {
        let notes = notes();
        assert_eq!(follow(&notes, repeated), Err(Refused::Overlap), "{repeated:?}");
        assert_eq!(begin(&notes, &datagram(1), NOW), Err(Refused::Overlap));
        assert_eq!(follow(&notes, part(16, 16, true)), Ok(KERNEL), "after {repeated:?}");
        assert_eq!(follow(&notes, part(48, 8, true)), Ok(KERNEL));
        assert_eq!(notes.taken(), 0);
    }
}

#[test]
fn notes_last_as_long_as_linux_waits() {
    for (datagram, seconds) in [(datagram(1), 30), (datagram6(1), 60)] {
        let notes = begun(&datagram);
        let after = |ticks| NOW.after(seconds * TICKS_PER_SECOND + ticks);
        assert_eq!(notes.follow(&datagram, part(16, 8, true), after(0)), Ok(KERNEL));
        assert_eq!(notes.follow(&datagram, part(24, 8, true), after(1)), Err(Refused::Unknown));
        assert_eq!(notes.taken(), 0);
    }
}

#[test]
fn an_identification_is_used_again_once_its_datagram_has_been_abandoned() {
    let notes = begun(&datagram(1));
    let follow = |now, offset| notes.follow(&datagram(1), part(offset, 8, true), now);
    let soon = NOW.after(TICKS_PER_SECOND - 1);
    assert_eq!(begin(&notes, &datagram(1), soon), Err(Refused::Overlap));
    let later = soon.after(TICKS_PER_SECOND);
    assert_eq!(begin(&notes, &datagram(1), later), Ok(()));
    assert_eq!(follow(later, 16), Ok(KERNEL));
    assert_eq!(notes.taken(), 1);
}

#[test]
fn the_note_that_has_gone_unused_longest_gives_way() {
    let notes = Notes::new(WAYS).unwrap();
    let at = |n: u16| NOW.after(n.into());
    for n in 0..WAYS as u16 {
        begin(&notes, &datagram(n), at(n)).unwrap();
    }
    notes.follow(&datagram(0), part(16, 8, true), at(20)).unwrap();
    begin(&notes, &datagram(100), at(21)).unwrap();
    assert_eq!(notes.follow(&datagram(1), part(16, 8, true), at(22)), Err(Refused::Unknown));
    for n in (0..WAYS as u16).filter(|n| *n != 1).chain([100]) {
        assert_eq!(notes.follow(&datagram(n), part(24, 8, true), at(22)), Ok(KERNEL), "{n}");
    }
}

#[test]
fn one_that_waits_for_its_decision_gives_way_to_nobody() {
    let notes = Notes::new(WAYS).unwrap();
    let places: Vec<_> =
        (0..WAYS as u16).map(|n| notes.begin(&datagram(n), part(0, 16, true), NOW).unwrap()).collect();
    assert_eq!(begin(&notes, &datagram(100), NOW), Err(Refused::Busy));
    assert_eq!(begin(&notes, &datagram(1), NOW.after(9999)), Err(Refused::Busy));
    for place in places {
        notes.decide(place, &KERNEL);
    }
    assert_eq!(begin(&notes, &datagram(100), NOW), Ok(()));
}

#[test]
fn a_claimed_bucket_is_left_alone() {
    let notes = begun(&datagram(1));
    let claim = notes.claim(&datagram(1)).unwrap();
    assert_eq!(notes.follow(&datagram(1), part(16, 8, true), NOW), Err(Refused::Busy));
    assert_eq!(begin(&notes, &datagram(2), NOW), Err(Refused::Busy));
    drop(claim);
    assert_eq!(notes.follow(&datagram(1), part(16, 8, true), NOW), Ok(KERNEL));
}

#[test]
fn it_takes_what_it_says() {
    assert_eq!(Notes::bytes(NOTES), 4096 / 8 * (64 + 8 * 1152));
}

proptest! {
    /// Against a set of units: what passes never overlaps anything that has passed, what does not overlap passes, and the note is
    /// there until all of it has passed.
    #[test]
    fn exactly_what_does_not_overlap_passes(
        parts in prop::collection::vec((2usize..300, 1usize..150, prop::bool::weighted(0.05)), 1..60),
        scale in prop_oneof![Just(1usize), Just(27)],
    ) {
        let notes = begun(&datagram(1));
        let (mut passed, mut end): (BTreeSet<usize>, _) = ((0..2).collect(), None);
        let mut is_poisoned = false;
        for (start, length, is_last) in parts {
            let (start, length) = (start * scale, length);
            let Some(part) = Part::new(start * 8, length * 8, !is_last) else { continue };
            let units: BTreeSet<_> = (start..start + length).collect();
            let reach = passed.last().map_or(0, |last| last + 1);
            let is_repeated = units.is_subset(&passed);
            let is_beyond = end.is_some_and(|end| start + length > end || is_last) || is_last && reach > start + length;
            let is_overlap = !is_repeated && (is_beyond || !units.is_disjoint(&passed));
            let outcome = notes.follow(&datagram(1), part, NOW);
            if is_poisoned || is_repeated || is_overlap {
                prop_assert_eq!(outcome, Err(Refused::Overlap));
                is_poisoned |= is_overlap;
                continue;
            }
            prop_assert_eq!(outcome, Ok(KERNEL));
            passed.extend(units);
            if is_last {
                end = Some(start + length);
            }
            if end == Some(passed.len()) {
                prop_assert_eq!(notes.taken(), 0);
                begin(&notes, &datagram(1), NOW).unwrap();
                (passed, end) = ((0..2).collect(), None);
            }
            prop_assert_eq!(notes.taken(), 1);
        }
    }
}
