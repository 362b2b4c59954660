//! QEMU's version, from the binary that a process runs.
//!
//! migtrace runs as root, so it must not run a binary that somebody else could have put there, even when a person has
//! named it as QEMU's. Three guards see to that. Only binaries that root alone can write are run; only those of processes
//! with this process's root directory (a container's binaries are left alone, but the private mount namespace that
//! libvirt gives each QEMU does not matter); and never as root.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::process::Process;
use super::trust::{is_on_fuse, is_roots_alone};

/// How long a binary may take to print its version. QEMU needs some 30 ms, or a few hundred with a cold cache.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// A binary: device, inode, and change time (seconds, nanoseconds), since an inode may be used again.
type Binary = (u64, u64, i64, i64);

/// What is known of a binary's version.
enum Answer {
    /// It is being asked.
    Awaited,
    /// It answered with this; `None` when it gave no version.
    Given(Option<String>),
}

static ANSWERS: LazyLock<Mutex<HashMap<Binary, Answer>>> = LazyLock::new(Mutex::default);

fn answers() -> MutexGuard<'static, HashMap<Binary, Answer>> {
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version of the binary that `process` runs, if it has been asked ([`Question`]) and has answered.
pub(super) fn of(process: Process) -> Option<String> {
    let (_, key) = trusted_binary(process)?;
    match answers().get(&key) {
        Some(Answer::Given(version)) => version.clone(),
        Some(Answer::Awaited) | None => None,
    }
}

/// A binary that is still to be asked for its version. If this is dropped unasked, it can be asked later.
#[derive(Debug)]
pub(crate) struct Question {
    binary: File,
    key: Binary,
}

impl Question {
    /// The question to the binary that `process` runs, even if the file has been replaced since. `None` when the binary
    /// has been asked, is being asked, or must not be run.
    pub(super) fn to(process: Process) -> Option<Self> {
        let (binary, key) = trusted_binary(process)?;
        match answers().entry(key) {
            Entry::Occupied(_) => None,
            Entry::Vacant(unasked) => {
                unasked.insert(Answer::Awaited);
                Some(Self { binary, key })
            }
        }
    }

    /// Runs the binary, and keeps its answer for every process that runs it. Blocks until it ends, for two seconds at
    /// most.
    pub(crate) fn ask(self) {
        let answer = ask(&self.binary);
        answers().insert(self.key, Answer::Given(answer));
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut answers = answers();
        if matches!(answers.get(&self.key), Some(Answer::Awaited)) {
            answers.remove(&self.key);
        }
    }
}

/// The binary that `process` runs, if it may be run.
fn trusted_binary(process: Process) -> Option<(File, Binary)> {
    if is_on_fuse(&process.path("exe")).ok()? {
        return None;
    }
    let binary = File::open(process.path("exe")).ok()?;
    let metadata = binary.metadata().ok()?;
    let key = (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
    (is_roots_alone(&metadata) && has_our_root(process)).then_some((binary, key))
}

fn has_our_root(process: Process) -> bool {
    // The final dot follows the link into the process's own mount namespace.
    let theirs = fs::metadata(process.path("root/."));
    let ours = fs::metadata("/");
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
}

/// Runs the binary with `--version` and reads its answer; `None` when there is none in time.
fn ask(binary: &File) -> Option<String> {
    // By this process's own descriptor: the path may name another file by now, and `nobody` may not follow another
    // process's `exe`.
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    command.arg("--version").env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = command.spawn().ok()?;
    let deadline = Instant::now() + TIME_LIMIT;
    // The answer is two lines. A pipe holds them, so the child ends even before they are read.
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

    use super::super::named::Binaries;
    use super::super::testing::{Folder, Running};
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
    fn a_binary_that_hangs_is_given_up_and_nobody_waits_for_it() {
        let Some((process, _folder)) = hanging_qemu() else { return };
        let pid = process.0.id();
        let started = Instant::now();
        let described = super::super::read(pid, &Binaries::default()).expect("it has the name of a QEMU");
        assert_eq!((described.name.as_deref(), described.version), (Some("hangs"), None));
        let question =
            super::super::unasked_version(pid, &Binaries::default()).expect("it was not asked yet");
        assert!(started.elapsed() < TIME_LIMIT / 2, "{:?}", started.elapsed());
        question.ask();
        assert!(started.elapsed() >= TIME_LIMIT, "it does not end by itself");
        assert!(started.elapsed() < TIME_LIMIT + Duration::from_secs(5));
        assert_eq!(super::super::read(pid, &Binaries::default()).unwrap().version, None);
    }

    #[test]
    fn a_binary_is_asked_once_and_again_only_if_the_first_question_was_dropped() {
        let Some((process, _folder)) = hanging_qemu() else { return };
        let of = || Process(process.0.id());
        let question = Question::to(of()).expect("it was not asked yet");
        assert!(Question::to(of()).is_none(), "it is asked now");
        drop(question);
        let question = Question::to(of()).expect("nobody asked it in the end");
        answers().insert(question.key, Answer::Given(Some("10.0.2".into())));
        drop(question);
        assert!(Question::to(of()).is_none(), "it has answered");
        assert_eq!(super::of(of()).as_deref(), Some("10.0.2"));
    }

    /// A process with the name of a QEMU. Its binary is root's, and never ends, whatever it is asked.
    fn hanging_qemu() -> Option<(Running, Folder)> {
        if !cfg!(target_arch = "x86_64") {
            eprintln!("skipped: its binary needs an x86-64");
            return None;
        }
        let folder = Folder::of_root()?;
        let path = folder.pausing_program("qemu-system-x86_64");
        let process = Running(Command::new(&path).args(["-name", "hangs"]).spawn().unwrap());
        // It has a command line only when it has really started.
        while Process(process.0.id()).arguments().is_none_or(|argv| argv.len() < 3) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Some((process, folder))
    }

    #[test]
    fn a_binary_that_is_not_a_qemu_has_no_version() {
        assert_eq!(ask_program("/bin/true"), None);
    }

    fn ask_program(path: &str) -> Option<String> {
        ask(&File::open(path).unwrap())
    }
}
