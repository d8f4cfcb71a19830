//! An EAL that cannot start says so and leaves the process alone.

use dpdk_sys::*;

#[test]
fn eal_gives_its_reason() {
    let error = Eal::init(&["--no-such-option".into()]).expect_err("no such option");
    assert_eq!(error, Error::Init(Errno::EINVAL));
    assert!(error.to_string().contains("Invalid argument"), "{error}");
    assert_eq!(Eal::init(&["--no-huge".into()]).map(drop), Err(Error::AlreadyInitialised));
}
