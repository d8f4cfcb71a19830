use serde_json::Value;

use super::table::number;
use super::*;

fn report() -> Report {
    let machine =
        Machine { cpu: "A \"quoted\" processor".to_owned(), tsc_hz: 2_600_000_000, ..Machine::default() };
    Report::new(machine)
}

fn subject(part: &'static str, mode: &'static str) -> Subject {
    Subject {
        part,
        mode,
        protocol: "udp",
        flows: 1000,
        frame_bytes: 60,
        workers: 1,
        capacity: 1024,
        scheduler: "rr",
    }
}

#[test]
fn the_median_is_in_the_middle() {
    for (sorted, expected) in [
        (&[][..], 0.0),
        (&[3.0], 3.0),
        (&[1.0, 4.0], 2.5),
        (&[1.0, 2.0, 100.0], 2.0),
        (&[1.0, 2.0, 4.0, 100.0], 3.0),
    ] {
        assert_eq!(median(sorted), expected, "{sorted:?}");
    }
}

#[test]
fn a_figure_is_of_all_runs_in_whatever_order() {
    let mut report = report();
    report.add(&subject("inprocess", "dr"), "cycles_per_packet", "cycles", vec![70.0, 50.0, 61.0]);
    report.add(&subject("inprocess", "dr"), "never_ran", "cycles", Vec::new());
    let [record] = report.records() else { panic!("{} records", report.records().len()) };
    assert_eq!((record.value, record.min, record.max, record.runs), (61.0, 50.0, 70.0, 3));
}

#[test]
fn json_is_a_list_of_objects_with_every_field() {
    let mut report = report();
    report.add(&subject("inprocess", "dr"), "cycles_per_packet", "cycles", vec![1.0, 2.0]);
    report.add(&subject("memory", "nat-in"), "bytes_per_connection", "bytes", vec![122.0]);
    let directory = tempfile::tempdir().unwrap();
    // Below a directory that is not there yet.
    let path = directory.path().join("bench").join("bench.json");
    report.write_json(&path).unwrap();
    let list: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    for object in list {
        for text in [
            "part",
            "mode",
            "protocol",
            "metric",
            "unit",
            "scheduler",
            "cpu",
            "commit",
            "kernel",
            "dpdk",
            "date",
        ] {
            assert!(object[text].is_string(), "{text}: {object}");
        }
        for number in
            ["flows", "frame_bytes", "workers", "capacity", "value", "min", "max", "runs", "tsc_hz", "cores"]
        {
            assert!(object[number].is_number(), "{number}: {object}");
        }
    }
    assert_eq!(list[0]["value"], 1.5);
    assert_eq!(list[1]["part"], "memory");
}

#[test]
fn the_table_has_every_figure_whatever_the_order_and_the_metrics() {
    let mut report = report();
    let (dr, nat, memory) =
        (subject("inprocess", "dr"), subject("inprocess", "nat-in"), subject("memory", "dr"));
    report.add(&dr, "lost", "per million", vec![0.0]);
    report.add(&memory, "bytes_per_connection", "bytes", vec![121.5]);
    report.add(&dr, "cycles_per_packet", "cycles", vec![61.0, 59.0, 75.5]);
    report.add(&nat, "cycles_per_packet", "cycles", vec![81.0]);
    report.add(&nat, "packets_per_second", "packets/s", vec![32_100_000.0, 31_500_000.0, 33_000_000.0]);
    let table = report.table();
    let line = |words: [&str; 2]| {
        let mut lines = table.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        let found = lines.next().unwrap_or_else(|| panic!("no line with {words:?} in\n{table}"));
        assert!(lines.next().is_none(), "two lines with {words:?} in\n{table}");
        found.to_owned()
    };
    assert!(line(["dr", "61.0"]).contains("61.0 (59.0..75.5)"), "{table}");
    assert!(line(["nat-in", "81.0"]).contains("32.1 (31.5..33.0) M"), "{table}");
    assert!(line(["dr", "122"]).contains("122"), "{table}");
    for part in ["inprocess: protocol udp", "memory: protocol udp"] {
        line([part, "capacity 1024"]);
    }
    assert!(table.contains("A \"quoted\" processor"), "the machine is named: {table}");
}

#[test]
fn no_line_is_wider_than_a_terminal_and_nothing_is_left_out() {
    let mut report = report();
    for (place, mode) in ["macswap", "a-mode-with-quite-a-long-name"].into_iter().enumerate() {
        let subject = Subject { capacity: 10_000_000 + place as u32, ..subject("inprocess", mode) };
        for metric in ["cycles_per_packet", "packets_per_second", "ratio_to_macswap", "cycles_over_macswap"] {
            report.add(&subject, metric, "packets/s", vec![1e7 + place as f64, 2e7, 3e7]);
        }
        for metric in ["longest_silence", "machine_longest_silence", "wire_full", "lost"] {
            report.add(&subject, metric, "us", vec![1000.0 + place as f64, 2000.0, 3000.0]);
        }
    }
    report.note("words ".repeat(100));
    let table = report.table();
    let widest = table.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(120), "{widest:?} in\n{table}");
    for metric in distinct(report.records().iter().map(|record| record.metric)) {
        assert!(metric.split_inclusive('_').all(|word| table.contains(word)), "{metric} in\n{table}");
    }
    for text in
        ["10000000", "10000001", "inprocess: protocol udp, flows 1000, frame 60, workers 1, scheduler rr"]
    {
        assert!(table.contains(text), "{text} in\n{table}");
    }
    assert_eq!(table.matches("words").count(), 100, "{table}");
}

#[test]
fn numbers_have_as_many_digits_as_say_something() {
    for (value, text) in [
        (0.0, "0"),
        (0.000_41, "0.000410"),
        (0.0123, "0.012"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (1234.5, "1234"),
    ] {
        assert_eq!(number(value), text);
    }
}
