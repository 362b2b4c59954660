//! The groups of the hosts: each QEMU, and who only watched.

use super::arrows::{Arrow, arrows};
use super::migration::after;
use super::notes::{Note, estimate, known, note};
use super::{Content, Group, Slice, Track};
use crate::record::{Announced, Mark, MarkName, Part, Record, Role, Tap, Vantage};
use crate::terminal::clean;

/// In the order in which they are shown.
const VANTAGES: [Vantage; 3] = [Vantage::Source, Vantage::Destination, Vantage::Observer];

pub(super) struct Hosts {
    own: Vantage,
    groups: [Group; 3],
}

impl Hosts {
    pub(super) fn new(record: &Record) -> Self {
        let own = record.observers.first().map_or(Vantage::Source, |observer| observer.role);
        Self {
            own,
            groups: VANTAGES.map(|vantage| Group { name: name(record, vantage), tracks: Vec::new() }),
        }
    }

    /// The side from whose point of view the record is.
    pub(super) const fn own(&self) -> Vantage {
        self.own
    }

    pub(super) fn add(&mut self, vantage: Vantage, tracks: impl IntoIterator<Item = Track>) {
        let places = VANTAGES.iter().zip(&mut self.groups);
        if let Some((_, group)) = places.into_iter().find(|(each, _)| **each == vantage) {
            group.tracks.extend(tracks);
        }
    }

    /// Those that have anything to show.
    pub(super) fn into_groups(self) -> impl Iterator<Item = Group> {
        self.groups.into_iter().filter(|group| !group.tracks.is_empty())
    }

    /// The parts of the stop.
    pub(super) fn add_parts(&mut self, record: &Record) {
        for role in [Role::Source, Role::Destination] {
            let of_role = record.downtime.parts.iter().filter(|part| part.role == role);
            self.add(role.into(), Track::overlapping("parts of the stop", of_role.map(part).collect()));
        }
    }

    pub(super) fn add_marks(&mut self, record: &Record, index: usize) {
        let arrows = arrows(record, index);
        let marks = &record.downtime.marks;
        for vantage in VANTAGES {
            let of_vantage = marks.iter().enumerate().filter(|(_, mark)| mark.role == vantage);
            self.add_instants(
                vantage,
                "marks",
                of_vantage.map(|(place, each)| mark(each, place, &arrows)).collect(),
            );
        }
    }

    pub(super) fn add_taps(&mut self, record: &Record) {
        for role in [Role::Source, Role::Destination] {
            let of_role = record.downtime.taps.iter().filter(|tap| tap.role == role);
            self.add_instants(role.into(), "taps", of_role.flat_map(frames).collect());
        }
    }

    /// They come from where the guest went on.
    pub(super) fn add_announcements(&mut self, record: &Record) {
        let first = record.downtime.marks.iter().find(|mark| mark.name == MarkName::FirstAnnouncement);
        let vantage = first.map_or(Vantage::Destination, |mark| mark.role);
        let announcements = record.downtime.announcements.iter().map(announcement);
        self.add_instants(vantage, "announcements", announcements.collect());
    }

    fn add_instants(&mut self, vantage: Vantage, name: &str, mut instants: Vec<Slice>) {
        instants.sort_by_key(|instant| instant.from_ns);
        if !instants.is_empty() {
            self.add(vantage, [Track { name: name.to_owned(), content: Content::Slices(instants) }]);
        }
    }
}

/// `source: host-a`
fn name(record: &Record, vantage: Vantage) -> String {
    let observer = record.observers.iter().find(|observer| observer.role == vantage);
    let host = observer.map(|observer| format!(": {}", clean(&observer.host))).unwrap_or_default();
    format!("{}{host}", vantage.as_str())
}

fn part(part: &Part) -> Slice {
    let mut notes = estimate(&part.length);
    notes.extend(known("sent.wire_bytes", part.wire_bytes));
    let to_ns = after(part.start_ns, part.length.value_ns);
    Slice::new(clean(part.name.as_str()), part.start_ns, to_ns, notes)
}

fn mark(mark: &Mark, place: usize, arrows: &[Arrow]) -> Slice {
    let of = |end: fn(&Arrow) -> usize| {
        arrows.iter().filter(|arrow| end(arrow) == place).map(|arrow| arrow.id).collect()
    };
    let notes = vec![note("host", mark.host.as_str()), note("error_ns", mark.error_ns)];
    Slice {
        leaving: of(|arrow| arrow.from),
        arriving: of(|arrow| arrow.to),
        ..Slice::instant(clean(mark.name.as_str()), mark.at_ns, notes)
    }
}

fn frames(tap: &Tap) -> impl Iterator<Item = Slice> {
    let interface = clean(&tap.interface);
    let frame = |what: &str, at_ns: Option<i64>| {
        let notes = vec![note("error_ns", tap.error_ns)];
        at_ns.map(|at_ns| Slice::instant(format!("{what} frame at {interface}"), at_ns, notes))
    };
    [frame("last", tap.last_frame_ns), frame("first", tap.first_frame_ns)].into_iter().flatten()
}

fn announcement(announced: &Announced) -> Slice {
    let notes: Vec<Note> = vec![note("count", announced.count), note("error_ns", announced.error_ns)];
    Slice::instant(
        format!("{} at {}", announced.kind.name(), clean(&announced.interface)),
        announced.first_ns,
        notes,
    )
}
