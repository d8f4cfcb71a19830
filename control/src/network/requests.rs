//! What Linux is asked: everything it knows, and to resolve a neighbour.

use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::addresses::Address;
use super::events::Link;
use super::neighbours::Neighbour;
use super::routes::Candidate;

type Result<T> = std::result::Result<T, rtnetlink::Error>;

pub(super) async fn links(handle: &Handle) -> Result<Vec<Link>> {
    handle.link().get().execute().try_filter_map(async |m| Ok(Link::read(&m))).try_collect().await
}

pub(super) async fn neighbours(handle: &Handle) -> Result<Vec<Neighbour>> {
    handle.neighbours().get().execute().try_filter_map(async |m| Ok(Neighbour::read(&m))).try_collect().await
}

pub(super) async fn addresses(handle: &Handle) -> Result<Vec<Address>> {
    handle.address().get().execute().try_filter_map(async |m| Ok(Address::read(&m))).try_collect().await
}

pub(super) async fn routes(handle: &Handle) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let mut routes = std::pin::pin!(handle.route().get(message).execute());
        while let Some(route) = routes.try_next().await? {
            // A kernel without IPv6 answers with the routes of every family.
            if route.header.address_family == family {
                candidates.extend(Candidate::read(&route));
            }
        }
    }
    Ok(candidates)
}

/// What becomes of a neighbour that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Resolve it now, as if Linux itself had a packet for it (`NTF_USE`).
    Once,
    /// Resolve it now and keep it resolved (`NTF_EXT_MANAGED`).
    ForEver,
}

/// Has Linux resolve a neighbour. The entry is made if it is not there. Its address, and marks of others (`learned`),
/// stay as they are; [`Ask::Once`] takes the mark of [`Ask::ForEver`] away.
pub(super) async fn ask(handle: &Handle, index: u32, address: IpAddr, ask: Ask, learned: bool) -> Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Use;
    message.header.flags.set(NeighbourFlags::ExtLearned, learned);
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    if ask == Ask::ForEver {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    // Neither NLM_F_EXCL nor NLM_F_REPLACE: an entry that is there is only to be used.
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(e) = answer.payload
            && e.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(e));
        }
    }
    Ok(())
}
