//! The generator against wires whose behaviour is known: a ring that gives back what is put in, and testpmd.
//!
//! Needs root and DPDK's drivers, but no huge pages and no NIC.

#![allow(clippy::expect_used, reason = "the helpers of tests may panic as the tests themselves")]

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A generator that takes jobs. It ends when it is dropped.
struct Pktgen {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Pktgen {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pktgen"))
            .args(["batch", "--memory", "96"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, answers }
    }

    fn job(&mut self, options: &str) -> Value {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{options}").expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Ends it as one does.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Pktgen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn count(answer: &Value, key: &str) -> u64 {
    answer[key].as_u64().unwrap_or_else(|| panic!("no {key} in {answer}"))
}

/// Every frame came back, once, whole, in its order, and nothing else did.
fn assert_nothing_lost(answer: &Value) {
    let sent = count(answer, "sent");
    assert!(sent > 0, "{answer}");
    assert_eq!(count(answer, "received"), sent, "{answer}");
    for none in ["lost", "refused", "reordered", "duplicated", "damaged", "stale", "foreign"] {
        assert_eq!(count(answer, none), 0, "{none} in {answer}");
    }
}

#[test]
fn a_ring_gives_back_every_frame() {
    let mut pktgen = Pktgen::start();
    for options in [
        "--flows 1 --seconds 0.1",
        "--flows 10k --seconds 0.1 --protocol tcp --size 1514",
        "--flows 10k --seconds 0.1 --in-turn --from servers --answer --protocol tcp",
        "--flows 7 --seconds 0.1 --size 61 --warm-up 0.05",
    ] {
        let answer = pktgen.job(&format!("--device net_ring0 --checksums {options}"));
        assert_nothing_lost(&answer);
        assert_eq!(answer["opening"]["forwarded"], answer["opening"]["flows"], "{answer}");
        assert!(answer["latency"]["p50_us"].as_f64() > Some(0.0), "{answer}");
    }
    pktgen.end();
}

#[test]
fn a_rate_and_new_flows_are_kept_to() {
    let mut pktgen = Pktgen::start();
    let answer = pktgen.job("--device net_ring0 --no-open --flows 10 --rate 20k --new 5k --seconds 0.5");
    assert_nothing_lost(&answer);
    // What was due while the machine let others run is skipped, and said.
    let due = count(&answer, "sent") + count(&answer, "skipped");
    assert!((9_900..=10_100).contains(&due), "{due} in {answer}");
    let opened = count(&answer, "opened");
    assert!(opened > 0 && opened <= 2_525, "{answer}");
    pktgen.end();
}

#[test]
fn a_search_passes_where_nothing_is_lost() {
    let mut pktgen = Pktgen::start();
    let answer = pktgen.job("--device net_ring0 --search --rate 10k --seconds 0.1 --attempts 5");
    let trials = answer["search"]["trials"].as_array().expect("trials");
    // Where others have the core, the generator may not keep to a rate; that is said, and is no loss.
    let (kept, late): (Vec<_>, Vec<_>) = trials.iter().partition(|trial| trial["kept_pace"] == true);
    assert!(kept.iter().all(|trial| trial["passed"] == true && trial["loss"] == 0.0), "{answer}");
    assert!(late.iter().all(|trial| trial["passed"] == false), "{answer}");
    let highest = kept.iter().filter_map(|trial| trial["rate"].as_f64()).max_by(f64::total_cmp);
    assert_eq!(answer["search"]["rate"].as_f64(), highest, "{answer}");
    pktgen.end();
}

#[test]
fn a_wire_is_filled_and_emptied_in_the_next_job() {
    let mut pktgen = Pktgen::start();
    let answer = pktgen.job("--device net_ring0 --no-open --fill");
    let filled = count(&answer, "sent");
    assert!(filled > 500 && count(&answer, "received") == 0, "{answer}");
    let answer = pktgen.job("--device net_ring0 --no-open --seconds 0");
    assert_eq!((count(&answer, "stale"), count(&answer, "sent")), (filled, 0), "{answer}");
    pktgen.end();
}

#[test]
fn what_a_wire_swallows_is_lost() {
    let mut pktgen = Pktgen::start();
    let answer = pktgen.job("--device net_null0,no-rx=1 --rate 10k --seconds 0.1 --no-open");
    assert!(count(&answer, "sent") > 0);
    assert_eq!((count(&answer, "lost"), count(&answer, "received")), (count(&answer, "sent"), 0), "{answer}");
    assert_eq!(answer["loss"], 1.0);
    pktgen.end();
}

#[test]
fn frames_that_are_not_as_they_were_sent_are_not_received() {
    let mut pktgen = Pktgen::start();
    // It gives whatever is in free buffers: nothing, or what was sent once, with another length.
    let answer = pktgen.job("--device net_null0 --rate 10k --seconds 0.05 --no-open");
    assert!(count(&answer, "foreign") + count(&answer, "damaged") > 0, "{answer}");
    assert_eq!((count(&answer, "received"), count(&answer, "lost")), (0, count(&answer, "sent")), "{answer}");
    pktgen.end();
}

#[test]
fn an_error_names_the_device_and_leaves_the_others_open() {
    let mut pktgen = Pktgen::start();
    pktgen.job("--device net_ring0 --seconds 0.01");
    let answer = pktgen.job("--device no_such_driver0");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("no_such_driver0")), "{answer}");
    let answer = pktgen.job("--device net_ring0 --flow 1");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("--flow")), "{answer}");
    assert_nothing_lost(&pktgen.job("--device net_ring0 --seconds 0.01"));
    assert_eq!(pktgen.job("--device net_ring0 --close"), serde_json::json!({}));
    pktgen.end();
}

