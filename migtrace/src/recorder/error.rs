//! Why a recording cannot begin or go on.

use std::net::IpAddr;

use super::probed_vm::Untied;
use crate::event::Qemu;
use crate::probe::ProbeError;
use crate::selection::introductions;
use crate::tracer::TracerError;

/// Why a recording cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// Tracing failed.
    #[error(transparent)]
    Tracer(#[from] TracerError),
    /// Probing failed.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// There are several VMs, and it is unknown which of them has the probed address.
    #[error(
        "cannot find out which VM has {target}: {why}; name the VM with --vm or --pid; this network namespace has: {}",
        introductions(present)
    )]
    WhoseAddress {
        /// The address.
        target: IpAddr,
        /// Why only a [`Selection`](crate::selection::Selection) can decide it.
        why: Untied,
        /// The QEMUs of this network namespace.
        present: Vec<Qemu>,
    },
}
