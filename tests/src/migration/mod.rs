//! One live migration: what to ask for, and everything that its driver saw.

use crate::clock::monotonic_ns;
use crate::host::Host;
use crate::nbd;
use crate::qemu::{DISK_NODE, Qemu};
use crate::qmp::{QmpError, QmpEvent};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often the driver asks for statistics; it sees events at once.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// How often it asks for the state when QEMU sends no events about it.
const STATE_INTERVAL: Duration = Duration::from_millis(20);
/// How long it waits for an event before it looks at the other side.
const EVENT_INTERVAL: Duration = Duration::from_millis(2);
/// From the source's last byte to the guest running at the destination.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(60);
/// libvirt's "unlimited", in bytes a second: the largest number that survives JSON.
const UNLIMITED: u64 = (1 << 53) - 1;
const MIRROR_NODE: &str = "mirror0";
const MIRROR_JOB: &str = "mirror-disk0";

/// What a migration is asked to be. The default is a plain precopy migration that sends events.
#[derive(Debug, Clone)]
pub struct Migration {
    /// QEMU sends `MIGRATION` and `MIGRATION_PASS` events.
    pub events: bool,
    /// The destination talks back: `completed` then comes only when the guest has arrived.
    pub return_path: bool,
    /// That many multifd channels beside the main one.
    pub multifd: Option<u8>,
    /// QEMU stops between the guest's stop and the switchover until the driver lets it go on.
    pub pause_before_switchover: bool,
    /// Switch to postcopy once this pass of dirty pages has begun.
    pub postcopy_at_pass: Option<u64>,
    /// A second channel for the pages that the guest waits for in postcopy (`postcopy-preempt`): they need not queue
    /// behind the others. Needs [`Migration::return_path`].
    pub postcopy_preempt: bool,
    /// The destination does not let the guest run before the driver says so.
    pub paused_destination: bool,
    /// The longest stop that QEMU aims for, in milliseconds.
    pub downtime_limit_ms: u64,
    /// QEMU's own limit of the stream, in bytes a second.
    pub max_bandwidth_bytes_per_s: u64,
    /// Over IPv6.
    pub ipv6: bool,
    /// Where the destination listens for the RAM stream.
    pub ram_port: u16,
    /// Where the destination listens for the copy of the disk, if there is one.
    pub disk_port: u16,
    /// The driver gives up after this time.
    pub timeout: Duration,
    /// The source's QEMU stays, with its stopped guest, until the next migration or the end of the lab.
    pub keep_source: bool,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            events: true,
            return_path: false,
            multifd: None,
            pause_before_switchover: false,
            postcopy_at_pass: None,
            postcopy_preempt: false,
            paused_destination: false,
            downtime_limit_ms: 300,
            max_bandwidth_bytes_per_s: UNLIMITED,
            ipv6: false,
            ram_port: 49152,
            disk_port: 49153,
            timeout: Duration::from_secs(300),
            keep_source: false,
        }
    }
}

impl Migration {
    /// As libvirt drives it: with events and the return path, a pause before the switchover, and a destination
    /// that waits for `cont`.
    #[must_use]
    pub fn like_libvirt() -> Self {
        Self { return_path: true, pause_before_switchover: true, paused_destination: true, ..Self::default() }
    }

    /// What must be so with a disk: the copy has to end between the stop and the switchover, and the destination
    /// must not open the disk while the copy still writes to it.
    pub(crate) fn for_disk(mut self, disk: bool) -> Self {
        if disk {
            self.pause_before_switchover = true;
            self.paused_destination = true;
        }
        self
    }
}

/// The two ends of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the guest was.
    Source,
    /// Where it went.
    Destination,
}

/// An event, and who sent it.
#[derive(Debug, Clone, Serialize)]
pub struct Observed {
    /// Who sent it.
    pub side: Side,
    /// The event.
    #[serde(flatten)]
    pub event: QmpEvent,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest runs at the destination.
    Completed,
    /// It failed; the guest runs at the source.
    Failed,
    /// The driver cancelled it; the guest runs at the source.
    Cancelled,
}

/// How far a migration is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Since the driver began.
    pub elapsed: Duration,
    /// QEMU's word for its state: `setup`, `active`...; `disk-sync` while the disk is copied ahead.
    pub status: &'a str,
    /// The pass of dirty pages: QEMU's `dirty-sync-count`.
    pub pass: u64,
    /// What is left of this pass, or of the disk, in bytes.
    pub remaining_bytes: u64,
    /// What has been sent, or copied of the disk, in bytes.
    pub transferred_bytes: u64,
}

