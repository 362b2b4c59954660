//! Measures what a live migration of a KVM virtual machine really cost.

pub mod event;
pub mod record;
pub mod report;
pub mod timeline;
pub mod units;
