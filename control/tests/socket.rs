//! The daemon's socket and lbctl, as two processes see each other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Daemon, Printed, finish, split};
use control::model::Protocol;
use control::protocol::MAX_CHANGING_LINE;
use control::running::ConnectionRow;
use control::server::{BindError, Server, SocketOptions};
use control::supported;
use serde_json::{Value, json};

#[test]
fn what_the_dataplane_cannot_do_is_refused_and_nothing_is_changed() {
    let daemon = Daemon::start(supported::check, |_| {});
    assert_eq!(daemon.lbctl("-A -t 198.51.100.8:80 -s rr").status, 0);
    assert_eq!(daemon.lbctl("-a -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 1").status, 0);
    let before = daemon.lbctl("-Sn").out;
    assert_eq!(before, "-A -t 198.51.100.8:80 -s rr\n-a -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 1\n");
    let printed = daemon.lbctl("--start-daemon master --mcast-interface lo");
    assert!(printed.err.starts_with("director does not "), "{printed:?}");
    assert_eq!((printed.status, printed.err.lines().count()), (255, 1));
    assert_eq!(daemon.lbctl("-Sn").out, before);
    let publications = daemon.stop();
    assert_eq!(publications, 2);
}

/// A release build takes a tenth of what is allowed here, in which an unoptimised one must do on a busy machine.
#[test]
fn a_thousand_services_and_twenty_thousand_destinations_are_restored_and_listed() {
    let daemon = Daemon::start(supported::check, |_| {});
    let mut rules = String::new();
    for service in 0..1000 {
        let service = format!("-t 198.51.100.8:{}", 1000 + service);
        rules += &format!("-A {service} -s wrr\n");
        for server in 0..20 {
            rules += &format!("-a {service} -r 192.0.2.{}:8000 -m -w {server}\n", 1 + server);
        }
    }
    let time = |limit: u64, what: &str, run: &dyn Fn() -> Printed| {
        let begin = Instant::now();
        let printed = run();
        let took = begin.elapsed();
        eprintln!("{what}: {took:?}");
        assert_eq!((printed.err.as_str(), printed.status), ("", 0));
        assert!(took < Duration::from_secs(limit), "{what}: {took:?}");
        printed.out
    };
    time(20, "restore", &|| daemon.command("ipvsadm", &["-R".into()], &rules));
    let list = time(10, "list", &|| daemon.lbctl("-L -n"));
    assert_eq!(list.lines().count(), 21_003);
    let saved = daemon.lbctl("-S -n").out;
    assert_eq!(saved.lines().count(), 21_000);
    // A single change costs no more in a large table.
    let begin = Instant::now();
    for weight in 0..20 {
        let line = format!("-e -t 198.51.100.8:1500 -r 192.0.2.7:8000 -m -w {weight}");
        assert_eq!(daemon.lbctl(&line).status, 0);
    }
    assert!(begin.elapsed() < Duration::from_secs(4), "20 edits: {:?}", begin.elapsed());
    assert_eq!(daemon.lbctl("-e -t 198.51.100.8:1500 -r 192.0.2.7:8000 -m -w 6").status, 0);
    // ipvsadm-restore replaces the table; a comment and blank lines are passed over.
    let printed = daemon.command("/usr/sbin/ipvsadm-restore", &[], &format!("# rules\n\n{saved}"));
    assert_eq!((printed.out.as_str(), printed.err.as_str(), printed.status), ("", "", 0));
    assert_eq!(daemon.command("ipvsadm-save", &["-n".into()], "").out, saved);
    // The rules go to the workers by the thousand.
    assert_eq!(daemon.stop(), 21 + 21 + 1 + 21);
}

#[test]
fn a_restore_goes_on_and_stops_where_ipvsadm_does() {
    let daemon = Daemon::start(supported::check, |_| {});
    let restore = |rules: &str| daemon.command("ipvsadm", &["-R".into()], rules);
    let a = "-A -t 198.51.100.8:80 -s rr\n";
    let exists = "Service already exists\n";
    // A refused line is no reason to stop, and the last line's status is the whole one's.
    let printed = restore(&format!("{a}ipvsadm {a}\n \n-L -n -q\n-Z"));
    assert_eq!((printed.err, printed.status), (format!("{exists}-q: unknown option\n"), 0));
    let printed = restore(&format!("-C\n{a}{a}"));
    assert_eq!((printed.err.as_str(), printed.status), (exists, 255));
    // Wrong words are.
    let printed = restore("-C\n-A -s rr\n-A -t 198.51.100.8:81 -s rr\n");
    let message = "You need to supply the 'service-address' option for the 'add-service' command\n";
    assert_eq!((printed.err.as_str(), printed.status), (message, 2));
    assert_eq!(daemon.lbctl("-Sn").out, "");
    let printed = restore("-R\n-C\n");
    assert_eq!(printed.err, "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n");
    assert_eq!(printed.status, 255);
    // Lists are printed where they stand.
    let printed = restore(&format!("{a}-S -n\n-D -t 198.51.100.8:80\n-S -n\n"));
    assert_eq!((printed.out.as_str(), printed.status), (a, 0));
    let printed = restore("-L -n -t 198.51.100.8:9\n-C\n");
    assert_eq!((printed.err.as_str(), printed.status), ("No such service\n", 1));
    daemon.stop();
}

