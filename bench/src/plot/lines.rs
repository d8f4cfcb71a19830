//! A figure over the number of flows: a panel for each protocol, a line for each mode.

use plotters::prelude::*;

use super::{Area, Drawn, FONT, INK, PALE, colour, short};
use crate::report::{Record, distinct};

/// The height of a row of panels.
const ROW: u32 = 400;

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
}

impl Lines<'_> {
    /// How high they are.
    pub fn height(&self) -> u32 {
        ROW
    }

    /// Draws them into `area`.
    pub fn draw(&self, area: &Area<'_>) -> Drawn {
        let protocols = distinct(self.records.iter().map(|record| record.subject.protocol));
        let most = self.records.iter().map(|record| record.max / self.scale).fold(1.0, f64::max) * 1.08;
        for (panel, protocol) in area.split_evenly((1, protocols.len())).iter().zip(protocols) {
            let records: Vec<_> =
                self.records.iter().filter(|record| record.subject.protocol == protocol).copied().collect();
            self.panel(panel, &format!("{}, {}", protocol.to_uppercase(), self.title), &records, most)?;
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
            let line =
                points.iter().map(|record| (f64::from(record.subject.flows), record.value / self.scale));
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
                .label(mode)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
            chart.draw_series(line.map(|point| Circle::new(point, 3, colour.filled())))?;
            chart.draw_series(points.iter().map(|record| {
                let flows = f64::from(record.subject.flows);
                let [min, value, max] =
                    [record.min, record.value, record.max].map(|value| value / self.scale);
                ErrorBar::new_vertical(flows, min, value, max, colour.filled(), 7)
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
}
