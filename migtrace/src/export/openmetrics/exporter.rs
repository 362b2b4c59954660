//! What a process has to say to Prometheus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::gauges::{self, Gauge};
use super::labels::Labels;
use super::past::ended_ns;
use super::running::{self, Followed};
use super::sums;
use super::text::{Dialect, Family, Sample, timestamp, written};
use crate::export::metrics::Metrics;
use crate::record::{Record, Vantage};
use crate::timeline::Live;
use crate::vocabulary::Lost;

/// The most VMs whose last migration is shown. Those whose migrations are the oldest give way.
const MOST_VMS: usize = 500;

/// The most running migrations that are shown.
const MOST_RUNNING: usize = 100;

/// A migration that is under way.
#[derive(Clone, Debug)]
pub struct Running {
    /// How it is now.
    pub live: Live,
    /// The VM's UUID.
    pub uuid: Option<String>,
    /// What QEMU says is left of the guest's memory; none where it was not asked.
    pub remaining_bytes: Option<u64>,
}

impl Running {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let key = |running: &Self| (running.live.pid, running.live.role, running.uuid.clone());
        key(self) == key(other)
    }

    /// Whether this is what it was like while it ran.
    fn is_of(&self, record: &Record) -> bool {
        let role = Vantage::from(self.live.role);
        self.live.id.is_some()
            && self.live.id == record.migration.id
            && record.observers.iter().any(|observer| observer.role == role)
    }
}

/// What a process has to say. Its clones say the same.
#[derive(Clone)]
pub struct Exporter(Arc<Mutex<State>>);

struct State {
    metrics: Metrics,
    /// By the labels of the VM and this host's part; the latest is last.
    last: VecDeque<(Labels, Vec<Gauge>)>,
    running: Vec<Followed>,
    lost: Lost,
    failures: BTreeMap<&'static str, u64>,
    scrapes: BTreeMap<u16, u64>,
    textfile_writes: u64,
}

impl Exporter {
    /// Nothing yet. `started_ns` is the wall time since which migrations are counted, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn new(started_ns: u64) -> Self {
        let state = State {
            metrics: Metrics::new(started_ns),
            last: VecDeque::new(),
            running: Vec::new(),
            lost: Lost::default(),
            failures: BTreeMap::new(),
            scrapes: BTreeMap::new(),
            textfile_writes: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Adds a migration that has ended, and is no longer under way. `at_ns` is the wall time of that, in nanoseconds since the
    /// Unix epoch.
    pub fn add(&self, record: &Record, at_ns: u64) {
        let mut state = self.state();
        state.metrics.add(record, at_ns);
        state.running.retain(|each| !each.running.is_of(record));
        let labels = gauges::labels(record);
        let ended_ns = ended_ns(record).unwrap_or_else(|| i64::try_from(at_ns).unwrap_or(i64::MAX));
        state.last.retain(|(other, _)| *other != labels);
        state.last.push_back((labels, gauges::of(record, ended_ns)));
        if state.last.len() > MOST_VMS {
            state.last.pop_front();
        }
    }

    /// Says which migrations are under way now, and how they are. Call it about once a second, and when one ends.
    pub fn set_running(&self, running: impl IntoIterator<Item = Running>) {
        let mut state = self.state();
        let running = running.into_iter().take(MOST_RUNNING);
        let running = running.map(|running| Followed::new(running, &state.running)).collect();
        state.running = running;
    }

    /// Says how many facts this process has lost since it started.
    pub fn set_lost(&self, lost: Lost) {
        self.state().lost = lost;
    }

    /// Counts something that could not be done: `record`, `event_log`. The word becomes a label, so there must be few.
    pub fn count_failure(&self, what: &'static str) {
        *self.state().failures.entry(what).or_default() += 1;
    }

    /// The text of all.
    #[must_use]
    pub fn text(&self, dialect: Dialect) -> String {
        written(&self.state().families(), dialect)
    }

    pub(super) fn count_scrape(&self, status: u16) {
        *self.state().scrapes.entry(status).or_default() += 1;
    }

    pub(super) fn count_textfile(&self, is_written: bool) {
        if is_written {
            self.state().textfile_writes += 1;
        } else {
            self.count_failure("textfile");
        }
    }

    /// No panic leaves the state broken: each change is complete or was not begun.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn families(&self) -> Vec<Family> {
        let mut families = self.itself();
        families.extend(sums::families(&self.metrics));
        families.extend(gauges::families(self.last.iter().map(|(_, gauges)| (gauges.as_slice(), None))));
        families.extend(running::families(&self.running));
        families
    }

    /// What it says of itself.
    #[expect(clippy::cast_precision_loss, reason = "counts are doubles")]
    fn itself(&self) -> Vec<Family> {
        let label = |name: &str, value: &str| Labels::default().with(name, value);
        let Lost { ring_buffer, flows, hook_calls, qmp_lines, vcpus } = self.lost;
        let lost = [
            ("ring_buffer", ring_buffer),
            ("flows", flows),
            ("hook_calls", hook_calls),
            ("qmp_lines", qmp_lines),
            ("vcpus", vcpus),
        ];
        let lost = lost.map(|(what, count)| Sample::new(label("what", what), count as f64));
        let failures =
            self.failures.iter().map(|(what, count)| Sample::new(label("what", what), *count as f64));
        let scrapes = self
            .scrapes
            .iter()
            .map(|(status, count)| Sample::new(label("code", &status.to_string()), *count as f64));
        let version = Sample::new(label("version", env!("CARGO_PKG_VERSION")), 1.0);
        let started_ns = i64::try_from(self.metrics.started_ns()).unwrap_or(i64::MAX);
        let started = Sample::new(Labels::default(), timestamp(started_ns));
        let writes = Sample::new(Labels::default(), self.textfile_writes as f64);
        vec![
            Family::info("migtrace_build", "The version of migtrace that runs", vec![version]),
            Family::gauge(
                "migtrace_start_timestamp_seconds",
                "seconds",
                "Since when migrations are counted, since the Unix epoch",
                vec![started],
            ),
            Family::counter("migtrace_lost_facts", "Facts that were lost, by what lost them", lost.into()),
            Family::counter(
                "migtrace_failures",
                "What could not be written, by what it was",
                failures.collect(),
            ),
            Family::counter(
                "migtrace_scrapes",
                "Answers to requests for metrics, by status",
                scrapes.collect(),
            ),
            Family::counter(
                "migtrace_textfile_writes",
                "How often the file for node_exporter was written",
                vec![writes],
            ),
        ]
    }
}
