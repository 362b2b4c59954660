//! Puts the lines of QMP events together that a QEMU writes one by one, and reports what could not be read.

use std::collections::BTreeMap;

use migtrace_ebpf::abi::Process;
use migtrace_ebpf::budget::LINES;
use migtrace_ebpf::qmp_write::Content;

use super::qmp_line::{self, MigrationEvent, Parsed};
use crate::event::Vcpus;
use crate::kernel::QmpWrite;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::this_host::qemus::Qemus;
use crate::units::{Counters, Directions, MonotonicNs};

/// The lines of one event are put together up to this size. QEMU's events are far below it.
const EVENT_BYTES: usize = 64 << 10;

/// A write to a monitor with all that belongs to it.
pub(in crate::tracer) struct CompleteWrite {
    /// The stamp of its first line.
    pub(in crate::tracer) at_ns: MonotonicNs,
    /// The events about migration in it.
    pub(in crate::tracer) events: Vec<MigrationEvent>,
    pub(in crate::tracer) counters: Option<Directions<Counters>>,
    pub(in crate::tracer) vcpus: Option<Vcpus>,
}

/// The lines of one process.
#[derive(Debug, Default)]
struct ProcessLines {
    /// An event of which more lines are to come, and the stamp of the first.
    unfinished: Option<(MonotonicNs, QmpWrite)>,
    /// How often something could not be read.
    unread: u64,
    /// It was reported that lines were dropped or not read.
    reported: bool,
}

/// What each process has written.
#[derive(Debug, Default)]
pub(in crate::tracer) struct QmpEvents {
    processes: BTreeMap<u32, ProcessLines>,
    /// How often something could not be read, of all processes that there ever were.
    unread: u64,
}

impl QmpEvents {
    /// Takes in what a QEMU has written to its monitor. Returns the events when they are complete.
    pub(in crate::tracer) fn take(
        &mut self,
        at_ns: MonotonicNs,
        pid: u32,
        content: Content,
        write: QmpWrite,
    ) -> Option<CompleteWrite> {
        let (at_ns, write) = self.join(at_ns, pid, content, write)?;
        let Parsed { events, unread } = qmp_line::parse(&write.bytes);
        self.count_unread(pid, unread.max(write.cut.into()));
        Some(CompleteWrite { at_ns, events, counters: write.sums, vcpus: write.vcpus })
    }

    /// Joins a write to those before it. Returns all of them when it is the last.
    fn join(
        &mut self,
        at_ns: MonotonicNs,
        pid: u32,
        content: Content,
        write: QmpWrite,
    ) -> Option<(MonotonicNs, QmpWrite)> {
        let lines = self.processes.entry(pid).or_default();
        let lacks_end = match content {
            Content::Whole => return Some((at_ns, write)),
            Content::SecondLine => {
                // The first line was written alone, and is not reported.
                let bytes = [b"{".as_slice(), &write.bytes].concat();
                lines.unfinished.replace((at_ns, QmpWrite { bytes, ..write })).is_some()
            }
            Content::Line | Content::LastLine => {
                if let Some((_, begun)) = &mut lines.unfinished {
                    let has_room = begun.bytes.len() + write.bytes.len() <= EVENT_BYTES;
                    if has_room {
                        begun.bytes.extend(write.bytes);
                    }
                    begun.cut |= write.cut || !has_room;
                }
                if content == Content::LastLine {
                    return lines.unfinished.take();
                }
                false
            }
        };
        self.count_unread(pid, u64::from(lacks_end));
        None
    }

    fn count_unread(&mut self, pid: u32, count: u64) {
        self.unread += count;
        self.processes.entry(pid).or_default().unread += count;
    }

    /// How often something could not be read.
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    /// Reports lines of each process that were dropped or could not be read, and forgets the processes that are traced no
    /// more.
    pub(super) fn report_unread(
        &mut self,
        base: &mut Base,
        qemus: &Qemus,
        now: MonotonicNs,
        is_end: bool,
    ) -> Result<(), TracerError> {
        self.processes.retain(|pid, _| qemus.contains(*pid));
        qemus.iter().try_for_each(|qemu| self.report_process(base, now, qemu.pid, is_end))
    }

    /// A process has ended: reports how many of its lines were dropped or could not be read, and forgets them.
    pub(in crate::tracer) fn process_gone(
        &mut self,
        base: &mut Base,
        now: MonotonicNs,
        pid: u32,
    ) -> Result<(), TracerError> {
        self.report_process(base, now, pid, true)?;
        self.processes.remove(&pid);
        Ok(())
    }

    /// Reports lines of a process that were dropped or could not be read: when there are some for the first time, and how
    /// many there were in the end.
    fn report_process(
        &mut self,
        base: &mut Base,
        now: MonotonicNs,
        pid: u32,
        is_end: bool,
    ) -> Result<(), TracerError> {
        let Process { dropped_lines, .. } = base.kernel.process(pid)?.unwrap_or_default();
        let lines = self.processes.entry(pid).or_default();
        let unread = lines.unread;
        if (dropped_lines, unread) == (0, 0) || (lines.reported && !is_end) {
            return Ok(());
        }
        lines.reported = true;
        let when = if is_end { "in all" } else { "so far" };
        let what = format!("QMP events of QEMU {pid}");
        if dropped_lines > 0 {
            let (at_once, a_second) = (LINES.at_once, 1_000_000_000 / LINES.token_ns);
            let why = format!(
                "it wrote more of them than are read ({at_once} at once, {a_second} a second): {dropped_lines} \
                 lines were dropped {when}"
            );
            base.events.not_measured(now, &what, why);
        }
        if unread > 0 {
            let why = format!("{unread} of its lines were too long or not QMP {when}");
            base.events.not_measured(now, &what, why);
        }
        Ok(())
    }
}
