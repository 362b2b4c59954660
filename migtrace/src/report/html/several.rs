//! Several migrations beside each other, on the same scales.

use maud::{Markup, html};

use super::chart::{Axis, Chart, LOW, Lane, Legend, Rows, chart, lanes, legend, signs};
use super::length;
use super::migration::{MOST_STEPS, axis, curves, highest};
use super::scale::{Quantity, Scale};
use super::sections::{bounded, known};
use super::shapes::{Data, Form, Item};
use crate::record::{Estimate, Record, Vantage, steps};
use crate::report::content::{UNKNOWN, clean};
use crate::report::quantities::{Bounded, bytes, estimate};
use crate::report::{headline, summary};

/// A record with its number.
struct Row<'a> {
    number: usize,
    record: &'a Record,
}

fn estimated(length: Option<&Estimate>) -> Bounded {
    length.map_or_else(|| Bounded::alone(UNKNOWN), Bounded::from)
}

fn stop(record: &Record) -> Bounded {
    if record.downtime.never_stopped() && record.downtime.stop.is_none() {
        return Bounded::alone("not stopped");
    }
    estimated(record.downtime.stop.as_ref())
}

/// A table of all, their figures beside each other, and their curves on the same scales.
pub(super) fn overview(records: &[Record]) -> Markup {
    let rows: Vec<_> = records.iter().enumerate().map(|(number, record)| Row { number, record }).collect();
    html! {
        header { h1 { (format!("{} migrations", records.len())) } }
        (summary(&rows))
        (figures(&rows))
        (small_multiples(&rows))
    }
}

/// From where to where: `host-a → host-b`, as far as the hosts were observed.
fn way(record: &Record) -> String {
    let of = |role| record.observers.iter().find(|observer| observer.role == role);
    let name = |role| of(role).map_or_else(|| UNKNOWN.to_owned(), |observer| clean(&observer.host));
    format!("{} → {}", name(Vantage::Source), name(Vantage::Destination))
}

