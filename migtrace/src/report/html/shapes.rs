//! What a lane is drawn with, and what can be pointed at.

use maud::{Markup, html};

use super::chart::{Curve, Legend};
use super::scale::{LENGTH, Scale, number, percent};
use crate::record::Estimate;

/// Something in a lane, from one value of the axis to another.
pub(in crate::report) struct Item {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) form: Form,
    /// The class of its colour.
    pub(super) tone: &'static str,
    /// What is shown when it is pointed at.
    pub(super) tip: String,
    pub(super) data: Data,
    /// What is written into it where there is room.
    pub(super) label: String,
}

impl Default for Item {
    fn default() -> Self {
        Self {
            from: 0.0,
            to: 0.0,
            form: Form::Span,
            tone: "t-plain",
            tip: String::new(),
            data: Data::default(),
            label: String::new(),
        }
    }
}

impl Item {
    /// The whole axis, where nothing is known. The label says so in a word.
    pub(super) fn unknown(axis: &Scale, tip: impl Into<String>, label: &str) -> Self {
        let (from, to) = (axis.from(), axis.to());
        Self { from, to, form: Form::Hatched, tip: tip.into(), label: label.to_owned(), ..Self::default() }
    }
}

/// How something is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::report) enum Form {
    /// A stretch whose ends are known.
    Span,
    /// A length that ends between two bounds; without the second, nothing bounds it.
    Bounded { low: f64, high: Option<f64> },
    /// An instant, and by how much it may be off.
    Point { error: f64 },
    /// Not known, or only possible.
    Hatched,
    /// Drawn as a part of the curve.
    Step,
    /// From the smallest to the largest of several values: a thin line over what it belongs to.
    Range,
    /// A part of a whole, one of many beside each other.
    Stacked(Stripes),
}

/// What tells parts of the same colour apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::report) enum Stripes {
    None,
    Rising,
    Falling,
}

/// Where values stand in the records, for who checks the page: a JSON pointer and, below it, names and values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::report) struct Data {
    pub(super) of: String,
    pub(super) values: Vec<(&'static str, Option<i128>)>,
}

