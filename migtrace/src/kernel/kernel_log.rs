//! The log of the kernel programs, to debug them: `cargo run -p migtrace --features kernel-log`.

use std::io::Write as _;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::KernelError;
use crate::terminal;

/// Prints the log to standard error until it is dropped.
pub(super) struct KernelLog(JoinHandle<()>);

impl KernelLog {
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let logger = EbpfLogger::init_with_logger(ebpf, StandardError)
            .map_err(|error| KernelError::Refused { what: "log".into(), why: error.to_string() })?;
        // SAFETY: the logger owns the ring buffer's descriptor and keeps it open until it is dropped.
        let mut logger = unsafe { AsyncFd::register(logger) }.map_err(std::io::Error::from)?;
        Ok(Self(tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })))
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("kernel: {}: {}", record.target(), record.args());
        let _ = std::io::stderr().write_all(format!("{}\n", terminal::clean(&line)).as_bytes());
    }

    fn flush(&self) {}
}
