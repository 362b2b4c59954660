//! The command as it is packaged: small, and for distributions with an older C library than this machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use migtrace_lab::{Download, ZIG_PROGRAMS};

use super::output;
use crate::{paths, progress};

pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Of the command as it is packaged.
pub(super) const FEATURES: &str = "silent-libraries";
/// The release of glibc that the command has to run with: that of RHEL 8, and older than Debian 10's successors.
const GLIBC: (u32, u32) = (2, 28);
const MOST_BYTES: u64 = 8 << 20;

/// Builds the command.
///
/// # Errors
/// When it does not build.
pub(super) fn build() -> Result<PathBuf> {
    let [cargo_zigbuild, zig] = programs()?;
    let mut build = Command::new(cargo_zigbuild);
    build.current_dir(paths::root()).env("CARGO_ZIGBUILD_ZIG_PATH", zig);
    build.args(["zigbuild", "--locked", "--profile", "dist", "--package", "migtrace", "--bin", "migtrace"]);
    build.args(["--features", FEATURES, "--target"]);
    build.arg(format!("{TARGET}.{}.{}", GLIBC.0, GLIBC.1));
    progress::run("Building the command for the packages", "dist", &mut build)?;
    Ok(paths::target().join(TARGET).join("dist/migtrace"))
}

/// What links it.
///
/// # Errors
/// When it cannot be downloaded.
pub(super) fn zig() -> Result<PathBuf> {
    programs().map(|[_, zig]| zig)
}

fn programs() -> Result<[PathBuf; 2]> {
    let directory = Download::Zig.fetch()?;
    Ok(ZIG_PROGRAMS.map(|program| directory.join(program)))
}

/// Checks that the command is as small as it should be, and needs no newer C library than it may.
///
/// # Errors
/// When it is not so.
pub(super) fn check(binary: &Path) -> Result<()> {
    let bytes = fs::metadata(binary).with_context(|| format!("cannot look at {}", binary.display()))?.len();
    if bytes >= MOST_BYTES {
        bail!("{} has {bytes} bytes; it has to be below {MOST_BYTES}", binary.display());
    }
    let symbols = output(Command::new("objdump").arg("-T").arg(binary))?;
    let newest =
        glibc_needed(&symbols).context("the command needs no symbol of glibc: was it linked statically?")?;
    if newest > GLIBC {
        let ((major, minor), (may, be)) = (newest, GLIBC);
        bail!("{} needs glibc {major}.{minor}; it has to run with {may}.{be}", binary.display());
    }
    Ok(())
}

/// The newest release of glibc that one of these symbols came with.
fn glibc_needed(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut numbers = version.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_that_a_command_needs_is_found() {
        let symbols = "0000 DF *UND* 0000 (GLIBC_2.2.5) malloc\n0000 DF *UND* 0000  GLIBC_2.28   statx\n\
                       0000 DF *UND* 0000 (GLIBC_2.9)  pipe2\n";
        assert_eq!(glibc_needed(symbols), Some((2, 28)));
        assert_eq!(glibc_needed("0000 g DF .text 0000 main\n"), None);
    }
}
