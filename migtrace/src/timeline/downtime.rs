//! How long the guest was gone, from every place where that can be seen: its vCPUs, its tap, the network.

use serde_json::Value;

use super::clocks::Clocks;
use super::estimates::offset;
use super::facts::{Facts, Mark, MarkKind, Process, Run};
use super::migration::Migration;
use crate::event::Echo;
use crate::record::{self, Brownout, Disturbance, Downtime, Estimate, Gap, Mode, Role};
use crate::units::MonotonicNs;

/// QEMU tells its times in milliseconds, rounded.
const NS_PER_MS: u64 = 1_000_000;

/// How an end of the stop is known: a vCPU left KVM, or entered it.
const VCPUS: &str = "vcpus";
/// QEMU said STOP or RESUME.
const QMP_EVENT: &str = "qmp-event";
/// The last byte of the memory stream went: the guest cannot run elsewhere sooner, but it may much later.
pub(super) const LAST_BYTE: &str = "last-byte";

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
fn length(from: Moment, to: Moment, method: String) -> Estimate {
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
    by: &'static str,
}

/// What both halves of a migration tell of the guest's stop, as far as this host saw them.
struct Sides<'a> {
    start: MonotonicNs,
    clocks: &'a Clocks,
    source: Option<&'a Migration<'a>>,
    destination: Option<&'a Migration<'a>>,
}

