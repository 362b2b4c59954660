//! The page of a study: its answer in charts, each with its values as a table, and all that the text report says.

mod errors;
mod grouped;
mod published;
mod stacked;

use maud::{Markup, html};

use super::chart::Cell as TableCell;
use super::migration::{article, outcome};
use super::page;
use super::sections::section;
use super::shapes::Data;
use crate::report::content::{Section, clean};
use crate::report::quantities::signed;
use crate::report::study::words::{constants, label};
use crate::report::study::{self as said, numbers::reading};
use crate::study::answer::{Answer, Cell, Course, Place, Reading, Summary, Unit};
use crate::study::plan::has_all;

/// The page of a study.
#[must_use]
pub fn render(answer: &Answer) -> String {
    let content = html! {
        article id="study" {
            (header(answer))
            (chapter("Time, downtime and data", &html! {
                @for figure in said::tables::MAIN_FIGURES { (grouped::charts(answer, figure)) }
            }))
            (chapters(said::sentences::findings(answer)))
            (chapter("The tables", &titled(said::tables::in_layout(answer))))
            (published(answer))
            (chapter("What the downtime and the migration were made of", &html! {
                (stacked::charts(answer))
                (titled(said::steps::sections(answer)))
                (titled(said::tables::others(answer)))
            }))
            (chapter("What the old method says, and by how much it is off", &html! {
                (errors::charts(answer))
                (titled(said::old_method::sections(answer)))
            }))
            (chapters(said::sentences::checks(answer)))
            (chapters(said::sentences::left_out(answer)))
        }
        @if let Some(course) = &answer.course { (one_run(answer, course)) }
    };
    page::page(&clean(&answer.title), &content)
}

fn header(answer: &Answer) -> Markup {
    let constants = constants(answer);
    html! {
        header {
            h1 { (answer.title) }
            p class="when" { (said::sentences::so_far(answer)) }
            @if !constants.is_empty() { p { (constants) } }
            @for line in answer.description.lines() { p { (line) } }
        }
    }
}

/// What stands under a heading; no heading where there is nothing.
fn chapter(heading: &str, content: &Markup) -> Markup {
    html! { @if !content.0.is_empty() { section { h2 { (heading) } (content) } } }
}

/// Sections that are a chapter each.
fn chapters(sections: impl IntoIterator<Item = Section>) -> Markup {
    html! { @for part in sections { (chapter(&part.title, &section(&part, &part.title))) } }
}

/// The sections of a chapter, each under its title.
fn titled(sections: impl IntoIterator<Item = Section>) -> Markup {
    html! {
        @for part in sections {
            @if !part.title.is_empty() { h3 { (part.title) } }
            (section(&part, &part.title))
        }
    }
}

/// What others have published, beside the measured.
fn published(answer: &Answer) -> Markup {
    html! {
        @if let Some(heading) = said::published::heading(answer) {
            (chapter(&heading.title, &html! {
                (section(&heading, &heading.title))
                (published::charts(answer))
                (titled(said::published::tables(answer)))
            }))
        }
    }
}

/// The page of one migration, below the study's.
fn one_run(answer: &Answer, course: &Course) -> Markup {
    let title = format!("One of the runs: run {}, {}", course.run, label(answer, &course.cell));
    article(&course.record, 0, &html! { h2 { (title) " " (outcome(&course.record)) } })
}

/// The cells of a table, each with its number among all.
fn cells_of<'a>(answer: &'a Answer, table: &Place) -> impl Iterator<Item = (usize, &'a Cell)> {
    answer.cells.iter().enumerate().filter(move |(_, cell)| has_all(&cell.at, table))
}

/// Where a reading stands in the answer.
fn data(of: String, reading: &Reading) -> Data {
    let number = |number: Option<i64>| number.map(i128::from);
    let values = [("value", Some(reading.value)), ("low", reading.low), ("high", reading.high)];
    Data::new(of, values.into_iter().map(|(name, value)| (name, number(value))).collect())
}

/// The headings of [`numbers`], after `names`.
fn headings<'a>(names: impl IntoIterator<Item = &'a str>, unit: Unit) -> Vec<String> {
    let exact = ["Median", "Lower bound", "Upper bound", "Smallest", "Largest"];
    let exact = exact.map(|name| match unit {
        Unit::Count => name.to_owned(),
        _ => format!("{name}, {}", unit.as_str()),
    });
    let names = names.into_iter().chain(["Median within its bounds"]).map(str::to_owned);
    names.chain(exact).chain(["Runs".to_owned()]).collect()
}

/// The median as people read it, and all numbers of a summary, each with its place in the answer.
fn numbers(of: &str, unit: Unit, summary: &Summary) -> Vec<TableCell> {
    let median = summary.median;
    let count = i64::try_from(summary.count).ok();
    let numbers = [
        ("value", Some(median.value)),
        ("low", median.low),
        ("high", median.high),
        ("smallest", Some(summary.smallest)),
        ("largest", Some(summary.largest)),
        ("count", count),
    ];
    let exact = numbers.into_iter().map(|(name, number)| cell(format!("{of}/{name}"), number));
    std::iter::once(TableCell::Amount(reading(unit, &median).to_string())).chain(exact).collect()
}

fn cell(of: String, number: Option<i64>) -> TableCell {
    let Some(number) = number else { return TableCell::Amount("none".to_owned()) };
    TableCell::Number(signed(number), Data::new(of, Vec::new()))
}
