//! QMP events, as a QEMU writes them to its monitor.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{EventHeader, Sums, Vcpus};

/// How many bytes of one write are copied. An event has some 200.
pub const QMP_LINE_MAX: usize = 4096;

/// An event, or a part of one, that a traced QEMU writes to its monitor, with the counters of its flows at that
/// instant. The bytes follow, at most [`QMP_LINE_MAX`] of them.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct QmpLine {
    /// When, and by which process.
    pub header: EventHeader,
    /// The sum over this process' flows; valid when `summed` is 1.
    pub sums: Sums,
    /// Its vCPUs; valid when `summed` is 1.
    pub vcpus: Vcpus,
    /// 1 when `sums` and `vcpus` were read.
    pub summed: u32,
    /// One of [`content`].
    pub content: u32,
    /// 1 when more was written than follows.
    pub cut: u32,
    /// Zero.
    pub padding: u32,
}

/// What the bytes after a [`QmpLine`] are: values of [`QmpLine::content`].
pub mod content {
    /// Nothing of an event. Such a write is not emitted.
    pub const NONE: u32 = 0;
    /// A whole event; others may follow.
    pub const WHOLE: u32 = 1;
    /// The second line of an event whose lines are written one by one; the first was `{`.
    pub const SECOND_LINE: u32 = 2;
    /// A later line of that event.
    pub const LINE: u32 = 3;
    /// Its last line.
    pub const LAST_LINE: u32 = 4;
}
