//! What the kernel programs report: the lines of QMP that QEMUs write.

pub(in crate::tracer) mod lines;
pub(crate) mod qmp_line;
