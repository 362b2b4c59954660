//! The names of labs, and the directory that belongs to each name.

use crate::netns;
use crate::topology;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const RUN_DIRECTORY: &str = "/run/migtrace-lab";
/// In the directory of a lasting lab: how it was made.
pub(super) const STATE_FILE: &str = "lab.json";

/// The names of all labs, also of those of which only a part remains.
///
/// # Errors
///
/// When the namespaces cannot be listed.
pub fn list() -> Result<Vec<String>> {
    let mut names: Vec<String> = netns::list(topology::PREFIX)?
        .iter()
        .filter_map(|namespace| {
            Some(namespace.strip_prefix(topology::PREFIX)?.rsplit_once('-')?.0.to_owned())
        })
        .collect();
    if let Ok(entries) = fs::read_dir(RUN_DIRECTORY) {
        names.extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Makes the run directory, which reserves the name.
pub(super) fn claim(name: &str, run_directory: &Path) -> Result<()> {
    loop {
        fs::create_dir_all(RUN_DIRECTORY).with_context(|| format!("cannot make {RUN_DIRECTORY}"))?;
        match fs::create_dir(run_directory) {
            Ok(()) => return Ok(()),
            // The janitor of the last other lab has just removed the directory above.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("there is a lab `{name}` already; `migtrace-lab down --name {name}` removes it")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", run_directory.display()));
            }
        }
    }
}

pub(super) fn run_directory(name: &str) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(name)
}

/// Checks a name, which becomes part of paths and of the address of a socket, which must be short.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if name.is_empty() || name.len() > 40 || !plain {
        bail!("`{name}` cannot name a lab: use up to 40 letters, digits, `-` and `_`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_run_directory_are_refused() {
        for name in ["", "..", "a/b", "a b", &"x".repeat(41)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("a-b_1").unwrap();
    }
}
