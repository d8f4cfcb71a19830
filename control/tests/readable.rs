//! lbctl's own language, against a daemon's control side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Daemon, Printed, everything, finish, split};
use control::model::Protocol;
use control::running::{ConnectionRow, EngineData};
use control::supported;
use serde_json::{Value, json};

/// A table with something of everything in it.
const RICH: [&str; 24] = [
    "service add tcp:198.51.100.8:80 --scheduler sh --flags sh-port,sh-fallback --persistence=60 --mask 255.255.255.0",
    "destination add tcp:198.51.100.8:80 192.0.2.11:8080 --method nat --weight 5 --upper 100 --lower 50",
    "destination add tcp:198.51.100.8:80 192.0.2.9 --method tunnel --tunnel gue --tunnel-port 6080 --tunnel-checksum remote",
    "destination add tcp:198.51.100.8:80 192.0.2.10 --weight 0",
    "service add udp:[2001:db8::8]:5060 --engine sip --persistence --mask 64",
    "destination add udp:[2001:db8::8]:5060 2001:db8:2::9 --method nat --upper 7",
    "service add udp:198.51.100.8:53 --scheduler rr --one-packet",
    "destination add udp:198.51.100.8:53 192.0.2.9:53 --method tunnel --tunnel gre --tunnel-checksum full",
    "service add sctp:198.51.100.8:132 --scheduler none",
    "service add mark:4294967295 --scheduler wrr --announce toa",
    "destination add mark:4294967295 192.0.2.9:8080",
    "service add mark:7:ipv6 --persistence=90",
    "service add mark:8 --mss auto",
    "mark add 7 --protocol udp --from 203.0.113.0/24 --to 198.51.100.8/32 --from-ports 1024-65535 --to-ports 53",
    "mark add 4294967295",
    "local-address add 192.0.2.32/29",
    "snat add 198.51.100.40-198.51.100.44 --from 192.0.2.0/24 --protocol tcp --ports 2000-2999",
    "snat add masquerade --out-port north",
    "local-address add 2001:db8:2::33 --service udp:[2001:db8::8]:5060 --ports 2000-2999",
    "destination add udp:[2001:db8::8]:5060 2001:db8:2::10 --method fullnat",
    "timeout set --tcp 600 --udp 30",
    "sysctl set net.ipv4.vs.drop_entry 3",
    "sysctl set sync_threshold=5 60",
    "daemon start backup --interface e1 --sync-id 3 --group ff02::8848 --port 8850 --ttl 3",
];

fn do_all(daemon: &Daemon, lines: &[&str]) {
    for line in lines {
        let nothing = Printed { out: String::new(), err: String::new(), status: 0 };
        assert_eq!(daemon.lbctl(line), nothing, "{line}");
    }
}

fn out(daemon: &Daemon, line: &str) -> String {
    let printed = daemon.lbctl(line);
    assert_eq!((printed.err.as_str(), printed.status), ("", 0), "{line}");
    printed.out
}

fn json(daemon: &Daemon, line: &str) -> Value {
    serde_json::from_str(&out(daemon, line)).unwrap()
}

fn input(daemon: &Daemon, line: &str, text: &str) -> Printed {
    daemon.command("lbctl", &split(line), text)
}

#[test]
fn both_languages_see_the_same_table() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &RICH);
    assert_eq!(
        out(&daemon, "-S -n"),
        "\
-A -u 198.51.100.8:53 -s rr -o
-a -u 198.51.100.8:53 -r 192.0.2.9:53 -i -w 1 --tun-type gre --tun-csum
-A --sctp-service 198.51.100.8:132 -s none
-A -f 7 -6 -s wlc -p 90
"
        .split_once("-A --sctp")
        .map(|(udp, _)| {
            format!(
                "-A -f -1 -s wrr --announce toa
-a -f -1 -r 192.0.2.9:8080 -g -w 1
-A -t 198.51.100.8:80 -s sh -p 60 -M 255.255.255.0 -b sh-fallback,sh-port
-a -t 198.51.100.8:80 -r 192.0.2.9:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
-a -t 198.51.100.8:80 -r 192.0.2.10:80 -g -w 0
-a -t 198.51.100.8:80 -r 192.0.2.11:8080 -m -w 5
{udp}-A --sctp-service 198.51.100.8:132 -s none
-A -u [2001:db8::8]:5060 -s wlc -p 360 -M 64 --pe sip
-a -u [2001:db8::8]:5060 -r [2001:db8:2::9]:5060 -m -w 1
-a -u [2001:db8::8]:5060 -r [2001:db8:2::10]:5060 --fullnat -w 1
-A -f 7 -6 -s wlc -p 90
-A -f 8 -s wlc --mss auto
"
            )
        })
        .unwrap()
    );
    assert_eq!(out(&daemon, "-S -n"), out(&daemon, "save"));
    assert_eq!(
        out(&daemon, "service show tcp:198.51.100.8:80"),
        "\
SERVICE              SCHEDULER  ATTRIBUTES                                                     DESTINATIONS  ACTIVE  INACTIVE  PERSISTENT
tcp:198.51.100.8:80  sh         flags sh-fallback,sh-port, persistence 60, mask 255.255.255.0             3       0         0           0

SERVICE              DESTINATION      METHOD               WEIGHT  UPPER  LOWER  ACTIVE  INACTIVE  PERSISTENT
tcp:198.51.100.8:80  192.0.2.9:80     tunnel gue:6080:r+c       1      0      0       0         0           0
tcp:198.51.100.8:80  192.0.2.10:80    dr                        0      0      0       0         0           0
tcp:198.51.100.8:80  192.0.2.11:8080  nat                       5    100     50       0         0           0
"
    );
    assert_eq!(out(&daemon, "sysctl get sync_threshold"), "5\t60\n");
    assert!(out(&daemon, "sysctl list").contains("net.ipv4.vs.drop_entry = 3\n"));
    assert_eq!(out(&daemon, "-L --timeout"), "Timeout (tcp tcpfin udp): 600 120 30\n");
    assert_eq!(out(&daemon, "daemon list"), out(&daemon, "-L --daemon"));
    daemon.stop();
}

