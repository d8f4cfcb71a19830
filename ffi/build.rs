//! Finds the system's DPDK, makes the bindings to it and compiles the C shim.
//!
//! Include paths, `-march`, `-include rte_config.h` and the libraries all come from `pkg-config libdpdk`: they belong to
//! the DPDK that is installed, so none of them is written down here. Drivers are not linked: with shared libraries the
//! EAL loads them from DPDK's own plugin directory when it starts.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The oldest DPDK whose names (`RTE_ETH_*`, `RTE_MBUF_F_*`, `rxmode.mtu`) the shim has been compiled against.
const OLDEST: &str = "22.11";

/// Functions of DPDK that are called from Rust; those that are `static inline` or macros go through `c/shim.c`.
const FUNCTIONS: &[&str] = &[
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_has_hugepages",
    "rte_eal_init",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_info_get",
    "rte_eth_dev_is_valid_port",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_find_next_of",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_get",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_stats_reset",
    "rte_eth_tx_queue_setup",
    "rte_get_tsc_hz",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_socket_id",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
    "shim_.*",
];

/// Structures whose fields stay in C; those of the mbuf are reached by the offsets the shim's header exports.
const OPAQUE: &[&str] = &["rte_device", "rte_mbuf", "rte_mempool"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=c/shim.h");
    println!("cargo::rerun-if-changed=c/shim.c");

    let dpdk = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .probe("libdpdk")
        .map_err(|e| missing("libdpdk", OLDEST, "libdpdk-dev", &first_line(&e.to_string())))?;
    println!("cargo::metadata=version={}", dpdk.version);

    // The pkg-config crate keeps only -I, -D and -L; DPDK's headers also need its -include and -march.
    let flags = cflags("libdpdk")?;
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?);

    bindings(&flags, &out)?;
    shim(&flags)
}

/// One line for a human: what is missing, and the package that brings it.
fn missing(what: &str, version: &str, package: &str, reason: &str) -> String {
    format!("{what} {version} or newer was not found; on Debian: apt-get install {package} ({reason})")
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

fn cflags(package: &str) -> Result<Vec<String>, String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&tool)
        .args(["--cflags", package])
        .output()
        .map_err(|e| format!("cannot run {tool}: {e}; on Debian: apt-get install pkg-config"))?;
    if !output.status.success() {
        return Err(format!(
            "{tool} --cflags {package}: {}",
            first_line(&String::from_utf8_lossy(&output.stderr))
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

fn bindings(flags: &[String], out: &Path) -> Result<(), String> {
    // Asked first because bindgen panics, over many lines, when there is no libclang.
    clang_sys::load().map_err(|e| missing("libclang", "9", "libclang-dev", &first_line(&e)))?;

    let mut builder = bindgen::Builder::default()
        .header("c/shim.h")
        .clang_args(flags)
        // So that a newer DPDK, installed over this one, makes new bindings.
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .layout_tests(false)
        .generate_comments(false)
        .allowlist_var("SHIM_.*");
    builder = FUNCTIONS.iter().fold(builder, |b, name| b.allowlist_function(name));
    builder = OPAQUE.iter().fold(builder, |b, name| b.opaque_type(name));
    builder
        .generate()
        .map_err(|e| format!("cannot make the bindings to DPDK: {e}"))?
        .write_to_file(out.join("raw.rs"))
        .map_err(|e| format!("cannot write the bindings to {}: {e}", out.display()))
}

fn shim(flags: &[String]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file("c/shim.c").warnings(true);
    // DPDK's headers are someone else's: warnings from them are not ours to mend.
    for flag in flags {
        match flag.strip_prefix("-I") {
            Some(path) => build.flag("-isystem").flag(path),
            None => build.flag(flag),
        };
    }
    build
        .try_compile("dpdk_shim")
        .map_err(|e| format!("cannot compile c/shim.c: {}", first_line(&e.to_string())))
}
