//! The engine over a dataplane in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Direct, run, split};
use control::model::Change;
use control::protocol::Request;
use control::running::DestinationCounts;

#[test]
fn a_failed_publication_leaves_nothing_behind() {
    let mut direct = Direct::strict();
    run(&mut direct, &split("-A -t 198.51.100.8:80 -s rr"), "");
    direct.director.dataplane_mut().failure = Some("worker 2 does not answer".into());
    let message = "the dataplane did not take the change: worker 2 does not answer\n";
    for words in ["-A -t 198.51.100.8:81 -s rr", "-C", "-E -t 198.51.100.8:80 -s lc", "--set 1 1 1"] {
        let printed = run(&mut direct, &split(words), "");
        assert_eq!((printed.err.as_str(), printed.status), (message, 255), "{words}");
    }
    // In a batch, what IPVS refuses is still refused by its own name.
    let rules = "-A -t 198.51.100.8:80 -s rr\n-A -t 198.51.100.8:82 -s rr\n";
    let printed = run(&mut direct, &split("-R"), rules);
    assert_eq!(printed.err, format!("Service already exists\n{message}"));
    direct.director.dataplane_mut().failure = None;
    assert_eq!(run(&mut direct, &split("-Sn"), "").out, "-A -t 198.51.100.8:80 -s rr\n");
    assert_eq!(run(&mut direct, &split("-L --timeout"), "").out, "Timeout (tcp tcpfin udp): 900 120 300\n");
}

#[test]
fn a_batch_is_published_once_and_reading_and_zeroing_never() {
    let mut direct = Direct::strict();
    let rules = "-A -t 198.51.100.8:80 -s rr\n-a -t 198.51.100.8:80 -r 192.0.2.9 -m\n-D -t 198.51.100.8:81\n";
    assert_eq!(run(&mut direct, &split("-R"), rules).err, "No such service\n");
    for words in ["-Z", "-L", "-Lnc", "-S", "-D -t 198.51.100.8:81", "-Z -t 198.51.100.8:80"] {
        run(&mut direct, &split(words), "");
    }
    let memory = direct.director.dataplane();
    assert_eq!(memory.publications, 1);
    let published = memory.published.as_ref().unwrap();
    let service = published.services().next().unwrap();
    assert_eq!(published.destinations(service).count(), 1);
}

#[test]
fn counters_and_rates_reach_the_lists() {
    let mut direct = Direct::strict();
    run(&mut direct, &split("-A -t 198.51.100.8:80 -s rr"), "");
    run(&mut direct, &split("-a -t 198.51.100.8:80 -r 192.0.2.9 -m"), "");
    let mut counts = DestinationCounts { active: 3, inactive: 4, ..DestinationCounts::default() };
    counts.stats.connections = 7;
    counts.stats.in_packets = 1000;
    counts.stats.in_bytes = 123_456_789;
    direct.director.dataplane_mut().counts.insert(0, counts);
    direct.pass(2);
    let list = |direct: &mut Direct, words: &str| run(direct, &split(words), "").out;
    let title = "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  -> RemoteAddress:Port\n";
    assert_eq!(
        list(&mut direct, "-Ln -t 198.51.100.8:80 --stats"),
        format!(
            "{title}TCP  198.51.100.8:80                     7     1000        0  123456K        0\n  \
             -> 192.0.2.9:80                        7     1000        0  123456K        0\n"
        )
    );
    // 1000 packets in two seconds are 500 a second, of which the first sample counts a quarter.
    assert!(list(&mut direct, "-Ln --rate").contains("TCP  198.51.100.8:80                     1      125"));
    assert!(
        list(&mut direct, "-Ln")
            .contains("  -> 192.0.2.9:80                 Masq    1      3          4         \n")
    );
    run(&mut direct, &split("-Z"), "");
    assert!(list(&mut direct, "-Ln --stats").contains("TCP  198.51.100.8:80                     0        0"));
    assert!(list(&mut direct, "-Ln --rate").contains("TCP  198.51.100.8:80                     0        0"));
}

#[test]
fn a_deleted_destination_is_freed_in_time() {
    let mut direct = Direct::strict();
    run(&mut direct, &split("-A -t 198.51.100.8:80 -s rr"), "");
    run(&mut direct, &split("-a -t 198.51.100.8:80 -r 192.0.2.9 -m"), "");
    run(&mut direct, &split("-d -t 198.51.100.8:80 -r 192.0.2.9"), "");
    direct.pass(120);
    assert_eq!(direct.director.table().trash().count(), 1);
    direct.pass(1);
    assert_eq!(direct.director.table().trash().count(), 0);
}

#[test]
fn counters_and_rates_stand_still_without_run_estimation() {
    let mut direct = Direct::strict();
    run(&mut direct, &split("-A -t 198.51.100.8:80 -s rr"), "");
    run(&mut direct, &split("-a -t 198.51.100.8:80 -r 192.0.2.9 -m"), "");
    let mut counts = DestinationCounts::default();
    counts.stats.in_packets = 1000;
    direct.director.dataplane_mut().counts.insert(0, counts);
    direct.pass(2);
    let rate = |direct: &mut Direct| run(direct, &split("-Ln --rate"), "").out;
    let stats = |direct: &mut Direct| run(direct, &split("-Ln --stats"), "").out;
    let before = (rate(&mut direct), stats(&mut direct));
    assert!(before.0.contains(" 125 ") && before.1.contains(" 1000 "), "{before:?}");
    let set = |direct: &mut Direct, value| {
        let value = control::sysctl::Value::Number(value);
        let change = Change::SetSysctl { name: "run_estimation".into(), value };
        direct.director.handle(&Request::Change(change), direct.now).unwrap();
    };
    set(&mut direct, 0);
    direct.director.dataplane_mut().counts.get_mut(&0).unwrap().stats.in_bytes = 5000;
    direct.pass(10);
    assert_eq!((rate(&mut direct), stats(&mut direct)), before);
    set(&mut direct, 1);
    direct.pass(2);
    assert!(stats(&mut direct).contains(" 5000 "), "{}", stats(&mut direct));
    assert!(rate(&mut direct).contains("  94 "), "{}", rate(&mut direct));
}