/// One measurement by a generator that ends after it.
fn once(options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    command.args(["--memory", "96"]).args(options.split(' '));
    command
}

#[test]
fn what_is_no_measurement_of_what_was_asked_for_is_an_error_in_one_line() {
    // No generator makes so many frames, so that none of these rates is ever kept to.
    for (options, words) in [
        ("--device net_ring0 --no-open --rate 900M --seconds 0.05", "could not keep to the rate"),
        (
            "--device net_ring0 --no-open --search --rate 900M --precision 50 --seconds 0.01",
            "no rate with a loss of at most 0 % found between 450.0000 and 900.0000 M/s",
        ),
        ("--device net_null0,no-rx=1 --no-open --search --seconds 0.01", "nothing comes back"),
        (
            "--device net_ring0 --no-open --new 900M --seconds 0.05",
            "new flows could not be opened at the rate",
        ),
        (
            "--device net_ring0 --no-open --rate 1k --new 10k --seconds 0.1",
            "new flows could not be opened at the rate",
        ),
    ] {
        let finished = once(options).output().expect("it starts");
        let errors = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(1), "{options}: {errors}");
        let of_ours: Vec<_> = errors.lines().filter(|line| line.starts_with("pktgen: ")).collect();
        assert!(matches!(of_ours[..], [line] if line.contains(words)), "{options}: {errors}");
    }
}

/// Held and let go on over and over, as where others have its core.
#[test]
fn a_search_that_finds_what_its_own_pauses_allow_is_an_error() {
    let mut command = once("--device net_ring0 --no-open --search --rate 10k --precision 5 --seconds 0.1");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let id = Pid::from_raw(child.id().try_into().expect("a process id"));
    while child.try_wait().expect("it is ours").is_none() {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            kill(id, signal).expect("it is ours");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let finished = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(1), "{errors}");
    assert!(errors.contains("it was too slow or did not run"), "{errors}");
    let output = String::from_utf8_lossy(&finished.stdout);
    assert!(output.contains("the generator could not keep to the rate"), "{output}");
    assert!(output.lines().any(|line| line.starts_with("paused")), "{output}");
}

