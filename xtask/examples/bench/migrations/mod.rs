//! How exactly the stop of a migration is measured when both hosts' logs are merged, on links of several kinds.
//!
//! Both hosts of the lab have the same clock, so the true difference of their clocks is 0. What drives the migration is
//! connected to both QEMUs and receives STOP and RESUME, with the stamps of both on that one clock.

mod libvirt;
mod links;
mod measured;
mod table;

use anyhow::{Context as _, Result, bail};
use migtrace_lab::Host;
use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

use crate::report::Machine;
use crate::statistics::Spread;
use measured::Measured;
pub(crate) use table::show;

/// A destination's recording waits for the guest to run.
const PATIENCE: Duration = Duration::from_secs(90);

/// The migrations of one kind.
#[derive(Serialize)]
pub(crate) struct Row {
    kind: String,
    migrations: usize,
    /// By how much the clock of the other host was estimated wrongly, when the guest moved.
    clock_error_ns: Spread,
    /// Half the width of the clock's bounds.
    clock_bounds_ns: Spread,
    /// Migrations whose true difference of the clocks lies outside of the bounds.
    clock_outside: usize,
    /// From STOP to RESUME: the true length.
    stop_ns: Spread,
    /// How far the measured length is from it.
    stop_error_ns: Spread,
    /// The width of its bounds.
    stop_bounds_ns: Spread,
    /// Migrations whose true length lies outside of the bounds.
    stop_outside: usize,
    /// How far QEMU's own `downtime` is from the true length.
    qemu_error_ns: Spread,
    /// How far libvirt's `Total downtime` is from it, where libvirt has driven the migration.
    libvirt_error_ns: Option<Spread>,
}

impl Row {
    fn of(kind: &str, all: &[Measured]) -> Self {
        let spread = |figure: &dyn Fn(&Measured) -> u64| Spread::of(all.iter().map(|one| figure(one) as f64));
        let count = |is_outside: &dyn Fn(&Measured) -> bool| all.iter().filter(|one| is_outside(one)).count();
        let libvirts: Vec<_> =
            all.iter().filter_map(|one| Some(one.off_by(one.libvirt_ns?) as f64)).collect();
        Self {
            kind: kind.to_owned(),
            migrations: all.len(),
            clock_error_ns: spread(&|one| one.clock.value.unsigned_abs()),
            clock_bounds_ns: spread(&|one| one.clock.width_ns() / 2),
            clock_outside: count(&|one| !one.clock.allows(0, 0)),
            stop_ns: spread(&|one| one.true_ns.unsigned_abs()),
            stop_error_ns: spread(&|one| one.off_by(one.stop.value)),
            stop_bounds_ns: spread(&|one| one.stop.width_ns()),
            stop_outside: count(&Measured::is_stop_outside),
            qemu_error_ns: spread(&|one| one.off_by(one.qemu_ns)),
            libvirt_error_ns: (!libvirts.is_empty()).then(|| Spread::of(libvirts)),
        }
    }
}

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    migrations: Vec<Row>,
}

/// Migrates guests over each kind of link, and by libvirt.
pub(crate) fn report() -> Result<Report> {
    let machine = Machine::read()?;
    Ok(Report { machine, migrations: measure()? })
}

/// As [`report`], without the machine.
pub(crate) fn measure() -> Result<Vec<Row>> {
    let mut rows = links::measure()?;
    rows.extend(libvirt::measure()?);
    Ok(rows)
}

/// The recordings of both hosts, which end by themselves.
struct Recordings([Recording; 2]);

impl Recordings {
    fn start(source: &Host, destination: &Host) -> Result<Self> {
        Ok(Self([Recording::start(source, &[])?, Recording::start(destination, &[])?]))
    }

    /// The record of both logs.
    fn merged(self) -> Result<Value> {
        let [source, destination] = self.0;
        let logs = [source.finish(PATIENCE)?, destination.finish(PATIENCE)?];
        let logs = logs.each_ref().map(Recorded::events_path);
        let merged = migtrace_command::merge(&[&logs[0], &logs[1]])?;
        if merged.code != Some(0) {
            bail!("the logs of both hosts cannot be merged: {}", merged.stderr);
        }
        serde_json::from_str(&merged.stdout).context("migtrace merge wrote no JSON")
    }
}
