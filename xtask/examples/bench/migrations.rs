//! How exactly the stop of a migration is measured when both hosts' logs are merged, on links of several kinds.
//!
//! Both hosts of the lab have the same clock, so the true difference of their clocks is 0. The driver of the migration is
//! connected to both QEMUs, so it knows between which instants each said STOP and RESUME.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use migtrace_lab::{Builder, Lab, Migrated, Migration, Outcome, QmpEvent, Side};
use serde::Serialize;
use serde_json::Value;

use crate::report::table;
use crate::statistics::Spread;

/// How often the guest is migrated over each kind of link.
const MIGRATIONS: u32 = 7;
/// A destination's recording waits for the guest to run.
const PATIENCE: Duration = Duration::from_secs(90);

/// A kind of link between the hosts.
struct Link {
    name: &'static str,
    lab: fn(Builder) -> Builder,
    /// Of a thousand packets, so many are lost.
    lost_per_mille: u32,
    /// Whether a thread spins on each CPU meanwhile, and takes half of it.
    is_busy: bool,
}

const LINKS: [Link; 8] = [
    Link { name: "not limited", lab: |lab| lab, lost_per_mille: 0, is_busy: false },
    Link { name: "not limited, busy CPUs", lab: |lab| lab, lost_per_mille: 0, is_busy: true },
    Link { name: "1 Gbit/s", lab: |lab| lab.rate("1gbit"), lost_per_mille: 0, is_busy: false },
    Link { name: "400 Mbit/s", lab: |lab| lab.rate("400mbit"), lost_per_mille: 0, is_busy: false },
    Link { name: "400 Mbit/s, busy CPUs", lab: |lab| lab.rate("400mbit"), lost_per_mille: 0, is_busy: true },
    Link { name: "400 Mbit/s, 1 % lost", lab: |lab| lab.rate("400mbit"), lost_per_mille: 10, is_busy: false },
    Link {
        name: "no GSO, no GRO",
        lab: |lab| lab.sender_offloads(false).receiver_gro(false),
        lost_per_mille: 0,
        is_busy: false,
    },
    Link { name: "no GSO, GRO", lab: |lab| lab.sender_offloads(false), lost_per_mille: 0, is_busy: false },
];

/// The migrations over one kind of link.
#[derive(Serialize)]
pub(crate) struct Row {
    link: &'static str,
    migrations: usize,
    /// By how much the clock of the other host was estimated wrongly, when the guest moved.
    clock_error_ns: Spread,
    /// Half the width of the clock's bounds.
    clock_bounds_ns: Spread,
    /// Migrations whose true difference of the clocks lies outside of the bounds.
    clock_outside: usize,
    /// From STOP to RESUME: how far the length is from the true one.
    stop_error_ns: Spread,
    /// The width of its bounds.
    stop_bounds_ns: Spread,
    /// Migrations whose true length lies outside of the bounds.
    stop_outside: usize,
    /// How far QEMU's own `downtime` is from the true length.
    qemu_error_ns: Spread,
}

/// What was measured of one migration, and the truth.
struct Measured {
    clock: [i64; 3],
    /// Value and lower bound of the time from STOP to RESUME.
    stop: [u64; 2],
    /// Its upper bound; none where a stamp of QEMU's was not plausible, because the wall clock was set.
    stop_high: Option<u64>,
    /// Its true length lies between these.
    truth: (u64, u64),
    qemu_ns: u64,
}

/// Migrates guests over each kind of link.
pub(crate) fn measure() -> Result<Vec<Row>> {
    LINKS.iter().map(row).collect()
}

