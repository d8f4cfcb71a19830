//! The figures as a picture: what a packet costs over the number of flows, and new connections.
//!
//! It draws what was measured, each median with a bar from the least to the greatest run, and must never smooth, fit or
//! leave out anything.

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{NONE, Record, Report, distinct};

const WIDTH: u32 = 1200;
/// The height of a row of panels.
const ROW: u32 = 400;
const TITLE: u32 = 64;
/// Height of the last panel's title and axis, and of each of its bars.
const BARS: (u32, u32) = (110, 30);

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const PALE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// Colours that can be told apart also by those who see few (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x00, 0x00),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The picture, as SVG; `None` where nothing was measured that it would show.
pub fn svg(report: &Report) -> anyhow::Result<Option<String>> {
    let of = |part, metric| -> Vec<&Record> {
        let wanted = |record: &&Record| record.subject.part == part && record.metric == metric;
        report.records().iter().filter(wanted).collect()
    };
    let packets = of("inprocess", "cycles_per_packet");
    let connections = of("newconn", "cycles_per_connection");
    if packets.is_empty() && connections.is_empty() {
        return Ok(None);
    }
    let mut text = String::new();
    draw(&mut text, &packets, &connections, report)
        .map_err(|error| anyhow!("cannot draw the plot: {error}"))?;
    Ok(Some(text))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(text: &mut String, packets: &[&Record], connections: &[&Record], report: &Report) -> Drawn {
    let frames = distinct(packets.iter().map(|record| record.subject.frame_bytes));
    let protocols = distinct(packets.iter().map(|record| record.subject.protocol));
    let rows = frames.len() as u32 * ROW;
    let bars = if connections.is_empty() { 0 } else { BARS.0 + BARS.1 * connections.len() as u32 };
    let root = SVGBackend::with_string(text, (WIDTH, TITLE + rows + bars)).into_drawing_area();
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
    root.draw_text("director: cycles on one core", &(FONT, 22).into_font().color(&INK), (20, 12))?;
    root.draw_text(&subtitle, &(FONT, 13).into_font().color(&INK), (20, 40))?;

    let (_, rest) = root.split_vertically(TITLE);
    let (panels, last) = rest.split_vertically(rows);
    let modes = distinct(packets.iter().map(|record| record.subject.mode));
    let most = packets.iter().map(|record| record.max).fold(1.0, f64::max) * 1.08;
    let panels = panels.split_evenly((frames.len().max(1), protocols.len().max(1)));
    let places = frames.iter().flat_map(|bytes| protocols.iter().map(move |protocol| (*bytes, *protocol)));
    for (area, (bytes, protocol)) in panels.iter().zip(places) {
        let here =
            |record: &&&Record| (record.subject.frame_bytes, record.subject.protocol) == (bytes, protocol);
        let records: Vec<_> = packets.iter().filter(here).copied().collect();
        let title = format!("{}, frames of {bytes} bytes", protocol.to_uppercase());
        over_flows(area, &title, &records, &modes, most)?;
    }
    if !connections.is_empty() {
        new_connections(&last, connections, machine.tsc_hz as f64)?;
    }
    root.present()?;
    Ok(())
}

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// Cycles per packet over the number of flows, a line for each mode.
fn over_flows(area: &Area<'_>, title: &str, records: &[&Record], modes: &[&str], most: f64) -> Drawn {
    let flows = records.iter().map(|record| f64::from(record.subject.flows));
    let highest = flows.fold(10.0, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((0.7..highest).log_scale(), 0.0..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .axis_style(INK)
        .label_style((FONT, 12).into_font().color(&INK))
        .x_labels(10)
        .y_labels(8)
        .x_label_formatter(&|flows| short(*flows))
        .y_label_formatter(&|cycles| format!("{cycles:.0}"))
        .x_desc("flows, packets of each at random")
        .y_desc("cycles per packet")
        .draw()?;
    for (place, mode) in modes.iter().enumerate() {
        let mut points: Vec<_> = records.iter().filter(|record| record.subject.mode == *mode).collect();
        points.sort_by_key(|record| record.subject.flows);
        if points.is_empty() {
            continue;
        }
        let colour = colour(place);
        let line = points.iter().map(|record| (f64::from(record.subject.flows), record.value));
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(*mode)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        chart.draw_series(line.map(|point| Circle::new(point, 3, colour.filled())))?;
        chart.draw_series(points.iter().map(|record| {
            let flows = f64::from(record.subject.flows);
            ErrorBar::new_vertical(flows, record.min, record.value, record.max, colour.filled(), 7)
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(PALE)
        .label_font((FONT, 13).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// What a new connection costs, a bar for each way to have one.
fn new_connections(area: &Area<'_>, records: &[&Record], hertz: f64) -> Drawn {
    let most = records.iter().map(|record| record.max).fold(1.0, f64::max) * 1.2;
    let lines = records.len();
    let mut chart = ChartBuilder::on(area)
        .caption("New connections, every packet one", (FONT, 16).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(150)
        .build_cartesian_2d(0.0..most, 0.0..lines as f64)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .axis_style(INK)
        .disable_y_mesh()
        .label_style((FONT, 12).into_font().color(&INK))
        .x_labels(10)
        .y_labels(0)
        .x_label_formatter(&|cycles| format!("{cycles:.0}"))
        .x_desc("cycles per connection")
        .draw()?;
    let modes = distinct(records.iter().map(|record| (record.subject.mode, record.subject.scheduler)));
    let style = (FONT, 13).into_font().color(&INK);
    for (place, record) in records.iter().enumerate() {
        // The first is the topmost.
        let base = (lines - 1 - place) as f64;
        let subject = &record.subject;
        let kind = (subject.mode, subject.scheduler);
        let colour = colour(modes.iter().position(|mode| *mode == kind).unwrap_or_default());
        let bar = [(0.0, base + 0.2), (record.value, base + 0.8)];
        chart.draw_series([Rectangle::new(bar, colour.mix(0.75).filled())])?;
        let middle = base + 0.5;
        let bar = ErrorBar::new_horizontal(middle, record.min, record.value, record.max, INK.filled(), 7);
        chart.draw_series([bar])?;
        let scheduler = if subject.scheduler == NONE { "" } else { subject.scheduler };
        let name = format!("{} {} {scheduler}", subject.protocol.to_uppercase(), subject.mode);
        let left = style.pos(Pos::new(HPos::Right, VPos::Center));
        let right = style.pos(Pos::new(HPos::Left, VPos::Center));
        let rate = format!("{:.2} M/s", hertz / record.value / 1e6);
        // The names stand outside of the axes.
        let (x, y) = chart.backend_coord(&(0.0, middle));
        let (edge, _) = chart.backend_coord(&(record.max, middle));
        let (left_of, top_of) = area.get_base_pixel();
        area.draw_text(name.trim(), &left, (x - left_of - 8, y - top_of))?;
        area.draw_text(&rate, &right, (edge - left_of + 10, y - top_of))?;
    }
    Ok(())
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
