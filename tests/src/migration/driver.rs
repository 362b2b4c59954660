//! Drives a migration through both QEMUs' monitors, as a manager does.

use super::options::Migration;
use super::outcome::{Migrated, ObservedEvent, Outcome, Side};
use super::settings;
use crate::clock::monotonic_ns;
use crate::disk::DISK_NODE;
use crate::qmp::{Qmp, QmpError};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often the driver asks for statistics. It receives events at once.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// How often it asks for the state when QEMU sends no events about it.
const STATE_INTERVAL: Duration = Duration::from_millis(20);
/// How long it waits for an event before it checks the other side.
const EVENT_INTERVAL: Duration = Duration::from_millis(2);
/// From the source's last byte until the guest runs on the destination.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(60);
const MIRROR_NODE: &str = "mirror0";
const MIRROR_JOB: &str = "mirror-disk0";

/// The progress of a migration.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Since the driver began.
    pub elapsed: Duration,
    /// QEMU's state: `setup`, `active`...; `disk-sync` while the disk is copied first.
    pub status: &'a str,
    /// The pass of dirty pages: QEMU's `dirty-sync-count`.
    pub pass: u64,
    /// The bytes that remain of this pass, or of the disk.
    pub remaining_bytes: u64,
    /// The bytes that were sent, or copied of the disk.
    pub transferred_bytes: u64,
}

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// It continues the migration.
    #[default]
    Continue,
    /// It cancels the migration: `migrate_cancel`.
    Cancel,
    /// It switches to postcopy; needs [`Migration::postcopy_at_pass`].
    StartPostcopy,
    /// It interrupts a postcopy, which then goes on over another connection.
    PausePostcopy,
}

/// Drives a migration to its end, whatever the end is; both QEMUs still run then.
pub(crate) fn drive(
    source: &mut Qmp,
    destination: &mut Qmp,
    peer: IpAddr,
    disk: bool,
    migration: &Migration,
    progress: &mut dyn FnMut(&Progress<'_>) -> Action,
) -> Result<Migrated> {
    settings::configure(source, migration, Side::Source)?;
    // Earlier events belong to no migration, or to an earlier one.
    while source.next_event(Duration::ZERO)?.is_some() {}
    let mut driver = Driver {
        source,
        destination,
        migration,
        progress,
        events: Vec::new(),
        started: Instant::now(),
        last_progress: None,
        status: String::from("none"),
        pass: 0,
        disk,
        switched_over: false,
        postcopy: false,
        paused: false,
        arrived: false,
    };
    let result = driver.run(peer);
    if result.is_err() {
        // Nobody follows the migration any more. It, or QEMU itself, may have ended already.
        let _ = driver.source.execute("migrate_cancel", json!({}));
    }
    result
}

struct Driver<'a> {
    source: &'a mut Qmp,
    destination: &'a mut Qmp,
    migration: &'a Migration,
    progress: &'a mut dyn FnMut(&Progress<'_>) -> Action,
    events: Vec<ObservedEvent>,
    started: Instant,
    last_progress: Option<Instant>,
    /// QEMU's state of the migration on the source.
    status: String,
    pass: u64,
    /// Whether the disk is still to be copied, or being copied.
    disk: bool,
    /// Whether `migrate-continue` was sent.
    switched_over: bool,
    /// Whether `migrate-start-postcopy` was sent.
    postcopy: bool,
    /// Whether `migrate-pause` was sent.
    paused: bool,
    /// Whether the guest runs on the destination, or was told to.
    arrived: bool,
}

