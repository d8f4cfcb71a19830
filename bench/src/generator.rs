//! A generator as a worker's wire: what the worker receives it has just written, what the worker sends it writes anew.
//!
//! Frames are mbufs of a DPDK mempool. It must cost as little as it can and never judge what it measures: few buffers, so
//! that they stay in the first-level cache, and nothing looked at on the way back unless somebody [listens](Listener).

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Context;
use arrayvec::ArrayVec;
use dataplane::wire::{BURST, Burst, Wire};
use dpdk_sys::{Mbuf, Mempool};

use crate::traffic::Stream;

/// Buffers of one generator.
const BUFFERS: usize = 2 * BURST;

/// In which order the flows come.
#[derive(Clone, Debug)]
pub enum Order {
    /// One after the other, from this number on.
    InTurn(u32),
    /// Each of the flows below this number as likely as any other.
    Random(u32),
    /// One after the other, from 0 up to this number, over and over.
    Round {
        /// The next one.
        next: u32,
        /// How many.
        flows: u32,
    },
    /// Each of so many flows from `first` on as likely as any other.
    Among {
        /// The lowest number.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// Looks at every frame that is sent.
pub type Listener = Box<dyn FnMut(&[u8])>;

struct State {
    pool: Mempool,
    idle: ArrayVec<Mbuf, BUFFERS>,
    stream: Stream,
    order: Order,
    random: fastrand::Rng,
    /// Frames still to come; `usize::MAX` for no end.
    left: usize,
    listener: Option<Listener>,
}

impl State {
    /// Frames that the director drops do not come back; their buffers go to the pool.
    #[cold]
    fn replacement(&self) -> Option<Mbuf> {
        self.pool.alloc_from(self.stream.blank())
    }

    #[inline]
    fn next_flow(&mut self) -> u32 {
        match &mut self.order {
            Order::InTurn(next) => {
                let flow = *next;
                *next += 1;
                flow
            }
            Order::Round { next, flows } => {
                let flow = *next;
                *next = if flow + 1 < *flows { flow + 1 } else { 0 };
                flow
            }
            Order::Random(flows) => self.random.u32(..*flows),
            Order::Among { first, count } => *first + self.random.u32(..*count),
        }
    }
}

/// The generator: clones are handles of the same one, so that its owner can tell it what to send while a worker has it.
#[derive(Clone)]
pub struct Generator(Rc<RefCell<State>>);

impl Generator {
    /// A generator that sends nothing yet, with buffers out of `pool`.
    pub fn new(pool: Mempool, stream: Stream) -> Self {
        let (idle, order, random) = (ArrayVec::new(), Order::InTurn(0), fastrand::Rng::new());
        Self(Rc::new(RefCell::new(State { pool, idle, stream, order, random, left: 0, listener: None })))
    }

    /// From now on: `left` frames of `stream` in this order, and nothing after.
    pub fn send(&self, stream: Stream, order: Order, left: usize) -> anyhow::Result<()> {
        let state = &mut *self.0.borrow_mut();
        state.idle.clear();
        while !state.idle.is_full() {
            let frame = state.pool.alloc_from(stream.blank()).context("the mempool has no buffers left")?;
            state.idle.push(frame);
        }
        (state.stream, state.order, state.left) = (stream, order, left);
        Ok(())
    }

    /// True while there are frames to come.
    pub fn has_more(&self) -> bool {
        self.0.borrow().left > 0
    }

    /// Lets `listener` look at what comes back from now on.
    pub fn listen(&self, listener: Option<Listener>) {
        self.0.borrow_mut().listener = listener;
    }
}

impl Wire for Generator {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        let state = &mut *self.0.borrow_mut();
        let count = burst.remaining_capacity().min(state.left);
        for _ in 0..count {
            let Some(mut frame) = state.idle.pop().or_else(|| state.replacement()) else { return };
            let flow = state.next_flow();
            state.stream.write(frame.data_mut(), flow);
            burst.push(frame);
            state.left -= 1;
        }
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<Mbuf>) {
        let state = &mut *self.0.borrow_mut();
        if let Some(listener) = &mut state.listener {
            burst.iter().for_each(|frame| listener(frame.data()));
        }
        let room = state.idle.remaining_capacity().min(burst.len());
        state.idle.extend(burst.drain(..room));
    }
}

/// A generator at a tunnel's end: takes off what IP in IP has put in front, so that its buffers can be used again. What that costs is
/// among what a packet costs.
pub struct Unwrapping(pub Generator);

impl Unwrapping {
    /// The outer header's length, which has no options.
    const OUTER: usize = 20;
    const ETHERNET: usize = 14;
}

impl Wire for Unwrapping {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        self.0.receive(burst);
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<Mbuf>) {
        for frame in burst.iter_mut() {
            let data = frame.data_mut();
            // Protocol 4; anything else stays as it is, and is found by who looks at it.
            if data.get(Self::ETHERNET + 9) == Some(&4) {
                data.copy_within(..Self::ETHERNET, Self::OUTER);
                let _ = frame.adj(Self::OUTER);
            }
        }
        Wire::send(&mut self.0, burst);
    }
}
