//! What bindgen made of the installed DPDK's headers. Nothing here is safe or documented: DPDK's own manual is the
//! reference. Only this crate's wrappers may use it.

#![allow(
    missing_docs,
    dead_code,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/raw.rs"));
