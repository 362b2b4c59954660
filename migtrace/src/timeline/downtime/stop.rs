//! How long the guest did not run.

use super::sides::{Sides, VcpuExits, resume_after, vcpu_exits};
use crate::record::{Estimate, Method, Mode, Outcome, PhaseName};
use crate::timeline::gaps::BoundedGap;
use crate::timeline::half::Half;
use crate::timeline::migration::Ending;
use crate::timeline::moment::{Moment, length};
use crate::timeline::transition::{Transition, TransitionKind};
use crate::timeline::wording::spoken;
use crate::units::MonotonicNs;
use crate::vocabulary::Lost;

/// How an edge of the stop is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// A vCPU left KVM, or entered it.
    Vcpus,
    /// QEMU reported STOP or RESUME.
    QmpEvent,
}

/// The beginning or the end of a stop, and how it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopEdge {
    pub(super) moment: Moment,
    by: By,
}

impl Sides<'_> {
    /// When the guest stopped.
    pub(super) fn stopped(&self) -> Option<StopEdge> {
        let source = self.source?;
        let stop = source.last_stop()?;
        // QEMU reports it after the vCPUs have stopped.
        let reported = source.at(stop.at);
        Some(match vcpu_exits(source.process, stop) {
            Some(VcpuExits { first, last, all_known: true }) => {
                StopEdge { moment: source.between(first, last), by: By::Vcpus }
            }
            // A vCPU that was not seen may have left at any time until then.
            Some(VcpuExits { first, .. }) => {
                StopEdge { moment: source.between(first, stop.at), by: By::QmpEvent }
            }
            None => StopEdge { moment: Moment { low: None, ..reported }, by: By::QmpEvent },
        })
    }

    /// Whether the migration stopped the guest. QEMU always reports STOP, so its absence is proof where everything was seen.
    pub(super) fn stopped_at_all(&self) -> Option<bool> {
        let source = self.source?;
        if source.last_stop().is_some() {
            return Some(true);
        }
        let did_not_move = matches!(
            source.end,
            Ending::Declared(_, Outcome::Cancelled | Outcome::Failed)
                | Ending::Replied(_, Outcome::Cancelled | Outcome::Failed)
        );
        // The two sides can contradict each other.
        let has_arrived =
            self.destination.is_some_and(|there| there.outcome(there.facts.end) == Outcome::Completed);
        let lost = source.facts.losses.between(source.start, source.end.at());
        let saw_all = source.start_seen && source.facts.hears_qemu() && lost == Lost::default();
        (did_not_move && !has_arrived && saw_all).then_some(false)
    }

    /// For how long QEMU may have sent frames of a guest whose vCPUs had stopped: until it reports STOP it sends what they
    /// left behind.
    pub(super) fn held_back_ns(&self) -> Option<u64> {
        let stop = self.last_stop()?;
        Some(stop.at.0 - vcpu_exits(self.source?.process, stop)?.last.0)
    }

    /// When the guest ran again.
    pub(super) fn runs_again(&self) -> Option<StopEdge> {
        let mut candidates = self
            .places_to_run()
            .filter_map(|(side, until)| runs_again_on(&side, self.after_stop(&side)?, until));
        candidates.next()
    }

    /// The guest did not run again before this.
    pub(super) fn runs_not_before(&self) -> Option<i64> {
        self.runs_again().and_then(|end| end.moment.low).max(self.handed_over())
    }

    /// How long the guest did not run. The gap stands in for an edge of the stop that this host did not see. Without a gap,
    /// the last byte gives a lower bound.
    pub(super) fn stop(&self, around: Option<&BoundedGap<'_>>) -> Option<Estimate> {
        let sent_all = self.source.and_then(|source| Some(source.at(source.last_byte()?).value));
        let around = around.filter(|gap| self.answers_too_early(Some(gap)).is_none());
        let ended = around.and_then(|around| Some((around, around.gap.end()?)));
        let estimate = match (self.stopped(), self.runs_again(), ended) {
            (Some(from), Some(to), _) => {
                let method = match (from.by, to.by) {
                    (By::Vcpus, By::Vcpus) => Method::Vcpus,
                    (By::Vcpus, By::QmpEvent) => Method::VcpusToQmpEvent,
                    (By::QmpEvent, By::Vcpus) => Method::QmpEventToVcpus,
                    (By::QmpEvent, By::QmpEvent) => Method::QmpEvents,
                };
                length(from.moment, to.moment, method)
            }
            (Some(from), None, Some((around, end))) => {
                // It cannot run at the destination before everything has arrived, and it ran before it answered.
                let answered = end.high_ns.saturating_add(around.error());
                let value = sent_all.map_or(answered, |at| at.midpoint(answered));
                let to = Moment { low: self.handed_over(), value, high: Some(answered) };
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
            (None, Some(to), Some((around, _))) => {
                // It ran until its last answer, and had stopped when the last byte was sent.
                let answered = around.gap.start.low_ns.saturating_sub(around.error());
                let from = Moment { low: Some(answered), value: answered, high: self.received_all() };
                let method = match to.by {
                    By::Vcpus => Method::LastReplyToVcpus,
                    By::QmpEvent => Method::LastReplyToQmpEvent,
                };
                length(from, to.moment, method)
            }
            _ => return None,
        };
        // A guest that answers is running, so the gap may give the bound that the events do not.
        let bound = around.and_then(|around| around.gap.length.high_ns);
        let high_ns = estimate.high_ns.or(bound.filter(|high| *high >= estimate.value_ns));
        Some(Estimate { high_ns, ..estimate })
    }

    /// The last instant at which the source still had something to send that the guest needs to run elsewhere: the source
    /// reported so, or sent its last byte.
    pub(super) fn handed_over(&self) -> Option<i64> {
        let source = self.source.filter(|source| source.mode() == Mode::Precopy)?;
        let stop = source.last_stop()?.at;
        let is_sent =
            |m: &Transition| m.is_status(&PhaseName::Device) || matches!(m.kind, TransitionKind::Pass(_));
        let sends = |m: &&&Transition| m.at >= stop && is_sent(m);
        let said = source.transitions.iter().filter(sends).map(|m| m.at).max().unwrap_or(stop);
        source.at(said.max(source.last_byte().unwrap_or(said))).low
    }

    /// When the destination had received everything that the guest needs to run.
    fn received_all(&self) -> Option<i64> {
        let destination = self.destination.filter(|destination| destination.mode() == Mode::Precopy)?;
        let run = self.runs_again()?.moment.value;
        let last = destination.last_byte().or_else(|| destination.last_packet())?;
        destination.at(last).high.map(|last| last.min(run))
    }

    /// Replies that came before the guest can have run again, as a contradiction.
    pub(super) fn answers_too_early(&self, around: Option<&BoundedGap<'_>>) -> Option<String> {
        let around = around?;
        let (reply, sent) = (around.gap.end()?.high_ns.saturating_add(around.error()), self.handed_over()?);
        (reply < sent).then(|| {
            format!(
                "echo requests were answered again {} before the source had sent everything that the guest needs to \
                 run: something else answers for the guest",
                spoken(sent.abs_diff(reply))
            )
        })
    }
}

fn runs_again_on(side: &Half<'_>, from: MonotonicNs, until: MonotonicNs) -> Option<StopEdge> {
    let run = side.process.and_then(|process| process.runs.first_since(from));
    if let Some((possible, run)) = run.filter(|(_, run)| *run <= until) {
        return Some(StopEdge { moment: side.between(possible, run), by: By::Vcpus });
    }
    let resume = resume_after(side, from).filter(|resume| resume.at <= until)?;
    // QEMU reports it before the vCPUs run.
    Some(StopEdge { moment: Moment { high: None, ..side.event(resume) }, by: By::QmpEvent })
}
