//! Records in the forms that the systems of others read.
//!
//! An export is made of [`Record`](crate::record::Record)s alone. What sends them somewhere is beside what makes them.

pub mod chrome;
#[cfg(feature = "metrics")]
pub mod ids;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "openmetrics")]
pub mod openmetrics;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(feature = "perfetto")]
pub mod perfetto;
mod scene;
