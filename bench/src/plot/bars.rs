//! Figures as bars, one below the other.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Drawn, FONT, INK, PALE, colour, short};
use crate::report::{NONE, Record, distinct};

/// Height of the title and the axis, and of each bar.
const AROUND: u32 = 110;
const BAR: u32 = 30;

/// A panel of bars.
pub struct Bars<'a> {
    /// What it is about.
    pub title: &'static str,
    /// What the values are in.
    pub unit: &'static str,
    /// What is drawn, the first topmost.
    pub records: Vec<&'a Record>,
    /// What stands beside a bar of this length.
    pub label: Box<dyn Fn(f64) -> String + 'a>,
}

impl Bars<'_> {
    /// How high it is.
    pub fn height(&self) -> u32 {
        AROUND + BAR * self.records.len() as u32
    }

    /// Draws it into `area`.
    pub fn draw(&self, area: &Area<'_>) -> Drawn {
        let records = &self.records;
        let most = records.iter().map(|record| record.max).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.25;
        let lines = records.len();
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 16).into_font().color(&INK))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(250)
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
            .x_label_formatter(&|value| {
                if most < 20.0 { format!("{value:.1}") } else { format!("{value:.0}") }
            })
            .x_desc(self.unit)
            .draw()?;
        let style = (FONT, 13).into_font().color(&INK);
        for (place, record) in records.iter().enumerate() {
            // The first is the topmost.
            let base = (lines - 1 - place) as f64;
            let bar = [(0.0, base + 0.2), (record.value, base + 0.8)];
            // What is only to be compared with is paler.
            let strength = if is_machines(record) { 0.35 } else { 0.75 };
            chart.draw_series([Rectangle::new(bar, colour(record.subject.mode).mix(strength).filled())])?;
            let middle = base + 0.5;
            let bar = ErrorBar::new_horizontal(middle, record.min, record.value, record.max, INK.filled(), 7);
            chart.draw_series([bar])?;
            let left = style.pos(Pos::new(HPos::Right, VPos::Center));
            let right = style.pos(Pos::new(HPos::Left, VPos::Center));
            // The names stand outside of the axes.
            let (x, y) = chart.backend_coord(&(0.0, middle));
            let (edge, _) = chart.backend_coord(&(record.max, middle));
            let (left_of, top_of) = area.get_base_pixel();
            area.draw_text(&self.name(record), &left, (x - left_of - 8, y - top_of))?;
            area.draw_text(&(self.label)(record.value), &right, (edge - left_of + 10, y - top_of))?;
        }
        Ok(())
    }

    /// What the bar is of, as far as the bars differ in it.
    fn name(&self, record: &Record) -> String {
        let subject = &record.subject;
        let mut words = vec![subject.mode.to_owned()];
        if is_machines(record) {
            words.push("(the machine alone)".to_owned());
        }
        let all =
            |text: fn(&Record) -> String| distinct(self.records.iter().map(|record| text(record))).len();
        if all(|record| record.subject.protocol.to_owned()) > 1 {
            words.insert(0, subject.protocol.to_uppercase());
        }
        if all(|record| record.subject.scheduler.to_owned()) > 1 && subject.scheduler != NONE {
            words.push(subject.scheduler.to_owned());
        }
        if all(|record| record.subject.flows.to_string()) > 1 {
            words.push(format!("{} flows", short(f64::from(subject.flows))));
        }
        words.join(" ")
    }
}

/// Whether it is of the machine and not of director.
fn is_machines(record: &Record) -> bool {
    record.metric.starts_with("machine_")
}
