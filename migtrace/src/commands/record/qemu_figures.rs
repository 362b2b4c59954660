//! QEMU's own figures, from a second monitor (`--qmp`).

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use migtrace::event::Fact;
use migtrace::host::qmp::{self, Qmp, QmpError};
use migtrace::recorder::Recorder;
use migtrace::vocabulary::NotMeasured;
use serde_json::Value;

/// How many times QEMU is asked again for times that it has not computed yet.
const TIMES_RETRIES: u32 = 20;
/// How long to wait before each.
const TIMES_POLL: Duration = Duration::from_millis(5);

/// Asks QEMU for its own figures, once.
pub(super) struct QemuFigures {
    monitor: Qmp,
    pid: Option<u32>,
    asked: bool,
}

impl QemuFigures {
    /// Connects, and asks for the parameters now: at the end QEMU may be gone before it has answered.
    pub(super) async fn connect(path: &Path, recorder: &mut Recorder) -> Result<Self> {
        let mut monitor = Qmp::connect(path, qmp::DEFAULT_TIMEOUT).await?;
        let pid = monitor.peer_pid();
        if let Some(pid) = pid {
            let reply = monitor.query_migrate_parameters().await?;
            recorder.note(Fact::QueryMigrateParameters { pid, reply })?;
        }
        Ok(Self { monitor, pid, asked: false })
    }

    /// Asks QEMU for its figures, unless that was done before. If it cannot answer any more, that becomes a fact of the
    /// recording, not an error.
    pub(super) async fn ask_once(&mut self, recorder: &mut Recorder) -> Result<()> {
        if std::mem::replace(&mut self.asked, true) {
            return Ok(());
        }
        match self.figures().await {
            Ok((reply, parameters, events)) => {
                if events == Some(false) {
                    recorder.note(Fact::NotMeasured(NotMeasured {
                        what: "phases".into(),
                        why: "QEMU's migration capability `events` is off; set it with migrate-set-capabilities".into(),
                    }))?;
                }
                if let Some(pid) = self.pid.or_else(|| recorder.ended().and_then(|end| end.pid)) {
                    recorder.note(Fact::QueryMigrate { pid, reply })?;
                    recorder.note(Fact::QueryMigrateParameters { pid, reply: parameters })?;
                }
            }
            Err(error) => recorder.note(Fact::NotMeasured(NotMeasured {
                what: migtrace::report::text::OWN_FIGURES.into(),
                why: crate::commands::explain(&error.into()),
            }))?,
        }
        Ok(())
    }

    /// What QEMU reports of the migration, its parameters, and whether its migration capability `events` is on. Up to 7.2
    /// it reports `completed` a moment before it has computed the times.
    async fn figures(&mut self) -> Result<(Value, Value, Option<bool>), QmpError> {
        let mut reply = self.monitor.query_migrate().await?;
        for _ in 0..TIMES_RETRIES {
            if reply["status"] != "completed" || reply["total-time"] != 0 {
                break;
            }
            tokio::time::sleep(TIMES_POLL).await;
            reply = self.monitor.query_migrate().await?;
        }
        let parameters = self.monitor.query_migrate_parameters().await?;
        let capabilities = self.monitor.query_migrate_capabilities().await?;
        Ok((reply, parameters, capabilities.get("events").copied()))
    }
}

/// Keeps the monitor's queue empty. Never ends.
pub(super) async fn discard_events(figures: Option<&mut QemuFigures>) {
    match figures {
        Some(figures) => figures.monitor.discard_events().await,
        None => std::future::pending().await,
    }
}
