//! The figures as a picture: what a packet costs and what a wire gets through over the number of flows; new connections, two
//! workers, memory and silence as bars.
//!
//! It draws what was measured, each median with a bar from the least to the greatest run, and must never smooth, fit or
//! leave out anything. A mode has the same colour everywhere.

mod bars;
mod lines;

use anyhow::anyhow;
use plotters::prelude::*;

use crate::report::{Record, Report, distinct};
use crate::wire::GENERATOR_IS_LIMIT;
use bars::Bars;
use lines::Lines;

const WIDTH: u32 = 1200;
const TITLE: u32 = 64;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const PALE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// The modes' colours, which can be told apart also by those who see few (Okabe and Ito, but for the last four).
const COLOURS: [(&str, RGBColor); 12] = [
    ("dr", RGBColor(0x00, 0x72, 0xb2)),
    ("nat-in", RGBColor(0xd5, 0x5e, 0x00)),
    ("nat-out", RGBColor(0x00, 0x9e, 0x73)),
    ("nat-crossed", RGBColor(0xcc, 0x79, 0xa7)),
    ("nat-own", RGBColor(0xe6, 0x9f, 0x00)),
    ("testpmd", RGBColor(0x56, 0xb4, 0xe9)),
    ("macswap", RGBColor(0x88, 0x88, 0x88)),
    ("limit", RGBColor(0x00, 0x00, 0x00)),
    ("limit-bare", RGBColor(0x8c, 0x6d, 0x1f)),
    ("tun", RGBColor(0x7b, 0x32, 0x94)),
    ("fullnat-in", RGBColor(0xa5, 0x2a, 0x2a)),
    ("fullnat-out", RGBColor(0x4d, 0x7c, 0x0f)),
];

/// Of modes that are drawn beside no others.
const OTHER: RGBColor = RGBColor(0x55, 0x66, 0x77);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A part of the picture, as wide as all of it.
enum Section<'a> {
    Lines(Lines<'a>),
    Bars(Bars<'a>),
}

impl Section<'_> {
    fn height(&self) -> u32 {
        match self {
            Section::Lines(lines) => lines.height(),
            Section::Bars(bars) => bars.height(),
        }
    }

    fn draw(&self, area: &Area<'_>) -> Drawn {
        match self {
            Section::Lines(lines) => lines.draw(area),
            Section::Bars(bars) => bars.draw(area),
        }
    }
}

/// The picture, as SVG; `None` where nothing was measured that it would show.
pub fn svg(report: &Report) -> anyhow::Result<Option<String>> {
    let of = |part, metric, workers: usize| -> Vec<&Record> {
        let wanted = |record: &&Record| {
            record.subject.part == part
                && record.metric == metric
                && (workers == 0 || record.subject.workers == workers)
        };
        report.records().iter().filter(wanted).collect()
    };
    let mut sections = Vec::new();
    let packets = of("inprocess", "cycles_per_packet", 1);
    for bytes in distinct(packets.iter().map(|record| record.subject.frame_bytes)) {
        let records = packets.iter().filter(|record| record.subject.frame_bytes == bytes).copied().collect();
        let title = format!("in process, frames of {bytes} bytes");
        let (unit, hollow) = ("cycles per packet", Vec::new());
        sections.push(Section::Lines(Lines { title, unit, scale: 1.0, records, hollow }));
    }
    // Slices are of two workers and of one; they are not to be compared with these.
    let wire = of("wire", "packets_per_second", 1);
    let whole = |record: &&Record| !record.subject.mode.ends_with("-slices");
    let title = "on a wire, all they get through".to_owned();
    let records = wire.into_iter().filter(whole).collect();
    let full = of("wire", "wire_full", 1).into_iter().filter(|record| record.value < GENERATOR_IS_LIMIT);
    let (unit, hollow) = ("million packets a second", full.map(|record| &record.subject).collect());
    sections.push(Section::Lines(Lines { title, unit, scale: 1e6, records, hollow }));

    let hertz = report.machine().tsc_hz as f64;
    let rate = move |cycles: f64| format!("{cycles:.0}: {:.2} M/s", hertz / cycles / 1e6);
    let plain = |value: f64| format!("{value:.0}");
    let ratio = |value: f64| format!("{value:.2}");
    let mut bars = |title, unit, records, label: Box<dyn Fn(f64) -> String>| {
        sections.push(Section::Bars(Bars { title, unit, records, label }));
    };
    let connections = of("newconn", "cycles_per_connection", 0);
    bars("New connections, every packet one", "cycles per connection", connections, Box::new(rate));
    let workers = of("workers", "ratio_to_one", 0);
    bars("Two workers in process", "times one worker", workers, Box::new(ratio));
    let workers = of("wire", "ratio_to_one", 0);
    bars("Two workers on a wire, in slices", "times one worker", workers, Box::new(ratio));
    bars("Memory", "bytes per connection, all in", of("memory", "bytes_per_connection", 0), Box::new(plain));
    // Each beside what the machine makes of the same loop.
    let is_silence = |record: &&Record| {
        matches!(record.metric, "longest_silence" | "machine_longest_silence")
            && record.subject.part == "silence"
    };
    let silence = report.records().iter().filter(is_silence).collect();
    bars("The longest silence", "microseconds", silence, Box::new(|us| format!("{us:.1}")));

    sections.retain(|section| match section {
        Section::Lines(lines) => !lines.records.is_empty(),
        Section::Bars(bars) => !bars.records.is_empty(),
    });
    if sections.is_empty() {
        return Ok(None);
    }
    let mut text = String::new();
    draw(&mut text, &sections, report).map_err(|error| anyhow!("cannot draw the plot: {error}"))?;
    Ok(Some(text))
}

fn draw(text: &mut String, sections: &[Section], report: &Report) -> Drawn {
    let height: u32 = sections.iter().map(Section::height).sum();
    let root = SVGBackend::with_string(text, (WIDTH, TITLE + height)).into_drawing_area();
    root.fill(&WHITE)?;
    let machine = report.machine();
    let subtitle = format!(
        "{}, TSC {:.2} GHz; {}; commit {}; {}. Median of the runs, bars from least to greatest.",
        machine.cpu,
        machine.tsc_hz as f64 / 1e9,
        machine.dpdk,
        machine.commit,
        machine.date
    );
    root.draw_text("director: make bench", &(FONT, 22).into_font().color(&INK), (20, 12))?;
    root.draw_text(&subtitle, &(FONT, 13).into_font().color(&INK), (20, 40))?;
    let (_, mut rest) = root.split_vertically(TITLE);
    for section in sections {
        let (area, below) = rest.split_vertically(section.height());
        section.draw(&area)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

fn colour(mode: &str) -> RGBColor {
    let mode = mode.trim_end_matches("-slices");
    COLOURS.iter().find(|(name, _)| *name == mode).map_or(OTHER, |(_, colour)| *colour)
}

/// 1000 as 1 k, a million as 1 M.
fn short(number: f64) -> String {
    match number {
        1e6.. => format!("{} M", number / 1e6),
        1e3.. => format!("{} k", number / 1e3),
        _ => format!("{number}"),
    }
}

#[cfg(test)]
mod tests;