#[test]
fn an_edit_changes_what_is_named_and_nothing_else() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &RICH);
    do_all(
        &daemon,
        &[
            "service edit tcp:198.51.100.8:80 --persistence=61",
            "destination edit tcp:198.51.100.8:80 192.0.2.11:8080 --weight 6",
            "destination edit tcp:198.51.100.8:80 192.0.2.9 --tunnel-checksum none",
        ],
    );
    let service = json(&daemon, "service show tcp:198.51.100.8:80 --json");
    assert_eq!(
        service["persistence"],
        json!({"timeout_seconds": 61, "mask": "255.255.255.0", "prefix_length": null})
    );
    assert_eq!(
        (&service["flags"], &service["scheduler"]),
        (&json!(["sh-fallback", "sh-port"]), &json!("sh"))
    );
    let destination = json(&daemon, "destination show tcp:198.51.100.8:80 192.0.2.11:8080 --json");
    let expected = [("weight", 6), ("upper_threshold", 100), ("lower_threshold", 50)];
    expected.iter().for_each(|(key, value)| assert_eq!(destination[key], *value, "{key}"));
    assert_eq!(destination["method"], "masquerade");
    assert_eq!(service["destinations"][0]["tunnel"]["port"], 6080);
    assert_eq!(service["destinations"][0]["tunnel"]["checksum"], "none");
    // Another scheduler has no use for the old one's flags.
    do_all(&daemon, &["service edit tcp:198.51.100.8:80 --scheduler mh --no-persistence"]);
    let service = json(&daemon, "service show tcp:198.51.100.8:80 --json");
    assert_eq!((&service["flags"], &service["persistence"]), (&json!([]), &json!(null)));
    daemon.stop();
}

#[test]
fn a_full_save_keeps_everything_and_is_restored_whole() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &RICH);
    let (saved, as_json) = (out(&daemon, "save --full"), out(&daemon, "save --json"));
    for what in [
        "# director configuration, version 1\n",
        "sysctl set net.ipv4.vs.drop_entry 3\n",
        "sysctl set net.ipv4.vs.sync_threshold 5 60\n",
        "--set 600 120 30\n",
        " -m -w 5 -x 100 -y 50\n",
        "-A -f 4294967295 -s wrr --announce toa\n",
        "--start-daemon backup --mcast-interface e1 --syncid 3 --sync-maxlen 1452 --mcast-group ff02::8848 \
         --mcast-port 8850 --mcast-ttl 3\n",
    ] {
        assert!(saved.contains(what), "{what} in {saved}");
    }
    let list = || {
        let unsorted = "-L -n --nosort -t 198.51.100.8:80";
        [out(&daemon, "-L -n --thresholds"), out(&daemon, unsorted)]
    };
    let before = list();
    let wreck = || {
        do_all(
            &daemon,
            &[
                "service clear",
                "daemon stop backup",
                "daemon start master --interface e1",
                "sysctl set sloppy_tcp 1",
                "timeout set --tcp 1 --tcp-fin 1 --udp 1",
                "service add tcp:198.51.100.8:80",
            ],
        );
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved");
    for text in [&saved, &as_json] {
        wreck();
        assert_eq!(input(&daemon, "restore --json", text).out, "{\"result\":\"done\"}\n");
        assert_eq!((&out(&daemon, "save --full"), &out(&daemon, "save --json")), (&saved, &as_json));
        // Not only what there is, but its order too: rr begins with the destination added last.
        assert_eq!(list(), before);
        wreck();
        std::fs::write(&file, text).unwrap();
        do_all(&daemon, &[&format!("restore {}", file.display())]);
        assert_eq!(out(&daemon, "save --full"), saved);
    }
    // ipvsadm's own language reads it as well, but for comments and sysctls.
    wreck();
    do_all(&daemon, &["daemon stop master", "-C"]);
    let rules: String = saved.lines().filter(|l| l.starts_with('-')).map(|l| format!("{l}\n")).collect();
    assert_eq!(input(&daemon, "-R", &rules).err, "");
    assert_eq!(list(), before);
    daemon.stop();
}

#[test]
fn a_full_save_keeps_flags_that_ipvsadm_has_no_name_for() {
    let daemon = Daemon::start(everything, |_| {});
    let rules = ["-A -t 198.51.100.8:80 -s mh -b flag-3", "-A -t 198.51.100.8:81 -s sh -b flag-3,sh-port"];
    do_all(&daemon, &rules);
    let saved = out(&daemon, "save --full");
    assert!(saved.contains("-s mh -b flag-3\n") && saved.contains("-s sh -b sh-port,flag-3\n"), "{saved}");
    // As ipvsadm, which loses it.
    assert!(out(&daemon, "-S -n").contains("-s sh -b sh-port\n"));
    assert_eq!(input(&daemon, "restore --json", &saved).out, "{\"result\":\"done\"}\n");
    assert_eq!(out(&daemon, "save --full"), saved);
    // What a save that has failed leaves to be restored.
    let refused = input(&daemon, "restore", "");
    assert!(refused.status != 0 && refused.err.contains("there is nothing in it"), "{refused:?}");
    assert_eq!(out(&daemon, "save --full"), saved);
}

