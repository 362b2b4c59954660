//! What a process writes to a pipe, kept without waiting for it.

use std::io::{self, Read};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

/// How long to wait for the end of a pipe whose process has ended: something else may hold it open, as `ssh` does that keeps
/// connections.
const PATIENCE: Duration = Duration::from_secs(1);

/// What comes out of a pipe.
pub(super) struct Collected<T> {
    result: oneshot::Receiver<io::Result<T>>,
}

impl<T: Send + 'static> Collected<T> {
    /// Reads it on a thread of its own.
    pub(super) fn start(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<Self> {
        let (tell, result) = oneshot::channel();
        let thread = std::thread::Builder::new().name("pipe".to_owned());
        let run = move || drop(tell.send(read()));
        thread.spawn(run).context("cannot start a thread")?;
        Ok(Self { result })
    }

    /// What has come, once its process has ended.
    pub(super) async fn end(self) -> Result<T> {
        let result = tokio::time::timeout(PATIENCE, self.result).await;
        let result = result.context("the pipe was held open")?.context("the pipe was not read")?;
        result.context("cannot read from the pipe")
    }
}

/// All that comes, up to so many bytes.
pub(super) fn bytes(
    pipe: Option<impl Read + Send + 'static>,
    most_bytes: u64,
) -> impl FnOnce() -> io::Result<Vec<u8>> {
    move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.take(most_bytes).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}