/// What the driver shall do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Let the migration go on.
    #[default]
    Continue,
    /// Cancel it: `migrate_cancel`.
    Cancel,
    /// Switch to postcopy now; needs [`Migration::postcopy_at_pass`].
    StartPostcopy,
}

/// Everything that the driver of a migration saw. It is independent of what migtrace sees.
#[derive(Debug, Clone, Serialize)]
pub struct Migrated {
    /// How it ended.
    pub outcome: Outcome,
    /// Just before the first command that sends bytes: CLOCK_MONOTONIC, in nanoseconds.
    pub started_ns: u64,
    /// Just before the `migrate` command; the same unless a disk was copied ahead.
    pub migrate_ns: u64,
    /// When the driver knew that it had ended.
    pub ended_ns: u64,
    /// Every event of both sides, in the order in which the driver received them.
    pub events: Vec<Observed>,
    /// QEMU's `query-migrate` at the source, at the end.
    pub source: Value,
    /// QEMU's `query-migrate` at the destination, at the end; null unless completed.
    pub destination: Value,
}

impl Migrated {
    /// The first event of this name from this side.
    #[must_use]
    pub fn event(&self, side: Side, name: &str) -> Option<&QmpEvent> {
        self.of(side).find(|event| event.name == name)
    }

    /// The states of one side, in order, as its `MIGRATION` events have them.
    #[must_use]
    pub fn states(&self, side: Side) -> Vec<&str> {
        self.of(side)
            .filter(|event| event.name == "MIGRATION")
            .filter_map(|event| event.data["status"].as_str())
            .collect()
    }

    /// The number of the last pass that the source announced; 0 without events.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.of(Side::Source)
            .filter(|event| event.name == "MIGRATION_PASS")
            .filter_map(|event| event.data["pass"].as_u64())
            .max()
            .unwrap_or(0)
    }

    /// QEMU's own downtime, in milliseconds.
    #[must_use]
    pub fn qemu_downtime_ms(&self) -> Option<u64> {
        self.source["downtime"].as_u64()
    }

    /// From the source's STOP to the destination's RESUME, as the driver received them, in nanoseconds.
    #[must_use]
    pub fn stop_to_resume_ns(&self) -> Option<u64> {
        let stop = self.event(Side::Source, "STOP")?.received_ns;
        self.event(Side::Destination, "RESUME")?.received_ns.checked_sub(stop)
    }

    fn of(&self, side: Side) -> impl Iterator<Item = &QmpEvent> {
        self.events.iter().filter(move |observed| observed.side == side).map(|observed| &observed.event)
    }
}

/// Makes a destination ready to receive: capabilities, parameters, the disk's export, the listening port.
pub(crate) fn prepare(destination: &mut Qemu, migration: &Migration, disk: bool) -> Result<()> {
    configure(destination, migration)?;
    if disk {
        let any = if migration.ipv6 { "::" } else { "0.0.0.0" };
        nbd::export(destination.qmp(), DISK_NODE, any, migration.disk_port)?;
    }
    let uri = match (migration.ipv6, migration.ram_port) {
        (false, port) => format!("tcp:0:{port}"),
        (true, port) => format!("tcp:[::]:{port}"),
    };
    destination.qmp().execute("migrate-incoming", json!({ "uri": uri }))?;
    Ok(())
}

/// Capabilities and parameters, which both sides must agree on.
fn configure(qemu: &mut Qemu, migration: &Migration) -> Result<()> {
    let capabilities: Vec<Value> = [
        ("events", migration.events),
        ("return-path", migration.return_path),
        ("multifd", migration.multifd.is_some()),
        ("pause-before-switchover", migration.pause_before_switchover),
        ("postcopy-ram", migration.postcopy_at_pass.is_some() || migration.postcopy_preempt),
        ("postcopy-preempt", migration.postcopy_preempt),
    ]
    .iter()
    .map(|(capability, state)| json!({ "capability": capability, "state": state }))
    .collect();
    qemu.qmp().execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
    let mut parameters = json!({
        "downtime-limit": migration.downtime_limit_ms,
        "max-bandwidth": migration.max_bandwidth_bytes_per_s,
    });
    if let Some(channels) = migration.multifd {
        parameters["multifd-channels"] = channels.into();
    }
    qemu.qmp().execute("migrate-set-parameters", parameters)?;
    Ok(())
}