#[test]
fn an_unsorted_list_has_marks_last() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(
        &daemon,
        &["-A -t 198.51.100.8:80", "-A -f 3", "-A -u 198.51.100.8:53", "-A -f 4", "-A -t 198.51.100.9:80"],
    );
    let listed = out(&daemon, "-L -n --nosort");
    let kinds: Vec<_> = listed.lines().skip(3).map(|line| line.starts_with("FWM")).collect();
    assert_eq!(kinds, [false, false, false, true, true], "{listed}");
}

#[test]
fn a_restore_that_fails_names_the_line_and_changes_nothing() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &RICH);
    let before = out(&daemon, "save --full");
    let a = "-A -t 198.51.100.9:80 -s rr\n";
    let cases = [
        (format!("# rules\n\n{a}ipvsadm {a}"), 1, "line 4: 198.51.100.9:80 exists already"),
        (
            format!("{a}-A -t 198.51.100.9:81 -s nosuch\n"),
            1,
            "line 2: Scheduler or persistence engine not found",
        ),
        (
            format!("{a}-a -t 198.51.100.9:81 -r 192.0.2.1\n"),
            1,
            "line 2: there is no service tcp:198.51.100.9:81",
        ),
        (format!("{a}-A -s rr\n"), 2, "line 2: You need to supply the 'service-address' option"),
        (format!("{a}-L\n"), 2, "line 2: -L is no command that changes something"),
        (format!("{a}service list\n"), 2, "line 2: service list is no command that changes something"),
        (format!("{a}servise add tcp:1.2.3.4:5\n"), 2, "line 2: unrecognized subcommand 'servise'"),
        (
            format!("{a}service edit tcp:198.51.100.9:80 --scheduler lc\n"),
            2,
            "line 2: an edit depends on what is there",
        ),
        ("# director configuration, version 2\n".into(), 2, "line 1: this lbctl reads version 1"),
        ("{\"services\":1}".into(), 2, "this is no saved configuration: "),
        (
            "# director configuration, version 1\nsysctl set drop_entry 9\n".into(),
            1,
            "line 2: net.ipv4.vs.drop_entry cannot be 9",
        ),
    ];
    for (text, status, message) in cases {
        let printed = input(&daemon, "restore", &text);
        let message = message.replace("198.51.100.9:80 exists", "tcp:198.51.100.9:80 exists");
        assert!(printed.err.starts_with(&format!("lbctl: {message}")), "{text}\n{}", printed.err);
        assert_eq!((printed.out.as_str(), printed.status), ("", status), "{text}");
        assert_eq!(out(&daemon, "save --full"), before);
    }
    assert_eq!(daemon.lbctl("restore /nonexistent").status, 2);
    // A plain rules file replaces the services only.
    assert_eq!(input(&daemon, "restore", a).status, 0);
    assert_eq!(out(&daemon, "save"), a);
    assert_eq!(out(&daemon, "sysctl get drop_entry"), "3\n");
    daemon.stop();
}

