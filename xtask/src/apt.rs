//! Debian packages.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{progress, toolchain};

/// Whether packages can be installed with apt-get here (by root).
pub(crate) fn is_available() -> bool {
    toolchain::find_program("apt-get").is_some()
}

/// Installs `packages`, and asks the mirrors for their lists only if these are not known or are out of date.
///
/// # Errors
/// When a package is unknown to this machine's sources, or apt-get fails.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let what = format!("Installing {}", packages.join(" "));
    if !unknown(packages).is_empty() {
        update()?;
        let unknown = unknown(packages);
        if !unknown.is_empty() {
            bail!(
                "the package sources of this machine have no {} (they are in Debian 12's main and security archives)",
                unknown.join(", ")
            );
        }
    } else if progress::run(&what, "apt-get-install", &mut install_command(packages)).is_ok() {
        return Ok(());
    } else {
        // The usual reason is a list older than the mirror: the version it names is gone.
        update()?;
    }
    progress::run(&what, "apt-get-install", &mut install_command(packages))
}

/// How a person installs them.
pub(crate) fn by_hand(packages: &[String]) -> String {
    format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

fn update() -> Result<()> {
    progress::run("Updating the package lists", "apt-get-update", apt_get().arg("update"))
}

fn install_command(packages: &[String]) -> Command {
    let mut command = apt_get();
    // --no-remove: Debian's compiler conflicts with its other compilers and with its rustup; those are the person's.
    command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Somebody else may be installing: wait for them rather than fail.
    command.args(["-q", "-o", "DPkg::Lock::Timeout=600"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Those of `packages` of which the package lists offer no version.
fn unknown(packages: &[String]) -> Vec<&str> {
    let offered = |package: &String| {
        let policy = Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C")
            .stderr(Stdio::null())
            .output();
        policy.is_ok_and(|policy| {
            String::from_utf8_lossy(&policy.stdout)
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Candidate:"))
                .any(|candidate| candidate.trim() != "(none)")
        })
    };
    packages.iter().filter(|package| !offered(package)).map(String::as_str).collect()
}
