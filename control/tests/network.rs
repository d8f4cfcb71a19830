//! The mirror against a real Linux: two network namespaces with a wire between them, and `ip`.
//!
//! Each namespace belongs to a thread and goes with it, so nothing is left behind however a test ends. Only root may
//! make them: for others these tests say that they were not run.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use control::network::interface::{Setup, bring_up};
use control::network::{Fixed, Handle, Interface, Mirror};
use dataplane::network::{MacAddr, Network, NextHop, PortId, Unreachable};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};
use tokio::sync::watch;

const PORT: PortId = PortId(3);
const OWN: &str = "02:00:00:00:00:01";
const SERVER_MAC: &str = "02:00:00:00:00:09";
const SERVER: &str = "192.0.2.9";
const PATIENCE: Duration = Duration::from_secs(15);

/// A network namespace that lives as long as its thread.
#[derive(Clone)]
struct Namespace {
    path: String,
}

impl Namespace {
    /// Moves this thread into a namespace of its own.
    fn here() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let namespace = Self { path: format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()) };
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs a line of shell in it and returns what it printed.
    fn sh(&self, line: &str) -> String {
        let mut command = Command::new("nsenter");
        let output = command.arg(format!("--net={}", self.path)).args(["sh", "-ec", line]).output().unwrap();
        let mut said = String::from_utf8(output.stdout).unwrap();
        write!(said, "{}", String::from_utf8(output.stderr).unwrap()).unwrap();
        assert!(output.status.success(), "{line}: {said}");
        said
    }
}

/// The machine that director runs on, with a mirror for `wan0`, and a server at the other end of the wire.
struct World {
    director: Namespace,
    server: Namespace,
    mirror: Handle,
    networks: watch::Receiver<Arc<Network>>,
}

/// Lays the wire, starts a mirror and runs `test`, all on a thread of its own.
fn world(test: impl AsyncFnOnce(World) + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("not run: only root may make network namespaces");
        return;
    }
    let (ready, server) = mpsc::channel();
    let (finished, until) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        ready.send(Namespace::here()).unwrap();
        until.recv().unwrap_err();
    });
    let test = std::thread::spawn(move || {
        // Dropped when the test ends or panics, which ends the other thread.
        let _finished = finished;
        let (director, server) = (Namespace::here(), server.recv().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            lay_wire(&director, &server);
            let interface = Interface { port: PORT, name: "wan0".into(), mac: OWN.parse().unwrap() };
            let (mirror, handle, mut networks) = Mirror::new(vec![interface], Fixed::default());
            tokio::spawn(mirror.run());
            networks.changed().await.unwrap();
            test(World { director, server, mirror: handle, networks }).await;
        });
    });
    let result = test.join();
    other.join().unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Short timers, so that what takes Linux half a minute takes a second.
