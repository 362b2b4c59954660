//! Where a file of the command belongs, and which symbolic links lead there.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What a name on the command line means.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// `-`
    Stdout,
    /// A regular file, or the name of one to be made; its folder has no link in it.
    File(PathBuf),
    /// A pipe, a device or an open file (`/dev/stdout`): there is nothing to replace.
    Special(PathBuf),
}

/// What becomes of a symbolic link that leads to a regular file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Links {
    /// The file takes the link's place.
    Replace,
    /// The file goes where the link leads.
    Follow,
}

impl Place {
    /// Finds out what `path` means. Nothing is opened.
    ///
    /// Only links of root and of whoever runs this are followed: anybody may leave one in a folder like `/tmp`, or in
    /// their own, that leads to a file which only root can write.
    pub(super) fn of(path: &Path, links: Links) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let first = normal(path)?;
        let mut here = first.clone();
        let mut foreign = None;
        for _ in 0..MOST_LINKS {
            // Links to what a process has open cannot be read as paths.
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

    /// The names that will be written for a file: its own, and those that stand beside it for a while or afterwards.
    pub(super) fn names(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => vec![path.clone(), beside(path, ".partial"), beside(path, ".old")],
            Self::Special(_) | Self::Stdout => Vec::new(),
        }
    }
}

/// The path's own name with something behind it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// The same path without links and dots in its folder.
fn normal(path: &Path) -> io::Result<PathBuf> {
    // A name that ends in a slash is a folder's, which `Path` forgets.
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let name = path.file_name().filter(|_| !is_folder).ok_or_else(is_a_directory)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(folder)?.join(name))
}

/// In the kernel's words.
fn is_a_directory() -> io::Error {
    io::Error::from_raw_os_error(libc::EISDIR)
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw()
}

fn trusted(foreign: Option<(PathBuf, u32)>, place: Place) -> io::Result<Place> {
    let Some((link, owner)) = foreign else { return Ok(place) };
    Err(io::Error::new(
        ErrorKind::PermissionDenied,
        format!("{} is a symbolic link of another user ({owner}), which is not followed", link.display()),
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

    fn of(path: &Path) -> [io::Result<Place>; 2] {
        [Links::Replace, Links::Follow].map(|links| Place::of(path, links))
    }

    #[test]
    fn a_dash_is_standard_output_and_devices_and_open_files_are_special() {
        for place in of(Path::new("-")) {
            assert_eq!(place.unwrap(), Place::Stdout);
        }
        for path in ["/dev/full", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            for place in of(Path::new(path)) {
                assert!(matches!(place, Ok(Place::Special(_))), "{path}: {place:?}");
            }
        }
    }

    #[test]
    fn folders_and_what_is_in_none_are_errors() {
        let (_folder, path) = folder();
        for (path, kind) in [
            (path.clone(), ErrorKind::IsADirectory),
            (path.join("new/"), ErrorKind::IsADirectory),
            (path.join(".."), ErrorKind::IsADirectory),
            (path.join("no/file"), ErrorKind::NotFound),
        ] {
            for place in of(&path) {
                assert_eq!(place.unwrap_err().kind(), kind, "{}", path.display());
            }
        }
    }

    #[test]
    fn a_link_to_a_file_is_replaced_or_followed_to_its_end() {
        let (_folder, path) = folder();
        symlink("second", path.join("first")).unwrap();
        symlink("third", path.join("second")).unwrap();
        for exists in [false, true] {
            if exists {
                fs::write(path.join("third"), "").unwrap();
            }
            let [replaced, followed] = of(&path.join("./first"));
            assert_eq!(replaced.unwrap(), Place::File(path.join("first")));
            assert_eq!(followed.unwrap(), Place::File(path.join("third")));
        }
        symlink("loop", path.join("loop")).unwrap();
        for place in of(&path.join("loop")) {
            assert_eq!(place.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
    }

    #[test]
    fn a_link_of_another_user_leads_nowhere() {
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
        let refused = |place: io::Result<Place>, link: &str| {
            let error = place.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains(path.join(link).to_str().unwrap()), "{error}");
        };
        refused(Place::of(&path.join("file"), Links::Follow), "file");
        refused(Place::of(&path.join("mine"), Links::Follow), "file");
        for place in of(&path.join("device")) {
            refused(place, "device");
        }
        assert_eq!(Place::of(&path.join("file"), Links::Replace).unwrap(), Place::File(path.join("file")));
    }
}
