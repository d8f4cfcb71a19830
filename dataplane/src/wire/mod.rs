//! What the dataplane needs of a frame and of a wire, and nothing else. DPDK is one wire; memory is another.

#[cfg(feature = "dpdk")]
mod dpdk;
pub mod memory;

use std::ops::Range;

use arrayvec::ArrayVec;

#[cfg(feature = "dpdk")]
pub use dpdk::DpdkWire;

/// The most frames taken from or given to a wire at once.
///
/// What a burst costs on any wire is shared by its frames, and the cache misses of all of them are in flight together: with
/// 64 over a memif with a million flows a frame was measured to cost 210 cycles, with 32 it was 275 (docs/benchmarks.md).
pub const BURST: usize = 64;

/// Frames on their way, owned.
pub type Burst<F> = ArrayVec<F, BURST>;

/// One Ethernet frame in a buffer of its own.
pub trait Frame: Send {
    /// The frame's bytes as far as they lie in one piece; at least the headers of any frame that is not cut short.
    fn data(&self) -> &[u8];

    /// The same, to be written.
    fn data_mut(&mut self) -> &mut [u8];

    /// The whole frame's length in bytes, also of pieces that [`Frame::data`] does not show.
    fn len(&self) -> usize;

    /// True for a frame without a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `n` more bytes in front and gives the longer frame's bytes; `None`, and nothing done, where the
    /// buffer's headroom is smaller.
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]>;

    /// Takes `n` bytes off the front. False, and nothing done, where [`Frame::data`] is shorter.
    fn trim_front(&mut self, n: usize) -> bool;

    /// Takes off the end what is beyond `length` bytes. False, and nothing done, where that is more than the last of the
    /// frame's pieces. A frame that is not longer stays as it is.
    fn truncate(&mut self, length: usize) -> bool;

    /// A frame of its own that holds a copy of these bytes of this one, in a buffer from where this one's came from, with room
    /// in front. `None` where there is no buffer, or it would be too small, or this kind of frame has none to take.
    fn copy(&self, bytes: Range<usize>) -> Option<Self>
    where
        Self: Sized,
    {
        let _ = bytes;
        None
    }

    /// Asks the processor to load the frame's first bytes.
    fn prefetch(&self) {}
}

/// A receive queue and a transmit queue of one port, owned by one worker.
pub trait Wire {
    /// What travels on it.
    type Frame: Frame;

    /// Appends what has been received, as far as `burst` has room. Never waits.
    fn receive(&mut self, burst: &mut Burst<Self::Frame>);

    /// Sends from the front of `burst`; what the wire does not take now stays in it, in order. Never waits.
    fn send(&mut self, burst: &mut Burst<Self::Frame>);
}