/// Drives a migration to its end, whatever the end is; both QEMUs still run then.
pub(crate) fn drive(
    source: &mut Qemu,
    destination: &mut Qemu,
    destination_host: &Host,
    disk: bool,
    migration: &Migration,
    progress: &mut dyn FnMut(&Progress<'_>) -> Action,
) -> Result<Migrated> {
    let peer: IpAddr =
        if migration.ipv6 { destination_host.ipv6().into() } else { destination_host.ipv4().into() };
    configure(source, migration)?;
    // What came before belongs to no migration, or to an earlier one.
    while source.qmp().next_event(Duration::ZERO)?.is_some() {}
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
        released: false,
        postcopy: false,
    };
    let result = driver.run(peer);
    if result.is_err() {
        // Nobody follows it any more. It may have ended already, or QEMU itself.
        let _ = driver.source.qmp().execute("migrate_cancel", json!({}));
    }
    result
}

struct Driver<'a> {
    source: &'a mut Qemu,
    destination: &'a mut Qemu,
    migration: &'a Migration,
    progress: &'a mut dyn FnMut(&Progress<'_>) -> Action,
    events: Vec<Observed>,
    started: Instant,
    last_progress: Option<Instant>,
    /// QEMU's word for the state of the source.
    status: String,
    pass: u64,
    /// The disk is still to be copied, or being copied.
    disk: bool,
    /// `migrate-continue` has been sent.
    released: bool,
    /// `migrate-start-postcopy` has been sent.
    postcopy: bool,
}

