//! Charts: lanes over one axis, each with its name, and the same values as a table.
//!
//! A lane is drawn as SVG that is stretched to the width of the page; every text is HTML, so that it stays as large as other
//! text. What can be pointed at is an element of its own above the drawing, and a tip follows it that only CSS shows.

use maud::{Markup, html};

use super::scale::{LENGTH, Scale, Tick, percent};
use super::sections::bounded;
use super::shapes::{self, Data, Form, Item, Stripes};
use crate::report::quantities::Bounded;

/// A figure: its lanes, and the table of their values.
pub(in crate::report) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// The same in sentences, for who does not see it, and what has to be known to read it. Empty where the title says it all.
    pub(super) about: String,
    pub(super) axis: Axis,
    pub(super) lanes: Vec<Lane>,
    pub(super) legend: Vec<Legend>,
    /// Its values, exactly.
    pub(super) table: Rows,
}

/// The axis that all lanes share.
pub(in crate::report) struct Axis {
    pub(super) scale: Scale,
    /// What the values of the ticks count from.
    pub(super) origin: f64,
    pub(super) name: String,
}

/// A row of a chart.
#[derive(Default)]
pub(in crate::report) struct Lane {
    /// Empty where it is that of the lane above.
    pub(super) name: String,
    /// What is written beside the name, or below it.
    pub(super) value: Bounded,
    /// In pixels; 0 for a heading.
    pub(super) height: u16,
    /// Whether its name stands above those of the lanes that follow.
    pub(super) is_group: bool,
    /// Stretches of the axis that are shaded, every other one.
    pub(super) bands: Vec<(f64, f64)>,
    pub(super) items: Vec<Item>,
    pub(super) curve: Option<Curve>,
}

/// Averages over stretches of the axis: a line of steps.
pub(in crate::report) struct Curve {
    pub(super) scale: Scale,
    pub(super) tone: &'static str,
    /// From, to, how much.
    pub(super) steps: Vec<(f64, f64, f64)>,
}

/// What a sign of a chart means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::report) enum Legend {
    /// A bar up to its lower bound.
    Certain,
    /// From the lower bound to the upper one.
    Possible,
    /// The best single value.
    Value,
    /// The median.
    Median,
    /// A bar with ends that are known: what it shows, and its colour.
    Bar(&'static str, &'static str),
    /// What is not known.
    Unknown,
    /// An instant, and by how much it may be off.
    Instant,
    /// From the smallest of several values to the largest.
    Range,
    /// A part of a whole: its name, its colour and its stripes.
    Stacked(String, (&'static str, Stripes)),
}

/// A table of exact values: a heading for each column, and cells with their place in the record.
#[derive(Default)]
pub(in crate::report) struct Rows {
    pub(super) headings: Vec<String>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Rows {
    /// Whether a column is of numbers, under a heading that is aligned as they are.
    fn has_numbers(&self, column: usize) -> bool {
        self.rows.iter().any(|row| matches!(row.get(column), Some(Cell::Number(..) | Cell::Amount(_))))
    }
}

/// A cell of such a table.
pub(in crate::report) enum Cell {
    Words(String),
    /// A number as people read it; empty where there is none.
    Amount(String),
    /// A number, and where it stands in the record.
    Number(String, Data),
}

pub(super) fn words(text: impl Into<String>) -> Cell {
    Cell::Words(text.into())
}

/// The lanes of a bar or a mark.
pub(super) const LOW: u16 = 20;
/// The lanes of a curve.
pub(super) const HIGH: u16 = 96;

pub(super) fn chart(chart: &Chart) -> Markup {
    let said = match &chart.about[..] {
        "" => chart.title.clone(),
        about => format!("{}. {about}", chart.title),
    };
    html! {
        figure class="chart" role="group" aria-label=(said) {
            figcaption {
                span class="title" { (chart.title) }
                @if !chart.about.is_empty() { " " span class="about" { (chart.about) } }
            }
            (lanes(&chart.lanes, &chart.axis))
            @if !chart.legend.is_empty() { (legend(&chart.legend)) }
            @if !chart.table.rows.is_empty() {
                details {
                    summary { "The values of this chart as a table" }
                    (rows(&chart.table))
                }
            }
        }
    }
}

/// The lanes with their axis, without a figure around them.
pub(super) fn lanes(lanes: &[Lane], axis: &Axis) -> Markup {
    let ticks = axis.scale.ticks(axis.origin);
    html! {
        div class="lanes" data-from=(axis.scale.from()) data-to=(axis.scale.to()) {
            @for shown in lanes { (lane(shown, &axis.scale, &ticks)) }
            div class="lane axis" {
                div class="label" { span class="value" { (axis.name) } }
                div class=(crowd(ticks.len())) {
                    @for tick in &ticks {
                        span class=(edge(tick.at)) style=(format!("left:{}", percent(tick.at))) { (tick.label) }
                    }
                }
            }
        }
    }
}

/// How many ticks a phone leaves out: of many every second, of more two of three.
const fn crowd(ticks: usize) -> &'static str {
    match ticks {
        0..=3 => "ticks",
        4..=5 => "ticks many",
        _ => "ticks more",
    }
}

/// How a text at an end of the axis is kept within it.
fn edge(at: f64) -> &'static str {
    if at < LENGTH * 0.04 {
        "first"
    } else if at > LENGTH * 0.9 {
        "last"
    } else {
        ""
    }
}

