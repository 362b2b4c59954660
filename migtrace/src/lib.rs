//! Measures what a live migration of a KVM virtual machine really cost. It does so in the kernel of the compute host, and
//! touches neither the guest nor QEMU nor libvirt.
//!
//! - **Phases**: each QMP event is stamped by the kernel's clock when QEMU writes it.
//! - **Bytes**: every byte of the migration's TCP connections, exactly as it is on the wire, per phase and per connection.
//! - **Downtime**: how long the vCPUs did not run, how long the guest's tap was silent, and how long pings of the guest went
//!   unanswered.
//!
//! Every time is an [estimate](record::Estimate): a value, a lower bound, an upper bound if anything gives one, and the
//! method. What could not be measured is listed with the reason.
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
//! - [`kernel`] loads the eBPF programs, attaches them and reads what they count and report. [`host`] reads the rest of this
//!   host: QEMU processes, interfaces, clocks.
//! - [`tracer::Tracer`] turns both into [`event::Event`]s: one observed fact each, with the kernel's time stamp. They
//!   are read one by one ([`tracer::Tracer::next`]) or as a stream ([`tracer::Tracer::events`]).
//! - [`timeline::Timeline`] folds events into [`record::Record`]s, one per migration. It does no I/O and reads no clock: the
//!   same events give the same record, whether they come from the kernel or from a log.
//! - [`timeline::merged`] makes one record of what several hosts have seen, each with its own clock.
//! - [`fleet`] finds out which of very many logs belong together.
//! - [`recorder::Recorder`] joins the two: it waits for the next migration to end and gives its record.
//! - [`report`] renders a record for people (as [text](report::text), or as a page: [`report::html`]) or as JSON.
//! - [`probe::Prober`] pings an address and finds the gaps in its replies, alone or as part of a recording.
//!
//! Events and records are `serde` types. Their JSON Schemas are in `schema/`. [`record::read`] and [`event::LogReader`] read
//! what was written, and check the name of its schema.
//!
//! # Example
//!
//! Wait for the next migration and print its record as JSON (`examples/record.rs` is a complete program):
//!
//! ```no_run
//! use migtrace::event::EndReason;
//! use migtrace::{recorder::Recorder, report, selection::Selection, tracer::Tracer};
//!
//! # #[cfg(feature = "trace")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tracer = Tracer::builder().start()?;
//! let mut recorder = Recorder::new(tracer, Selection::default());
//! while recorder.next().await?.is_some() {}
//! let (_last_events, timeline) = recorder.finish(EndReason::MigrationEnded)?;
//! for record in timeline.finish() {
//!     println!("{}", report::json(&record)?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The tracer watches the network namespace of the thread that starts it. It needs a tokio runtime with I/O and time.
//!
//! # Features
//!
//! `trace` observes this host, and needs a compiler for the eBPF target to build; `command` is the command; `otlp`, `openmetrics` and
//! `perfetto` are the exports. All are on by default. With `default-features = false` the library reads, folds, merges and reports.
//!
//! # Requirements
//!
//! Linux 5.10 or later, and the capabilities `CAP_BPF`, `CAP_PERFMON`, `CAP_NET_ADMIN`, `CAP_DAC_READ_SEARCH` and
//! `CAP_SYS_PTRACE` ([`host::capabilities`]). What a kernel cannot do is always listed: [`kernel::examine`] shows it
//! beforehand, [`record::Record::not_measured`] afterwards.

// These macros panic on a closed pipe.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
// Some of what the fold offers, only a tracer asks for; and much of the documentation leads there.
#![cfg_attr(
    not(feature = "trace"),
    allow(dead_code, rustdoc::broken_intra_doc_links, reason = "checked with the feature `trace`")
)]

#[doc(hidden)]
pub mod errors;
pub mod event;
pub mod export;
#[doc(hidden)]
#[cfg(any(feature = "command", feature = "openmetrics", feature = "otlp"))]
pub mod files;
pub mod fleet;
#[cfg(feature = "trace")]
pub mod host;
#[cfg(any(feature = "trace", feature = "otlp"))]
mod identity;
#[doc(hidden)]
pub mod invariants;
#[cfg(feature = "trace")]
pub mod kernel;
#[cfg(feature = "trace")]
pub mod peer;
pub mod ports;
pub mod probe;
pub mod record;
#[cfg(feature = "trace")]
pub mod recorder;
pub mod report;
pub mod schema;
pub mod selection;
pub mod study;
#[cfg(feature = "trace")]
mod tc_changes;
pub mod terminal;
#[cfg(feature = "trace")]
mod ticks;
pub mod timeline;
#[cfg(feature = "trace")]
pub mod tracer;
pub mod units;
mod vm;
pub mod vocabulary;
#[doc(hidden)]
pub mod wall_clock;
#[cfg(feature = "trace")]
pub mod watch;