#[test]
fn without_a_daemon_one_line_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let lbctl = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
        command.env_remove("LBCTL_SOCKET").args(words).arg("--socket").arg(&socket);
        finish(command, "")
    };
    for (words, status) in [(&["-C"][..], 255), (&["-L"], 1), (&["-S"], 1), (&[], 1), (&["status"], 1)] {
        let printed = lbctl(words);
        assert_eq!(printed.status, status, "{words:?}");
        assert_eq!((printed.out.as_str(), printed.err.lines().count()), ("", 1));
        assert!(printed.err.contains("no director serves") && printed.err.contains("none.sock"));
    }
    // Words are looked at first.
    assert_eq!(lbctl(&["-A"]).status, 2);
}

#[test]
fn the_readable_commands_print_text_and_json() {
    let daemon = Daemon::start(supported::check, |_| {});
    let counters = daemon.lbctl("counters").out;
    assert!(
        counters.contains("received                                   10                5               15")
    );
    assert!(counters.contains("  no_neighbour") && !counters.contains("truncated"));
    assert!(daemon.lbctl("ports").out.starts_with("north: link up, 10000 Mbit/s\n"));
    assert!(daemon.lbctl("status").out.contains("destinations  0 of 40000 "));
    for name in ["counters", "ports", "status"] {
        let json: Value = serde_json::from_str(&daemon.lbctl(&format!("{name} --json")).out).unwrap();
        assert!(json.is_array() || json["table"]["destination_limit"] == 40_000);
    }
    assert_eq!(daemon.lbctl("nosuch").status, 2);
    let help = daemon.lbctl("--help");
    assert!(help.status == 0 && help.out.contains("counters") && help.out.contains("lbctl -A -t"));
    assert!(daemon.command("ipvsadm", &["--help".into()], "").out.starts_with("ipvsadm v1.31 2019/12/24"));
    daemon.stop();
}

