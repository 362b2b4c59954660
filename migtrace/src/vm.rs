//! Which QEMUs belong to one VM.

use crate::event::Qemu;

/// What the QEMUs of one VM have in common. There may be two of them, since both ends of a migration may be on one host.
///
/// Anybody can start a QEMU with any name and UUID, so QEMUs of different users never belong to one VM.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct VmKey<'a> {
    uid: Option<u32>,
    known_by: KnownBy<'a>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum KnownBy<'a> {
    Uuid(&'a str),
    Name(&'a str),
    /// It has neither, so it is known by its process.
    Pid(u32),
}

impl<'a> VmKey<'a> {
    pub(crate) fn of(qemu: &'a Qemu) -> Self {
        let uuid = qemu.uuid.as_deref().map(KnownBy::Uuid);
        let named = || qemu.name.as_deref().map(KnownBy::Name);
        Self { uid: qemu.uid, known_by: uuid.or_else(named).unwrap_or(KnownBy::Pid(qemu.pid)) }
    }

    /// For a process of which nothing else is known.
    pub(crate) const fn of_process(pid: u32) -> Self {
        Self { uid: None, known_by: KnownBy::Pid(pid) }
    }
}
