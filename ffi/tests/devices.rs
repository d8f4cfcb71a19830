//! The wrappers against DPDK itself: pools, mbufs, and devices that need no hardware. Needs root, but no huge pages.

#![allow(clippy::expect_used, reason = "the helpers of tests may panic as the tests themselves")]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use dpdk_sys::*;

/// The EAL starts once in a process, so the tests share it. It ends with the process: `lifecycle.rs` tests its end.
fn eal() -> &'static EalHandle {
    static EAL: OnceLock<EalHandle> = OnceLock::new();
    EAL.get_or_init(|| {
        let args = ["-l", "0", "--no-huge", "--no-shconf", "--no-pci", "-m", "256", "--no-telemetry"];
        let eal = Eal::init(&args.map(String::from)).expect("the EAL starts");
        let handle = eal.handle();
        std::mem::forget(eal);
        handle
    })
}

fn pool(name: &str, count: u32) -> Mempool {
    let config = MempoolConfig { count, cache: 0, ..MempoolConfig::default() };
    Mempool::create(eal(), name, &config).expect("a pool")
}

fn port(device: &str) -> Port {
    let ports = eal().probe(device).expect("a device");
    assert_eq!(ports.len(), 1);
    Port::open(eal(), ports[0]).expect("a port")
}

fn started(device: &str, config: &PortConfig, pool: &Mempool) -> (Port, RxQueue, TxQueue) {
    let mut port = port(device);
    port.configure(config, pool).expect("configured");
    port.start().expect("started");
    let mut queues = port.take_queues().expect("queues");
    (port, queues.rx.remove(0), queues.tx.remove(0))
}

#[test]
fn version_is_that_of_the_library() {
    eal();
    assert!(version().starts_with("DPDK "), "{}", version());
    assert!(!has_hugepages());
}

#[test]
fn tsc_runs_at_its_rate() {
    let (hz, before, clock) = (eal().tsc_hz(), tsc(), Instant::now());
    std::thread::sleep(Duration::from_millis(100));
    let rate = (tsc() - before) as f64 / clock.elapsed().as_secs_f64();
    assert!((rate / hz as f64 - 1.0).abs() < 0.05, "{rate} instead of {hz}");
}

#[test]
fn pool_is_full_again_after_use() {
    let pool = pool("full_again", 255);
    assert_eq!((pool.capacity(), pool.available(), pool.in_use()), (255, 255, 0));
    let one = pool.alloc().expect("an mbuf");
    let mut burst = Burst::<32>::new();
    assert!(pool.alloc_bulk(&mut burst, 20));
    assert_eq!((pool.available(), pool.in_use()), (234, 21));
    assert!(!pool.alloc_bulk(&mut burst, 13), "more than there is room for");
    assert_eq!(burst.len(), 20);
    let popped = burst.pop();
    drop(burst);
    assert_eq!(pool.in_use(), 2);
    std::thread::spawn(move || drop((one, popped))).join().expect("freed by another thread");
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn pool_gives_no_more_than_it_has() {
    let pool = pool("no_more", 31);
    let mut all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((all.len(), pool.available()), (31, 0));
    all.truncate(29);
    let mut burst = Burst::<32>::new();
    assert!(!pool.alloc_bulk(&mut burst, 3));
    assert!(burst.is_empty());
    assert!(pool.alloc_bulk(&mut burst, 2));
    burst.clear();
    drop(all);
    assert_eq!(pool.available(), 31);
}

#[test]
fn pool_says_why_it_cannot_be_made() {
    let _taken = pool("taken", 31);
    let bad = |name: &str, config: MempoolConfig| Mempool::create(eal(), name, &config).expect_err("no pool");
    let small = MempoolConfig { count: 31, cache: 0, ..MempoolConfig::default() };
    assert!(bad("taken", small.clone()).to_string().contains("File exists"));
    assert!(
        bad("cache_too_large", MempoolConfig { cache: 31, ..small.clone() }).to_string().contains("Invalid")
    );
    assert!(
        bad("room_too_large", MempoolConfig { data_room: u16::MAX, ..small.clone() })
            .to_string()
            .contains("Invalid")
    );
    assert_eq!(bad("a\0b", small), Error::Argument("a\0b".into()));
}

#[test]
fn mbuf_grows_and_shrinks_within_its_buffer() {
    let pool = pool("grow", 31);
    let mut mbuf = pool.alloc().expect("an mbuf");
    assert!(mbuf.is_empty() && mbuf.data().is_empty());
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.segment_count()), (128, 2048, 1));

    assert!(mbuf.extend_from_slice(b"payload"));
    mbuf.prepend(4).expect("headroom").copy_from_slice(b"head");
    assert_eq!((mbuf.data(), mbuf.len()), (b"headpayload".as_slice(), 11));
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (124, 2041));
    assert_eq!(mbuf.adj(2).expect("2 bytes"), b"adpayload");
    assert!(mbuf.trim(4));
    mbuf.data_mut()[0] = b'A';
    assert_eq!((mbuf.data(), mbuf.len()), (b"Adpay".as_slice(), 5));

    assert!(mbuf.adj(6).is_none() && !mbuf.trim(6));
    assert!(mbuf.prepend(127).is_none() && mbuf.append(2046).is_none());
    assert!(mbuf.prepend(usize::MAX).is_none() && mbuf.append(usize::MAX).is_none());
    assert_eq!((mbuf.data(), mbuf.len()), (b"Adpay".as_slice(), 5), "what fails changes nothing");

    assert_eq!(mbuf.prepend(126).map(|room| room.len()), Some(126));
    assert_eq!(mbuf.append(2045).map(|room| room.len()), Some(2045));
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.len()), (0, 0, 2176));
    mbuf.data_mut().fill(0xa5);
    assert_eq!(mbuf.segments().map(<[u8]>::len).collect::<Vec<_>>(), [2176]);
    assert!(mbuf.linearize());
    assert!(mbuf.trim(2176) && mbuf.is_empty());
}