/// Sends `line` and reads one line.
fn exchange(stream: &mut UnixStream, line: &[u8]) -> Value {
    stream.write_all(line).unwrap();
    stream.write_all(b"\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn bad_requests_get_an_error_and_the_connection_goes_on() {
    let daemon = Daemon::start(supported::check, |_| {});
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let cases: [(&[u8], Value, &str); 10] = [
        (b"{", json!(null), "bad_json"),
        (b"\xff\xfe", json!(null), "bad_json"),
        (b"[]", json!(null), "bad_request"),
        (b"{\"id\":1,\"request\":\"status\"}", json!(1), "unsupported_version"),
        (b"{\"id\":\"x\",\"version\":2,\"request\":\"status\"}", json!("x"), "unsupported_version"),
        (b"{\"id\":[1],\"version\":1,\"request\":\"status\"}", json!(null), "bad_request"),
        (b"{\"id\":2,\"version\":1}", json!(2), "bad_request"),
        (b"{\"id\":3,\"version\":1,\"request\":\"nonsense\"}", json!(3), "bad_request"),
        (b"{\"id\":4,\"version\":1,\"request\":\"status\",\"more\":1}", json!(4), "bad_request"),
        (
            b"{\"id\":5,\"version\":1,\"request\":{\"change\":{\"set_timeouts\":{\"tcp\":1,\"tcp_fin\":1,\"udp\":1,\"x\":1}}}}",
            json!(5),
            "bad_request",
        ),
    ];
    for (line, id, code) in cases {
        let answer = exchange(&mut stream, line);
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{answer}");
        assert_eq!(answer["version"], 1);
    }
    let answer = exchange(&mut stream, b"\n{\"id\":6,\"version\":1,\"request\":\"timeouts\"}");
    assert_eq!(
        answer,
        json!({"version": 1, "id": 6, "reply": {"timeouts": {"tcp": 900, "tcp_fin": 120, "udp": 300}}})
    );
    // Too long a line ends the connection: where the next one begins cannot be known.
    stream.write_all(&vec![b'x'; MAX_CHANGING_LINE]).unwrap();
    let mut answers = BufReader::new(stream).lines();
    let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
    assert_eq!(answer["error"]["code"], "line_too_long");
    assert!(answers.next().is_none_or(|line| line.is_err()));
    daemon.stop();
}

#[test]
fn idle_and_slow_peers_keep_nobody_waiting() {
    let daemon = Daemon::start(supported::check, |memory| {
        let endpoint: SocketAddr = "192.0.2.1:80".parse().unwrap();
        memory.connections = (0..20_000)
            .map(|i| ConnectionRow {
                protocol: Some(Protocol::Tcp),
                state: "ESTABLISHED".into(),
                expires: 900,
                client: SocketAddr::new([203, 0, 113, 1].into(), i as u16),
                virtual_address: endpoint,
                destination: endpoint,
                local: None,
                snat: false,
                engine: None,
            })
            .collect();
    });
    let peers: Vec<_> = (0..30).map(|_| UnixStream::connect(&daemon.socket).unwrap()).collect();
    for (i, mut peer) in peers.iter().enumerate() {
        // Half of them stop in the middle of a line, the others ask for much and read nothing.
        let line =
            if i % 2 == 0 { "{\"version\":1," } else { "{\"version\":1,\"request\":\"connections\"}\n" };
        peer.write_all(line.as_bytes()).unwrap();
    }
    let begin = Instant::now();
    let list = daemon.lbctl("-Lnc").out;
    assert_eq!(list.lines().count(), 20_002);
    assert_eq!(daemon.lbctl("-C").status, 0);
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(peers);
    daemon.stop();
}

#[test]
fn whoever_is_not_allowed_to_may_only_read() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("not run: only root can be somebody else");
        return;
    }
    let daemon = Daemon::start(supported::check, |_| {});
    daemon.lbctl("-A -t 198.51.100.8:80 -s rr");
    // Somebody else may not be able to reach the build's directory.
    let lbctl = daemon.directory().join("lbctl");
    std::fs::copy(env!("CARGO_BIN_EXE_lbctl"), &lbctl).unwrap();
    let nobody = |line: &str, input: &str| {
        let mut command = Command::new(&lbctl);
        command.uid(65534).gid(65534).args(split(line)).env("LBCTL_SOCKET", &daemon.socket);
        finish(command, input)
    };
    assert_eq!(nobody("-Sn", "").out, "-A -t 198.51.100.8:80 -s rr\n");
    let printed = nobody("-C", "");
    assert_eq!((printed.err.as_str(), printed.status), ("Permission denied (you must be root)\n", 255));
    let printed = nobody("-R", "-C\n-Z\n");
    assert_eq!((printed.err.as_str(), printed.status), ("Permission denied (you must be root)\n", 255));
    assert_eq!(daemon.lbctl("-Sn").out, "-A -t 198.51.100.8:80 -s rr\n");
    daemon.stop();
}

#[test]
fn members_of_a_named_group_may_change() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("not run: only root can be somebody else");
        return;
    }
    let daemon = Daemon::start_for(supported::check, |_| {}, |options| options.change_gids = vec![54_321]);
    let lbctl = daemon.directory().join("lbctl");
    // By a process of its own: what another test starts meanwhile would hold ours open for writing, and it could not be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_lbctl")).arg(&lbctl).status().unwrap();
    assert!(copied.success());
    // Whatever umask it inherited: a server of another test changes that for a moment when it makes its socket.
    std::fs::set_permissions(&lbctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let by = |gid: u32| {
        let mut command = Command::new(&lbctl);
        command.uid(65534).gid(gid).arg("-C").env("LBCTL_SOCKET", &daemon.socket);
        finish(command, "").status
    };
    assert_eq!((by(54_321), by(54_322)), (0, 255));
    daemon.stop();
}

#[tokio::test]
async fn the_socket_is_taken_replaced_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("director.sock");
    let mut options = SocketOptions::new(&path);
    options.mode = 0o640;
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");
    let server = Server::bind(options.clone()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let error = Server::bind(options.clone()).unwrap_err();
    assert!(
        matches!(error, BindError::InUse(_))
            && error.to_string().starts_with("another director is serving /")
    );
    drop(server);
    assert!(!path.exists());

    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(Server::bind(options.clone()).unwrap_err(), BindError::NotASocket(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");

    options.path = directory.path().join("nowhere/director.sock");
    let message = Server::bind(options).unwrap_err().to_string();
    assert!(
        message.contains("nowhere/director.sock: bind it (is its directory there?): No such file"),
        "{message}"
    );
}
