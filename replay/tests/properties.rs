//! What holds whatever ipvsadm's commands, clients, servers and time do to a whole director.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use replay::frames::{Segment, frame, look};
use replay::stage::Stage;

const VIP: &str = "198.51.100.1";

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// A command, taken or not.
    Command(String),
    /// A client, by number, sends a segment to the service of this number.
    Client(u8, u8, &'static str),
    /// The server of a connection that there is, by its place in the list, answers.
    Server(usize, &'static str),
    /// Seconds go by.
    Wait(u32),
}

/// One of TCP over IPv4, UDP, and TCP for every port.
fn service(number: u8) -> String {
    match number {
        0 => format!("-t {VIP}:80"),
        1 => format!("-u {VIP}:53"),
        _ => format!("-t {VIP}:8080"),
    }
}

fn command() -> impl Strategy<Value = String> {
    let service = (0u8..3).prop_map(service);
    let server = (101u8..105).prop_map(|last| format!("192.0.2.{last}:80"));
    let scheduler = prop::sample::select(vec![
        "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos",
        "conhash",
    ]);
    let attributes = prop::sample::select(vec!["", "", "", "-p 30", "-p 120 -M 255.255.255.0", "-o"]);
    let method = prop::sample::select(vec!["-m", "-m", "-g", "-i"]);
    let limits = prop::sample::select(vec!["", "", "-x 3", "-x 5 -y 2"]);
    let weight = prop::sample::select(vec![0, 1, 1, 2, 5]);
    (service, server, (scheduler, attributes), (method, limits, weight), 0u8..16).prop_map(
        |(service, server, (scheduler, attributes), (method, limits, weight), what)| match what {
            0 => format!("-A {service} -s {scheduler} {attributes}"),
            1 => format!("-E {service} -s {scheduler} {attributes}"),
            2 => format!("-D {service}"),
            3 => "--set 60 20 40".to_owned(),
            4 => "-Z".to_owned(),
            5..9 => format!("-d {service} -r {server}"),
            9..12 => format!("-e {service} -r {server} {method} -w {weight} {limits}"),
            _ => format!("-a {service} -r {server} {method} -w {weight} {limits}"),
        },
    )
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flags = || prop::sample::select(vec!["S", "S", "A", "A", "FA", "R", "SA"]);
    let event = prop_oneof![
        4 => command().prop_map(Event::Command),
        8 => (0u8..40, 0u8..3, flags()).prop_map(|(client, service, flags)| Event::Client(client, service, flags)),
        4 => (any::<usize>(), flags()).prop_map(|(which, flags)| Event::Server(which, flags)),
        2 => (1u32..200).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..80)
}

/// A connection's line of `-Lnc`.
struct Row {
    is_udp: bool,
    client: SocketAddr,
    virtual_side: SocketAddr,
    server: SocketAddr,
}

fn rows(stage: &Stage) -> Vec<Row> {
    let list = stage.ipvsadm("-Lnc").unwrap().out;
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [protocol @ ("TCP" | "UDP" | "IP"), _, _, client, virtual_side, server] = words[..] else {
            return None;
        };
        let [client, virtual_side, server] = [client, virtual_side, server].map(|end| end.parse().unwrap());
        Some(Row { is_udp: protocol == "UDP", client, virtual_side, server })
    };
    // Templates are of no client's port.
    list.lines().filter_map(row).filter(|row| row.client.port() != 0).collect()
}

/// Of each destination in `-Ln`, by protocol, service and server: weight and connections.
fn destinations(stage: &Stage) -> BTreeMap<(bool, String, String), (u32, usize)> {
    let list = stage.ipvsadm("-Ln").unwrap().out;
    let mut service = (false, String::new());
    let mut found = BTreeMap::new();
    for line in list.lines().skip(3) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["->", server, _, weight, active, inactive] => {
                let [active, inactive] = [active, inactive].map(|number| number.parse::<usize>().unwrap());
                let key = (service.0, service.1.clone(), server.to_owned());
                found.insert(key, (weight.parse().unwrap(), active + inactive));
            }
            [protocol, name, ..] => service = (protocol == "UDP", name.to_owned()),
            _ => {}
        }
    }
    found
}

fn happen(stage: &Stage, event: &Event) {
    match event {
        Event::Command(words) => drop(stage.ipvsadm(words).unwrap()),
        Event::Client(client, service, flags) => {
            let from = SocketAddr::from(([203, 0, 113, client % 5 + 10], 1000 + u16::from(*client)));
            let port = [80, 53, 8080][usize::from(*service)];
            let segment = if *service == 1 { Segment::Udp(3) } else { Segment::Tcp(flags) };
            let to = SocketAddr::new(VIP.parse().unwrap(), port);
            let there: Vec<_> = destinations(stage).into_keys().map(|(_, _, server)| server).collect();
            for sent in stage.send(&frame(from, to, segment).unwrap()) {
                // One that is to go to a server goes to one that there is, now or of a connection from before.
                if let Some(last) = look(&sent).unwrap().server {
                    let known = |server: &String| server.starts_with(&format!("192.0.2.{last}:"));
                    assert!(there.iter().any(known), "to .{last}, of {there:?}");
                }
            }
        }
        Event::Server(which, flags) => {
            let rows = rows(stage);
            if let Some(row) = rows.get(which % rows.len().max(1)) {
                let segment = if row.is_udp { Segment::Udp(3) } else { Segment::Tcp(flags) };
                stage.send(&frame(row.server, row.client, segment).unwrap());
            }
        }
        Event::Wait(seconds) => stage.pass(Duration::from_secs((*seconds).into())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_counted_is_what_is_listed(events in events()) {
        let stage = Stage::sized(|_| Ok(()), 1024).unwrap();
        // Something to begin with, or many sequences would find nothing.
        for words in ["-A -t 198.51.100.1:80 -s rr", "-a -t 198.51.100.1:80 -r 192.0.2.101:80 -m", "-A -u 198.51.100.1:53 -s wlc"] {
            stage.rule(words).unwrap();
        }
        happen(&stage, &Event::Client(0, 0, "S"));
        prop_assert_eq!((rows(&stage).len(), destinations(&stage).values().map(|(_, n)| n).sum()), (1, 1usize));
        for event in &events {
            let before = destinations(&stage);
            let opened = rows(&stage).len();
            happen(&stage, event);
            let (after, rows) = (destinations(&stage), rows(&stage));
            for ((is_udp, service, server), (weight, counted)) in &after {
                let listed = rows.iter().filter(|row| {
                    row.is_udp == *is_udp
                        && row.virtual_side.to_string() == *service
                        && row.server.to_string() == *server
                });
                prop_assert_eq!(listed.count(), *counted, "{} of {} after {:?}", server, service, event);
                if let (Event::Client(..), 0, Some((_, had))) = (event, weight, before.get(&(*is_udp, service.clone(), server.clone()))) {
                    let list = stage.ipvsadm("-Ln --persistent-conn").unwrap().out;
                    let is_persistent = list.contains("persistent");
                    prop_assert!(is_persistent || counted <= had, "{} of weight 0 has got one: {:?}", server, event);
                }
            }
            // One at a time.
            prop_assert!(!matches!(event, Event::Client(..)) || rows.len() <= opened + 1);
            let totals = stage.counters();
            prop_assert!(totals.balance(), "{:?}", totals);
        }
    }
}
