//! The lengths: stop, network, reachability.

use super::{Left, Sides, ended, first_frame, left, resume_after, spoken};
use crate::record::{Estimate, Gap, Method, Mode, Outcome, PhaseName, Role};
use crate::timeline::facts::{Facts, Mark, MarkKind};
use crate::timeline::gaps::Silence;
use crate::timeline::migration::{End as MigrationEnd, Migration};
use crate::timeline::probed::Probe;
use crate::units::MonotonicNs;
use crate::vocabulary::Lost;

/// How an end of the stop is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// A vCPU left KVM, or entered it.
    Vcpus,
    /// QEMU said STOP or RESUME.
    QmpEvent,
}

/// An instant with its bounds, in nanoseconds from the migration's start.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Not before this; none: nothing tells.
    low: Option<i64>,
    value: i64,
    /// Not after this; none: nothing tells.
    high: Option<i64>,
}

impl Moment {
    const fn exact(at: i64) -> Self {
        Self { low: Some(at), value: at, high: Some(at) }
    }
}

/// The length between two moments. The bounds hold whatever the true moments are within theirs.
fn length(from: Moment, to: Moment, method: Method) -> Estimate {
    let between = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let value_ns = between(from.value, to.value);
    Estimate {
        value_ns,
        low_ns: from.high.zip(to.low).map_or(0, |(from, to)| between(from, to)).min(value_ns),
        high_ns: from.low.zip(to.high).map(|(from, to)| between(from, to).max(value_ns)),
        method,
    }
}

/// One end of a stop and how it is known.
#[derive(Clone, Copy, Debug)]
struct End {
    moment: Moment,
    by: By,
}

