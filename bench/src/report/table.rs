//! The figures of a part as a table that is no wider than a terminal: what all its lines have in common stands above it, and
//! where there are too many figures for a line they are told in several tables.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{NONE, Record, Subject, distinct};

/// Columns of characters.
const WIDTH: usize = 120;

/// What a line may be of: its name, and the text of it.
type Property = (&'static str, fn(&Subject) -> String);

/// A line's mode comes first. Runs come last, and are not the subject's.
const PROPERTIES: [Property; 6] = [
    ("protocol", |subject| subject.protocol.to_owned()),
    ("flows", |subject| count(subject.flows as usize)),
    ("frame", |subject| count(subject.frame_bytes)),
    ("workers", |subject| count(subject.workers)),
    ("scheduler", |subject| subject.scheduler.to_owned()),
    ("capacity", |subject| count(subject.capacity as usize)),
];

/// A line for each subject, a column for each metric, in it the median and, where the runs differ, the least and the
/// greatest.
pub fn of_part(part: &str, records: &[&Record]) -> String {
    let subjects = distinct(records.iter().map(|record| &record.subject));
    let of = |subject: &Subject| -> Vec<_> {
        records.iter().filter(|record| record.subject == *subject).copied().collect()
    };
    let runs = |subject: &&Subject| {
        let runs = distinct(of(subject).iter().map(|record| record.runs));
        runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let texts = |text: fn(&Subject) -> String| subjects.iter().map(|subject| text(subject)).collect();
    let mut properties: Vec<(&str, Vec<String>)> =
        PROPERTIES.into_iter().map(|(name, text)| (name, texts(text))).collect();
    properties.push(("runs", subjects.iter().map(runs).collect()));
    let modes = ("mode", texts(|subject| subject.mode.to_owned()));

    // What is the same everywhere needs no column.
    let (common, varying): (Vec<_>, Vec<_>) =
        properties.into_iter().partition(|(_, texts)| texts.iter().all(|text| *text == texts[0]));
    let common: Vec<_> = common
        .into_iter()
        .filter(|(_, texts)| texts[0] != NONE)
        .map(|(name, texts)| format!("{name} {}", texts[0]))
        .collect();
    let left: Vec<_> =
        [modes].into_iter().chain(varying).map(|(name, texts)| Column::new(name, texts)).collect();

    let metrics = distinct(records.iter().map(|record| (record.metric, record.unit)));
    let figures = metrics.into_iter().map(|(metric, unit)| {
        let figure = |subject: &&Subject| {
            let found = of(subject).into_iter().find(|record| (record.metric, record.unit) == (metric, unit));
            found.map_or_else(|| NONE.to_owned(), figure)
        };
        let name = if unit == "1" { broken(metric) } else { format!("{}\n{unit}", broken(metric)) };
        Column::new(&name, subjects.iter().map(figure).collect())
    });

    let title = format!("{part}: {}", common.join(", "));
    let mut text = wrapped(title.trim_end_matches([' ', ':']));
    for columns in fitting(&left, figures.collect()) {
        // A line that has none of these figures is not in this table.
        let lines =
            (0..subjects.len()).filter(|line| columns.iter().any(|column| column.cells[*line] != NONE));
        let table = rendered(left.iter().chain(&columns), &lines.collect::<Vec<_>>());
        text += &format!("{table}\n");
    }
    text
}

/// A text of any length, in lines that are not wider than a table.
pub fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            // What goes on is set in.
            lines += "\n   ";
            width = 3;
        }
        if width > 0 {
            lines += " ";
            width += 1;
        }
        lines += word;
        width += length;
    }
    lines + "\n"
}

struct Column {
    header: String,
    cells: Vec<String>,
}

impl Column {
    fn new(header: &str, cells: Vec<String>) -> Self {
        Self { header: header.to_owned(), cells }
    }

    /// With the space around it.
    fn width(&self) -> usize {
        let texts = self.header.lines().chain(self.cells.iter().map(String::as_str));
        2 + texts.map(|text| text.chars().count()).max().unwrap_or_default()
    }

    /// Numbers are at the right, and names at the left.
    fn alignment(&self) -> CellAlignment {
        let is_name = matches!(self.header.as_str(), "mode" | "protocol" | "scheduler");
        if is_name { CellAlignment::Left } else { CellAlignment::Right }
    }
}

/// As many columns at a time as there is room for beside those on the `left`.
fn fitting(left: &[Column], columns: Vec<Column>) -> Vec<Vec<Column>> {
    let room = WIDTH.saturating_sub(left.iter().map(Column::width).sum());
    let mut tables = vec![Vec::new()];
    let mut taken = 0;
    for column in columns {
        let width = column.width();
        if taken > 0 && taken + width > room {
            tables.push(Vec::new());
            taken = 0;
        }
        taken += width;
        if let Some(table) = tables.last_mut() {
            table.push(column);
        }
    }
    tables
}

/// These lines of the columns.
fn rendered<'a>(columns: impl Iterator<Item = &'a Column> + Clone, lines: &[usize]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let cell = |text: &str, column: &Column| Cell::new(text).set_alignment(column.alignment());
    table.add_row(columns.clone().map(|column| cell(&column.header, column)));
    for line in lines {
        table.add_row(columns.clone().map(|column| cell(&column.cells[*line], column)));
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The median, and what the runs lie between.
fn figure(record: &Record) -> String {
    let Record { value, min, max, .. } = *record;
    let (scale, suffix) = if value >= 1e6 { (1e6, " M") } else { (1.0, "") };
    let (value, min, max) = (number(value / scale), number(min / scale), number(max / scale));
    if min == max { format!("{value}{suffix}") } else { format!("{value} ({min}..{max}){suffix}") }
}

fn count(number: usize) -> String {
    if number == 0 { NONE.to_owned() } else { number.to_string() }
}

/// A long name in two lines, so that its column is not wider than its figures.
fn broken(name: &str) -> String {
    let middle = name.len() / 2;
    let breaks = name.match_indices('_').map(|(at, _)| at + 1).filter(|_| name.len() > 16);
    match breaks.min_by_key(|at| at.abs_diff(middle)) {
        Some(at) => format!("{}\n{}", &name[..at], &name[at..]),
        None => name.to_owned(),
    }
}

/// As many digits as say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        1.0.. => format!("{value:.2}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.6}"),
    }
}
