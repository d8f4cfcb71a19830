//! Packets on their way between a queue and a worker: a short array of mbufs, in the form DPDK fills and empties without
//! copying. It must never drop a packet that it has not been told to drop, nor leak one.

use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;

use crate::mbuf::Mbuf;
use crate::raw;

/// How many packets a burst takes unless said otherwise: what drivers and caches are tuned for.
pub const BURST: usize = 32;

/// Up to `N` packets, owned; an [`ArrayVec`] that frees what is left in it with one call to DPDK.
#[derive(Debug, Default)]
pub struct Burst<const N: usize = BURST> {
    mbufs: ArrayVec<Mbuf, N>,
}

impl<const N: usize> Burst<N> {
    /// An empty burst.
    pub const fn new() -> Self {
        Self { mbufs: ArrayVec::new_const() }
    }

    /// Frees all packets in it.
    #[inline]
    pub fn clear(&mut self) {
        if self.is_empty() {
            return;
        }
        let (mbufs, count) = take_raw(&mut self.mbufs);
        // SAFETY: `count` mbufs that are ours alone, and no longer in the array.
        unsafe { raw::rte_pktmbuf_free_bulk(mbufs, count) }
    }
}

/// Where the next mbuf goes; room for `remaining_capacity()` of them.
#[inline]
pub(crate) fn vacant<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>) -> *mut *mut raw::rte_mbuf {
    let len = mbufs.len();
    // SAFETY: within the array, or one past its end. Mbuf is a transparent NonNull, so the element types agree.
    unsafe { mbufs.as_mut_ptr().add(len).cast() }
}

/// Counts in `more` mbufs.
///
/// # Safety
/// `more` mbufs have been written to `vacant()`, valid and owned, and there was room for them.
#[inline]
pub(crate) unsafe fn add_len<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>, more: usize) {
    let len = mbufs.len() + more;
    // SAFETY: as promised by the caller.
    unsafe { mbufs.set_len(len) }
}

/// The mbufs, which are the caller's from now on; the array is empty. The pointer is good until the array changes.
#[inline]
pub(crate) fn take_raw<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>) -> (*mut *mut raw::rte_mbuf, u32) {
    let count = mbufs.len();
    // SAFETY: shorter than it was; what is beyond is not dropped by the array any more.
    unsafe { mbufs.set_len(0) };
    // A burst of more than u32::MAX would not fit any memory; DPDK's own type for the count is this one.
    (mbufs.as_mut_ptr().cast(), count as u32)
}

/// Takes back the last `len - sent` of `len` mbufs that `take_raw` gave away.
///
/// # Safety
/// `take_raw` returned `len`, the array has not changed since, and the mbufs from `sent` to `len` are the caller's.
#[inline]
pub(crate) unsafe fn keep_from<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>, sent: usize, len: usize) {
    // The rule, and not worth a call of memmove.
    if sent == len {
        return;
    }
    let first = mbufs.as_mut_ptr();
    // SAFETY: both ranges are within the `len` elements there were; they may overlap, which `copy` allows. Elements
    // before `sent` are not ours and are only overwritten, not dropped.
    unsafe {
        std::ptr::copy(first.add(sent), first, len - sent);
        mbufs.set_len(len - sent);
    }
}

impl<const N: usize> Drop for Burst<N> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> Deref for Burst<N> {
    type Target = ArrayVec<Mbuf, N>;

    #[inline]
    fn deref(&self) -> &ArrayVec<Mbuf, N> {
        &self.mbufs
    }
}

impl<const N: usize> DerefMut for Burst<N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut ArrayVec<Mbuf, N> {
        &mut self.mbufs
    }
}
