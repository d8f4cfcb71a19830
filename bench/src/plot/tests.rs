use super::*;
use crate::machine::Machine;
use crate::report::Subject;

fn report() -> Report {
    let machine =
        Machine { cpu: "A <quoted> & processor".to_owned(), tsc_hz: 2_600_000_000, ..Machine::default() };
    let mut report = Report::new(machine);
    let subject = |part, mode, protocol, flows, frame_bytes| Subject {
        part,
        mode,
        protocol,
        flows,
        frame_bytes,
        workers: 1,
        capacity: 1024,
        scheduler: "rr",
    };
    for (place, mode) in ["macswap", "limit", "dr", "nat-in", "nat-out"].into_iter().enumerate() {
        for protocol in ["tcp", "udp"] {
            for (power, flows) in [1, 1_000, 10_000, 100_000, 1_000_000, 10_000_000].into_iter().enumerate() {
                for frame_bytes in [60, 1500] {
                    let cycles = 30.0 + 40.0 * place as f64 * (1.0 + power as f64 / 3.0);
                    let subject = subject("inprocess", mode, protocol, flows, frame_bytes);
                    report.add(
                        &subject,
                        "cycles_per_packet",
                        "cycles",
                        vec![cycles, cycles * 0.9, cycles * 1.2],
                    );
                    report.add(&subject, "lost", "per million", vec![0.0]);
                }
            }
        }
    }
    for mode in ["dr", "nat-in"] {
        let subject = subject("newconn", mode, "tcp", 1_000_000, 60);
        report.add(&subject, "cycles_per_connection", "cycles", vec![900.0, 1000.0, 1300.0]);
    }
    report
}

#[test]
fn the_plot_is_an_svg_with_every_mode_point_and_bar() {
    let text = svg(&report()).unwrap().unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let words: Vec<_> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    for word in [
        "macswap",
        "limit",
        "dr",
        "nat-in",
        "nat-out",
        "10 M",
        "TCP, frames of 60 bytes",
        "UDP, frames of 1500 bytes",
    ] {
        assert!(words.contains(&word), "{word} is not in {words:?}");
    }
    // 5 modes, 4 panels, 6 numbers of flows; an error bar has a circle of its own.
    let count = |name| {
        document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", name))).count()
    };
    assert_eq!(count("circle"), 2 * (5 * 4 * 6) + 2);
    assert!(count("polyline") >= 5 * 4, "a line for each mode in each panel");
    // Written for whoever looks at it without this program.
    if let Ok(path) = std::env::var("BENCH_PLOT") {
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn where_nothing_was_measured_there_is_no_plot() {
    assert!(svg(&Report::new(Machine::default())).unwrap().is_none());
}

#[test]
fn flows_are_written_short() {
    for (flows, text) in [(1.0, "1"), (100.0, "100"), (10_000.0, "10 k"), (10_000_000.0, "10 M")] {
        assert_eq!(short(flows), text);
    }
}
