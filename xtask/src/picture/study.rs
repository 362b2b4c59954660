//! Draws the answer of the lab's study as its model of 2014 did: three charts of grouped bars, flavour by flavour.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::svg::escaped;

/// What the charts show: a figure, what it is in, and what stood for it in 2014.
const CHARTS: [Shown; 3] = [
    Shown { figure: "total_time", title: "Migration time, s", unit: 1e9, decimals: 1, then: "driver_time" },
    Shown { figure: "stop", title: "Stop, ms", unit: 1e6, decimals: 0, then: "ping_downtime" },
    Shown {
        figure: "wire_bytes",
        title: "Data on the wire, MiB",
        unit: MIB,
        decimals: 0,
        then: "meter_bytes",
    },
];
const MIB: f64 = (1 << 20) as f64;

struct Shown {
    figure: &'static str,
    title: &'static str,
    /// How many of the answer's units make one of the chart's.
    unit: f64,
    decimals: usize,
    then: &'static str,
}

/// In pixels. A chart is as wide as its groups and the numbers at its axis.
const CHART_WIDTH: f64 = 310.0;
const AXIS_WIDTH: f64 = 36.0;
const GAP: f64 = 15.0;
const MARGIN: f64 = 20.0;
const PLOT_TOP: f64 = 88.0;
const PLOT_HEIGHT: f64 = 190.0;
const FOOT: f64 = PLOT_TOP + PLOT_HEIGHT;
const LINE: f64 = 15.0;
/// From the left end of an entry of the legend to its text.
const SIGN: f64 = 20.0;
/// The most lines of the grid above 0.
const MOST_TICKS: f64 = 5.0;

const STYLE: &str = "\
:root { --page: #ffffff; --text: #1b1f24; --soft: #57606a; --grid: #e3e7eb; --row-0: #0072b2; --row-1: #d55e00 }
@media (prefers-color-scheme: dark) {
  :root { --page: #11151a; --text: #e8ebee; --soft: #a9b3bd; --grid: #2a3139; --row-0: #56b4e9; --row-1: #f0903a }
}
text { font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif; fill: var(--text) }
.title { font-weight: 600; font-size: 14px } .soft { fill: var(--soft); font-size: 11px }
.middle { text-anchor: middle } .end { text-anchor: end }
.page { fill: var(--page) } .grid { stroke: var(--grid) } .range { stroke: var(--text); stroke-width: 1.3; fill: none }
.then { stroke: var(--text); stroke-width: 1.5; fill: var(--page) }
.row-0 { fill: var(--row-0) } .row-1 { fill: var(--row-1) }
";

/// One bar: a summary of the answer, in the chart's unit.
#[derive(Clone, Copy)]
struct Bar {
    median: f64,
    smallest: f64,
    largest: f64,
    /// What the method of 2014 said.
    then: Option<f64>,
}

impl Bar {
    fn top(&self) -> f64 {
        self.largest.max(self.then.unwrap_or_default())
    }
}

/// The picture of an answer as `migtrace study report --format json` writes it.
///
/// # Errors
/// When that answer has no flavours or loads.
pub(super) fn draw(answer: &Value) -> Result<String> {
    let groups = values(answer, "flavour")?;
    let rows = values(answer, "load")?;
    let width = 2.0 * MARGIN + CHARTS.len() as f64 * (CHART_WIDTH + GAP) - GAP;
    let height = FOOT + LINE * (rows.len() + 2) as f64 + MARGIN;
    let title = "Time, stop and data of live migrations, by flavour and load";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         <rect class=\"page\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\"/>\n"
    );
    svg += &legend(&rows);
    for (index, shown) in CHARTS.iter().enumerate() {
        let left = MARGIN + index as f64 * (CHART_WIDTH + GAP);
        svg += &chart(answer, shown, left, &groups, &rows);
    }
    Ok(svg + "</svg>\n")
}

/// The names of an axis' values.
fn values<'a>(answer: &'a Value, axis: &str) -> Result<Vec<&'a str>> {
    let axes = answer["axes"].as_array().context("the answer has no axes")?;
    let found = axes.iter().find(|found| found["name"] == axis);
    let values = found.and_then(|found| found["values"].as_array());
    let values = values.with_context(|| format!("the answer has no axis {axis}"))?;
    Ok(values.iter().filter_map(|value| value["name"].as_str()).collect())
}

/// A cell's bar. `None` if the figure is not known there.
fn bar(answer: &Value, shown: &Shown, flavour: &str, load: &str) -> Option<Bar> {
    let is_cell = |cell: &&Value| cell["at"]["flavour"] == flavour && cell["at"]["load"] == load;
    let figures = answer["cells"].as_array()?.iter().find(is_cell)?["figures"].as_array()?;
    let of = |name: &str| figures.iter().find(|figure| figure["figure"] == name);
    let number = |figure: &Value, name: &str| figure[name].as_f64().map(|number| number / shown.unit);
    let figure = of(shown.figure)?;
    Some(Bar {
        median: number(figure, "value")?,
        smallest: number(figure, "smallest")?,
        largest: number(figure, "largest")?,
        then: of(shown.then).and_then(|then| number(then, "value")),
    })
}