#[test]
fn mbuf_is_reset_when_it_is_reused() {
    let pool = pool("reset", 1);
    let mut mbuf = pool.alloc_from(&[7; 100]).expect("an mbuf");
    assert!(mbuf.prepend(10).is_some());
    assert!(pool.alloc().is_none());
    drop(mbuf);
    let mbuf = pool.alloc().expect("the same mbuf");
    assert_eq!((mbuf.len(), mbuf.headroom(), mbuf.tailroom()), (0, 128, 2048));
    assert_eq!(mbuf.port(), u16::MAX);
    mbuf.prefetch();
    drop(mbuf);
    assert!(pool.alloc_from(&[0; 2049]).is_none());
    assert_eq!(pool.in_use(), 0, "an mbuf that is too small goes back");
}

#[test]
fn null_device_receives_and_sends() {
    let pool = pool("null", 2047);
    let (port, mut rx, mut tx) = started("net_null0,copy=1,size=64", &PortConfig::default(), &pool);
    let mut burst = Burst::<32>::new();
    for _ in 0..3 {
        assert_eq!(rx.burst(&mut burst), 32);
        assert!(burst.iter().all(|mbuf| mbuf.len() == 64 && mbuf.port() == port.id().number()));
        assert_eq!(rx.burst(&mut burst), 0, "no room");
        assert_eq!(tx.burst(&mut burst), 32);
        assert!(burst.is_empty());
    }
    let statistics = port.statistics().expect("statistics");
    assert_eq!((statistics.ipackets, statistics.opackets), (96, 96));

    assert_eq!(rx.burst(&mut burst), 32);
    assert_eq!(pool.in_use(), 32);
    drop(burst);
    assert_eq!(pool.in_use(), 0, "a dropped burst frees its packets");
    drop((rx, tx));
    port.close().expect("closed");
}

