//! Linux's announcements of what changed, read from a multicast socket of their own.
//!
//! Requests go by another socket: an answer and an announcement could otherwise be taken for each other, since the
//! sequence number of an announcement is that of whoever caused it. Nothing is lost silently: where the kernel had to
//! throw announcements away, or one is not understood, [`Event::Lost`] says that everything must be read again.

use std::future::poll_fn;
use std::io;

use futures_util::FutureExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};

use super::neighbours::Neighbour;

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    // Linux forgets the routes of an address, a link or a next hop without a word about them.
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Nexthop,
];

/// The kernel reduces it to net.core.rmem_max.
const RECEIVE_BUFFER: i32 = 4 << 20;
/// Most datagrams taken in one go, so that a storm cannot keep what was learnt from being published.
const BATCH: usize = 256;
/// Room for the largest datagram that Linux sends (`NLMSG_GOODSIZE` and dumps: 32 KiB).
const DATAGRAM: usize = 64 << 10;

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP` and `RTM_GETNEXTHOP`, which the decoder does not know.
const NEXT_HOP_TYPES: std::ops::RangeInclusive<u16> = 104..=106;

/// Something changed in Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Neighbour(Neighbour),
    NeighbourGone(Neighbour),
    Link(Link),
    LinkGone(u32),
    /// Some route did, or may have.
    Routes,
    /// Announcements were lost: what is known may be wrong.
    Lost,
}

/// An interface of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Vec<u8>,
}

impl Link {
    pub fn read(message: &LinkMessage) -> Option<Self> {
        let (mut name, mut mac) = (None, Vec::new());
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name = Some(n.clone()),
                LinkAttribute::Address(a) => mac.clone_from(a),
                _ => {}
            }
        }
        Some(Self { index: message.header.index, name: name?, mac })
    }
}

/// The socket.
pub(super) struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    /// Everything that changes from now on will be seen.
    pub fn subscribe() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            match inner.add_membership(group as u32) {
                // Kernels before 5.3 have no next hop objects.
                Err(e) if group == MulticastGroup::Nexthop => {
                    tracing::debug!("no {group:?} announcements: {e}")
                }
                result => result?,
            }
        }
        inner.set_rx_buf_sz(RECEIVE_BUFFER)?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits until something changed, and adds all that is to be read by then to `events`. Nothing is lost if the
    /// future is dropped.
    ///
    /// # Errors
    /// The socket is unusable.
    pub async fn next(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.read(events).await?;
        for _ in 1..BATCH {
            match self.read(events).now_or_never() {
                Some(result) => result?,
                None => break,
            }
        }
        Ok(())
    }

    async fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffer.clear();
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        match poll_fn(|cx| socket.poll_recv_from(cx, buffer)).await {
            // Only the kernel's word counts; any process may write to a netlink socket.
            Ok(sender) if sender.port_number() == 0 => decode(&self.buffer, events),
            Ok(_) => {}
            Err(e) => events.push(lost(e)?),
        }
        Ok(())
    }
}

/// The kernel says once with ENOBUFS that it had no room for what it would have announced (netlink(7)).
fn lost(error: io::Error) -> io::Result<Event> {
    const ENOBUFS: i32 = 105;
    if error.raw_os_error() == Some(ENOBUFS) { Ok(Event::Lost) } else { Err(error) }
}

/// The events of one datagram, which may hold several messages.
fn decode(mut datagram: &[u8], events: &mut Vec<Event>) {
    while !datagram.is_empty() {
        let Ok(header) = NetlinkBuffer::new_checked(datagram) else {
            events.push(Event::Lost);
            return;
        };
        let (kind, length) = (header.message_type(), header.length() as usize);
        events.extend(read(kind, &datagram[..length]));
        // NLMSG_ALIGN
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn read(kind: u16, message: &[u8]) -> Option<Event> {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelNeighbour, DelRoute, NewAddress, NewLink, NewNeighbour, NewRoute,
    };
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map(|m| m.payload) {
        Ok(NetlinkPayload::InnerMessage(NewNeighbour(m))) => Neighbour::read(&m).map(Event::Neighbour),
        Ok(NetlinkPayload::InnerMessage(DelNeighbour(m))) => Neighbour::read(&m).map(Event::NeighbourGone),
        Ok(NetlinkPayload::InnerMessage(NewLink(m))) => Some(Link::read(&m).map_or(Event::Lost, Event::Link)),
        // A link that leaves a bridge is announced like this too, in the bridge's name.
        Ok(NetlinkPayload::InnerMessage(DelLink(m)))
            if m.header.interface_family == AddressFamily::Bridge =>
        {
            Some(Event::Routes)
        }
        Ok(NetlinkPayload::InnerMessage(DelLink(m))) => Some(Event::LinkGone(m.header.index)),
        Ok(NetlinkPayload::InnerMessage(NewRoute(_) | DelRoute(_) | NewAddress(_) | DelAddress(_))) => {
            Some(Event::Routes)
        }
        Ok(_) => None,
        Err(_) if NEXT_HOP_TYPES.contains(&kind) => Some(Event::Routes),
        Err(e) => {
            tracing::debug!("announcement of type {kind} not understood: {e}");
            Some(Event::Lost)
        }
    }
}

#[cfg(test)]
mod tests;
