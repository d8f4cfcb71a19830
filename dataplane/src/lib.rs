//! Everything a packet meets in director.
//!
//! The packet's way is the reading order of this crate:
//! `rx → parse → conn (look up) → [service → schedule → conn (insert)] → forward → tx`.
//! The crate knows packets and never a NIC: a frame and a wire reach it through the traits of [`wire`].

pub mod clamp;
pub mod conn;
pub mod counters;
pub mod destination;
mod egress;
pub mod forward;
pub mod fragments;
pub mod locals;
pub mod mark;
pub mod memory;
pub mod network;
pub mod packet;
pub mod parse;
pub mod quiescence;
pub mod schedule;
pub mod service;
pub mod snapshot;
pub mod snat;
mod sync;
pub mod sysctl;
pub mod time;
pub mod tunnels;
pub mod wire;
pub mod worker;
