//! The stop, part by part: what the two QEMUs did one after the other while the guest did not run.

use super::sides::{Sides, resume_after, vcpu_exits};
use crate::record::{Method, Part, PartName, PhaseName};
use crate::timeline::half::{Half, Instant};
use crate::timeline::phases;
use crate::timeline::transition::{Transition, TransitionKind};

/// Where a part begins.
struct Beginning<'a> {
    name: PartName,
    at: Instant<'a>,
    half: Half<'a>,
    /// What the source had sent by then, counted from anywhere.
    sent: Option<u64>,
}

impl Sides<'_> {
    /// The parts of the stop, one after the other: each begins where the one before ends. None where an end of the stop was
    /// not seen.
    pub(super) fn parts(&self) -> Vec<Part> {
        let (Some(source), Some(destination)) = (self.source, self.destination) else { return Vec::new() };
        let Some(stop) = source.last_stop() else { return Vec::new() };
        let Some(arrival) = arrival(self, &destination) else { return Vec::new() };
        let mut beginnings = at_source(&source, stop);
        if beginnings.len() == 1 {
            // QEMU has reported nothing after the stop (its capability `events` is off).
            return Vec::new();
        }
        let sent_in_all = sent_since(&source, stop);
        let received = destination.last_byte().filter(|_| source.last_byte().is_some());
        if let Some(received) = received {
            let at = destination.instant(|destination| destination.at(received));
            beginnings.push(Beginning { name: PartName::Load, at, half: destination, sent: sent_in_all });
        }
        // An interrupted post-copy goes on long after the guest runs.
        beginnings.retain(|beginning| beginning.at.moment.value <= arrival.runs.moment.value);
        if received.is_none() && !beginnings.iter().any(|beginning| beginning.name == PartName::Load) {
            beginnings.extend(postcopy_load(self, &destination));
        }
        beginnings.extend(arrival.beginnings);
        for load in beginnings.iter_mut().filter(|beginning| beginning.name == PartName::Load) {
            load.half = destination;
        }
        in_order(&mut beginnings);
        let ends = beginnings.iter().skip(1).map(|next| (next.at, next.sent));
        let ends: Vec<_> = ends.chain([(arrival.runs, None)]).collect();
        let parts = beginnings.iter().zip(ends).map(|(begin, (end, sent))| Part {
            name: begin.name.clone(),
            role: begin.half.role,
            host: begin.half.host().to_owned(),
            start_ns: begin.at.moment.value,
            length: begin.at.until(&end, Method::BetweenMarks),
            wire_bytes: begin.sent.zip(sent).map(|(from, to)| to.saturating_sub(from)),
        });
        parts.collect()
    }
}

/// Leaves out what seems to begin before what came before it: clocks that are not known well enough, or events in an order
/// that this does not understand.
fn in_order(beginnings: &mut Vec<Beginning<'_>>) {
    let mut latest = i64::MIN;
    beginnings.retain(|beginning| {
        let follows = beginning.at.moment.value >= latest;
        latest = latest.max(beginning.at.moment.value);
        follows
    });
}

