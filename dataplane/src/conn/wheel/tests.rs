use std::collections::HashMap;

use super::*;
use proptest::prelude::*;

/// All that fires up to `now`, in order.
fn fire(wheel: &mut Wheel, now: Tick) -> Vec<Due> {
    let mut fired = Vec::new();
    while now.reached(Tick(wheel.next as u32))
        || !wheel.firing_levels.is_empty()
        || wheel.firing.first != NONE
    {
        fired.extend(wheel.due(now));
    }
    fired
}

#[test]
fn near_timers_fire_at_their_tick() {
    let mut wheel = Wheel::new(Tick(1_000), 10);
    for ahead in [0, 1, 64, 127] {
        assert_eq!(wheel.tick_for(Tick(1_000 + ahead)), Tick(1_000 + ahead));
        wheel.arm(Index(ahead), Tick(1_000 + ahead));
    }
    assert_eq!(fire(&mut wheel, Tick(999)), []);
    let fired: Vec<_> = fire(&mut wheel, Tick(2_000)).iter().map(|d| (d.index.0, d.tick.0)).collect();
    assert_eq!(fired, [(0, 1_000), (1, 1_001), (64, 1_064), (127, 1_127)]);
    assert!(wheel.is_empty());
}

#[test]
fn a_timer_armed_for_one_turn_later_waits_for_it() {
    // That is the slot that is being emptied, of the lowest level and of the one above.
    for ahead in [128, 128 * 128] {
        let mut wheel = Wheel::new(Tick(1), 10);
        wheel.arm(Index(0), Tick(128 * 128));
        wheel.arm(Index(1), Tick(128 * 128));
        let due = (0..1000).find_map(|_| wheel.due(Tick(128 * 128))).unwrap();
        assert_eq!(due.tick, Tick(128 * 128));
        let later = due.tick.after(ahead);
        assert_eq!(wheel.tick_for(later), later);
        wheel.arm(due.index, later);
        let rest: Vec<_> = fire(&mut wheel, later).iter().map(|due| due.tick).collect();
        assert_eq!(rest, [due.tick, later]);
    }
}

#[test]
fn the_limit_holds_and_memory_is_not_exceeded() {
    let mut wheel = Wheel::new(Tick(0), 100);
    let reserved = wheel.chunks.capacity();
    for round in 0..50u32 {
        for n in 0..100 {
            assert!(wheel.has_room());
            wheel.arm(Index(n), Tick(round * 1_000 + n * 7));
        }
        assert!(!wheel.has_room());
        assert_eq!(fire(&mut wheel, Tick(round * 1_000 + 999)).len(), 100);
    }
    assert_eq!(wheel.chunks.capacity(), reserved);
}

proptest! {
    /// Armed again until its time is up, every timer has been handled once its deadline is reached and not before,
    /// whatever the start, also over the wrap of ticks, and however long the wheel sleeps in between.
    #[test]
    fn every_deadline_is_met(start: u32, aheads in prop::collection::vec(0u32..50_000_000, 1..40), naps in prop::collection::vec(1u32..5_000_000, 1..40)) {
        let mut wheel = Wheel::new(Tick(start), aheads.len());
        let mut armed = HashMap::new();
        for (n, &ahead) in aheads.iter().enumerate() {
            let deadline = Tick(start).after(ahead);
            armed.insert(n as u32, wheel.tick_for(deadline));
            wheel.arm(Index(n as u32), deadline);
        }
        let mut now = Tick(start);
        // Long sleeps are made of visits to each tick; keep the whole test short.
        for nap in naps.iter().map(|n| n % 20_000).chain([60_000; 10]) {
            now = now.after(nap);
            for due in fire(&mut wheel, now) {
                let deadline = Tick(start).after(aheads[due.index.0 as usize]);
                prop_assert_eq!(armed.remove(&due.index.0), Some(due.tick));
                prop_assert!(deadline.reached(due.tick), "never late");
                if !now.reached(deadline) {
                    armed.insert(due.index.0, wheel.tick_for(deadline));
                    wheel.arm(due.index, deadline);
                }
            }
            for (index, tick) in &armed {
                prop_assert!(!now.reached(*tick));
                prop_assert!(!now.reached(Tick(start).after(aheads[*index as usize])));
            }
            prop_assert_eq!(armed.len(), wheel.len());
        }
    }
}
