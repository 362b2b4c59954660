//! Records for Prometheus, and for what reads its formats.
//!
//! [`Exporter`] holds what a process has to say: what its migrations add up to ([`metrics`](super::metrics)), the last migration
//! of each VM, and the migrations that are under way. [`Server`] answers scrapes with it, [`Textfile`] writes it for
//! node_exporter. [`past`] makes the gauges of past migrations, with their times, for a database that is filled later.
//!
//! No VM is in the labels of a histogram; its exemplars lead to single migrations. The gauges of single migrations have the labels
//! `domain` and `uuid`, as libvirt's exporters have them.

mod exporter;
mod gauges;
mod labels;
mod past;
mod running;
mod server;
mod sums;
#[cfg(test)]
mod tests;
mod text;
mod textfile;

pub use exporter::{Exporter, Running};
pub use past::{NoWallTime, past};
pub use server::{BindError, Server};
pub use text::Dialect;
pub use textfile::{NotATextfile, Textfile};
