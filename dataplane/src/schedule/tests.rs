//! Every choice as a Linux kernel made it: the recordings in tests/data/sched.

use super::*;
use crate::conn::{Method, State};

/// A service as control publishes it: destinations are added, edited and deleted one by one, and the scheduler is told
/// of each change.
struct Bench {
    scheduler: Arc<dyn Scheduler>,
    destinations: Vec<Destination>,
    loads: Destinations,
}

impl Bench {
    fn new(scheduler: &str, weights: &[u32]) -> Self {
        let scheduler = by_name(scheduler).unwrap();
        let loads = Destinations::new(16, 1).unwrap();
        let mut bench = Self { scheduler, destinations: Vec::new(), loads };
        for &weight in weights {
            let n = bench.destinations.len() as u32 + 1;
            bench.change(|destinations| {
                let address = 0xc000_0264 + n;
                destinations.push(Destination {
                    id: n,
                    sequence: n,
                    address,
                    port: 80,
                    weight,
                    method: Method::Nat,
                });
            });
        }
        bench
    }

    fn service(&self) -> Service {
        Service::new(self.destinations.clone(), self.scheduler.clone())
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Destination>)) {
        change(&mut self.destinations);
        self.scheduler.changed(&self.service());
    }

    /// The next connection's server as the recordings write it; the connection is in `state` from then on.
    fn connect(&self, state: State) -> String {
        let service = self.service();
        let flow = Flow::new(6, (0xcb00_710a, 20_000), (0xc633_6401, 80));
        match self.scheduler.schedule(&service, &self.loads, flow) {
            Some(destination) => {
                self.loads.opening(destination.id, state);
                format!("r{}", destination.id)
            }
            None => "ECONNREFUSED".into(),
        }
    }

    fn connect_many(&self, n: usize, state: State) -> Vec<String> {
        (0..n).map(|_| self.connect(state)).collect()
    }
}

/// The numbers in the first pair of brackets.
fn weights(title: &str) -> Vec<u32> {
    let inner = title.split(['(', ')']).nth(1).unwrap();
    inner.split(',').map(|w| w.trim().parse().unwrap()).collect()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

/// Replays a recording's sections; gives how many choices were compared.
fn replay(name: &str, recording: &str) -> usize {
    let mut compared = 0;
    for section in recording.split("\n## ").skip(1) {
        let mut lines = section.lines();
        let title = lines.next().unwrap();
        // Overload thresholds come with the schedulers that heed them.
        if title.contains("-x ") {
            continue;
        }
        let bench = &mut Bench::new(name, &weights(title));
        let state = if title.contains(" close ") { State::TimeWait } else { State::Established };
        let (expected, got): (Vec<_>, Vec<_>) = if title.contains("then r3 weight 0") {
            let expected: Vec<_> = lines.by_ref().take(4).flat_map(words).collect();
            let mut got = bench.connect_many(8, state);
            bench.change(|d| d[2].weight = 0);
            got.extend(bench.connect_many(8, state));
            bench.change(|d| d[2].weight = 3);
            got.extend(bench.connect_many(8, state));
            bench.change(|d| {
                d.remove(0);
            });
            got.extend(bench.connect_many(8, state));
            (expected, got)
        } else if title.contains("source address:port") {
            let server = |line: &str| line.split_whitespace().nth(1).map(String::from);
            let expected: Vec<_> = lines.filter(|l| l.starts_with("203.0.113.")).filter_map(server).collect();
            let got = bench.connect_many(expected.len(), state);
            (expected, got)
        } else {
            let expected = words(lines.next().unwrap());
            let got = bench.connect_many(expected.len(), state);
            (expected, got)
        };
        assert!(!expected.is_empty(), "{name}: {title}");
        assert_eq!(got, expected, "{name}: {title}");
        compared += expected.len();
    }
    compared
}

#[test]
fn choices_are_those_of_a_linux_kernel() {
    for (name, recording) in [
        ("rr", include_str!("../../tests/data/sched/rr.txt")),
        ("wrr", include_str!("../../tests/data/sched/wrr.txt")),
        ("lc", include_str!("../../tests/data/sched/lc.txt")),
        ("wlc", include_str!("../../tests/data/sched/wlc.txt")),
    ] {
        assert!(replay(name, recording) > 300, "{name}");
    }
}

#[test]
fn turns_go_on_where_they_were_when_the_last_one_is_deleted() {
    let mut bench = Bench::new("rr", &[1, 1, 1, 1]);
    assert_eq!(bench.connect_many(2, State::Established), ["r4", "r3"]);
    bench.change(|d| {
        d.remove(2);
    });
    assert_eq!(bench.connect_many(4, State::Established), ["r2", "r1", "r4", "r2"]);
}

#[test]
fn a_service_without_candidates_chooses_nobody() {
    for (name, _) in SCHEDULERS {
        for weights in [&[][..], &[0], &[0, 0, 0]] {
            assert_eq!(
                Bench::new(name, weights).connect(State::Established),
                "ECONNREFUSED",
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
