//! The options for Prometheus.

use clap::Args;
#[cfg(feature = "openmetrics")]
use std::{net::SocketAddr, path::PathBuf};

/// The heading of help for these options.
#[cfg(feature = "openmetrics")]
const PROMETHEUS: &str = "Prometheus";

/// Where metrics are to be had. There is nothing here without the feature `openmetrics`.
#[derive(Debug, Args)]
pub(crate) struct PrometheusArgs {
    /// Answer Prometheus at this address, under /metrics: for example 127.0.0.1:9464
    ///
    /// Whoever reaches it sees the names of VMs and what they migrated.
    #[cfg(feature = "openmetrics")]
    #[arg(long, value_name = "ADDRESS", help_heading = PROMETHEUS)]
    pub(crate) prometheus: Option<SocketAddr>,
    /// Write the same to this file, whose name ends in .prom, for the textfile collector of node_exporter
    ///
    /// It is replaced as a whole when a migration begins, every 15 s while one runs, after each, and every ten minutes in any
    /// case.
    #[cfg(feature = "openmetrics")]
    #[arg(long, value_name = "FILE", help_heading = PROMETHEUS)]
    pub(crate) textfile: Option<PathBuf>,
}
