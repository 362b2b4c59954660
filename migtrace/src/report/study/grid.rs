//! Tables whose columns are only known from the study.

use std::borrow::Cow;

use crate::report::content::{Alignment, Piece, Section, Table, clean};

/// The most columns of numbers side by side in text.
const MOST_COLUMNS: usize = 5;

/// A table: the heading of the rows, those of the columns, and each row's heading with its cells.
pub(super) struct Grid {
    pub(super) corner: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<(String, Vec<String>)>,
}

impl Grid {
    /// It under its title; none without columns or rows.
    pub(super) fn section(&self, title: &str) -> Option<Section> {
        if self.rows.is_empty() || self.columns.is_empty() {
            return None;
        }
        Some(Section::titled(clean(title), vec![Piece::Table(self.table())]))
    }

    fn table(&self) -> Table {
        let left = (Cow::from(clean(&self.corner)), Alignment::Left);
        let right = self.columns.iter().map(|name| (Cow::from(clean(name)), Alignment::Right));
        let row = |(name, cells): &(String, Vec<String>)| {
            std::iter::once(clean(name)).chain(cells.iter().map(|cell| lines(cell))).collect()
        };
        Table {
            columns: std::iter::once(left).chain(right).collect(),
            has_header: true,
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

/// A section as it fits the lines of text: what a table has no room for goes on in another below.
pub(super) fn in_blocks(section: Section) -> Section {
    let mut pieces = Vec::new();
    for piece in section.pieces {
        match piece {
            Piece::Table(table) => {
                for from in (1..table.columns.len()).step_by(MOST_COLUMNS) {
                    if from > 1 {
                        pieces.push(Piece::Space);
                    }
                    pieces.push(Piece::Table(block(&table, from)));
                }
            }
            other => pieces.push(other),
        }
    }
    Section { title: section.title, pieces }
}

/// The rows' headings, and the columns from one on.
fn block(table: &Table, from: usize) -> Table {
    let to = table.columns.len().min(from + MOST_COLUMNS);
    let row = |row: &Vec<String>| [&row[..1], &row[from..to]].concat();
    Table {
        columns: [&table.columns[..1], &table.columns[from..to]].concat(),
        has_header: table.has_header,
        rows: table.rows.iter().map(row).collect(),
    }
}

/// The lines of a cell, each cleaned.
fn lines(cell: &str) -> String {
    cell.lines().map(clean).collect::<Vec<_>>().join("\n")
}
