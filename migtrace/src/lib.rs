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
//! - [`recorder::Recorder`] joins the two: it waits for the next migration to end and gives its record. [`watch::Watcher`] does so
//!   for all migrations of a host.
//! - [`report`] renders a record for people (as [text](report::text), or as a page: [`report::html`]) or as JSON.
//! - [`probe::Prober`] pings an address and finds the gaps in its replies, alone or as part of a recording.
//!
//! # Which part to take
//!
//! | to | take | example |
//! |---|---|---|
//! | follow all migrations of a host | [`watch::Watcher`] | `examples/watch.rs` sends each record away, and survives a sink that is down |
//! | record one migration | [`recorder::Recorder`] | `examples/record.rs` |
//! | read logs, without observing anything | [`event::LogReader`], [`timeline::Timeline`] | `examples/logs`: `fold` |
//! | join the logs of several hosts | [`timeline::merged`] | `examples/logs`: `merge` |
//! | send records to OpenTelemetry or Prometheus | [`export`] | `examples/attributes.rs` adds what only a platform knows, such as a tenant |
//!
//! ```no_run
//! # #[cfg(feature = "trace")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use migtrace::{report, selection::Selection, tracer::Tracer, watch};
//!
//! let mut watcher = watch::Watcher::new(Tracer::builder().start()?, Selection::default());
//! loop {
//!     if let watch::News::Finished(finished) = watcher.next().await? {
//!         for record in &finished.records {
//!             println!("{}", report::line(record));
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `trace` | observing this host: `tracer`, `recorder`, `watch`, `probe`, `peer`, `kernel` and `host`. To build it takes a compiler for the eBPF target ([`cargo xtask setup`](https://github.com/migtrace/migtrace/blob/main/docs/CONTRIBUTING.md#set-up) installs one) |
//! | `otlp`, `openmetrics`, `perfetto` | the exports |
//! | `command` | the command `migtrace`. A program that embeds the library does not need it |
//!
//! All are on by default. With `default-features = false` the library still reads, folds, merges and reports: it then has a quarter
//! of the dependencies, no async runtime among them, and needs neither privileges nor a certain kernel.
//!
//! # Threads, runtimes and namespaces
//!
//! - A tracer belongs to the network namespace of the thread that starts it. It sees the QEMUs and the interfaces of that one. Poll
//!   it in that namespace: on the same thread, or on threads that never change theirs.
//! - A [`Tracer`](tracer::Tracer), a [`Recorder`](recorder::Recorder), a [`Watcher`](watch::Watcher) and a
//!   [`Prober`](probe::Prober) need a tokio runtime with I/O and time (`enable_all`), of one thread or of several: they are `Send`.
//!   They do nothing between two polls, but the kernel goes on: its buffers hold some thousand messages. So poll without
//!   long breaks, and give what takes time (a sink, a file on a network) to another task. What found no room is counted, and the
//!   record says so ([`record::Record::lost`]).
//! - `next` of each is cancel-safe: in a `select!`, nothing is lost.
//! - [`tracer::Builder::start`] blocks while the kernel verifies the programs: up to some seconds on a slow machine.
//! - A prober sends from a thread of its own. [`export::otlp::Exporter`] has a thread with its own runtime, so it can be used from any
//!   program, async or not. Nothing else starts threads that stay.
//! - Everything else is plain, synchronous code, and does no I/O unless its documentation says so.
//!
//! # Stopping
//!
//! `finish` gives the last events, or the records of what is still under way, marked as interrupted. To end gracefully, a watcher
//! [takes nothing new on](watch::Watcher::decline) and is polled until it [is idle](watch::Watcher::is_idle). Dropping any of them
//! detaches the programs; so does a crash, on Linux 6.6 and later. On older kernels filters stay that pass every packet:
//! [`tracer::clean_up`] removes them, and the next start does, too. The library handles no signals and never ends the process.
//!
//! # Privileges
//!
//! | capability | for | without it |
//! |---|---|---|
//! | `CAP_BPF` | maps and programs | a tracer does not start |
//! | `CAP_PERFMON` | programs that read packets and kernel memory; tracepoints and kprobes | a tracer does not start |
//! | `CAP_NET_ADMIN` | TC programs at interfaces | a tracer does not start |
//! | `CAP_SYS_PTRACE` | `/proc/PID` of QEMUs of other users | an error once there is such a QEMU |
//! | `CAP_DAC_READ_SEARCH` | tracefs, and what QEMUs of other users hold open | no tracepoints: where they stand in for kprobes, phases and the stop are missing, and each record says so |
//! | `CAP_NET_RAW` | pinging | a [`Prober`](probe::Prober) that sends does not start |
//!
//! [`host::capabilities`] asks which a thread has. [`kernel::examine`] says beforehand what this kernel cannot do. The service
//! that is packaged runs the command with the first five, as a user that systemd makes for it (`dist/migtrace.service`).
//!
//! # What it costs
//!
//! About 6 ns for a packet that is not a migration's, 79 ns for one that is, 0.04 % of a core while nothing happens, and 14 to 18 MiB,
//! most of it ring buffers and code: [docs/costs.md](https://github.com/migtrace/migtrace/blob/main/docs/costs.md). A timeline keeps
//! what it is told: some 60 bytes for each reading of a connection's counters, ten a second at first.
//!
//! # What stays as it is
//!
//! [`Record`](record::Record), [`Event`](event::Event) and [`ProbeReport`](probe::ProbeReport) are `serde` types. Their JSON carries
//! the name of its schema (`migtrace.record/1`), and the schemas are in `schema/`: within one name, fields are only added, and logs
//! of old versions are read by new ones. [`record::read`] and [`event::LogReader`] refuse other names. In Rust, what only is read is
//! `#[non_exhaustive]`: a later version may say more. What is not known is `None` and never 0, and the reason is in
//! [`not_measured`](record::Record::not_measured).
//!
//! # Errors
//!
//! Each part has an error type that can be matched: [`TracerError`](tracer::TracerError), [`RecorderError`](recorder::RecorderError),
//! [`ProbeError`](probe::ProbeError), [`LogError`](event::LogError), [`NotTogether`](timeline::NotTogether), ... Their texts say what
//! was tried and what to do; causes are their `source`. What a kernel or a host lacks is no error as long as something can be
//! measured: it is in the record. Once `next` has failed, the kernel cannot be read any more: call `finish`, keep what it still
//! gives, and start again.
//!
//! Names of guests, hosts and networks may be chosen by anybody. [`report`] and the exports make them harmless; before printing other
//! texts of a record, use [`terminal::clean`].
//!
//! Linux 5.10 or later.

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
