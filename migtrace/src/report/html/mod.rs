//! Records as a page for people: one HTML file, with charts as SVG, that fetches nothing and runs no script.
//!
//! `page` is the frame, `chart`, `shapes` and `scale` are what charts are made of, `sections` shows what the text report says.
//! `migration` is the page of one migration, `several` what stands above those of several, `study` the page of a study.

mod chart;
mod migration;
mod page;
mod scale;
mod sections;
mod several;
mod shapes;
pub mod study;

use maud::html;

use super::headline;
use crate::record::Record;

/// The page of one migration, or of several side by side.
#[must_use]
pub fn render(records: &[Record]) -> String {
    let title = match records {
        [record] => format!("{}: {}", headline::vm(record), headline::outcome(record)),
        _ => format!("{} migrations", records.len()),
    };
    let is_alone = records.len() == 1;
    let heading = |index: usize, record: &Record| {
        let name = html! { (headline::vm(record)) " " (migration::outcome(record)) };
        html! { @if is_alone { h1 { (name) } } @else { h2 { (index + 1) ". " (name) } } }
    };
    let content = html! {
        @if !is_alone { (several::overview(records)) }
        @for (index, record) in records.iter().enumerate() {
            (migration::article(record, index, &heading(index, record)))
        }
    };
    page::page(&title, &content)
}

/// A time or an amount as a place in a drawing.
#[expect(clippy::cast_precision_loss, reason = "a drawing shows some hundred steps")]
fn place(value: i64) -> f64 {
    value as f64
}

/// As [`place`].
#[expect(clippy::cast_precision_loss, reason = "a drawing shows some hundred steps")]
fn length(value: u64) -> f64 {
    value as f64
}
