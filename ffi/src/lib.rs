//! The system's DPDK, and as much of it as director needs behind a safe interface.
//!
//! This is the only way to a NIC. It must never look into a packet, decide anything about one, or lose one: whoever owns
//! an [`Mbuf`] sends it, frees it by dropping it, or still has it.
//!
//! The order of things, in a program as in this crate:
//!
//! 1. [`Eal::init`], once per process. Every other object holds an [`EalHandle`], so that the EAL outlives them all.
//! 2. [`Mempool::create`] for the buffers, [`EalHandle::probe`] for the devices, [`Port::open`] and [`Port::configure`].
//! 3. [`Port::start`], then [`Port::take_queues`]: one [`RxQueue`] and one [`TxQueue`] for each worker.
//! 4. On each worker's thread: pin it, then [`EalHandle::register_thread`], then receive and send [`Burst`]s.
//! 5. Workers drop their queues, [`Port::close`], and [`Eal::cleanup`] last. It refuses while a buffer is still out.
//!
//! # Threads
//! What DPDK allows from one thread at a time has one owner here and takes `&mut self` (queues, the configuration of a
//! port). What it allows from any thread is `Sync` ([`Mempool`], [`EalHandle`]). Handles that mean "this thread"
//! ([`Eal`], [`ThreadRegistration`]) cannot leave it.
//!
//! # Drivers
//! DPDK's drivers are shared objects which the EAL loads from the plugin directory compiled into it. Nothing is linked in
//! by name, so a driver that is installed is a driver that works.

mod burst;
mod eal;
mod error;
mod mbuf;
mod mempool;
mod port;
mod queue;
mod raw;
mod thread;

pub use arrayvec::ArrayVec;
pub use burst::{BURST, Burst};
pub use eal::{CleanupError, Eal, EalHandle, free_huge_pages, has_hugepages, tsc, version};
pub use error::{Direction, Errno, Error};
pub use mbuf::{Mbuf, Segments};
pub use mempool::{Mempool, MempoolConfig};
pub use port::{Link, Offloads, Port, PortConfig, PortId, PortInfo, PortStatistics};
pub use queue::{Queues, RxQueue, TxQueue};
pub use thread::ThreadRegistration;
