//! The lines of QMP that the traced QEMUs write: put together, read, and told of when some could not be.

use std::collections::BTreeMap;

use migtrace_ebpf::abi::Process;
use migtrace_ebpf::budget::LINES;
use migtrace_ebpf::qmp_write::Part;

use super::qmp_line;
use crate::kernel::QmpWrite;
use crate::tracer::{Tracer, TracerError};
use crate::units::MonotonicNs;

/// The lines of one event are put together up to this size; QEMU's events are far below.
const EVENT_BYTES: usize = 64 << 10;

/// How long one event of a process waits behind another before all that the process holds open is looked through again:
/// whoever can write events can also hold open very much.
const LOOK_EVERY_NS: u64 = 100_000_000;

/// What is known of the lines of one process.
#[derive(Debug, Default)]
struct Heard {
    /// An event of which not all lines have come, and the stamp of the first.
    unfinished: Option<(MonotonicNs, QmpWrite)>,
    /// How often something could not be read.
    unread: u64,
    /// Whether it was told that lines were dropped or not read.
    told: bool,
    /// When it was looked for its taps last because of an event.
    looked_ns: Option<MonotonicNs>,
}

/// The lines of QMP by process.
#[derive(Debug, Default)]
pub(in crate::tracer) struct Lines {
    heard: BTreeMap<u32, Heard>,
    /// How often something could not be read, of all processes that there ever were.
    unread: u64,
}

impl Lines {
    /// Takes in a write, and gives it back when it completes an event.
    fn take(
        &mut self,
        at_ns: MonotonicNs,
        pid: u32,
        part: Part,
        write: QmpWrite,
    ) -> Option<(MonotonicNs, QmpWrite)> {
        let heard = self.heard.entry(pid).or_default();
        let misses_end = match part {
            Part::Whole => return Some((at_ns, write)),
            Part::SecondLine => {
                // The first was written alone, and is not told.
                let bytes = [b"{".as_slice(), &write.bytes].concat();
                heard.unfinished.replace((at_ns, QmpWrite { bytes, ..write })).is_some()
            }
            Part::Line | Part::LastLine => {
                if let Some((_, begun)) = &mut heard.unfinished {
                    let has_room = begun.bytes.len() + write.bytes.len() <= EVENT_BYTES;
                    if has_room {
                        begun.bytes.extend(write.bytes);
                    }
                    begun.cut |= write.cut || !has_room;
                }
                if part == Part::LastLine {
                    return heard.unfinished.take();
                }
                false
            }
        };
        self.count_unread(pid, u64::from(misses_end));
        None
    }

    fn count_unread(&mut self, pid: u32, count: u64) {
        self.unread += count;
        self.heard.entry(pid).or_default().unread += count;
    }

    /// Whether to look again for the taps of a process that tells of something.
    pub(in crate::tracer) fn is_look_due(&mut self, at_ns: MonotonicNs, pid: u32) -> bool {
        let heard = self.heard.entry(pid).or_default();
        let is_due = heard.looked_ns.is_none_or(|looked| at_ns.0.saturating_sub(looked.0) >= LOOK_EVERY_NS);
        if is_due {
            heard.looked_ns = Some(at_ns);
        }
        is_due
    }

    /// How often something could not be read.
    pub(in crate::tracer) const fn unread(&self) -> u64 {
        self.unread
    }
}

impl Tracer {
    /// Takes in what a QEMU has written to its monitor.
    pub(in crate::tracer) fn take_line(
        &mut self,
        at_ns: MonotonicNs,
        pid: u32,
        part: Part,
        write: QmpWrite,
    ) -> Result<(), TracerError> {
        let Some((at_ns, QmpWrite { sums, vcpus, bytes, cut })) = self.lines.take(at_ns, pid, part, write)
        else {
            return Ok(());
        };
        let qmp_line::Written { events, unread } = qmp_line::parse(&bytes);
        self.lines.count_unread(pid, unread.max(cut.into()));
        events.into_iter().try_for_each(|event| self.take_qmp(at_ns, pid, event, sums, vcpus))
    }

    /// Tells of lines that were dropped or could not be read: of each process when there are the first, and how many there
    /// were in the end.
    fn tell_unheard(&mut self, now: MonotonicNs, pid: u32, is_end: bool) -> Result<(), TracerError> {
        let Process { dropped_lines, .. } = self.kernel.process(pid)?.unwrap_or_default();
        let heard = self.lines.heard.entry(pid).or_default();
        let unread = heard.unread;
        if (dropped_lines, unread) == (0, 0) || (heard.told && !is_end) {
            return Ok(());
        }
        heard.told = true;
        let when = if is_end { "in all" } else { "so far" };
        let what = format!("QMP events of QEMU {pid}");
        if dropped_lines > 0 {
            let (at_once, a_second) = (LINES.at_once, 1_000_000_000 / LINES.token_ns);
            let why = format!(
                "it wrote more of them than are read ({at_once} at once, {a_second} a second): {dropped_lines} \
                 lines were dropped {when}"
            );
            self.tell_not_measured(now, &what, why);
        }
        if unread > 0 {
            let why = format!("{unread} of its lines were too long or no QMP {when}");
            self.tell_not_measured(now, &what, why);
        }
        Ok(())
    }

    /// Tells it of every process, and forgets those that are traced no more.
    pub(in crate::tracer) fn tell_all_unheard(
        &mut self,
        now: MonotonicNs,
        is_end: bool,
    ) -> Result<(), TracerError> {
        self.lines.heard.retain(|pid, _| self.qemus.contains_key(pid));
        let pids: Vec<u32> = self.qemus.keys().copied().collect();
        pids.into_iter().try_for_each(|pid| self.tell_unheard(now, pid, is_end))
    }

    /// Tells what [`Self::tell_unheard`] has to tell of a process that has ended, and forgets its lines.
    pub(in crate::tracer) fn forget_lines(&mut self, now: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        self.tell_unheard(now, pid, true)?;
        self.lines.heard.remove(&pid);
        Ok(())
    }
}
