//! What the text report says, as HTML.

use maud::{Markup, html};

use crate::report::content::{Alignment, Piece, Section, Table, UNKNOWN, Weight};
use crate::report::quantities::Bounded;

/// Sections under a heading; nothing without any.
pub(super) fn under(heading: &str, sections: impl IntoIterator<Item = Section>) -> Markup {
    let mut sections = sections.into_iter().peekable();
    html! {
        @if sections.peek().is_some() {
            section {
                h3 { (heading) }
                @for part in sections { (section(&part, heading)) }
            }
        }
    }
}

/// A section that stands below `heading`.
pub(super) fn section(section: &Section, heading: &str) -> Markup {
    let title = section.title.trim_end_matches(':');
    html! {
        @if !title.is_empty() && title != heading { h4 { (title) } }
        @for pieces in section.pieces.chunk_by(together) { (grouped(pieces)) }
    }
}

/// Whether two pieces are one list.
const fn together(one: &Piece, next: &Piece) -> bool {
    matches!((one, next), (Piece::Named(..), Piece::Named(..)) | (Piece::Item(_), Piece::Item(_)))
}

fn grouped(pieces: &[Piece]) -> Markup {
    html! {
        @match pieces {
            [Piece::Named(..), ..] => dl class="named" { @for piece in pieces { (piece_of(piece)) } },
            [Piece::Item(_), ..] => ul { @for piece in pieces { (piece_of(piece)) } },
            _ => @for piece in pieces { (piece_of(piece)) },
        }
    }
}

fn piece_of(piece: &Piece) -> Markup {
    match piece {
        Piece::Table(rows) => table(rows),
        Piece::Named(name, value) => html! { div { dt { (name) } dd { (known(value)) } } },
        Piece::Item(item) => html! { li { (item) } },
        Piece::Said(weight, lead, body) => said(*weight, lead.trim(), body),
        // The charts take the place of what letters draw.
        Piece::Space | Piece::Drawn(_) => html! {},
    }
}

fn said(weight: Weight, lead: &str, body: &str) -> Markup {
    let class = match weight {
        Weight::Alarm => "alarm",
        Weight::Note => "note",
        Weight::Usual => "",
    };
    html! {
        p class=(class) {
            @if !lead.is_empty() { strong { (lead) } " " }
            (body)
        }
    }
}

pub(super) fn table(rows: &Table) -> Markup {
    let class = |alignment| if alignment == Alignment::Right { "right" } else { "" };
    html! {
        div class="scroll" tabindex="0" {
            table {
                @if rows.has_header {
                    thead {
                        tr {
                            @for (heading, alignment) in &rows.columns {
                                th scope="col" class=(class(*alignment)) { (heading) }
                            }
                        }
                    }
                }
                tbody {
                    @for row in &rows.rows {
                        tr {
                            @for (cell, (_, alignment)) in row.iter().zip(&rows.columns) {
                                td class=(class(*alignment)) {
                                    @for line in cell.lines() { span class="line" { (known(line)) } " " }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A value, marked where it is not known.
pub(super) fn known(value: &str) -> Markup {
    html! { @if value == UNKNOWN { span class="unknown" { (value) } } @else { (value) } }
}

/// A figure whose bounds stay together: `329.1 ms` `± 16.5 ms`.
pub(super) fn bounded(figure: &Bounded) -> Markup {
    html! {
        (known(&figure.value))
        @if let Some(bounds) = &figure.bounds { " " span class="bounds" { (bounds) } }
    }
}
