//! Writes an initramfs: a cpio archive in the format "newc" (Documentation/driver-api/early-userspace in Linux).

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const REGULAR_FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;
const SYMBOLIC_LINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

/// An archive. Paths have no leading slash, and parent directories are added when they are missing.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory (mode 0755), and those above it.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        if self.directories.insert(path.into()) {
            self.entry(path, DIRECTORY, (0, 0), &[]);
        }
    }

    /// Adds a regular file; `mode` holds its permission bits.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR_FILE | mode, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMBOLIC_LINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device (mode 0600).
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str).filter(|p| !p.is_empty()) {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries, // inode: distinct, so that no entry looks like a hard link
            mode,
            0, // user
            0, // group
            1, // links
            0, // modified
            content.len() as u32,
            0, // the device that the file is on
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum: none in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, mode and content of each entry.
    fn parse(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut offset = 0;
        let all = bytes.len();
        while !bytes.is_empty() {
            assert_eq!(offset % 4, 0);
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            let start = (110 + name).next_multiple_of(4);
            entries.push((path, mode, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
            offset = all - bytes.len();
        }
        entries
    }

    #[test]
    fn each_directory_is_added_once_before_its_first_entry() {
        let mut archive = Archive::default();
        archive.file("lib/modules/one.ko", 0o644, b"12345");
        archive.file("lib/modules/two.ko", 0o644, b"");
        archive.symlink("bin", "lib");
        archive.character_device("dev/console", 5, 1);
        let entries = parse(&archive.finish());
        let paths: Vec<&str> = entries.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "lib",
                "lib/modules",
                "lib/modules/one.ko",
                "lib/modules/two.ko",
                "bin",
                "dev",
                "dev/console",
                TRAILER
            ]
        );
        assert_eq!(entries[2].1, 0o100_644);
        assert_eq!(entries[2].2, b"12345");
        assert_eq!(entries[4].2, b"lib");
    }
}