fn row(link: &Link) -> Result<Row> {
    eprintln!("{MIGRATIONS} migrations over a link: {}", link.name);
    let builder = (link.lab)(Lab::builder().memory_mib(192).dirty(24, 20));
    let mut lab = builder.start().context("cannot make the lab")?;
    lab.wait_guest_ready()?;
    if link.lost_per_mille > 0 {
        lab.drop_packets(link.lost_per_mille)?;
    }
    let is_over = AtomicBool::new(false);
    let measured = thread::scope(|scope| {
        for _ in 0..if link.is_busy { thread::available_parallelism().map_or(1, usize::from) } else { 0 } {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let measured = (0..MIGRATIONS).map(|_| migration(&mut lab)).collect::<Result<Vec<_>>>();
        is_over.store(true, Ordering::Relaxed);
        measured
    })?;
    Ok(summary(link.name, &measured))
}

fn migration(lab: &mut Lab) -> Result<Measured> {
    let source = Recording::start(lab.guest_host(), &[])?;
    let destination = Recording::start(lab.other_host(), &[])?;
    let migrated = lab.migrate(&Migration::default())?;
    if migrated.outcome != Outcome::Completed {
        bail!("a migration ended otherwise: {:?}", migrated.outcome);
    }
    let logs = [source.finish(PATIENCE)?, destination.finish(PATIENCE)?];
    let logs = logs.each_ref().map(Recorded::events_path);
    let merged = migtrace_command::merge(&[&logs[0], &logs[1]])?;
    if merged.code != Some(0) {
        bail!("{}", merged.stderr);
    }
    measured(&serde_json::from_str(&merged.stdout)?, &migrated).context("the record lacks a figure")
}

fn measured(record: &Value, migrated: &Migrated) -> Option<Measured> {
    let alignment = &record["observers"][1]["alignment"];
    let clock = ["offset_ns", "low_ns", "high_ns"].map(|name| alignment[name].as_i64());
    let parts = record["downtime"]["parts"].as_array()?;
    let sum = |name: &str| parts.iter().map(|part| part["length"][name].as_u64()).sum::<Option<u64>>();
    let offset_ns = record["observers"][0]["clock"]["offset_ns"].as_i64()?;
    let built_ns = |event: &QmpEvent| event.built_ns(offset_ns).cast_unsigned();
    let (stop, resume) =
        (migrated.event(Side::Source, "STOP")?, migrated.event(Side::Destination, "RESUME")?);
    Some(Measured {
        clock: [clock[0]?, clock[1]?, clock[2]?],
        stop: [sum("value_ns")?, sum("low_ns")?],
        stop_high: sum("high_ns"),
        // QEMU stamps in whole microseconds just before it writes, and the driver just after.
        truth: (
            built_ns(resume).saturating_sub(stop.received_ns),
            resume.received_ns.saturating_sub(built_ns(stop)),
        ),
        qemu_ns: migrated.qemu_downtime_ms()? * 1_000_000,
    })
}

fn summary(link: &'static str, all: &[Measured]) -> Row {
    let spread = |figure: &dyn Fn(&Measured) -> u64| Spread::of(all.iter().map(|one| figure(one) as f64));
    let count = |is_outside: &dyn Fn(&Measured) -> bool| all.iter().filter(|one| is_outside(one)).count();
    let true_ns = |one: &Measured| one.truth.0.midpoint(one.truth.1);
    Row {
        link,
        migrations: all.len(),
        clock_error_ns: spread(&|one| one.clock[0].unsigned_abs()),
        clock_bounds_ns: spread(&|one| one.clock[2].abs_diff(one.clock[1]) / 2),
        clock_outside: count(&|one| one.clock[1] > 0 || one.clock[2] < 0),
        stop_error_ns: spread(&|one| one.stop[0].abs_diff(true_ns(one))),
        stop_bounds_ns: Spread::of(all.iter().filter_map(|one| Some((one.stop_high? - one.stop[1]) as f64))),
        stop_outside: count(&|one| {
            one.stop[1] > one.truth.1 || one.stop_high.is_some_and(|high| high < one.truth.0)
        }),
        qemu_error_ns: spread(&|one| one.qemu_ns.abs_diff(true_ns(one))),
    }
}

/// The table of all links.
pub(crate) fn show(rows: &[Row], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "\nMigrations between two hosts with one clock, recorded by both, and merged. The clock of the other host, when \
         the guest moved; and the time from STOP to RESUME, against what the driver of the migration saw:\n"
    )?;
    let mut table = table([
        "link",
        "migrations",
        "clock: error",
        "clock: bounds",
        "outside",
        "stop: error",
        "stop: width of bounds",
        "outside",
        "QEMU's downtime: error",
    ]);
    for row in rows {
        table.add_row([
            row.link.to_owned(),
            row.migrations.to_string(),
            microseconds(row.clock_error_ns),
            format!("± {}", microseconds(row.clock_bounds_ns)),
            row.clock_outside.to_string(),
            microseconds(row.stop_error_ns),
            microseconds(row.stop_bounds_ns),
            row.stop_outside.to_string(),
            format!("{:.2} ms", row.qemu_error_ns.median / 1e6),
        ]);
    }
    writeln!(f, "{table}")
}

fn microseconds(spread: Spread) -> String {
    format!("{:.1} µs", spread.median / 1e3)
}
