//! The thread of an exporter: takes records, keeps them in the queue, and sends the oldest.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use super::Counters;
use crate::export::metrics::Metrics;
use crate::export::otlp::queue::{Entry, Queue};
use crate::export::otlp::send::{Answer, Sender, Signal};
use crate::export::otlp::{Buckets, Origin, Temporality, metrics_request};
use crate::record::Record;
use crate::wall_clock::realtime_ns;

/// The first time to wait before a request is tried again. Each further one is twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// The longest time that a collector may ask to wait.
const LONGEST_ASKED: Duration = Duration::from_mins(10);

/// How long to wait before metrics are tried again at the end.
const LAST_METRICS: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
pub(super) enum Order {
    Record {
        /// The encoded request, if there is a trace.
        trace: Option<Vec<u8>>,
        /// The record, if it is to be added to the metrics.
        counted: Option<Box<Record>>,
    },
    /// End once all is sent, or after this time.
    End(Duration),
}

/// What a task is made of.
pub(super) struct Parts {
    pub(super) orders: Receiver<Order>,
    pub(super) sender: Arc<Sender>,
    pub(super) queue: Queue,
    pub(super) sends_traces: bool,
    pub(super) metrics: Option<Metrics>,
    pub(super) metrics_every: Duration,
    pub(super) temporality: Temporality,
    pub(super) buckets: Buckets,
    pub(super) origin: Arc<Origin>,
    pub(super) counts: Arc<Counters>,
    pub(super) say: Box<dyn Fn(&str) + Send>,
}

type Sending = Pin<Box<dyn Future<Output = (Entry, Answer)> + Send>>;
type SendingMetrics = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The state of the thread.
pub(super) struct Task {
    parts: Parts,
    sending: Option<Sending>,
    sending_metrics: Option<SendingMetrics>,
    /// When the oldest may be tried again, and how long the wait before was.
    next: Instant,
    wait: Duration,
    /// Whether the last request went wrong, so that this is said once.
    in_trouble: bool,
    /// Why the last trace was refused, if one was since the last that was taken.
    refused: Option<String>,
    metrics_in_trouble: bool,
    next_metrics: Instant,
    /// Whether a record was added to the metrics since they were sent.
    has_news: bool,
    /// Metrics that count from the ones before, until the collector has them.
    kept_metrics: Option<Vec<u8>>,
    /// Until when to go on, once the end was asked for.
    until: Option<Instant>,
}

