//! Joins the tracer's parts: what a message, a reading of the flow table, a look, and a change of an interface do.

use super::base::Base;
use super::error::{TracerError, host};
use super::flows::known_flows::Owner;
use super::flows::{self, Flows, Seen};
use super::messages::losses::Losses;
use super::messages::qmp_events::{CompleteWrite, QmpEvents};
use super::messages::qmp_line::MigrationEvent;
use super::queue::{EventQueue, now};
use super::sleep::Sleep;
use super::this_host::attachments;
use super::this_host::interfaces::Interfaces;
use super::this_host::qemus::Qemus;
use crate::event::{EndReason, Event, Fact, Observation, OwnerMethod, QmpEvent, Vcpus};
use crate::host::clock::{FastSlew, SlewWatcher};
use crate::host::links::{CountingPoint, LinkEvent};
use crate::kernel::{Body, Kernel, Message};
use crate::units::{Counters, Directions, MonotonicNs};

/// All that the tracer knows.
pub(super) struct State {
    pub(super) base: Base,
    pub(super) interfaces: Interfaces,
    pub(super) qemus: Qemus,
    pub(super) flows: Flows,
    qmp: QmpEvents,
    losses: Losses,
    slews: SlewWatcher,
    pub(super) sleep: Sleep,
}

impl State {
    pub(super) fn new(
        kernel: Kernel,
        interfaces: Interfaces,
        qemus: Qemus,
        flows: Flows,
        sleep: Sleep,
    ) -> Self {
        Self {
            base: Base { kernel, events: EventQueue::default() },
            interfaces,
            qemus,
            flows,
            qmp: QmpEvents::default(),
            losses: Losses::default(),
            slews: SlewWatcher::default(),
            sleep,
        }
    }

    /// Begins to count, and finds what is there already. Adds to `observation` where packets are counted.
    pub(super) fn begin(
        &mut self,
        points: &[CountingPoint],
        observation: &mut Observation,
    ) -> Result<(), TracerError> {
        let counted = points.iter().map(|point| self.interfaces.count_at(&mut self.base.kernel, point));
        observation.interfaces = counted.collect::<Result<_, _>>()?;
        self.base.events.add(now()?, Fact::LogStart(observation.clone()));
        self.look_after_attachments()?;
        self.base.events.clock()?;
        self.scan()?;
        self.flows.adopt_connections(&mut self.base, &self.qemus)
    }

    /// Takes in messages of the kernel programs.
    pub(super) fn take_all(&mut self, messages: Vec<Message>) -> Result<(), TracerError> {
        messages.into_iter().try_for_each(|message| self.take(message))
    }

    /// Takes in what the kernel programs have reported until now.
    pub(super) fn take_pending(&mut self) -> Result<(), TracerError> {
        let messages = self.base.kernel.pending_messages();
        self.take_all(messages)
    }

    fn take(&mut self, Message { at_ns, body }: Message) -> Result<(), TracerError> {
        let events = &mut self.base.events;
        match body {
            Body::FlowSeen { flow, first, initial_sequences } => {
                let (flows, qemus) = (&mut self.flows, &mut self.qemus);
                let seen = Seen { first, from_start: true, initial_sequences: Some(initial_sequences) };
                flows.seen(&mut self.base, &self.interfaces, qemus, flow, seen)?;
            }
            Body::FlowOwned { flow, pid, by_user_space, crossed } => {
                let method = if by_user_space { OwnerMethod::SockDiag } else { OwnerMethod::Socket };
                self.flows.owned(events, flow, Owner { at_ns, pid, method, crossed: Some(crossed) });
                self.qemus.look_for_taps(&mut self.base, at_ns, pid)?;
            }
            Body::FlowPayload { flow, first_bytes } => self.flows.payload(events, at_ns, flow, first_bytes),
            Body::FlowReplaced { key, entry } => {
                self.flows.milestones(&mut self.base);
                let state = self.base.kernel.final_state(&key, &entry);
                self.flows.replaced(&mut self.base.events, at_ns, &state);
            }
            Body::QmpLine { pid, content, write } => {
                if let Some(written) = self.qmp.take(at_ns, pid, content, write) {
                    self.take_qmp(pid, written)?;
                }
            }
            Body::GuestRun { pid, vcpus } => events.add(at_ns, Fact::GuestRun { pid, vcpus }),
            Body::GuestRunVoid { pid, entered_ns, certain } => {
                events.add(at_ns, Fact::GuestRunVoid { pid, entered_ns, certain });
            }
            Body::DirtyLog { pid, sums } => events.add(at_ns, Fact::DirtyLog { pid, counters: sums }),
            Body::GuestFrame { ifindex } => self.qemus.taps.guest_frame(events, at_ns, ifindex),
            Body::Announcement { ifindex, kind } => self.qemus.taps.announced(events, at_ns, ifindex, kind),
            Body::ProcessExec { pid } | Body::ProcessFork { pid } => {
                if !self.qemus.examine(&mut self.base, at_ns, pid)? {
                    self.qemu_gone(at_ns, pid)?;
                } else if self.qemus.is_incoming(pid) {
                    // It will be connected to.
                    self.wake_up()?;
                }
            }
            Body::ConnectionOpens => self.wake_up()?,
            Body::ProcessExit { pid } => self.qemu_gone(at_ns, pid)?,
        }
        Ok(())
    }

    fn take_qmp(&mut self, pid: u32, written: CompleteWrite) -> Result<(), TracerError> {
        let CompleteWrite { at_ns, events, counters, vcpus } = written;
        events.into_iter().try_for_each(|event| self.take_qmp_event(at_ns, pid, event, counters, vcpus))
    }

