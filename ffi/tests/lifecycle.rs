//! The EAL from its start to its end, in a process of its own.

use dpdk_sys::*;

#[test]
fn eal_starts_once_and_ends_when_nothing_is_left() {
    let args =
        ["-l", "0", "--no-huge", "--no-shconf", "--no-pci", "-m", "64", "--no-telemetry"].map(String::from);
    let help = Eal::init(&["--help".into()]).map(drop);
    assert_eq!(help, Err(Error::Argument("--help".into())), "does not end the process");
    let eal = Eal::init(&args).expect("the EAL starts");
    assert_eq!(Eal::init(&args).map(drop), Err(Error::AlreadyInitialised));
    assert!(matches!(eal.register_thread(), Err(Error::AlreadyRegistered(0))), "the main lcore");

    // Here, not among the tests that run side by side: it takes all there is before it gives up.
    let large = MempoolConfig { count: 10_000_000, ..Default::default() };
    let error = Mempool::create(&eal, "large", &large).expect_err("more than 64 MiB");
    assert!(error.to_string().contains("Cannot allocate memory"), "{error}");

    let pool = Mempool::create(&eal, "pool", &MempoolConfig { count: 255, cache: 32, ..Default::default() })
        .expect("a pool");
    let id = eal.probe("net_null0,copy=1").expect("a device")[0];
    let mut port = Port::open(&eal, id).expect("a port");
    port.configure(&PortConfig::default(), &pool).expect("configured");
    port.start().expect("started");
    let mut queues = port.take_queues().expect("queues");
    let mut burst = Burst::<32>::new();
    assert_eq!(queues.rx[0].burst(&mut burst), 32);

    let refused = |eal: Eal, handles, mbufs| {
        let error = eal.cleanup().expect_err("in use");
        assert_eq!(error.reason, Error::StillInUse { handles, mbufs });
        error.eal.expect("given back")
    };
    let eal = refused(eal, 3, 32); // The pool, the pool in the port, the port.
    drop(port);
    let eal = refused(eal, 3, 32); // The queues keep the port.
    drop(queues);
    let eal = refused(eal, 1, 32);
    drop(pool);
    let eal = refused(eal, 0, 32);
    let last = burst.pop().expect("an mbuf");
    drop(burst);
    let eal = refused(eal, 0, 1);
    assert_eq!(last.len(), 64, "still there");
    std::thread::spawn(move || drop(last)).join().expect("freed by another thread");
    eal.cleanup().expect("nothing is left");
    assert_eq!(Eal::init(&args).map(drop), Err(Error::AlreadyInitialised));
}