fn legend(rows: &[&str]) -> String {
    let mut svg = String::new();
    let mut left = MARGIN;
    let middle = MARGIN + 2.0;
    let mut entry = |sign: &str, words: &str| {
        svg += &format!("<g transform=\"translate({left:.0} {middle:.0})\">{sign}</g>\n");
        svg += &text(left + SIGN, middle + 4.0, "", words);
        // About as wide as its letters; the next entry begins well after it.
        left += SIGN + 6.2 * words.len() as f64 + 22.0;
    };
    for (row, name) in rows.iter().enumerate() {
        entry(
            &format!("<rect class=\"row-{row}\" y=\"-6\" width=\"12\" height=\"12\"/>"),
            &format!("{name}, median"),
        );
    }
    entry("<path class=\"range\" d=\"M6 -7V7M2 -7H10M2 7H10\"/>", "smallest to largest run");
    entry("<circle class=\"then\" cx=\"6\" r=\"4\"/>", "what the method of 2014 says (median)");
    svg
}

fn chart(answer: &Value, shown: &Shown, left: f64, groups: &[&str], rows: &[&str]) -> String {
    let bars: Vec<Vec<_>> =
        groups.iter().map(|group| rows.iter().map(|row| bar(answer, shown, group, row)).collect()).collect();
    let most = bars.iter().flatten().flatten().map(Bar::top).fold(0.0, f64::max);
    let step = step(most);
    let ticks = (most / step).ceil().max(1.0);
    let y = |value: f64| FOOT - value / (ticks * step) * PLOT_HEIGHT;

    let mut svg = text(left, PLOT_TOP - 26.0, "title", shown.title);
    for tick in 0..=ticks as u32 {
        let value = f64::from(tick) * step;
        let (from, to, y) = (left + AXIS_WIDTH, left + CHART_WIDTH, y(value));
        svg += &format!("<path class=\"grid\" d=\"M{from:.1} {y:.1}H{to:.1}\"/>\n");
        svg += &text(from - 6.0, y + 4.0, "soft end", &value.to_string());
    }
    let group_width = (CHART_WIDTH - AXIS_WIDTH) / groups.len() as f64;
    for (group, (name, bars)) in groups.iter().zip(&bars).enumerate() {
        let middle = left + AXIS_WIDTH + (group as f64 + 0.5) * group_width;
        svg += &text(middle, FOOT + LINE, "middle", name);
        let width = group_width * 0.7 / rows.len() as f64;
        for (row, bar) in bars.iter().enumerate() {
            let centre = middle + (row as f64 + 0.5 - rows.len() as f64 / 2.0) * width;
            let written =
                bar.map_or_else(|| "unknown".to_owned(), |bar| format!("{:.*}", shown.decimals, bar.median));
            svg += &bar.map(|bar| drawn(&bar, row, centre, width - 2.0, y)).unwrap_or_default();
            svg += &text(middle, FOOT + LINE * (row + 2) as f64, &format!("middle row-{row}"), &written);
        }
    }
    svg
}

fn drawn(bar: &Bar, row: usize, centre: f64, width: f64, y: impl Fn(f64) -> f64) -> String {
    let (left, top) = (centre - width / 2.0, y(bar.median));
    let mut svg = format!(
        "<rect class=\"row-{row}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>\n",
        FOOT - top
    );
    let (low, high) = (y(bar.smallest), y(bar.largest));
    let (from, to) = (centre - 4.0, centre + 4.0);
    svg += &format!(
        "<path class=\"range\" d=\"M{centre:.1} {low:.1}V{high:.1}M{from:.1} {low:.1}H{to:.1}M{from:.1} {high:.1}H{to:.1}\"/>\n"
    );
    if let Some(then) = bar.then {
        svg += &format!("<circle class=\"then\" cx=\"{centre:.1}\" cy=\"{:.1}\" r=\"4\"/>\n", y(then));
    }
    svg
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>\n", escaped(text))
}

/// A step of 1, 2 or 5 times a power of ten that needs few lines to reach `most`.
fn step(most: f64) -> f64 {
    let least = most.max(f64::MIN_POSITIVE) / MOST_TICKS;
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= least).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Value {
        let figure = |name: &str, value: f64, smallest: f64, largest: f64| json!({ "figure": name, "value": value, "smallest": smallest, "largest": largest });
        let axis = |name: &str, values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| json!({ "name": value })).collect();
            json!({ "name": name, "values": values })
        };
        json!({
            "axes": [axis("flavour", &["s<"]), axis("load", &["unloaded", "loaded"])],
            "cells": [{
                "at": { "flavour": "s<", "load": "unloaded" },
                "figures": [figure("total_time", 2e9, 1e9, 4e9), figure("driver_time", 3e9, 3e9, 3e9)],
            }],
        })
    }

    #[test]
    fn a_bar_is_as_high_as_its_median_and_what_is_not_known_says_so() {
        let svg = draw(&answer()).unwrap();
        // Of the 190 pixels, 4 s take all.
        assert!(svg.contains("y=\"183.0\" width=\"93.9\" height=\"95.0\""), "{svg}");
        assert!(svg.contains("V88.0M") && svg.contains("cy=\"135.5\""), "{svg}");
        assert_eq!(svg.matches("<rect class=\"row-").count(), 1 + 2, "one bar, and the legend");
        assert!(svg.contains(">s&lt;<") && svg.contains(">2.0<"), "{svg}");
        assert_eq!(svg.matches(">unknown<").count(), 5);
    }

    #[test]
    fn lines_of_the_grid_are_at_round_numbers_and_few() {
        assert_eq!([50.9, 400.0, 6001.0, 0.7, 10.0].map(step), [20.0, 100.0, 2000.0, 0.2, 2.0]);
    }
}