fn lay_wire(director: &Namespace, server: &Namespace) {
    director.sh(&format!(
        "ip link add wan0 type veth peer name eth0 netns {}
         sysctl -qw net.ipv6.conf.wan0.accept_dad=0
         sysctl -qw net.ipv4.neigh.wan0.locktime=0 net.ipv4.neigh.wan0.delay_first_probe_time=1
         ip link set wan0 address {OWN} up
         ip address add 192.0.2.1/24 dev wan0
         ip address add 2001:db8::1/64 dev wan0",
        server.path.split('/').nth(4).unwrap()
    ));
    server.sh(&format!(
        "sysctl -qw net.ipv6.conf.eth0.accept_dad=0
         ip link set eth0 address {SERVER_MAC} up
         ip address add {SERVER}/24 dev eth0
         ip address add 2001:db8::9/64 dev eth0"
    ));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The MAC address that packets to `address` go to.
fn mac(network: &Network, address: &str) -> Option<String> {
    let adjacency = network.adjacency(network.resolve(ip(address)).ok()?)?;
    assert_eq!((adjacency.port(), adjacency.source()), (PORT, OWN.parse::<MacAddr>().unwrap()));
    Some(adjacency.destination().to_string())
}

fn hop(gateway: Option<&str>) -> Option<NextHop> {
    Some(NextHop { port: PORT, gateway: gateway.map(ip) })
}

impl World {
    /// Waits until the network is as it should be.
    async fn until(&mut self, what: &str, is: impl Fn(&Network) -> bool) {
        let wait = tokio::time::timeout(PATIENCE, self.networks.wait_for(|n| is(n)));
        if wait.await.is_err() {
            let linux = self.director.sh("ip link; ip route; ip -6 route; ip neigh");
            panic!("not seen: {what}\nLinux has:\n{linux}");
        }
    }

    /// Waits until `ip neigh` says `word` (or not) of `address`.
    async fn until_linux(&self, address: &str, says: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let said = self.neighbour(address);
            if says(&said) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "of {address} Linux says: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn neighbour(&self, address: &str) -> String {
        self.director.sh(&format!("ip neigh show {address} dev wan0"))
    }

    fn keep(&self, addresses: &[&str]) {
        self.mirror.set_kept(addresses.iter().map(|a| ip(a)).collect::<HashSet<_>>());
    }
}

#[test]
fn a_kept_server_is_resolved_and_followed_when_its_mac_changes_as_root() {
    world(async |mut w| {
        assert_eq!(w.neighbour(SERVER), "", "nobody asked before");
        w.keep(&[SERVER, "2001:db8::9"]);
        w.until("the server", |n| mac(n, SERVER).as_deref() == Some(SERVER_MAC)).await;
        w.until("the server by IPv6", |n| mac(n, "2001:db8::9").as_deref() == Some(SERVER_MAC)).await;
        w.until_linux(SERVER, |s| s.contains("managed")).await;
        w.until_linux("2001:db8::9", |s| s.contains("managed")).await;

        let id = w.networks.borrow().resolve(ip(SERVER));
        let other = "02:00:00:00:00:10";
        w.server.sh(&format!("ip link set eth0 address {other}; ip neigh flush all; ping -qc1 192.0.2.1"));
        w.until("the new address", |n| mac(n, SERVER).as_deref() == Some(other)).await;
        assert_eq!(w.networks.borrow().resolve(ip(SERVER)), id, "in the same place");
    });
}

#[test]
fn a_deleted_neighbour_is_unknown_and_a_kept_one_comes_back_as_root() {
    world(async |mut w| {
        w.keep(&[SERVER]);
        w.until("the server", |n| mac(n, SERVER).is_some()).await;
        w.server.sh("ip link set eth0 down");
        w.director.sh(&format!("ip neigh del {SERVER} dev wan0"));
        let unresolved = Err(Unreachable::Unresolved { port: PORT, neighbour: ip(SERVER) });
        w.until("nothing", |n| n.resolve(ip(SERVER)).is_err()).await;
        w.server.sh("ip link set eth0 up");
        w.until("the server again", |n| mac(n, SERVER).is_some()).await;
        w.until_linux(SERVER, |s| s.contains("managed")).await;
        // The director's own side of the wire goes down: there is no route at all any more.
        w.director.sh("ip link set wan0 down");
        w.until("no route", |n| n.resolve(ip(SERVER)) == Err(Unreachable::NoRoute)).await;
        w.director.sh("ip link set wan0 up");
        w.until("the route", |n| n.resolve(ip(SERVER)) != Err(Unreachable::NoRoute)).await;
        w.until("the server once more", |n| n.resolve(ip(SERVER)) != unresolved).await;
    });
}

/// While it has no answer, Linux announces nothing of a neighbour that it asks for.
#[test]
fn what_never_answered_is_let_go_as_root() {
    const NOBODY: &str = "192.0.2.200";
    world(async |w| {
        w.keep(&[NOBODY]);
        w.until_linux(NOBODY, |s| s.contains("managed")).await;
        w.keep(&[]);
        w.until_linux(NOBODY, |s| !s.contains("managed")).await;
    });
}

#[test]
fn what_is_no_longer_kept_is_let_go_and_stays_known_as_root() {
    world(async |mut w| {
        w.keep(&[SERVER]);
        w.until("the server", |n| mac(n, SERVER).is_some()).await;
        w.until_linux(SERVER, |s| s.contains("managed")).await;
        w.keep(&[]);
        w.until_linux(SERVER, |s| !s.contains("managed")).await;
        assert!(w.neighbour(SERVER).contains(SERVER_MAC));
        assert_eq!(mac(&w.networks.borrow(), SERVER).as_deref(), Some(SERVER_MAC));
    });
}

#[test]
fn marks_and_entries_of_others_stay_as_they_are_as_root() {
    world(async |mut w| {
        let (fixed, learned) = ("192.0.2.50", SERVER);
        w.director.sh(&format!(
            "ip neigh add {fixed} lladdr 02:00:00:00:00:50 dev wan0 nud permanent
             ip neigh add {learned} lladdr {SERVER_MAC} dev wan0 nud reachable extern_learn"
        ));
        w.until("the fixed one", |n| mac(n, fixed).is_some()).await;
        w.keep(&[fixed, learned]);
        w.until_linux(learned, |s| s.contains("managed") && s.contains("extern_learn")).await;
        w.keep(&[]);
        w.until_linux(learned, |s| !s.contains("managed") && s.contains("extern_learn")).await;
        assert!(w.neighbour(fixed).contains("PERMANENT"), "{}", w.neighbour(fixed));
    });
}

#[test]
fn routes_are_followed_and_those_by_other_interfaces_hide_ours_as_root() {
    world(async |mut w| {
        let far = ip("203.0.113.7");
        assert_eq!(w.networks.borrow().route(far), None);
        w.director.sh("ip route add default via 192.0.2.9");
        w.until("a default route", |n| n.route(far) == hop(Some(SERVER))).await;
        // A gateway is kept resolved without being asked for.
        w.until_linux(SERVER, |s| s.contains("managed")).await;
        w.until("the gateway", |n| mac(n, "203.0.113.7").as_deref() == Some(SERVER_MAC)).await;

        w.director.sh("ip route replace default via 192.0.2.10");
        w.until("another gateway", |n| n.route(far) == hop(Some("192.0.2.10"))).await;
        w.until_linux(SERVER, |s| !s.contains("managed")).await;
        w.director.sh("ip route add 203.0.113.0/24 via 192.0.2.11 metric 50");
        w.until("a longer prefix", |n| n.route(far) == hop(Some("192.0.2.11"))).await;
        w.director.sh("ip route add 203.0.113.0/24 via 192.0.2.12 metric 40");
        w.until("a better metric", |n| n.route(far) == hop(Some("192.0.2.12"))).await;

        w.director.sh("ip link add other type veth peer name rest; ip link set rest up; ip link set other up; ip route add 203.0.113.0/28 dev other");
        w.until("a route elsewhere", |n| n.resolve(far) == Err(Unreachable::NoRoute)).await;
        // Linux announces none of the routes that go with the link.
        w.director.sh("ip link del other");
        w.until("the route before", |n| n.route(far) == hop(Some("192.0.2.12"))).await;
        w.director.sh("ip route add blackhole 203.0.113.7/32");
        w.until("a blackhole", |n| n.resolve(far) == Err(Unreachable::NoRoute)).await;
        w.director.sh("ip route del blackhole 203.0.113.7/32; ip route del 203.0.113.0/24 metric 40");
        w.until("the worse metric", |n| n.route(far) == hop(Some("192.0.2.11"))).await;

        w.director.sh("ip -6 route add default via fe80::1 dev wan0");
        w.until("an IPv6 route", |n| n.route(ip("2001:db8:5::1")) == hop(Some("fe80::1"))).await;
        w.director.sh("ip address del 192.0.2.1/24 dev wan0");
        w.until("no IPv4 route", |n| n.resolve(ip(SERVER)) == Err(Unreachable::NoRoute)).await;
    });
}

#[test]
fn multipath_and_next_hop_objects_lead_to_the_first_that_is_alive_as_root() {
    world(async |mut w| {
        let far = ip("203.0.113.7");
        w.director.sh("ip link add other type veth peer name rest
             sysctl -qw net.ipv6.conf.other.disable_ipv6=1 net.ipv6.conf.rest.disable_ipv6=1
             ip link set rest up; ip link set other up; ip address add 198.51.100.1/24 dev other
             ip route add default nexthop via 198.51.100.9 nexthop via 192.0.2.9");
        w.until("the other interface", |n| n.resolve(ip("198.51.100.3")) == Err(Unreachable::NoRoute)).await;
        assert_eq!(w.networks.borrow().route(far), None, "the first leg is not ours");
        // The carrier is lost, which Linux announces for the link alone; nothing else may be due by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        w.director.sh("ip link set rest down");
        w.until("the leg that is alive", |n| n.route(far) == hop(Some(SERVER))).await;
        w.director.sh(
            "ip route del default; ip nexthop add id 7 via 192.0.2.10 dev wan0; ip route add default nhid 7",
        );
        w.until("the next hop object", |n| n.route(far) == hop(Some("192.0.2.10"))).await;
        w.director.sh("ip nexthop replace id 7 via 192.0.2.11 dev wan0");
        w.until("its replacement", |n| n.route(far) == hop(Some("192.0.2.11"))).await;
        w.director.sh("ip nexthop del id 7");
        w.until("nothing", |n| n.route(far).is_none()).await;
    });
}

#[test]
fn a_client_is_asked_for_once_wanted_and_again_when_stale_as_root() {
    world(async |mut w| {
        let stranger = "192.0.2.77";
        w.director.sh(&format!("ip neigh add {stranger} lladdr 02:00:00:00:00:77 dev wan0 nud stale"));
        assert!(w.mirror.resolve(PORT, ip(SERVER)));
        w.until("the client", |n| mac(n, SERVER).as_deref() == Some(SERVER_MAC)).await;
        assert!(!w.neighbour(SERVER).contains("managed"));
        w.director.sh(&format!("ip neigh change {SERVER} dev wan0 nud stale"));
        w.until_linux(SERVER, |s| s.contains("REACHABLE")).await;
        assert!(w.neighbour(stranger).contains("STALE"), "nobody wants it: {}", w.neighbour(stranger));
        // A port that does not exist is no reason to ask anybody.
        assert!(w.mirror.resolve(PortId(9), ip("192.0.2.33")));
        assert!(w.mirror.resolve(PORT, ip("192.0.2.34")));
        w.until_linux("192.0.2.34", |s| !s.is_empty()).await;
        assert_eq!(w.neighbour("192.0.2.33"), "");
    });
}

#[test]
fn an_interface_may_go_and_come_back_as_root() {
    world(async |mut w| {
        w.keep(&[SERVER]);
        w.until("the server", |n| mac(n, SERVER).is_some()).await;
        w.director.sh("ip link del wan0");
        w.until("nothing", |n| n.resolve(ip(SERVER)) == Err(Unreachable::NoRoute)).await;
        lay_wire(&w.director, &w.server);
        w.until("the server again", |n| mac(n, SERVER).is_some()).await;
        w.until_linux(SERVER, |s| s.contains("managed")).await;
    });
}

/// More announcements than the socket holds, while the mirror cannot read them: it must notice, and end up right.
#[test]
fn a_storm_of_announcements_ends_in_the_truth_as_root() {
    world(async |mut w| {
        // The test blocks the mirror's thread, so all of this waits in the socket.
        let lines = |word: &str, last: u32| {
            let format = format!(r"route {word} 10.%d.%d.0/24 via 192.0.2.%d\n");
            let print = format!(r#"{{ printf "{format}", $1 / 256, $1 % 256, 10 + $1 % 200 }}"#);
            format!("seq 0 {last} | awk '{print}' | ip -batch -")
        };
        w.director.sh(&lines("add", 19_999));
        w.director.sh(&lines("del", 19_998));
        w.director.sh(&format!("ip neigh add {SERVER} lladdr 02:00:00:00:00:42 dev wan0 nud permanent"));
        let dropped = w.director.sh("awk 'NR > 1 { sum += $9 } END { print sum }' /proc/net/netlink");
        assert!(dropped.trim().parse::<u32>().unwrap() > 0, "no storm: the socket held all of it");
        let last = ip("10.78.31.1");
        w.until("the one that is left", |n| {
            n.route(last) == hop(Some(&format!("192.0.2.{}", 10 + 19_999 % 200)))
        })
        .await;
        w.until("no other", |n| n.route(ip("10.0.0.1")).is_none() && n.route(ip("10.78.30.1")).is_none())
            .await;
        w.until("the neighbour", |n| mac(n, SERVER).as_deref() == Some("02:00:00:00:00:42")).await;
    });
}

#[test]
fn an_interface_is_brought_up_as_told_as_root() {
    world(async |w| {
        w.director.sh("ip tuntap add lan0 mode tap");
        let mut setup = Setup {
            name: "lan0".into(),
            mac: "02:00:00:00:00:02".parse().unwrap(),
            mtu: Some(1400),
            addresses: vec!["198.51.100.8/24".parse().unwrap(), "2001:db8:1::8/64".parse().unwrap()],
        };
        for _ in 0..2 {
            let index = bring_up(&setup).await.unwrap();
            let said = w.director.sh("ip address show lan0");
            for part in [
                &format!("{index}: lan0: "),
                "UP",
                "mtu 1400",
                "link/ether 02:00:00:00:00:02",
                "inet 198.51.100.8/24 brd 198.51.100.255",
                "inet6 2001:db8:1::8/64",
            ] {
                assert!(said.contains(part), "{part} is not in: {said}");
            }
        }
        setup.mtu = Some(65_535);
        let error = bring_up(&setup).await.unwrap_err().to_string();
        assert!(
            error.starts_with("interface lan0: cannot have an MTU of 65535: Invalid argument"),
            "{error}"
        );
        setup.name = "lan9".into();
        let error = bring_up(&setup).await.unwrap_err().to_string();
        assert!(error.starts_with("interface lan9: cannot be found: No such device"), "{error}");
    });
}