fn summary(rows: &[Row<'_>]) -> Markup {
    let headings =
        ["VM", "Outcome", "Hosts", "Started", "Total time", "Stop", "Network", "Reachability", "Sent"];
    let figures = |record: &Record| {
        let downtime = &record.downtime;
        [
            estimated(record.total_time.as_ref()),
            stop(record),
            estimated(downtime.network.as_ref()),
            estimated(downtime.reachability.as_ref()),
            Bounded::alone(headline::sent(record)),
        ]
    };
    html! {
        div class="scroll" tabindex="0" {
            table class="summary" {
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { a href=(format!("#m{}", row.number + 1)) { (title(row)) } }
                            td { (headline::outcome(row.record)) }
                            td { (way(row.record)) }
                            td { (known(&summary::second(&row.record.start))) }
                            @for figure in figures(row.record) { td class="figure" { (bounded(&figure)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The figures of all, a chart each.
fn figures(rows: &[Row<'_>]) -> Markup {
    let times = [
        Figure { name: "Total time", path: "total_time", tone: "t-sent", of: |r| r.total_time.as_ref() },
        Figure { name: STOP, path: "downtime/stop", tone: "t-stop", of: |r| r.downtime.stop.as_ref() },
        Figure {
            name: "Network gap",
            path: "downtime/network",
            tone: "t-network",
            of: |r| r.downtime.network.as_ref(),
        },
        Figure {
            name: "Reachability gap",
            path: "downtime/reachability",
            tone: "t-reach",
            of: |r| r.downtime.reachability.as_ref(),
        },
    ];
    let is_known = |figure: &&Figure| rows.iter().any(|row| (figure.of)(row.record).is_some());
    let mut charts: Vec<Chart> = times.iter().filter(is_known).map(|figure| times_of(rows, figure)).collect();
    if rows.iter().any(|row| row.record.traffic.total.is_some()) {
        charts.push(sent(rows));
    }
    html! {
        div class="multiples" { @for shown in &charts { (chart(shown)) } }
        (legend(&signs(charts.iter().flat_map(|chart| &chart.lanes), Legend::Value)))
    }
}

const STOP: &str = "Stop";

/// A length of time that records have.
struct Figure {
    name: &'static str,
    /// Where it stands in a record.
    path: &'static str,
    tone: &'static str,
    of: fn(&Record) -> Option<&Estimate>,
}

fn times_of(rows: &[Row<'_>], figure: &Figure) -> Chart {
    let Figure { name, path, tone, of } = *figure;
    let longest = |row: &Row<'_>| of(row.record).map(|time| length(time.high_ns.unwrap_or(time.value_ns)));
    let scale = Scale::from_zero(Quantity::Time, rows.iter().filter_map(longest).fold(0.0, f64::max));
    let lane = |row: &Row<'_>| {
        let item = match of(row.record) {
            None if name == STOP && row.record.downtime.never_stopped() => None,
            Some(time) => Some(Item {
                from: 0.0,
                to: length(time.value_ns),
                form: Form::Bounded { low: length(time.low_ns), high: time.high_ns.map(length) },
                tone,
                tip: format!("{}: {}", title(row), estimate(time)),
                data: Data::estimate(format!("/{}/{path}", row.number), time),
                ..Item::default()
            }),
            None => Some(unknown(&scale, row)),
        };
        let value = if name == STOP { stop(row.record) } else { estimated(of(row.record)) };
        numbered(row, value, item)
    };
    compared(name, scale, rows.iter().map(lane).collect())
}

fn sent(rows: &[Row<'_>]) -> Chart {
    let total = |row: &Row<'_>| row.record.traffic.total.map(|total| total.tx.wire_bytes);
    let most = rows.iter().filter_map(total).map(length).fold(0.0, f64::max);
    let scale = Scale::from_zero(Quantity::Bytes, most);
    let lane = |row: &Row<'_>| {
        let item = match total(row) {
            Some(sent) => Item {
                from: 0.0,
                to: length(sent),
                form: Form::Span,
                tone: "t-sent",
                tip: format!("{}: {}", title(row), bytes(sent)),
                data: Data::new(
                    format!("/{}/traffic/total/tx", row.number),
                    vec![("wire_bytes", Some(sent.into()))],
                ),
                ..Item::default()
            },
            None => unknown(&scale, row),
        };
        numbered(row, headline::sent(row.record).into(), Some(item))
    };
    compared("Sent", scale, rows.iter().map(lane).collect())
}

/// How one of several is called.
fn title(row: &Row<'_>) -> String {
    format!("{}. {}", row.number + 1, headline::vm(row.record))
}

fn numbered(row: &Row<'_>, value: Bounded, item: Option<Item>) -> Lane {
    Lane { name: title(row), value, height: LOW, items: item.into_iter().collect(), ..Lane::default() }
}

fn unknown(scale: &Scale, row: &Row<'_>) -> Item {
    Item::unknown(scale, format!("{}: {UNKNOWN}", title(row)), UNKNOWN)
}

/// A chart of one figure, one of several that share a legend. The summary has its values.
fn compared(name: &str, scale: Scale, lanes: Vec<Lane>) -> Chart {
    Chart {
        title: name.to_owned(),
        about: String::new(),
        axis: Axis { scale, origin: 0.0, name: String::new() },
        lanes,
        legend: Vec::new(),
        table: Rows::default(),
    }
}

/// The curves of all, on the same scales.
fn small_multiples(rows: &[Row<'_>]) -> Markup {
    let all: Vec<_> = rows
        .iter()
        .map(|row| (row, steps(row.record, MOST_STEPS)))
        .filter(|(_, steps)| !steps.is_empty())
        .collect();
    let axes = || rows.iter().map(|row| axis(row.record));
    let from = axes().map(|axis| axis.from()).fold(0.0, f64::min);
    let to = axes().map(|axis| axis.to()).fold(0.0, f64::max);
    let shared = Scale::new(Quantity::Time, from, to);
    let most = highest(all.iter().flat_map(|(_, steps)| steps));
    let about = "Sent and received by each, on the same scales. Each step is the average between two samples, or to the last packet; the table \
                 of each migration below has the values.";
    html! {
        @if !all.is_empty() {
            section {
                h3 { "Over time" }
                p { (about) }
                div class="multiples" {
                    @for (row, steps) in &all {
                        figure class="chart" role="group" aria-label=(format!("{}: sent and received over time", title(row))) {
                            figcaption { span class="title" { (title(row)) } }
                            (lanes(
                                &curves(row.record, row.number, steps, most),
                                &Axis { scale: shared, origin: 0.0, name: "after the start".to_owned() },
                            ))
                        }
                    }
                }
            }
        }
    }
}
