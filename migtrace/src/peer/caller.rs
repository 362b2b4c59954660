//! The other side of a [`Peer`](super::Peer): whom a recording serves.

use std::io;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::protocol::{ClockAnswer, Order, line};
use crate::event::{Event, LogWriter};
use crate::host::clock;

/// The caller asks for the clock at least every second. If nothing comes for this long, it is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// How many lines may wait to be written.
const MOST_LINES: usize = 1 << 16;
/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// No order is nearly this long.
const LONGEST_ORDER_BYTES: u64 = 1024;

/// What the caller wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// End once nothing more of the migration is awaited.
    Conclude,
    /// End now: it says so by closing its side, or it is gone.
    Stop,
}

/// The caller does not read any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the recording that this one serves does not read its events any more")]
pub struct Gone;

/// Who started this recording from another host, and reads its events. Dropping it ends the connection.
pub struct Caller {
    requests: mpsc::Receiver<Request>,
    lines: mpsc::Sender<Vec<u8>>,
    log: LogWriter<Vec<u8>>,
    reading: JoinHandle<()>,
    writing: JoinHandle<io::Result<()>>,
}

impl Caller {
    /// The caller behind this process' standard input and output, or what stands for them. Needs a tokio runtime with time.
    #[must_use]
    pub fn new(
        input: impl AsyncRead + Unpin + Send + 'static,
        output: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (lines, to_write) = mpsc::channel(MOST_LINES);
        let (to_take, requests) = mpsc::channel(4);
        let reading = tokio::spawn(read(input, lines.clone(), to_take));
        let writing = tokio::spawn(write(output, to_write));
        Self { requests, lines, log: LogWriter::new(Vec::new()), reading, writing }
    }

    /// What the caller wants. Cancel-safe.
    pub async fn request(&mut self) -> Request {
        self.requests.recv().await.unwrap_or(Request::Stop)
    }

    /// Sends an event.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn send(&mut self, event: &Event) -> Result<(), Gone> {
        self.log.write(event).map_err(|_| Gone)?;
        let line = std::mem::take(self.log.get_mut());
        self.lines.try_send(line).map_err(|_| Gone)
    }

    /// Waits until the last events are written.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn close(self) -> Result<(), Gone> {
        self.reading.abort();
        // The answers of the reader are over only when it is.
        let _ = self.reading.await;
        drop(self.lines);
        match tokio::time::timeout(LAST_WORDS, self.writing).await {
            Ok(Ok(Ok(()))) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// Answers questions for the clock, and hands on what else the caller wants.
async fn read(input: impl AsyncRead + Unpin, lines: mpsc::Sender<Vec<u8>>, requests: mpsc::Sender<Request>) {
    let mut input = BufReader::new(input);
    loop {
        let mut order = Vec::new();
        let mut limited = (&mut input).take(LONGEST_ORDER_BYTES);
        let read = tokio::time::timeout(SILENCE, limited.read_until(b'\n', &mut order)).await;
        let showed = clock::now();
        let order = match read {
            Ok(Ok(1..)) => serde_json::from_slice::<Order>(&order).ok(),
            _ => None,
        };
        let is_heard = match (order, showed) {
            (Some(Order::Clock(asked_ns)), Ok(showed_ns)) => {
                lines.try_send(line(&ClockAnswer { asked_ns, showed_ns })).is_ok()
            }
            (Some(Order::Conclude), _) => requests.send(Request::Conclude).await.is_ok(),
            _ => false,
        };
        if !is_heard {
            let _ = requests.send(Request::Stop).await;
            return;
        }
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(line) = lines.recv().await {
        output.write_all(&line).await?;
        if lines.is_empty() {
            output.flush().await?;
        }
    }
    output.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, duplex, split};

    use super::*;
    use crate::event::{EndReason, Fact};
    use crate::units::MonotonicNs;

    #[tokio::test]
    async fn a_caller_gets_the_clock_at_once_and_events_as_lines_and_ends_by_closing_its_side() {
        let (near, far) = duplex(4096);
        let (input, output) = split(far);
        let mut caller = Caller::new(input, output);
        let (answers, mut orders) = split(near);
        let mut answers = BufReader::new(answers).lines();

        let before = clock::now().unwrap();
        orders.write_all(&line(&Order::Clock(before))).await.unwrap();
        let answer: ClockAnswer = serde_json::from_str(&answers.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(answer.asked_ns, before);
        assert!(before <= answer.showed_ns && answer.showed_ns <= clock::now().unwrap());

        let event = Event { at_ns: MonotonicNs(1), fact: Fact::LogEnd { reason: EndReason::Interrupted } };
        caller.send(&event).unwrap();
        let line_of_log = answers.next_line().await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line_of_log).unwrap(), event);

        orders.write_all(&line(&Order::Conclude)).await.unwrap();
        assert_eq!(caller.request().await, Request::Conclude);
        orders.shutdown().await.unwrap();
        assert_eq!(caller.request().await, Request::Stop);
        caller.send(&event).unwrap();
        caller.close().await.unwrap();
        assert!(answers.next_line().await.unwrap().is_some());
        assert!(answers.next_line().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nonsense_ends_the_recording() {
        let (mut near, far) = duplex(4096);
        let (input, output) = split(far);
        let mut caller = Caller::new(input, output);
        near.write_all(b"GET / HTTP/1.1\n").await.unwrap();
        assert_eq!(caller.request().await, Request::Stop);
    }

    #[tokio::test]
    async fn a_caller_that_reads_no_more_is_gone() {
        let (near, far) = duplex(64);
        let (input, output) = split(far);
        let mut caller = Caller::new(input, output);
        drop(near);
        assert_eq!(caller.request().await, Request::Stop);
        assert_eq!(caller.close().await, Ok(()), "nothing was to be written");
    }
}