impl Data {
    pub(super) fn new(of: impl Into<String>, values: Vec<(&'static str, Option<i128>)>) -> Self {
        Self { of: of.into(), values }
    }

    pub(super) fn estimate(of: impl Into<String>, length: &Estimate) -> Self {
        let high_ns = length.high_ns.map(i128::from);
        let values = vec![
            ("value_ns", Some(length.value_ns.into())),
            ("low_ns", Some(length.low_ns.into())),
            ("high_ns", high_ns),
        ];
        Self::new(of, values)
    }

    pub(super) fn values(&self) -> String {
        let value = |(name, value): &(&str, Option<i128>)| match value {
            Some(value) => format!("{name}={value}"),
            None => format!("{name}=null"),
        };
        self.values.iter().map(value).collect::<Vec<_>>().join(";")
    }
}

/// A line across the lane at a tick of the axis.
pub(super) fn grid(at: f64, height: f64) -> Markup {
    html! { path class="grid" d=(format!("M{} 0V{}", number(at), number(height))) {} }
}

/// A stretch of the axis that is set off from its neighbours.
pub(super) fn band(axis: &Scale, from: f64, to: f64, height: f64) -> Markup {
    rect("band", axis.at(from), axis.at(to), 0.0, height)
}

pub(super) fn curve(curve: &Curve, axis: &Scale, height: f64) -> Markup {
    let [line, area] = step_paths(curve, axis, height);
    html! {
        path class="grid" d=(format!("M0 {}H{LENGTH}", number(height - 0.5))) {}
        path class=(format!("area {}", curve.tone)) d=(area) {}
        path class=(format!("line {}", curve.tone)) d=(line) {}
    }
}

/// The line of the steps, and the area below it. A stretch without samples is a hole, not a zero.
fn step_paths(curve: &Curve, axis: &Scale, height: f64) -> [String; 2] {
    let place = |value: f64| number(height - curve.scale.at(value) * height / LENGTH);
    let base = number(height);
    let joined = |one: &(f64, f64, f64), next: &(f64, f64, f64)| one.1 == next.0;
    let mut paths = [String::new(), String::new()];
    for run in curve.steps.chunk_by(joined) {
        let (begin, end) = (number(axis.at(run[0].0)), number(axis.at(run[run.len() - 1].1)));
        let points = run.iter().flat_map(|(from, to, value)| {
            [from, to].map(|at| format!("{} {}", number(axis.at(*at)), place(*value)))
        });
        let points = points.collect::<Vec<_>>().join("L");
        paths[0].push_str(&format!("M{points}"));
        paths[1].push_str(&format!("M{begin} {base}L{points}L{end} {base}Z"));
    }
    paths
}

/// Of shorter bars the best value is not marked: the mark would cover them.
const LEAST_MARKED: f64 = 6.0;

pub(super) fn drawn(item: &Item, axis: &Scale, height: f64) -> Markup {
    let (from, to) = (axis.at(item.from), axis.at(item.to));
    let (top, bottom) = (height * 0.2, height * 0.8);
    match item.form {
        Form::Span => rect(&format!("bar {}", item.tone), from, to, top, bottom),
        Form::Hatched => hatched(item.tone, from, to, top, bottom),
        Form::Step => html! {},
        Form::Range => range(from, to, height),
        Form::Stacked(stripes) => stacked(item.tone, stripes, [from, to, top, bottom]),
        Form::Bounded { low, high } => {
            let is_exact = high == Some(low);
            let (low, end) = (axis.at(low), axis.at(high.unwrap_or(f64::MAX)));
            html! {
                @match high {
                    Some(_) if is_exact => {},
                    Some(_) => (rect(&format!("possible {}", item.tone), low, end, top, bottom)),
                    None => (hatched(item.tone, low, end, top, bottom)),
                }
                (rect(&format!("bar {}", item.tone), from, low, top, bottom))
                @if end - from > LEAST_MARKED { path class="value" d=(format!("M{} {}V{}", number(to), number(height * 0.08), number(height * 0.92))) {} }
            }
        }
        Form::Point { error } => {
            instant(item.tone, from, [item.from - error, item.from + error].map(|end| axis.at(end)), height)
        }
    }
}

fn instant(tone: &str, at: f64, [from, to]: [f64; 2], height: f64) -> Markup {
    let middle = number(height / 2.0);
    html! {
        @if from < to { path class=(format!("error {tone}")) d=(format!("M{} {middle}H{}", number(from), number(to))) {} }
        path class=(format!("point {tone}")) d=(format!("M{} {middle}h0.01", number(at))) {}
    }
}

fn range(from: f64, to: f64, height: f64) -> Markup {
    let (top, bottom) = (number(height * 0.35), number(height * 0.65));
    let (from, to, middle) = (number(from), number(to), number(height / 2.0));
    html! { path class="value" d=(format!("M{from} {top}V{bottom}M{from} {middle}H{to}M{to} {top}V{bottom}")) {} }
}

fn rect(class: &str, from: f64, to: f64, top: f64, bottom: f64) -> Markup {
    html! {
        rect class=(class) x=(number(from)) y=(number(top)) width=(number((to - from).max(0.0)))
            height=(number((bottom - top).max(0.0))) {}
    }
}

fn hatched(tone: &str, from: f64, to: f64, top: f64, bottom: f64) -> Markup {
    html! {
        (rect(&format!("possible {tone}"), from, to, top, bottom))
        (rect("hatched", from, to, top, bottom))
    }
}

/// Colours that are told apart without stripes, in the style.
const PAINTS: [&str; 9] = [
    "t-paint-0",
    "t-paint-1",
    "t-paint-2",
    "t-paint-3",
    "t-paint-4",
    "t-paint-5",
    "t-paint-6",
    "t-paint-7",
    "t-paint-8",
];

/// How the n-th of many parts is drawn: with more parts than colours, the colours come again with stripes.
pub(super) fn paint(number: usize) -> (&'static str, Stripes) {
    let stripes = [Stripes::None, Stripes::Rising, Stripes::Falling];
    (PAINTS[number % PAINTS.len()], stripes[number / PAINTS.len() % stripes.len()])
}

fn stacked(tone: &str, stripes: Stripes, [from, to, top, bottom]: [f64; 4]) -> Markup {
    let striped = match stripes {
        Stripes::None => None,
        Stripes::Rising => Some("rising"),
        Stripes::Falling => Some("falling"),
    };
    html! {
        (rect(&format!("bar stacked {tone}"), from, to, top, bottom))
        @if let Some(striped) = striped { (rect(striped, from, to, top, bottom)) }
    }
}

/// The patterns of what is not known and of parts. They are defined once in a page.
pub(super) fn patterns() -> Markup {
    html! {
        svg class="patterns" aria-hidden="true" {
            defs {
                pattern id="hatch" width="10" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    path class="hatch" d="M0 0V6" {}
                }
                @for (id, turn) in [("rising", "rotate(30)"), ("falling", "rotate(-30)")] {
                    pattern id=(id) width="8" height="8" patternUnits="userSpaceOnUse" patternTransform=(turn) {
                        path class="stripe" d="M0 0V8" {}
                    }
                }
            }
        }
    }
}

