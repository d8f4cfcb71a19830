//! How workers see configuration: an immutable snapshot, handed over whole.
//!
//! Control publishes; a worker takes the new snapshot between two bursts and hands the old one back, so that the last
//! reference is always dropped by control. A worker never frees and never waits.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::clamp::Clamps;
use crate::conn::Timeouts;
use crate::locals::Locals;
use crate::network::{Network, PortId};
use crate::service::{Masqueraded, Services};
use crate::snat;
use crate::sysctl::{Defence, Sysctls};
use crate::tunnels::Tunnels;

/// All that a worker needs to know from control.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Routes and neighbours.
    pub network: Arc<Network>,
    /// Virtual services.
    pub services: Arc<Services>,
    /// The ways to destinations behind tunnels.
    pub tunnels: Arc<Tunnels>,
    /// What connections may announce as their maximum segment size, by destination.
    pub clamps: Arc<Clamps>,
    /// The servers by NAT, while their packets that belong to no connection are told so (nat_icmp_send).
    pub masqueraded: Arc<Masqueraded>,
    /// The local addresses that destinations by FULLNAT take for their clients'.
    pub locals: Arc<Locals>,
    /// What connections that servers open outward get as their source.
    pub snat: Arc<snat::Rules>,
    /// How long connections may be idle.
    pub timeouts: Timeouts,
    /// IPVS's sysctls.
    pub sysctls: Sysctls,
    /// What is in force against overload.
    pub defence: Defence,
    /// Counts the times that destinations were deleted: while expire_nodest_conn is set, their connections are to end.
    pub deletions: u32,
}

impl Snapshot {
    /// True where there may be connections whose server's side is in an entry of its own: by FULLNAT or SNAT. Those that are left when
    /// these are no longer configured are found as well, only not as soon.
    #[inline]
    pub(crate) fn has_insides(&self) -> bool {
        !self.locals.is_empty() || !self.snat.is_empty()
    }
}

/// Asked of Linux by a worker that has a packet for it: the neighbour's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resolve {
    /// The port whose link the neighbour is on.
    pub port: PortId,
    /// The neighbour.
    pub neighbour: IpAddr,
}

/// Snapshots that a worker may hand back before control collects them. Control collects whenever it publishes, and between
/// two publications a worker takes two at most.
const RETURNED: usize = 4;

struct Mailbox<T> {
    /// Counts publications, so that a worker sees with one load that there is nothing new.
    published: CachePadded<AtomicU64>,
    next: ArrayQueue<Arc<T>>,
    returned: ArrayQueue<Arc<T>>,
    closed: AtomicBool,
}

impl<T> Mailbox<T> {
    /// Drops what the worker has handed back.
    fn collect(&self) {
        while self.returned.pop().is_some() {}
    }
}

/// Control's end.
pub struct Publisher<T> {
    mailboxes: Vec<Arc<Mailbox<T>>>,
}

/// A worker's end.
pub struct Subscriber<T> {
    mailbox: Arc<Mailbox<T>>,
    seen: u64,
    current: Arc<T>,
}

/// A publisher and as many subscribers as there are workers, which all see `first` to begin with.
pub fn channel<T>(workers: usize, first: &Arc<T>) -> (Publisher<T>, Vec<Subscriber<T>>) {
    let mailbox = || {
        Arc::new(Mailbox {
            published: CachePadded::new(AtomicU64::new(0)),
            next: ArrayQueue::new(1),
            returned: ArrayQueue::new(RETURNED),
            closed: AtomicBool::new(false),
        })
    };
    let mailboxes: Vec<_> = (0..workers).map(|_| mailbox()).collect();
    let subscriber =
        |mailbox: &Arc<Mailbox<T>>| Subscriber { mailbox: mailbox.clone(), seen: 0, current: first.clone() };
    let subscribers = mailboxes.iter().map(subscriber).collect();
    (Publisher { mailboxes }, subscribers)
}

impl<T> Publisher<T> {
    /// Makes `new` what every worker sees at its next burst. One that had not been taken yet is passed over.
    pub fn publish(&self, new: &Arc<T>) {
        for mailbox in &self.mailboxes {
            mailbox.collect();
            drop(mailbox.next.force_push(new.clone()));
            // Release: who sees the count finds the snapshot. Pairs with the Acquire in `refresh`.
            mailbox.published.fetch_add(1, Ordering::Release);
        }
    }

    /// Frees what workers have handed back. True once every worker has taken what was published last.
    pub fn settled(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| {
            mailbox.collect();
            mailbox.next.is_empty() || mailbox.closed.load(Ordering::Acquire)
        })
    }
}

impl<T> Subscriber<T> {
    /// What control has published last, as far as this worker has taken it.
    #[inline]
    pub fn current(&self) -> &T {
        &self.current
    }

    /// Takes what is new, if anything is. True where it did. Once a burst, and never while anything borrowed from the
    /// snapshot before is in use.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        let published = self.mailbox.published.load(Ordering::Acquire);
        published != self.seen && self.take(published)
    }

    #[cold]
    fn take(&mut self, published: u64) -> bool {
        // As long as control has not collected those before, we keep what we have: dropping is not our work.
        if self.mailbox.returned.is_full() {
            return false;
        }
        self.seen = published;
        let Some(new) = self.mailbox.next.pop() else { return false };
        let old = std::mem::replace(&mut self.current, new);
        self.mailbox.returned.push(old).is_ok()
    }
}

impl<T> Drop for Subscriber<T> {
    fn drop(&mut self) {
        self.mailbox.closed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sees_the_newest_and_control_frees_the_old() {
        let first = Arc::new(1);
        let (publisher, mut workers) = channel(1, &first);
        let worker = &mut workers[0];
        assert!(!worker.refresh());
        let (second, third) = (Arc::new(2), Arc::new(3));
        publisher.publish(&second);
        assert!(!publisher.settled());
        publisher.publish(&third);
        assert_eq!(Arc::strong_count(&second), 1, "passed over, and freed by control");
        assert!(worker.refresh());
        assert_eq!(*worker.current(), 3);
        assert_eq!(Arc::strong_count(&first), 2, "handed back, not yet collected");
        assert!(publisher.settled());
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn a_worker_that_cannot_hand_back_keeps_what_it_has() {
        let (publisher, mut workers) = channel(1, &Arc::new(0));
        let worker = &mut workers[0];
        for n in 1..=RETURNED {
            // As control does, but for the collection.
            worker.mailbox.next.push(Arc::new(n)).unwrap();
            worker.mailbox.published.fetch_add(1, Ordering::Release);
            assert!(worker.refresh());
        }
        worker.mailbox.next.push(Arc::new(99)).unwrap();
        worker.mailbox.published.fetch_add(1, Ordering::Release);
        assert!(!worker.refresh());
        assert!(!publisher.settled(), "not taken; but what was handed back is collected now");
        assert!(worker.refresh());
        assert_eq!(*worker.current(), 99);
    }

    #[test]
    fn nobody_waits_for_a_worker_that_has_stopped() {
        let (publisher, workers) = channel(2, &Arc::new(1));
        publisher.publish(&Arc::new(2));
        drop(workers);
        assert!(publisher.settled());
    }
}