impl Lane {
    /// A line between lanes that says what follows.
    pub(super) fn heading(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The name of the lanes that follow.
    pub(super) fn group(name: &str) -> Self {
        Self { name: name.to_owned(), height: LOW, is_group: true, ..Self::default() }
    }

    /// What a reader of the screen hears of it.
    fn said(&self) -> String {
        let parts = [self.name.clone(), self.value.to_string()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

fn lane(lane: &Lane, axis: &Scale, ticks: &[Tick]) -> Markup {
    if lane.height == 0 {
        return html! { div class="lane heading" { (lane.name) } };
    }
    let height = f64::from(lane.height);
    let upright = lane.curve.as_ref().map(|curve| curve.scale.few_ticks());
    let said = lane.said();
    html! {
        div class=(if lane.is_group { "lane group" } else { "lane" }) {
            div class="label" {
                span class="name" { (lane.name) }
                @if !lane.value.value.is_empty() { " " span class="value" { (bounded(&lane.value)) } }
                @if let Some((ticks, unit)) = &upright {
                    " " span class="value" { (unit) }
                    @for tick in ticks {
                        span class="upright" style=(format!("top:{}", percent(LENGTH - tick.at))) { (tick.label) }
                    }
                }
            }
            div class="track" style=(format!("height:{}px", lane.height)) {
                svg viewBox=(format!("0 0 {LENGTH} {height}")) preserveAspectRatio="none" role="img"
                    aria-label=(said) {
                    desc { (described(lane, &said)) }
                    @for (from, to) in &lane.bands { (shapes::band(axis, *from, *to, height)) }
                    @for tick in ticks { (shapes::grid(tick.at, height)) }
                    @if let Some(curve) = &lane.curve { (shapes::curve(curve, axis, height)) }
                    @for item in &lane.items { (shapes::drawn(item, axis, height)) }
                }
                @for item in &lane.items { (shapes::pointed(item, axis)) }
            }
        }
    }
}

/// The most items whose values are read out one after the other.
const MOST_DESCRIBED: usize = 12;

/// What a lane shows, in words.
fn described(lane: &Lane, said: &str) -> String {
    let tips = lane.items.iter().map(|item| item.tip.as_str());
    match lane.items.len() {
        0 => said.to_owned(),
        1..=MOST_DESCRIBED => tips.collect::<Vec<_>>().join("; "),
        number => format!("{said}: {number} values, which the table below lists"),
    }
}

/// The signs with which lanes are drawn, as a legend explains them: `value` is what the marks of their bars are.
pub(super) fn signs<'a>(lanes: impl IntoIterator<Item = &'a Lane>, value: Legend) -> Vec<Legend> {
    let forms: Vec<Form> = lanes.into_iter().flat_map(|lane| &lane.items).map(|item| item.form).collect();
    let explained =
        |sign: Legend, is_drawn_so: fn(&Form) -> bool| forms.iter().any(is_drawn_so).then_some(sign);
    let signs = [
        explained(Legend::Certain, |form| matches!(form, Form::Bounded { .. })),
        explained(
            Legend::Possible,
            |form| matches!(form, Form::Bounded { low, high: Some(high) } if low < high),
        ),
        explained(value, |form| matches!(form, Form::Bounded { .. })),
        explained(Legend::Instant, |form| matches!(form, Form::Point { error } if *error > 0.0)),
        explained(Legend::Range, |form| matches!(form, Form::Range)),
        explained(Legend::Unknown, |form| matches!(form, Form::Hatched | Form::Bounded { high: None, .. })),
    ];
    signs.into_iter().flatten().collect()
}

pub(super) fn legend(signs: &[Legend]) -> Markup {
    html! {
        ul class="legend" {
            @for sign in signs {
                li {
                    svg class="sign" viewBox="0 0 28 14" aria-hidden="true" { (shapes::sign(sign)) }
                    span {
                        (match sign {
                            Legend::Certain => "up to the lower bound",
                            Legend::Possible => "from the lower bound to the upper one",
                            Legend::Value => "best value",
                            Legend::Median => "median",
                            Legend::Bar(name, _) => name,
                            Legend::Unknown => "unknown, or without an upper bound",
                            Legend::Instant => "when it was, and by how much that may be off",
                            Legend::Range => "from the smallest run to the largest",
                            Legend::Stacked(name, _) => name.as_str(),
                        })
                    }
                }
            }
        }
    }
}

/// A table that scrolls by itself where it is too wide.
pub(super) fn rows(table: &Rows) -> Markup {
    html! {
        div class="scroll" tabindex="0" {
            table {
                thead {
                    tr {
                        @for (at, heading) in table.headings.iter().enumerate() {
                            th scope="col" class=(if table.has_numbers(at) { "right" } else { "" }) { (heading) }
                        }
                    }
                }
                tbody {
                    @for row in &table.rows {
                        tr {
                            @for cell in row {
                                @match cell {
                                    Cell::Words(words) => td { (words) },
                                    Cell::Amount(amount) => td class="right" { (amount) },
                                    Cell::Number(number, data) => {
                                        td class="right" data-of=(data.of) data-values=(data.values()) { (number) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
