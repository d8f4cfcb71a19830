//! One packet in DPDK's memory, owned. It must never be reachable after it has been sent or freed, nor hand out a byte
//! beyond its buffer.
//!
//! Fields are read and written in place, without a call: this is what every packet pays for.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use crate::raw;

/// A packet buffer, or a chain of them, with one owner. Dropping it returns it to its pool, from any thread.
///
/// # Soundness
/// An `Mbuf` holds the only reference to each of its segments. It does not keep the pool alive by itself; the EAL does,
/// whose cleanup is refused while a single mbuf is out (see [`Eal::cleanup`](crate::Eal::cleanup)).
#[repr(transparent)]
pub struct Mbuf(NonNull<raw::rte_mbuf>);

// SAFETY: mbufs may be freed by a thread other than the one that got them: see Mempool. All else is plain memory that has
// one owner.
unsafe impl Send for Mbuf {}

/// Reads or writes a field of the segment at `$seg`, a `NonNull<rte_mbuf>`. The offsets and widths come from, and are
/// asserted by, the C compiler.
macro_rules! field {
    ($seg:expr, $offset:ident: $type:ty) => {
        $seg.as_ptr().byte_add(raw::$offset).cast::<$type>()
    };
}

impl Mbuf {
    /// # Safety
    /// `mbuf` is valid, the first of its chain, and holds the only reference to each segment, which passes to the result.
    #[inline]
    pub(crate) unsafe fn from_raw(mbuf: NonNull<raw::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    /// The packet's length in bytes, over all segments.
    #[inline]
    pub fn len(&self) -> usize {
        // SAFETY: the mbuf is ours, so its header is valid memory and nobody writes to it.
        unsafe { field!(self.0, SHIM_MBUF_PKT_LEN: u32).read() as usize }
    }

    /// Whether there is not a byte in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the first segment: the whole packet, unless [`Mbuf::segment_count`] is more than 1.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: the segment is ours and borrowed for as long as the slice.
        unsafe { segment_data(self.0) }
    }

