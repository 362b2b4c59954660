//! How long the guest did not answer, and how much of that the network took.

use super::sides::Sides;
use crate::record::{Estimate, EstimatedInstant, Method};
use crate::timeline::gaps::BoundedGap;
use crate::timeline::probe_target::GuestProbe;

impl Sides<'_> {
    /// The gap in which the guest stopped or, where that was not seen, ran again. If there are several, it is the longest: a
    /// shorter one may just end or begin at that instant. A possible gap is taken only if there is no certain one, and if it
    /// holds both instants as far as they are known.
    pub(super) fn gap_around_stop<'g>(&self, gaps: &'g [BoundedGap<'g>]) -> Option<&'g BoundedGap<'g>> {
        let ends: Vec<i64> =
            [self.stopped(), self.runs_again()].iter().flatten().map(|end| end.moment.value).collect();
        let first = *ends.first()?;
        let holds = |around: &BoundedGap<'_>, at: i64| {
            let (gap, error) = (&around.gap, around.error());
            let is_after_end = |end: EstimatedInstant| at > end.high_ns.saturating_add(error);
            gap.start.low_ns.saturating_sub(error) <= at && !gap.end().is_some_and(is_after_end)
        };
        let absence = self.stopped().zip(self.runs_not_before());
        // A gap is over if it ended before the guest can have run again, with the reply to a request from before the stop: the
        // guest's last reply may arrive just after its stop.
        let is_over = |around: &BoundedGap<'_>| {
            absence.zip(around.gap.end()).is_some_and(|((stopped, runs), end)| {
                let requested = self.prober.at(around.seen.resuming_request_ns).high;
                requested < Some(stopped.moment.value) && end.high_ns.saturating_add(around.error()) < runs
            })
        };
        let is_candidate = |around: &&BoundedGap<'_>| {
            let is_sure = around.gap.is_sure();
            holds(around, first) && (is_sure || ends.iter().all(|at| holds(around, *at))) && !is_over(around)
        };
        let rank = |around: &&BoundedGap<'_>| (around.gap.is_sure(), around.gap.length.value_ns);
        let mut candidates = gaps.iter().filter(|around| around.gap.is_plausible()).filter(is_candidate);
        if self.prober.clock.is_rough() {
            // Nothing says which of several it was.
            return candidates.next().filter(|_| candidates.next().is_none());
        }
        candidates.max_by_key(rank)
    }

    /// Whether a gap that was chosen for the guest's stop surely lies around it. A certain gap does. A possible gap does
    /// if the last reply before it came before the guest can have run again, so it was sent before the stop, and if the
    /// request that ended the gap was sent after the stop.
    pub(super) fn is_framed_by(&self, around: &BoundedGap<'_>) -> bool {
        if around.gap.is_sure() {
            return true;
        }
        let Some(stopped) = self.stopped().map(|end| end.moment.value) else { return false };
        let runs = self.runs_not_before().map_or(stopped, |runs| runs.max(stopped));
        let (last_reply, requested) =
            (self.prober.at(around.seen.last_reply_ns), self.prober.at(around.seen.resuming_request_ns));
        last_reply.high <= Some(runs) && requested.low >= Some(stopped)
    }

    /// How long the guest did not answer. Where no gap surely lies around its stop, the upper bound allows for the longest
    /// silence that would not have been a gap.
    pub(super) fn reachability(
        &self,
        around: Option<&BoundedGap<'_>>,
        gaps: &[BoundedGap<'_>],
        probe: Option<&GuestProbe<'_>>,
    ) -> Option<Estimate> {
        let without_gap = || self.reachability_without_gap(probe?);
        let Some(around) = around else {
            let may_be_any = self.prober.clock.is_rough() && !gaps.is_empty();
            return if may_be_any { None } else { without_gap() };
        };
        let length = around.gap.length.clone();
        if self.is_framed_by(around) {
            return Some(length);
        }
        let high_ns = length.high_ns.zip(without_gap()?.high_ns).map(|(gap, none)| gap.max(none));
        Some(Estimate { high_ns, ..length })
    }

    /// How long the guest can have been silent although no gap was found: for as long as the requests lost outside of all gaps
    /// took if they were lost one after the other, and one round trip. Unknown when the probing began after the stop, or ended
    /// before the guest ran again.
    fn reachability_without_gap(&self, probe: &GuestProbe<'_>) -> Option<Estimate> {
        let echo = probe.echo?;
        let moved = self.stopped().or_else(|| self.runs_again())?.moment.value;
        let again = self.runs_again().map_or(moved, |end| end.moment.value);
        let (since, until) = (self.prober.at(probe.since).high, self.prober.at(probe.until).low);
        let was_probed =
            |at: i64| since.is_some_and(|since| since <= at) && until.is_some_and(|until| at <= until);
        if !(was_probed(moved) && was_probed(again)) {
            return None;
        }
        let lost = echo.lost.saturating_sub(probe.lost_in_gaps);
        let longest_ns = echo.longest_interval_ns.saturating_mul(lost.saturating_add(1));
        let unnoticed_ns = if echo.lost > 0 { probe.min_gap_ns } else { 0 };
        let high_ns = longest_ns.saturating_add(echo.round_trip?.max_ns).max(unnoticed_ns);
        Some(Estimate {
            value_ns: echo.interval_ns.unwrap_or(0).saturating_mul(lost).min(high_ns),
            low_ns: 0,
            high_ns: Some(high_ns),
            method: if lost == 0 { Method::NoGap } else { Method::LostRequests },
        })
    }
}

/// What the network needed to find the guest again; none when the two lengths contradict each other.
pub(super) fn tail(reachability: &Estimate, stop: &Estimate) -> Option<Estimate> {
    if reachability.high_ns.is_some_and(|high| high < stop.low_ns) {
        return None;
    }
    let value_ns = reachability.value_ns.saturating_sub(stop.value_ns);
    Some(Estimate {
        value_ns,
        low_ns: stop.high_ns.map_or(0, |high| reachability.low_ns.saturating_sub(high)).min(value_ns),
        high_ns: reachability.high_ns.map(|high| high.saturating_sub(stop.low_ns).max(value_ns)),
        method: Method::ReachabilityLessStop,
    })
}
