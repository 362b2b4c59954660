//! The machine of a study.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::Options;

/// What the programs need beside the memory of the guest, which both hosts have.
const OTHER_MIB: u64 = 1024;

/// Checks that this machine can be both hosts of a guest that fills this much memory.
///
/// # Errors
/// When it has too little memory.
pub(super) fn check_memory(filled_mib: u64) -> Result<()> {
    let available_mib = meminfo_mib("MemAvailable")?;
    let needed_mib = 2 * filled_mib + OTHER_MIB;
    if available_mib < needed_mib {
        bail!(
            "the largest guest needs {needed_mib} MiB of this machine, which is both of its hosts, and {available_mib} MiB are \
             available: use a smaller --scale, or leave it out with --only"
        );
    }
    Ok(())
}

/// Keeps what a reader of the answer needs to know about this machine. A study that goes on was begun earlier.
///
/// # Errors
/// When the file cannot be written, or QEMU cannot be found or downloaded.
pub(super) fn keep(path: &Path, options: &Options) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let qemu = options.qemu.path()?;
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let about = json!({
        "begun": first_line("date", &["--utc", "--iso-8601=seconds"]),
        "scale": options.scale,
        "cpu": model.map(|(_, model)| model),
        "cpus": thread::available_parallelism().context("cannot count the CPUs")?,
        "memory_mib": meminfo_mib("MemTotal")?,
        "kernel": first_line("uname", &["--kernel-release"]),
        "qemu": first_line(&qemu.display().to_string(), &["--version"]),
        "migtrace": env!("CARGO_PKG_VERSION"),
        "commit": first_line("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"]),
    });
    fs::write(path, format!("{about:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// The first line that a program prints; none if it is missing or fails.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(Into::into)
}

fn meminfo_mib(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("/proc/meminfo has no {name}"))? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_this_machine_cannot_hold_twice_is_refused() {
        check_memory(1).unwrap();
        let error = check_memory(1 << 40).unwrap_err().to_string();
        assert!(error.contains("--scale"), "{error}");
    }
}