impl Driver<'_> {
    fn run(&mut self, peer: IpAddr) -> Result<Migrated> {
        let started_ns = monotonic_ns();
        let mut migrate_ns = started_ns;
        let outcome = if self.disk && !self.copy_disk(peer)? {
            Outcome::Cancelled
        } else {
            migrate_ns = monotonic_ns();
            let uri = settings::uri_to(peer, self.migration, self.migration.ram_port);
            self.source.execute("migrate", json!({ "uri": uri }))?;
            self.follow(peer)?
        };
        let mut destination = Value::Null;
        if outcome == Outcome::Completed {
            self.wait_for_arrival()?;
            destination = self.destination.execute("query-migrate", json!({}))?;
        } else {
            self.drop_mirror()?;
            self.wait_for_return()?;
        }
        let ended_ns = monotonic_ns();
        self.collect(Duration::ZERO)?;
        let source = self.source.execute("query-migrate", json!({}))?;
        let events = std::mem::take(&mut self.events);
        Ok(Migrated { outcome, started_ns, migrate_ns, ended_ns, events, source, destination })
    }

    /// Copies the disk first, as libvirt does. Returns false if the caller has cancelled.
    fn copy_disk(&mut self, peer: IpAddr) -> Result<bool> {
        self.status = String::from("disk-sync");
        let port = self.migration.disk_port.to_string();
        let target = json!({
            "driver": "nbd",
            "node-name": MIRROR_NODE,
            "server": { "type": "inet", "host": peer.to_string(), "port": port },
            "export": DISK_NODE,
        });
        self.source.execute("blockdev-add", target)?;
        let mirror =
            json!({ "job-id": MIRROR_JOB, "device": DISK_NODE, "target": MIRROR_NODE, "sync": "full" });
        self.source.execute("blockdev-mirror", mirror)?;
        while !self.saw_job("BLOCK_JOB_READY") {
            self.fail_if_job_failed()?;
            // By another client of the monitor.
            if self.saw_job("BLOCK_JOB_CANCELLED") {
                return Ok(false);
            }
            self.collect(EVENT_INTERVAL)?;
            self.check_timeout()?;
            if self.progress_is_due() {
                let jobs = self.source.execute("query-block-jobs", json!({}))?;
                let done = jobs[0]["offset"].as_u64().unwrap_or_default();
                let all = jobs[0]["len"].as_u64().unwrap_or_default();
                if self.report(all.saturating_sub(done), done) == Action::Cancel {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Follows the source until its final state.
    fn follow(&mut self, peer: IpAddr) -> Result<Outcome> {
        let mut last_state = Instant::now();
        loop {
            self.collect(EVENT_INTERVAL)?;
            if !self.migration.events && last_state.elapsed() >= STATE_INTERVAL {
                last_state = Instant::now();
                let answer = self.source.execute("query-migrate", json!({}))?;
                self.take_statistics(&answer);
            }
            match self.status.as_str() {
                "completed" => return Ok(Outcome::Completed),
                "failed" => return Ok(Outcome::Failed),
                "cancelled" => return Ok(Outcome::Cancelled),
                "pre-switchover" if !self.switched_over => self.switch_over()?,
                "postcopy-paused" => self.recover(peer)?,
                // The source completes only when all of the memory has followed.
                "postcopy-active" if !self.arrived => drop(self.let_arrive()?),
                _ => {}
            }
            let wanted = self.migration.postcopy_at_pass.is_some_and(|pass| self.pass >= pass);
            if wanted && self.status == "active" {
                self.start_postcopy()?;
            }
            if self.progress_is_due() {
                self.ask_progress()?;
            }
            self.check_timeout()?;
        }
    }

    fn ask_progress(&mut self) -> Result<()> {
        let answer = self.source.execute("query-migrate", json!({}))?;
        if !self.migration.events {
            self.take_statistics(&answer);
        }
        let ram = &answer["ram"];
        self.pass = self.pass.max(ram["dirty-sync-count"].as_u64().unwrap_or_default());
        let number = |name: &str| ram[name].as_u64().unwrap_or_default();
        match self.report(number("remaining"), number("transferred")) {
            Action::Continue => {}
            Action::Cancel => {
                self.source.execute("migrate_cancel", json!({}))?;
            }
            Action::StartPostcopy => self.start_postcopy()?,
            Action::PausePostcopy if self.paused => {}
            Action::PausePostcopy => {
                self.paused = true;
                self.source.execute("migrate-pause", json!({}))?;
            }
        }
        Ok(())
    }

    /// Lets an interrupted postcopy go on over another connection.
    fn recover(&mut self, peer: IpAddr) -> Result<()> {
        while self.destination.execute("query-migrate", json!({}))?["status"] != "postcopy-paused" {
            self.collect(EVENT_INTERVAL)?;
            self.check_timeout()?;
        }
        let port = self.migration.recovery_port;
        let uri = settings::uri_of_listener(self.migration, port);
        self.destination.execute("migrate-recover", json!({ "uri": uri }))?;
        let uri = settings::uri_to(peer, self.migration, port);
        self.source.execute("migrate", json!({ "uri": uri, "resume": true }))?;
        self.status = "postcopy-recover".into();
        Ok(())
    }

    fn take_statistics(&mut self, answer: &Value) {
        if let Some(status) = answer["status"].as_str() {
            self.status = status.into();
        }
        self.pass = self.pass.max(answer["ram"]["dirty-sync-count"].as_u64().unwrap_or_default());
    }

    fn start_postcopy(&mut self) -> Result<()> {
        if !self.postcopy {
            self.postcopy = true;
            self.source.execute("migrate-start-postcopy", json!({}))?;
        }
        Ok(())
    }

    /// With the guest stopped, ends the copy of the disk, which is complete by now, and lets QEMU switch over.
    fn switch_over(&mut self) -> Result<()> {
        self.switched_over = true;
        if self.report(0, 0) == Action::Cancel {
            self.source.execute("migrate_cancel", json!({}))?;
            return Ok(());
        }
        if self.disk {
            // For a mirror that is ready, this command means to complete it.
            self.source.execute("block-job-cancel", json!({ "device": MIRROR_JOB }))?;
            while !self.saw_job("BLOCK_JOB_COMPLETED") {
                self.fail_if_job_failed()?;
                self.collect(EVENT_INTERVAL)?;
                self.check_timeout()?;
            }
            self.source.execute("blockdev-del", json!({ "node-name": MIRROR_NODE }))?;
            self.disk = false;
        }
        self.source.execute("migrate-continue", json!({ "state": "pre-switchover" }))?;
        Ok(())
    }

    /// Waits until a guest that was stopped runs on the source again.
    fn wait_for_return(&mut self) -> Result<()> {
        let of_guest = |observed: &&ObservedEvent| {
            observed.side == Side::Source && ["STOP", "RESUME"].contains(&observed.event.name.as_str())
        };
        let mut continued = false;
        while self.events.iter().rfind(of_guest).is_some_and(|last| last.event.name == "STOP") {
            // QEMU lets it run again itself, unless it was suspended before QEMU stopped it.
            if !continued && is_paused(self.source)? {
                continued = true;
                self.source.execute("cont", json!({}))?;
            }
            self.collect(EVENT_INTERVAL)?;
            self.check_timeout()?;
        }
        Ok(())
    }

    /// Waits until the guest runs on the destination.
    fn wait_for_arrival(&mut self) -> Result<()> {
        let deadline = Instant::now() + ARRIVAL_PATIENCE;
        loop {
            let status = self.let_arrive()?;
            self.collect(EVENT_INTERVAL)?;
            let runs = self.events.iter().any(|o| o.side == Side::Destination && o.event.name == "RESUME");
            // In postcopy the guest runs long before its memory is there.
            if runs && status["status"] == "completed" {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the source has completed, but the guest does not run on the destination: {status}");
            }
        }
    }

    /// Lets the guest run on the destination if it waits there: because the destination was started so, or because the guest
    /// was suspended on the source to let the migration end. Returns the destination's `query-migrate`.
    fn let_arrive(&mut self) -> Result<Value> {
        let status = self.destination.execute("query-migrate", json!({}))?;
        let waits = !self.arrived
            && match status["status"].as_str() {
                Some("completed") if self.migration.paused_destination => true,
                Some("completed" | "postcopy-active") => is_paused(self.destination)?,
                _ => false,
            };
        if waits {
            self.arrived = true;
            self.stop_disk_server()?;
            self.destination.execute("cont", json!({}))?;
        }
        Ok(status)
    }

    fn stop_disk_server(&mut self) -> Result<()> {
        let servers = self.destination.execute("query-block-exports", json!({}))?;
        if servers.as_array().is_some_and(|exports| !exports.is_empty()) {
            self.destination.execute("nbd-server-stop", json!({}))?;
        }
        Ok(())
    }

    /// After a migration that did not complete, removes the mirror, so that the source can try again.
    fn drop_mirror(&mut self) -> Result<()> {
        if !self.disk {
            return Ok(());
        }
        let cancel = json!({ "device": MIRROR_JOB, "force": true });
        // The job may have ended already, together with the destination.
        if self.source.execute("block-job-cancel", cancel).is_ok() {
            while !self.saw_job("BLOCK_JOB_CANCELLED") && !self.saw_job("BLOCK_JOB_COMPLETED") {
                self.collect(EVENT_INTERVAL)?;
                self.check_timeout()?;
            }
        }
        self.source.execute("blockdev-del", json!({ "node-name": MIRROR_NODE }))?;
        Ok(())
    }

    fn saw_job(&self, name: &str) -> bool {
        self.events.iter().any(|o| o.event.name == name && o.event.data["device"] == MIRROR_JOB)
    }

    fn fail_if_job_failed(&self) -> Result<()> {
        let failed = self.events.iter().find(|observed| {
            observed.event.name == "BLOCK_JOB_ERROR" || observed.event.data["error"].is_string()
        });
        match failed {
            Some(observed) => bail!("the copy of the disk failed: {}", observed.event.data),
            None => Ok(()),
        }
    }

    /// Collects the events of both sides. Waits for one of the source's up to `patience`.
    fn collect(&mut self, patience: Duration) -> Result<()> {
        let mut patience = patience;
        while let Some(event) = self.source.next_event(patience).context("the source's QEMU")? {
            patience = Duration::ZERO;
            match event.name.as_str() {
                "MIGRATION" => {
                    if let Some(status) = event.data["status"].as_str() {
                        self.status = status.into();
                    }
                }
                "MIGRATION_PASS" => self.pass = event.data["pass"].as_u64().unwrap_or(self.pass),
                _ => {}
            }
            self.events.push(ObservedEvent { side: Side::Source, event });
        }
        loop {
            match self.destination.next_event(Duration::ZERO) {
                Ok(Some(event)) => self.events.push(ObservedEvent { side: Side::Destination, event }),
                Ok(None) => break,
                // A destination that gives up ends. The source will report what that means.
                Err(QmpError::Closed(_)) if self.status != "completed" => break,
                Err(error) => return Err(error).context("the destination's QEMU"),
            }
        }
        Ok(())
    }

    fn progress_is_due(&mut self) -> bool {
        let due = self.last_progress.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL);
        if due {
            self.last_progress = Some(Instant::now());
        }
        due
    }

    fn report(&mut self, remaining_bytes: u64, transferred_bytes: u64) -> Action {
        (self.progress)(&Progress {
            elapsed: self.started.elapsed(),
            status: &self.status,
            pass: self.pass,
            remaining_bytes,
            transferred_bytes,
        })
    }

    fn check_timeout(&self) -> Result<()> {
        if self.started.elapsed() > self.migration.timeout {
            let seconds = self.migration.timeout.as_secs_f32();
            bail!("the migration has not ended after {seconds} s: {}, pass {}", self.status, self.pass);
        }
        Ok(())
    }
}

/// Whether a guest waits for `cont`.
fn is_paused(qemu: &mut Qmp) -> Result<bool> {
    Ok(qemu.execute("query-status", json!({}))?["status"] == "paused")
}