#[test]
fn a_search_ends_by_its_deadline_and_says_so() {
    let mut pktgen = Pktgen::start();
    let answer = pktgen.job(
        "--device net_ring0 --no-open --search --rate 900M --seconds 0.05 --attempts 100 --deadline 0.1",
    );
    assert_eq!(answer["search"]["complete"], false, "{answer}");
    let trials = answer["search"]["trials"].as_array().expect("trials").len();
    assert!((1..=10).contains(&trials), "{answer}");
    assert_eq!(answer["search"]["highest"].as_f64(), Some(900e6), "{answer}");
    pktgen.end();
}

#[test]
fn it_ends_well_when_nobody_reads() {
    let mut child = once("--device net_ring0 --no-open --rate 1k --seconds 0.05")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let finished = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&finished.stderr);
    assert!(!errors.contains("panicked") && !errors.contains("pipe"), "{errors}");
    // Where others have the core it may be too late for its frames; that is said, and no fault of the pipe.
    assert!(finished.status.success() || errors.contains("could not keep to the rate"), "{errors}");
}

/// A testpmd at the other end of a memif. It ends when it is dropped.
struct Testpmd {
    child: Child,
    /// Kept open: without a reader it ends at its next word.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Testpmd {
    fn start(socket: &str, queues: u16) -> Self {
        let vdev = format!("net_memif0,role=server,id=0,socket={socket},mac=02:00:00:00:00:01");
        let child = Command::new("dpdk-testpmd")
            .args([
                "--lcores",
                "0@0,1@0",
                "--no-pci",
                "--no-huge",
                "--no-shconf",
                "-m",
                "96",
                "--no-telemetry",
            ])
            .args([
                "--vdev",
                &vdev,
                "--",
                "--forward-mode=mac",
                "--total-num-mbufs=8191",
                "--no-lsc-interrupt",
            ])
            .args(["-i", "--auto-start", &format!("--rxq={queues}"), &format!("--txq={queues}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.expect("dpdk-testpmd (Debian: apt-get install dpdk-dev)");
        let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
        // The client connects once, so the server must be there.
        let is_ready = |line: io::Result<String>| line.expect("text").starts_with("Checking link");
        assert!(output.any(is_ready), "testpmd has ended");
        Self { child, _output: output }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn testpmd_forwards_over_memif_with_and_without_copies() {
    for (number, (options, queues)) in
        [("", 1), (",zero-copy=yes", 1), (",zero-copy=yes", 2)].into_iter().enumerate()
    {
        let socket = format!("pktgen-test-{}-{number}", std::process::id());
        let testpmd = Testpmd::start(&socket, queues);
        let mut pktgen = Pktgen::start();
        let device =
            format!("--device net_memif0,role=client,id=0,socket={socket}{options} --queues {queues}");
        // What comes before testpmd has seen its link go up may be lost.
        pktgen.job(&format!("{device} --flows 1 --seconds 0.1 --rate 100"));
        // Slow enough for nothing to be lost, but where others keep testpmd from its core for longer than stragglers are
        // waited for: so there are several tries, and damage is damage in each.
        let job = format!("{device} --flows 100 --seconds 0.3 --rate 1k --open-rate 1k --checksums");
        let mut answer = pktgen.job(&job);
        for _ in 0..4 {
            assert_eq!(count(&answer, "damaged"), 0, "{answer}");
            let [sent, received, stale] = ["sent", "received", "stale"].map(|key| count(&answer, key));
            if answer["opening"]["forwarded"] == 100 && received == sent && stale == 0 {
                break;
            }
            answer = pktgen.job(&job);
        }
        assert_eq!(answer["opening"]["forwarded"], 100, "{answer}");
        if queues > 1 {
            // Of different queues, and so of different flows.
            answer["reordered"] = 0.into();
        }
        assert_nothing_lost(&answer);
        // The peer goes first: DPDK's driver does not bear it the other way round.
        drop(testpmd);
        pktgen.end();
    }
}
