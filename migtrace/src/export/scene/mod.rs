//! What a trace viewer shows of migrations, before it is written in the form of one: groups of tracks, with slices, instants
//! and counters on them, and arrows from one to another.

mod arrows;
mod guest;
mod hosts;
mod migration;
mod notes;
mod phases;
mod traffic;
mod vcpus;

use crate::record::Record;

pub(super) use notes::{Note, Value};

/// Everything that is shown.
pub(super) struct Scene {
    pub(super) migrations: Vec<Migration>,
    /// Whether its times are nanoseconds since the Unix epoch. Otherwise no record knows its wall time, and they count from the
    /// start of the migration.
    pub(super) has_wall_time: bool,
    /// The first instant of all.
    pub(super) begin_ns: i64,
}

pub(super) struct Migration {
    /// Of which VM; with a number where there are several migrations.
    pub(super) name: String,
    pub(super) groups: Vec<Group>,
}

/// The tracks of a QEMU, of an observer, or of the guest wherever it is.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) tracks: Vec<Track>,
}

pub(super) struct Track {
    pub(super) name: String,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// In order. None begins before the one before has ended.
    Slices(Vec<Slice>),
    /// Each value holds until the next.
    Counter(Unit, Vec<(i64, f64)>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unit {
    Bytes,
    BitsPerS,
}

/// A stretch of time, or an instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) from_ns: i64,
    /// None for an instant.
    pub(super) to_ns: Option<i64>,
    pub(super) notes: Vec<Note>,
    /// The arrows that leave it.
    pub(super) leaving: Vec<u64>,
    /// The arrows that end at it.
    pub(super) arriving: Vec<u64>,
    /// What lies within it, in order.
    pub(super) inner: Vec<Self>,
}

impl Slice {
    pub(super) fn new(name: impl Into<String>, from_ns: i64, to_ns: i64, notes: Vec<Note>) -> Self {
        Self { name: name.into(), from_ns, to_ns: Some(to_ns.max(from_ns)), notes, ..Self::default() }
    }

    pub(super) fn instant(name: impl Into<String>, at_ns: i64, notes: Vec<Note>) -> Self {
        Self { name: name.into(), from_ns: at_ns, notes, ..Self::default() }
    }

    pub(super) fn end_ns(&self) -> i64 {
        self.to_ns.unwrap_or(self.from_ns)
    }

    fn shift(&mut self, by_ns: i64) {
        self.from_ns = self.from_ns.saturating_add(by_ns);
        self.to_ns = self.to_ns.map(|to_ns| to_ns.saturating_add(by_ns));
        self.inner.iter_mut().for_each(|inner| inner.shift(by_ns));
    }
}

impl Track {
    /// The tracks of slices that may overlap: as few as can show all, with the same name, which viewers draw as one.
    fn overlapping(name: &str, mut slices: Vec<Slice>) -> Vec<Self> {
        slices.sort_by_key(|slice| slice.from_ns);
        let mut lanes: Vec<Vec<Slice>> = Vec::new();
        for slice in slices {
            let fits = |lane: &&mut Vec<Slice>| lane.last().is_none_or(|last| last.end_ns() <= slice.from_ns);
            match lanes.iter_mut().find(fits) {
                Some(lane) => lane.push(slice),
                None => lanes.push(vec![slice]),
            }
        }
        let track = |lane| Self { name: name.to_owned(), content: Content::Slices(lane) };
        lanes.into_iter().map(track).collect()
    }

    fn shift(&mut self, by_ns: i64) {
        match &mut self.content {
            Content::Slices(slices) => slices.iter_mut().for_each(|slice| slice.shift(by_ns)),
            Content::Counter(_, points) => {
                points.iter_mut().for_each(|(at_ns, _)| *at_ns = at_ns.saturating_add(by_ns));
            }
        }
    }

    fn begin_ns(&self) -> Option<i64> {
        match &self.content {
            Content::Slices(slices) => slices.iter().map(|slice| slice.from_ns).min(),
            Content::Counter(_, points) => points.iter().map(|(at_ns, _)| *at_ns).min(),
        }
    }
}

impl Scene {
    /// The scene of several records, each at its wall time. One that does not know its own begins with the first of the others.
    pub(super) fn of(records: &[Record]) -> Self {
        let known = records.iter().filter_map(|record| record.start.realtime_ns);
        let first_ns = known.min();
        let of = |(index, record): (usize, &Record)| {
            let start_ns = record.start.realtime_ns.or(first_ns).unwrap_or(0);
            let mut groups = migration::groups(record, index);
            let tracks = groups.iter_mut().flat_map(|group| &mut group.tracks);
            tracks.for_each(|track| track.shift(start_ns));
            Migration { name: name(record, index, records.len()), groups }
        };
        let migrations: Vec<_> = records.iter().enumerate().map(of).collect();
        let groups = migrations.iter().flat_map(|migration| &migration.groups);
        let begin_ns = groups.flat_map(|group| &group.tracks).filter_map(Track::begin_ns).min();
        Self { migrations, has_wall_time: first_ns.is_some(), begin_ns: begin_ns.unwrap_or(0) }
    }
}

/// Viewers sort by name, so all numbers have as many digits.
fn name(record: &Record, index: usize, count: usize) -> String {
    let vm = record.vm.shown_name();
    let digits = count.to_string().len();
    if count > 1 { format!("{:0digits$}. {vm}", index + 1) } else { vm }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_that_overlap_are_on_tracks_of_their_own() {
        let slice = |from, to| Slice::new("x", from, to, Vec::new());
        let tracks =
            Track::overlapping("lane", vec![slice(5, 8), slice(0, 6), slice(8, 9), slice(6, 7), slice(1, 2)]);
        let lanes: Vec<Vec<_>> = tracks
            .iter()
            .map(|track| match &track.content {
                Content::Slices(slices) => {
                    slices.iter().map(|slice| (slice.from_ns, slice.end_ns())).collect()
                }
                Content::Counter(..) => Vec::new(),
            })
            .collect();
        assert_eq!(lanes, [vec![(0, 6), (6, 7), (8, 9)], vec![(1, 2), (5, 8)]]);
        assert!(tracks.iter().all(|track| track.name == "lane"));
    }
}