impl Sides<'_> {
    /// When the guest stopped.
    fn stopped(&self) -> Option<End> {
        let stop = self.last_stop()?;
        // QEMU says so after the vCPUs have stopped.
        let said = self.at(stop.at);
        Some(match left(self.source?.process, stop) {
            Some(Left { first, last, all_known: true }) => {
                let (first, last) = (self.at(first), self.at(last));
                End { moment: Moment { low: Some(first), value: last, high: Some(last) }, by: By::Vcpus }
            }
            // One that was not seen may have left at any time until then.
            Some(Left { first, .. }) => End {
                moment: Moment { low: Some(self.at(first)), value: said, high: Some(said) },
                by: By::QmpEvent,
            },
            None => End { moment: Moment { low: None, value: said, high: Some(said) }, by: By::QmpEvent },
        })
    }

    /// Whether the migration stopped the guest. No capability hides STOP, so its absence tells where everything was seen.
    pub(super) fn stopped_at_all(&self, facts: &Facts) -> Option<bool> {
        let source = self.source?;
        if source.last_stop().is_some() {
            return Some(true);
        }
        let did_not_move = matches!(
            source.end,
            MigrationEnd::Declared(_, Outcome::Cancelled | Outcome::Failed)
                | MigrationEnd::Replied(_, Outcome::Cancelled | Outcome::Failed)
        );
        // What the two sides say can contradict each other, however each says it.
        let has_arrived =
            self.destination.is_some_and(|there| there.outcome(facts.end) == Outcome::Completed);
        let lost = facts.losses.between(source.start, source.end.at());
        let saw_all = source.start_seen && facts.hears_qemu() && lost == Lost::default();
        (did_not_move && !has_arrived && saw_all).then_some(false)
    }

    /// For how long QEMU may have sent frames of a guest whose vCPUs had stopped: it sends what they left behind until it
    /// says STOP.
    pub(super) fn held_back_ns(&self) -> Option<u64> {
        let stop = self.last_stop()?;
        Some(stop.at.0 - left(self.source?.process, stop)?.last.0)
    }

    /// When the guest ran again.
    fn runs_again(&self) -> Option<End> {
        let stop = self.last_stop().map(|stop| stop.at);
        let mut candidates = self.places_to_run().filter_map(|(side, until)| {
            let from = match (side.role, stop) {
                (Role::Source, None) => return None,
                (_, Some(stop)) => stop,
                (Role::Destination, None) => side.start,
            };
            self.runs_again_on(side, from, until)
        });
        candidates.next()
    }

    /// Before this the guest did not run again.
    fn runs_not_before(&self) -> Option<i64> {
        self.runs_again().and_then(|end| end.moment.low).max(self.handed_over())
    }

    fn runs_again_on(&self, side: &Migration<'_>, from: MonotonicNs, until: MonotonicNs) -> Option<End> {
        let run = side.process.and_then(|process| process.runs.first_since(from));
        if let Some((doubtful, run)) = run.filter(|(_, run)| *run <= until) {
            let (doubtful, at) = (self.at(doubtful), self.at(run));
            return Some(End {
                moment: Moment { low: Some(doubtful), value: at, high: Some(at) },
                by: By::Vcpus,
            });
        }
        let resume = resume_after(side, from).filter(|resume| resume.at <= until)?;
        let bounds = self.clocks.bounds(resume);
        // QEMU says so before the vCPUs run.
        let low = bounds.earliest.map(|earliest| self.at(MonotonicNs(earliest)));
        let moment = Moment { low, value: self.at(MonotonicNs(bounds.latest)), high: None };
        Some(End { moment, by: By::QmpEvent })
    }

    /// The gap in which the guest stopped or, where that was not seen, ran again. One that begins with the answer to what
    /// was asked after the stop began when the guest ran again already. Of several it is the longest: a shorter one may end,
    /// or begin, just at that instant. One that may have been none is taken only if there is no other, and if both fall into
    /// it as far as they are known.
    pub(super) fn silence<'g>(&self, silences: &'g [Silence<'g>]) -> Option<&'g Silence<'g>> {
        let ends: Vec<i64> =
            [self.stopped(), self.runs_again()].iter().flatten().map(|end| end.moment.value).collect();
        let first = *ends.first()?;
        let holds =
            |gap: &Gap, at: i64| gap.start.low_ns <= at && ended(gap).is_none_or(|end| at <= end.high_ns);
        let absence = self.stopped().zip(self.runs_not_before());
        // The guest's last reply may come just after its stop: what it answers was asked before, and the reply comes
        // before the guest can have run again.
        let is_over = |silence: &Silence<'_>| {
            absence.zip(ended(&silence.gap)).is_some_and(|((stopped, runs), end)| {
                self.at(silence.seen.resuming_request_ns) < stopped.moment.value && end.high_ns < runs
            })
        };
        let is_it = |silence: &&Silence<'_>| {
            let gap = &silence.gap;
            holds(gap, first) && (gap.is_sure() || ends.iter().all(|at| holds(gap, *at))) && !is_over(silence)
        };
        let rank = |silence: &&Silence<'_>| (silence.gap.is_sure(), silence.gap.length.value_ns);
        silences.iter().filter(|silence| silence.gap.is_plausible()).filter(is_it).max_by_key(rank)
    }

    /// Whether a gap certainly lies around the guest's stop, even if it may have been none: a reply came before the guest
    /// can have run again, so it was sent before the stop, and what was asked after the stop was answered.
    pub(super) fn is_framed_by(&self, silence: &Silence<'_>) -> bool {
        if silence.gap.is_sure() {
            return true;
        }
        let Some(stopped) = self.stopped().map(|end| end.moment.value) else { return false };
        let runs = self.runs_not_before().map_or(stopped, |runs| runs.max(stopped));
        self.at(silence.seen.last_reply_ns) <= runs && self.at(silence.seen.resuming_request_ns) >= stopped
    }

    /// For how long the guest did not answer. Where no gap is known to lie around its stop, it is known for how long it can
    /// have been silent without one.
    pub(super) fn reachability(
        &self,
        silence: Option<&Silence<'_>>,
        probe: Option<&Probe<'_>>,
    ) -> Option<Estimate> {
        let without_gap = || self.reachability_without_gap(probe?);
        let Some(silence) = silence else { return without_gap() };
        let length = silence.gap.length.clone();
        if self.is_framed_by(silence) {
            return Some(length);
        }
        let high_ns = length.high_ns.zip(without_gap()?.high_ns).map(|(gap, none)| gap.max(none));
        Some(Estimate { high_ns, ..length })
    }

    /// For how long the guest can have been silent although no gap was found: for the requests that were lost outside of all
    /// gaps, if they were one after the other, and a round trip. Nothing is known when the asking began after the stop, or
    /// ended before the guest ran again.
    fn reachability_without_gap(&self, probe: &Probe<'_>) -> Option<Estimate> {
        let echo = probe.echo?;
        let moved = self.stopped().or_else(|| self.runs_again())?.moment.value;
        let again = self.runs_again().map_or(moved, |end| end.moment.value);
        let asked = self.at(probe.since)..=self.at(probe.until);
        if !(asked.contains(&moved) && asked.contains(&again)) {
            return None;
        }
        let lost = echo.lost.saturating_sub(probe.lost_in_gaps);
        let longest_ns = echo.longest_interval_ns.saturating_mul(lost.saturating_add(1));
        let untold_ns = if echo.lost > 0 { probe.min_gap_ns } else { 0 };
        let high_ns = longest_ns.saturating_add(echo.round_trip?.max_ns).max(untold_ns);
        Some(Estimate {
            value_ns: echo.interval_ns.unwrap_or(0).saturating_mul(lost).min(high_ns),
            low_ns: 0,
            high_ns: Some(high_ns),
            method: if lost == 0 { Method::NoGap } else { Method::LostRequests },
        })
    }

    /// A guest that answers before all of its memory is there answers from somewhere else.
    pub(super) fn answers_too_early(&self, gap: Option<&Gap>) -> Option<String> {
        let (reply, sent) = (ended(gap?)?.high_ns, self.handed_over()?);
        (reply < sent).then(|| {
            format!(
                "echo requests were answered again {} before the source had sent what the guest needs to run: somebody \
                 else answers for it",
                spoken(sent.abs_diff(reply))
            )
        })
    }

    /// How long the guest did not run. Where one end of the stop was not seen on this host, the gap stands in; without
    /// one, the last byte tells how long it was at least.
    pub(super) fn stop(&self, gap: Option<&Gap>) -> Option<Estimate> {
        let sent_all = self.source.and_then(Migration::last_byte).map(|at| self.at(at));
        let gap = gap.filter(|gap| self.answers_too_early(Some(gap)).is_none());
        let estimate = match (self.stopped(), self.runs_again(), gap.and_then(|gap| Some((gap, ended(gap)?))))
        {
            (Some(from), Some(to), _) => {
                let method = match (from.by, to.by) {
                    (By::Vcpus, By::Vcpus) => Method::Vcpus,
                    (By::Vcpus, By::QmpEvent) => Method::VcpusToQmpEvent,
                    (By::QmpEvent, By::Vcpus) => Method::QmpEventToVcpus,
                    (By::QmpEvent, By::QmpEvent) => Method::QmpEvents,
                };
                length(from.moment, to.moment, method)
            }
            (Some(from), None, Some((_, end))) => {
                // It can run at the destination only when all has arrived, and ran before it answered.
                let value = sent_all.map_or(end.high_ns, |at| at.midpoint(end.high_ns));
                let to = Moment { low: self.handed_over(), value, high: Some(end.high_ns) };
                let method = match from.by {
                    By::Vcpus => Method::VcpusToFirstReply,
                    By::QmpEvent => Method::QmpEventToFirstReply,
                };
                length(from.moment, to, method)
            }
            (Some(from), None, None) => {
                let last = sent_all.filter(|last| *last >= from.moment.value)?;
                let to = Moment { low: Some(last), value: last, high: None };
                let method = match from.by {
                    By::Vcpus => Method::VcpusToLastByte,
                    By::QmpEvent => Method::QmpEventToLastByte,
                };
                length(from.moment, to, method)
            }
            (None, Some(to), Some((gap, _))) => {
                // It ran until it last answered, and had stopped when the last byte was sent.
                let from = Moment {
                    low: Some(gap.start.low_ns),
                    value: gap.start.low_ns,
                    high: self.received_all(),
                };
                let method = match to.by {
                    By::Vcpus => Method::LastReplyToVcpus,
                    By::QmpEvent => Method::LastReplyToQmpEvent,
                };
                length(from, to.moment, method)
            }
            _ => return None,
        };
        // A guest that answers runs: what the events leave open the gap may close.
        let bound = gap.and_then(|gap| gap.length.high_ns);
        let high_ns = estimate.high_ns.or(bound.filter(|high| *high >= estimate.value_ns));
        Some(Estimate { high_ns, ..estimate })
    }

    /// When the source still had something to send without which the guest cannot run elsewhere: it said so, or its last
    /// byte went then.
    fn handed_over(&self) -> Option<i64> {
        let source = self.source.filter(|source| source.mode() == Mode::Precopy)?;
        let stop = source.last_stop()?.at;
        let is_sent = |m: &Mark| m.is_status(&PhaseName::Device) || matches!(m.kind, MarkKind::Pass(_));
        let sends = |m: &&&Mark| m.at >= stop && is_sent(m);
        let said = source.marks.iter().filter(sends).map(|m| m.at).max().unwrap_or(stop);
        Some(self.at(said.max(source.last_byte().unwrap_or(said))))
    }

    /// When the destination had received all of it.
    fn received_all(&self) -> Option<i64> {
        let destination = self.destination.filter(|destination| destination.mode() == Mode::Precopy)?;
        let run = self.runs_again()?.moment.value;
        let last = destination.last_byte().or_else(|| destination.last_packet());
        last.map(|last| self.at(last).min(run))
    }

    /// From the last frame of the guest at the source to the first at the destination, whichever tap they crossed.
    pub(super) fn network(&self) -> Option<Estimate> {
        let last = self.last_frame()?;
        let stop = self.last_stop()?.at;
        let mut firsts = self
            .places_to_run()
            .filter_map(|(side, until)| first_frame(side.process?, stop).filter(|first| *first <= until));
        let first = firsts.next()?;
        Some(length(Moment::exact(self.at(last)), Moment::exact(self.at(first)), Method::FramesAtTaps))
    }

    /// The guest's last frame at the source.
    pub(super) fn last_frame(&self) -> Option<MonotonicNs> {
        self.last_frames().into_values().max()
    }
}
