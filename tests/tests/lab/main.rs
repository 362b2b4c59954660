//! The tests in the lab: migtrace as a black box, on real migrations, sockets and packets.
//!
//! They need root and a built `migtrace` (`cargo build -p migtrace`), and share two CPUs with the guests that they
//! measure, so run them one after the other: `cargo test -p migtrace-lab --test lab -- --test-threads=1`.
//! [`other_kernels`] does something only inside the VMs that `cargo xtask vm` boots.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

mod support;

mod bad_input;
mod broken_logs;
mod clean_exit;
mod coexistence;
mod degraded_host;
mod downtime;
mod interface_removal;
mod lab_itself;
mod libvirt;
mod long_run;
mod many_sleeps;
mod merge;
mod other_kernels;
mod otlp;
mod peers;
mod peers_in_vain;
mod probe;
mod qemu_identity;
mod qmp_lines;
mod reachability;
mod record;
mod record_failures;
mod record_scope;
mod record_waits;
mod shapes;
mod study;
mod two_kernels;
mod untrusted_peers;
mod vcpu_stops;
mod watch;
mod wire_bytes;
