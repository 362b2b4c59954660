//! Who cleans up when nobody else can.
//!
//! Each lab starts a small shell that waits on a pipe. The pipe closes when the driver drops the lab, and just
//! as well when it panics, is interrupted or killed: the kernel closes it. Then the shell takes everything away.
//! There is one way to clean up, so it is the one that the tests prove.

use crate::programs;
use anyhow::{Context as _, Result};
use nix::unistd::setsid;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// `$1` the run directory, `$2` the driver, then the namespaces.
///
/// The driver itself is spared: its main thread may be a guest in a namespace.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r answer
[ "$answer" = keep ] && exit
run=$1 driver=$2
shift 2
for netns in "$@"; do
    [ -e "/run/netns/$netns" ] || continue
    for process in $(ip netns pids "$netns"); do
        [ "$process" = "$driver" ] || kill -KILL "$process"
    done
    ip netns delete "$netns"
done
rm -rf -- "$run"
rmdir --ignore-fail-on-non-empty -- "${run%/*}"
"#;

/// Handle to the shell; the last clone that is dropped lets it clean up, and waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Janitor {
    shell: Arc<Shell>,
}

#[derive(Debug)]
struct Shell(Mutex<Option<Child>>);

impl Janitor {
    /// Starts the shell that will remove `run_directory` and `namespaces`.
    pub(crate) fn start(run_directory: &Path, namespaces: &[String]) -> Result<Self> {
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT, "lab-janitor"])
            .arg(run_directory)
            .arg(std::process::id().to_string())
            .args(namespaces)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Detached from the terminal: its Ctrl-C must not reach the one who cleans up.
        // SAFETY: one system call and no allocation, which is all that may happen between fork and exec.
        unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
        let line = programs::line(&command);
        let child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { shell: Arc::new(Shell(Mutex::new(Some(child)))) })
    }

    /// Cleans up now, whoever else holds a handle, and waits until it is done.
    pub(crate) fn clean(&self) {
        self.shell.finish("");
    }

    /// Sends the shell away: the lab is to stay.
    pub(crate) fn keep(&self) {
        self.shell.finish("keep\n");
    }
}

impl Shell {
    fn finish(&self, answer: &str) {
        // Also when another thread panicked with the lock: this is the clean-up.
        let mut shell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = shell.take() else { return };
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(answer.as_bytes());
        }
        let _ = child.wait();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.finish("");
    }
}
