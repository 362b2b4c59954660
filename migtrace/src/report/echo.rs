//! How an address answered echo requests, in the report of a probe or of a migration.

use jiff::Timestamp;

use super::content::{Column, Piece, Section, Table, UNKNOWN, clean, left, right, said, table};
use super::quantities::{duration, estimate, grouped, offset, percent};
use crate::record::{Gap, Record};
use crate::vocabulary::Echo;

/// The most gaps that are shown. A guest that is slow while its memory is copied has many short ones.
const GAPS_SHOWN: usize = 10;

/// The sections of a record; none when its guest was not probed.
pub(super) fn of_record(record: &Record) -> Vec<Section> {
    let mut sections = Vec::new();
    if let Some(echo) = &record.echo {
        let whose = format!("Echo requests to {} from {}", echo.target, echo.peer);
        sections.push(Section::untitled(vec![Piece::Space, said("", whose)]));
        sections.push(figures(echo));
    }
    sections.extend(gaps(&record.gaps, record.start.realtime_ns));
    sections
}

/// The figures of all requests, a line each.
pub(super) fn figures(echo: &Echo) -> Section {
    let mut pieces = vec![Piece::Named("Requests", counts(echo))];
    pieces.extend(echo.interval_ns.map(|interval_ns| {
        let longest = duration(echo.longest_interval_ns);
        Piece::Named("Interval", format!("{} on average, {longest} at most", duration(interval_ns)))
    }));
    pieces.extend(echo.round_trip.map(|round_trip| {
        let (p50, p99, max) =
            (duration(round_trip.p50_ns), duration(round_trip.p99_ns), duration(round_trip.max_ns));
        Piece::Named("Round trip", format!("p50 {p50}, p99 {p99}, longest {max}"))
    }));
    Section::untitled(pieces)
}

fn counts(echo: &Echo) -> String {
    let share = percent(echo.lost, echo.sent).map_or(String::new(), |share| format!(" ({share})"));
    let (sent, answered) = (grouped(echo.sent), grouped(echo.answered));
    let (lost, late, duplicate) = (grouped(echo.lost), grouped(echo.late), grouped(echo.duplicate));
    format!("{sent} sent, {answered} answered ({late} late, {duplicate} duplicate), {lost} lost{share}")
}

/// A gap, and the wall time that its start counts from.
struct Row<'a> {
    gap: &'a Gap,
    origin_realtime_ns: Option<i64>,
}

/// The gaps, a line each, the certain ones first. Their starts count from `origin_realtime_ns`.
pub(super) fn gaps(gaps: &[Gap], origin_realtime_ns: Option<i64>) -> Vec<Section> {
    let (certain, possible): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().partition(|gap| gap.is_sure());
    let mut all_columns = columns();
    all_columns.push(right("Seen by", |row| clean(&row.gap.length.method.as_str().replace('-', " "))));
    let title = "Gaps (no echo request was answered)";
    let shown = longest(&certain, origin_realtime_ns);
    let certain = listed(title, table(&all_columns, &shown), certain.len());
    let title = "Possible gaps (requests were lost or late, perhaps for another reason)";
    let shown = longest(&possible, origin_realtime_ns);
    let possible = listed(title, table(&columns(), &shown), possible.len());
    certain.into_iter().chain(possible).collect()
}

/// The columns that every table of gaps has, from left to right.
fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        left("Silent from (UTC)", |row| {
            let origin_ns = row.origin_realtime_ns;
            let from_ns = origin_ns.map(|origin_ns| origin_ns.saturating_add(row.gap.start.value_ns));
            from_ns.map_or(UNKNOWN.to_owned(), wall_time)
        }),
        right("After", |row| offset(row.gap.start.value_ns)),
        right("For", |row| estimate(&row.gap.length)),
        right("Lost", |row| grouped(row.gap.lost)),
        right("Late", |row| grouped(row.gap.late)),
        right("Duplicate", |row| grouped(row.gap.duplicate)),
    ]
}

/// A table of some of `number` gaps; none when there are none.
fn listed(title: &str, table: Table, number: usize) -> Option<Section> {
    let mut pieces = vec![Piece::Table(table)];
    if number > GAPS_SHOWN {
        let more = number - GAPS_SHOWN;
        pieces.push(said(" ", format!("and {more} shorter ones, which only the JSON lists")));
    }
    (number > 0).then(|| Section::titled(title, pieces))
}

/// The longest gaps, as many as a person reads, in the order of their times.
fn longest<'a>(gaps: &[&'a Gap], origin_realtime_ns: Option<i64>) -> Vec<Row<'a>> {
    let mut shown = gaps.to_vec();
    shown.sort_by_key(|gap| std::cmp::Reverse(gap.length.value_ns));
    shown.truncate(GAPS_SHOWN);
    shown.sort_by_key(|gap| gap.start.value_ns);
    shown.into_iter().map(|gap| Row { gap, origin_realtime_ns }).collect()
}

/// To the microsecond.
pub(super) fn wall_time(realtime_ns: i64) -> String {
    Timestamp::from_nanosecond(realtime_ns.into())
        .map_or_else(|_| UNKNOWN.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string())
}
