//! Connections that opened while nothing was counted. What they had carried before is found out from their sockets.
//!
//! A socket counts its segments and its payload itself. What it has counted, less what the programs have, is what crossed
//! before; this does not change any more, so it can be found out at leisure.

mod carried;
mod readings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{CarriedBefore, Fact};
use crate::host::sockets;
use crate::kernel::{FlowState, Opened};
use crate::tracer::base::Base;
use crate::tracer::error::{TracerError, host};
use crate::tracer::queue::{EventQueue, now};
use crate::units::{Directions, Flow, MonotonicNs};
use carried::carried;
use readings::{Reading, Readings};

/// For how long after waking up a connection may open whose first packet was not counted.
const OPENING: Duration = Duration::from_secs(3);
/// When it is not known exactly by then, the bounds are reported.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nothing is sent again sooner than this.
const SENT_AGAIN_NS: u64 = 5_000_000;
/// How often a socket is read each time, until nothing is sent or received meanwhile.
const ATTEMPTS: usize = 8;

/// A connection that was not counted from its first packet.
#[derive(Debug)]
struct Late {
    opened: Opened,
    since: Instant,
    readings: Readings,
    reported: Option<CarriedBefore>,
    /// Nothing of it is missing.
    is_counted_whole: bool,
    /// Its streams have milestones.
    has_milestones: bool,
    /// Nothing more will be found out.
    is_settled: bool,
}

/// Those connections.
#[derive(Debug, Default)]
pub(super) struct LateFlows {
    flows: BTreeMap<Flow, Late>,
    /// Until then more may come.
    expected_until: Option<Instant>,
    duplicates: Duplicates,
}

/// How often payload had come twice on this host.
#[derive(Clone, Copy, Debug, Default)]
struct Duplicates {
    /// In the sleep.
    asleep: Option<u64>,
    /// When the tracer began to wake up.
    waking: Option<(MonotonicNs, u64)>,
}

impl Duplicates {
    /// Whether payload of a connection may have come twice before it was counted.
    fn are_possible(&self, opened: &Opened) -> bool {
        let Some((at_ns, waking)) = self.waking else { return true };
        let is_late = at_ns.0.saturating_sub(opened.at_ns.0) > SENT_AGAIN_NS;
        sockets::duplicates() != Some(waking) || (is_late && self.asleep != Some(waking))
    }
}

impl LateFlows {
    /// The tracer sleeps.
    pub(super) fn note_sleep(&mut self) {
        self.duplicates.asleep = sockets::duplicates();
    }

    /// The tracer begins to wake up.
    pub(super) fn note_waking(&mut self, at_ns: MonotonicNs) {
        self.duplicates.waking = sockets::duplicates().map(|count| (at_ns, count));
    }

    /// More may come from now on.
    pub(super) fn expect(&mut self) {
        self.expected_until = Some(Instant::now() + OPENING);
    }

    /// Whether more may come.
    pub(super) fn are_expected(&self) -> bool {
        self.expected_until.is_some()
    }

    /// Ends the time in which more may come, if it is over. Returns whether it has just ended.
    pub(super) fn end_expectation(&mut self) -> bool {
        let is_over = self.expected_until.is_some_and(|until| Instant::now() >= until);
        if is_over {
            self.expected_until = None;
            self.flows.retain(|_, late| !late.is_settled);
        }
        is_over
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.expected_until.is_none() && self.flows.is_empty()
    }

    /// Whether this connection is one of those: something of it may not have been counted.
    pub(super) fn has(&self, flow: &Flow) -> bool {
        self.flows.get(flow).is_some_and(|late| !late.is_counted_whole)
    }

    /// Whether it was looked at already.
    pub(super) fn knows(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow)
    }

    /// This connection is counted from now on.
    pub(super) fn insert(&mut self, opened: Opened) {
        self.flows.entry(opened.flow).or_insert_with(|| Late {
            opened,
            since: Instant::now(),
            readings: Readings::new(opened.by_this_host),
            reported: None,
            is_counted_whole: false,
            has_milestones: false,
            is_settled: false,
        });
    }

    /// The sequence numbers of the SYNs of such a connection.
    pub(super) fn initial_sequences(&self, flow: &Flow) -> Option<Directions<u32>> {
        Some(self.flows.get(flow)?.opened.initial_sequences)
    }

    /// Reads the sockets, and reports what is known now.
    ///
    /// `is_reported`: whether the connection itself was reported.
    pub(super) fn read(
        &mut self,
        base: &mut Base,
        is_reported: impl Fn(&Flow) -> bool,
    ) -> Result<(), TracerError> {
        for (flow, late) in self.flows.iter_mut().filter(|(_, late)| !late.is_settled) {
            let is_open = late.read(base, flow, &self.duplicates)?;
            let is_final = !is_open || late.readings.are_exact();
            if is_reported(flow) && (is_final || late.since.elapsed() >= PATIENCE) {
                late.is_settled = is_final;
                late.report(&mut base.events, now()?);
            }
        }
        Ok(())
    }

    /// A connection that was reported is over: reports what is known of it.
    pub(super) fn gone(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, state: &FlowState) {
        if let Some(mut late) = self.flows.remove(&state.flow) {
            late.readings.look_at(state);
            late.report(events, at_ns);
        }
    }

    /// A connection is over of which nothing was counted.
    pub(super) fn gone_uncounted(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, flow: &Flow) {
        if self.flows.remove(flow).is_some_and(|late| !late.is_counted_whole) {
            let why = "it opened while migtrace slept, and carried nothing after migtrace was awake";
            events.not_measured(at_ns, &format!("what {flow} carried"), why.to_owned());
        }
    }
}

impl Late {
    /// Reads its socket, if possible at an instant at which nothing is sent or received. Returns false when there is no
    /// socket any more.
    fn read(&mut self, base: &Base, flow: &Flow, duplicates: &Duplicates) -> Result<bool, TracerError> {
        for _ in 0..ATTEMPTS {
            let Some(before) = base.kernel.flow(*flow)? else { return Ok(false) };
            self.readings.look_at(&before);
            let counts = sockets::counts_of(flow).map_err(host("read what a socket has counted"))?;
            let Some(mut counts) = counts else { return Ok(false) };
            if !self.has_milestones {
                let Opened { initial_sequences, .. } = self.opened;
                self.has_milestones =
                    base.kernel.begin_milestones(before.id(), initial_sequences, counts.carried())?;
            }
            if self.readings.first.is_none() {
                counts.is_troubled.rx |= duplicates.are_possible(&self.opened);
            }
            let Some(after) = base.kernel.flow(*flow)? else { return Ok(false) };
            if before.opened_ns != after.opened_ns {
                return Ok(false);
            }
            if before.from_start {
                // Its first packets were still on their way when its opening was found.
                self.is_counted_whole = true;
                return Ok(false);
            }
            let is_quiet = before.counters == after.counters;
            self.readings.take(Reading { before: &before, counts, after: &after, at: Instant::now() });
            if is_quiet {
                break;
            }
        }
        Ok(true)
    }

    /// Reports what is known, unless it was reported before.
    fn report(&mut self, events: &mut EventQueue, at_ns: MonotonicNs) {
        let Some(known) = carried(&self.opened, &self.readings).filter(|_| !self.is_counted_whole) else {
            return;
        };
        if self.reported.as_ref() != Some(&known) {
            self.reported = Some(known.clone());
            events.add(at_ns, Fact::FlowCarriedBefore(known));
        }
    }
}
