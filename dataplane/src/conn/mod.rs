//! The connection table: one for all workers, lock-free, found from both sides.
//!
//! - [`table`]: buckets of one cache line that lead to entries by index; look-up, insertion, removal.
//! - [`entry`]: one connection, in one cache line; one whose addresses are longer than IPv4's has another for these ([`wide`]).
//! - [`inside`]: the server's side of a connection by FULLNAT, which differs from the client's.
//! - [`key`]: by what connections are found: flows of either family.
//! - [`pool`]: which entries are free, and when a dead one may be used again.
//! - [`template`]: persistence templates, which keep a client's connections together.
//! - [`Note`]: what a persistence engine notes with a template.
//! - [`View`]: a connection as lists show it.
//! - [`wheel`]: when a connection is to be looked at because its time may be up.
//! - [`state`]: TCP's and UDP's states and what moves between them, as IPVS has it.
//!
//! [`Connections`] is one worker's hand on all of them.

mod connections;
pub mod entry;
pub mod inside;
pub mod key;
pub mod life;
mod note;
pub mod pool;
mod scan;
pub mod state;
pub mod table;
mod template;
mod view;
pub mod wheel;
mod wide;

pub use connections::{Connections, Ended, OpenError};
pub use entry::{Direction, Index, Method, NewConnection};
pub use inside::{Announce, Inside};
pub use note::Note;
pub use state::{State, Timeouts};
pub use table::ConnectionTable;
pub use view::View;
pub use wide::Extension;

#[cfg(test)]
#[cfg(loom)]
mod models;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
