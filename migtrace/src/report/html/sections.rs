//! What the text report says, as HTML.

use maud::{Markup, html};

use crate::report::content::{Alignment, Piece, Section, Table, UNKNOWN};

/// Sections under a heading; nothing without any.
pub(super) fn under(heading: &str, sections: &[Section]) -> Markup {
    html! {
        @if !sections.is_empty() {
            section {
                h3 { (heading) }
                @for part in sections { (section(part, heading)) }
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
        Piece::Said(lead, body) => said(lead.trim(), body),
        // The charts take the place of what letters draw.
        Piece::Space | Piece::Drawn(_) => html! {},
    }
}

fn said(lead: &str, body: &str) -> Markup {
    let class = match lead {
        "CONTRADICTION:" | "Lost:" => "alarm",
        "NOTE:" => "note",
        _ => "",
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

/// A value whose bounds stay together on a line: `329.1 ms` `± 16.5 ms`.
pub(super) fn bounded(value: &str) -> Markup {
    let at = [" ± ", " (", " or longer"].into_iter().filter_map(|separator| value.find(separator)).min();
    let (value, bounds) = value.split_at(at.unwrap_or(value.len()));
    html! {
        (known(value))
        @if !bounds.is_empty() { " " span class=(if bounds.starts_with(" ±") { "bounds short" } else { "bounds" }) { (bounds.trim_start()) } }
    }
}
