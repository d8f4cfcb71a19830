//! What holds for every scheduler, whatever happens to a service and in whatever order.

use proptest::prelude::*;

use super::*;

const SERVERS: u32 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// A connection from and to these addresses.
    Connect { client: u8, port: u16, service: u8, state: State },
    /// The oldest connection ends.
    End,
    /// A server is added, edited or, where there is no weight, deleted.
    Server { id: u32, weight: Option<u32> },
    /// A server's thresholds are set.
    Limit { id: u32, upper: u32, lower: u32 },
    /// Time passes, and control does what is due.
    Wait { seconds: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![Just(State::Established), Just(State::TimeWait), Just(State::Udp)];
    let weight = prop_oneof![Just(0), 1..5u32, Just(1000), Just(i32::MAX as u32)];
    let server = 1..=SERVERS;
    prop_oneof![
        8 => (any::<u8>(), any::<u16>(), 0..4u8, state)
            .prop_map(|(client, port, service, state)| Step::Connect { client, port, service, state }),
        3 => Just(Step::End),
        3 => (server.clone(), proptest::option::weighted(0.8, weight))
            .prop_map(|(id, weight)| Step::Server { id, weight }),
        1 => (server, 0..4u32, 0..4u32)
            .prop_map(|(id, upper, lower)| Step::Limit { id, upper, lower: lower.min(upper) }),
        1 => (0..50_000u32).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// Schedulers that find a candidate wherever there is one. Hashing ones may have no slot of its own, even when they fall
/// back, and to ovf one with more connections than weight is none.
fn finds_any(name: &str) -> bool {
    !matches!(name, "dh" | "sh" | "mh" | "ovf")
}

struct Run {
    name: &'static str,
    bench: Bench,
    service: Service,
    connections: std::collections::VecDeque<(u32, State)>,
    now: Tick,
    sequence: u32,
}

impl Run {
    fn new(name: &'static str, flags: Flags) -> Self {
        let bench = Bench::with(name, flags, &[1, 2, 3], 80);
        let service = bench.service();
        Self { name, bench, service, connections: Default::default(), now: Tick(0), sequence: 4 }
    }

    fn connect(&mut self, flow: Flow, state: State) -> Result<(), TestCaseError> {
        let (name, bench) = (self.name, &self.bench);
        let candidates = |d: &&Destination| d.weight > 0 && !bench.loads.load(d.id).is_overloaded();
        let free: Vec<u32> = bench.destinations.iter().filter(candidates).map(|d| d.id).collect();
        let chosen = bench.connect_as(&self.service, flow, self.now, state);
        if chosen == NOBODY {
            let why = format!("{name} chose nobody of {free:?}");
            prop_assert!(free.is_empty() || !finds_any(name), "{}", why);
            return Ok(());
        }
        let id: u32 = chosen[1..].parse().unwrap();
        // lblc keeps an address where it is, however full, and so does the kernel.
        let weighs = |d: &Destination| d.id == id && d.weight > 0;
        let may = if name == "lblc" { bench.destinations.iter().any(weighs) } else { free.contains(&id) };
        prop_assert!(may, "{} chose r{} of {:?}", name, id, free);
        self.connections.push_back((id, state));
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Connect { client, port, service, state } => {
                let flow = Flow::new(6, (CLIENT + u32::from(client), port), (VIP + u32::from(service), 80));
                self.connect(flow, state)?;
            }
            Step::End => {
                if let Some((id, state)) = self.connections.pop_front() {
                    self.bench.loads.ended(id, state);
                }
            }
            Step::Server { id, weight } => {
                let Some(weight) = weight else {
                    self.bench.delete(id);
                    self.service = self.bench.service();
                    return Ok(());
                };
                if self.bench.destinations.iter().any(|d| d.id == id) {
                    self.bench.set_weight(id, weight);
                } else {
                    self.bench.add(id, self.sequence, 80, weight);
                    self.sequence += 1;
                }
                self.service = self.bench.service();
            }
            Step::Limit { id, upper, lower } => self.bench.loads.set_thresholds(id, upper, lower),
            Step::Wait { seconds } => {
                self.now = self.now.after(seconds * 64);
                self.bench.scheduler.sweep(self.now, &Settings::default());
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whoever_is_chosen_is_there_and_may_be(
        flags in 0..4u8,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        for name in NAMES {
            let mut run = Run::new(name, Flags(flags));
            for step in &steps {
                run.step(step)?;
            }
        }
    }

    /// Limits are kept to the connection where one worker schedules at a time.
    #[test]
    fn thresholds_are_never_exceeded(
        limits in proptest::collection::vec(1..6u32, 3),
        clients in proptest::collection::vec(any::<(u8, u16)>(), 1..60),
    ) {
        for name in NAMES.into_iter().filter(|name| *name != "lblc") {
            let bench = Bench::with(name, Flags(3), &[1, 2, 3], 80);
            for (id, limit) in (1..).zip(&limits) {
                bench.loads.set_thresholds(id, *limit, 0);
            }
            let service = bench.service();
            for (client, port) in &clients {
                let flow = Flow::new(17, (CLIENT + u32::from(*client), *port), (VIP, 80));
                bench.connect_as(&service, flow, Tick(0), State::Udp);
            }
            for (id, limit) in (1..).zip(&limits) {
                prop_assert!(bench.loads.load(id).inactive() <= *limit, "{}", name);
            }
        }
    }
}
