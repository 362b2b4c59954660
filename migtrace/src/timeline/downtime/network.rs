//! What the guest's taps show: how long they were silent, and how the guest's new place was announced.

use std::collections::{BTreeMap, BTreeSet};

use super::sides::Sides;
use crate::record::{Announced, Estimate, Method, Role, Tap};
use crate::timeline::facts::{Process, TapAnnouncement};
use crate::timeline::half::Half;
use crate::timeline::moment::{Moment, length};
use crate::units::MonotonicNs;
use crate::vocabulary::Announcement;

/// The first frame of a guest from `at` on, at any of its taps.
pub(super) fn first_frame(process: &Process, at: MonotonicNs) -> Option<MonotonicNs> {
    process.first_frames.since(at).next().map(|(first, _)| first)
}

impl<'a> Sides<'a> {
    /// From the last frame of the guest at the source to the first at the destination, whichever tap they crossed.
    pub(super) fn network(&self) -> Option<Estimate> {
        let last = self.source?.at(self.last_frame()?);
        let mut firsts = self.places_to_run().filter_map(|(side, until)| {
            let first = first_frame(side.process?, self.after_stop(&side)?)?;
            (first <= until).then(|| side.at(first))
        });
        Some(length(last, firsts.next()?, Method::FramesAtTaps))
    }

    /// The guest's last frame at the source.
    pub(super) fn last_frame(&self) -> Option<MonotonicNs> {
        self.last_frames().into_values().max()
    }

    /// The guest's last frame at each of its taps at the source, as first counted after it had stopped and before its next
    /// migration.
    fn last_frames(&self) -> BTreeMap<&'a str, MonotonicNs> {
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

    /// The destination, and its QEMU.
    fn arrived(&self) -> Option<(Half<'a>, &'a Process)> {
        self.destination.and_then(|destination| Some((destination, destination.process?)))
    }

    /// Each tap's silence: those of the source first, each side in the order of the names.
    pub(super) fn taps(&self) -> Vec<Tap> {
        let tap = |interface: &str, role, last: Option<Moment>, first: Option<Moment>| Tap {
            interface: interface.to_owned(),
            role,
            last_frame_ns: last.map(|at| at.value),
            first_frame_ns: first.map(|at| at.value),
            error_ns: last.or(first).map_or(0, Moment::error_ns),
        };
        let left = self.source.into_iter().flat_map(|source| {
            self.last_frames().into_iter().map(move |(name, last)| (name, source.at(last)))
        });
        let mut taps: Vec<_> = left.map(|(name, last)| tap(name, Role::Source, Some(last), None)).collect();
        if let Some((destination, process)) = self.arrived() {
            let from = self.after_stop(&destination).unwrap_or(destination.start);
            let mut firsts: BTreeMap<&str, MonotonicNs> = BTreeMap::new();
            for (at, interface) in destination.before_next(&process.first_frames, from) {
                firsts.entry(interface).or_insert(at);
            }
            let arrived = firsts.into_iter().map(|(name, first)| (name, destination.at(first)));
            taps.extend(arrived.map(|(name, first)| tap(name, Role::Destination, None, Some(first))));
        }
        taps
    }

    /// How the destination announced the guest to the network.
    pub(super) fn announcements(&self) -> Vec<Announced> {
        let mut announced: Vec<Announced> = Vec::new();
        let Some((destination, process)) = self.arrived() else { return announced };
        let mut places: BTreeMap<(Announcement, &str), usize> = BTreeMap::new();
        for (at, TapAnnouncement { kind, interface }) in
            destination.before_next(&process.announcements, destination.start)
        {
            let place = *places.entry((*kind, interface)).or_insert_with(|| {
                let (first, interface) = (destination.at(at), interface.clone());
                let (first_ns, error_ns) = (first.value, first.error_ns());
                announced.push(Announced { kind: *kind, interface, first_ns, error_ns, count: 0 });
                announced.len() - 1
            });
            announced[place].count += 1;
        }
        announced
    }
}
