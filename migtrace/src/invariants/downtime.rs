//! The downtime, the order of the instants around it, and the reasons for what is unknown.

use std::collections::BTreeSet;

use super::violations::Violations;
use crate::record::{Disturbance, Estimate, Gap, Method, Outcome, Record};
use crate::vocabulary::Lost;

/// Lists that are in the order of time.
pub(super) fn order(record: &Record, found: &mut Violations) {
    let mut in_order = |what: &str, times: Vec<i64>| {
        found.unless(times.is_sorted(), || format!("order: {what} are at {times:?}"));
    };
    in_order("samples", record.traffic.samples.iter().map(|sample| sample.at_ns).collect());
    in_order("marks", record.downtime.marks.iter().map(|mark| mark.at_ns).collect());
    in_order("gaps", record.gaps.iter().map(|gap| gap.start.value_ns).collect());
    let signs = &record.downtime.first_signs;
    in_order("first signs", signs.iter().map(|sign| sign.after.value_ns.cast_signed()).collect());
    let announcements = &record.downtime.announcements;
    in_order("announcements", announcements.iter().map(|announced| announced.first_ns).collect());
    for two in record.downtime.parts.windows(2) {
        let end_ns = two[0].start_ns.saturating_add_unsigned(two[0].length.value_ns);
        found.unless(end_ns == two[1].start_ns, || {
            format!("order: a part ends at {end_ns}, and then {two:?}")
        });
    }
    let counted = announcements.iter().all(|announced| announced.count > 0);
    found.unless(counted, || format!("order: announcements that never came: {announcements:?}"));
}

pub(super) fn downtime(record: &Record, found: &mut Violations) {
    let downtime = &record.downtime;
    let agree = |stop: &Estimate, reachability: &Estimate| {
        reachability.high_ns.is_none_or(|high_ns| high_ns >= stop.low_ns)
    };
    let both = downtime.stop.as_ref().zip(downtime.reachability.as_ref());
    found.unless(downtime.tail.is_some() == both.is_some_and(|(stop, gap)| agree(stop, gap)), || {
        "downtime: the tail follows from a stop and a reachability that agree, and from nothing else"
            .to_owned()
    });
    if let Some(reachability) = &downtime.reachability {
        // Without a gap it may have been nothing at all, or what the lost requests allow. What may have been no gap may
        // not be the downtime either: then what is possible without it widens the upper bound.
        let without_gap =
            reachability.low_ns == 0 && matches!(reachability.method, Method::NoGap | Method::LostRequests);
        let is_widened = |gap: &Gap| {
            let Estimate { high_ns, .. } = gap.length;
            !gap.is_sure()
                && high_ns.zip(reachability.high_ns).is_some_and(|(gap, told)| gap <= told)
                && gap.length == Estimate { high_ns, ..reachability.clone() }
        };
        let is_told = |gap: &Gap| gap.length == *reachability || is_widened(gap);
        found.unless(without_gap || record.gaps.iter().any(is_told), || {
            "downtime: reachability is that of no gap".to_owned()
        });
    }
    if let Some(brownout) = &downtime.brownout {
        found.unless(downtime.reachability.is_some() && record.echo.is_some(), || {
            "downtime: a brownout, although the guest was not probed".to_owned()
        });
        let unseen = |seen: &Disturbance| seen.worst_round_trip_ns == Some(0);
        found.unless(!unseen(&brownout.before) && !unseen(&brownout.after), || {
            "downtime: a round trip that took no time stands for one that was not seen".to_owned()
        });
    }
}

/// What is unknown is listed with its reason.
pub(super) fn reasons(record: &Record, found: &mut Violations) {
    let listed = &record.not_measured;
    let distinct: BTreeSet<_> = listed.iter().collect();
    found.unless(distinct.len() == listed.len(), || "reasons: one is listed twice".to_owned());
    let said = |what: &str| listed.iter().any(|entry| entry.what.starts_with(what));
    let mut because = |unknown: bool, names: &[&str]| {
        found.unless(!unknown || names.iter().any(|name| said(name)), || {
            format!("reasons: {} is unknown without one", names[0])
        });
    };
    let (traffic, downtime) = (&record.traffic, &record.downtime);
    because(traffic.total.is_none(), &["traffic", "the bytes of"]);
    let hidden = traffic.total.is_some() && record.phases.iter().any(|phase| phase.traffic.is_none());
    because(hidden, &["the bytes of some phases"]);
    because(record.start.realtime_ns.is_none(), &["wall time"]);
    // A guest that was not stopped was not unreachable for that.
    because(downtime.reachability.is_none() && !downtime.never_stopped(), &["reachability"]);
    let moved = record.migration.outcome == Outcome::Completed;
    because(moved && downtime.stop.is_none(), &["stop"]);
    because(moved && downtime.network.is_none(), &["network"]);
    because(record.lost != Lost::default(), &["everything"]);
}
