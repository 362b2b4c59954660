//! Which mark leads to which.

use crate::record::{Mark, MarkName, Record, Vantage};

/// From one mark to a later one, by their places among the record's marks.
pub(super) struct Arrow {
    pub(super) id: u64,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// How one end of an arrow is found: the first of these names that this side has.
struct End(Vantage, &'static [MarkName]);

const STOP: End = End(Vantage::Source, &[MarkName::AllVcpusStopped, MarkName::Stop]);
const RUN: End = End(Vantage::Destination, &[MarkName::FirstVcpuRun, MarkName::Resume]);
const SENT: End = End(Vantage::Source, &[MarkName::LastByte]);
const RECEIVED: End = End(Vantage::Destination, &[MarkName::LastByte]);
const LAST_FRAME: End = End(Vantage::Source, &[MarkName::LastGuestFrame]);
const FIRST_FRAME: End = End(Vantage::Destination, &[MarkName::FirstGuestFrame]);

/// What the guest, the stream and the network went through: from the stop to the run, from the last byte to the run, from the
/// last frame to the first.
const ARROWS: [[End; 2]; 4] = [[STOP, RUN], [SENT, RECEIVED], [RECEIVED, RUN], [LAST_FRAME, FIRST_FRAME]];

/// The arrows of a record. `index` is its place among the records: their numbers are of it alone.
pub(super) fn arrows(record: &Record, index: usize) -> Vec<Arrow> {
    let marks = &record.downtime.marks;
    let arrow = |(number, [from, to]): (usize, &[End; 2])| {
        let (from, to) = (from.find(marks)?, to.find(marks)?);
        let id = (index * ARROWS.len() + number + 1) as u64;
        (marks[from].at_ns <= marks[to].at_ns).then_some(Arrow { id, from, to })
    };
    ARROWS.iter().enumerate().filter_map(arrow).collect()
}

impl End {
    fn find(&self, marks: &[Mark]) -> Option<usize> {
        let Self(vantage, names) = self;
        names
            .iter()
            .find_map(|name| marks.iter().rposition(|mark| mark.role == *vantage && mark.name == *name))
    }
}
