use super::*;
use crate::machine::Machine;
use crate::report::Subject;

/// In process.
const MODES: [&str; 7] = ["macswap", "limit", "limit-bare", "dr", "nat-in", "nat-out", "tun"];

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
    for (place, mode) in MODES.into_iter().enumerate() {
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
    for (mode, rate, full) in [("testpmd", 11.6e6, 0.01), ("dr", 9e6, 0.6), ("nat-in", 8e6, 0.7)] {
        for flows in [10_000, 1_000_000] {
            let subject = subject("wire", mode, "udp", flows, 60);
            report.add(&subject, "packets_per_second", "packets/s", vec![rate, rate * 0.9, rate * 1.1]);
            report.add(&subject, "wire_full", "1", vec![full]);
        }
    }
    let two = |part, mode, flows| Subject { workers: 2, ..subject(part, mode, "udp", flows, 60) };
    for flows in [10_000, 1_000_000] {
        report.add(&two("workers", "dr", flows), "ratio_to_one", "1", vec![1.9, 2.0, 2.1]);
        report.add(&two("workers", "nat-crossed", flows), "ratio_to_one", "1", vec![1.76, 1.7, 1.8]);
    }
    report.add(&two("wire", "nat-crossed-slices", 1000), "ratio_to_one", "1", vec![1.8, 1.9, 2.0]);
    report.add(&two("wire", "dr-slices", 1000), "packets_per_second", "packets/s", vec![6e6]);
    report.add(&subject("memory", "dr", "udp", 1_000_000, 60), "bytes_per_connection", "bytes", vec![122.0]);
    let publish = subject("silence", "publish", "udp", 1000, 60);
    report.add(&publish, "longest_silence", "us", vec![4.0, 5.0, 6.0]);
    report.add(&publish, "machine_longest_silence", "us", vec![3.0, 4.0, 5.0]);
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
        "TCP in process, frames of 60 bytes",
        "UDP in process, frames of 1500 bytes",
        "UDP on a wire, all they get through",
        "testpmd",
        "nat-crossed 10 k flows",
        "nat-crossed-slices",
        "1.76",
        "Memory",
        "122",
        "The longest silence",
        "publish",
        "publish (the machine alone)",
        "tun",
        "here the generator was the limit: it may be more",
    ] {
        assert!(words.contains(&word), "{word} is not in {words:?}");
    }
    // 4 panels, 6 numbers of flows, and on the wire 3 modes and 2 numbers of flows; an error bar has a circle of its own, and
    // there are 10 bars. What is hollow is drawn in two circles, as in the legend.
    let count = |name| {
        document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", name))).count()
    };
    assert_eq!(count("circle"), 2 * (MODES.len() * 4 * 6 + 3 * 2) + 10 + 2 + 2);
    assert!(count("polyline") >= MODES.len() * 4, "a line for each mode in each panel");
    // Written for whoever looks at it without this program.
    if let Ok(path) = std::env::var("BENCH_PLOT") {
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn no_legend_lies_over_a_line() {
    let text = svg(&report()).unwrap().unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let number = |node: &roxmltree::Node<'_, '_>, name| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let named =
        |name: &'static str| document.descendants().filter(move |node| node.tag_name().name() == name);
    let legends: Vec<_> =
        named("text").filter(|node| node.text().is_some_and(|text| text.trim() == "macswap")).collect();
    assert_eq!(legends.len(), 2, "one for each row of panels of it");
    for legend in legends {
        let y = number(&legend, "y");
        // The hollow circle belongs to the legend.
        let near = named("circle").filter(|circle| (number(circle, "cy") - y).abs() < 12.0);
        assert_eq!(near.count(), 0, "a point in the legend's strip at {y}");
    }
}

#[test]
fn a_mode_has_one_colour_everywhere_and_no_other_has_it() {
    assert!(MODES.iter().all(|mode| colour(mode) != OTHER));
    for (place, (mode, of_mode)) in COLOURS.iter().enumerate() {
        assert_eq!(colour(mode), *of_mode);
        assert_eq!(colour(&format!("{mode}-slices")), *of_mode);
        assert!(COLOURS[..place].iter().all(|(_, other)| other != of_mode), "{mode}");
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