/// What begins at the source, in order.
fn at_source<'a>(source: &Half<'a>, stop: &Transition) -> Vec<Beginning<'a>> {
    let sent = |transition: &Transition| transition.counters.map(|counters| counters.tx.wire_bytes);
    let after: Vec<_> = source.transitions.iter().filter(|transition| transition.at >= stop.at).collect();
    let is_pass = |transition: &Transition| matches!(transition.kind, TransitionKind::Pass(_));
    let mut last_pass = None;
    let mut beginnings = vec![Beginning {
        name: PartName::Drain,
        at: source.instant(|source| match vcpu_exits(source.process, stop) {
            Some(exits) if exits.all_known => source.between(exits.first, exits.last),
            _ => source.event(stop),
        }),
        half: *source,
        sent: sent(stop),
    }];
    for (index, transition) in after.iter().enumerate() {
        let name = match &transition.kind {
            TransitionKind::Status(PhaseName::PreSwitchover) => PartName::PreSwitchover,
            TransitionKind::Status(PhaseName::Device) if last_pass.is_none() => PartName::Inactivate,
            TransitionKind::Status(PhaseName::Device | PhaseName::PostcopyDevice) => PartName::DeviceState,
            // QEMU 7.2 with a manager that completes the disks' copy: the rest of the stop is still to come.
            TransitionKind::Status(PhaseName::PostcopyActive)
                if after[index..].iter().any(|later| is_pass(later)) =>
            {
                PartName::Inactivate
            }
            TransitionKind::Status(PhaseName::PostcopyActive) => PartName::Load,
            TransitionKind::Pass(pass) => {
                last_pass = Some(*pass);
                PartName::LastPass
            }
            _ => continue,
        };
        let at = source.instant(|source| source.event(transition));
        beginnings.push(Beginning { name, at, half: *source, sent: sent(transition) });
    }
    if last_pass.is_none() {
        // What came after the state `device` cannot be told apart.
        for beginning in beginnings.iter_mut().filter(|beginning| beginning.name == PartName::Inactivate) {
            beginning.name = PartName::Switchover;
        }
    }
    beginnings
}

/// Where a destination begins to load the devices' state in post-copy: it has received all of that then. For a source that
/// reports `postcopy-active` before the guest stops (QEMU before 10.0), nothing else parts sending from loading.
fn postcopy_load<'a>(sides: &Sides<'_>, destination: &Half<'a>) -> Option<Beginning<'a>> {
    let from = sides.after_stop(destination)?;
    let is_load =
        |transition: &&&Transition| transition.is_status(&PhaseName::PostcopyActive) && transition.at >= from;
    let loads = destination.transitions.iter().find(is_load)?;
    let at = destination.instant(|destination| destination.event(loads));
    Some(Beginning { name: PartName::Load, at, half: *destination, sent: None })
}

/// What the source had sent when the last byte had arrived, counted as in its events; none where that is not known.
fn sent_since(source: &Half<'_>, stop: &Transition) -> Option<u64> {
    let at_stop = stop.counters?.tx.wire_bytes;
    let (stretches, _) = phases::phases(source.migration);
    let since = stretches.into_iter().filter(|stretch| stretch.start >= stop.at);
    since.map(|stretch| Some(stretch.traffic?.tx.wire_bytes)).try_fold(at_stop, |sum, sent| Some(sum + sent?))
}

/// How the guest came to run at the destination.
pub(super) struct Arrival<'a> {
    beginnings: Vec<Beginning<'a>>,
    pub(super) runs: Instant<'a>,
}

pub(super) fn arrival<'a>(sides: &Sides<'_>, destination: &Half<'a>) -> Option<Arrival<'a>> {
    let from = sides.after_stop(destination)?;
    let resume = resume_after(destination, from);
    let run = destination.process.and_then(|process| process.runs.first_since(from));
    let mut beginnings = Vec::new();
    let mut begins = |name, transition| {
        let at = destination.instant(|destination| destination.event(transition));
        beginnings.push(Beginning { name, at, half: *destination, sent: None });
    };
    if let Some(resume) = resume {
        // With a manager, QEMU is done with the migration first, and waits to be told to run the guest.
        let is_loaded = |transition: &&&Transition| {
            transition.is_status(&PhaseName::Completed) && transition.at < resume.at && transition.at >= from
        };
        if let Some(loaded) = destination.transitions.iter().find(is_loaded) {
            begins(PartName::AwaitResume, loaded);
        }
        if run.is_some() {
            begins(PartName::Start, resume);
        }
    }
    let runs = match run {
        Some((possible, run)) => destination.instant(|there| there.between(possible, run)),
        None => {
            let resume = resume?;
            destination.instant(|there| there.event(resume))
        }
    };
    Some(Arrival { beginnings, runs })
}
