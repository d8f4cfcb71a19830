//! The task that keeps the workers' network equal to Linux's.
//!
//! It listens first and reads everything then, so that nothing falls between. Neighbours are followed event by event,
//! because each event says all about its neighbour. Of routes an event only says that they are to be read again:
//! Linux forgets routes without announcing it (a link that goes down, an address that is taken away), and several of one
//! prefix cannot be told apart by their announcements. [`Pace`] bounds what this costs under a storm.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::network::{Network, PortId};
use rtnetlink::Error as NetlinkError;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::events::Events;
use super::kept::Kept;
use super::pace::Pace;
use super::requests::{self, Ask};
use super::state::State;
use super::wanted::Wanted;
use super::{Error, Fixed, Interface, Key};

/// How often kept neighbours are looked through for those that Linux does not manage.
const LOOK_THROUGH: Duration = Duration::from_secs(1);
/// How long to wait with reading everything again after Linux refused.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// Most wishes of workers that wait; more are dropped and come again with the next packet.
const WISHES: usize = 1024;

/// Keeps a [`Network`] equal to what Linux has for the given interfaces. Nothing happens unless [`Mirror::run`] is
/// polled.
pub struct Mirror {
    state: State,
    kept: Kept,
    wanted: Wanted,
    /// False once Linux refused to manage neighbours.
    manages: bool,
    addresses: watch::Receiver<HashSet<IpAddr>>,
    wishes: mpsc::Receiver<Key>,
    published: watch::Sender<Arc<Network>>,
    follows_linux: bool,
}

/// What the rest of control tells the [`Mirror`]. Clones speak to the same one; nothing here waits.
#[derive(Clone, Debug)]
pub struct Handle {
    addresses: Arc<watch::Sender<HashSet<IpAddr>>>,
    wishes: mpsc::Sender<Key>,
}

impl Handle {
    /// Says which addresses must always be reachable: all real servers. The neighbours on the way to them (and all
    /// gateways) are kept resolved from now on, whatever the routes become; those of the set before are let go.
    pub fn set_kept(&self, addresses: HashSet<IpAddr>) {
        self.addresses.send_if_modified(|old| {
            let differs = *old != addresses;
            *old = addresses;
            differs
        });
    }

    /// Says that a worker has packets for `address` on the link of `port` and does not know it. Linux is asked once a
    /// second at most for each. False if too many wishes wait already; the next packet will wish again.
    pub fn resolve(&self, port: PortId, address: IpAddr) -> bool {
        self.wishes.try_send((port, address)).is_ok()
    }
}

impl Mirror {
    /// A mirror for `interfaces`, with `fixed` for the ports that have none. A route of `fixed` stands above Linux's
    /// for the same prefix. The receiver holds the network: first that of `fixed` alone, then, with the first change,
    /// with all that Linux has. Changes that come together arrive as one.
    pub fn new(interfaces: Vec<Interface>, fixed: Fixed) -> (Self, Handle, watch::Receiver<Arc<Network>>) {
        let (published, networks) = watch::channel(Arc::new(fixed.network()));
        let (address_sender, addresses) = watch::channel(HashSet::new());
        let (wish_sender, wishes) = mpsc::channel(WISHES);
        let mirror = Self {
            follows_linux: !interfaces.is_empty(),
            state: State::new(interfaces, fixed),
            kept: Kept::default(),
            wanted: Wanted::default(),
            manages: true,
            addresses,
            wishes,
            published,
        };
        (mirror, Handle { addresses: Arc::new(address_sender), wishes: wish_sender }, networks)
    }

    /// Mirrors for as long as it is polled, in the network namespace of the thread that first polls it. It needs a
    /// tokio runtime with I/O and time, and the right to administer the network (CAP_NET_ADMIN) for resolving.
    /// Interfaces should be [brought up](super::interface::bring_up) first. With none of them it only waits.
    ///
    /// # Errors
    /// Linux can be followed no longer. The network that was published last stays as it is.
    pub async fn run(mut self) -> Result<Infallible, Error> {
        if !self.follows_linux {
            return std::future::pending().await;
        }
        let socket = |what| move |reason| Error::Socket { what, reason };
        let events = Events::subscribe().map_err(socket("listen to"))?;
        let (connection, handle, _) = rtnetlink::new_connection().map_err(socket("ask for"))?;
        tokio::select! {
            () = connection => Err(Error::Closed),
            error = self.follow(events, &handle) => Err(socket("listen to")(error)),
        }
    }

