//! The instants that matter.

use super::network::first_frame;
use super::sides::{Sides, VcpuExits, vcpu_exits};
use crate::record::{Mark, MarkName, Outcome, PhaseName};
use crate::timeline::gaps::BoundedGap;
use crate::timeline::half::Half;
use crate::timeline::migration::begins_pause;
use crate::timeline::prober::Prober;
use crate::timeline::transition::{Transition, TransitionKind};
use crate::units::MonotonicNs;

impl Sides<'_> {
    /// The instants that matter, in order.
    pub(super) fn marks(&self, around_stop: Option<&BoundedGap<'_>>) -> Vec<Mark> {
        let mut marks: Vec<Mark> = Vec::new();
        let mut add = |on: &Prober<'_>, name: MarkName, at: MonotonicNs| {
            let at = on.at(at);
            let (at_ns, error_ns, host) = (at.value, at.error_ns(), on.facts.host().to_owned());
            marks.push(Mark { name, at_ns, error_ns, role: on.vantage, host });
        };
        if let Some(source) = self.source {
            self.add_source(&source, &mut |name, at| add(&source.into(), name, at));
        }
        if let Some(destination) = self.destination {
            let ends = self.ends_after(&destination);
            add_destination(&destination, ends, &mut |name, at| add(&destination.into(), name, at));
        }
        if let Some(BoundedGap { gap, seen }) = around_stop {
            add(&self.prober, MarkName::LastAnsweredRequest, seen.answered_request_ns);
            if gap.length.high_ns.is_some() {
                add(&self.prober, MarkName::FirstReply, seen.resumed_ns);
            }
        }
        marks.sort_by_key(|m| m.at_ns);
        marks
    }

    /// From when on what arrives at the destination may be the end of its streams: not before the guest stops. A destination
    /// alone does not see that, but whether the guest came.
    fn ends_after(&self, destination: &Half<'_>) -> MonotonicNs {
        match self.source.map(|source| source.last_stop()) {
            None if destination.runs_from().is_none() && !may_have_come(destination) => MonotonicNs::MAX,
            None => MonotonicNs(0),
            Some(None) => MonotonicNs::MAX,
            Some(Some(stop)) => destination.clock.earliest(stop.at),
        }
    }

    fn add_source(&self, source: &Half<'_>, add: &mut dyn FnMut(MarkName, MonotonicNs)) {
        let stop = source.last_stop();
        if let Some(VcpuExits { first, last, all_known }) =
            stop.and_then(|stop| vcpu_exits(source.process, stop))
        {
            add(MarkName::FirstVcpuStopped, first);
            if all_known {
                add(MarkName::AllVcpusStopped, last);
            }
        }
        if let Some(last) = self.last_frame() {
            add(MarkName::LastGuestFrame, last);
        }
        let pauses = source.pauses();
        let is_of_pause = |m: &&&Transition| {
            begins_pause(&pauses, m.at) || pauses.binary_search_by_key(&m.at, |pause| pause.resume).is_ok()
        };
        for mark in source.transitions.iter().filter(|m| !is_of_pause(m)) {
            match &mark.kind {
                TransitionKind::Stop => add(MarkName::Stop, mark.at),
                TransitionKind::Resume => add(MarkName::Resume, mark.at),
                TransitionKind::Pass(_) if stop.is_some_and(|stop| stop.at <= mark.at) => {
                    add(MarkName::LastPass, mark.at);
                }
                TransitionKind::Status(status) if stop.is_some_and(|stop| stop.at <= mark.at) => {
                    add(status.as_str().into(), mark.at);
                }
                TransitionKind::Status(_) | TransitionKind::Pass(_) | TransitionKind::DirtyLog => {}
            }
        }
        if let Some(stop) = stop {
            let mut add_last = |name, last: Option<MonotonicNs>| {
                if let Some(last) = last.filter(|last| *last >= stop.at) {
                    add(name, last);
                }
            };
            add_last(MarkName::LastByte, source.last_byte());
            add_last(MarkName::LastPacket, source.last_packet());
        }
        if let (Some(stop), Some(process)) = (stop, source.process) {
            if let Some((_, run)) = process.runs.first_since(stop.at) {
                add(MarkName::FirstVcpuRun, run);
            }
            if let Some(first) = first_frame(process, stop.at) {
                add(MarkName::FirstGuestFrame, first);
            }
        }
    }
}

fn may_have_come(destination: &Half<'_>) -> bool {
    matches!(destination.outcome(destination.facts.end), Outcome::Completed | Outcome::Unknown)
}

fn add_destination(destination: &Half<'_>, ends: MonotonicNs, add: &mut dyn FnMut(MarkName, MonotonicNs)) {
    let from = destination.start;
    for mark in &destination.transitions {
        match &mark.kind {
            TransitionKind::Resume => add(MarkName::Resume, mark.at),
            TransitionKind::Status(status)
                if *status == PhaseName::Completed || status.as_str().starts_with("postcopy") =>
            {
                add(status.as_str().into(), mark.at);
            }
            _ => {}
        }
    }
    let mut add_last = |name, last: Option<MonotonicNs>| {
        if let Some(last) = last.filter(|last| *last >= ends) {
            add(name, last);
        }
    };
    add_last(MarkName::LastByte, destination.last_byte());
    add_last(MarkName::LastPacket, destination.last_packet());
    let Some(process) = destination.process else { return };
    if let Some((_, run)) = process.runs.first_since(from) {
        add(MarkName::FirstVcpuRun, run);
    }
    if let Some((first, _)) = process.announcements.since(from).next() {
        add(MarkName::FirstAnnouncement, first);
    }
    if let Some(first) = first_frame(process, from) {
        add(MarkName::FirstGuestFrame, first);
    }
}
