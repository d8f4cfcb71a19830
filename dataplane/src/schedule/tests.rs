//! Every choice as a Linux kernel made it: the recordings in tests/data/sched.

mod properties;

use std::net::Ipv4Addr;

use super::*;
use crate::conn::{Method, State};
use crate::parse::Flow;

const CLIENT: u32 = 0xcb00_710a;
const VIP: u32 = 0xc633_6401;
const NOBODY: &str = "-";

/// A service as control publishes it: destinations are added, edited and deleted one by one, and the scheduler is told
/// of each change.
struct Bench {
    scheduler: Arc<dyn Scheduler>,
    flags: Flags,
    destinations: Vec<Destination>,
    loads: Destinations,
}

impl Bench {
    fn new(scheduler: &str, weights: &[u32]) -> Self {
        Self::with(scheduler, Flags::default(), weights, 80)
    }

    fn with(scheduler: &str, flags: Flags, weights: &[u32], port: u16) -> Self {
        let scheduler = by_name(scheduler).unwrap_or_else(|| panic!("no scheduler {scheduler}"));
        let loads = Destinations::new(64, 1).unwrap();
        let mut bench = Self { scheduler, flags, destinations: Vec::new(), loads };
        for (n, &weight) in (1..).zip(weights) {
            bench.add(n, n, port, weight);
        }
        bench
    }

    fn add(&mut self, id: u32, sequence: u32, port: u16, weight: u32) {
        let address = Ipv4Addr::from(0xc000_0264 + id).into();
        let last_weight = weight;
        let method = Method::Nat;
        self.change(|d| d.push(Destination { id, sequence, address, port, weight, last_weight, method }));
    }

    fn set_weight(&mut self, id: u32, weight: u32) {
        self.change(|destinations| {
            let d = destinations.iter_mut().find(|d| d.id == id).unwrap();
            d.weight = weight;
            d.last_weight = if weight == 0 { d.last_weight } else { weight };
        });
    }

    fn delete(&mut self, id: u32) {
        self.change(|destinations| destinations.retain(|d| d.id != id));
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Destination>)) {
        change(&mut self.destinations);
        self.destinations.sort_by_key(|d| std::cmp::Reverse(d.sequence));
        self.scheduler.changed(self.destinations.iter().map(Summary::from).sum());
    }

    fn service(&self) -> Service {
        Service::new(self.destinations.clone(), self.scheduler.clone()).with_flags(self.flags)
    }

    /// The server that the next connection gets, as the recordings write it; it is in `state` from then on.
    fn connect_as(&self, service: &Service, flow: impl Into<AnyFlow>, now: Tick, state: State) -> String {
        let flow = flow.into();
        let arrival = Arrival { flow, now, datagram: &[], settings: Settings::default() };
        match self.scheduler.schedule(service, &self.loads, arrival) {
            Some(destination) => {
                self.loads.opening(destination.id, state);
                format!("r{}", destination.id)
            }
            None => NOBODY.into(),
        }
    }

    fn connect_many(&self, n: usize, state: State) -> Vec<String> {
        let (service, flow) = (self.service(), Flow::new(6, (CLIENT, 20_000), (VIP, 80)));
        (0..n).map(|_| self.connect_as(&service, flow, Tick(0), state)).collect()
    }
}

/// The numbers in the first pair of brackets.
fn weights(title: &str) -> Vec<u32> {
    let inner = title.split(['(', ')']).nth(1).unwrap();
    inner.split(',').map(|w| w.trim().parse().unwrap()).collect()
}

/// `r1: -x 2 -y 1, r2: -x 3, r3: none` as (server, upper, lower).
fn thresholds(title: &str) -> Vec<(u32, u32, u32)> {
    let number = |text: &str, option: &str| {
        text.split_once(option).map_or(0, |(_, n)| n.split_whitespace().next().unwrap().parse().unwrap())
    };
    let servers = title.split(';').next().unwrap().split(", r").skip(1);
    servers.map(|s| (s[..1].parse().unwrap(), number(s, "-x "), number(s, "-y "))).collect()
}

/// A line of servers. Whether a client that gets none was told so or gave up depends on how often the kernel sends ICMP.
fn words(line: &str) -> Vec<String> {
    let word = |word| if matches!(word, "TIMEOUT" | "ECONNREFUSED") { NOBODY } else { word };
    line.split_whitespace().map(|w| word(w).into()).collect()
}

/// `203.0.113.10:1394`
fn socket(text: &str) -> (u32, u16) {
    let socket: std::net::SocketAddrV4 = text.parse().unwrap();
    ((*socket.ip()).into(), socket.port())
}

