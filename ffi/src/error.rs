//! What can go wrong between DPDK and us, and what to do about it. It must never swallow DPDK's own reason.

use std::ffi::CStr;
use std::fmt;

use crate::port::PortId;
use crate::raw;

/// A number from `errno.h`, or one of the two DPDK adds (`E_RTE_SECONDARY`, `E_RTE_NO_CONFIG`); always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// `No such device`.
    pub const ENODEV: Self = Self(19);
    /// `Invalid argument`.
    pub const EINVAL: Self = Self(22);

    /// The reason the last DPDK call on this thread left in `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer of the EAL library.
        Self(unsafe { raw::shim_errno() })
    }

    /// A DPDK return value, which is the negative of the reason.
    pub(crate) fn from_result(result: i32) -> Self {
        Self(result.saturating_abs())
    }

    /// The number itself.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a string that ends in NUL, constant or in this thread's own buffer, which no one
        // writes to before it has been formatted here.
        let text = unsafe { CStr::from_ptr(raw::rte_strerror(self.0)) };
        write!(f, "{}", text.to_string_lossy())
    }
}

/// Which way a queue goes, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the device to us.
    Receive,
    /// From us to the device.
    Transmit,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
        })
    }
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Eal::init`](crate::Eal::init) was called a second time.
    #[error(
        "the EAL starts once in a process and has been started before, or has failed to; restart the process"
    )]
    AlreadyInitialised,
    /// A string that C cannot take, or one that would end the process.
    #[error("the argument {0:?} cannot be given to DPDK: it must not hold a NUL, nor ask for help")]
    Argument(String),
    /// `rte_eal_init` failed. It has written the details to standard error.
    #[error(
        "the EAL does not start ({0}); DPDK's lines above say why; without huge pages it needs --no-huge -m <MiB>"
    )]
    Init(Errno),
    /// The EAL cannot be cleaned up yet.
    #[error(
        "the EAL is in use: {handles} ports, queues, pools or registered threads and {mbufs} mbufs are left; drop them first"
    )]
    StillInUse {
        /// Handles that keep the EAL alive.
        handles: usize,
        /// Buffers that are not back in their pool.
        mbufs: usize,
    },
    /// `rte_eal_cleanup` failed.
    #[error("the EAL does not clean up ({0}); its files may be left in /var/run/dpdk")]
    Cleanup(Errno),
    /// This thread has an lcore identifier already.
    #[error("this thread is registered with the EAL already, as lcore {0}")]
    AlreadyRegistered(u32),
    /// `rte_thread_register` failed.
    #[error(
        "cannot register this thread with the EAL ({0}); fewer EAL lcores (-l) leave more for registered threads"
    )]
    RegisterThread(Errno),
    /// A device could not be attached.
    #[error(
        "cannot attach device {device:?} ({errno}); is its driver installed, and does the interface or address exist?"
    )]
    Probe {
        /// As given.
        device: String,
        /// DPDK's reason.
        errno: Errno,
    },
    /// A device was attached, but it is no network device, or its driver did not take it.
    #[error("device {0:?} has no Ethernet port; is it a network device, bound to a driver DPDK can use?")]
    NoPort(String),
    /// There is no such port.
    #[error("there is no port {0}")]
    UnknownPort(PortId),
    /// Another [`Port`](crate::Port) stands for this port.
    #[error("port {0} is open already")]
    PortOpen(PortId),
    /// More queues than the device has, or none.
    #[error("port {port}: {asked} {direction} queues are asked for, the device has 1 to {most}")]
    QueueCount {
        /// Which port.
        port: PortId,
        /// Which kind of queue.
        direction: Direction,
        /// How many were asked for.
        asked: u16,
        /// How many there can be.
        most: u16,
    },
    /// An MTU the device cannot do.
    #[error("port {port}: an MTU of {asked} bytes is asked for, the device does {least} to {most}")]
    Mtu {
        /// Which port.
        port: PortId,
        /// Bytes asked for.
        asked: u16,
        /// The device's least, in bytes.
        least: u16,
        /// The device's most, in bytes.
        most: u16,
    },
    /// A call on a port failed.
    #[error("port {port}: cannot {action} ({errno})")]
    Port {
        /// Which port.
        port: PortId,
        /// What was tried.
        action: &'static str,
        /// DPDK's reason.
        errno: Errno,
    },
    /// A queue could not be set up.
    #[error("port {port}: cannot set up {direction} queue {queue} with {descriptors} descriptors ({errno})")]
    Queue {
        /// Which port.
        port: PortId,
        /// Which kind of queue.
        direction: Direction,
        /// Its number.
        queue: u16,
        /// Its size.
        descriptors: u16,
        /// DPDK's reason.
        errno: Errno,
    },
    /// The port must be configured before it is started, and started before its queues are taken.
    #[error("port {port}: cannot {action} yet; the order is configure, start, take the queues")]
    Order {
        /// Which port.
        port: PortId,
        /// What was tried too early.
        action: &'static str,
    },
    /// Something needs the queues, and someone else has them.
    #[error("port {0}: its queues are still out; drop every RxQueue and TxQueue first")]
    QueuesOut(PortId),
    /// A pool could not be made.
    #[error(
        "cannot make mempool {name:?} ({errno}); a name may be used once and has at most 25 bytes, the cache takes at most \
         512 and two thirds of the mbufs, and they must fit the EAL's memory (-m, huge pages)"
    )]
    Mempool {
        /// Its name.
        name: String,
        /// DPDK's reason.
        errno: Errno,
    },
}
