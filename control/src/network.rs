//! Linux is the slow path: what it knows of routes and neighbours is what the workers use.
//!
//! Each port has an interface in Linux (a TAP). [`interface`] sets it up; [`Mirror`] keeps a
//! [`Network`](dataplane::network::Network) equal to Linux's routes and neighbours on these interfaces, and has
//! Linux resolve the neighbours that are needed. [`Fixed`] is the same for ports that have no interface.
//! Nothing here may resolve a neighbour itself, or set a route: one cannot argue with Linux about what is true.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use dataplane::network::{MacAddr, PortId};
use thiserror::Error;

mod addresses;
mod events;
mod fixed;
pub mod interface;
mod kept;
mod mirror;
mod neighbours;
mod pace;
mod requests;
mod routes;
mod state;
mod wanted;

pub use fixed::Fixed;
pub use mirror::{Handle, Mirror};

/// A port's interface in Linux. It need not exist yet when the [`Mirror`] starts, and may come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The port that it belongs to.
    pub port: PortId,
    /// Its name in Linux.
    pub name: String,
    /// The port's own address, which is what its frames carry as their source.
    pub mac: MacAddr,
}

/// Why Linux cannot be mirrored (any longer).
#[derive(Debug, Error)]
pub enum Error {
    /// A netlink socket cannot be made or read.
    #[error(
        "cannot {what} Linux's routes and neighbours (netlink: {reason}); is there memory and a free descriptor?"
    )]
    Socket {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        reason: io::Error,
    },
    /// The connection that requests go by is gone.
    #[error("Linux closed the netlink connection; the log has the reason")]
    Closed,
}

/// A neighbour on the link of a port.
type Key = (PortId, IpAddr);

/// Which interface of Linux, by its index, belongs to which port.
#[derive(Debug, Default)]
struct Indexes {
    ports: HashMap<u32, PortId>,
}

impl Indexes {
    fn port(&self, index: u32) -> Option<PortId> {
        self.ports.get(&index).copied()
    }

    fn index(&self, port: PortId) -> Option<u32> {
        self.ports.iter().find(|(_, p)| **p == port).map(|(index, _)| *index)
    }
}
