//! Stamps the binaries with what they were built from: the package's version and commit, and the version of DPDK.
//! Finding DPDK, and failing without it, is the work of `dpdk-sys`; its libraries come with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by cargo because dpdk-sys has `links = "dpdk"` and hands its version on.
    println!("cargo::rerun-if-env-changed=DEP_DPDK_VERSION");
    let Ok(dpdk) = env::var("DEP_DPDK_VERSION") else {
        println!(
            "cargo::error=dpdk-sys has not said which DPDK it found; director must depend on it directly"
        );
        return ExitCode::FAILURE;
    };
    println!("cargo::rustc-env=DIRECTOR_DPDK_VERSION={dpdk}");

    let package = env!("CARGO_PKG_VERSION");
    let version = match commit(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        Some(commit) => format!("{package} ({commit})"),
        None => package.to_owned(),
    };
    println!("cargo::rustc-env=DIRECTOR_VERSION={version}");
    ExitCode::SUCCESS
}

/// The short commit, if `root` is the top of a git work tree: sources unpacked inside another project are not of its
/// commit.
fn commit(root: &Path) -> Option<String> {
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // A commit moves the branch, or packs it; a checkout moves HEAD. A path that does not exist would run this each time.
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = root.join(git(root, &["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(root, &["rev-parse", "--short", "HEAD"])
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
