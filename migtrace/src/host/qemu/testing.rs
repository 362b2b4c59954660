//! What the tests of QEMU processes share: programs under other names, and the processes that run them.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A child that ends with its test, also when the test fails.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a shell, under whatever name, and waits until it has written its first line.
pub(super) fn started(shell: &mut Command) -> Running {
    let shell = shell.args(["-c", "echo started; read line"]);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    Running(child)
}

/// A folder that only root can write to. The same is true of the folders above it.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    /// `None`, with a line that says so, when the caller is not root.
    pub(super) fn of_root() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: making a folder of root's needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        Some(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A shell under another name.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.copy_of(Path::new("/bin/sh"), name)
    }

    /// A program that pauses.
    pub(super) fn pausing_program(&self, name: &str) -> PathBuf {
        let original = self.path().join("original");
        fs::write(&original, pausing_program()).unwrap();
        fs::set_permissions(&original, Permissions::from_mode(0o755)).unwrap();
        self.copy_of(&original, name)
    }

    /// Copied by another process. A file that is open for writing cannot be executed, and whatever this process starts
    /// meanwhile has the same files open.
    fn copy_of(&self, original: &Path, name: &str) -> PathBuf {
        let path = self.path().join(name);
        let status = Command::new("cp").args(["--remove-destination"]).arg(original).arg(&path).status();
        assert!(status.unwrap().success());
        path
    }
}

/// An ELF executable for x86-64 that calls `pause` for ever.
fn pausing_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // next: mov eax, 34; syscall; jmp next
    const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One segment to load, readable and executable: the whole file.
    elf.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    let length = HEADERS + CODE.len() as u64;
    for word in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(CODE);
    elf
}
