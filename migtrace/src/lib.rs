//! Measures what a live migration of a KVM virtual machine really cost: its phases, its bytes exactly as they are
//! on the wire, and how long the guest was gone; in the kernel, without touching guest, QEMU or libvirt.
//!
//! # The way of a fact
//!
//! ```text
//! kernel programs ──▶ kernel ──┐
//! /proc, netlink  ──▶ host ────┴──▶ tracer ──▶ Event ──┬──▶ event log ──▶ replay ──┐
//!                                                      └──▶ timeline ◀─────────────┘
//!                                                              └──▶ Record ──▶ report
//! ```
//!
//! - [`tracer::Tracer`] watches this host's QEMUs and migration flows and yields [`event::Event`]s, as an
//!   async call or as a stream.
//! - [`timeline::Timeline`] folds events into [`record::Record`]s. It does no I/O and reads no clock: the same
//!   events give the same record, whether they come from the kernel or from a log.
//! - [`recorder::Recorder`] joins the two: it waits for the next migration to end and gives its record.
//! - [`report`] renders a record.
//!
//! Records and events are `serde` types; their JSON Schemas stand in the crate's folder `schema`.
//!
//! # Example
//!
//! Wait for the next migration and print its record as JSON (`examples/record.rs` is the whole program):
//!
//! ```no_run
//! use migtrace::event::EndReason;
//! use migtrace::{recorder::Recorder, report, selection::Selection, tracer::Tracer};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tracer = Tracer::builder().start()?;
//! let mut recorder = Recorder::new(tracer, Selection::default());
//! while recorder.next().await?.is_some() {}
//! let (_, records) = recorder.finish(EndReason::MigrationEnded)?;
//! for record in &records {
//!     println!("{}", report::json(record)?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Requirements
//!
//! Linux 5.10 or later and the capabilities `CAP_BPF`, `CAP_PERFMON`, `CAP_NET_ADMIN`, `CAP_DAC_READ_SEARCH` and
//! `CAP_SYS_PTRACE` ([`host::capabilities`]). What a kernel cannot do is never lost in silence:
//! [`kernel::examine`] tells it beforehand, and [`record::Record::not_measured`] afterwards.

// Their macros panic when nobody reads any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod errors;
pub mod event;
pub mod host;
#[doc(hidden)]
pub mod invariants;
pub mod kernel;
pub mod ports;
pub mod probe;
pub mod record;
pub mod recorder;
pub mod report;
pub mod selection;
pub mod terminal;
pub mod timeline;
pub mod tracer;
pub mod units;
mod vm;
pub mod vocabulary;
