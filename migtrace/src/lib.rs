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
//! # Requirements
//!
//! Linux 5.10 or later, and the capabilities `CAP_BPF`, `CAP_PERFMON`, `CAP_NET_ADMIN`, `CAP_DAC_READ_SEARCH` and
//! `CAP_SYS_PTRACE` ([`host::capabilities`]). What a kernel cannot do is always listed: [`kernel::examine`] shows it
//! beforehand, [`record::Record::not_measured`] afterwards.

// These macros panic on a closed pipe.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod errors;
pub mod event;
pub mod export;
#[doc(hidden)]
pub mod files;
pub mod fleet;
pub mod host;
#[doc(hidden)]
pub mod invariants;
pub mod kernel;
pub mod peer;
pub mod ports;
pub mod probe;
pub mod record;
pub mod recorder;
pub mod report;
pub mod schema;
pub mod selection;
pub mod study;
mod tc_changes;
pub mod terminal;
mod ticks;
pub mod timeline;
pub mod tracer;
pub mod units;
mod vm;
pub mod vocabulary;
pub mod watch;
