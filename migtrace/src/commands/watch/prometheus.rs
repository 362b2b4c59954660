//! What Prometheus and node_exporter get from a watch.

use std::time::Instant;

use anyhow::{Context as _, Result};
use migtrace::export::openmetrics::{Exporter, Running, Server, Textfile};
use migtrace::record::Record;
use migtrace::vocabulary::Lost;
use migtrace::wall_clock::realtime_ns;
use migtrace::watch::{JournalId, Watcher};

use crate::cli::PrometheusArgs;

/// The metrics of a watch, and where they are to be had.
pub(super) struct Prometheus {
    exporter: Exporter,
    textfile: Option<Textfile>,
    /// When the file was written.
    written: Instant,
    /// The migrations that were under way when that was last looked at.
    shown: Vec<JournalId>,
}

impl Prometheus {
    /// Begins to answer scrapes, and writes the file for the first time.
    pub(super) async fn start(options: &PrometheusArgs) -> Result<Option<Self>> {
        if options.prometheus.is_none() && options.textfile.is_none() {
            return Ok(None);
        }
        let exporter = Exporter::new(realtime_ns());
        if let Some(address) = options.prometheus {
            let server = Server::bind(address, exporter.clone()).await?;
            tokio::spawn(server.run());
        }
        let textfile =
            options.textfile.clone().map(|path| Textfile::new(path, exporter.clone())).transpose()?;
        let mut prometheus = Self { exporter, textfile, written: Instant::now(), shown: Vec::new() };
        prometheus.write().map(|()| Some(prometheus))
    }

    /// A migration is over.
    pub(super) fn finished(&mut self, record: &Record) -> Result<()> {
        self.exporter.add(record, realtime_ns());
        self.write()
    }

    /// Whether there were migrations under way when [`Self::show_running`] was last called.
    pub(super) const fn shows_some(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Shows the migrations that are under way. The file is written when one comes or goes, and now and then between.
    pub(super) fn show_running(&mut self, watcher: &Watcher) -> Result<()> {
        let uuid = |pid: Option<u32>| {
            let mut qemus = watcher.tracer().qemus();
            qemus.find(|qemu| Some(qemu.pid) == pid).and_then(|qemu| qemu.uuid.clone())
        };
        let running = watcher.live().into_iter().map(|(journal, live)| {
            // Nobody asks QEMU what remains.
            (journal, Running { uuid: uuid(live.pid), live, remaining_bytes: None })
        });
        let (journals, running): (Vec<_>, Vec<_>) = running.unzip();
        self.exporter.set_running(running);
        let are_the_same = journals == self.shown;
        self.shown = journals;
        if are_the_same && self.written.elapsed() < Textfile::INTERVAL {
            return Ok(());
        }
        self.write()
    }

    /// Nobody watches any more: a file that stays must not show what was under way.
    pub(super) fn end(mut self) -> Result<()> {
        self.exporter.set_running([]);
        self.write()
    }

    pub(super) fn lost(&self, lost: Lost) {
        self.exporter.set_lost(lost);
    }

    pub(super) fn failed(&self, what: &'static str) {
        self.exporter.count_failure(what);
    }

    /// Writes the file, also if nothing has changed: its age says whether somebody watches.
    pub(super) fn write(&mut self) -> Result<()> {
        self.written = Instant::now();
        let Some(textfile) = &self.textfile else { return Ok(()) };
        textfile.write().with_context(|| format!("cannot write {}", textfile.path().display()))
    }
}
