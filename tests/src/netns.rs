//! Network namespaces with a name, as `ip netns` shows them.

use crate::process::Namespace;
use crate::programs;
use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIRECTORY: &str = "/run/netns";

/// A network namespace that is open in this process.
#[derive(Debug, Clone)]
pub struct NetNs {
    name: String,
    file: Arc<File>,
}

impl NetNs {
    /// Makes a namespace.
    ///
    /// # Errors
    ///
    /// When the name is taken or the kernel refuses.
    pub fn create(name: &str) -> Result<Self> {
        programs::run("ip", ["netns", "add", name])?;
        Self::open(name)
    }

    /// Opens an existing namespace.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path)
            .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
        Ok(Self { name: name.into(), file: Arc::new(file) })
    }

    /// Its name, for `ip -n NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, for programs that open it themselves.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Moves the calling thread into the namespace until the guard is dropped.
    ///
    /// # Errors
    ///
    /// When the kernel refuses (not root).
    pub fn guard(&self) -> Result<NetNsGuard> {
        let path = "/proc/thread-self/ns/net";
        let previous = File::open(path).with_context(|| format!("cannot open {path}"))?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the network namespace {}", self.name))?;
        Ok(NetNsGuard { previous, not_send: PhantomData })
    }

    /// Runs `work` inside the namespace, on a thread of its own, and returns its result.
    ///
    /// A panic of `work` continues in the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to let the thread in (not root).
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            // The thread ends inside, so it need not return to the namespace before.
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter the network namespace {}", self.name))?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The namespace as [`crate::process::spawn`] enters it.
    pub(crate) fn namespace(&self) -> Namespace {
        (self.file(), CloneFlags::CLONE_NEWNET)
    }

    /// A second handle to the same namespace, for a closure that outlives this one.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The calling thread is in another network namespace until this is dropped.
#[derive(Debug)]
pub struct NetNsGuard {
    previous: File,
    /// A namespace is a property of a thread: dropped on another thread, this would move that one.
    not_send: PhantomData<*const ()>,
}

impl Drop for NetNsGuard {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.previous, CloneFlags::CLONE_NEWNET) {
            // Whatever this thread did next would affect the wrong network.
            eprintln!("migtrace-lab: cannot leave a network namespace: {error}");
            std::process::abort();
        }
    }
}

/// The names of the existing namespaces that begin with `prefix`, sorted.
///
/// # Errors
///
/// When the directory of namespaces cannot be read.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        // No namespace was made since the machine booted.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {DIRECTORY}"))?,
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}
