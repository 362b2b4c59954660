//! When two QEMUs are of one VM.

use crate::event::Qemu;

/// What the QEMUs of one VM share: both ends of its migration may be on one host.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum VmKey<'a> {
    Uuid(&'a str),
    Name(&'a str),
    /// Nothing but its process is known.
    Pid(u32),
}

impl<'a> VmKey<'a> {
    pub(crate) fn of(qemu: &'a Qemu) -> Self {
        let uuid = qemu.uuid.as_deref().map(Self::Uuid);
        uuid.or(qemu.name.as_deref().map(Self::Name)).unwrap_or(Self::Pid(qemu.pid))
    }
}
