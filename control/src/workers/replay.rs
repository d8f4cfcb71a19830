//! What schedulers are told when many destinations of a service change at once.
//!
//! A kernel's scheduler hears of every change by itself, and wrr's state depends on each. So changes that are published
//! together are replayed one by one; each costs the same however many destinations there are.

use std::collections::{HashMap, HashSet};

use dataplane::schedule::Summary;

use super::PublishedDestination;

/// The service's destinations after each change from `before` to `now`, in the order in which changes were made as far as
/// the two lists tell: taken away, edited, added. Both have the one added last first.
pub(super) fn steps(before: &[PublishedDestination], now: &[PublishedDestination]) -> Vec<Summary> {
    let summary = |d: &PublishedDestination| Summary::from(&d.destination);
    let new: HashMap<_, _> = now.iter().map(|d| (d.identity(), d)).collect();
    let (kept, gone): (Vec<_>, Vec<_>) =
        before.iter().map(|old| (old, new.get(&old.identity()).copied())).partition(|(_, new)| new.is_some());
    let kept: Vec<_> = kept.into_iter().filter_map(|(old, new)| Some((old, new?))).collect();

    // What a change leaves behind is a sum over what comes before it in its list and what comes after.
    let all_kept = kept.iter().map(|(old, _)| summary(old)).sum();
    let still_there = totals(gone.iter().skip(1).rev().map(|(old, _)| summary(old)), all_kept);
    let mut steps: Vec<_> = still_there.into_iter().rev().take(gone.len()).collect();

    let not_yet_edited = totals(kept.iter().skip(1).rev().map(|(old, _)| summary(old)), Summary::default());
    let mut edited = Summary::default();
    for ((old, new), rest) in kept.iter().zip(not_yet_edited.into_iter().rev()) {
        edited = edited.and(summary(new));
        if old != new {
            steps.push(edited.and(rest));
        }
    }

    let old: HashSet<_> = kept.iter().map(|(old, _)| old.identity()).collect();
    let added = now.iter().rev().filter(|d| !old.contains(&d.identity())).map(summary);
    steps.extend(totals(added, edited).into_iter().skip(1));
    steps
}

/// `first`, and the sum after each of `more`.
fn totals(more: impl Iterator<Item = Summary>, first: Summary) -> Vec<Summary> {
    let mut totals = vec![first];
    let mut total = first;
    totals.extend(more.map(|summary| {
        total = total.and(summary);
        total
    }));
    totals
}

#[cfg(test)]
mod tests {
    use dataplane::conn::Method;
    use dataplane::service::Destination;
    use proptest::prelude::*;

    use super::*;

    fn destination(sequence: u32, weight: u32) -> PublishedDestination {
        let (id, address, port, method) = (sequence % 3, [192, 0, 2, 1].into(), 80, Method::Nat);
        let destination = Destination { id, sequence, address, port, weight, last_weight: weight, method };
        PublishedDestination { destination, edits: 0, thresholds: (0, 0), tunnel: None }
    }

    fn summary(all: &[PublishedDestination]) -> Summary {
        all.iter().map(|d| Summary::from(&d.destination)).sum()
    }

    /// The same with a list that is changed one by one.
    fn by_lists(before: &[PublishedDestination], now: &[PublishedDestination]) -> Vec<Summary> {
        let (mut list, mut steps) = (before.to_vec(), vec![]);
        for gone in before.iter().filter(|b| now.iter().all(|n| n.identity() != b.identity())) {
            list.retain(|d| d != gone);
            steps.push(summary(&list));
        }
        for new in now {
            if let Some(old) = list.iter_mut().find(|d| d.identity() == new.identity() && *d != new) {
                *old = *new;
                steps.push(summary(&list));
            }
        }
        for new in now.iter().rev().filter(|n| before.iter().all(|b| b.identity() != n.identity())) {
            list.insert(0, *new);
            steps.push(summary(&list));
        }
        assert_eq!(list, now);
        steps
    }

    proptest! {
        #[test]
        fn each_change_is_told_as_if_it_were_the_only_one(
            before in prop::collection::vec((0_u32..13, any::<bool>(), 0_u32..13), 0..8),
            added in prop::collection::vec(0_u32..13, 0..5),
        ) {
            let numbers = (1..=before.len() as u32).rev();
            let places: Vec<_> = numbers.zip(before.iter().rev()).collect();
            let old: Vec<_> = places.iter().map(|(n, (weight, ..))| destination(*n, *weight)).collect();
            let kept = places.iter().filter(|(_, (_, stays, _))| *stays);
            let mut now: Vec<_> = (100..).zip(&added).map(|(n, weight)| destination(n, *weight)).collect();
            now.reverse();
            now.extend(kept.map(|(n, (_, _, weight))| destination(*n, *weight)));
            prop_assert_eq!(steps(&old, &now), by_lists(&old, &now));
        }
    }

    #[test]
    fn an_edit_that_changes_nothing_is_a_change() {
        let old = destination(1, 5);
        let new = PublishedDestination { edits: 1, ..old };
        assert_eq!(steps(&[old], &[new]), [summary(&[new])]);
        assert_eq!(steps(&[old], &[old]), []);
    }
}
