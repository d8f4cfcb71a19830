//! What no recording shows. The messages were compared with ipvsadm 1.31's own.

use super::super::names::NoNames;
use super::*;

fn words(line: &str) -> Vec<String> {
    line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn read(line: &str) -> Result<Command, Failure> {
    parse(&words(line), &mut NoNames)
}

#[test]
fn mistakes_are_named_as_ipvsadm_names_them() {
    let wrong = |message: &str| Failure::Words(message.to_owned());
    let option = |message: &str| Failure::Option(message.to_owned());
    let cases = [
        ("-n", Failure::NoCommand),
        ("foo", Failure::NoCommand),
        ("--bogus", Failure::NoCommand),
        ("--list=", Failure::NoCommand),
        ("--start-daemon", Failure::NoCommand),
        ("-Lq", option("-Lq: unknown option")),
        ("-Ln=5", option("-Ln=5: option does not take an argument")),
        ("-A -t", option("-t: missing argument")),
        ("--set -1 2 3", option("-1: unknown option")),
        ("foo -L", wrong("unexpected argument foo")),
        ("-L -- -x", wrong("unexpected argument -x")),
        ("-A -AD", wrong("invalid option `-AD'")),
        ("-A --start-daemon master", wrong("invalid option `master'")),
        ("--start-daemon x", wrong("illegal start-daemon parameter specified")),
        ("--stop-daemon x", wrong("illegal start_daemon specified")),
        ("--set 1 2", wrong("--set option requires 3 timeout values")),
        ("--set 1 2 3 4", wrong("unexpected argument 4")),
        ("--set 1 x 3", wrong("invalid timeout value `x' specified")),
        ("--set 2678401 1 1", wrong("invalid timeout value `2678401' specified")),
        (
            "-L -c -t 1.2.3.4:80",
            wrong(
                "The option 'service-address' conflicts with the 'connection' option in the 'list' command",
            ),
        ),
        (
            "-L --timeout --daemon",
            wrong("The option 'daemon' conflicts with the 'timeout' option in the 'list' command"),
        ),
        ("-L -c --stats", wrong("options conflicts in the list command")),
        ("-L --timeout --persistent-conn", wrong("options conflicts in the list command")),
        ("-C -n", wrong("Illegal 'numeric' option with the 'flush' command")),
        ("-S -c", wrong("Illegal 'connection' option with the 'save' command")),
        ("-Z -r 1.1.1.1", wrong("Illegal 'real-server' option with the 'zero' command")),
        ("-R -n", wrong("Illegal 'numeric' option with the 'restore' command")),
        ("-a -t 1.2.3.4:80 -r 1.1.1.1 --tun-csum", wrong("Tunnel options conflict with forward method")),
        ("-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type x", wrong("illegal tunnel type specified")),
        ("-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-port 0", wrong("illegal tunnel port specified")),
        (
            "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 1 --tun-csum --tun-nocsum",
            wrong("The option 'tun-csum' conflicts with the 'tun-nocsum' option in the 'gue' tunnel type"),
        ),
        ("-A -t 1.2.3.4:80 -p=", wrong("invalid timeout value `' specified")),
        ("-A -t 1.2.3.4:80 -b ,", wrong("invalid scheduler flag `,'")),
        ("-A -t 1.2.3.4:80 -b sh-port,,", wrong("incompatible scheduler flag `sh-port'")),
        ("--start-daemon master --mcast-group 1.2.3.4", wrong("invalid IPv4 mcast-group `1.2.3.4'")),
        ("--start-daemon master --mcast-group ::1", wrong("invalid IPv6 mcast-group `::1'")),
        ("--start-daemon master --mcast-port 0", wrong("illegal mcast-port specified")),
        ("--start-daemon master --mcast-ttl 256", wrong("illegal mcast-ttl specified")),
        ("--start-daemon master --sync-maxlen 65508", wrong("illegal sync-maxlen specified")),
        ("--start-daemon master --syncid x", wrong("illegal syncid specified")),
        ("-A -6 -f 1", wrong("-6 used before -f\n")),
        ("-A -t [1.2.3.4]:80", wrong("Zero port specified for non-persistent service")),
    ];
    for (line, failure) in cases {
        assert_eq!(read(line), Err(failure), "{line}");
    }
}

#[test]
fn a_ports_copy_depends_on_the_order_of_the_words() {
    let port = |line: &str| match read(line) {
        Ok(Command::Change(Change::AddDestination { destination, .. })) => destination.port,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(port("-a -t 1.2.3.4:80 -r 1.1.1.1 -m"), 80);
    assert_eq!(port("-a -r 1.1.1.1 -t 1.2.3.4:80 -m"), 0);
    assert_eq!(port("-a -r 1.1.1.1:81 -t 1.2.3.4:80 -m"), 81);
    assert_eq!(port("-a -r 1.1.1.1:81 -t 1.2.3.4:80"), 80);
    assert_eq!(port("-a -f 1 -r 1.1.1.1:81"), 81);
}

#[test]
fn a_service_has_what_the_words_say_and_defaults() {
    let spec = |line: &str| match read(line) {
        Ok(Command::Change(Change::AddService(spec))) => spec,
        other => panic!("{line}: {other:?}"),
    };
    let plain = spec("-A -t 1.2.3.4:80 -s= --pe=");
    assert_eq!((plain.scheduler.as_str(), plain.engine, plain.persistence), ("wlc", None, None));
    let mask = |line: &str| spec(line).persistence.unwrap().granularity;
    assert_eq!(mask("-A -t 1.2.3.4:80 -p -M 24"), Granularity::Mask([0, 0, 0, 24].into()));
    assert_eq!(mask("-A -f 8 -p -M 64 -6"), Granularity::Prefix(128), "-6 resets the mask");
    assert_eq!(mask("-A -f 8 -6 -p -M 64"), Granularity::Prefix(64));
    let long = spec("-A -t 1.2.3.4:80 -s nosuchschedulernamethatislong");
    assert_eq!(long.scheduler, "nosuchscheduler");
}

#[test]
fn help_and_version_look_at_no_other_word() {
    assert_eq!(read("-h -q"), Ok(Command::Help));
    assert_eq!(read("-vL"), Ok(Command::Version));
}
