//! Where the guest's vCPUs ran.

use super::notes::{Note, known, note};
use super::{Content, Slice, Track};
use crate::record::{Mark, MarkName, PhaseName, Record, Vantage};

/// The track of one side; none where nothing was seen there of when they stopped, or ran.
pub(super) fn track(record: &Record, vantage: Vantage, end_ns: i64) -> Option<Track> {
    let mark = |name: &MarkName| {
        record.downtime.marks.iter().rfind(|mark| mark.role == vantage && mark.name == *name)
    };
    let either = |exact: &MarkName, said: &MarkName| mark(exact).or_else(|| mark(said));
    let run = either(&MarkName::FirstVcpuRun, &MarkName::Resume);
    let slices = if vantage == Vantage::Source {
        let stop = either(&MarkName::AllVcpusStopped, &MarkName::Stop)?;
        source(record, mark(&MarkName::FirstVcpuStopped), stop, run, end_ns)
    } else {
        destination(run?, end_ns)
    };
    Some(Track { name: "vCPUs".to_owned(), content: Content::Slices(slices) })
}

/// A slice between two instants, with how each is known.
fn state(name: &str, from: Edge<'_>, to: Edge<'_>) -> Slice {
    Slice::new(name, from.at_ns, to.at_ns, from.notes("start").chain(to.notes("end")).collect())
}

#[derive(Clone, Copy)]
struct Edge<'a> {
    at_ns: i64,
    /// What shows it; none for where the record begins or ends.
    mark: Option<&'a Mark>,
}

impl<'a> Edge<'a> {
    const fn bare(at_ns: i64) -> Self {
        Self { at_ns, mark: None }
    }

    const fn of(mark: &'a Mark) -> Self {
        Self { at_ns: mark.at_ns, mark: Some(mark) }
    }

    fn notes(self, which: &str) -> impl Iterator<Item = Note> {
        let shown_by = known(&format!("{which}.shown_by"), self.mark.map(|mark| mark.name.as_str()));
        let error = self.mark.map(|mark| note(format!("{which}.error_ns"), mark.error_ns));
        shown_by.into_iter().chain(error)
    }
}

/// They ran until they stopped, but for pauses; where the migration did not take the guest away, they ran again.
fn source(record: &Record, first: Option<&Mark>, stop: &Mark, run: Option<&Mark>, end_ns: i64) -> Vec<Slice> {
    let mut slices = Vec::new();
    let stopping_ns = first.map_or(stop.at_ns, |first| first.at_ns.min(stop.at_ns));
    let mut from_ns = record.phases.iter().map(|phase| phase.start_ns).min().unwrap_or(0).max(0);
    for pause in record.phases.iter().filter(|phase| phase.name == PhaseName::Paused) {
        if pause.start_ns >= from_ns && pause.end_ns <= stopping_ns {
            slices.push(state("running", Edge::bare(from_ns), Edge::bare(pause.start_ns)));
            slices.push(state("paused", Edge::bare(pause.start_ns), Edge::bare(pause.end_ns)));
            from_ns = pause.end_ns;
        }
    }
    let begins = Edge { at_ns: stopping_ns, mark: Some(first.unwrap_or(stop)) };
    slices.push(state("running", Edge::bare(from_ns.min(stopping_ns)), begins));
    if stopping_ns < stop.at_ns {
        slices.push(state("stopping", begins, Edge::of(stop)));
    }
    match run.filter(|run| run.at_ns >= stop.at_ns) {
        Some(run) => {
            slices.push(state("stopped", Edge::of(stop), Edge::of(run)));
            slices.push(state("running", Edge::of(run), Edge::bare(end_ns)));
        }
        None => slices.push(state("stopped", Edge::of(stop), Edge::bare(end_ns))),
    }
    slices
}

/// They did not run before the first of them did.
fn destination(run: &Mark, end_ns: i64) -> Vec<Slice> {
    let begin_ns = 0.min(run.at_ns);
    vec![
        state("not running", Edge::bare(begin_ns), Edge::of(run)),
        state("running", Edge::of(run), Edge::bare(end_ns)),
    ]
}
