//! How a report is set as text: tables in columns, and lines that are wrapped.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use unicode_width::UnicodeWidthChar as _;

use super::content::{self, Alignment, Piece, Section};

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
        table.add_row(cells.map(|(cell, (_, alignment))| Cell::new(cell).set_alignment(aligned(*alignment))));
    }
    table
}

/// The lines of a table without the blanks that fill its last column.
pub(super) fn trimmed(table: &content::Table) -> String {
    set(table).lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
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