    /// The bytes of the first segment, to change.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: the segment is ours, its buffer is not shared (refcnt is 1), and both are borrowed for as long as the
        // slice; data_off + data_len is within the buffer.
        unsafe {
            debug_assert_eq!(field!(self.0, SHIM_MBUF_REFCNT: u16).read(), 1);
            slice::from_raw_parts_mut(data_start(self.0), self.first_len().into())
        }
    }

    /// How many segments the packet is in; at least 1.
    #[inline]
    pub fn segment_count(&self) -> usize {
        // SAFETY: as in `len`.
        unsafe { field!(self.0, SHIM_MBUF_NB_SEGS: u16).read().into() }
    }

    /// The bytes of each segment in turn.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.0), _mbuf: PhantomData }
    }

    /// Free bytes before the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.data_off().into()
    }

    /// Free bytes after the packet, in its last segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let last = self.last();
        // SAFETY: `last` is one of our segments.
        unsafe {
            let used = usize::from(field!(last, SHIM_MBUF_DATA_OFF: u16).read())
                + usize::from(field!(last, SHIM_MBUF_DATA_LEN: u16).read());
            usize::from(field!(last, SHIM_MBUF_BUF_LEN: u16).read()).saturating_sub(used)
        }
    }

    /// Makes the packet `n` bytes longer at the front and returns them, with whatever they held; `None` and no change if
    /// the headroom is shorter.
    #[inline]
    #[must_use]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        // At most headroom, which is 16 bits; data_len + n stays within buf_len, which is 16 bits too.
        let more = n as u16;
        // SAFETY: the mbuf is ours; data_off does not go below 0, and the data still ends where it ended.
        unsafe {
            field!(self.0, SHIM_MBUF_DATA_OFF: u16).write(self.data_off() - more);
            field!(self.0, SHIM_MBUF_DATA_LEN: u16).write(self.first_len() + more);
            self.set_len(self.len() + n);
        }
        Some(&mut self.data_mut()[..n])
    }

    /// Takes `n` bytes off the front and returns what is left of the first segment; `None` and no change if the first
    /// segment is shorter.
    #[inline]
    #[must_use]
    pub fn adj(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.first_len().into() {
            return None;
        }
        let less = n as u16;
        // SAFETY: the mbuf is ours; the data still ends where it ended, and does not start after it.
        unsafe {
            field!(self.0, SHIM_MBUF_DATA_OFF: u16).write(self.data_off() + less);
            field!(self.0, SHIM_MBUF_DATA_LEN: u16).write(self.first_len() - less);
            self.set_len(self.len() - n);
        }
        Some(self.data_mut())
    }

    /// Takes `n` bytes off the end; `false` and no change if the last segment is shorter.
    #[inline]
    #[must_use]
    pub fn trim(&mut self, n: usize) -> bool {
        let last = self.last();
        // SAFETY: `last` is one of our segments; its data ends earlier and not before it starts.
        unsafe {
            let len = field!(last, SHIM_MBUF_DATA_LEN: u16);
            if n > len.read().into() {
                return false;
            }
            len.write(len.read() - n as u16);
            self.set_len(self.len() - n);
        }
        true
    }

    /// Makes the packet `n` bytes longer at the end and returns them, with whatever they held; `None` and no change if the
    /// tailroom is shorter.
    #[inline]
    #[must_use]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let last = self.last();
        // SAFETY: `last` is one of our segments and not shared; the data grows by no more than what its buffer has free, so
        // the length stays within 16 bits and the slice within the buffer. The buffer is memory DPDK mapped, which has
        // some value in every byte.
        unsafe {
            let len = field!(last, SHIM_MBUF_DATA_LEN: u16);
            let before = len.read();
            len.write(before + n as u16);
            self.set_len(self.len() + n);
            Some(slice::from_raw_parts_mut(data_start(last).add(before.into()), n))
        }
    }

    /// Puts `bytes` at the end; `false` and no change if the tailroom is shorter.
    #[inline]
    #[must_use]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        self.append(bytes.len()).map(|room| room.copy_from_slice(bytes)).is_some()
    }

    /// An empty mbuf with full headroom, from the pool that this one is of; `None` if that has none left.
    pub fn sibling(&self) -> Option<Self> {
        // SAFETY: the mbuf is ours, and its pool is there, as no mbuf outlives the EAL.
        let mbuf = NonNull::new(unsafe { raw::shim_mbuf_sibling(self.0.as_ptr()) })?;
        // SAFETY: a fresh mbuf, reset, with one reference, which is now the Mbuf's.
        Some(unsafe { Self::from_raw(mbuf) })
    }

    /// Moves a packet of several segments into the first; `false` and no change if it does not fit. Not for the fast way.
    #[must_use]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: the chain is ours and not shared. The segments that become empty are freed, and no slice of them exists
        // while `self` is borrowed mutably.
        unsafe { raw::shim_mbuf_linearize(self.0.as_ptr()) == 0 }
    }

    /// The number of the port it came in by; 65535 if it came in by none.
    #[inline]
    pub fn port(&self) -> u16 {
        // SAFETY: as in `len`.
        unsafe { field!(self.0, SHIM_MBUF_PORT: u16).read() }
    }

    /// Asks the CPU to fetch the first cache line of the packet. A hint; on CPUs for which Rust has no stable instruction
    /// it does nothing.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch does not fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(data_start(self.0).cast_const().cast()) }
        }
    }

    #[inline]
    fn data_off(&self) -> u16 {
        // SAFETY: as in `len`.
        unsafe { field!(self.0, SHIM_MBUF_DATA_OFF: u16).read() }
    }

    #[inline]
    fn first_len(&self) -> u16 {
        // SAFETY: as in `len`.
        unsafe { field!(self.0, SHIM_MBUF_DATA_LEN: u16).read() }
    }

    /// # Safety
    /// `len` is the sum of the segments' lengths, so below 2^32.
    #[inline]
    unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the mbuf is ours.
        unsafe { field!(self.0, SHIM_MBUF_PKT_LEN: u32).write(len as u32) }
    }

    #[inline]
    fn last(&self) -> NonNull<raw::rte_mbuf> {
        let mut segment = self.0;
        // One segment is the rule, and the pointer to the next is in the mbuf's second cache line: leave it there.
        for _ in 1..self.segment_count() {
            // SAFETY: `segment` is one of ours.
            match unsafe { next(segment) } {
                Some(after) => segment = after,
                None => break,
            }
        }
        segment
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the mbuf is ours and will not be used again; its pool is there, as no mbuf outlives the EAL.
        unsafe { raw::shim_mbuf_free(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.segment_count())
            .field("port", &self.port())
            .finish()
    }
}

/// The bytes of a packet, a segment at a time.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    next: Option<NonNull<raw::rte_mbuf>>,
    _mbuf: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        // SAFETY: `segment` belongs to the chain of an Mbuf that is borrowed for 'a.
        unsafe {
            self.next = next(segment);
            Some(segment_data(segment))
        }
    }
}

/// # Safety
/// `segment` is valid.
#[inline]
unsafe fn next(segment: NonNull<raw::rte_mbuf>) -> Option<NonNull<raw::rte_mbuf>> {
    // SAFETY: as promised by the caller.
    NonNull::new(unsafe { field!(segment, SHIM_MBUF_NEXT: *mut raw::rte_mbuf).read() })
}

/// # Safety
/// `segment` is valid.
#[inline]
unsafe fn data_start(segment: NonNull<raw::rte_mbuf>) -> *mut u8 {
    // SAFETY: as promised by the caller; data_off is within the buffer.
    unsafe {
        let offset = field!(segment, SHIM_MBUF_DATA_OFF: u16).read();
        field!(segment, SHIM_MBUF_BUF_ADDR: *mut u8).read().add(offset.into())
    }
}

/// # Safety
/// `segment` is valid, and neither freed nor written to during 'a.
#[inline]
unsafe fn segment_data<'a>(segment: NonNull<raw::rte_mbuf>) -> &'a [u8] {
    // SAFETY: as promised by the caller; data_off + data_len is within the buffer.
    unsafe {
        let len = field!(segment, SHIM_MBUF_DATA_LEN: u16).read();
        slice::from_raw_parts(data_start(segment), len.into())
    }
}
