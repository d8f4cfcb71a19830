//! A wire in memory: what is put into it is received, what is sent can be looked at. For tests and replays.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Burst, Frame, Wire};

/// Bytes in front of a frame that [`Frame::prepend`] can take, as DPDK's default headroom.
const HEADROOM: usize = 128;

/// A frame in a vector. Two are equal where their bytes are.
#[derive(Clone)]
pub struct MemoryFrame {
    buffer: Vec<u8>,
    start: usize,
}

impl MemoryFrame {
    /// A frame of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self::with_headroom(bytes, HEADROOM)
    }

    /// The same with so many bytes in front.
    pub fn with_headroom(bytes: &[u8], headroom: usize) -> Self {
        let mut buffer = vec![0; headroom];
        buffer.extend_from_slice(bytes);
        Self { buffer, start: headroom }
    }
}

impl PartialEq for MemoryFrame {
    fn eq(&self, other: &Self) -> bool {
        self.data() == other.data()
    }
}

impl Eq for MemoryFrame {}

impl std::fmt::Debug for MemoryFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.data().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Frame for MemoryFrame {
    fn data(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }

    fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(n)?;
        Some(self.data_mut())
    }

    fn trim_front(&mut self, n: usize) -> bool {
        let fits = n <= self.len();
        if fits {
            self.start += n;
        }
        fits
    }

    fn truncate(&mut self, length: usize) -> bool {
        self.buffer.truncate(self.start + length);
        true
    }

    fn copy(&self, bytes: Range<usize>) -> Option<Self> {
        self.data().get(bytes).map(Self::new)
    }
}

/// A wire whose ends are two queues.
#[derive(Debug, Default)]
pub struct MemoryWire {
    /// What the worker will receive, first in first out.
    pub incoming: VecDeque<MemoryFrame>,
    /// What the worker has sent.
    pub sent: Vec<MemoryFrame>,
    /// How many more frames it takes before it is full; `None` for no end.
    pub room: Option<usize>,
}

impl Wire for MemoryWire {
    type Frame = MemoryFrame;

    fn receive(&mut self, burst: &mut Burst<MemoryFrame>) {
        let n = burst.remaining_capacity().min(self.incoming.len());
        burst.extend(self.incoming.drain(..n));
    }

    fn send(&mut self, burst: &mut Burst<MemoryFrame>) {
        let n = self.room.unwrap_or(usize::MAX).min(burst.len());
        self.sent.extend(burst.drain(..n));
        if let Some(room) = &mut self.room {
            *room -= n;
        }
    }
}