#[test]
fn ring_device_keeps_packets_and_order_and_gives_back_what_it_cannot_take() {
    let pool = pool("ring", 4095);
    let (port, mut rx, mut tx) = started("net_ring0", &PortConfig::default(), &pool);
    let fill = |burst: &mut Burst<32>, first: u32| {
        for n in first..first + 32 {
            burst.push(pool.alloc_from(&n.to_be_bytes()).expect("an mbuf"));
        }
    };
    let number = |mbuf: &Mbuf| u32::from_be_bytes(mbuf.data().try_into().expect("4 bytes"));

    let (mut burst, mut sent) = (Burst::<32>::new(), 0_u32);
    let kept = loop {
        assert!(sent < 4000, "the ring has no end");
        fill(&mut burst, sent);
        let took = tx.burst(&mut burst);
        sent += took as u32;
        if took < 32 {
            break std::mem::take(&mut burst);
        }
    };
    assert_eq!(
        kept.iter().map(number).collect::<Vec<_>>(),
        ((sent)..(sent / 32 * 32 + 32)).collect::<Vec<_>>()
    );
    assert_eq!(pool.in_use(), sent + kept.len() as u32);
    drop(kept);

    let mut seen = 0;
    while rx.burst(&mut burst) > 0 {
        for mbuf in burst.drain(..) {
            assert_eq!(number(&mbuf), seen);
            seen += 1;
        }
    }
    assert_eq!((seen, pool.in_use()), (sent, 0));
    assert_eq!(port.statistics().expect("statistics").ipackets, u64::from(sent));
    drop((rx, tx));
    port.close().expect("closed");
}

#[test]
fn receive_adds_to_what_is_in_the_burst() {
    let pool = pool("adds", 255);
    let (_port, mut rx, _tx) = started("net_null1,copy=1,size=60", &PortConfig::default(), &pool);
    let mut burst = Burst::<32>::new();
    burst.push(pool.alloc_from(b"first").expect("an mbuf"));
    assert_eq!(rx.burst(&mut burst), 31);
    assert_eq!((burst.len(), burst[0].data(), burst[31].len()), (32, b"first".as_slice(), 60));
}

#[test]
fn port_describes_itself() {
    let pool = pool("describes", 2047);
    let mut port = port("net_null2");
    let info = port.info().expect("a description");
    assert_eq!((info.id, info.name.as_str(), info.driver.as_str()), (port.id(), "net_null2", "net_null"));
    assert!(
        info.max_rx_queues >= 2 && info.max_tx_queues >= 2 && info.min_mtu < 1500 && info.max_mtu >= 1500
    );
    assert!(info.supports_rss() && info.reta_size > 0);
    assert!(eal().ports().contains(&port.id()));

    let config =
        PortConfig { rx_queues: 2, tx_queues: 2, mtu: Some(1400), rss: true, ..PortConfig::default() };
    port.configure(&config, &pool).expect("configured");
    assert_eq!(port.mtu().expect("an MTU"), 1400);
    let (has, on) = (info.offloads, port.offloads());
    assert_eq!((on.rx & !has.rx, on.tx & !has.tx), (0, 0), "only what the device has");
    port.start().expect("started");
    assert_eq!(port.link().expect("a link"), Link { up: true, speed: Some(10_000) });
    assert_ne!(port.mac_address().expect("an address"), [0; 6]);
    port.stop().expect("stopped");
    assert_eq!(port.link().expect("a link"), Link { up: false, speed: None });
}

