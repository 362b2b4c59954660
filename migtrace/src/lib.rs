//! Measures what a live migration of a KVM virtual machine really cost.

pub mod event;
pub mod host;
pub mod kernel;
pub mod ports;
pub mod probe;
pub mod record;
pub mod recorder;
pub mod report;
pub mod selection;
pub mod timeline;
pub mod tracer;
pub mod units;
