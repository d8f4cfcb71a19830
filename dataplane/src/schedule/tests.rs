//! Every choice as a Linux kernel made it: the recordings in tests/data/sched.

use super::*;
use crate::conn::{Method, State};

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
        let address = 0xc000_0264 + id;
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
        self.scheduler.changed(&self.destinations);
    }

    fn service(&self) -> Service {
        Service::new(self.destinations.clone(), self.scheduler.clone()).with_flags(self.flags)
    }

    /// The server that the next connection gets, as the recordings write it; it is in `state` from then on.
    fn connect_as(&self, service: &Service, flow: Flow, now: Tick, state: State) -> String {
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
fn turns_go_on_where_they_were_when_the_last_one_is_deleted() {
    let mut bench = Bench::new("rr", &[1, 1, 1, 1]);
    assert_eq!(bench.connect_many(2, State::Established), ["r4", "r3"]);
    bench.delete(3);
    assert_eq!(bench.connect_many(4, State::Established), ["r2", "r1", "r4", "r2"]);
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