#[test]
fn queues_have_one_owner() {
    let pool = pool("owner", 255);
    let mut first = port("net_null3");
    let config = PortConfig { rx_queues: 2, tx_queues: 3, ..PortConfig::default() };
    assert!(matches!(first.start(), Err(Error::Order { .. })));
    assert!(matches!(first.take_queues(), Err(Error::Order { .. })));
    first.configure(&config, &pool).expect("configured");
    assert!(matches!(first.take_queues(), Err(Error::Order { .. })));
    first.start().expect("started");
    assert!(matches!(first.start(), Err(Error::Order { .. })));
    assert!(matches!(first.configure(&config, &pool), Err(Error::Order { .. })));

    let Queues { rx, mut tx } = first.take_queues().expect("queues");
    assert_eq!(rx.iter().map(RxQueue::queue).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(tx.iter().map(TxQueue::queue).collect::<Vec<_>>(), [0, 1, 2]);
    let out = Error::QueuesOut(first.id());
    drop(rx);
    tx.truncate(1);
    assert_eq!(first.take_queues().map(drop), Err(out.clone()));
    assert_eq!(first.stop(), Err(out.clone()));
    drop(tx);
    first.take_queues().map(drop).expect("again");
    first.stop().expect("stopped");
    first.start().expect("started again");

    let queues = first.take_queues().expect("queues");
    let id = first.id();
    assert_eq!(first.close(), Err(out));
    assert_eq!(Port::open(eal(), id).map(drop), Err(Error::PortOpen(id)), "the queues keep it open");
    std::thread::spawn(move || drop(queues)).join().expect("dropped elsewhere");
    // By name: another test may have been given the number.
    port("net_null3").close().expect("it was closed with its last queue");
}

#[test]
fn device_comes_and_goes() {
    let first = port("net_null4");
    let id = first.id();
    assert_eq!(eal().probe("net_null4").expect("attached already"), [id]);
    assert_eq!(Port::open(eal(), id).map(drop), Err(Error::PortOpen(id)));
    first.close().expect("closed");
    let again = port("net_null4,size=128");
    assert_eq!(again.info().expect("a description").name, "net_null4");
}

#[test]
fn devices_and_ports_that_do_not_exist() {
    for device in ["net_no_such_driver0", "net_af_packet9,iface=nosuchif0", "ffff:ff:1f.7", ""] {
        let error = eal().probe(device).expect_err(device).to_string();
        assert!(error.contains(&format!("{device:?}")), "{error}");
    }
    let none = PortId::new(31);
    assert_eq!(Port::open(eal(), none).map(drop), Err(Error::UnknownPort(none)));
}

#[test]
fn port_refuses_what_the_device_lacks() {
    let pool = pool("refuses", 255);
    let mut port = port("net_null5");
    let most = port.info().expect("a description").max_rx_queues;
    let mut with = |change: fn(&mut PortConfig, u16)| {
        let mut config = PortConfig::default();
        change(&mut config, most);
        port.configure(&config, &pool)
    };
    let count = |error: Result<(), Error>| match error {
        Err(Error::QueueCount { direction, asked, .. }) => (direction, asked),
        other => panic!("{other:?}"),
    };
    assert_eq!(count(with(|config, most| config.rx_queues = most + 1)), (Direction::Receive, most + 1));
    assert_eq!(count(with(|config, _| config.rx_queues = 0)), (Direction::Receive, 0));
    assert_eq!(count(with(|config, _| config.tx_queues = u16::MAX)), (Direction::Transmit, u16::MAX));
    assert!(matches!(with(|config, _| config.mtu = Some(1)), Err(Error::Mtu { asked: 1, .. })));
    with(|config, _| config.rx_descriptors = 1).expect("moved to what the device has");
}

#[test]
fn threads_have_their_own_caches() {
    let config = MempoolConfig { count: 1023, cache: 64, ..MempoolConfig::default() };
    let pool = Mempool::create(eal(), "caches", &config).expect("a pool");
    let both = Barrier::new(2);
    let work = || {
        let registration = eal().register_thread().expect("registered");
        let lcore = registration.lcore_id();
        assert_eq!(eal().register_thread().map(drop), Err(Error::AlreadyRegistered(lcore)));
        both.wait();
        for round in 0..1000 {
            let mut burst = Burst::<32>::new();
            assert!(pool.alloc_bulk(&mut burst, 32), "round {round}");
            for mbuf in burst.iter_mut() {
                assert!(mbuf.extend_from_slice(&lcore.to_be_bytes()));
            }
            assert!(burst.iter().all(|mbuf| mbuf.data() == lcore.to_be_bytes()));
        }
        lcore
    };
    let lcores: BTreeSet<u32> = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().expect("no panic")).into()
    });
    assert_eq!(lcores.len(), 2, "each its own identifier");
    assert_eq!(pool.in_use(), 0);

    std::thread::spawn(move || {
        drop(eal().register_thread().expect("registered"));
        let again = eal().register_thread().expect("registered again");
        assert!(lcores.contains(&again.lcore_id()), "identifiers are given back");
    })
    .join()
    .expect("no panic");
}

/// A capture file of one frame.
fn capture(name: &str, frame: &[u8]) -> String {
    let path = format!("{}/{name}.pcap", env!("CARGO_TARGET_TMPDIR"));
    let mut file = Vec::new();
    // Magic, version 2.4, zone, accuracy, longest frame, Ethernet; then seconds, microseconds, length twice.
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1, 0, 0, frame.len() as u32, frame.len() as u32] {
        file.extend_from_slice(&u32::to_ne_bytes(word));
    }
    file.extend_from_slice(frame);
    std::fs::write(&path, file).expect("a file in the target directory");
    path
}

