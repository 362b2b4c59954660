//! Runs the programs that the lab needs, with clear errors.

use anyhow::{Context as _, Result, anyhow, bail};
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Debian packages of the programs that the lab runs.
const PACKAGES: [(&str, &str); 10] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("xz", "xz-utils"),
];

/// Programs that only Debian and its derivatives have.
const DEBIAN: [&str; 3] = ["apt-get", "apt-cache", "dpkg"];

/// The path of a program, on `PATH` or in the directories that a user's `PATH` lacks.
///
/// # Errors
///
/// When it is not installed. The message names its package.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            if DEBIAN.contains(&program) {
                return anyhow!(
                    "the guest's kernel and libvirt are Debian packages, and there is no `{program}` here"
                );
            }
            let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, p)| p);
            anyhow!("the lab needs `{program}`: install it with `apt-get install {package}`")
        })
}

/// Runs a program until it ends and returns its standard output.
///
/// # Errors
///
/// When the program is missing or fails. The message has the command and its standard error.
pub(crate) fn run<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, arguments: I) -> Result<String> {
    let mut command = Command::new(find(program)?);
    command.args(arguments);
    output(&mut command, "")
}

/// Runs `ip` commands, one a line, inside the network namespace `netns`.
///
/// # Errors
///
/// When one of them fails. The message has that line and the error of `ip`.
pub(crate) fn ip_batch(netns: &str, lines: &str) -> Result<()> {
    let mut command = Command::new(find("ip")?);
    command.args(["-n", netns, "-batch", "-"]);
    output(&mut command, lines).map(drop).map_err(|error| {
        // `ip` names the failing line as `Command failed -:3`.
        let message = error.to_string();
        let number = message.rsplit("Command failed -:").next().and_then(|rest| rest.trim().parse().ok());
        match number.and_then(|number: usize| lines.lines().nth(number.checked_sub(1)?)) {
            Some(line) => error.context(format!("cannot run `ip -n {netns} {}`", line.trim())),
            None => error,
        }
    })
}

/// Runs `command` with `input` on its standard input and returns its standard output.
///
/// # Errors
///
/// When it cannot start or fails. The message has the command and its standard error.
pub(crate) fn output(command: &mut Command, input: &str) -> Result<String> {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails early closes its input. Its own message is more useful than this error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed ({}): {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The files of a directory whose names end in `.extension`.
///
/// # Errors
///
/// When it cannot be listed.
pub(crate) fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|each| each == extension)).collect())
}

/// A command line as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_its_standard_error() {
        let error = run("sh", ["-c", "echo no such thing >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no such thing") && error.contains('3'), "{error}");
    }

    #[test]
    fn the_error_for_a_missing_program_names_its_package() {
        let error = find("no-such-program").unwrap_err().to_string();
        assert!(error.contains("`no-such-program`") && error.contains("apt-get install"), "{error}");
    }
}
