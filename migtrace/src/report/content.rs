//! What a report says, before it is set as text or as HTML: sections of tables, named values and sentences.

use std::borrow::Cow;

use crate::record::{Record, Vantage};
use crate::terminal;

/// Stands for what is not known; the list of what was not measured says why.
pub(super) const UNKNOWN: &str = "unknown";
/// Stands for what does not apply.
pub(super) const NONE: &str = "-";

/// A part of a report.
pub(super) struct Section {
    /// Empty where the content needs none.
    pub(super) title: String,
    pub(super) pieces: Vec<Piece>,
}

/// What a section is made of.
pub(super) enum Piece {
    Table(Table),
    /// A named value: `Mode: pre-copy`.
    Named(&'static str, String),
    /// A sentence, after what it begins with: `  NOTE: `.
    Said(Weight, String, String),
    /// An item of a list.
    Item(String),
    /// An empty line in text.
    Space,
    /// Lines drawn with letters. HTML has its own charts.
    Drawn(String),
}

/// How much a sentence matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Weight {
    Usual,
    /// It has to be known beside the figures.
    Note,
    /// The figures may be wrong.
    Alarm,
}

impl Section {
    pub(super) fn titled(title: impl Into<String>, pieces: Vec<Piece>) -> Self {
        Self { title: title.into(), pieces }
    }

    pub(super) fn untitled(pieces: Vec<Piece>) -> Self {
        Self { title: String::new(), pieces }
    }
}

/// A sentence.
pub(super) fn said(lead: &str, body: impl Into<String>) -> Piece {
    Piece::Said(Weight::Usual, lead.to_owned(), body.into())
}

/// A sentence that has to be known beside the figures.
pub(super) fn note(lead: &str, body: impl Into<String>) -> Piece {
    Piece::Said(Weight::Note, lead.to_owned(), body.into())
}

/// A sentence that says why the figures may be wrong.
pub(super) fn alarm(lead: &str, body: impl Into<String>) -> Piece {
    Piece::Said(Weight::Alarm, lead.to_owned(), body.into())
}

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Alignment {
    Left,
    Right,
}

/// Rows of text in columns.
pub(super) struct Table {
    /// Of each column: its heading and how it is aligned.
    pub(super) columns: Vec<(Cow<'static, str>, Alignment)>,
    /// Whether the headings are shown; otherwise the rows explain themselves.
    pub(super) has_header: bool,
    pub(super) rows: Vec<Vec<String>>,
}

/// One column of a table whose rows are made from `Row`s.
pub(super) struct Column<Row> {
    header: &'static str,
    alignment: Alignment,
    cell: fn(&Row) -> String,
}

/// A column of words.
pub(super) const fn left<Row>(header: &'static str, cell: fn(&Row) -> String) -> Column<Row> {
    Column { header, alignment: Alignment::Left, cell }
}

/// A column of numbers.
pub(super) const fn right<Row>(header: &'static str, cell: fn(&Row) -> String) -> Column<Row> {
    Column { header, alignment: Alignment::Right, cell }
}

/// A table with a header.
pub(super) fn table<'r, Row: 'r>(columns: &[Column<Row>], rows: impl IntoIterator<Item = &'r Row>) -> Table {
    Table { has_header: true, ..table_without_header(columns, rows) }
}

/// A table whose rows explain themselves.
pub(super) fn table_without_header<'r, Row: 'r>(
    columns: &[Column<Row>],
    rows: impl IntoIterator<Item = &'r Row>,
) -> Table {
    let cells = |row: &'r Row| columns.iter().map(|column| (column.cell)(row)).collect();
    Table {
        columns: columns.iter().map(|column| (column.header.into(), column.alignment)).collect(),
        has_header: false,
        rows: rows.into_iter().map(cells).collect(),
    }
}

/// The side of a migration on which something was seen.
pub(super) const fn side(from: Vantage) -> &'static str {
    from.as_str()
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
