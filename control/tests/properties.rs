//! What must hold for any words and any commands.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::HashSet;

use common::{Direct, RecordedNames, run, split};
use control::ipvsadm::parse::parse;
use control::protocol::read_request;
use control::readable::Session;
use control::running::DestinationCounts;
use proptest::prelude::*;

/// Words that come close to making sense.
fn word() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "-A",
        "-E",
        "-D",
        "-C",
        "-a",
        "-e",
        "-d",
        "-L",
        "-l",
        "-Z",
        "-S",
        "-R",
        "-t",
        "-u",
        "-f",
        "-6",
        "-s",
        "-p",
        "-M",
        "-r",
        "-g",
        "-i",
        "-m",
        "-w",
        "-x",
        "-y",
        "-n",
        "-c",
        "-X",
        "-o",
        "-b",
        "-h",
        "-v",
        "--",
        "-",
        "--set",
        "--stats",
        "--rate",
        "--sctp-service",
        "--pe",
        "--timeout",
        "--daemon",
        "--start-daemon",
        "--stop-daemon",
        "--tun-type",
        "--tun-port",
        "--tun-csum",
        "--mcast-group",
        "--syncid",
        "--scheduler=rr",
        "-Lnc",
        "-t=",
        "-tp",
        "198.51.100.1:80",
        "[2001:db8::1]:80",
        "198.51.100.1:http",
        "255.0",
        "rr",
        "gue",
        "master",
        "sip",
        "flag-1",
        "0",
        "1",
        "-1",
        "65536",
        "4294967295",
        "99999999999999999999",
        "",
        ",",
        "é",
        "\u{0}",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[-a-zA-Z0-9:.,=\\[\\] ]{0,12}", 1 => any::<String>()]
}

/// Commands on a handful of services and servers, as somebody at work would type them.
fn command() -> impl Strategy<Value = String> {
    let service = prop_oneof![
        (0u8..3, 80u16..83).prop_map(|(a, p)| format!("-t 198.51.100.{a}:{p}")),
        Just("-u 255.255.255.255:53".to_owned()),
        Just("--sctp-service 0.0.0.0:9".to_owned()),
        Just("-t [2001:db8::1]:80".to_owned()),
        (1u32..4).prop_map(|mark| format!("-f {mark}")),
        (1u32..4).prop_map(|mark| format!("-f {mark} -6")),
    ];
    let attributes = proptest::sample::select(vec![
        "",
        "-s rr",
        "-s wrr -p",
        "-s sh -b sh-port",
        "-s conhash -b conhash-quic,conhash-port",
        "-s mh -b mh-fallback,mh-port",
        "-p 30",
        "-p 7 --pe sip",
        "-s x",
        "-b flag-1,flag-3",
    ]);
    let server = prop_oneof![
        (1u8..5, 80u16..82).prop_map(|(a, p)| format!("-r 192.0.2.{a}:{p}")),
        Just("-r [2001:db8::2]:80".to_owned()),
    ];
    let method = proptest::sample::select(vec![
        "-m",
        "-g",
        "-i",
        "-m -w 0",
        "-g -w 2147483647",
        "-i --tun-type gue --tun-port 6080",
        "-i --tun-type gre --tun-csum",
        "-m -x 5",
        "-g -x 10 -y 3",
        "-m -x 3 -y 5",
    ]);
    (service, attributes, server, method, 0u8..18).prop_map(|(service, attributes, server, method, what)| {
        match what {
            0..3 => format!("-A {service} {attributes}"),
            3 => format!("-E {service} {attributes}"),
            4 => format!("-D {service}"),
            5..9 => format!("-a {service} {server} {method}"),
            9 => format!("-e {service} {server} {method}"),
            10..12 => format!("-d {service} {server}"),
            12 => format!("-Z {service}"),
            13 => format!("--set {} 0 {}", service.len(), server.len()),
            14 => "--start-daemon backup --mcast-interface e1 --syncid 3".to_owned(),
            15 => "--stop-daemon backup".to_owned(),
            16 => "--start-daemon master --mcast-interface lo --mcast-group ff02::8848".to_owned(),
            _ => "-C".to_owned(),
        }
    })
}