#[test]
fn mistakes_are_explained() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &["service add tcp:198.51.100.8:80", "destination add tcp:198.51.100.8:80 192.0.2.9:80"]);
    let cases = [
        (
            "service add tcp:198.51.100.8:80",
            1,
            "tcp:198.51.100.8:80 exists already; lbctl service edit changes it",
        ),
        (
            "service show tcp:198.51.100.8:81",
            1,
            "there is no service tcp:198.51.100.8:81; did you mean tcp:198.51.100.8:80?",
        ),
        ("destination list udp:192.0.2.77:1", 1, "there is no service udp:192.0.2.77:1\n"),
        (
            "destination add tcp:198.51.100.8:80 192.0.2.9",
            1,
            "tcp:198.51.100.8:80 has the destination 192.0.2.9:80 already; ",
        ),
        (
            "destination edit tcp:198.51.100.8:80 192.0.2.8 --weight 2",
            1,
            "tcp:198.51.100.8:80 has no destination 192.0.2.8:80; did you mean 192.0.2.9:80?",
        ),
        (
            "destination delete tcp:198.51.100.8:80 192.0.2.8",
            1,
            "tcp:198.51.100.8:80 has no destination 192.0.2.8:80; did you mean",
        ),
        (
            "destination show tcp:198.51.100.8:80 192.0.2.8",
            1,
            "tcp:198.51.100.8:80 has no destination 192.0.2.8:80; did you mean",
        ),
        (
            "destination add tcp:198.51.100.8:80 224.0.0.1",
            1,
            "224.0.0.1:80 cannot be a destination of tcp:198.51.100.8:80: ",
        ),
        (
            "destination add tcp:198.51.100.8:80 192.0.2.8:81",
            2,
            "only --method nat and fullnat lead to another port than the service's, 80",
        ),
        (
            "destination add tcp:198.51.100.8:80 2001:db8::9",
            2,
            "only --method tunnel and fullnat lead to the other address family",
        ),
        (
            "destination add tcp:198.51.100.8:80 192.0.2.8 --tunnel gue",
            2,
            "tunnel options need --method tunnel",
        ),
        (
            "destination add tcp:198.51.100.8:80 192.0.2.8 --method tunnel --tunnel gue",
            2,
            "gue needs --tunnel-port",
        ),
        (
            "destination add tcp:198.51.100.8:80 192.0.2.8 --lower 2 --upper 1",
            2,
            "the lower threshold, 2, must not be above the upper one, 1",
        ),
        (
            "service add tcp:198.51.100.8:0",
            2,
            "a service of port 0, which is every port, needs --persistence",
        ),
        ("service add tcp:198.51.100.8:82 --one-packet", 2, "--one-packet is for UDP services and marks"),
        ("service add udp:198.51.100.8:82 --announce toa", 2, "--announce is for TCP services and marks"),
        ("service add udp:198.51.100.8:82 --mss auto", 2, "--mss is for TCP services and marks"),
        ("service add tcp:198.51.100.8:82 --mask 255.0.0.0", 2, "--mask needs --persistence"),
        (
            "service add tcp:198.51.100.8:82 --persistence --mask 24",
            2,
            "the mask of an IPv4 service is written as 255.255.255.0",
        ),
        (
            "service add tcp:198.51.100.8:82 --flags sh-port",
            2,
            "incompatible scheduler flag `sh-port'; wlc takes flag-1, flag-2, flag-3",
        ),
        ("timeout set", 2, "name what to set: --tcp, --tcp-fin or --udp"),
        ("timeout set --udp 0", 2, "a timeout is at least 1 second"),
        ("sysctl set drop_entry 4", 1, "net.ipv4.vs.drop_entry cannot be 4: it takes a number from 0 to 3"),
        ("sysctl set drop_entry yes", 2, "\"yes\" is not a value"),
        ("sysctl set drop_entry", 2, "\"\" is not a value"),
        ("daemon start master --interface nosuch0", 1, "No such device"),
        ("daemon stop master", 1, "No daemon is running"),
    ];
    for (line, status, message) in cases {
        let printed = daemon.lbctl(line);
        assert!(printed.err.starts_with(&format!("lbctl: {message}")), "{line}: {}", printed.err);
        assert_eq!((printed.out.as_str(), printed.status), ("", status), "{line}");
    }
    for (line, tip) in [
        ("servce list", "'service'"),
        ("service lst", "'list'"),
        ("service add tcp:198.51.100.8:82 --schedular rr", "'--scheduler'"),
        ("service add tcp:198.51.100.8:82 --scheduler wllc", "'wlc'"),
        ("sysctl get drop_entyr", "'drop_entry'"),
        ("sysctl set net.ipv4.vs.drop_packte 1", "'drop_packet'"),
    ] {
        let printed = daemon.lbctl(line);
        let tips =
            printed.err.lines().find(|l| l.contains("tip: ") && l.contains("similar")).unwrap_or_default();
        assert!(tips.contains(tip), "{line}: {}", printed.err);
        assert_eq!(printed.status, 2);
    }
    for (line, said) in [
        ("timeout set --tpc 5", "  tip: a similar argument exists: '--tcp'\n"),
        ("destination add tcp:198.51.100.8:80 192.0.2.8 --weight -1", "-1 is not in 0..=2147483647\n"),
        (
            "destination add tcp:198.51.100.8:80 192.0.2.8 --upper -1",
            "invalid value '-1' for '--upper <CONNECTIONS>'",
        ),
        ("mark add -1", "invalid value '-1' for '<MARK>': -1 is not in 1..=4294967295\n"),
        ("service list --watch 1", "  tip: a value of '--watch' follows '=': '--watch=1'\n"),
        (
            "service show --watch 1 tcp:198.51.100.8:80",
            "  tip: a value of '--watch' follows '=': '--watch=1'\n",
        ),
        ("stats list --watch 1", "  tip: a value of '--watch' follows '=': '--watch=1'\n"),
        ("service add tcp:198.51.100.8:82 --persistence 30", "'--persistence=30'\n"),
        ("service delete -x", "error: unexpected argument '-x' found\n\nUsage"),
    ] {
        let printed = daemon.lbctl(line);
        assert!(printed.err.contains(said) && !printed.err.contains("'-- "), "{line}: {}", printed.err);
        assert_eq!(printed.status, 2, "{line}");
    }
    for (line, code, status) in [
        ("service lst --json", "wrong_words", 2),
        ("service delete tcp:198.51.100.8:81 --json", "no_such_service", 1),
        ("service add tcp:198.51.100.8:0 --json", "wrong_words", 2),
        ("sysctl set drop_entry 4 --json", "bad_sysctl", 1),
    ] {
        let printed = daemon.lbctl(line);
        let error: Value = serde_json::from_str(&printed.err).unwrap();
        assert_eq!((error["error"]["code"].as_str(), printed.status), (Some(code), status), "{line}");
    }
    daemon.stop();
}

#[test]
fn what_director_cannot_do_yet_is_refused_in_this_language_too() {
    let daemon = Daemon::start(supported::check, |_| {});
    do_all(&daemon, &["service add tcp:198.51.100.8:80 --scheduler rr", "sysctl set run_estimation 0"]);
    let before = out(&daemon, "save --full");
    let printed = daemon.lbctl("daemon start master --interface e1");
    assert_eq!(printed.err, "lbctl: director does not synchronise connections yet\n");
    assert_eq!(printed.status, 1);
    assert_eq!(out(&daemon, "save --full"), before);
    let schedulers = json(&daemon, "scheduler list --json");
    let conhash = schedulers.as_array().unwrap().iter().find(|s| s["name"] == "conhash").unwrap();
    assert_eq!(conhash["flags"], serde_json::json!(["conhash-quic", "conhash-port"]));
    assert!(schedulers.as_array().unwrap().iter().all(|s| s["description"] != ""), "{schedulers}");
    daemon.stop();
}

