//! The downtime, zoomed: its figures and parts as bars, and the marks of all hosts over the same stretch of time.

use maud::{Markup, html};

use super::super::chart::{
    Axis as ChartAxis, Cell, Chart, LOW, Lane, Legend, Rows, chart as figure, signs, words,
};
use super::super::scale::{Quantity, Scale};
use super::super::shapes::{Data, Form, Item};
use super::super::{length, place};
use crate::record::{Bar, Estimate, Gap, Mark, Part, Record, Role, Tap, Vantage, bars};
use crate::report::content::{UNKNOWN, clean, side};
use crate::report::drawing::Axis;
use crate::report::quantities::{Bounded, bytes, duration, estimate, grouped, offset, rate, signed};

/// Nothing with fewer than two instants to draw.
pub(super) fn chart(record: &Record, index: usize) -> Markup {
    let Some(axis) = Axis::over(&record.downtime) else { return html! {} };
    let zoom = zoom(record, axis);
    let mut lanes = figures(record, index, &zoom);
    lanes.extend(gap_lane(record, index, &zoom));
    let parts = parts(record, index, axis);
    if !parts.is_empty() {
        lanes.push(Lane::heading("What the stop was made of"));
        lanes.extend(parts);
    }
    lanes.push(Lane::heading("What was seen, and where"));
    lanes.extend(taps(record, index, axis, &zoom));
    let (shown, later): (Vec<_>, Vec<_>) =
        record.downtime.marks.iter().enumerate().partition(|(_, mark)| zoom.has(place(mark.at_ns)));
    lanes.extend(shown.into_iter().map(|(number, mark)| mark_lane(mark, number, index, axis)));
    lanes.extend(elsewhere(&later, axis));
    let about = format!(
        "How long the guest was gone, what the stop was made of, and what was seen on which host. 0 is {} after the start.",
        offset(axis.from)
    );
    let shown = Chart {
        title: "The downtime in detail".to_owned(),
        about,
        axis: ChartAxis { scale: zoom, origin: place(axis.from), name: "after the first mark".to_owned() },
        legend: signs(&lanes, Legend::Value),
        lanes,
        table: table(record, index),
    };
    figure(&shown)
}

/// By how much of the bars' length the marks may go beyond them: in post-copy the migration ends long after the stop.
const MOST_BEYOND: f64 = 3.0;

/// The stretch of the marks around the bars, and as much beyond it as the bars may reach.
fn zoom(record: &Record, axis: Axis) -> Scale {
    let (from, to) = (place(axis.from), place(axis.to));
    let bars = bars(&record.downtime);
    let ends = bars.iter().map(|bar| place(bar.from_ns) + length(bar.figure.value_ns));
    let end = ends.fold(from, f64::max);
    let to = if end > from && to > end + (end - from) * MOST_BEYOND { end + (end - from) * 0.5 } else { to };
    let farthest = to + (to - from);
    let bounds = bars.iter().filter_map(|bar| Some(place(bar.from_ns) + length(bar.figure.high_ns?)));
    let to = bounds.filter(|end| *end <= farthest).fold(to, f64::max);
    // So that the last mark is not at the edge.
    Scale::new(Quantity::Time, from - (to - from) * 0.01, to + (to - from) * 0.01)
}

/// The marks that lie before or after what is drawn: they are only named.
fn elsewhere(marks: &[(usize, &Mark)], axis: Axis) -> Option<Lane> {
    let name = |(_, mark): &(usize, &Mark)| {
        let at = offset(mark.at_ns.saturating_sub(axis.from));
        format!("{} {at} ({})", clean(mark.name.as_str()), side(mark.role))
    };
    let names = marks.iter().map(name).collect::<Vec<_>>().join(", ");
    (!marks.is_empty()).then(|| Lane::heading(&format!("Not on this axis: {names}")))
}

/// A figure of the downtime as a bar between its bounds.
pub(super) fn figure_item(bar: &Bar<'_>, of: String) -> Item {
    between(bar.from_ns, bar.figure, bar.name, tone(bar.name), of)
}

fn between(from_ns: i64, figure: &Estimate, name: &str, tone: &'static str, of: String) -> Item {
    let from = place(from_ns);
    Item {
        from,
        to: from + length(figure.value_ns),
        form: Form::Bounded {
            low: from + length(figure.low_ns),
            high: figure.high_ns.map(|high_ns| from + length(high_ns)),
        },
        tone,
        tip: format!("{name}: {}; {} ({})", estimate(figure), bounds(figure), clean(figure.method.as_str())),
        data: Data::estimate(of, figure),
        ..Item::default()
    }
}

