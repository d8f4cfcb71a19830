//! A recording in parts: what was recorded, what came of it here, and what differs.

use std::fmt;

use similar::TextDiff;

/// Lines around a difference that are shown with it.
const CONTEXT: usize = 3;

/// A piece of a recording that is replayed as one: a command, or a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The number of its first line.
    pub line: usize,
    /// Its first line.
    pub title: String,
    /// Its lines, as recorded.
    pub expected: Vec<String>,
    /// Its lines, as replayed; those that were not replayed as recorded.
    pub got: Vec<String>,
}

impl Part {
    /// Whether everything came as recorded.
    pub fn is_alike(&self) -> bool {
        self.expected == self.got
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.title)
    }
}

/// The whole recording as a unified diff from what was recorded to what came; empty where nothing differs.
pub fn diff(name: &str, parts: &[Part]) -> String {
    let text = |lines: fn(&Part) -> &Vec<String>| {
        parts.iter().flat_map(lines).map(|line| format!("{line}\n")).collect::<String>()
    };
    let (expected, got) = (text(|part| &part.expected), text(|part| &part.got));
    let diff = TextDiff::from_lines(&expected, &got);
    diff.unified_diff().context_radius(CONTEXT).header(name, "replayed").to_string()
}

/// Cuts a text before every line for which `begins` holds. The first part may begin otherwise.
pub fn cut(text: &str, begins: impl Fn(&str) -> bool) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match parts.last_mut() {
            Some(part) if !begins(line) => part.expected.push(line.to_owned()),
            _ => parts.push(Part {
                line: number + 1,
                title: line.to_owned(),
                expected: vec![line.to_owned()],
                got: Vec::new(),
            }),
        }
    }
    parts
}
