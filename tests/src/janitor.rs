//! Removes a lab however its driver ends.
//!
//! Each lab starts a small shell that waits on a pipe. The pipe closes when the driver drops the lab, but also when it
//! panics, is interrupted or killed, because the kernel closes it. Then the shell removes everything. There is no other way
//! to clean up, so every test of removal tests this one.

use crate::programs;
use anyhow::{Context as _, Result};
use nix::unistd::setsid;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// Its arguments are the run directory, the driver's process id, and the namespaces.
///
/// It does not kill the driver itself, whose main thread may be in one of the namespaces.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r answer
[ "$answer" = keep ] && exit
run=$1 driver=$2
shift 2
for netns in "$@"; do
    [ -e "/run/netns/$netns" ] || continue
    # Until none is left: libvirtd may just be starting another QEMU. What cannot be killed does not keep this waiting.
    for _ in $(seq 100); do
        processes=
        for process in $(ip netns pids "$netns"); do
            [ "$process" = "$driver" ] || processes="$processes $process"
        done
        [ "$processes" ] || break
        kill -KILL $processes
        sleep 0.05
    done
    ip netns delete "$netns"
done
rm -rf -- "$run"
rmdir --ignore-fail-on-non-empty -- "${run%/*}"
"#;

/// A handle to the shell. Dropping the last clone makes the shell clean up, and waits until it has.
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
        // Detached from the terminal, so that Ctrl-C does not reach it.
        // SAFETY: one system call and no allocation, which is all that may happen between fork and exec.
        unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
        let line = programs::line(&command);
        let child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { shell: Arc::new(Shell(Mutex::new(Some(child)))) })
    }

    /// Cleans up now, even if other handles exist, and waits until that is done.
    pub(crate) fn clean(&self) {
        self.shell.finish("");
    }

    /// Ends the shell without a clean-up, so that the lab stays.
    pub(crate) fn keep(&self) {
        self.shell.finish("keep\n");
    }
}

impl Shell {
    fn finish(&self, answer: &str) {
        // A clean-up must run even if another thread panicked with the lock.
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