/// Each can be set to something else, is read back so, is saved, and goes back to its default.
#[test]
fn every_sysctl_can_be_set_and_read() {
    let daemon = Daemon::start(supported::check, |_| {});
    let sysctls = json(&daemon, "sysctl list --json");
    let sysctls = sysctls.as_array().unwrap();
    assert_eq!(sysctls.len(), 29);
    for sysctl in sysctls {
        let name = sysctl["name"].as_str().unwrap();
        let other = match sysctl["default"].as_i64() {
            None => "7 9".to_owned(),
            Some(0) => "1".to_owned(),
            // Of sync_ports the next power of two.
            Some(1) if name.ends_with("sync_ports") => "2".to_owned(),
            Some(1) => "0".to_owned(),
            Some(n) => (n + 1).to_string(),
        };
        do_all(&daemon, &[&format!("sysctl set {name} {other}")]);
        let read = out(&daemon, &format!("sysctl get {name}"));
        assert_eq!(read.trim().replace('\t', " "), other, "{name}");
        assert!(out(&daemon, "save --full").contains(&format!("sysctl set {name} {other}\n")), "{name}");
        let acts = supported::acts(name.rsplit_once('.').unwrap().1);
        assert_eq!(sysctl["acts"].as_bool(), Some(acts), "{name}");
    }
    let described = out(&daemon, "sysctl list --describe");
    assert_eq!(described.matches("; kept, and nothing heeds it").count(), 10);
    daemon.stop();
}

/// The keys of every object in `value`, by where it is. `null` and empty arrays have none.
fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                found.insert(at.clone());
                keys(value, &at, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, at, found)),
        _ => {}
    }
}

/// Every key that lbctl prints is described, and every key described is printed.
#[test]
fn the_json_has_the_documented_keys() {
    let daemon = Daemon::start(everything, |memory| {
        let endpoint = "192.0.2.1:80".parse().unwrap();
        memory.connections = vec![ConnectionRow {
            protocol: Some(Protocol::Udp),
            state: "NONE".into(),
            expires: 300,
            client: endpoint,
            virtual_address: endpoint,
            destination: endpoint,
            local: Some(endpoint),
            snat: false,
            engine: Some(EngineData { name: "sip".into(), data: "a@b".into() }),
        }];
    });
    do_all(&daemon, &RICH);
    let docs = include_str!("../../docs/lbctl-json.md");
    for section in docs.split("\n## `").skip(1) {
        let (command, rest) = section.split_once('`').unwrap();
        let described: BTreeSet<String> = rest
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| line.split_once('`'))
            .map(|(key, _)| key.to_owned())
            .collect();
        let mut printed = BTreeSet::new();
        keys(&json(&daemon, &format!("{command} --json")), "", &mut printed);
        // A service's destinations are as `destination list` describes them.
        printed.retain(|key| !key.starts_with("destinations."));
        if command == "save" {
            printed.retain(|key| {
                ["services", "timeouts", "daemons", "sysctls", "marks", "local_addresses", "snat"]
                    .contains(&key.as_str())
            });
        }
        assert_eq!(printed, described, "{command}");
    }
    daemon.stop();
}

#[test]
fn connections_are_chosen_by_what_they_are() {
    let daemon = Daemon::start(supported::check, |memory| {
        let outward = ConnectionRow {
            protocol: Some(Protocol::Udp),
            state: "UDP".into(),
            expires: 300,
            client: "192.0.2.9:5353".parse().unwrap(),
            virtual_address: "203.0.113.53:53".parse().unwrap(),
            destination: "203.0.113.53:53".parse().unwrap(),
            local: Some("198.51.100.40:5353".parse().unwrap()),
            snat: true,
            engine: None,
        };
        let row = |client: &str, server: &str, state: &str| ConnectionRow {
            protocol: Some(Protocol::Tcp),
            state: state.into(),
            expires: 900,
            client: client.parse().unwrap(),
            virtual_address: "198.51.100.8:80".parse().unwrap(),
            destination: server.parse().unwrap(),
            local: None,
            snat: false,
            engine: None,
        };
        memory.connections = vec![
            row("203.0.113.10:40000", "192.0.2.9:80", "ESTABLISHED"),
            row("203.0.113.10:40001", "192.0.2.10:80", "FIN_WAIT"),
            row("203.0.113.11:40000", "192.0.2.9:80", "ESTABLISHED"),
            outward,
        ];
    });
    for (line, rows) in [
        ("", 4),
        (" --virtual 203.0.113.53", 0),
        (" --destination 203.0.113.53", 1),
        (" --client 203.0.113.10", 2),
        (" --client 203.0.113.10:40001", 1),
        (" --destination 192.0.2.9 --state established", 2),
        (" --virtual 198.51.100.8:81", 0),
    ] {
        let list = json(&daemon, &format!("connection list --json{line}"));
        assert_eq!(list.as_array().unwrap().len(), rows, "{line}");
    }
    assert_eq!(
        out(&daemon, "connection list --state fin_wait"),
        "PROTOCOL  STATE     EXPIRES  CLIENT              VIRTUAL          LOCAL  DESTINATION    ENGINE\n\
         tcp       FIN_WAIT    900 s  203.0.113.10:40001  198.51.100.8:80  -      192.0.2.10:80\n"
    );
    assert_eq!(
        out(&daemon, "connection list --state udp"),
        "PROTOCOL  STATE  EXPIRES  CLIENT          VIRTUAL  LOCAL               DESTINATION      ENGINE\n\
         udp       UDP      300 s  192.0.2.9:5353  -        198.51.100.40:5353  203.0.113.53:53\n"
    );
    // IPVS's list has none of them.
    assert_eq!(out(&daemon, "-Lnc").lines().count(), 2 + 3);
    daemon.stop();
}

