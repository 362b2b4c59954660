//! What the path of an output file means, and which symbolic links are followed.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use migtrace::files::{PARTIAL, beside};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// What the path of an output file means.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::commands) enum OutputPath {
    /// `-`
    Stdout,
    /// A regular file, or the name of a new one. Its folder is a path without links.
    File(PathBuf),
    /// A pipe, a device or an open file (`/dev/stdout`), which cannot be replaced.
    Special(PathBuf),
}

/// What to do with a symbolic link to a regular file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::commands) enum Links {
    /// The file replaces the link.
    Replace,
    /// The file is written where the link points.
    Follow,
}

impl OutputPath {
    /// Finds out what `path` means, without opening anything.
    ///
    /// Only links owned by root or by the user who runs this are followed: anybody can leave a link in `/tmp`, or in a folder
    /// of their own, that points to a file which only root can write.
    pub(in crate::commands) fn of(path: &Path, links: Links) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let first = normal(path)?;
        let mut here = first.clone();
        let mut foreign = None;
        for _ in 0..MOST_LINKS {
            // The links of a process' open files are no real paths.
            if here.starts_with("/proc") {
                return trusted(foreign, Self::Special(here));
            }
            let metadata = match fs::symlink_metadata(&here) {
                Ok(metadata) => Some(metadata),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            match metadata {
                Some(metadata) if metadata.is_symlink() => {
                    if foreign.is_none() && !is_trusted(metadata.uid()) {
                        foreign = Some((here.clone(), metadata.uid()));
                    }
                    let folder = here.parent().unwrap_or(Path::new("/"));
                    here = normal(&folder.join(fs::read_link(&here)?))?;
                }
                Some(metadata) if metadata.is_dir() => return Err(is_a_directory()),
                Some(metadata) if !metadata.is_file() => return trusted(foreign, Self::Special(here)),
                _ if links == Links::Replace => return Ok(Self::File(first)),
                _ => return trusted(foreign, Self::File(here)),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    /// All names that are used to write a file: its own, the temporary one, and that of a log that it replaces.
    pub(in crate::commands) fn names(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => vec![path.clone(), beside(path, PARTIAL), beside(path, ".old")],
            Self::Special(_) | Self::Stdout => Vec::new(),
        }
    }
}

/// The same path with its folder canonicalized.
fn normal(path: &Path) -> io::Result<PathBuf> {
    // A path that ends in a slash means a folder, but `Path` drops the slash.
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let name = path.file_name().filter(|_| !is_folder).ok_or_else(is_a_directory)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(folder)?.join(name))
}

/// The kernel's own error.
fn is_a_directory() -> io::Error {
    io::Error::from_raw_os_error(libc::EISDIR)
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw()
}

fn trusted(foreign: Option<(PathBuf, u32)>, path: OutputPath) -> io::Result<OutputPath> {
    let Some((link, owner)) = foreign else { return Ok(path) };
    Err(io::Error::new(
        ErrorKind::PermissionDenied,
        format!("{} is a symbolic link of another user (id {owner}): not followed", link.display()),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder without links in its own path.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap();
        (directory, path)
    }

    fn of(path: &Path) -> [io::Result<OutputPath>; 2] {
        [Links::Replace, Links::Follow].map(|links| OutputPath::of(path, links))
    }

    #[test]
    fn a_dash_is_standard_output_and_devices_and_open_files_are_special() {
        for found in of(Path::new("-")) {
            assert_eq!(found.unwrap(), OutputPath::Stdout);
        }
        for path in ["/dev/full", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            for found in of(Path::new(path)) {
                assert!(matches!(found, Ok(OutputPath::Special(_))), "{path}: {found:?}");
            }
        }
    }

    #[test]
    fn folders_and_files_in_no_folder_are_errors() {
        let (_folder, path) = folder();
        for (path, kind) in [
            (path.clone(), ErrorKind::IsADirectory),
            (path.join("new/"), ErrorKind::IsADirectory),
            (path.join(".."), ErrorKind::IsADirectory),
            (path.join("no/file"), ErrorKind::NotFound),
        ] {
            for found in of(&path) {
                assert_eq!(found.unwrap_err().kind(), kind, "{}", path.display());
            }
        }
    }

    #[test]
    fn a_link_to_a_file_is_replaced_or_followed() {
        let (_folder, path) = folder();
        symlink("second", path.join("first")).unwrap();
        symlink("third", path.join("second")).unwrap();
        for exists in [false, true] {
            if exists {
                fs::write(path.join("third"), "").unwrap();
            }
            let [replaced, followed] = of(&path.join("./first"));
            assert_eq!(replaced.unwrap(), OutputPath::File(path.join("first")));
            assert_eq!(followed.unwrap(), OutputPath::File(path.join("third")));
        }
        symlink("loop", path.join("loop")).unwrap();
        for found in of(&path.join("loop")) {
            assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
    }

    #[test]
    fn a_link_of_another_user_is_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: giving a link away needs root");
            return;
        }
        let (_folder, path) = folder();
        for (name, target) in [("file", "target"), ("device", "/dev/full")] {
            symlink(target, path.join(name)).unwrap();
            std::os::unix::fs::lchown(path.join(name), Some(65534), None).unwrap();
        }
        symlink("file", path.join("mine")).unwrap();
        let refused = |found: io::Result<OutputPath>, link: &str| {
            let error = found.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains(path.join(link).to_str().unwrap()), "{error}");
        };
        refused(OutputPath::of(&path.join("file"), Links::Follow), "file");
        refused(OutputPath::of(&path.join("mine"), Links::Follow), "file");
        for found in of(&path.join("device")) {
            refused(found, "device");
        }
        assert_eq!(
            OutputPath::of(&path.join("file"), Links::Replace).unwrap(),
            OutputPath::File(path.join("file"))
        );
    }
}
