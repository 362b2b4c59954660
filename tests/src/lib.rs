//! The lab: real live migrations on one machine, for tests and to play with.
//!
//! A lab has two hosts and an observer (network namespaces, each host with a bridge), a switch that joins them, and a guest
//! that answers ping and dirties memory while QEMU moves it from host to host. When a [`Lab`] is dropped, or its driver ends
//! in any way, nothing is left behind.
//!
//! ```no_run
//! use migtrace_lab::{Lab, Migration, Outcome};
//!
//! let mut lab = Lab::builder().memory_mib(256).dirty(64, 20).rate("400mbit").start()?;
//! lab.wait_guest_ready()?;
//! let migrated = lab.migrate(&Migration::like_libvirt())?;
//! assert_eq!(migrated.outcome, Outcome::Completed);
//! lab.ping_guest()?;
//! # anyhow::Ok(())
//! ```
//!
//! It needs root and, from Debian, `qemu-system-x86` and `iproute2`, as well as `ethtool` to change offloads, `nftables` to
//! drop packets and `openssl` to encrypt migrations by [`libvirt`]. The guest's kernel and libvirt are downloaded with apt and
//! never installed.
//!
//! The lab knows nothing of how migtrace works: [`migtrace_command`] runs the built command, and what the lab measures it
//! measures by itself. So it builds before there is a toolchain for the eBPF programs.

mod apt;
mod bare_pair;
mod bare_qemu;
mod bpf_syscall;
mod cache;
mod certificates;
mod clock;
mod connection;
pub mod cpio;
mod cpu_load;
mod cpu_stalls;
mod cpu_threads;
mod disk;
mod downloads;
mod downtime_anatomy;
mod fd_info;
mod guest;
mod hooks;
mod host;
mod janitor;
pub mod kernels;
mod lab;
pub mod libvirt;
mod links;
mod map_entries;
mod migration;
pub mod migtrace_command;
mod nbd;
pub mod netns;
mod packet_counter;
mod ping;
mod process;
mod programs;
mod qcow2;
mod qemu;
mod qmp;
pub mod record_checks;
mod responder;
mod shared_lab;
mod tcx_links;
mod tls;
mod topology;
pub mod vm;
pub mod watch_command;
mod wheels;
mod wiretap;

pub use bare_pair::{BareGuest, BarePair};
pub use bare_qemu::BareQemu;
pub use certificates::Authority;
pub use clock::monotonic_ns;
pub use connection::Connection;
pub use cpu_load::CpuLoad;
pub use cpu_stalls::{CpuStallWatch, CpuStalls};
pub use downloads::{DEBIAN_DISK, Download, ZIG_PROGRAMS};
pub use downtime_anatomy::{BoundedDuration, DowntimeAnatomy};
pub use guest::{Guest, INIT_VARIABLE, MODULES as GUEST_MODULES, init};
pub use hooks::{BEST_HOOKS, hooks_without_perf_events};
pub use host::Host;
pub use lab::{Builder, Convergence, Lab, Remover, converge, list, most_dirty_mib, tear_down};
pub use libvirt::{AbortPoint, JobInfo, LibvirtLab, LibvirtMigration, MigratedByLibvirt};
pub use links::{descriptors, links, wait_for_tcx_links};
pub use map_entries::map_entries;
pub use migration::{Action, Migrated, Migration, ObservedEvent, Outcome, Progress, Side};
pub use nbd::NbdDisk;
pub use packet_counter::{PacketCounter, PacketDirection, TcVerdict};
pub use process::{Process, process_status};
pub use qemu::{Qemu, QemuChoice, QemuProgram};
pub use qmp::{Qmp, QmpError, QmpEvent, send_migration_status};
pub use responder::{ActualSilence, PlannedSilence, PlayedPlan, Responder, SilenceKind};
pub use shared_lab::{Shared, SharedGuest, shared_lab, shared_libvirt_lab};
pub use tcx_links::detach_tcx_links;
pub use tls::TlsKey;
pub use wiretap::{Capture, Stream, Tally, Wiretap};
