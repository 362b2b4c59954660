//! The guests of the study of 2014, and what was measured with them.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use migtrace_lab::QemuProgram;

/// A size of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Flavour {
    T,
    S,
    M,
    L,
    Xl,
}

/// Where a guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Storage {
    /// Each host has its own, and a migration copies the disk
    Block,
    /// Both hosts reach it
    Shared,
}

impl Storage {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Shared => "shared",
        }
    }
}

/// Which QEMU runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Qemu {
    /// The newer one of Debian's backports, which is downloaded but not installed
    Backports,
    /// The one that is installed; before 9.0, large emulated guests stand still for seconds when their migration begins
    Installed,
}

impl Qemu {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Backports => "backports",
            Self::Installed => "installed",
        }
    }

    /// Its program.
    ///
    /// # Errors
    /// When it is not there, and cannot be downloaded.
    pub(super) fn path(self) -> Result<PathBuf> {
        let program = match self {
            Self::Backports => QemuProgram::of_backports(),
            Self::Installed => QemuProgram::installed(),
        };
        Ok(program?.path().to_owned())
    }
}

/// A guest in its full size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
    pub(super) disk_gib: u64,
}

/// What was measured in 2014.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) storage: Storage,
    pub(super) load: &'static str,
    pub(super) time_s: f64,
    pub(super) downtime_s: f64,
    /// In units of 10^6 bytes.
    pub(super) data_mb: Option<u32>,
}

const fn block(load: &'static str, time_s: f64, downtime_s: f64, data_mb: u32) -> Measured {
    Measured { storage: Storage::Block, load, time_s, downtime_s, data_mb: Some(data_mb) }
}

/// The figures of the sequel, whose guests were unloaded.
const fn shared(time_s: f64, downtime_s: f64) -> Measured {
    Measured { storage: Storage::Shared, load: "unloaded", time_s, downtime_s, data_mb: None }
}

impl Flavour {
    pub(super) const ALL: [Self; 5] = [Self::T, Self::S, Self::M, Self::L, Self::Xl];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::T => "t",
            Self::S => "s",
            Self::M => "m",
            Self::L => "l",
            Self::Xl => "xl",
        }
    }

    pub(super) const fn size(self) -> Size {
        let (vcpus, memory_mib, disk_gib) = match self {
            Self::T => (1, 512, 1),
            Self::S => (1, 2048, 20),
            Self::M => (2, 4096, 40),
            Self::L => (4, 8192, 80),
            Self::Xl => (8, 16384, 120),
        };
        Size { vcpus, memory_mib, disk_gib }
    }

    pub(super) const fn measured(self) -> [Measured; 3] {
        match self {
            Self::T => [block("unloaded", 9.4, 3.0, 468), block("loaded", 9.6, 4.2, 468), shared(4.9, 0.7)],
            Self::S => {
                [block("unloaded", 20.5, 5.4, 760), block("loaded", 29.9, 18.6, 760), shared(5.6, 0.7)]
            }
            Self::M => {
                [block("unloaded", 25.4, 6.8, 1030), block("loaded", 30.1, 17.9, 1030), shared(7.0, 0.8)]
            }
            Self::L => {
                [block("unloaded", 24.1, 13.7, 1900), block("loaded", 84.4, 62.8, 8000), shared(9.6, 0.8)]
            }
            Self::Xl => {
                [block("unloaded", 37.5, 21.5, 3200), block("loaded", 152.3, 115.0, 14700), shared(15.3, 0.9)]
            }
        }
    }

    /// What an unloaded block migration of 2014 carried, in units of 10^6 bytes: most of it the disk.
    pub(super) fn unloaded_data_mb(self) -> u32 {
        let measured = self.measured();
        let unloaded =
            measured.iter().find(|figures| figures.load == "unloaded" && figures.data_mb.is_some());
        unloaded.and_then(|figures| figures.data_mb).unwrap_or_default()
    }
}
