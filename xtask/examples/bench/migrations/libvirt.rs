//! Migrations by `virsh migrate`, from one libvirtd to another.

use anyhow::{Context as _, Result};
use migtrace_lab::{Lab, LibvirtLab, LibvirtMigration};

use super::measured::Measured;
use super::{Recordings, Row};

/// A kind of migration, and how often the guest is migrated.
struct Kind {
    name: &'static str,
    migration: LibvirtMigration,
    migrations: u32,
}

const PRECOPY: LibvirtMigration = LibvirtMigration {
    peer_to_peer: true,
    parallel: None,
    postcopy: false,
    bandwidth_mib_per_s: None,
    tls: false,
};

const KINDS: [Kind; 2] = [
    Kind { name: "not limited, by libvirt, with a disk", migration: PRECOPY, migrations: 8 },
    Kind {
        name: "32 MiB/s, by libvirt, post-copy",
        // The guest dirties more in a pass than QEMU may send while it is stopped, so pre-copy does not end first.
        migration: LibvirtMigration { postcopy: true, bandwidth_mib_per_s: Some(32), ..PRECOPY },
        migrations: 6,
    },
];

/// Migrates a guest and its disk there and back.
pub(super) fn measure() -> Result<Vec<Row>> {
    let builder = Lab::builder().memory_mib(192).dirty(32, 40).disk_mib(24);
    let mut lab = builder.start_with_libvirt().context("cannot make the lab with libvirt")?;
    lab.wait_guest_ready()?;
    KINDS.iter().map(|kind| row(&mut lab, kind)).collect()
}

fn row(lab: &mut LibvirtLab, Kind { name, migration: of, migrations }: &Kind) -> Result<Row> {
    eprintln!("{migrations} migrations over a link: {name}");
    let measured = (0..*migrations).map(|_| migration(lab, of)).collect::<Result<Vec<_>>>()?;
    Ok(Row::of(name, &measured))
}

fn migration(lab: &mut LibvirtLab, migration: &LibvirtMigration) -> Result<Measured> {
    let recordings = Recordings::start(lab.guest_host(), lab.other_host())?;
    let migrated = lab.migrate(migration)?;
    let record = recordings.merged()?;
    let qemu_ms = migrated.qemu_downtime_ms().context("libvirtd has not asked QEMU for its downtime")?;
    let libvirt_ms = migrated.source.ms("Total downtime").context("libvirt reports no downtime")?;
    Measured::of(&record, &migrated.events, qemu_ms, Some(libvirt_ms))
}
