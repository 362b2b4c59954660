//! What sends in the background: on a thread of its own, so that a collector that is slow or away holds up nothing.

mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc::Sender as Orders;
use tokio::sync::mpsc::error::TrySendError;

use super::queue::Queue;
use super::send::{BadFile, Sender, Settings};
use super::{NoTrace, Origin, PlatformAttributes, trace_request_with};
use crate::export::metrics::Metrics;
use crate::record::Record;
use crate::wall_clock::realtime_ns;
use task::{Order, Task};

/// How many records may wait until the thread takes them.
const ORDERS: usize = 1_024;

/// How long the thread may take to end after its time is over.
const GRACE: Duration = Duration::from_secs(2);

/// Sends the traces of records, and what the records add up to.
///
/// Nothing here waits for the network. A trace waits in the [`Queue`] until the collector has it. Of cumulative metrics only the
/// latest are ever sent; of others, those that were not taken are kept until they are, and what comes meanwhile waits.
#[derive(Debug)]
pub struct Exporter {
    orders: Orders<Order>,
    counts: Arc<Counters>,
    origin: Arc<Origin>,
    ended: Receiver<()>,
}

/// What has become of traces so far.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExportCounts {
    /// Traces that the collector has.
    pub sent: u64,
    /// Traces that the collector has refused.
    pub failed: u64,
    /// Traces that were lost here: there was no room for them, they could not be written, or they were damaged.
    pub dropped: u64,
    /// Traces that wait.
    pub queued: u64,
    /// Spans and points that the collector has left out of what it has taken.
    pub rejected: u64,
    /// Times that metrics could not be sent.
    pub metrics_failed: u64,
}

impl ExportCounts {
    /// Whether the collector has every trace.
    #[must_use]
    pub const fn is_all_sent(&self) -> bool {
        self.failed == 0 && self.dropped == 0 && self.queued == 0
    }
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicU64,
    rejected: AtomicU64,
    metrics_failed: AtomicU64,
}

impl Counters {
    fn now(&self) -> ExportCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ExportCounts {
            sent: read(&self.sent),
            failed: read(&self.failed),
            dropped: read(&self.dropped),
            queued: read(&self.queued),
            rejected: read(&self.rejected),
            metrics_failed: read(&self.metrics_failed),
        }
    }
}

/// Why nothing is sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoExporter {
    /// A file of TLS.
    #[error(transparent)]
    Tls(#[from] BadFile),
    /// The thread.
    #[error("cannot start a thread that sends: {0}")]
    Thread(#[from] std::io::Error),
}

impl Exporter {
    /// Begins to send what waits in the queue. `say` is given sentences about what does not work, and when it works again; it
    /// is called on another thread.
    ///
    /// # Errors
    /// When a file with keys or certificates cannot be used, or no thread can be started.
    pub fn start(
        settings: &Settings,
        origin: Origin,
        queue: Queue,
        say: impl Fn(&str) + Send + 'static,
    ) -> Result<Self, NoExporter> {
        let (orders, taken) = tokio::sync::mpsc::channel(ORDERS);
        let (tell_end, ended) = mpsc::channel();
        let counts = Arc::new(Counters::default());
        let origin = Arc::new(origin);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = {
            let _entered = runtime.enter();
            Sender::new(settings)?
        };
        let metrics = settings.metrics.as_ref().map(|_| Metrics::new(realtime_ns()));
        let task = Task::new(task::Parts {
            orders: taken,
            sender: Arc::new(sender),
            queue,
            sends_traces: settings.traces.is_some(),
            metrics,
            metrics_every: settings.metrics_every,
            temporality: settings.temporality,
            buckets: settings.buckets,
            origin: Arc::clone(&origin),
            counts: Arc::clone(&counts),
            say: Box::new(say),
        });
        thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            runtime.block_on(task.run());
            // A look-up of a name may still be under way.
            runtime.shutdown_background();
            let _ = tell_end.send(());
        })?;
        Ok(Self { orders, counts, origin, ended })
    }

    /// Sends the trace of a record, and adds the record to the metrics. It never waits.
    ///
    /// # Errors
    /// When no trace can be made of the record. It is counted all the same.
    pub fn send(&self, record: &Record) -> Result<(), NoTrace> {
        self.send_with(record, &PlatformAttributes::default())
    }

    /// As [`Self::send`], with what the platform knows of the migration. Metrics do not have it: ask for traces by it.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_with(&self, record: &Record, platform: &PlatformAttributes) -> Result<(), NoTrace> {
        self.order(record, platform, true)
    }

    /// Sends the trace of a record that may have been sent before. Metrics would count it again, so it is not added to them.
    ///
    /// # Errors
    /// When no trace can be made of the record.
    pub fn send_again(&self, record: &Record) -> Result<(), NoTrace> {
        self.send_again_with(record, &PlatformAttributes::default())
    }

    /// As [`Self::send_again`], with what the platform knows of the migration.
    ///
    /// # Errors
    /// As [`Self::send_again`].
    pub fn send_again_with(&self, record: &Record, platform: &PlatformAttributes) -> Result<(), NoTrace> {
        self.order(record, platform, false)
    }

    fn order(&self, record: &Record, platform: &PlatformAttributes, counts: bool) -> Result<(), NoTrace> {
        let request = trace_request_with(record, &self.origin, platform);
        let (trace, result) = match request {
            Ok(request) => (Some(request.encode_to_vec()), Ok(())),
            Err(why) => (None, Err(why)),
        };
        let has_trace = trace.is_some();
        let order = Order::Record { trace, counted: counts.then(|| Box::new(record.clone())) };
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = self.orders.try_send(order)
            && has_trace
        {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// What has become of the traces so far.
    #[must_use]
    pub fn counts(&self) -> ExportCounts {
        self.counts.now()
    }

    /// Goes on until everything is sent, but no longer than `limit`, and ends. Blocks meanwhile. What waits in a directory stays
    /// there for the next process; what waits in memory is lost, and is still counted as queued.
    #[must_use]
    pub fn shutdown(self, limit: Duration) -> ExportCounts {
        let Self { orders, counts, ended, .. } = self;
        // A full channel is emptied soon; the closed one after it says the same.
        let _ = orders.try_send(Order::End(limit));
        drop(orders);
        let _ = ended.recv_timeout(limit.saturating_add(GRACE));
        counts.now()
    }
}

#[cfg(test)]
mod tests;
