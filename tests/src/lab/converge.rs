//! Makes a migration end that another process drives, as a person or a manager does who does not want to wait.

use super::names::{check_name, run_directory};
use super::run_state;
use crate::qemu::converge_qmp_socket;
use crate::qmp::{Qmp, QmpError};
use anyhow::{Result, bail};
use serde_json::json;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(50);

/// What to do with a migration that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convergence {
    /// The guest moves as soon as its disk has been copied, and its memory follows: `migrate-start-postcopy`. The migration
    /// must allow it.
    Postcopy,
    /// The guest stands still until it has moved: `stop` on the source, as `virsh migrate --timeout-suspend` does. The driver
    /// lets it run where it is afterwards.
    Suspend,
    /// The migration is given up, and the guest stays: `migrate_cancel`, and the end of the disk's copy.
    Abort,
}

/// Acts on the migration of a lasting lab that another process drives.
///
/// # Errors
///
/// When there is no such lab, when no migration runs in it, or when QEMU refuses.
pub fn converge(name: &str, action: Convergence) -> Result<()> {
    let (mut source, job) = loop {
        match find_source(name)? {
            None => bail!("no migration runs in a lab `{name}`"),
            // Only memory can follow the guest.
            Some((_, Some(_))) if action == Convergence::Postcopy => std::thread::sleep(POLL),
            Some(found) => break found,
        }
    };
    match (action, job) {
        (Convergence::Postcopy, _) => source.execute("migrate-start-postcopy", json!({}))?,
        (Convergence::Suspend, _) => source.execute("stop", json!({}))?,
        (Convergence::Abort, Some(job)) => {
            source.execute("block-job-cancel", json!({ "device": job, "force": true }))?
        }
        (Convergence::Abort, None) => source.execute("migrate_cancel", json!({}))?,
    };
    Ok(())
}

/// The QEMU that a guest is leaving, and the job that copies its disk first, while that is all it does.
fn find_source(name: &str) -> Result<Option<(Qmp, Option<String>)>> {
    check_name(name)?;
    for host in ["src", "dst"] {
        let mut qmp = match Qmp::connect(&converge_qmp_socket(&run_directory(name).join(host))) {
            Ok(qmp) => qmp,
            // No QEMU is or was there.
            Err(QmpError::Connect { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if run_state(&mut qmp)? == "inmigrate" {
            continue;
        }
        let migration = qmp.execute("query-migrate", json!({}))?;
        let running = ["setup", "active", "pre-switchover", "device", "postcopy-active"];
        if migration["status"].as_str().is_some_and(|status| running.contains(&status)) {
            return Ok(Some((qmp, None)));
        }
        let jobs = qmp.execute("query-block-jobs", json!({}))?;
        if let Some(job) = jobs[0]["device"].as_str().map(str::to_owned) {
            return Ok(Some((qmp, Some(job))));
        }
    }
    Ok(None)
}