/// How long the guest was gone. `gaps` are those of the echo requests to it, in their order.
pub(super) fn downtime(
    facts: &Facts,
    all: &[Migration<'_>],
    migration: &Migration<'_>,
    gaps: &[Gap],
    echo: Option<&Echo>,
    total_time: Option<&Estimate>,
) -> Downtime {
    let other = other_end(all, migration);
    let (source, destination) = match migration.role {
        Role::Source => (Some(migration), other),
        Role::Destination => (other, Some(migration)),
    };
    let sides = Sides { start: migration.start, clocks: &facts.clocks, source, destination };
    let gap = sides.gap(gaps);
    let stop = sides.stop(gap);
    let network = sides.network();
    let reachability = gap.map(|gap| gap.length.clone());
    let tail = reachability.as_ref().zip(stop.as_ref()).map(|(reachability, stop)| tail(reachability, stop));
    let reported_ms = migration.reply().and_then(|r| r.get("downtime")).and_then(Value::as_u64);
    let host = facts.observation.as_ref().map_or("", |o| o.host.as_str());
    let mut downtime = Downtime {
        stop,
        network,
        reachability,
        tail,
        brownout: gap.zip(echo).map(|(gap, echo)| brownout(gaps, gap, echo)),
        qemu_reported_ns: reported_ms.and_then(|ms| ms.checked_mul(NS_PER_MS)),
        budget_ns: migration.process.and_then(budget_ns),
        contradictions: Vec::new(),
        announcements: sides.announcements(),
        marks: sides.marks(host, gap),
    };
    downtime.contradictions = contradictions(&downtime, total_time, sides.held_back_ns().unwrap_or(0));
    downtime
}

/// How well the guest answered before `gap`, which is one of `gaps`, and after it.
fn brownout(gaps: &[Gap], gap: &Gap, echo: &Echo) -> Brownout {
    let (before, after): (Vec<&Gap>, Vec<&Gap>) = gaps
        .iter()
        .filter(|other| *other != gap)
        .partition(|other| other.start.value_ns < gap.start.value_ns);
    let longest =
        |gaps: &[&Gap]| gaps.iter().map(|gap| &gap.length).max_by_key(|length| length.value_ns).cloned();
    let worst = |ns: &mut dyn Iterator<Item = u64>| ns.max().filter(|ns| *ns > 0);
    // Of each gap the worst round trip is that since the one before.
    let untils = before.iter().copied().chain([gap]).map(|gap| gap.worst_round_trip_ns);
    let sinces = after.iter().map(|gap| gap.worst_round_trip_ns).chain(echo.worst_since_last_gap_ns);
    Brownout {
        before: Disturbance { worst_round_trip_ns: worst(&mut { untils }), longest_gap: longest(&before) },
        after: Disturbance { worst_round_trip_ns: worst(&mut { sinces }), longest_gap: longest(&after) },
    }
}

/// QEMU's `downtime-limit`, as it was told last: managers raise it while a migration does not converge.
fn budget_ns(process: &Process) -> Option<u64> {
    let parameters = process.parameters.last()?;
    parameters.get("downtime-limit").and_then(Value::as_u64)?.checked_mul(NS_PER_MS)
}

/// What the network needed to find the guest again.
fn tail(reachability: &Estimate, stop: &Estimate) -> Estimate {
    let value_ns = reachability.value_ns.saturating_sub(stop.value_ns);
    Estimate {
        value_ns,
        low_ns: stop.high_ns.map_or(0, |high| reachability.low_ns.saturating_sub(high)).min(value_ns),
        high_ns: reachability.high_ns.map(|high| high.saturating_sub(stop.low_ns).max(value_ns)),
        method: "reachability-less-stop".to_owned(),
    }
}

/// Figures that cannot both be true. `held_back_ns`: for how long frames may have come from a guest that had stopped.
fn contradictions(downtime: &Downtime, total_time: Option<&Estimate>, held_back_ns: u64) -> Vec<String> {
    let ms = |ns: u64| format!("{}.{:03} ms", ns / NS_PER_MS, ns % NS_PER_MS / 1_000);
    let mut found = Vec::new();
    if let (Some(stop), Some(reachability)) = (&downtime.stop, &downtime.reachability)
        && let Some(high_ns) = reachability.high_ns.filter(|high| *high < stop.low_ns)
    {
        found.push(format!(
            "the guest did not run for {} at least, and yet it answered echo requests again after {} at most: \
             somebody else answers for it, or the gap is another one",
            ms(stop.low_ns),
            ms(high_ns)
        ));
    }
    if let (Some(stop), Some(network)) = (&downtime.stop, &downtime.network)
        && let Some(high_ns) = network.high_ns
        && high_ns.saturating_add(held_back_ns) < stop.low_ns
    {
        found.push(format!(
            "the guest did not run for {} at least, and yet its tap was silent for {} only: something else sends \
             there",
            ms(stop.low_ns),
            ms(high_ns)
        ));
    }
    if let (Some(reported_ns), Some(high_ns)) =
        (downtime.qemu_reported_ns, total_time.and_then(|t| t.high_ns))
        && reported_ns > high_ns + NS_PER_MS
    {
        found.push(format!(
            "QEMU reports a downtime of {}, more than the whole migration took ({} at most)",
            ms(reported_ns),
            ms(high_ns)
        ));
    }
    found
}

/// The stop of the guest that the end of the migration found.
fn last_stop<'a>(migration: &Migration<'a>) -> Option<&'a Mark> {
    migration.marks.iter().copied().rfind(|m| m.kind == MarkKind::Stop)
}

/// The first RESUME from `at` on.
fn resume_after<'a>(migration: &Migration<'a>, at: MonotonicNs) -> Option<&'a Mark> {
    migration.marks.iter().copied().find(|m| m.kind == MarkKind::Resume && m.at >= at)
}

/// The run that ended a stop from `at` on, as far as KVM can tell: the earliest one that is doubtful, if there is one,
/// and the first that is certain.
fn run_after(process: &Process, at: MonotonicNs) -> Option<(MonotonicNs, MonotonicNs)> {
    let void = |run: &Run| process.void_runs.iter().find(|v| v.entered == run.at);
    let runs = || process.runs.iter().filter(|r| r.at >= at && void(r).is_none_or(|v| !v.certain));
    let certain = runs().find(|r| void(r).is_none())?;
    Some((runs().next().map_or(certain.at, |run| run.at), certain.at))
}

