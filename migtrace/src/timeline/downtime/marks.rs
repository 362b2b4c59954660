//! The instants that matter, those of each tap, and how the network was told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Left, Sides, first_frame, left};
use crate::record::{self, MarkName, PhaseName, Role};
use crate::timeline::facts::{Announced, Mark, MarkKind};
use crate::timeline::gaps::Silence;
use crate::timeline::migration::Migration;
use crate::units::MonotonicNs;
use crate::vocabulary::Announcement;

impl<'a> Sides<'a> {
    /// The guest's last frame at each of its taps at the source: what was counted when it had stopped, and before its next
    /// migration.
    pub(super) fn last_frames(&self) -> BTreeMap<&'a str, MonotonicNs> {
        let mut frames = BTreeMap::new();
        let Some((source, stop)) = self.source.zip(self.last_stop()) else { return frames };
        let Some(process) = source.process else { return frames };
        let mut counted: BTreeSet<&str> = BTreeSet::new();
        for (_, tap) in source.before_next(&process.counted_frames, stop.at) {
            if counted.insert(&tap.interface) {
                frames.extend(tap.last.map(|last| (tap.interface.as_str(), last)));
            }
        }
        frames
    }

    /// Each tap's silence, those of the source first, each side in the order of the names.
    pub(super) fn taps(&self) -> Vec<record::Tap> {
        let tap =
            |interface: &str, role, last: Option<MonotonicNs>, first: Option<MonotonicNs>| record::Tap {
                interface: interface.to_owned(),
                role,
                last_frame_ns: last.map(|at| self.at(at)),
                first_frame_ns: first.map(|at| self.at(at)),
            };
        let left = self.last_frames().into_iter();
        let mut taps: Vec<_> = left.map(|(name, last)| tap(name, Role::Source, Some(last), None)).collect();
        if let Some((destination, process)) = self.destination.and_then(|d| Some((d, d.process?))) {
            let from = self.last_stop().map_or(destination.start, |stop| stop.at);
            let mut firsts: BTreeMap<&str, MonotonicNs> = BTreeMap::new();
            for (at, interface) in destination.before_next(&process.first_frames, from) {
                firsts.entry(interface).or_insert(at);
            }
            let arrived = firsts.into_iter();
            taps.extend(arrived.map(|(name, first)| tap(name, Role::Destination, None, Some(first))));
        }
        taps
    }

    /// Where the guest has arrived, how the network was told.
    pub(super) fn announcements(&self) -> Vec<record::Announced> {
        let mut told: Vec<record::Announced> = Vec::new();
        let Some((destination, process)) = self.destination.and_then(|d| Some((d, d.process?))) else {
            return told;
        };
        let mut places: BTreeMap<(Announcement, &str), usize> = BTreeMap::new();
        for (at, Announced { kind, interface }) in
            destination.before_next(&process.announcements, destination.start)
        {
            let place = *places.entry((*kind, interface)).or_insert_with(|| {
                let (first_ns, interface) = (self.at(at), interface.clone());
                told.push(record::Announced { kind: *kind, interface, first_ns, count: 0 });
                told.len() - 1
            });
            told[place].count += 1;
        }
        told
    }

    /// The instants that matter, in order.
    pub(super) fn marks(&self, host: &str, silence: Option<&Silence<'_>>) -> Vec<record::Mark> {
        let mut marks: Vec<record::Mark> = Vec::new();
        let mut add = |role: Role, name: MarkName, at_ns: i64| {
            marks.push(record::Mark { name, at_ns, role, host: host.to_owned() });
        };
        if let Some(source) = self.source {
            self.marks_of_source(source, &mut |name, at| add(Role::Source, name, at));
        }
        if let Some(destination) = self.destination {
            self.marks_of_destination(destination, &mut |name, at| add(Role::Destination, name, at));
        }
        if let Some(Silence { gap, seen }) = silence {
            let role = if self.source.is_some() { Role::Source } else { Role::Destination };
            add(role, MarkName::LastAnsweredRequest, self.at(seen.answered_request_ns));
            if gap.length.high_ns.is_some() {
                add(role, MarkName::FirstReply, self.at(seen.resumed_ns));
            }
        }
        marks.sort_by_key(|m| m.at_ns);
        marks
    }

    fn marks_of_source(&self, source: &Migration<'_>, add: &mut dyn FnMut(MarkName, i64)) {
        let stop = source.last_stop();
        if let Some(Left { first, last, all_known }) = stop.and_then(|stop| left(source.process, stop)) {
            add(MarkName::FirstVcpuStopped, self.at(first));
            if all_known {
                add(MarkName::AllVcpusStopped, self.at(last));
            }
        }
        if let Some(last) = self.last_frame() {
            add(MarkName::LastGuestFrame, self.at(last));
        }
        let pauses = source.pauses();
        let is_of_pause = |m: &&&Mark| {
            pauses.binary_search_by_key(&m.at, |pause| pause.stop).is_ok()
                || pauses.binary_search_by_key(&m.at, |pause| pause.resume).is_ok()
        };
        for mark in source.marks.iter().filter(|m| !is_of_pause(m)) {
            match &mark.kind {
                MarkKind::Stop => add(MarkName::Stop, self.at(mark.at)),
                MarkKind::Resume => add(MarkName::Resume, self.at(mark.at)),
                MarkKind::Pass(_) if stop.is_some_and(|stop| stop.at <= mark.at) => {
                    add(MarkName::LastPass, self.at(mark.at));
                }
                MarkKind::Status(status) if stop.is_some_and(|stop| stop.at <= mark.at) => {
                    add(status.as_str().into(), self.at(mark.at));
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
            add_last(MarkName::LastByte, source.last_byte());
            add_last(MarkName::LastPacket, source.last_packet());
        }
        if let (Some(stop), Some(process)) = (stop, source.process) {
            if let Some((_, run)) = process.runs.first_since(stop.at) {
                add(MarkName::FirstVcpuRun, self.at(run));
            }
            if let Some(first) = first_frame(process, stop.at) {
                add(MarkName::FirstGuestFrame, self.at(first));
            }
        }
    }

    fn marks_of_destination(&self, destination: &Migration<'_>, add: &mut dyn FnMut(MarkName, i64)) {
        let from = destination.start;
        for mark in &destination.marks {
            match &mark.kind {
                MarkKind::Resume => add(MarkName::Resume, self.at(mark.at)),
                MarkKind::Status(status)
                    if *status == PhaseName::Completed || status.as_str().starts_with("postcopy") =>
                {
                    add(status.as_str().into(), self.at(mark.at));
                }
                _ => {}
            }
        }
        if let Some(last) = destination.last_byte() {
            add(MarkName::LastByte, self.at(last));
        }
        if let Some(last) = destination.last_packet() {
            add(MarkName::LastPacket, self.at(last));
        }
        let Some(process) = destination.process else { return };
        if let Some((_, run)) = process.runs.first_since(from) {
            add(MarkName::FirstVcpuRun, self.at(run));
        }
        if let Some((first, _)) = process.announcements.since(from).next() {
            add(MarkName::FirstAnnouncement, self.at(first));
        }
        if let Some(first) = first_frame(process, from) {
            add(MarkName::FirstGuestFrame, self.at(first));
        }
    }
}