/// One section: what was recorded and what we do.
fn section(name: &str, title: &str, lines: &[&str]) -> (Vec<String>, Vec<String>) {
    let state = if title.contains(" close ") { State::TimeWait } else { State::Established };
    let mut bench = Bench::new(name, &weights(title));
    if title.contains("then r3 weight 0") {
        let mut got = bench.connect_many(8, state);
        bench.set_weight(3, 0);
        got.extend(bench.connect_many(8, state));
        bench.set_weight(3, 3);
        got.extend(bench.connect_many(8, state));
        bench.delete(1);
        got.extend(bench.connect_many(8, state));
        return (lines[..4].iter().flat_map(|line| words(line)).collect(), got);
    }
    if title.contains("source address:port") {
        let flows =
            lines.iter().filter_map(|line| line.split_once(' ')).filter(|(at, _)| at.contains("113."));
        let service = bench.service();
        let connect = |(from, server): (&str, &str)| {
            let flow = Flow::new(6, socket(from), (VIP, 80));
            (words(server).remove(0), bench.connect_as(&service, flow, Tick(0), state))
        };
        return flows.map(connect).unzip();
    }
    for (server, upper, lower) in thresholds(title) {
        bench.loads.set_thresholds(server, upper, lower);
    }
    let mut expected = words(lines[0]);
    let mut got = bench.connect_many(expected.len(), state);
    let reset = lines.iter().find_map(|line| line.strip_prefix("# then first connection reset, 3 more:"));
    if let Some(more) = reset {
        let first = got[0][1..].parse().unwrap();
        bench.loads.moved(first, state, State::Close);
        expected.extend(words(more));
        got.extend(bench.connect_many(3, state));
    }
    (expected, got)
}

/// The sections of a recording: title and lines.
fn sections(recording: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    recording.split("\n## ").skip(1).map(|section| {
        let mut lines = section.lines();
        (lines.next().unwrap(), lines.collect())
    })
}

#[test]
fn choices_are_those_of_a_linux_kernel() {
    for (name, recording) in [
        ("rr", include_str!("../../tests/data/sched/rr.txt")),
        ("wrr", include_str!("../../tests/data/sched/wrr.txt")),
        ("lc", include_str!("../../tests/data/sched/lc.txt")),
        ("wlc", include_str!("../../tests/data/sched/wlc.txt")),
        ("sed", include_str!("../../tests/data/sched/sed.txt")),
        ("nq", include_str!("../../tests/data/sched/nq.txt")),
        ("fo", include_str!("../../tests/data/sched/fo.txt")),
        ("ovf", include_str!("../../tests/data/sched/ovf.txt")),
        ("lblc", include_str!("../../tests/data/sched/lblc.txt")),
        ("lblcr", include_str!("../../tests/data/sched/lblcr.txt")),
        ("dh", include_str!("../../tests/data/sched/dh.txt")),
        ("sh", include_str!("../../tests/data/sched/sh.txt")),
        ("mh", include_str!("../../tests/data/sched/mh.txt")),
    ] {
        let mut compared = 0;
        for (title, lines) in sections(recording) {
            let (expected, got) = section(name, title, &lines);
            assert_eq!(got, expected, "{name}: {title}");
            compared += expected.len();
        }
        assert!(compared > 350, "{name}: {compared}");
    }
}

/// The choices of one section of hash-sources.txt, where the servers have `port`.
fn by_source(title: &str, line: &str, port: u16) -> (Vec<String>, Vec<String>) {
    let name = title.split_whitespace().next().unwrap();
    let mut flags = Flags::default();
    for (word, flag) in [("-fallback", Flags::FIRST), ("-port", Flags::SECOND)] {
        flags.0 |= if title.contains(word) { flag.0 } else { 0 };
    }
    let bench = Bench::with(name, flags, &weights(title), port);
    let service = bench.service();
    let flows = line.split_whitespace().map(|word| {
        let (from, server) = word.split_once('=').unwrap();
        let flow = Flow::new(17, socket(from), (VIP, 53));
        (server.to_owned(), bench.connect_as(&service, flow, Tick(0), State::Udp))
    });
    flows.unzip()
}

/// The ports that the servers of mh's sections have. Every section has a fresh virtual port, which direct routing gives
/// to the servers, too; the recording does not say it, but no other fits.
const MH_PORTS: [u16; 9] = [1335, 1336, 1337, 1339, 1340, 1341, 1343, 1344, 1345];