#[test]
fn a_watched_list_is_printed_again_and_again() {
    let daemon = Daemon::start(supported::check, |_| {});
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
    command.args(split("service list --json --watch=0.1")).env("LBCTL_SOCKET", &daemon.socket);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!([lines.next(), lines.next()], [Some("[]".to_owned()), Some("[]".to_owned())]);
    do_all(&daemon, &["service add tcp:198.51.100.8:80"]);
    let line = lines.find(|line| line != "[]").unwrap();
    assert!(line.starts_with("[{\"service\":\"tcp:198.51.100.8:80\""), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(daemon.lbctl("service list --watch=0").status, 2);
    daemon.stop();
}

#[test]
fn completions_are_what_their_shells_read() {
    for (shell, what) in [("bash", "_lbctl"), ("zsh", "#compdef lbctl"), ("fish", "complete -c lbctl")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
        command.args(["completions", shell]);
        let script = finish(command, "");
        assert_eq!(script.status, 0);
        assert!(script.out.contains(what) && script.out.contains("destination"), "{shell}");
        assert!(script.out.contains("conhash-quic"), "{shell}");
        // fish completes words, but not yet what stands without one.
        assert!(script.out.contains("drop_packet") || shell == "fish", "{shell}");
        if shell == "bash" {
            let mut bash = Command::new("bash");
            bash.args(["-c", "source /dev/stdin && complete -p lbctl"]);
            let printed = finish(bash, &script.out);
            assert!(printed.out.contains("-F _lbctl"), "{printed:?}");
            let words = "COMP_WORDS=(lbctl service sh) COMP_CWORD=2; _lbctl lbctl sh service; echo \"${COMPREPLY[@]}\"";
            let mut bash = Command::new("bash");
            bash.args(["-c", &format!("source /dev/stdin; {words}")]);
            assert_eq!(finish(bash, &script.out).out, "show\n");
        }
    }
}

#[test]
fn marking_rules_are_kept_in_order_and_named_by_all_they_say() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &["mark add 7 --protocol tcp --to 198.51.100.0/24 --to-ports 8000-8099", "mark add 8"]);
    let expected = "MARK  PROTOCOL  FROM  PORTS  TO               PORTS      RECEIVED BY
   7  tcp       -     -      198.51.100.0/24  8000-8099  -
   8  -         -     -      -                -          -
";
    assert_eq!(out(&daemon, "mark list"), expected);
    assert_eq!(
        json(&daemon, "mark list --json")[0],
        json!({"mark": 7, "protocol": "tcp", "from": null, "to": "198.51.100.0/24", "from_ports": null,
            "to_ports": "8000-8099", "in_port": null})
    );
    for (line, code) in [
        ("mark add 8 --json", "mark_exists"),
        ("mark delete 7 --json", "no_such_mark"),
        ("mark add 9 --in-port nowhere --json", "no_such_port"),
        ("mark add 9 --from 203.0.113.0/24 --to 2001:db8::/32 --json", "bad_mark"),
    ] {
        let error: Value = serde_json::from_str(&daemon.lbctl(line).err).unwrap();
        assert_eq!(error["error"]["code"].as_str(), Some(code), "{line}");
    }
    do_all(
        &daemon,
        &["mark delete 7 --to 198.51.100.0/24 --to-ports 8000-8099 --protocol tcp", "service clear"],
    );
    assert_eq!(
        json(&daemon, "mark list --json").as_array().map(Vec::len),
        Some(1),
        "services are something else"
    );
    do_all(&daemon, &["mark clear"]);
    assert_eq!(json(&daemon, "mark list --json"), json!([]));
    daemon.stop();
}

#[test]
fn how_clients_are_announced_is_said_and_shown_in_both_languages() {
    let daemon = Daemon::start(supported::check, |_| {});
    let shown = || out(&daemon, "-Ln").lines().nth(3).unwrap().to_owned();
    do_all(&daemon, &["service add tcp:198.51.100.8:80 --announce proxy-v2"]);
    assert_eq!(shown(), "TCP  198.51.100.8:80 wlc announce proxy-v2");
    assert_eq!(out(&daemon, "-S -n"), "-A -t 198.51.100.8:80 -s wlc --announce proxy-v2\n");
    assert!(out(&daemon, "service list").contains("announce proxy-v2 "));
    let announce = || json(&daemon, "service show tcp:198.51.100.8:80 --json")["announce"].clone();
    assert_eq!(announce(), "proxy_v2");
    for (line, expected) in [
        ("-E -t 198.51.100.8:80 --announce toa", json!("toa")),
        ("service edit tcp:198.51.100.8:80 --scheduler rr", json!("toa")),
        ("service edit tcp:198.51.100.8:80 --announce proxy-v1", json!("proxy_v1")),
        ("service edit tcp:198.51.100.8:80 --no-announce", json!(null)),
        ("-E -t 198.51.100.8:80 --announce proxy-v1", json!("proxy_v1")),
        ("-E -t 198.51.100.8:80", json!(null)),
        ("service edit tcp:198.51.100.8:80 --announce toa", json!("toa")),
    ] {
        do_all(&daemon, &[line]);
        assert_eq!(announce(), expected, "{line}");
    }
    for (line, status, says) in [
        ("-A -u 198.51.100.8:53 --announce toa", 2, "Clients are announced for TCP virtual services only"),
        ("-A -t 198.51.100.8:81 --announce proxy", 2, "illegal announce specified"),
        ("-A -t 198.51.100.8:81 --announce toa --announce toa", 2, "multiple 'announce' options specified"),
        (
            "-D -t 198.51.100.8:80 --announce toa",
            2,
            "Illegal 'announce' option with the 'delete-service' command",
        ),
    ] {
        let printed = daemon.lbctl(line);
        assert!(printed.status == status && printed.err.contains(says), "{line}: {printed:?}");
    }
    for save in ["save --full", "save --json"] {
        let saved = out(&daemon, save);
        do_all(&daemon, &["service clear"]);
        assert_eq!(input(&daemon, "restore", &saved).status, 0);
        assert_eq!((announce(), out(&daemon, save)), (json!("toa"), saved));
    }
    daemon.stop();
}

