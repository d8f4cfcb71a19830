//! The control side of director: what is configured, who may change it, and how it is asked and told.
//!
//! A request comes from `lbctl` ([`ipvsadm`] and [`readable`] are its languages, [`client`] sends it) or any other program over
//! a Unix socket ([`protocol`], [`server`]) to the [`engine`], which keeps the [`table`] and makes the dataplane
//! follow it ([`running`]). All of it runs on one thread that no packet ever waits for. Nothing here links DPDK.

pub mod client;
pub mod config;
pub mod engine;
pub mod ipvsadm;
pub mod local;
pub mod mark;
pub mod model;
pub mod network;
pub mod protocol;
pub mod rates;
pub mod readable;
pub mod refusal;
pub mod report;
pub mod running;
pub mod server;
pub mod snat;
pub mod suggest;
pub mod supported;
pub mod sysctl;
pub mod table;
pub mod workers;
