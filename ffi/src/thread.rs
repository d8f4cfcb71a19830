//! A thread's membership of the EAL, without which mempool caches do not work for it. It must never outlive its thread,
//! nor be seen by another.

use std::marker::PhantomData;

use crate::eal::EalHandle;
use crate::error::{Errno, Error};
use crate::raw;

/// Says that the current thread has an lcore identifier, and gives it back when dropped.
///
/// An lcore identifier selects the thread's cache in every mempool; two threads with the same one would corrupt it. So
/// this value cannot be sent to another thread, and a thread has at most one.
#[derive(Debug)]
pub struct ThreadRegistration {
    _eal: EalHandle,
    lcore: u32,
    // Dropping it unregisters the thread that drops it, so it must be the one that registered.
    _this_thread: PhantomData<*const ()>,
}

impl ThreadRegistration {
    pub(crate) fn new(eal: EalHandle) -> Result<Self, Error> {
        // SAFETY: reads a thread-local integer of the EAL.
        let before = unsafe { raw::shim_lcore_id() };
        if before != raw::SHIM_LCORE_ANY {
            return Err(Error::AlreadyRegistered(before));
        }
        // SAFETY: the EAL is initialised, since `eal` exists, and this thread has no lcore identifier (checked above).
        if unsafe { raw::rte_thread_register() } != 0 {
            return Err(Error::RegisterThread(Errno::last()));
        }
        // SAFETY: as above; the thread has its identifier now.
        let lcore = unsafe { raw::shim_lcore_id() };
        Ok(Self { _eal: eal, lcore, _this_thread: PhantomData })
    }

    /// The identifier the EAL knows this thread by; not the number of a CPU.
    pub fn lcore_id(&self) -> u32 {
        self.lcore
    }

    /// The NUMA node this thread was pinned to when it registered; `None` if it may run on several.
    pub fn socket_id(&self) -> Option<u32> {
        // SAFETY: reads a thread-local integer of the EAL.
        u32::try_from(unsafe { raw::rte_socket_id() }.cast_signed()).ok()
    }
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        // SAFETY: the value is not Send, so this is the thread that `new` registered; the EAL is alive because `_eal` is.
        unsafe { raw::rte_thread_unregister() }
    }
}