/// When the first and the last vCPU left KVM for a stop: as they were at QEMU's event or, where that could not be read,
/// when they ran again.
fn left(process: Option<&Process>, stop: &Mark) -> Option<(MonotonicNs, MonotonicNs)> {
    let later = || process?.runs.iter().find(|run| run.at >= stop.at).map(|run| run.vcpus);
    let vcpus = stop.vcpus.or_else(later).filter(|vcpus| vcpus.inside == 0)?;
    vcpus.first_left_ns.zip(vcpus.last_left_ns).filter(|(_, last)| *last <= stop.at)
}

impl Sides<'_> {
    fn at(&self, at: MonotonicNs) -> i64 {
        offset(at, self.start)
    }

    /// When the guest stopped.
    fn stopped(&self) -> Option<End> {
        let stop = last_stop(self.source?)?;
        if let Some((first, last)) = left(self.source?.process, stop) {
            let (first, last) = (self.at(first), self.at(last));
            return Some(End {
                moment: Moment { low: Some(first), value: last, high: Some(last) },
                by: VCPUS,
            });
        }
        // QEMU says so after the vCPUs have stopped.
        let latest = self.at(stop.at);
        Some(End { moment: Moment { low: None, value: latest, high: Some(latest) }, by: QMP_EVENT })
    }

    /// For how long QEMU may have sent frames of a guest whose vCPUs had stopped: it sends what they left behind until it
    /// says STOP.
    fn held_back_ns(&self) -> Option<u64> {
        let source = self.source?;
        let stop = last_stop(source)?;
        let (_, last) = left(source.process, stop)?;
        Some(stop.at.0 - last.0)
    }

    /// When the guest ran again.
    fn runs_again(&self) -> Option<End> {
        // A migration that did not complete leaves the guest at the source.
        let stop = self.source.and_then(last_stop).map(|stop| stop.at);
        let here = [self.destination, self.source].into_iter().flatten();
        let mut candidates = here.filter_map(|side| {
            let from = match (side.role, stop) {
                (Role::Source, None) => return None,
                (_, Some(stop)) => stop,
                (Role::Destination, None) => side.start,
            };
            self.runs_again_on(side, from)
        });
        candidates.next()
    }

    fn runs_again_on(&self, side: &Migration<'_>, from: MonotonicNs) -> Option<End> {
        let run = side.process.and_then(|process| run_after(process, from));
        if let Some((doubtful, run)) = run {
            let (doubtful, at) = (self.at(doubtful), self.at(run));
            return Some(End {
                moment: Moment { low: Some(doubtful), value: at, high: Some(at) },
                by: VCPUS,
            });
        }
        let resume = resume_after(side, from)?;
        let bounds = self.clocks.bounds(resume);
        // QEMU says so before the vCPUs run.
        let low = bounds.earliest.map(|earliest| self.at(MonotonicNs(earliest)));
        let moment = Moment { low, value: self.at(MonotonicNs(bounds.latest)), high: None };
        Some(End { moment, by: QMP_EVENT })
    }

    /// The gap in which the guest stopped, or ran again. A shorter one may end, or begin, just at that instant.
    fn gap<'g>(&self, gaps: &'g [Gap]) -> Option<&'g Gap> {
        let ends = [self.stopped(), self.runs_again()];
        let holds = |gap: &&Gap| {
            ends.iter().flatten().any(|end| {
                let at = end.moment.value;
                gap.start.low_ns <= at && ended(gap).is_none_or(|end| at <= end.high_ns)
            })
        };
        gaps.iter().filter(holds).max_by_key(|gap| gap.length.value_ns)
    }

    /// How long the guest did not run. Where one end of the stop was not seen on this host, the gap stands in; without
    /// one, the last byte tells how long it was at least.
    fn stop(&self, gap: Option<&Gap>) -> Option<Estimate> {
        let sent_all = self.source.and_then(Migration::last_byte).map(|at| self.at(at));
        let estimate = match (self.stopped(), self.runs_again(), gap.and_then(|gap| Some((gap, ended(gap)?))))
        {
            (Some(from), Some(to), _) => {
                let method = match (from.by, to.by) {
                    (VCPUS, VCPUS) => VCPUS.to_owned(),
                    (QMP_EVENT, QMP_EVENT) => "qmp-events".to_owned(),
                    (from, to) => format!("{from}-to-{to}"),
                };
                length(from.moment, to.moment, method)
            }
            (Some(from), None, Some((_, end))) => {
                // It can run at the destination only when all has arrived, and ran before it answered.
                let value = sent_all.map_or(end.high_ns, |at| at.midpoint(end.high_ns));
                let to = Moment { low: self.handed_over(), value, high: Some(end.high_ns) };
                length(from.moment, to, format!("{}-to-first-reply", from.by))
            }
            (Some(from), None, None) => {
                let last = sent_all.filter(|last| *last >= from.moment.value)?;
                let to = Moment { low: Some(last), value: last, high: None };
                length(from.moment, to, format!("{}-to-{LAST_BYTE}", from.by))
            }
            (None, Some(to), Some((gap, _))) => {
                // It ran until it last answered, and had stopped when the last byte was sent.
                let from = Moment {
                    low: Some(gap.start.low_ns),
                    value: gap.start.low_ns,
                    high: self.received_all(),
                };
                length(from, to.moment, format!("last-reply-to-{}", to.by))
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
        let stop = last_stop(source)?.at;
        let sends =
            |m: &&&Mark| m.at >= stop && (m.is_status("device") || matches!(m.kind, MarkKind::Pass(_)));
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

    /// From the last frame of the guest at the source to the first at the destination.
    fn network(&self) -> Option<Estimate> {
        let source = self.source?;
        let stop = last_stop(source)?.at;
        let last = self.last_frame()?;
        let sides = [self.destination, self.source].into_iter().flatten();
        let first =
            sides.filter_map(|s| s.process).find_map(|p| p.first_frames.iter().find(|at| **at >= stop))?;
        Some(length(
            Moment::exact(self.at(last)),
            Moment::exact(self.at(*first)),
            "frames-at-taps".to_owned(),
        ))
    }

    /// The guest's last frame at the source: what was counted when it had stopped.
    fn last_frame(&self) -> Option<MonotonicNs> {
        let source = self.source?;
        let stop = last_stop(source)?.at;
        let counts = &source.process?.last_frames;
        counts.iter().find(|(counted, _)| *counted >= stop).map(|(_, last)| *last)
    }

    /// Where the guest has arrived, how the network was told.
    fn announcements(&self) -> Vec<record::Announced> {
        let mut told: Vec<record::Announced> = Vec::new();
        let Some(destination) = self.destination else { return told };
        let all = destination.process.map_or(&[][..], |process| &process.announcements);
        for announced in all.iter().filter(|announced| announced.at >= destination.start) {
            let same =
                |t: &&mut record::Announced| t.kind == announced.kind && t.interface == announced.interface;
            match told.iter_mut().find(same) {
                Some(earlier) => earlier.count += 1,
                None => told.push(record::Announced {
                    kind: announced.kind,
                    interface: announced.interface.clone(),
                    first_ns: self.at(announced.at),
                    count: 1,
                }),
            }
        }
        told
    }

    /// The instants that matter, in order.
    fn marks(&self, host: &str, gap: Option<&Gap>) -> Vec<record::Mark> {
        let mut marks: Vec<record::Mark> = Vec::new();
        let mut add = |role: Role, name: &str, at_ns: i64| {
            marks.push(record::Mark { name: name.to_owned(), at_ns, role, host: host.to_owned() });
        };
        if let Some(source) = self.source {
            self.marks_of_source(source, &mut |name, at| add(Role::Source, name, at));
        }
        if let Some(destination) = self.destination {
            self.marks_of_destination(destination, &mut |name, at| add(Role::Destination, name, at));
        }
        if let Some(gap) = gap {
            let role = if self.source.is_some() { Role::Source } else { Role::Destination };
            add(role, "last-answered-request", gap.start.low_ns);
            if let Some(end) = ended(gap) {
                add(role, "first-reply", end.high_ns);
            }
        }
        marks.sort_by_key(|m| m.at_ns);
        marks
    }

    fn marks_of_source(&self, source: &Migration<'_>, add: &mut dyn FnMut(&str, i64)) {
        let stop = last_stop(source);
        if let Some((first, last)) = stop.and_then(|stop| left(source.process, stop)) {
            add("first-vcpu-stopped", self.at(first));
            add("all-vcpus-stopped", self.at(last));
        }
        if let Some(last) = self.last_frame() {
            add("last-guest-frame", self.at(last));
        }
        for mark in &source.marks {
            match &mark.kind {
                MarkKind::Stop => add("stop", self.at(mark.at)),
                MarkKind::Resume => add("resume", self.at(mark.at)),
                MarkKind::Pass(_) if stop.is_some_and(|stop| stop.at <= mark.at) => {
                    add("last-pass", self.at(mark.at));
                }
                MarkKind::Status(status) if stop.is_some_and(|stop| stop.at <= mark.at) => {
                    add(status, self.at(mark.at));
                }
                MarkKind::Status(_) | MarkKind::Pass(_) | MarkKind::DirtyLog => {}
            }
        }
        if let Some(stop) = stop {
            let mut add_last = |name, last: Option<MonotonicNs>| {
                if let Some(last) = last.filter(|last| *last >= stop.at) {
                    add(name, self.at(last));
                }
            };
            add_last(LAST_BYTE, source.last_byte());
            add_last("last-packet", source.last_packet());
        }
        if let (Some(stop), Some(process)) = (stop, source.process) {
            if let Some((_, run)) = run_after(process, stop.at) {
                add("first-vcpu-run", self.at(run));
            }
            if let Some(first) = process.first_frames.iter().find(|at| **at >= stop.at) {
                add("first-guest-frame", self.at(*first));
            }
        }
    }

    fn marks_of_destination(&self, destination: &Migration<'_>, add: &mut dyn FnMut(&str, i64)) {
        let from = destination.start;
        for mark in &destination.marks {
            match &mark.kind {
                MarkKind::Resume => add("resume", self.at(mark.at)),
                MarkKind::Status(status) if status == "completed" || status.starts_with("postcopy") => {
                    add(status, self.at(mark.at));
                }
                _ => {}
            }
        }
        if let Some(last) = destination.last_byte() {
            add(LAST_BYTE, self.at(last));
        }
        if let Some(last) = destination.last_packet() {
            add("last-packet", self.at(last));
        }
        let Some(process) = destination.process else { return };
        if let Some((_, run)) = run_after(process, from) {
            add("first-vcpu-run", self.at(run));
        }
        if let Some(first) = process.announcements.iter().find(|announced| announced.at >= from) {
            add("first-announcement", self.at(first.at));
        }
        if let Some(first) = process.first_frames.iter().find(|at| **at >= from) {
            add("first-guest-frame", self.at(*first));
        }
    }
}

/// When a gap ended; none for one that has not.
fn ended(gap: &Gap) -> Option<record::Instant> {
    let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    let high_ns = gap.start.low_ns.saturating_add(signed(gap.length.high_ns?));
    Some(record::Instant {
        value_ns: gap.start.value_ns.saturating_add(signed(gap.length.value_ns)),
        low_ns: gap.start.high_ns.saturating_add(signed(gap.length.low_ns)),
        high_ns,
    })
}

/// The other half of the same migration, when both QEMUs are on this host.
fn other_end<'a, 'f>(all: &'a [Migration<'f>], migration: &Migration<'_>) -> Option<&'a Migration<'f>> {
    let same_vm = |other: &Migration<'_>| {
        let qemu = |m: &Migration<'_>| {
            m.process.and_then(|p| p.qemu.as_ref()).map(|q| (q.uuid.clone(), q.name.clone()))
        };
        match (qemu(migration), qemu(other)) {
            (Some((Some(a), _)), Some((Some(b), _))) => a == b,
            (Some((None, Some(a))), Some((None, Some(b)))) => a == b,
            _ => false,
        }
    };
    all.iter().find(|other| {
        other.role != migration.role
            && other.process.map(|p| p.pid) != migration.process.map(|p| p.pid)
            && same_vm(other)
            && other.start <= migration.end.at()
            && migration.start <= other.end.at()
    })
}