#[test]
fn sources_go_where_a_linux_kernel_sends_them() {
    let mut ports = MH_PORTS.into_iter();
    for (title, lines) in sections(include_str!("../../tests/data/sched/hash-sources.txt")) {
        let port = if title.starts_with("mh") { ports.next().unwrap() } else { 80 };
        let (expected, got) = by_source(title, lines[0], port);
        assert_eq!(got, expected, "{title}");
    }
}

#[test]
fn destination_addresses_go_where_a_linux_kernel_sends_them() {
    let mut compared = 0;
    for (title, lines) in sections(include_str!("../../tests/data/sched/by-destination.txt")) {
        let name = title.split_whitespace().next().unwrap();
        let bench = Bench::new(name, &weights(title));
        let service = bench.service();
        let connect = |word: &str| {
            let (last_byte, server) = word.split_once('=').unwrap();
            let to = VIP & !0xff | last_byte.parse::<u32>().unwrap();
            let flow = Flow::new(17, (CLIENT, 20_000), (to, 53));
            (server.to_owned(), bench.connect_as(&service, flow, Tick(0), State::Udp))
        };
        let (expected, got): (Vec<_>, Vec<_>) = lines[0].split_whitespace().map(connect).unzip();
        assert_eq!(got, expected, "{title}");
        compared += expected.len();
    }
    assert!(compared > 1200, "{compared}");
}

#[test]
fn tables_have_the_sizes_asked_for() {
    let (bench, default) = (Bench::new("rr", &[1, 2, 3]), TableSizes::default());
    for (dh, sh, mh) in [(16, 1 << 20, 251), (1 << 20, 16, 131_071), (256, 256, 4093)] {
        let sizes = default.with_dh(dh).and_then(|s| s.with_sh(sh)).and_then(|s| s.with_mh(mh)).unwrap();
        for (name, slots) in [("dh", dh), ("sh", sh), ("mh", mh)] {
            let laid_out = sized(name, &sizes).unwrap().slots(&bench.destinations);
            assert_eq!(laid_out.count(), slots, "{name}");
            assert!((0..3).all(|place| laid_out.position(place).is_some()), "{name}");
        }
        assert_eq!(sizes == default, mh == 4093);
    }
    for slots in [0, 8, 255, 1 << 21] {
        assert_eq!((default.with_dh(slots), default.with_sh(slots)), (None, None));
    }
    assert_eq!(default.with_mh(256), None);
}

#[test]
fn turns_go_on_where_they_were_when_the_last_one_is_deleted() {
    let mut bench = Bench::new("rr", &[1, 1, 1, 1]);
    assert_eq!(bench.connect_many(2, State::Established), ["r4", "r3"]);
    bench.delete(3);
    assert_eq!(bench.connect_many(4, State::Established), ["r2", "r1", "r4", "r2"]);
}

#[test]
fn a_new_server_has_the_turn_of_the_first_one_deleted() {
    let mut bench = Bench::new("rr", &[1, 1, 1]);
    assert_eq!(bench.connect_many(1, State::Established), ["r3"]);
    bench.delete(3);
    bench.add(3, 4, 80, 1);
    assert_eq!(bench.connect_many(4, State::Established), ["r3", "r2", "r1", "r3"]);
    bench.delete(2);
    bench.add(2, 5, 80, 1);
    assert_eq!(bench.connect_many(4, State::Established), ["r1", "r2", "r3", "r1"]);
}

#[test]
fn an_address_finds_its_server_again_when_that_is_back() {
    for name in ["lblc", "lblcr"] {
        let mut bench = Bench::new(name, &[1, 1, 5]);
        assert_eq!(bench.connect_many(1, State::Established), ["r3"], "{name}");
        bench.delete(3);
        // By another number and as the newest, and yet the same server.
        let others = Flow::new(6, (CLIENT, 20_000), (VIP + 1, 80));
        assert_eq!(bench.connect_as(&bench.service(), others, Tick(0), State::Established), "r2", "{name}");
        bench.change(|d| {
            let (address, method) = (Ipv4Addr::from(0xc000_0267).into(), Method::Nat);
            d.push(Destination { id: 9, sequence: 9, address, port: 80, weight: 1, last_weight: 1, method });
        });
        for server in [1, 2] {
            bench.set_weight(server, 60_000);
        }
        assert_eq!(bench.connect_many(1, State::Established), ["r9"], "{name}");
    }
}

