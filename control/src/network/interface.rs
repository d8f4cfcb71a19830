//! Setting up a port's interface in Linux: the address of its port, MTU, IP addresses, up.
//!
//! The daemon makes the interface itself, and takes it away. Routes are none of this module's business.

use dataplane::network::MacAddr;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::LinkMessage;
use thiserror::Error;

/// What an interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Its name; it must be there already.
    pub name: String,
    /// Its port's address.
    pub mac: MacAddr,
    /// The MTU in bytes without the Ethernet header; left as it is if `None`.
    pub mtu: Option<u16>,
    /// IP addresses with the length of their prefix. Addresses that it has already stay.
    pub addresses: Vec<IpNet>,
}

/// An interface cannot be set up.
#[derive(Debug, Error)]
#[error("interface {interface}: cannot {step}: {reason}; {remedy}")]
pub struct InterfaceError {
    interface: String,
    step: String,
    reason: String,
    remedy: &'static str,
}

/// Brings the interface up as told, in the network namespace of the calling thread, and returns its index. Needs a
/// tokio runtime.
///
/// # Errors
/// The step that Linux refused, with its reason.
pub async fn bring_up(setup: &Setup) -> Result<u32, InterfaceError> {
    let error = |step: String, remedy, reason: String| InterfaceError {
        interface: setup.name.clone(),
        step,
        reason,
        remedy,
    };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| {
        error(
            "be set up".into(),
            "is there memory and a free descriptor for a netlink socket?",
            e.to_string(),
        )
    })?;
    let steps = async {
        let links = handle.link().get().match_name(setup.name.clone()).execute();
        let link = std::pin::pin!(links).try_next().await.map_err(|e| {
            error("be found".into(), "has somebody deleted or renamed it since director made it?", reason(&e))
        })?;
        let Some(LinkMessage { header, .. }) = link else {
            return Err(error(
                "be found".into(),
                "has somebody deleted or renamed it since director made it?",
                "no answer".into(),
            ));
        };
        let index = header.index;
        let change = |m| handle.link().set(m).execute();
        let message = || LinkUnspec::new_with_index(index);
        change(message().address(setup.mac.0.to_vec()).build()).await.map_err(|e| {
            let step = format!("be given the MAC address {}", setup.mac);
            error(step, "is it down, as it should be before the start?", reason(&e))
        })?;
        if let Some(mtu) = setup.mtu {
            change(message().mtu(mtu.into()).build()).await.map_err(|e| {
                error(format!("have an MTU of {mtu}"), "choose one that it can have (ip -d link)", reason(&e))
            })?;
        }
        for address in &setup.addresses {
            let request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
            request.execute().await.map_err(|e| {
                let remedy = "may this user set addresses (CAP_NET_ADMIN), and is IPv6 enabled if it is one?";
                error(format!("have the address {address}"), remedy, reason(&e))
            })?;
        }
        change(message().up().build())
            .await
            .map_err(|e| error("be brought up".into(), "may this user do so (CAP_NET_ADMIN)?", reason(&e)))?;
        Ok(index)
    };
    tokio::select! {
        () = connection => Err(error("be set up".into(), "the log has the reason", "Linux closed the connection".into())),
        result = steps => result,
    }
}

/// What the system calls the reason, without netlink's wrapping.
fn reason(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(e) => e.to_io().to_string(),
        other => other.to_string(),
    }
}
