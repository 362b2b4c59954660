//! QEMU's version, from the binary that a process runs.
//!
//! migtrace runs as root, so a binary that somebody else could have put there must not be run: a user needs only to
//! call a program `qemu-system-x86_64` to have it found. Three guards: only binaries that root alone can write, only
//! of processes that have this process's root directory (so a container's binaries are left alone, but the private
//! mount namespace that libvirt gives each QEMU is not in the way), and never as root.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Process;

/// How long a binary may take to print its version. QEMU needs some 30 ms, on a cold cache a few hundred.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// A binary: device, inode, and change time (seconds, nanoseconds), as an inode may be used again.
type Binary = (u64, u64, i64, i64);

static KNOWN: LazyLock<Mutex<HashMap<Binary, Option<String>>>> = LazyLock::new(Mutex::default);

/// The version of the binary that `process` runs, also when the file has been replaced since; asked once a binary.
pub(super) fn of(process: Process) -> Option<String> {
    let binary = File::open(process.path("exe")).ok()?;
    let metadata = binary.metadata().ok()?;
    if !(is_roots_alone(&metadata) && has_our_root(process)) {
        return None;
    }
    let key = (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(key).or_insert_with(|| ask(&binary)).clone()
}

fn is_roots_alone(binary: &Metadata) -> bool {
    binary.uid() == 0 && binary.mode() & 0o022 == 0
}

fn has_our_root(process: Process) -> bool {
    // The final dot follows the link into the process's own mount namespace.
    let theirs = fs::metadata(process.path("root/."));
    let ours = fs::metadata("/");
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
}

/// Runs the binary with `--version` and reads its answer; `None` when it gives none in time.
fn ask(binary: &File) -> Option<String> {
    // Through this process's own descriptor: the path may name another file by now, and `nobody` may not follow
    // another process's `exe`.
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    command.arg("--version").env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = command.spawn().ok()?;
    let deadline = Instant::now() + TIME_LIMIT;
    // The answer is two lines, which a pipe holds: the child ends without being read.
    let ended = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(status) => break status,
            Err(_) => break None,
        }
    };
    if ended.is_none() {
        // Fails only when it has just ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let mut answer = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut answer).ok()?;
    parse(&answer)
}

/// `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`, from the first line.
fn parse(answer: &str) -> Option<String> {
    let version = answer.lines().next()?.strip_prefix("QEMU emulator version ")?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_version_line_of_several_builds() {
        let copyright = "Copyright (c) 2003-2022 Fabrice Bellard and the QEMU Project developers";
        for version in ["7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", "9.0.2 (pve-qemu-kvm_9.0.2-4)", "10.0.2"]
        {
            let answer = format!("QEMU emulator version {version}\n{copyright}\n");
            assert_eq!(parse(&answer).as_deref(), Some(version));
        }
        for answer in ["", "QEMU emulator version \n", "sleep (GNU coreutils) 9.1\n"] {
            assert_eq!(parse(answer), None, "{answer:?}");
        }
    }

    #[test]
    fn a_binary_that_others_can_write_is_not_trusted() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"#!/bin/sh\n").unwrap();
        let trusted = |mode| {
            file.as_file().set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            is_roots_alone(&file.as_file().metadata().unwrap())
        };
        assert_eq!(trusted(0o755), nix::unistd::geteuid().is_root());
        assert!(!trusted(0o775));
        assert!(!trusted(0o757));
    }

    #[test]
    fn a_binary_of_another_user_is_not_trusted() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: giving a file away needs root");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::fchown(file.as_file(), Some(NOBODY), None).unwrap();
        assert!(!is_roots_alone(&file.as_file().metadata().unwrap()));
    }

    #[test]
    fn a_binary_that_hangs_is_given_up() {
        // `yes` fills the pipe and then waits for a reader for ever.
        let started = Instant::now();
        assert_eq!(ask_program("/usr/bin/yes"), None);
        assert!(started.elapsed() < TIME_LIMIT + Duration::from_secs(5));
    }

    #[test]
    fn a_binary_that_is_no_qemu_has_no_version() {
        assert_eq!(ask_program("/bin/true"), None);
    }

    fn ask_program(path: &str) -> Option<String> {
        ask(&File::open(path).unwrap())
    }
}
