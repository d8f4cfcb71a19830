//! A figure over the number of flows: a panel for each protocol, a line for each mode. What line is whose stands above the
//! panels, where it is in no line's way.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Drawn, FONT, INK, PALE, colour, short};
use crate::report::{Record, Subject, distinct};

/// The height of a row of panels, and of what stands above it.
const ROW: u32 = 400;
const LEGEND: u32 = 30;

/// Widths in the legend: before it and between two entries, of a sample of a line, and of a character, roughly.
const SPACE: i32 = 24;
const SAMPLE: i32 = 22;
const CHARACTER: i32 = 7;

const RADIUS: i32 = 3;

/// Panels beside each other.
pub struct Lines<'a> {
    /// What they are about; the protocol is added.
    pub title: String,
    /// What the values are in, after they have been divided by `scale`.
    pub unit: &'static str,
    /// See `unit`.
    pub scale: f64,
    /// What is drawn.
    pub records: Vec<&'a Record>,
    /// Of these, those for which it was not the forwarder that was measured but the generator.
    pub hollow: Vec<&'a Subject>,
}

impl Lines<'_> {
    /// How high they are.
    pub fn height(&self) -> u32 {
        LEGEND + ROW
    }

    /// Draws them into `area`.
    pub fn draw(&self, area: &Area<'_>) -> Drawn {
        let protocols = distinct(self.records.iter().map(|record| record.subject.protocol));
        let most = self.records.iter().map(|record| record.max / self.scale).fold(1.0, f64::max) * 1.08;
        let (legend, area) = area.split_vertically(LEGEND);
        self.legend(&legend)?;
        for (panel, protocol) in area.split_evenly((1, protocols.len())).iter().zip(protocols) {
            let records: Vec<_> =
                self.records.iter().filter(|record| record.subject.protocol == protocol).copied().collect();
            self.panel(panel, &format!("{} {}", protocol.to_uppercase(), self.title), &records, most)?;
        }
        Ok(())
    }

    fn panel(&self, area: &Area<'_>, title: &str, records: &[&Record], most: f64) -> Drawn {
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
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_desc("flows, packets of each at random")
            .y_desc(self.unit)
            .draw()?;
        for mode in distinct(records.iter().map(|record| record.subject.mode)) {
            let mut points: Vec<_> = records.iter().filter(|record| record.subject.mode == mode).collect();
            points.sort_by_key(|record| record.subject.flows);
            let colour = colour(mode);
            let place = |record: &Record| (f64::from(record.subject.flows), record.value / self.scale);
            let line = points.iter().map(|record| place(record));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            chart.draw_series(points.iter().map(|record| {
                let flows = f64::from(record.subject.flows);
                let [min, value, max] =
                    [record.min, record.value, record.max].map(|value| value / self.scale);
                ErrorBar::new_vertical(flows, min, value, max, colour.filled(), 7)
            }))?;
            // Last, so that what is hollow has nothing in it.
            let circles = |record: &&&Record| circle(place(record), colour, self.is_hollow(record));
            chart.draw_series(points.iter().flat_map(circles))?;
        }
        Ok(())
    }

    fn is_hollow(&self, record: &Record) -> bool {
        self.hollow.contains(&&record.subject)
    }

    fn legend(&self, area: &Area<'_>) -> Drawn {
        let style = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        let (mut x, y) = (SPACE, LEGEND as i32 / 2);
        let text = |x: &mut i32, text: &str| {
            area.draw_text(text, &style, (*x, y))?;
            *x += CHARACTER * text.chars().count() as i32 + SPACE;
            Drawn::Ok(())
        };
        for mode in distinct(self.records.iter().map(|record| record.subject.mode)) {
            let colour = colour(mode);
            area.draw(&PathElement::new([(x, y), (x + SAMPLE, y)], colour.stroke_width(3)))?;
            x += SAMPLE + 6;
            text(&mut x, mode)?;
        }
        if self.records.iter().any(|record| self.is_hollow(record)) {
            for circle in circle((x + RADIUS, y), INK, true) {
                area.draw(&circle)?;
            }
            x += 2 * RADIUS + 6;
            text(&mut x, "here the generator was the limit: it may be more")?;
        }
        Ok(())
    }
}

/// A point of a line.
fn circle<C>(at: C, colour: RGBColor, is_hollow: bool) -> Vec<Circle<C, i32>>
where
    C: Copy,
{
    let full = Circle::new(at, RADIUS, colour.filled());
    if is_hollow {
        vec![Circle::new(at, RADIUS, WHITE.filled()), Circle::new(at, RADIUS, colour.stroke_width(1))]
    } else {
        vec![full]
    }
}
