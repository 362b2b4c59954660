//! What libvirt says of a migration, beside what was measured, and why the two differ.

use super::content::{Column, NONE, Piece, Section, UNKNOWN, clean, left, right, said, side, table};
use super::quantities::{bytes, duration, estimate, rate};
use super::traffic_of::{self, Carried};
use super::wall_clocks;
use crate::record::{Estimate, LibvirtClaims, Mode, PhaseName, Record, Role};
use crate::vocabulary::LIBVIRT_FIGURES;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// One of libvirt's figures.
struct Figure {
    /// As virsh prints it.
    name: &'static str,
    by_libvirt: String,
    measured: String,
    why: String,
}

/// The table's columns, from left to right.
const COLUMNS: [Column<Figure>; 3] = [
    left(LIBVIRT_FIGURES, |figure| figure.name.to_owned()),
    right("libvirt", |figure| figure.by_libvirt.clone()),
    right("Measured", |figure| figure.measured.clone()),
];

/// None when libvirt was not asked, or could not say.
pub(super) fn section(record: &Record) -> Option<Section> {
    let libvirt = record.libvirt.as_ref()?;
    let figures = Figures { record, libvirt }.all();
    let from = format!("{} ({}). Why they differ:", clean(&libvirt.host), side(libvirt.role.into()));
    let mut pieces = vec![Piece::Space, Piece::Table(table(&COLUMNS, &figures)), said("  From ", from)];
    pieces.extend(figures.iter().map(|figure| Piece::Item(format!("{}: {}", figure.name, figure.why))));
    Some(Section::untitled(pieces))
}

struct Figures<'a> {
    record: &'a Record,
    libvirt: &'a LibvirtClaims,
}

