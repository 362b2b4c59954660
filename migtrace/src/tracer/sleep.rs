//! When the tracer sleeps, and what it does when it falls asleep and wakes up.

use std::time::Duration;

use tokio::time::Instant;

use super::error::{TracerError, host};
use super::queue::now;
use super::state::State;
use crate::host::sockets;

/// When to sleep.
#[derive(Debug)]
pub(super) struct Sleep {
    /// After so long without a sign of a migration; `None`: never.
    after: Option<Duration>,
    /// Since when there has been none.
    quiet_since: Option<Instant>,
    /// Somebody else needs what is observed.
    is_needed: bool,
}

impl Sleep {
    pub(super) const fn new(after: Option<Duration>) -> Self {
        Self { after, quiet_since: None, is_needed: false }
    }

    /// Whether it is to sleep at all.
    pub(super) const fn is_wanted(&self) -> bool {
        self.after.is_some()
    }

    pub(super) const fn keep_awake(&mut self, is_needed: bool) {
        self.is_needed = is_needed;
    }

    /// Whether it has been quiet for long enough.
    fn is_due(&mut self, is_quiet: bool) -> bool {
        let Some(after) = self.after else { return false };
        if !is_quiet || self.is_needed {
            self.quiet_since = None;
            return false;
        }
        self.quiet_since.get_or_insert_with(Instant::now).elapsed() >= after
    }
}

impl State {
    pub(super) const fn is_asleep(&self) -> bool {
        self.base.kernel.is_asleep()
    }

    /// Whether it is enough to look now and then for what nothing reports.
    pub(super) fn may_look_rarely(&self) -> bool {
        self.is_asleep() && self.qemus.are_settled() && !self.interfaces.is_any_unsettled()
    }

    /// Falls asleep if there has been no sign of a migration for long enough.
    pub(super) fn sleep_if_nothing_happens(&mut self) -> Result<(), TracerError> {
        if self.is_asleep() {
            self.flows.note_sleep();
            return Ok(());
        }
        if !self.base.kernel.can_sleep() || !self.sleep.is_due(!self.flows.is_any_expected()) {
            return Ok(());
        }
        self.sleep.quiet_since = None;
        let ports = self.flows.ports().clone();
        let is_listened = sockets::is_any_listening(&self.qemus.pids(), |port| ports.contains(port));
        if is_listened.map_err(host("look for QEMUs that listen"))? {
            return Ok(());
        }
        self.flows.note_sleep();
        self.base.kernel.begin_notes()?;
        // One that had opened before is counted, and one that opens now is noted.
        self.take_pending()?;
        if self.flows.is_any_expected() || self.base.kernel.flows()?.iter().any(|flow| !flow.is_fragments()) {
            return Ok(self.base.kernel.end_notes()?);
        }
        Ok(self.base.kernel.fall_asleep(&self.qemus.pids())?)
    }

    /// Wakes up: attaches everything, and counts the connections that have opened meanwhile.
    pub(super) fn wake_up(&mut self) -> Result<(), TracerError> {
        if !self.is_asleep() {
            return Ok(());
        }
        self.flows.note_waking(now()?);
        self.base.kernel.count_again()?;
        self.flows.take_over(&mut self.base, &self.qemus)?;
        for (instrument, why) in self.base.kernel.observe_again()? {
            let what = format!("what the instrument `{instrument}` observes");
            let why = format!("it was detached for a sleep and cannot be attached again: {why}");
            self.base.events.not_measured(now()?, &what, why);
        }
        self.flows.expect_late();
        self.look_for_slew()?;
        // What has come since the last look was not looked for.
        self.qemus.follow_change();
        self.scan()
    }
}
