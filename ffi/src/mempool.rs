//! Where mbufs come from. A pool must never be freed while one of its mbufs may be somewhere, so it is not freed at all:
//! its memory is the EAL's, and goes when the EAL is cleaned up, which needs every mbuf to be back.

use std::ffi::CString;
use std::ptr::NonNull;

use crate::burst::{Burst, add_len, vacant};
use crate::eal::EalHandle;
use crate::error::{Errno, Error};
use crate::mbuf::Mbuf;
use crate::raw;

/// The sizes of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolConfig {
    /// How many mbufs there are. One less than a power of two wastes no memory.
    pub count: u32,
    /// How many free mbufs each registered thread may keep for itself, at most 512 and two thirds of `count`; 0 for none.
    pub cache: u32,
    /// Bytes of a packet that one mbuf holds. The headroom comes on top of it.
    pub data_room: u16,
    /// The NUMA node to take the memory from, best the device's; `None` for any.
    pub socket: Option<u32>,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { count: 8191, cache: 256, data_room: 2048, socket: None }
    }
}

/// A pool of packet buffers; clones are handles of the same pool. From any thread: a registered thread has a cache of its
/// own in each pool, others go to the pool's ring, which takes many producers and consumers.
#[derive(Debug, Clone)]
pub struct Mempool {
    pool: NonNull<raw::rte_mempool>,
    config: MempoolConfig,
    _eal: EalHandle,
}

// SAFETY: rte_mempool's get and put are for any thread: DPDK makes pktmbuf pools with a ring for many producers and
// consumers, and the cache in front of it is chosen by the lcore identifier, which no two threads share.
unsafe impl Send for Mempool {}
// SAFETY: as above; nothing here needs `&mut`.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool. `name` is for DPDK's own tools and must be new in this process.
    ///
    /// # Errors
    /// A name that is taken or longer than 25 bytes, a cache too large, not enough memory.
    pub fn create(eal: &EalHandle, name: &str, config: &MempoolConfig) -> Result<Self, Error> {
        let failed = |errno| Error::Mempool { name: name.to_owned(), errno };
        let c_name = CString::new(name).map_err(|_| Error::Argument(name.to_owned()))?;
        let room = raw::SHIM_HEADROOM.checked_add(config.data_room).ok_or(failed(Errno::EINVAL))?;
        let socket = match config.socket {
            Some(socket) => i32::try_from(socket).map_err(|_| failed(Errno::EINVAL))?,
            None => raw::SHIM_SOCKET_ANY,
        };
        // SAFETY: the EAL runs, since `eal` exists; the name ends in NUL and is copied.
        let pool = unsafe {
            raw::rte_pktmbuf_pool_create(c_name.as_ptr(), config.count, config.cache, 0, room, socket)
        };
        let pool = NonNull::new(pool).ok_or_else(|| failed(Errno::last()))?;
        eal.add_pool(pool);
        Ok(Self { pool, config: config.clone(), _eal: eal.clone() })
    }

    /// How many mbufs the pool has in all.
    pub fn capacity(&self) -> u32 {
        self.config.count
    }

    /// Bytes of a packet that one mbuf holds, without the headroom.
    pub fn data_room(&self) -> u16 {
        self.config.data_room
    }

    /// How many mbufs are free, in the pool or in a thread's cache. Looks at every cache: not for the packet's way.
    /// Inexact while other threads use the pool.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as the EAL, which `_eal` keeps.
        unsafe { raw::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// How many mbufs are not free: in someone's hands, a queue or a device. As [`Mempool::available`].
    pub fn in_use(&self) -> u32 {
        // SAFETY: as in `available`.
        unsafe { raw::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }

    /// An empty mbuf with full headroom; `None` if the pool has none left.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as the EAL, which `_eal` keeps.
        let mbuf = NonNull::new(unsafe { raw::shim_mbuf_alloc(self.pool.as_ptr()) })?;
        // SAFETY: a fresh mbuf, reset, with one reference, which is now the Mbuf's.
        Some(unsafe { Mbuf::from_raw(mbuf) })
    }

    /// An mbuf that holds a copy of `bytes`; `None` if the pool has none left or `bytes` are more than an mbuf takes.
    pub fn alloc_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut mbuf = self.alloc()?;
        mbuf.append(bytes.len())?.copy_from_slice(bytes);
        Some(mbuf)
    }

    /// Adds `count` empty mbufs to `burst`, or none at all and says `false`, if the pool has not so many or the burst not
    /// that much room.
    #[inline]
    #[must_use]
    pub fn alloc_bulk<const N: usize>(&self, burst: &mut Burst<N>, count: usize) -> bool {
        if count > burst.remaining_capacity() {
            return false;
        }
        let Ok(wanted) = u32::try_from(count) else { return false };
        // SAFETY: the pool lives; `vacant` points to room for at least `count` mbufs, all of which are written on success,
        // each fresh and with one reference, which is now the Burst's; none is written on failure.
        unsafe {
            let done = raw::shim_mbuf_alloc_bulk(self.pool.as_ptr(), vacant(burst), wanted) == 0;
            if done {
                add_len(burst, count);
            }
            done
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut raw::rte_mempool {
        self.pool.as_ptr()
    }
}
