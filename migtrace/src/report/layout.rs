//! How a report is set as text: tables in columns, and lines that are wrapped.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use unicode_width::UnicodeWidthChar as _;

use super::content::{self, Alignment, Piece, Section};
use super::quantities::is_unit;

/// The longest line, in columns.
pub const WIDTH: u16 = 100;

/// Appends a section.
pub(super) fn print(section: &Section, text: &mut String) {
    if !section.title.is_empty() {
        text.push('\n');
        wrap(text, "", &section.title);
    }
    for piece in &section.pieces {
        match piece {
            Piece::Table(table) => {
                let _ = writeln!(text, "{}", trimmed(table));
            }
            Piece::Named(name, value) => wrap(text, &format!("  {name:<11} "), value),
            Piece::Said(_, lead, body) => wrap(text, lead, body),
            Piece::Item(item) => wrap(text, "  - ", item),
            Piece::Space => text.push('\n'),
            Piece::Drawn(drawn) => text.push_str(drawn),
        }
    }
}

/// A table in columns that fit the width.
fn set(rows: &content::Table) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_width(WIDTH).set_content_arrangement(ContentArrangement::Dynamic);
    let aligned = |alignment| match alignment {
        Alignment::Left => CellAlignment::Left,
        Alignment::Right => CellAlignment::Right,
    };
    if rows.has_header {
        let heading = |(header, alignment): &(_, _)| Cell::new(header).set_alignment(aligned(*alignment));
        table.set_header(rows.columns.iter().map(heading));
    }
    for row in &rows.rows {
        let cells = row.iter().zip(&rows.columns);
        let cell = |(cell, (_, alignment)): (&String, &(_, _))| {
            Cell::new(with_units_kept(cell)).set_alignment(aligned(*alignment))
        };
        table.add_row(cells.map(cell));
    }
    let widest = widest_column(&table.column_max_content_widths());
    for column in table.column_iter_mut() {
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(widest)));
    }
    table
}

/// How wide a column may be, with the blanks around it, so that all fit. Whatever the narrow ones leave is the others', each
/// as much.
fn widest_column(contents: &[u16]) -> u16 {
    const BLANKS: u16 = 2;
    let mut widths: Vec<u16> = contents.iter().map(|content| content.saturating_add(BLANKS)).collect();
    widths.sort_unstable();
    let mut room = WIDTH;
    for (index, width) in widths.iter().enumerate() {
        let share = room / (widths.len() - index) as u16;
        if *width > share {
            return share;
        }
        room -= width;
    }
    WIDTH
}

/// The lines of a table without the blanks that fill its last column.
pub(super) fn trimmed(table: &content::Table) -> String {
    let table = set(table);
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().replace(KEPT, " ")).collect();
    lines.join("\n")
}

/// A blank at which no line ends: no-break space.
const KEPT: char = '\u{a0}';

/// A cell that may be broken into lines, but not between a number and its unit, or before an error.
fn with_units_kept(cell: &str) -> String {
    let mut kept = String::with_capacity(cell.len());
    for (index, word) in cell.split(' ').enumerate() {
        let end_of_line = word.lines().next().unwrap_or_default();
        let is_unit = is_unit(end_of_line.trim_end_matches([')', ',', ';']));
        if index > 0 {
            kept.push(if is_unit || kept.ends_with('±') { KEPT } else { ' ' });
        }
        kept.push_str(word);
    }
    kept
}

/// Appends `body` in lines of at most [`WIDTH`] columns; later lines are indented as far as `lead`.
fn wrap(text: &mut String, lead: &str, body: &str) {
    let width = usize::from(WIDTH);
    let indent = lead.chars().count().min(width / 2);
    let mut line = lead.to_owned();
    let mut used = lead.chars().count();
    let mut fresh = true;
    for word in body.split(' ').filter(|w| !w.is_empty()) {
        let mut word = word;
        while !word.is_empty() {
            let gap = usize::from(!fresh);
            if used + gap + columns(word) <= width {
                line.extend(std::iter::repeat_n(' ', gap));
                line.push_str(word);
                used += gap + columns(word);
                fresh = false;
                break;
            }
            // A word longer than a line is broken; any other moves to the next line.
            if fresh {
                let (fits, rest) = word.split_at(fitting(word, width.saturating_sub(used)));
                line.push_str(fits);
                word = rest;
            }
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent);
            used = indent;
            fresh = true;
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The most columns that a word can take. A combining character can widen the letter before it, by one column at most.
fn columns(word: &str) -> usize {
    word.chars().map(columns_of).sum()
}

fn columns_of(letter: char) -> usize {
    letter.width().unwrap_or(1).max(1)
}

/// How many bytes of a word fit into `room` columns. At least one letter, so that the rest always gets shorter.
fn fitting(word: &str, room: usize) -> usize {
    let mut used = 0;
    let mut fits = |letter: &char| {
        used += columns_of(*letter);
        used <= room
    };
    let bytes = word.chars().take_while(|letter| fits(letter)).map(char::len_utf8).sum();
    word.chars().next().map_or(0, char::len_utf8).max(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_do_not_fit_share_what_the_narrow_ones_leave() {
        assert_eq!(widest_column(&[14, 19, 19, 16, 19, 19]), (WIDTH - 16) / 5);
        assert_eq!(widest_column(&[8, 8, 60, 60]), (WIDTH - 20) / 2);
        assert_eq!(widest_column(&[20, 20]), WIDTH);
        assert_eq!(widest_column(&[u16::MAX]), WIDTH);
    }

    #[test]
    fn a_number_and_its_unit_stay_on_one_line() {
        let cells = ["12.3 ms (10.1 to 14.5 ms)\n1.59 GiB ± 0.02 GiB", "3 of 5 runs"];
        let kept = cells.map(|cell| with_units_kept(cell).replace(KEPT, "_"));
        assert_eq!(kept, ["12.3_ms (10.1 to 14.5_ms)\n1.59_GiB ±_0.02_GiB", "3 of 5 runs"]);
    }
}
