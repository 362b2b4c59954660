//! Where else than to files the migrations of a watch go.

use anyhow::Result;
use migtrace::record::Record;
use migtrace::vocabulary::Lost;
use migtrace::watch::Watcher;

use super::counts::Counts;
#[cfg(feature = "openmetrics")]
use super::prometheus::Prometheus;
use crate::cli::WatchArgs;
#[cfg(feature = "otlp")]
use crate::commands::otlp::{Export, News};

/// A collector and Prometheus, as far as they were asked for.
#[derive(Default)]
pub(super) struct Exports {
    #[cfg(feature = "otlp")]
    otlp: Option<Export>,
    #[cfg(feature = "openmetrics")]
    prometheus: Option<Prometheus>,
}

#[cfg_attr(
    not(all(feature = "otlp", feature = "openmetrics")),
    allow(
        unused_variables,
        clippy::unused_self,
        clippy::needless_pass_by_ref_mut,
        clippy::unused_async,
        reason = "less is exported"
    )
)]
impl Exports {
    /// Begins to export. What is wrong with the options shows here, before anything is attached.
    pub(super) async fn start(options: &WatchArgs) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "otlp")]
            otlp: Export::start(&options.otlp, News::New)?,
            #[cfg(feature = "openmetrics")]
            prometheus: Prometheus::start(&options.prometheus).await?,
        })
    }

    /// A migration is over.
    pub(super) fn finished(&mut self, record: &Record, counts: &mut Counts) -> Result<()> {
        #[cfg(feature = "otlp")]
        if let Some(otlp) = &self.otlp {
            counts.lost_traces += u64::from(!otlp.send(record));
        }
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = &mut self.prometheus {
            return prometheus.finished(record);
        }
        Ok(())
    }

    /// Whether somebody wants to see migrations while they run, and there are or were some.
    pub(super) fn shows_running(&self, watcher: &Watcher) -> bool {
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = &self.prometheus {
            return !watcher.is_idle() || prometheus.shows_some();
        }
        false
    }

    /// Shows the migrations that are under way.
    pub(super) fn show_running(&mut self, watcher: &Watcher) -> Result<()> {
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = &mut self.prometheus {
            return prometheus.show_running(watcher);
        }
        Ok(())
    }

    /// Shows that somebody watches, from time to time.
    pub(super) fn show_life(&mut self) -> Result<()> {
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = &mut self.prometheus {
            return prometheus.write();
        }
        Ok(())
    }

    /// So many facts were lost since the start.
    pub(super) fn lost(&self, lost: Lost) {
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = &self.prometheus {
            prometheus.lost(lost);
        }
    }

    /// Something could not be written.
    pub(super) fn failed(&self, what: &'static str) {
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = &self.prometheus {
            prometheus.failed(what);
        }
    }

    /// Sends what still waits, but not for long.
    pub(super) fn end(self, counts: &mut Counts) -> Result<()> {
        #[cfg(feature = "otlp")]
        if let Some(otlp) = self.otlp {
            let ended = otlp.end();
            counts.sent_traces = ended.counts.sent;
            counts.lost_traces += ended.lost();
        }
        #[cfg(feature = "openmetrics")]
        if let Some(prometheus) = self.prometheus {
            return prometheus.end();
        }
        Ok(())
    }
}
