//! What a real kernel and ipvsadm 1.31 printed, compared byte for byte, where it was printed over traffic that was not recorded
//! or over daemons. Whole recordings are replayed by the crate `replay`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;

use common::{Direct, Printed, Step, recorded_endpoint, recording, run};
use control::model::{Protocol, Rates, Stats};
use control::protocol::{DestinationEntry, Reply};
use control::running::{ConnectionRow, EngineData};

const RULES: &str = include_str!("data/rules.txt");

/// Runs `steps` and returns how many printed what was recorded; panics at the first that did not.
fn replay(direct: &mut Direct, steps: &[Step], skip: &[&str]) -> usize {
    let mut same = 0;
    for step in steps {
        let command = step.words.join(" ");
        if skip.contains(&command.as_str()) {
            continue;
        }
        let printed = run(direct, &step.words, "").recorded();
        assert_eq!(printed, step.printed, "line {}: ipvsadm {command}", step.line);
        same += 1;
    }
    same
}

#[test]
fn daemon_commands_are_answered_as_recorded() {
    let steps = recording(include_str!("data/errors-daemon.txt"));
    assert_eq!(replay(&mut Direct::new(), &steps, &[]), 44);
}

#[test]
fn lists_with_numbers_have_the_recorded_form() {
    let mut direct = Direct::new();
    assert_eq!(run(&mut direct, &["-R".to_owned()], RULES), silent());
    // The recorded table had been saved and restored, and so lost its thresholds.
    let saved = run(&mut direct, &common::split("-S -n"), "").out;
    run(&mut direct, &["-C".to_owned()], "");
    assert_eq!(run(&mut direct, &["-R".to_owned()], &saved), silent());
    let mut same = 0;
    for step in recording(include_str!("data/lists-traffic.txt")) {
        // The order of the kernel's hash table, which differs from boot to boot.
        if step.words.join(" ") == "-Ln --nosort" {
            continue;
        }
        let expected = step.printed.clone();
        direct.overlay = Some(Box::new(move |reply| put_numbers(reply, &expected)));
        let printed = run(&mut direct, &step.words, "").recorded();
        assert_eq!(printed, step.printed, "line {}: ipvsadm {}", step.line, step.words.join(" "));
        same += 1;
    }
    assert_eq!(same, 45);
}

#[test]
fn an_unsorted_list_has_the_newest_destination_first() {
    let mut direct = Direct::new();
    run(&mut direct, &["-R".to_owned()], RULES);
    let list = run(&mut direct, &common::split("-Ln --nosort"), "").out;
    let steps = recording(include_str!("data/lists-traffic.txt"));
    let recorded = &steps.iter().find(|s| s.words.join(" ") == "-Ln --nosort").unwrap().printed;
    let of_service = |text: &str| {
        let lines = text.lines().skip_while(|l| !l.starts_with("TCP  198.51.100.1:80 ")).skip(1);
        let name = |l: &str| l.split_whitespace().nth(1).unwrap().to_owned();
        lines.take_while(|l| l.starts_with("  ->")).map(name).collect::<Vec<_>>()
    };
    assert_eq!(of_service(&list), of_service(recorded));
    assert_eq!(of_service(&list).len(), 3);
}

#[test]
fn statistics_and_rates_of_one_flow_are_as_recorded() {
    // The recording shows lists some time after nine packets; the estimator's own numbers are tested with it.
    for step in recording(include_str!("data/ops-stats.txt")) {
        let mut direct = Direct::new();
        if step.printed.contains(":602") {
            run(&mut direct, &common::split("-A -u 198.51.100.1:602 -s rr -o"), "");
            for server in 101..104 {
                let words = format!("-a -u 198.51.100.1:602 -r 192.0.2.{server}");
                run(&mut direct, &common::split(&words), "");
            }
        } else {
            run(&mut direct, &common::split("-A -u 198.51.100.1:600 -s rr"), "");
            for server in 101..104 {
                let words = format!("-a -u 198.51.100.1:600 -r 192.0.2.{server}");
                run(&mut direct, &common::split(&words), "");
            }
        }
        let expected = step.printed.clone();
        direct.overlay = Some(Box::new(move |reply| put_numbers(reply, &expected)));
        assert_eq!(run(&mut direct, &step.words, "").recorded(), step.printed, "line {}", step.line);
    }
}

fn silent() -> Printed {
    Printed { out: String::new(), err: String::new(), status: 0 }
}