impl Driver<'_> {
    fn run(&mut self, peer: IpAddr) -> Result<Migrated> {
        let started_ns = monotonic_ns();
        let mut migrate_ns = started_ns;
        let outcome = if self.disk && !self.copy_disk(peer)? {
            Outcome::Cancelled
        } else {
            migrate_ns = monotonic_ns();
            let address = if self.migration.ipv6 { format!("[{peer}]") } else { peer.to_string() };
            let uri = format!("tcp:{address}:{}", self.migration.ram_port);
            self.source.qmp().execute("migrate", json!({ "uri": uri }))?;
            self.follow()?
        };
        let mut destination = Value::Null;
        if outcome == Outcome::Completed {
            self.arrive()?;
            destination = self.destination.qmp().execute("query-migrate", json!({}))?;
        } else {
            self.drop_mirror()?;
        }
        let ended_ns = monotonic_ns();
        self.collect(Duration::ZERO)?;
        let source = self.source.qmp().execute("query-migrate", json!({}))?;
        let events = std::mem::take(&mut self.events);
        Ok(Migrated { outcome, started_ns, migrate_ns, ended_ns, events, source, destination })
    }

    /// Copies the disk ahead, as libvirt does; false if the caller has cancelled.
    fn copy_disk(&mut self, peer: IpAddr) -> Result<bool> {
        self.status = String::from("disk-sync");
        let port = self.migration.disk_port.to_string();
        let target = json!({
            "driver": "nbd",
            "node-name": MIRROR_NODE,
            "server": { "type": "inet", "host": peer.to_string(), "port": port },
            "export": DISK_NODE,
        });
        self.source.qmp().execute("blockdev-add", target)?;
        let mirror =
            json!({ "job-id": MIRROR_JOB, "device": DISK_NODE, "target": MIRROR_NODE, "sync": "full" });
        self.source.qmp().execute("blockdev-mirror", mirror)?;
        while !self.saw_job("BLOCK_JOB_READY") {
            self.fail_if_job_failed()?;
            self.collect(EVENT_INTERVAL)?;
            self.check_timeout()?;
            if self.progress_is_due() {
                let jobs = self.source.qmp().execute("query-block-jobs", json!({}))?;
                let done = jobs[0]["offset"].as_u64().unwrap_or_default();
                let all = jobs[0]["len"].as_u64().unwrap_or_default();
                if self.report(all.saturating_sub(done), done) == Action::Cancel {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Follows the source to its final state.
    fn follow(&mut self) -> Result<Outcome> {
        let mut last_state = Instant::now();
        loop {
            self.collect(EVENT_INTERVAL)?;
            if !self.migration.events && last_state.elapsed() >= STATE_INTERVAL {
                last_state = Instant::now();
                let answer = self.source.qmp().execute("query-migrate", json!({}))?;
                self.take_statistics(&answer);
            }
            match self.status.as_str() {
                "completed" => return Ok(Outcome::Completed),
                "failed" => return Ok(Outcome::Failed),
                "cancelled" => return Ok(Outcome::Cancelled),
                "pre-switchover" if !self.released => self.release()?,
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
        let answer = self.source.qmp().execute("query-migrate", json!({}))?;
        if !self.migration.events {
            self.take_statistics(&answer);
        }
        let ram = &answer["ram"];
        self.pass = self.pass.max(ram["dirty-sync-count"].as_u64().unwrap_or_default());
        let number = |name: &str| ram[name].as_u64().unwrap_or_default();
        match self.report(number("remaining"), number("transferred")) {
            Action::Continue => {}
            Action::Cancel => {
                self.source.qmp().execute("migrate_cancel", json!({}))?;
            }
            Action::StartPostcopy => self.start_postcopy()?,
        }
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
            self.source.qmp().execute("migrate-start-postcopy", json!({}))?;
        }
        Ok(())
    }

    /// The guest is stopped: ends the copy of the disk, which is complete now, and lets QEMU switch over.
    fn release(&mut self) -> Result<()> {
        self.released = true;
        if self.disk {
            // For a mirror that is ready, this is not to give up but to complete.
            self.source.qmp().execute("block-job-cancel", json!({ "device": MIRROR_JOB }))?;
            while !self.saw_job("BLOCK_JOB_COMPLETED") {
                self.fail_if_job_failed()?;
                self.collect(EVENT_INTERVAL)?;
                self.check_timeout()?;
            }
            self.source.qmp().execute("blockdev-del", json!({ "node-name": MIRROR_NODE }))?;
            self.disk = false;
        }
        self.source.qmp().execute("migrate-continue", json!({ "state": "pre-switchover" }))?;
        Ok(())
    }

    /// Waits until the guest runs at the destination.
    fn arrive(&mut self) -> Result<()> {
        let deadline = Instant::now() + ARRIVAL_PATIENCE;
        let mut resumed = !self.migration.paused_destination;
        loop {
            let status = self.destination.qmp().execute("query-migrate", json!({}))?;
            if !resumed && matches!(status["status"].as_str(), Some("completed" | "postcopy-active")) {
                resumed = true;
                self.stop_disk_server()?;
                self.destination.qmp().execute("cont", json!({}))?;
            }
            self.collect(EVENT_INTERVAL)?;
            let runs = self.events.iter().any(|o| o.side == Side::Destination && o.event.name == "RESUME");
            // In postcopy the guest runs long before its memory is there.
            if runs && status["status"] == "completed" {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the source has completed, but the guest does not run at the destination: {status}");
            }
        }
    }

    fn stop_disk_server(&mut self) -> Result<()> {
        let servers = self.destination.qmp().execute("query-block-exports", json!({}))?;
        if servers.as_array().is_some_and(|exports| !exports.is_empty()) {
            self.destination.qmp().execute("nbd-server-stop", json!({}))?;
        }
        Ok(())
    }

    /// After a migration that did not complete, the source must be able to try again.
    fn drop_mirror(&mut self) -> Result<()> {
        if !self.disk {
            return Ok(());
        }
        let cancel = json!({ "device": MIRROR_JOB, "force": true });
        // The job may have ended by itself, together with the destination.
        if self.source.qmp().execute("block-job-cancel", cancel).is_ok() {
            while !self.saw_job("BLOCK_JOB_CANCELLED") && !self.saw_job("BLOCK_JOB_COMPLETED") {
                self.collect(EVENT_INTERVAL)?;
                self.check_timeout()?;
            }
        }
        self.source.qmp().execute("blockdev-del", json!({ "node-name": MIRROR_NODE }))?;
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

    /// Takes the events of both sides; waits for one of the source's up to `patience`.
    fn collect(&mut self, patience: Duration) -> Result<()> {
        let mut patience = patience;
        while let Some(event) = self.source.qmp().next_event(patience).context("the source's QEMU")? {
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
            self.events.push(Observed { side: Side::Source, event });
        }
        loop {
            match self.destination.qmp().next_event(Duration::ZERO) {
                Ok(Some(event)) => self.events.push(Observed { side: Side::Destination, event }),
                Ok(None) => break,
                // A destination that gives up ends itself; what that means, the source will say.
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
