//! The libraries of others that the packaged command contains, with their licences.

mod libraries;
mod notice;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::output;
use crate::paths;
use libraries::Library;

/// What the packages say about them.
#[derive(Clone)]
pub(super) struct ThirdParty {
    /// Each library, and the texts of their licences.
    pub(super) notice: String,
    /// The expression of all their licences together.
    pub(super) expression: String,
    /// The same of Rust's standard library, which is linked into every command: a page that comes with the compiler.
    pub(super) standard_library: PathBuf,
}

impl ThirdParty {
    /// Asks cargo what the command is made of, and reads the licences in the sources. If Zig has linked the command, what that
    /// adds is listed, too.
    ///
    /// # Errors
    /// When a library has no licence that can be told, or when the command contains one that was not found.
    pub(super) fn of(binary: &Path, zig: Option<&Path>) -> Result<Self> {
        let mut libraries = libraries::linked()?;
        let content = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
        check(&libraries, &content)?;
        if let Some(zig) = zig {
            libraries.extend(libraries::of_zig(zig)?);
        }
        Ok(Self {
            notice: notice::write(&libraries)?,
            expression: notice::expression(&libraries),
            standard_library: standard_library()?,
        })
    }
}

/// Looks for libraries in the command itself. A source file that may panic leaves its path there.
fn check(libraries: &[Library], binary: &[u8]) -> Result<()> {
    let found = folders_in(binary);
    ensure!(!found.is_empty(), "the command names none of the libraries that it contains");
    for folder in found {
        if !libraries.iter().any(|library| folder == format!("{}-{}", library.name, library.version)) {
            bail!("the command contains {folder}, which cargo does not list as a part of it");
        }
    }
    Ok(())
}

/// The folders of libraries' sources whose paths are among these bytes: `hyper-1.12.0`.
fn folders_in(bytes: &[u8]) -> Vec<String> {
    const BEFORE: &[u8] = b"/registry/src/";
    let places = bytes.windows(BEFORE.len()).enumerate().filter(|(_, window)| *window == BEFORE);
    let folders = places.filter_map(|(place, _)| {
        let path = bytes[place + BEFORE.len()..].split(|byte| !byte.is_ascii_graphic()).next()?;
        let folder = path.split(|byte| *byte == b'/').nth(1)?;
        Some(String::from_utf8_lossy(folder).into_owned())
    });
    let mut folders: Vec<_> = folders.collect();
    folders.sort();
    folders.dedup();
    folders
}

fn standard_library() -> Result<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(paths::root()))?;
    let page = Path::new(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    ensure!(
        page.is_file(),
        "there is no {}: packages are made with a compiler of rustup's, which says what is in the standard library",
        page.display()
    );
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str) -> Library {
        Library { name: name.into(), version: "1.0.0".into(), expression: "MIT".into(), texts: Vec::new() }
    }

    #[test]
    fn a_library_in_the_command_that_is_not_listed_is_an_error() {
        let command =
            b"\0/h/.cargo/registry/src/index-1/one-1.0.0/src/lib.rs\0x/registry/src/index-1/two-1.0.0/a";
        assert_eq!(folders_in(command), ["one-1.0.0", "two-1.0.0"]);
        check(&["one", "two"].map(library), command).unwrap();
        let error = check(&[library("one")], command).unwrap_err().to_string();
        assert!(error.starts_with("the command contains two-1.0.0"), "{error}");
        check(&[library("one")], b"nothing").unwrap_err();
    }
}