impl Task {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            next: Instant::now(),
            next_metrics: Instant::now() + parts.metrics_every,
            parts,
            sending: None,
            sending_metrics: None,
            wait: FIRST_WAIT,
            in_trouble: false,
            refused: None,
            metrics_in_trouble: false,
            has_news: false,
            kept_metrics: None,
            until: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut lost = (0, 0);
        loop {
            self.count_losses(&mut lost);
            if self.is_over() {
                return;
            }
            self.begin();
            tokio::select! {
                order = self.parts.orders.recv(), if self.until.is_none() => self.take(order),
                (entry, answer) = finished(self.sending.as_mut()) => {
                    self.sending = None;
                    self.conclude(&entry, answer);
                }
                answer = finished(self.sending_metrics.as_mut()) => {
                    self.sending_metrics = None;
                    self.conclude_metrics(answer);
                }
                () = sleep_until(self.next), if self.sending.is_none() && !self.parts.queue.is_empty() => {}
                () = sleep_until(self.next_metrics), if self.waits_for_metrics() => {}
                () = sleep_until(self.until.unwrap_or_else(Instant::now)), if self.until.is_some() => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        let Some(until) = self.until else { return false };
        let is_idle = self.sending.is_none() && self.sending_metrics.is_none();
        let nothing_left = self.parts.queue.is_empty() && !self.has_metrics_left();
        Instant::now() >= until || (is_idle && nothing_left)
    }

    const fn has_metrics_left(&self) -> bool {
        self.parts.metrics.is_some() && (self.has_news || self.kept_metrics.is_some())
    }

    fn waits_for_metrics(&self) -> bool {
        self.parts.metrics.is_some() && self.sending_metrics.is_none()
    }

    fn take(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Record { trace, counted }) => {
                if let Some(trace) = trace.filter(|_| self.parts.sends_traces)
                    && let Err(error) = self.parts.queue.push(trace)
                {
                    self.parts.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    (self.parts.say)(&format!("{error}: a trace is lost"));
                }
                if let (Some(record), Some(metrics)) = (counted, &mut self.parts.metrics) {
                    metrics.add(&record, realtime_ns());
                    self.has_news = true;
                }
            }
            Some(Order::End(limit)) => self.end(limit),
            // Whoever has sent has forgotten to end: the time for that is what one last try takes.
            None => self.end(Duration::from_secs(5)),
        }
    }

    fn end(&mut self, limit: Duration) {
        let now = Instant::now();
        self.until = Some(now + limit);
        self.next = self.next.min(now + limit / 2);
        self.next_metrics = now;
    }

    /// Begins to send what it is time for.
    fn begin(&mut self) {
        let now = Instant::now();
        if self.sending.is_none()
            && now >= self.next
            && let Some(entry) = self.parts.queue.oldest()
        {
            let sender = Arc::clone(&self.parts.sender);
            self.sending = Some(Box::pin(async move {
                let answer = send(sender, Signal::Traces, entry.request.clone()).await;
                (entry, answer)
            }));
        }
        if now >= self.next_metrics
            && self.sending_metrics.is_none()
            && let Some(request) = self.metrics_to_send()
        {
            let sender = Arc::clone(&self.parts.sender);
            self.sending_metrics = Some(Box::pin(send(sender, Signal::Metrics, request)));
        }
    }

    /// The metrics that it is time for, if there are some.
    fn metrics_to_send(&mut self) -> Option<Vec<u8>> {
        let metrics = self.parts.metrics.as_mut()?;
        self.next_metrics = Instant::now() + self.parts.metrics_every;
        if let Some(kept) = &self.kept_metrics {
            return Some(kept.clone());
        }
        self.has_news = false;
        let has_points = metrics.families().iter().any(|family| !family.points.is_empty());
        let Parts { temporality, buckets, ref origin, .. } = self.parts;
        let at_ns = realtime_ns();
        let request = has_points
            .then(|| metrics_request(metrics, at_ns, temporality, buckets, origin).encode_to_vec())?;
        if temporality == Temporality::Delta {
            *metrics = Metrics::new(at_ns);
            self.kept_metrics = Some(request.clone());
        }
        Some(request)
    }

    fn conclude(&mut self, entry: &Entry, answer: Answer) {
        let counts = &self.parts.counts;
        match answer {
            Answer::Accepted { rejected, message } => {
                self.parts.queue.done(entry);
                counts.sent.fetch_add(1, Ordering::Relaxed);
                counts.rejected.fetch_add(rejected, Ordering::Relaxed);
                if rejected > 0 || !message.is_empty() {
                    (self.parts.say)(&format!("the collector left out {rejected} spans: {message}"));
                }
                if self.in_trouble {
                    self.in_trouble = false;
                    (self.parts.say)("traces can be sent again");
                }
                self.refused = None;
                self.wait = FIRST_WAIT;
            }
            Answer::Refused { why } => {
                self.parts.queue.done(entry);
                counts.failed.fetch_add(1, Ordering::Relaxed);
                if self.refused.as_ref() != Some(&why) {
                    (self.parts.say)(&format!("a trace was not taken: {why}"));
                    self.refused = Some(why);
                }
                self.wait = FIRST_WAIT;
            }
            Answer::TryAgain { after, why } => {
                if !self.in_trouble {
                    self.in_trouble = true;
                    (self.parts.say)(&format!("traces cannot be sent now: {why}"));
                }
                self.put_off(after);
            }
        }
    }

    /// Waits before the next try: as long as the collector asks, or each time twice as long. The exact time differs, so that many
    /// hosts do not come back at once.
    fn put_off(&mut self, asked: Option<Duration>) {
        let wait = match asked {
            Some(asked) => asked.clamp(FIRST_WAIT, LONGEST_ASKED),
            None => {
                let wait = self.wait.mul_f64(fastrand::f64() + 0.5);
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
                wait
            }
        };
        self.next = Instant::now() + wait;
        // Before the end there is time for one more try.
        if let Some(until) = self.until
            && asked.is_none()
        {
            let half = until.saturating_duration_since(Instant::now()) / 2;
            self.next = self.next.min(Instant::now() + half.max(Duration::from_millis(50)));
        }
    }

    fn conclude_metrics(&mut self, answer: Answer) {
        let counts = &self.parts.counts;
        // Of a request that is refused, nothing would change if it came again. Cumulative ones have more to say next time.
        let is_over = !matches!(answer, Answer::TryAgain { .. });
        let is_cumulative = self.parts.temporality == Temporality::Cumulative;
        if is_over && self.kept_metrics.take().is_some() && self.until.is_some() {
            // What has come meanwhile.
            self.next_metrics = Instant::now();
        }
        let why = match answer {
            Answer::Accepted { rejected, message } => {
                counts.rejected.fetch_add(rejected, Ordering::Relaxed);
                if rejected > 0 || !message.is_empty() {
                    (self.parts.say)(&format!(
                        "the collector left out {rejected} points of metrics: {message}"
                    ));
                }
                self.metrics_in_trouble = false;
                return;
            }
            Answer::Refused { why } | Answer::TryAgain { why, .. } => why,
        };
        counts.metrics_failed.fetch_add(1, Ordering::Relaxed);
        if !self.metrics_in_trouble {
            self.metrics_in_trouble = true;
            (self.parts.say)(&format!("metrics cannot be sent now: {why}"));
        }
        // The next ones say all that these would have said.
        self.has_news |= is_cumulative;
        if let Some(until) = self.until.filter(|_| is_cumulative || !is_over) {
            self.next_metrics = Instant::now() + LAST_METRICS;
            if self.next_metrics >= until {
                // There is no time for another try.
                (self.has_news, self.kept_metrics) = (false, None);
            }
        }
    }

    /// Adds what the queue has lost to the counts.
    fn count_losses(&self, before: &mut (u64, u64)) {
        let queue = &self.parts.queue;
        let now = (queue.dropped(), queue.damaged());
        let lost = now.0 - before.0 + now.1 - before.1;
        if lost > 0 {
            self.parts.counts.dropped.fetch_add(lost, Ordering::Relaxed);
            let why = if now.1 > before.1 { "were damaged" } else { "had to make room for later ones" };
            (self.parts.say)(&format!("{lost} traces that waited to be sent {why}"));
        }
        *before = now;
        self.parts.counts.queued.store(queue.len() as u64, Ordering::Relaxed);
    }
}

/// Sends a request. What reads the answer is not all ours: an answer that ends it in a panic costs this request, not the thread.
async fn send(sender: Arc<Sender>, signal: Signal, request: Vec<u8>) -> Answer {
    let sent = tokio::spawn(async move { sender.send(signal, &request).await });
    sent.await.unwrap_or_else(|_| Answer::Refused { why: "the collector's answer cannot be read".into() })
}

/// What a future gives, if there is one. Otherwise nothing ever comes.
async fn finished<T>(future: Option<&mut Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