/// Runs a command of lbctl's own language; what it printed, wherever.
fn readable(direct: &mut Direct, line: &str, input: &str) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut session = Session {
        transport: direct,
        names: &mut RecordedNames,
        input: &mut input.as_bytes(),
        out: &mut out,
        err: &mut err,
        terminal: false,
    };
    session.run(&split(line)).unwrap();
    String::from_utf8([out, err].concat()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_words_make_the_parser_panic(words in prop::collection::vec(word(), 0..12)) {
        let _ = parse(&words, &mut RecordedNames);
    }

    #[test]
    fn a_command_first_and_anything_after_it_does_not_panic(
        first in proptest::sample::select(vec!["-A", "-E", "-a", "-e", "-L", "-S", "--set", "--start-daemon=master"]),
        mut words in prop::collection::vec(word(), 0..12),
    ) {
        words.insert(0, first.to_owned());
        let mut direct = Direct::new();
        let printed = run(&mut direct, &words, "");
        prop_assert!([0, 1, 2, 255].contains(&printed.status));
        prop_assert_eq!(printed.status == 0, printed.err.is_empty(), "{:?}", printed);
    }

    #[test]
    fn no_line_makes_the_protocol_panic(line in any::<Vec<u8>>(), text in any::<String>()) {
        let _ = read_request(&line);
        let _ = read_request(format!("{{\"version\":1,\"request\":{text:?}}}").as_bytes());
    }

    #[test]
    fn ids_are_never_shared_and_saved_rules_make_the_same_table(
        steps in prop::collection::vec((command(), 0u64..100, 0u32..3), 1..60)
    ) {
        let mut direct = Direct::new();
        for (line, seconds, active) in steps {
            run(&mut direct, &split(&line), "");
            // Whatever is in the trash may be busy or not.
            let ids: Vec<_> = direct.director.table().trash().map(|d| d.id().0).collect();
            for id in ids {
                let counts = DestinationCounts { active, ..DestinationCounts::default() };
                direct.director.dataplane_mut().counts.insert(id, counts);
            }
            direct.pass(seconds);
            let table = direct.director.table();
            let live = table.services().flat_map(|s| table.destinations(s)).map(|d| (d.id(), *d.spec()));
            let all: Vec<_> = live.chain(table.trash().map(|d| (d.id(), *d.spec()))).collect();
            let ids: HashSet<_> = all.iter().map(|(id, _)| *id).collect();
            prop_assert_eq!(ids.len(), all.len());
            for service in table.services() {
                let sequences: Vec<_> = table.destinations(service).map(|d| d.sequence()).collect();
                prop_assert!(sequences.windows(2).all(|w| w[0] > w[1]));
            }
        }
        let full = readable(&mut direct, "save --full", "");
        let mut other = Direct::new();
        run(&mut other, &split("-R"), "-A -f 9\n--set 1 1 1\n--start-daemon backup --mcast-interface lo\n");
        prop_assert_eq!(readable(&mut other, "restore", &full), "");
        prop_assert_eq!(readable(&mut other, "save --full", ""), full);
        let json = readable(&mut direct, "save --json", "");
        prop_assert_eq!(readable(&mut direct, "restore", &json), "");
        prop_assert_eq!(readable(&mut direct, "save --json", ""), json);

        let saved = run(&mut direct, &split("-S -n"), "").out;
        let list = run(&mut direct, &split("-L -n --tun-info"), "").out;
        run(&mut direct, &split("-C"), "");
        let restored = run(&mut direct, &split("-R"), &saved);
        prop_assert_eq!((restored.err.as_str(), restored.status), ("", 0));
        prop_assert_eq!(run(&mut direct, &split("-S -n"), "").out, saved);
        prop_assert_eq!(run(&mut direct, &split("-L -n --tun-info"), "").out, list);
    }
}
