//! What the kernel programs report of themselves and of what QEMUs write: QMP events, and what was lost.

pub(super) mod losses;
pub(super) mod qmp_events;
pub(crate) mod qmp_line;