fn bounds(figure: &Estimate) -> String {
    match figure.high_ns {
        Some(high_ns) => format!("at least {}, at most {}", duration(figure.low_ns), duration(high_ns)),
        None => format!("at least {}, no upper bound", duration(figure.low_ns)),
    }
}

fn tone(name: &str) -> &'static str {
    match name {
        "network" => "t-network",
        "reachability" => "t-reach",
        _ => "t-stop",
    }
}

/// The stop, the network's and the reachability gap; hatched where one is not known.
fn figures(record: &Record, index: usize, zoom: &Scale) -> Vec<Lane> {
    let downtime = &record.downtime;
    let bars = bars(downtime);
    let figures =
        [("stop", &downtime.stop), ("network", &downtime.network), ("reachability", &downtime.reachability)];
    let lane = |(name, figure): (&str, &Option<Estimate>)| {
        let of = format!("/{index}/downtime/{name}");
        let (value, item) = match (figure, bars.iter().find(|bar| bar.name == name)) {
            (Some(figure), Some(bar)) => (figure.into(), figure_item(bar, of)),
            (Some(figure), None) => {
                let tip = format!("{name}: {}; when it began was not seen", estimate(figure));
                (figure.into(), Item::unknown(zoom, tip, "when: unknown"))
            }
            (None, _) if name == "stop" && downtime.never_stopped() => {
                return Lane {
                    name: name.to_owned(),
                    value: Bounded::alone("not stopped"),
                    height: LOW,
                    ..Lane::default()
                };
            }
            (None, _) => (Bounded::alone(UNKNOWN), Item::unknown(zoom, why(record, name), UNKNOWN)),
        };
        Lane { name: name.to_owned(), value, height: LOW, items: vec![item], ..Lane::default() }
    };
    figures.into_iter().map(lane).collect()
}

fn why(record: &Record, name: &str) -> String {
    let entry = record.not_measured.iter().find(|entry| entry.what.starts_with(name));
    entry.map_or_else(
        || format!("{name}: {UNKNOWN}"),
        |entry| format!("{name}: {UNKNOWN}: {}", clean(&entry.why)),
    )
}

/// All times without an answer that lie on the axis; none when the guest was not probed.
pub(super) fn gap_lane(record: &Record, index: usize, axis: &Scale) -> Option<Lane> {
    record.echo.as_ref()?;
    let item = |(number, gap): (usize, &Gap)| {
        let name = if gap.is_sure() { "no answer" } else { "possibly no answer" };
        let of = format!("/{index}/gaps/{number}/length");
        between(gap.start.value_ns, &gap.length, name, "t-reach", of)
    };
    let seen = |(_, gap): &(usize, &Gap)| {
        let from = place(gap.start.value_ns);
        from <= axis.to() && from + length(gap.length.high_ns.unwrap_or(gap.length.value_ns)) >= axis.from()
    };
    let items: Vec<_> = record.gaps.iter().enumerate().filter(seen).map(item).collect();
    Some(Lane {
        name: "gaps".to_owned(),
        value: format!("{} in pings", items.len()).into(),
        height: LOW,
        items,
        ..Lane::default()
    })
}

/// The parts of the stop, each where the one before ends.
fn parts(record: &Record, index: usize, axis: Axis) -> Vec<Lane> {
    let lane = |(number, part): (usize, &Part)| {
        let name = clean(part.name.as_str());
        let of = format!("/{index}/downtime/parts/{number}/length");
        let mut item = between(part.start_ns, &part.length, &name, "t-part", of);
        let began = offset(part.start_ns.saturating_sub(axis.from));
        item.tip = format!("{}; from {began}, at the {}{}", item.tip, side(part.role.into()), sent(part));
        Lane {
            name,
            value: format!("{}, {}", duration(part.length.value_ns), side(part.role.into())).into(),
            height: LOW,
            items: vec![item],
            ..Lane::default()
        }
    };
    record.downtime.parts.iter().enumerate().map(lane).collect()
}

fn sent(part: &Part) -> String {
    match (part.wire_bytes, part.role) {
        (Some(sent), _) => {
            let rate = rate(sent, part.length.value_ns).map(|rate| format!(" at {rate}")).unwrap_or_default();
            format!("; sent {}{rate}", bytes(sent))
        }
        (None, Role::Source) => format!("; sent {UNKNOWN}"),
        (None, Role::Destination) => String::new(),
    }
}