/// Puts the numbers that `expected` shows into `reply`, so that what is compared is everything around them.
fn put_numbers(reply: &mut Reply, expected: &str) {
    match reply {
        Reply::Services(list) => {
            let mut services = 0;
            for line in expected.lines() {
                let server = line.trim_start().strip_prefix("-> ").filter(|r| !r.starts_with("Remote"));
                let Some(rest) = server.or_else(|| service_line(line)) else { continue };
                let words: Vec<_> = rest.split_whitespace().collect();
                let numbers: Vec<u64> = words.iter().filter_map(|w| w.parse().ok()).collect();
                if server.is_none() {
                    services += 1;
                    let name = |s: &control::model::VirtualService| match *s {
                        control::model::VirtualService::Mark { mark, .. } => mark.to_string(),
                        control::model::VirtualService::Address { address, port, .. } => {
                            SocketAddr::new(address, port).to_string()
                        }
                        control::model::VirtualService::Range(range) => range.to_string(),
                    };
                    let protocol = line.split_whitespace().next().unwrap();
                    let key = match protocol {
                        "FWM" => words[0].to_owned(),
                        _ => recorded_endpoint(words[0]).to_string(),
                    };
                    let entry = list.services.iter_mut().find(|s| {
                        name(&s.service.service) == key
                            && s.service.service.protocol().map_or("FWM".into(), |p: Protocol| p.to_string())
                                == protocol
                    });
                    if let (Some(entry), [.., a, b, c, d, e]) = (entry, numbers.as_slice()) {
                        entry.stats = stats([*a, *b, *c, *d, *e]);
                        entry.rates = rates([*a, *b, *c, *d, *e]);
                    }
                    continue;
                }
                let place = recorded_endpoint(words[0]);
                // Rows follow the sorted services, which the reply is not: find the row's by its service.
                let service = nth_service(expected, services);
                let entry = list
                    .services
                    .iter_mut()
                    .filter(|s| matches_line(&s.service.service, &service))
                    .flat_map(|s| &mut s.destinations)
                    .find(|d| SocketAddr::new(d.destination.address, d.destination.port) == place);
                if let Some(entry) = entry {
                    put_row(entry, &numbers, expected);
                }
            }
        }
        Reply::Connections { rows, .. } => {
            *rows = expected.lines().filter_map(connection).collect();
        }
        _ => {}
    }
}

fn service_line(line: &str) -> Option<&str> {
    ["TCP ", "UDP ", "SCTP ", "FWM "].iter().find_map(|p| line.strip_prefix(p)).map(str::trim_start)
}

fn nth_service(expected: &str, n: usize) -> String {
    expected.lines().filter(|l| service_line(l).is_some()).nth(n - 1).unwrap().to_owned()
}

fn matches_line(service: &control::model::VirtualService, line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (protocol, name) = (words.next().unwrap(), words.next().unwrap());
    match *service {
        control::model::VirtualService::Mark { mark, .. } => protocol == "FWM" && name == mark.to_string(),
        control::model::VirtualService::Address { protocol: p, address, port } => {
            protocol == p.to_string() && recorded_endpoint(name) == SocketAddr::new(address, port)
        }
        control::model::VirtualService::Range(range) => name == range.to_string(),
    }
}

fn put_row(entry: &mut DestinationEntry, numbers: &[u64], expected: &str) {
    if expected.contains("InPkts") || expected.contains("InPPS") {
        let [.., a, b, c, d, e] = numbers else { panic!("{numbers:?}") };
        entry.stats = stats([*a, *b, *c, *d, *e]);
        entry.rates = rates([*a, *b, *c, *d, *e]);
        return;
    }
    let [.., persistent, active, inactive] = numbers else { panic!("{numbers:?}") };
    entry.active = *active as u32;
    entry.inactive = *inactive as u32;
    if expected.contains("PersistConn") {
        entry.persistent = *persistent as u32;
    }
}

fn stats([connections, in_packets, out_packets, in_bytes, out_bytes]: [u64; 5]) -> Stats {
    Stats { connections, in_packets, out_packets, in_bytes, out_bytes }
}

fn rates([connections, in_packets, out_packets, in_bytes, out_bytes]: [u64; 5]) -> Rates {
    Rates { connections, in_packets, out_packets, in_bytes, out_bytes }
}

fn connection(line: &str) -> Option<ConnectionRow> {
    let words: Vec<_> = line.split_whitespace().collect();
    let protocol = match *words.first()? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    let (minutes, seconds) = words[1].split_once(':')?;
    let expires = minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap();
    let engine = words.get(6).map(|n| EngineData { name: (*n).into(), data: words[7].into() });
    Some(ConnectionRow {
        protocol: Some(protocol),
        state: words[2].to_owned(),
        expires,
        client: recorded_endpoint(words[3]),
        virtual_address: recorded_endpoint(words[4]),
        destination: recorded_endpoint(words[5]),
        local: None,
        snat: false,
        engine,
    })
}
