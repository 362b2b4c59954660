//! Runs virsh, for a bounded time and with a bounded output.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use uuid::Uuid;

use super::error::VirshError;
use super::job::CompletedJob;

/// libvirt lets nobody look at a domain while it ends its QEMU, which takes seconds on a busy host.
const PATIENCE: Duration = Duration::from_secs(10);
/// The statistics of a job have less than a kilobyte.
const LONGEST_OUTPUT_BYTES: u64 = 16 << 10;
/// Of what virsh says on standard error.
const LONGEST_SAID_BYTES: u64 = 1 << 10;

/// How to run virsh.
#[derive(Clone, Debug)]
pub struct Virsh {
    program: String,
    arguments: Vec<String>,
    patience: Duration,
}

/// What virsh has written, and how it ended.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    /// Without its line breaks.
    said: String,
}

impl Virsh {
    /// A command: the program, and arguments that come before those of virsh's own commands. `None` if there is no program.
    #[must_use]
    pub fn new(mut command: Vec<String>) -> Option<Self> {
        let arguments = command.split_off(1.min(command.len()));
        let program = command.pop()?;
        Some(Self { program, arguments, patience: PATIENCE })
    }

    /// Checks that it can be run. libvirt is not asked. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// It cannot be started, fails or takes too long.
    pub async fn check(&self) -> Result<(), VirshError> {
        let Output { status, said, .. } = self.run(&["--version"]).await?;
        if status.success() {
            return Ok(());
        }
        Err(VirshError::NotVirsh { program: self.program.clone(), said })
    }

    /// The latest job of a domain that is over and was completed, if libvirt still knows its statistics. They stay. Needs a
    /// tokio runtime with I/O and time. Dropped in between, it kills virsh.
    ///
    /// # Errors
    /// virsh cannot be run, fails (as it does for a domain that is not there), takes too long or answers something else.
    pub async fn completed_job(&self, domain: Uuid) -> Result<Option<CompletedJob>, VirshError> {
        let domain = domain.hyphenated().to_string();
        let question = ["domjobinfo", &domain, "--completed", "--keep-completed", "--rawstats"];
        let Output { status, stdout, said } = self.run(&question).await?;
        // Then it has failed, too, since nobody has read on.
        if stdout.len() as u64 > LONGEST_OUTPUT_BYTES {
            let what = format!("more than {} KiB", LONGEST_OUTPUT_BYTES >> 10);
            return Err(VirshError::NotStatistics { what });
        }
        if !status.success() {
            return Err(VirshError::Failed { said });
        }
        CompletedJob::parse(&String::from_utf8_lossy(&stdout))
    }

    async fn run(&self, question: &[&str]) -> Result<Output, VirshError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.arguments).args(question);
        // Its words are not translated.
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for this process, which ends virsh itself.
        command.process_group(0).kill_on_drop(true);
        let start = |source| VirshError::Start { program: self.program.clone(), source };
        let mut running = Running { child: command.spawn().map_err(start)?, ended: false };
        match tokio::time::timeout(self.patience, running.output()).await {
            Ok(output) => output.map_err(start),
            Err(_) => Err(VirshError::Silent { limit: self.patience }),
        }
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// A virsh that runs. Dropping it kills it and whatever it has started (`ssh`, `sudo`).
struct Running {
    child: Child,
    /// It was waited for: its number may be another process' now.
    ended: bool,
}

impl Running {
    async fn output(&mut self) -> std::io::Result<Output> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (stdout, stderr) =
            tokio::join!(read(stdout, LONGEST_OUTPUT_BYTES + 1), read(stderr, LONGEST_SAID_BYTES));
        let status = self.child.wait().await?;
        self.ended = true;
        Ok(Output { status, stdout, said: on_one_line(&String::from_utf8_lossy(&stderr)) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.child.id().filter(|_| !self.ended).and_then(|pid| i32::try_from(pid).ok());
        if let Some(group) = group {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// What comes, up to so many bytes. Who writes more is told that nobody reads it.
async fn read(from: Option<impl AsyncRead + Unpin>, most_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What came before an error still says something.
        let _ = from.take(most_bytes).read_to_end(&mut bytes).await;
    }
    bytes
}

/// `error: failed to connect` and `error: no such file` in two lines are one reason.
fn on_one_line(said: &str) -> String {
    let lines = said.lines().map(|line| line.trim().trim_start_matches("error:").trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ")
}
