//! What a tracer is to watch.

use std::path::PathBuf;
use std::time::Duration;

use crate::kernel::Settings;

/// What a [`Tracer`](super::Tracer) is to watch.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub(super) settings: Settings,
    pub(super) interfaces: Vec<String>,
    pub(super) qemu_binaries: Vec<PathBuf>,
    pub(super) sleep_after: Option<Duration>,
}

impl Builder {
    /// Configures the kernel programs.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Counts at these interfaces instead of every Ethernet interface that has an address of its own.
    #[must_use]
    pub fn interfaces(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.interfaces.extend(names);
        self
    }

    /// Sleeps when there has been no sign of a migration for this long: then nothing is attached where much happens. A
    /// connection to a watched port wakes it up. Without this, it never sleeps.
    #[must_use]
    pub const fn sleep_after(mut self, quiet: Duration) -> Self {
        self.sleep_after = Some(quiet);
        self
    }

    /// Takes every process that runs one of these files for a QEMU, whoever owns the file. The files are identified by
    /// device and inode as they are at the start. Without this, a process is a QEMU if its executable has a QEMU's name
    /// and only root can have put it there.
    #[must_use]
    pub fn qemu_binaries(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.qemu_binaries.extend(paths);
        self
    }
}
