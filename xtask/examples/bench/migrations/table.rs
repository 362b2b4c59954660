//! The table of all migrations.

use std::fmt;

use super::{Report, Row};
use crate::report::table;
use crate::statistics::Spread;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        show(&self.migrations, f)
    }
}

/// The table of all kinds.
pub(crate) fn show(rows: &[Row], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "\nMigrations between two hosts with one clock, recorded by both, and merged. The clock of the other host, when \
         the guest moved; and the time from STOP to RESUME, against the stamps of both QEMUs:\n"
    )?;
    let mut table = table([
        "link",
        "migrations",
        "error of the clock",
        "its bounds",
        "outside",
        "stop",
        "error of the stop",
        "width of its bounds",
        "outside",
        "error of QEMU's downtime",
        "error of libvirt's",
    ]);
    for row in rows {
        table.add_row([
            row.kind.clone(),
            row.migrations.to_string(),
            microseconds(row.clock_error_ns),
            format!("± {}", microseconds(row.clock_bounds_ns)),
            row.clock_outside.to_string(),
            milliseconds(row.stop_ns),
            microseconds(row.stop_error_ns),
            microseconds(row.stop_bounds_ns),
            row.stop_outside.to_string(),
            milliseconds(row.qemu_error_ns),
            row.libvirt_error_ns.map_or_else(String::new, milliseconds),
        ]);
    }
    writeln!(f, "{table}")
}

fn microseconds(spread: Spread) -> String {
    format!("{:.1} µs", spread.median / 1e3)
}

fn milliseconds(spread: Spread) -> String {
    format!("{:.2} ms", spread.median / 1e6)
}
