//! Both ends of a migration of a guest without an operating system.

use crate::bare_qemu::BareQemu;
use crate::guest;
use crate::host::Host;
use crate::migration::{self, Action, Migrated, Migration, Progress};
use crate::nbd::NbdDisk;
use crate::qemu::QemuProgram;
use anyhow::Result;

/// A guest without an operating system.
#[derive(Debug)]
pub struct BareGuest<'a> {
    /// QEMU's `-name`, of which the `-uuid` is made.
    pub name: &'a str,
    /// How much of its memory holds random bytes, in MiB.
    pub filled_mib: usize,
    /// Which QEMU runs it.
    pub program: QemuProgram,
    /// The disk from which it boots, and which it then reads and writes.
    pub disk: Option<&'a NbdDisk>,
}

impl BareGuest<'_> {
    /// QEMU's `-uuid`.
    pub(crate) fn uuid(&self) -> String {
        guest::uuid(self.name)
    }
}

/// A QEMU with a guest, and one that waits for it. Dropping this kills both.
#[derive(Debug)]
pub struct BarePair {
    /// The QEMU with the guest.
    pub source: BareQemu,
    /// The one that waits.
    pub destination: BareQemu,
    to: Host,
}

impl BarePair {
    /// Starts both. The migration must be the one that comes.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`], and when QEMU refuses an option of the migration.
    pub fn start(from: &Host, to: &Host, guest: &BareGuest<'_>, migration: &Migration) -> Result<Self> {
        let source = BareQemu::start_guest(from, guest, &[])?;
        let waiting: &[_] = if migration.paused_destination {
            &["-incoming", "defer", "-S"]
        } else {
            &["-incoming", "defer"]
        };
        let mut destination = BareQemu::start_guest(to, guest, waiting)?;
        migration::prepare(destination.qmp(), migration, false)?;
        Ok(Self { source, destination, to: to.clone() })
    }

    /// Moves the guest. `progress` is called again and again, and decides whether the migration goes on.
    ///
    /// # Errors
    ///
    /// When it cannot begin, takes too long, or loses the guest.
    pub fn migrate_with(
        &mut self,
        migration: &Migration,
        mut progress: impl FnMut(&Progress<'_>) -> Action,
    ) -> Result<Migrated> {
        let peer = migration.address_at(&self.to);
        let (source, destination) = (self.source.qmp(), self.destination.qmp());
        migration::drive(source, destination, peer, false, migration, &mut progress)
    }

    /// Moves the guest.
    ///
    /// # Errors
    ///
    /// As [`BarePair::migrate_with`].
    pub fn migrate(&mut self, migration: &Migration) -> Result<Migrated> {
        self.migrate_with(migration, |_| Action::Continue)
    }
}