#[test]
fn long_packet_comes_in_segments() {
    let frame: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
    let config = MempoolConfig { count: 255, cache: 0, data_room: 1024, ..MempoolConfig::default() };
    let pool = Mempool::create(eal(), "segments", &config).expect("a pool");
    let device = format!("net_pcap0,rx_pcap={}", capture("segments", &frame));
    let (_port, mut rx, _tx) = started(&device, &PortConfig::default(), &pool);
    let mut burst = Burst::<32>::new();
    assert_eq!(rx.burst(&mut burst), 1);

    let mut mbuf = burst.pop().expect("a packet");
    assert_eq!((mbuf.len(), mbuf.segment_count(), pool.in_use()), (3000, 3, 3));
    assert_eq!(
        mbuf.segments().map(<[u8]>::len).collect::<Vec<_>>(),
        [1024, 1152, 824],
        "only the first has headroom"
    );
    assert_eq!(mbuf.segments().collect::<Vec<_>>().concat(), frame);
    assert_eq!((mbuf.data(), mbuf.tailroom()), (&frame[..1024], 328));

    assert!(!mbuf.linearize(), "there is no room in the first segment");
    assert!(!mbuf.trim(825) && mbuf.adj(1025).is_none(), "only within a segment");
    assert!(mbuf.trim(50) && mbuf.extend_from_slice(b"end"));
    assert_eq!(mbuf.adj(24).map(|rest| rest.len()), Some(1000));
    assert_eq!((mbuf.len(), mbuf.segments().map(<[u8]>::len).sum::<usize>()), (2929, 2929));
    let last = [&frame[2176..2950], b"end"].concat();
    assert_eq!(mbuf.segments().last(), Some(last.as_slice()));
    drop(mbuf);
    assert_eq!(pool.in_use(), 0, "all segments are freed");
}

/// Makes a veth pair in a network namespace that is this thread's own and ends with it and the sockets in it.
fn veth(one: &str, other: &str) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace, as root");
    ip(&["link", "add", one, "type", "veth", "peer", "name", other]);
    for end in [one, other] {
        // Else the kernel's own router solicitations mix with the frames of the test.
        ip(&["link", "set", end, "addrgenmode", "none", "up"]);
    }
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().expect("iproute2 is installed").success(), "ip {args:?}");
}

#[test]
fn af_packet_passes_frames_over_a_veth_pair() {
    // Before the namespace: the EAL is for all tests.
    eal();
    veth("near", "far");
    let pool = pool("af_packet", 2047);
    let config = PortConfig {
        promiscuous: true,
        rx_descriptors: 64,
        tx_descriptors: 64,
        rss: true,
        ..PortConfig::default()
    };
    let (here, _rx, mut tx) = started("net_af_packet0,iface=near", &config, &pool);
    let (there, mut rx, _tx) = started("net_af_packet1,iface=far", &config, &pool);
    assert!(there.promiscuous().expect("a mode"));
    assert!(here.link().expect("a link").up);
    assert!(here.info().expect("a description").interface_index.is_some());

    let mut frame = [[0xff; 6], here.mac_address().expect("an address")].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend([0x5a; 86]);
    let mut burst = Burst::<8>::new();
    burst.extend(std::iter::repeat_with(|| pool.alloc_from(&frame).expect("an mbuf")).take(8));
    assert_eq!(tx.burst(&mut burst), 8);

    let mut seen = 0;
    let end = Instant::now() + Duration::from_secs(5);
    while seen < 8 && Instant::now() < end {
        rx.burst(&mut burst);
        seen += burst.drain(..).filter(|mbuf| mbuf.data() == frame).count();
    }
    assert_eq!(seen, 8);
    assert_eq!(here.statistics().expect("statistics").opackets, 8);
    drop((_rx, tx, rx, _tx));
    here.close().expect("closed");
    there.close().expect("closed");
    assert_eq!(pool.in_use(), 0, "the drivers gave everything back");
}