#[test]
fn a_maximum_segment_size_is_said_and_shown_in_both_languages() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(&daemon, &["service add tcp:198.51.100.8:80 --mss 1400"]);
    assert_eq!(out(&daemon, "-Ln").lines().nth(3), Some("TCP  198.51.100.8:80 wlc mss 1400"));
    assert_eq!(out(&daemon, "-S -n"), "-A -t 198.51.100.8:80 -s wlc --mss 1400\n");
    assert!(out(&daemon, "service list").contains(" mss 1400 "));
    let mss = || json(&daemon, "service show tcp:198.51.100.8:80 --json")["mss"].clone();
    assert_eq!(mss(), 1400);
    for (line, expected) in [
        ("-E -t 198.51.100.8:80 --mss auto", json!("auto")),
        ("service edit tcp:198.51.100.8:80 --scheduler rr", json!("auto")),
        ("service edit tcp:198.51.100.8:80 --mss 1200", json!(1200)),
        ("service edit tcp:198.51.100.8:80 --no-mss", json!(null)),
        ("-E -t 198.51.100.8:80 --mss 1300", json!(1300)),
        ("-E -t 198.51.100.8:80", json!(null)),
        ("service edit tcp:198.51.100.8:80 --mss auto", json!("auto")),
    ] {
        do_all(&daemon, &[line]);
        assert_eq!(mss(), expected, "{line}");
    }
    for (line, says) in [
        ("-A -u 198.51.100.8:53 --mss 1400", "A maximum segment size is only for TCP virtual services"),
        ("-A -t 198.51.100.8:81 --mss 87", "illegal mss specified"),
        ("service add tcp:198.51.100.8:81 --mss 87", "a maximum segment size is 88 to 65495 bytes, or auto"),
        ("-A -t 198.51.100.8:81 --mss auto --mss auto", "multiple 'mss' options specified"),
        ("-D -t 198.51.100.8:80 --mss auto", "Illegal 'mss' option with the 'delete-service' command"),
    ] {
        let printed = daemon.lbctl(line);
        assert!(printed.status == 2 && printed.err.contains(says), "{line}: {printed:?}");
    }
    for save in ["save --full", "save --json"] {
        let saved = out(&daemon, save);
        do_all(&daemon, &["service clear"]);
        assert_eq!(input(&daemon, "restore", &saved).status, 0);
        assert_eq!((mss(), out(&daemon, save)), (json!("auto"), saved));
    }
    daemon.stop();
}

#[test]
fn servers_by_fullnat_may_be_of_the_other_family() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(
        &daemon,
        &[
            "-A -t 198.51.100.8:80 -s rr",
            "-a -t 198.51.100.8:80 -r [2001:db8:2::9]:8080 --fullnat",
            "service add tcp:[2001:db8::8]:80",
            "destination add tcp:[2001:db8::8]:80 192.0.2.9:8080 --method fullnat",
        ],
    );
    let shown = out(&daemon, "-Ln");
    for row in [
        "  -> [2001:db8:2::9]:8080         FullNat 1      0          0         \n",
        "  -> 192.0.2.9:8080               FullNat 1      0          0         \n",
    ] {
        assert!(shown.contains(row), "{shown}");
    }
    assert!(out(&daemon, "destination list").contains("[2001:db8:2::9]:8080  fullnat "));
    let saved = out(&daemon, "save");
    assert!(saved.contains("-a -t 198.51.100.8:80 -r [2001:db8:2::9]:8080 --fullnat -w 1\n"));
    do_all(&daemon, &["-C"]);
    assert_eq!((input(&daemon, "-R", &saved).status, out(&daemon, "save")), (0, saved));
    // No other method but a tunnel gets there, nor is a server kept there without.
    for method in ["-g", "-m"] {
        let refused = daemon.lbctl(&format!("-e -t 198.51.100.8:80 -r [2001:db8:2::9]:8080 {method}"));
        assert_eq!((refused.out.as_str(), refused.status), ("", 2), "{method}");
    }
    daemon.stop();
}