#[test]
fn a_set_of_servers_loses_its_busiest_in_time() {
    let bench = Bench::new("lblcr", &[1, 1, 1]);
    let (service, flow) = (bench.service(), Flow::new(6, (CLIENT, 20_000), (VIP, 80)));
    let connect = |seconds| bench.connect_as(&service, flow, Tick::from_seconds(seconds), State::Established);
    let day = 24 * 60 * 60;
    let crowded: Vec<_> = (0..6).map(|_| connect(0)).collect();
    assert_eq!(crowded, ["r3", "r3", "r2", "r2", "r1", "r1"]);
    for id in 1..=3 {
        bench.loads.ended(id, State::Established);
        bench.loads.ended(id, State::Established);
    }
    // The set is r1, r2, r3, and r1 is to be its busiest.
    for _ in 0..200 {
        bench.loads.opening(1, State::TimeWait);
    }
    bench.loads.opening(2, State::TimeWait);
    assert_eq!(connect(day), "r3");
    bench.loads.ended(3, State::Established);
    assert_eq!(connect(day + 1), "r3", "older than a day by now, and r1 leaves");
    for _ in 0..2 {
        bench.loads.opening(2, State::Established);
    }
    // r3 and r2 are left, and who is not in the set gets nothing as long as they are not crowded.
    for _ in 0..200 {
        bench.loads.ended(1, State::TimeWait);
    }
    assert_eq!(connect(day + 2), "r3");
}

#[test]
fn two_random_picks_are_fair_and_the_less_loaded_wins() {
    let share = |bench: &Bench, server: &str| {
        let (service, flow) = (bench.service(), Flow::new(6, (CLIENT, 20_000), (VIP, 80)));
        let flow = flow.into();
        let arrival = Arrival { flow, now: Tick(0), datagram: &[], settings: Settings::default() };
        let chosen =
            (0..70_000).map(|_| bench.scheduler.schedule(&service, &bench.loads, arrival).unwrap().id);
        chosen.filter(|id| format!("r{id}") == server).count() as f64 / 70_000.0
    };
    // Without load the first pick wins. Of the kernel's 7 chances, the first server in the list has one too many.
    let bench = Bench::new("twos", &[1, 2, 3]);
    for (server, expected) in [("r3", 4.0 / 7.0), ("r2", 2.0 / 7.0), ("r1", 1.0 / 7.0)] {
        let share = share(&bench, server);
        assert!((share - expected).abs() < 0.01, "{server}: {share}");
    }
    // A busy server is chosen where both picks are its own.
    let bench = Bench::new("twos", &[1, 1]);
    bench.loads.opening(1, State::Established);
    let busy = share(&bench, "r1");
    assert!((busy - 1.0 / 9.0).abs() < 0.01, "{busy}");
}

#[test]
fn random_picks_of_a_linux_kernel_are_among_ours() {
    for (title, lines) in sections(include_str!("../../tests/data/sched/twos.txt")) {
        let (expected, got) = section("twos", title, &lines);
        let count = |all: &[String], server: &str| all.iter().filter(|s| *s == server).count();
        assert_eq!(count(&got, NOBODY), count(&expected, NOBODY), "{title}");
        for server in ["r1", "r2", "r3"] {
            let (ours, theirs) = (count(&got, server), count(&expected, server));
            // Five standard deviations of the difference of two counts of so many.
            let most = 5.0 * (expected.len() as f64 / 2.0).sqrt();
            assert!((ours as f64 - theirs as f64).abs() < most, "{title}: {server} {ours}, kernel {theirs}");
            assert!(ours == 0 || theirs > 0 || expected.len() < 9, "{title}: {server} {ours}, kernel 0");
        }
    }
}

#[test]
fn a_service_without_candidates_chooses_nobody() {
    for name in NAMES {
        for weights in [&[][..], &[0], &[0, 0, 0]] {
            assert_eq!(
                Bench::new(name, weights).connect_many(1, State::Established),
                [NOBODY],
                "{name} {weights:?}"
            );
        }
    }
}

#[test]
fn shared_turns_are_exact() {
    for name in ["rr", "wrr"] {
        let bench = Bench::new(name, &[3, 1, 2]);
        let chosen: Vec<String> = std::thread::scope(|scope| {
            let workers = (0..4).map(|_| scope.spawn(|| bench.connect_many(600, State::Established)));
            workers.collect::<Vec<_>>().into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        let count = |server: &str| chosen.iter().filter(|c| *c == server).count();
        let expected = if name == "rr" { [800, 800, 800] } else { [1200, 400, 800] };
        assert_eq!(["r1", "r2", "r3"].map(count), expected, "{name}");
    }
}
