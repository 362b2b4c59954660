//! What the sections of a report are made of: tables, wrapped lines, and text that cannot steer the terminal.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use unicode_width::UnicodeWidthChar as _;

use crate::record::{Record, Vantage};
use crate::terminal;

/// The longest line, in columns.
pub const WIDTH: u16 = 100;

/// Stands for what is not known; the list of what was not measured says why.
pub(super) const UNKNOWN: &str = "unknown";
/// Stands for what does not apply.
pub(super) const NONE: &str = "-";

/// One column of a table whose rows are made from `Row`s.
pub(super) struct Column<Row> {
    header: &'static str,
    alignment: CellAlignment,
    cell: fn(&Row) -> String,
}

/// A column of words.
pub(super) const fn left<Row>(header: &'static str, cell: fn(&Row) -> String) -> Column<Row> {
    Column { header, alignment: CellAlignment::Left, cell }
}

/// A column of numbers.
pub(super) const fn right<Row>(header: &'static str, cell: fn(&Row) -> String) -> Column<Row> {
    Column { header, alignment: CellAlignment::Right, cell }
}

/// A table with a header.
pub(super) fn table<'r, Row: 'r>(columns: &[Column<Row>], rows: impl IntoIterator<Item = &'r Row>) -> Table {
    let mut table = table_without_header(columns, rows);
    table.set_header(columns.iter().map(|column| Cell::new(column.header).set_alignment(column.alignment)));
    table
}

/// A table whose rows explain themselves.
pub(super) fn table_without_header<'r, Row: 'r>(
    columns: &[Column<Row>],
    rows: impl IntoIterator<Item = &'r Row>,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_width(WIDTH).set_content_arrangement(ContentArrangement::Dynamic);
    for row in rows {
        let cell = |column: &Column<Row>| Cell::new((column.cell)(row)).set_alignment(column.alignment);
        table.add_row(columns.iter().map(cell));
    }
    table
}

/// Appends a table under its title.
pub(super) fn section(text: &mut String, title: &str, table: &Table) {
    let _ = writeln!(text, "\n{title}\n{}", trimmed(table));
}

/// The lines of a table without the blanks that fill its last column.
pub(super) fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Appends a named value: `  Mode        pre-copy`.
pub(super) fn named(text: &mut String, name: &str, value: &str) {
    wrap(text, &format!("  {name:<11} "), value);
}

/// The side of a migration on which something was seen.
pub(super) const fn side(from: Vantage) -> &'static str {
    match from {
        Vantage::Source => "source",
        Vantage::Destination => "destination",
        Vantage::Observer => "observer",
    }
}

/// The host from whose point of view a record is, and the other end of the migration.
pub(super) fn ends(record: &Record) -> [&'static str; 2] {
    match &record.observers[..] {
        [first, _, ..] if first.role == Vantage::Destination => ["the destination", "the source"],
        [_, _, ..] => ["the source", "the destination"],
        _ => ["this host", "the other host"],
    }
}

/// Text from outside (a VM's name, an error of QEMU) without what would steer the terminal.
pub(super) fn clean(text: &str) -> String {
    terminal::clean(text).into_owned()
}

/// Appends `body` in lines of at most [`WIDTH`] columns; later lines are indented as far as `lead`.
pub(super) fn wrap(text: &mut String, lead: &str, body: &str) {
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
