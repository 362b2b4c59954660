//! When two QEMUs are of one VM.

use crate::event::Qemu;

/// What the QEMUs of one VM share: both ends of its migration may be on one host.
///
/// Anybody can start a QEMU with any name and UUID, so those of different users are never of one VM.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct VmKey<'a> {
    uid: Option<u32>,
    identity: Identity<'a>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Identity<'a> {
    Uuid(&'a str),
    Name(&'a str),
    /// Nothing but its process is known.
    Pid(u32),
}

impl<'a> VmKey<'a> {
    pub(crate) fn of(qemu: &'a Qemu) -> Self {
        let uuid = qemu.uuid.as_deref().map(Identity::Uuid);
        let named = || qemu.name.as_deref().map(Identity::Name);
        Self { uid: qemu.uid, identity: uuid.or_else(named).unwrap_or(Identity::Pid(qemu.pid)) }
    }

    /// Of a process of which nothing was told.
    pub(crate) const fn of_process(pid: u32) -> Self {
        Self { uid: None, identity: Identity::Pid(pid) }
    }
}
