//! What echo requests told, in a probe's report or in a record's.

use std::fmt::Write as _;

use comfy_table::Table;
use jiff::Timestamp;

use super::quantities::{duration, estimate, grouped, offset, percent};
use super::text::{clean, right, table, trimmed, wrap};
use crate::record::{Gap, Record};
use crate::vocabulary::Echo;

/// A guest that is slow while its memory is copied has many short ones.
const GAPS_SHOWN: usize = 10;

/// The section of a record; nothing when its guest was not probed.
pub(super) fn section(record: &Record, text: &mut String) {
    if let Some(echo) = &record.echo {
        text.push('\n');
        wrap(text, "", &format!("Echo requests to {} from {}", echo.target, echo.peer));
        figures(echo, text);
    }
    gaps(&record.gaps, record.start.realtime_ns, text);
}

/// The figures of all requests, a line each.
pub(super) fn figures(echo: &Echo, text: &mut String) {
    let mut line = |name: &str, value: String| wrap(text, &format!("  {name:<11} "), &value);
    line("Requests", counts(echo));
    if let Some(interval_ns) = echo.interval_ns {
        let longest = duration(echo.longest_interval_ns);
        line("Interval", format!("{} on average, {longest} at most", duration(interval_ns)));
    }
    if let Some(round_trip) = echo.round_trip {
        let (p50, p99, max) =
            (duration(round_trip.p50_ns), duration(round_trip.p99_ns), duration(round_trip.max_ns));
        line("Round trip", format!("p50 {p50}, p99 {p99}, longest {max}"));
    }
}

fn counts(echo: &Echo) -> String {
    let share = percent(echo.lost, echo.sent).map_or(String::new(), |share| format!(" ({share})"));
    let (sent, answered) = (grouped(echo.sent), grouped(echo.answered));
    let (lost, late, duplicate) = (grouped(echo.lost), grouped(echo.late), grouped(echo.duplicate));
    format!("{sent} sent, {answered} answered ({late} late, {duplicate} duplicate), {lost} lost{share}")
}

/// The gaps, a line each; `origin_realtime_ns` is the wall time that their starts count from.
pub(super) fn gaps(gaps: &[Gap], origin_realtime_ns: Option<i64>, text: &mut String) {
    let (sure, doubtful): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().partition(|gap| gap.is_sure());
    let mut table = table(["Silent from (UTC)", "After", "For", "Lost", "Late", "Duplicate", "Seen by"], 1);
    for gap in longest(&sure) {
        let [from, after, length, lost, late, duplicate] = cells(gap, origin_realtime_ns);
        let seen_by = clean(&gap.length.method.as_str().replace('-', " "));
        table.add_row(right([from, after, length, lost, late, duplicate, seen_by], 1));
    }
    listed("Gaps (no echo request was answered)", &table, sure.len(), text);
    let mut table = self::table(["Silent from (UTC)", "After", "For", "Lost", "Late", "Duplicate"], 1);
    for gap in longest(&doubtful) {
        table.add_row(right(cells(gap, origin_realtime_ns), 1));
    }
    let title = "Silences that may have been (requests were lost or late, for another reason perhaps)";
    listed(title, &table, doubtful.len(), text);
}

fn cells(gap: &Gap, origin_realtime_ns: Option<i64>) -> [String; 6] {
    let from = origin_realtime_ns.map(|origin_ns| wall_time(origin_ns.saturating_add(gap.start.value_ns)));
    [
        from.unwrap_or_else(|| "unknown".to_owned()),
        offset(gap.start.value_ns),
        estimate(&gap.length),
        grouped(gap.lost),
        grouped(gap.late),
        grouped(gap.duplicate),
    ]
}

/// A table of some of `number` gaps; nothing when there are none.
fn listed(title: &str, table: &Table, number: usize, text: &mut String) {
    if number == 0 {
        return;
    }
    let _ = writeln!(text, "\n{title}\n{}", trimmed(table));
    if number > GAPS_SHOWN {
        let _ = writeln!(text, " and {} shorter ones, all of them in the JSON", number - GAPS_SHOWN);
    }
}

/// The longest gaps, as many as a person reads, in the order of their times.
fn longest<'a>(gaps: &[&'a Gap]) -> Vec<&'a Gap> {
    let mut shown = gaps.to_vec();
    shown.sort_by_key(|gap| std::cmp::Reverse(gap.length.value_ns));
    shown.truncate(GAPS_SHOWN);
    shown.sort_by_key(|gap| gap.start.value_ns);
    shown
}

/// To the microsecond.
pub(super) fn wall_time(realtime_ns: i64) -> String {
    Timestamp::from_nanosecond(realtime_ns.into())
        .map_or_else(|_| "unknown".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string())
}
