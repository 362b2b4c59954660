//! One observed fact with its kernel time stamp, and the event log: one JSON object a line.
//!
//! The event log is the source of truth. A record is derived from it and from nothing else, so the same log
//! gives the same record, byte for byte.

mod echo;
mod fact;
mod flow;
mod log;
mod observation;
mod qemu;

pub use echo::{EchoEnd, EchoGap, EchoOwnerMethod, EchoStart};
pub use fact::{EndReason, Event, Fact};
pub use flow::{CarriedBefore, Crossed, CrossedBy, Crossing, FlowCounters, OwnerMethod, Way};
pub(crate) use log::{LONGEST_LINE_BYTES, Lines};
pub use log::{LogError, LogErrorKind, LogReader, LogWriter, SCHEMA};
pub use observation::{
    Device, Instrument, InstrumentStatus, Interface, Observation, PeerRecording, TcProgram, TcRemoved,
};
pub use qemu::{Qemu, QmpEvent, Vcpus};