    /// Ends when the events do.
    async fn follow(&mut self, mut events: Events, linux: &rtnetlink::Handle) -> io::Error {
        let mut read = Pace::new(Instant::now());
        let mut published = Pace::new(Instant::now());
        let mut look_through = Instant::now();
        let mut arrived = Vec::new();
        loop {
            let started = Instant::now();
            if (self.state.all_due || self.state.routes_due) && read.allows(started) {
                match self.read(linux).await {
                    Ok(()) => read.done(started, Instant::now()),
                    Err(e) => {
                        tracing::warn!("cannot read Linux's routes and neighbours: {e}; trying again");
                        self.state.all_due = true;
                        read.done(started, started + AFTER_REFUSAL / 4);
                    }
                }
            }
            let started = Instant::now();
            // What is known to be incomplete is not shown: routes without their neighbours would drop packets.
            if self.state.has_changed() && !self.state.all_due && published.allows(started) {
                self.published.send_replace(self.state.take());
                published.done(started, Instant::now());
            }
            if self.state.ways_changed && !self.state.all_due {
                self.reconsider_kept(linux).await;
                look_through = Instant::now();
            }
            if Instant::now() >= look_through {
                self.keep(linux).await;
                look_through = Instant::now() + LOOK_THROUGH;
            }

            let reading = self.state.all_due || self.state.routes_due;
            let publishing = self.state.has_changed() && !self.state.all_due;
            tokio::select! {
                result = events.next(&mut arrived) => {
                    if let Err(e) = result {
                        return e;
                    }
                    for event in arrived.drain(..) {
                        if let Some(key) = self.state.apply(event) {
                            self.refresh(key, linux, &mut look_through).await;
                        }
                    }
                }
                Ok(()) = self.addresses.changed() => self.state.ways_changed = true,
                Some(key) = self.wishes.recv() => self.wish(key, linux).await,
                () = sleep_until(read.not_before().into()), if reading => {}
                () = sleep_until(published.not_before().into()), if publishing => {}
                () = sleep_until(look_through.into()), if !self.kept.is_empty() => {}
            }
        }
    }

    /// Reads what is due. What changes meanwhile is announced, and makes it due again.
    async fn read(&mut self, linux: &rtnetlink::Handle) -> Result<(), NetlinkError> {
        if self.state.all_due {
            let links = requests::links(linux).await?;
            self.state.set_links(&links);
            let neighbours = requests::neighbours(linux).await?;
            self.state.set_neighbours(neighbours);
        }
        let addresses = requests::addresses(linux).await?;
        let routes = requests::routes(linux).await?;
        self.state.set_routes(&routes);
        self.state.set_sources(&routes, &addresses);
        (self.state.all_due, self.state.routes_due) = (false, false);
        Ok(())
    }

    /// Works out anew which neighbours are to be kept, after a change of routes or of the addresses.
    async fn reconsider_kept(&mut self, linux: &rtnetlink::Handle) {
        self.state.ways_changed = false;
        let addresses = self.addresses.borrow_and_update().clone();
        let gateways = self.state.gateways();
        let released = self.kept.set(&addresses, gateways.into_iter(), self.state.network());
        for key in released {
            if self.state.neighbours().get(&key).is_none_or(|n| n.managed) {
                self.ask(key, Ask::Once, linux).await;
            }
        }
    }

    /// Has Linux keep what is to be kept and is not.
    async fn keep(&mut self, linux: &rtnetlink::Handle) {
        for key in self.kept.due(self.state.neighbours(), Instant::now()) {
            self.ask(key, Ask::ForEver, linux).await;
        }
    }

    /// A neighbour went stale: Linux would not ask again by itself, as it does not see what workers send.
    async fn refresh(&mut self, key: Key, linux: &rtnetlink::Handle, look_through: &mut Instant) {
        if self.kept.contains(&key) {
            *look_through = Instant::now();
        } else if self.wanted.contains(&key, Instant::now()) {
            self.ask(key, Ask::Once, linux).await;
        }
    }

    /// A worker has packets for a neighbour that it does not know.
    async fn wish(&mut self, key: Key, linux: &rtnetlink::Handle) {
        if self.kept.contains(&key) {
            // Linux has forgotten it, and the next look would be too late for the packets.
            if self.kept.is_due(&key, self.state.neighbours(), Instant::now()) {
                self.ask(key, Ask::ForEver, linux).await;
            }
        } else if self.state.can_be_asked(key).is_some() && self.wanted.want(key, Instant::now()) {
            self.ask(key, Ask::Once, linux).await;
        }
    }

    async fn ask(&mut self, key: Key, ask: Ask, linux: &rtnetlink::Handle) {
        let Some(index) = self.state.can_be_asked(key) else {
            return;
        };
        let learned = match self.state.neighbours().get(&key) {
            Some(n) if n.settled => return,
            Some(n) => n.learned,
            None => false,
        };
        let ask = if self.manages { ask } else { Ask::Once };
        let mut result = requests::ask(linux, index, key.1, ask, learned).await;
        if ask == Ask::ForEver && matches!(&result, Err(e) if is_refused(e)) {
            tracing::info!(
                "Linux does not manage neighbours (it does from 5.16 on); asking for them every few seconds"
            );
            self.manages = false;
            result = requests::ask(linux, index, key.1, Ask::Once, learned).await;
        }
        if let Err(e) = result {
            tracing::debug!(port = key.0.0, neighbour = %key.1, "Linux does not ask for the neighbour: {e}");
        }
    }
}

/// EINVAL and EOPNOTSUPP: the kernel does not know what is asked of it.
fn is_refused(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::NetlinkError(e) if matches!(e.raw_code(), -22 | -95))
}
