//! Everything a packet meets in director.
//!
//! The packet's way is the reading order of this crate:
//! `rx → parse → conn (look up) → [service → schedule → conn (insert)] → forward → tx`.
//! The crate knows packets and never a NIC: a frame and a wire reach it through the traits of [`wire`].

pub mod network;
