//! How much was lost on the way from the kernel programs.

use super::qmp_events::QmpEvents;
use crate::event::Fact;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::now;
use crate::tracer::this_host::qemus::Qemus;
use crate::units::MonotonicNs;
use crate::vocabulary::Lost;

/// What was lost, as last reported.
#[derive(Debug, Default)]
pub(in crate::tracer) struct Losses {
    so_far: Lost,
    /// When the counters were last read.
    read_ns: Option<MonotonicNs>,
}

impl Losses {
    /// Reports what was lost, and returns whether that is more than before.
    pub(in crate::tracer) fn report(
        &mut self,
        base: &mut Base,
        qmp: &mut QmpEvents,
        qemus: &Qemus,
        is_end: bool,
    ) -> Result<bool, TracerError> {
        let begun = now()?;
        // A process goes on writing meanwhile. Its own count comes first, so that the sum includes it.
        qmp.report_unread(base, qemus, begun, is_end)?;
        let mut so_far = base.kernel.lost()?;
        so_far.qmp_lines += qmp.unread();
        let now = now()?;
        let since_ns = self.read_ns.replace(begun);
        let is_more = so_far != self.so_far;
        if is_more {
            self.so_far = so_far;
            base.events.add(now, Fact::Lost { so_far, since_ns });
        }
        Ok(is_more)
    }
}