#[test]
fn local_addresses_are_kept_and_named_by_all_that_was_said_of_them() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(
        &daemon,
        &[
            "service add tcp:198.51.100.8:80",
            "destination add tcp:198.51.100.8:80 192.0.2.9:8080 --method fullnat",
            "local-address add 192.0.2.32/30",
            "laddr add 192.0.2.40 --service tcp:198.51.100.8:80 --ports 2000-2999",
        ],
    );
    assert_eq!(
        out(&daemon, "local-address list"),
        "LOCAL ADDRESSES  PORTS      SERVICE              DIRECTOR'S PORT\n\
         192.0.2.32/30    -          -                    -\n\
         192.0.2.40/32    2000-2999  tcp:198.51.100.8:80  -\n"
    );
    assert_eq!(
        json(&daemon, "local-address list --json")[1],
        json!({"addresses": "192.0.2.40/32", "ports": "2000-2999", "service": "tcp:198.51.100.8:80", "port": null})
    );
    assert!(out(&daemon, "-Ln").contains("  -> 192.0.2.9:8080               FullNat 1      0          0"));
    assert!(out(&daemon, "save").contains("-r 192.0.2.9:8080 --fullnat -w 1\n"));
    assert!(out(&daemon, "destination list").contains("192.0.2.9:8080  fullnat "));
    for (line, code) in [
        ("local-address add 192.0.2.32/30 --json", "local_address_exists"),
        ("local-address delete 192.0.2.40 --json", "no_such_local_address"),
        ("local-address add 192.0.2.40 --port nowhere --json", "no_such_port"),
        ("local-address add 192.0.0.0/16 --json", "bad_local_address"),
    ] {
        let error: Value = serde_json::from_str(&daemon.lbctl(line).err).unwrap();
        assert_eq!(error["error"]["code"].as_str(), Some(code), "{line}");
    }
    let saved = out(&daemon, "save --full");
    assert!(
        saved.contains("local-address add 192.0.2.40/32 --service tcp:198.51.100.8:80 --ports 2000-2999\n")
    );
    do_all(&daemon, &["local-address delete 192.0.2.32/30", "local-address clear", "service clear"]);
    assert_eq!(json(&daemon, "local-address list --json"), json!([]));
    input(&daemon, "restore", &saved);
    assert_eq!(out(&daemon, "save --full"), saved);
    daemon.stop();
}

#[test]
fn snat_rules_are_kept_in_order_and_named_by_all_they_say() {
    let daemon = Daemon::start(everything, |_| {});
    do_all(
        &daemon,
        &[
            "snat add 198.51.100.40,198.51.100.44-198.51.100.47 --from 192.0.2.0/24 --ports 2000-2999",
            "snat add masquerade --protocol udp --out-port north",
            "snat add none --to 10.0.0.0/8 --position 1",
        ],
    );
    let list = out(&daemon, "snat list");
    let expected = [
        "RULE  TRANSLATE TO                    PORTS      PROTOCOL  FROM          TO          LEAVES BY",
        "   1  none                            -          -         -             10.0.0.0/8  -",
        "   2  198.51.100.40,198.51.100.44/30  2000-2999  -         192.0.2.0/24  -           -",
        "   3  masquerade                      -          udp       -             -           north",
    ];
    for (line, expected) in list.lines().zip(expected) {
        assert!(line.starts_with(expected), "{list}");
    }
    assert_eq!(
        json(&daemon, "snat list --json")[1],
        json!({"position": 2, "translate_to": "198.51.100.40,198.51.100.44/30", "ports": "2000-2999",
            "protocol": null, "from": "192.0.2.0/24", "to": null, "out_port": null, "active": 0, "inactive": 0,
            "stats": {"connections": 0, "in_packets": 0, "out_packets": 0, "in_bytes": 0, "out_bytes": 0}})
    );
    for (line, code) in [
        ("snat add none --to 10.0.0.0/8 --json", "snat_exists"),
        ("snat delete none --json", "no_such_snat"),
        ("snat add masquerade --out-port nowhere --json", "no_such_port"),
        ("snat add 198.51.100.40 --from 2001:db8::/32 --json", "bad_snat"),
        ("snat add 198.51.100.40 --position 9 --json", "bad_snat"),
    ] {
        let error: Value = serde_json::from_str(&daemon.lbctl(line).err).unwrap();
        assert_eq!(error["error"]["code"].as_str(), Some(code), "{line}");
    }
    for (line, says) in [("snat add masquerde", "did you mean masquerade?"), ("snta list", "'snat'")] {
        let printed = daemon.lbctl(line);
        assert!(printed.status == 2 && printed.err.contains(says), "{line}: {printed:?}");
    }
    do_all(&daemon, &["service add tcp:198.51.100.8:80"]);
    let saved = out(&daemon, "save --full");
    let lines: Vec<_> = saved.lines().filter(|line| line.starts_with("snat")).collect();
    let expected = [
        "snat add none --to 10.0.0.0/8",
        "snat add 198.51.100.40,198.51.100.44/30 --from 192.0.2.0/24 --ports 2000-2999",
        "snat add masquerade --protocol udp --out-port north",
    ];
    assert_eq!(lines, expected);
    do_all(&daemon, &["snat delete none --to 10.0.0.0/8", "snat clear", "service clear"]);
    assert_eq!(json(&daemon, "snat list --json"), json!([]));
    assert_eq!(input(&daemon, "restore", &saved).status, 0);
    assert_eq!(out(&daemon, "save --full"), saved);
    let saved = out(&daemon, "save --json");
    do_all(&daemon, &["snat clear"]);
    assert_eq!(input(&daemon, "restore", &saved).status, 0);
    assert_eq!(out(&daemon, "save --json"), saved);
    daemon.stop();
}