/// When each tap fell silent, or carried the first frame: where a side has several. The text below has all of them.
fn taps(record: &Record, index: usize, axis: Axis, zoom: &Scale) -> Vec<Lane> {
    let taps = &record.downtime.taps;
    let of_side = |role| taps.iter().filter(move |tap| tap.role == role).count();
    if of_side(Role::Source) < 2 && of_side(Role::Destination) < 2 {
        return Vec::new();
    }
    let lane = |(number, tap): (usize, &Tap)| {
        let (what, field, at_ns) = match (tap.last_frame_ns, tap.first_frame_ns) {
            (Some(at_ns), _) => ("last frame", "last_frame_ns", at_ns),
            (None, Some(at_ns)) => ("first frame", "first_frame_ns", at_ns),
            (None, None) => return None,
        };
        let name = format!("{what} at {}", clean(&tap.interface));
        let values = vec![(field, Some(at_ns.into())), ("error_ns", Some(tap.error_ns.into()))];
        let data = Data::new(format!("/{index}/downtime/taps/{number}"), values);
        let lane = point(name, tap.role.into(), (at_ns, tap.error_ns), axis, data);
        zoom.has(place(at_ns)).then_some(lane)
    };
    taps.iter().enumerate().filter_map(lane).collect()
}

fn mark_lane(mark: &Mark, number: usize, index: usize, axis: Axis) -> Lane {
    let values = vec![("at_ns", Some(mark.at_ns.into())), ("error_ns", Some(mark.error_ns.into()))];
    let data = Data::new(format!("/{index}/downtime/marks/{number}"), values);
    point(clean(mark.name.as_str()), mark.role, (mark.at_ns, mark.error_ns), axis, data)
}

/// The lane of an instant.
fn point(name: String, seen_from: Vantage, (at_ns, error_ns): (i64, u64), axis: Axis, data: Data) -> Lane {
    let side = side(seen_from);
    let at = offset(at_ns.saturating_sub(axis.from));
    let error = if error_ns == 0 { String::new() } else { format!(" ± {}", duration(error_ns)) };
    let item = Item {
        from: place(at_ns),
        to: place(at_ns),
        form: Form::Point { error: length(error_ns) },
        tone: match seen_from {
            Vantage::Source => "t-source",
            Vantage::Destination => "t-destination",
            Vantage::Observer => "t-observer",
        },
        tip: format!("{name} ({side}): {at}{error}"),
        data,
        ..Item::default()
    };
    Lane { name, value: format!("{at}, {side}").into(), height: LOW, items: vec![item], ..Lane::default() }
}

fn table(record: &Record, index: usize) -> Rows {
    let headings = [
        "What",
        "Seen from",
        "Began or was (ns after the start)",
        "Length (ns)",
        "At least",
        "At most",
        "Error (ns)",
    ];
    let downtime = &record.downtime;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for bar in bars(downtime) {
        let of = format!("/{index}/downtime/{}", bar.name);
        rows.push(length_row(bar.name.to_owned(), "", Cell::Amount(signed(bar.from_ns)), bar.figure, &of));
    }
    for (number, part) in downtime.parts.iter().enumerate() {
        let of = format!("/{index}/downtime/parts/{number}");
        let start = Cell::Number(signed(part.start_ns), Data::new(format!("{of}/start_ns"), Vec::new()));
        let name = clean(part.name.as_str());
        rows.push(length_row(name, side(part.role.into()), start, &part.length, &format!("{of}/length")));
    }
    for (number, mark) in downtime.marks.iter().enumerate() {
        let of = |field: &str| Data::new(format!("/{index}/downtime/marks/{number}/{field}"), Vec::new());
        let error = if mark.error_ns == 0 {
            Cell::Amount("0".to_owned())
        } else {
            Cell::Number(grouped(mark.error_ns), of("error_ns"))
        };
        let from = format!("{} ({})", side(mark.role), clean(&mark.host));
        let at = Cell::Number(signed(mark.at_ns), of("at_ns"));
        rows.push(vec![
            words(clean(mark.name.as_str())),
            words(from),
            at,
            Cell::Amount(String::new()),
            Cell::Amount(String::new()),
            Cell::Amount(String::new()),
            error,
        ]);
    }
    Rows { headings: headings.map(str::to_owned).to_vec(), rows }
}

fn length_row(name: String, side: &str, start: Cell, figure: &Estimate, of: &str) -> Vec<Cell> {
    let ns = |field: &str, ns: u64| Cell::Number(grouped(ns), Data::new(format!("{of}/{field}"), Vec::new()));
    let most =
        figure.high_ns.map_or_else(|| Cell::Amount("no bound".to_owned()), |high_ns| ns("high_ns", high_ns));
    let (value, least) = (ns("value_ns", figure.value_ns), ns("low_ns", figure.low_ns));
    vec![words(name), words(side), start, value, least, most, Cell::Amount(String::new())]
}