impl Figures<'_> {
    /// Those that libvirt gave.
    fn all(&self) -> Vec<Figure> {
        let all = [
            self.time_elapsed(),
            self.downtime(),
            self.downtime_without_network(),
            self.setup_time(),
            self.memory(),
            self.bandwidth(),
            self.iteration(),
            self.postcopy_requests(),
            self.disk(),
        ];
        all.into_iter().flatten().collect()
    }

    fn stat(&self, name: &str) -> Option<u64> {
        self.libvirt.stats.get(name).copied()
    }

    fn ms(&self, name: &str) -> Option<String> {
        Some(duration(self.stat(name)?.saturating_mul(NS_PER_MS)))
    }

    fn is_postcopy(&self) -> bool {
        self.record.migration.mode == Mode::Postcopy
    }

    fn time_elapsed(&self) -> Option<Figure> {
        let end = match (self.libvirt.role, self.is_postcopy()) {
            (Role::Source, false) => "ends when the source has heard that the guest runs at the destination",
            (Role::Source, true) => "ends when the source has heard that all memory is at the destination",
            (Role::Destination, _) => "ends when the guest runs here, by this host's wall clock",
        };
        let begin = if self.record.phases.iter().any(|phase| phase.name == PhaseName::DiskSync) {
            "the disk copy's first packet"
        } else {
            "QEMU's setup"
        };
        Some(Figure {
            name: "Time elapsed",
            by_libvirt: self.ms("time_elapsed")?,
            measured: estimated(self.record.total_time.as_ref()),
            why: format!(
                "libvirt's begins before the destination's QEMU is started, and {end}; the measured time goes from \
                 {begin} to the end that QEMU reported"
            ),
        })
    }

    fn downtime(&self) -> Option<Figure> {
        let why = if self.is_postcopy() {
            "in post-copy libvirt takes QEMU's own figure, which ends at the source before the guest runs at the \
             destination"
                .to_owned()
        } else {
            format!(
                "libvirt's goes from when the source's libvirt has read STOP until QEMU has answered `cont` to the \
                 destination's, in whole ms; {}",
                wall_clocks::difference(self.record)
            )
        };
        Some(Figure {
            name: "Total downtime",
            by_libvirt: self.ms("downtime")?,
            measured: estimated(self.record.downtime.stop.as_ref()),
            why,
        })
    }

    fn downtime_without_network(&self) -> Option<Figure> {
        let (with, without) = (self.stat("downtime")?, self.stat("downtime_net")?);
        let taken = duration(with.saturating_sub(without).saturating_mul(NS_PER_MS));
        Some(Figure {
            name: "Downtime w/o network",
            by_libvirt: self.ms("downtime_net")?,
            measured: NONE.to_owned(),
            why: format!(
                "libvirt takes away {taken}: how long its own last message was on its way to the destination, by the wall \
                 clocks of both. The guest was gone meanwhile, too"
            ),
        })
    }

    fn setup_time(&self) -> Option<Figure> {
        Some(Figure {
            name: "Setup time",
            by_libvirt: self.ms("setup_time")?,
            measured: estimated(self.record.setup_time.as_ref()),
            why: "QEMU's own figure, in whole ms; the measured time goes from QEMU's event `setup` to its first `active`"
                .to_owned(),
        })
    }

    fn memory(&self) -> Option<Figure> {
        let carried = traffic_of::memory(self.record);
        let more = carried.as_ref().map(Carried::beside_content).unwrap_or_default();
        Some(Figure {
            name: "Memory processed",
            by_libvirt: bytes(self.stat("memory_processed")?),
            measured: payload(carried.as_ref()),
            why: format!(
                "libvirt has it from QEMU, which counts what it writes of the memory; the measured payload also has the \
                 state of the devices{more}"
            ),
        })
    }

    fn bandwidth(&self) -> Option<Figure> {
        let measured = traffic_of::memory(self.record).and_then(|carried| {
            let first = self.record.phases.iter().find(|phase| phase.name == PhaseName::Active)?;
            let time_ns = self.record.phases.last()?.end_ns.checked_sub(first.start_ns)?;
            rate(carried.payload_bytes, u64::try_from(time_ns).ok()?)
        });
        Some(Figure {
            name: "Memory bandwidth",
            by_libvirt: rate(self.stat("memory_bps").filter(|rate| *rate > 0)?, NS_PER_S)?,
            measured: measured.unwrap_or_else(|| UNKNOWN.to_owned()),
            why:
                "QEMU's average since its setup; the measured one is of the payload since the first `active`"
                    .to_owned(),
        })
    }

    fn iteration(&self) -> Option<Figure> {
        let last_pass = self.record.phases.iter().filter_map(|phase| phase.pass).max();
        Some(Figure {
            name: "Iteration",
            by_libvirt: self.stat("memory_iteration")?.to_string(),
            measured: last_pass.map_or_else(|| UNKNOWN.to_owned(), |pass| format!("pass {pass}")),
            why: "QEMU also counts the pass after the guest has stopped; the measured one is the last while it ran"
                .to_owned(),
        })
    }

    fn postcopy_requests(&self) -> Option<Figure> {
        Some(Figure {
            name: "Postcopy requests",
            by_libvirt: self.stat("memory_postcopy_requests").filter(|_| self.is_postcopy())?.to_string(),
            measured: NONE.to_owned(),
            why: "how often the guest has waited at the destination for a page; that is not measured"
                .to_owned(),
        })
    }

    /// Only libvirt at the source has seen the disks.
    fn disk(&self) -> Option<Figure> {
        let carried = traffic_of::disk(self.record);
        let is_copied = |processed: &u64| *processed > 0 || carried.is_some();
        let processed = self.stat("disk_processed").filter(|_| self.libvirt.role == Role::Source)?;
        let more = carried.as_ref().map(Carried::beside_content).unwrap_or_default();
        Some(Figure {
            name: "File processed",
            by_libvirt: bytes(Some(processed).filter(is_copied)?),
            measured: payload(carried.as_ref()),
            why: format!(
                "libvirt counts the content of the disks; the measured payload also has NBD's headers{more}"
            ),
        })
    }
}

fn estimated(length: Option<&Estimate>) -> String {
    length.map_or_else(|| UNKNOWN.to_owned(), estimate)
}

fn payload(carried: Option<&Carried>) -> String {
    carried.map_or_else(|| UNKNOWN.to_owned(), |carried| format!("{} payload", bytes(carried.payload_bytes)))
}
