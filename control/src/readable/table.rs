//! Text in columns, for people.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};

/// A heading: text, or numbers below it when it begins with `#`.
pub type Heading = &'static str;

/// Prints `rows` below `headings`. Numbers go to the right.
pub fn print<const N: usize>(
    out: &mut dyn Write,
    headings: [Heading; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings.map(|heading| Cell::new(heading.trim_start_matches('#'))));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    writeln!(out, "{}", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let mut out = Vec::new();
        let rows = [["tcp:198.51.100.8:80".to_owned(), "7".into()], ["udp".into(), "1000".into()]];
        print(&mut out, ["SERVICE", "#ACTIVE"], rows).unwrap();
        let expected =
            "SERVICE              ACTIVE\ntcp:198.51.100.8:80       7\nudp                    1000\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
