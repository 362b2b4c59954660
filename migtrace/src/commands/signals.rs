//! The signals that end a command cleanly.

use std::fs;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signal {
    /// To end.
    End,
    /// SIGHUP: to end, or to open files anew.
    Hangup,
}

/// Ctrl-C, a service manager's SIGTERM, and the SIGHUP of a terminal that was closed.
pub(super) struct Signals {
    /// None where it is left to the caller.
    interrupt: Option<unix::Signal>,
    terminate: unix::Signal,
    /// None under `nohup`.
    hangup: Option<unix::Signal>,
}

impl Signals {
    /// From here on these signals do not end the process.
    pub(super) fn catch() -> Result<Self> {
        Self::catch_these(true)
    }

    /// The same for a process that serves another one, which may have made it ignore Ctrl-C: a terminal sends that to both.
    pub(super) fn catch_for_caller() -> Result<Self> {
        Self::catch_these(!is_ignored(libc::SIGINT))
    }

    fn catch_these(interrupt: bool) -> Result<Self> {
        let catch = |kind, name| signal(kind).with_context(|| format!("cannot wait for {name}"));
        // Checked before it is caught: under `nohup` it is ignored, and catching it would end that.
        let outlives_terminal = is_ignored(libc::SIGHUP);
        Ok(Self {
            interrupt: if interrupt { Some(catch(SignalKind::interrupt(), "SIGINT")?) } else { None },
            terminate: catch(SignalKind::terminate(), "SIGTERM")?,
            hangup: if outlives_terminal { None } else { Some(catch(SignalKind::hangup(), "SIGHUP")?) },
        })
    }

    /// Returns when one of them arrives. Cancel-safe.
    pub(super) async fn any(&mut self) {
        self.next().await;
    }

    /// Returns which of them arrives. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = received(self.interrupt.as_mut()) => Signal::End,
            _ = self.terminate.recv() => Signal::End,
            () = received(self.hangup.as_mut()) => Signal::Hangup,
        }
    }
}

/// Never returns without a signal to wait for.
async fn received(signal: Option<&mut unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process ignores the signal.
fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_kernels_mask() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000442\n";
        assert!(ignores(status, libc::SIGHUP));
        assert!(ignores(status, libc::SIGPIPE));
        assert!(!ignores(status, libc::SIGINT));
        assert!(!ignores("", libc::SIGHUP));
    }
}
