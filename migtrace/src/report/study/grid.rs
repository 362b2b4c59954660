//! Tables whose columns are only known from the study.

use std::borrow::Cow;

use crate::report::content::{Alignment, Piece, Section, Table, clean};

/// The most columns of numbers side by side. With more, the table goes on below.
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
        let mut pieces = Vec::new();
        for from in (0..self.columns.len()).step_by(MOST_COLUMNS) {
            if from > 0 {
                pieces.push(Piece::Space);
            }
            pieces.push(Piece::Table(self.block(from)));
        }
        Some(Section::titled(clean(title), pieces))
    }

    fn block(&self, from: usize) -> Table {
        let to = self.columns.len().min(from + MOST_COLUMNS);
        let left = (Cow::from(clean(&self.corner)), Alignment::Left);
        let right = self.columns[from..to].iter().map(|name| (Cow::from(clean(name)), Alignment::Right));
        let row = |(name, cells): &(String, Vec<String>)| {
            std::iter::once(clean(name)).chain(cells[from..to].iter().map(|cell| lines(cell))).collect()
        };
        Table {
            columns: std::iter::once(left).chain(right).collect(),
            has_header: true,
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

/// The lines of a cell, each cleaned.
fn lines(cell: &str) -> String {
    cell.lines().map(clean).collect::<Vec<_>>().join("\n")
}
