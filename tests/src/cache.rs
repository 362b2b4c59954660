//! What the lab downloads and unpacks, kept for the next time.

use anyhow::{Context as _, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Names the directory where the lab keeps what it downloads. The default is `target/lab` of this workspace.
const VARIABLE: &str = "MIGTRACE_LAB_CACHE";

/// The directory that [`VARIABLE`] names, or `target/lab` of this workspace.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn directory() -> Result<PathBuf> {
    let directory = std::env::var_os(VARIABLE).map_or_else(|| workspace().join("target/lab"), PathBuf::from);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make the lab's cache {}", directory.display()))?;
    Ok(directory)
}

/// The root of the workspace that this library was built from.
pub(crate) fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// What `look` finds in a directory of the cache. If it finds nothing, `fill` makes the content of that directory first, in
/// another place: a directory that exists is complete.
///
/// # Errors
///
/// When one of the two fails, or when nothing is found afterwards.
pub(crate) fn get<T>(
    name: &str,
    look: impl Fn(&Path) -> Result<Option<T>>,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<T> {
    let cache = directory()?;
    let wanted = cache.join(name);
    if let Some(found) = look(&wanted)? {
        return Ok(found);
    }
    // Several processes may need it at once: the first one makes it, and the others wait here.
    let _lock = lock(&cache)?;
    if let Some(found) = look(&wanted)? {
        return Ok(found);
    }
    make(&wanted, fill)?;
    look(&wanted)?.ok_or_else(|| anyhow!("{} lacks what was downloaded for it", wanted.display()))
}

/// Makes the content of a directory of the cache anew.
///
/// # Errors
///
/// When `fill` fails. Then the former content stays.
pub(crate) fn replace(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let cache = directory()?;
    let _lock = lock(&cache)?;
    make(&cache.join(name), fill)
}

/// Calls `read` with a directory of the cache, if there is one, while nobody replaces it.
///
/// # Errors
///
/// When `read` fails.
pub(crate) fn read(name: &str, read: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let cache = directory()?;
    let _lock = lock(&cache)?;
    let wanted = cache.join(name);
    if wanted.is_dir() { read(&wanted) } else { Ok(()) }
}

fn lock(cache: &Path) -> Result<Flock<File>> {
    let lock = File::create(cache.join("lock")).context("cannot make the lock of the lab's cache")?;
    Ok(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?)
}

fn make(wanted: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = wanted.with_added_extension("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    fill(&partial)?;
    remove(wanted)?;
    fs::rename(&partial, wanted).with_context(|| format!("cannot make {}", wanted.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