    fn take_qmp_event(
        &mut self,
        at_ns: MonotonicNs,
        pid: u32,
        MigrationEvent { name, data, realtime_us }: MigrationEvent,
        counters: Option<Directions<Counters>>,
        vcpus: Option<Vcpus>,
    ) -> Result<(), TracerError> {
        let has_stopped = name == "STOP";
        if name == "MIGRATION" {
            if let Some(status) = data.get("status").and_then(serde_json::Value::as_str) {
                if !flows::is_over(status) {
                    self.wake_up()?;
                }
                self.flows.note_migration(&mut self.base, &self.qemus, pid, status)?;
            }
            // It may have opened another tap since the last look.
            self.qemus.look_at_taps(&mut self.base, at_ns, pid)?;
        } else {
            self.qemus.look_for_taps_now_and_then(&mut self.base, at_ns, pid)?;
        }
        let event = QmpEvent { pid, name, data, qemu_realtime_us: realtime_us, counters, vcpus };
        self.base.events.add(at_ns, Fact::Qmp(event));
        if has_stopped { self.qemus.taps.rearm(&mut self.base, pid) } else { Ok(()) }
    }

    /// A process has ended, or runs another program; of a QEMU, everything that ends with it.
    fn qemu_gone(&mut self, at_ns: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        if !self.qemus.contains(pid) {
            return Ok(());
        }
        self.flows.migration_over(pid);
        self.qmp.process_gone(&mut self.base, at_ns, pid)?;
        self.qemus.gone(&mut self.base, at_ns, pid)?;
        self.base.events.forget_process(pid);
        Ok(())
    }

    /// Reads the flow table.
    pub(super) fn sample(&mut self) -> Result<(), TracerError> {
        self.look_for_slew()?;
        let now = now()?;
        let states = self.base.kernel.flows()?;
        // What a message says of a flow has an earlier stamp than this reading.
        self.take_pending()?;
        self.flows.sample(&mut self.base, &self.interfaces, &mut self.qemus, now, &states)
    }

    /// Looks for what nothing reports: losses, QEMUs that no instrument saw, new interfaces that are ready.
    pub(super) fn look(&mut self) -> Result<(), TracerError> {
        if self.losses.report(&mut self.base, &mut self.qmp, &self.qemus, false)? {
            // The start of a QEMU may be among what was lost.
            self.qemus.follow_change();
        }
        if self.qemus.is_scan_due() {
            self.scan()?;
        }
        self.look_for_slew()?;
        self.interfaces.look(&mut self.base)?;
        self.flows.adopt_strays(&mut self.base, &self.qemus)?;
        self.look_after_attachments()?;
        self.sleep_if_nothing_happens()
    }

    /// Looks whether the clock is slewed faster than ever since the start.
    pub(super) fn look_for_slew(&mut self) -> Result<(), TracerError> {
        if let Some(FastSlew { since: since_ns, ppm }) = self.slews.look().map_err(host("read the clocks"))? {
            self.base.events.add(now()?, Fact::ClockSlew { since_ns, ppm });
        }
        Ok(())
    }

    /// Reads `/proc` for QEMUs that no instrument reported.
    pub(super) fn scan(&mut self) -> Result<(), TracerError> {
        let found = self.qemus.find()?;
        // A QEMU that was not found has ended by now, and writes no more.
        let now = now()?;
        let gone = self.qemus.missing_from(&found);
        if !gone.is_empty() {
            // Its last words may still wait in the rings.
            self.take_pending()?;
        }
        gone.into_iter().try_for_each(|pid| self.qemu_gone(now, pid))?;
        self.qemus.take_found(&mut self.base, now, found)
    }

    /// An interface has come, gone, or changed its name.
    pub(super) fn follow(&mut self, change: LinkEvent) -> Result<(), TracerError> {
        let now = now()?;
        match &change {
            LinkEvent::Removed { index, .. } => {
                self.qemus.taps.unwatch(&mut self.base.kernel, |watched, _| watched == *index)?;
            }
            // It may be the tap of a QEMU.
            LinkEvent::Added { .. } => self.qemus.follow_change(),
            LinkEvent::Renamed { .. } => {}
        }
        self.interfaces.follow(&mut self.base, now, change);
        Ok(())
    }

    fn look_after_attachments(&mut self) -> Result<(), TracerError> {
        attachments::look(&mut self.base, &self.interfaces, &self.qemus.taps)
    }

    /// Takes in what the kernel holds, and reports all counters as they are now.
    pub(super) fn take_stock(&mut self, is_end: bool) -> Result<(), TracerError> {
        self.take_pending()?;
        self.look_after_attachments()?;
        self.qemus.taps.count_frames(&mut self.base, |_| true)?;
        self.flows.make_all_due();
        self.sample()?;
        // The programs report the owners that were found just now.
        self.take_pending()?;
        if is_end {
            self.qemus.count_pretenders(&mut self.base.events)?;
        }
        self.losses.report(&mut self.base, &mut self.qmp, &self.qemus, is_end).map(drop)
    }

    /// Takes in what is left, and returns the last events.
    pub(super) fn finish(mut self, reason: EndReason) -> Result<Vec<Event>, TracerError> {
        self.take_stock(true)?;
        self.base.events.clock()?;
        self.base.events.add(now()?, Fact::LogEnd { reason });
        Ok(self.base.events.into_events())
    }
}