/// A sign as the legend shows it.
pub(super) fn sign(of: &Legend) -> Markup {
    match of {
        Legend::Certain => rect("bar t-legend", 1.0, 27.0, 2.0, 12.0),
        Legend::Possible => rect("possible t-legend", 1.0, 27.0, 2.0, 12.0),
        Legend::Bar(_, tone) => rect(&format!("bar {tone}"), 1.0, 27.0, 2.0, 12.0),
        Legend::Value | Legend::Median => html! { path class="value" d="M14 1V13" {} },
        Legend::Unknown => hatched("t-plain", 1.0, 27.0, 2.0, 12.0),
        Legend::Instant => instant("t-plain", 14.0, [3.0, 25.0], 14.0),
        Legend::Range => range(2.0, 26.0, 14.0),
        Legend::Stacked(_, (tone, stripes)) => stacked(tone, *stripes, [1.0, 27.0, 1.0, 13.0]),
    }
}

/// Half the width of what can be pointed at, at least.
const REACH: f64 = 6.0;

/// What can be pointed at, its label, and its tip.
pub(super) fn pointed(item: &Item, axis: &Scale) -> Markup {
    if item.tip.is_empty() {
        return html! {};
    }
    let end = match item.form {
        Form::Bounded { high, .. } => high.unwrap_or(f64::MAX).max(item.to),
        _ => item.to,
    };
    let (from, to) = (axis.at(item.from), axis.at(end));
    let is_step = item.form == Form::Step;
    let reach = if is_step { 0.0 } else { REACH };
    let (left, right) = if to - from < 2.0 * reach {
        let middle = f64::midpoint(from, to).clamp(reach, LENGTH - reach);
        (middle - reach, middle + reach)
    } else {
        (from, to)
    };
    // The tip begins, or ends, where the item does, so that it has the longer part of the page for itself.
    let tip = if left < LENGTH / 2.0 {
        format!("left:{}", percent(left))
    } else {
        format!("right:{}", percent(LENGTH - right))
    };
    html! {
        // The many steps of a curve can be clicked at; the way by keyboard does not stop at each.
        span class="hit" tabindex=(if is_step { "-1" } else { "0" }) role="img" aria-label=(item.tip)
            style=(format!("left:{};width:{}", percent(left), percent(right - left)))
            data-of=(item.data.of) data-values=(item.data.values()) data-from=(item.from) data-to=(item.to) {
            @if !item.label.is_empty() {
                span class=(format!("inside {}", room(&item.label, right - left))) {
                    span class=(beneath(item.form)) { (item.label) }
                }
            }
        }
        span class="tip" style=(tip) aria-hidden="true" { (item.tip) }
    }
}

/// What a label needs to be read over its item.
const fn beneath(form: Form) -> &'static str {
    match form {
        Form::Hatched | Form::Stacked(Stripes::Rising | Stripes::Falling) => "pill",
        Form::Stacked(Stripes::None) => "dark",
        _ => "",
    }
}

/// Where a label fits into its item: nowhere, on a wide page, or also on a phone.
fn room(label: &str, width: f64) -> &'static str {
    #[expect(clippy::cast_precision_loss, reason = "a label has few letters")]
    let letters = label.chars().count() as f64 + 1.0;
    // A letter takes about 7 of 560 pixels, or of 190.
    if width < letters * 12.5 {
        "nowhere"
    } else if width < letters * 37.0 {
        "wide"
    } else {
        "anywhere"
    }
}
