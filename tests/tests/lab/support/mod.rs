//! What several of the tests use.

pub(crate) mod event_log;
pub(crate) mod guest_absence;
pub(crate) mod keep;
pub(crate) mod merged;
pub(crate) mod monitor_writer;
pub(crate) mod probe_command;
pub(crate) mod rotel;
pub(crate) mod sleeping;
pub(crate) mod transfer;
pub(crate) mod vcpu_stops;

use migtrace_lab::Lab;
use migtrace_lab::migtrace_command::Recorded;
use migtrace_lab::record_checks::assert_replays;
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For a recording to end, a state or an event to come. Only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The same where a guest with an operating system moves, or where the CPU itself may be emulated.
pub(crate) const GUEST_PATIENCE: Duration = Duration::from_secs(60);

/// Where destinations listen: the first of libvirt's ports for migrations.
pub(crate) const MIGRATION_PORT: u16 = 49152;

/// QEMU's bandwidth limit for a migration that is over in a moment.
pub(crate) const FAST: u64 = 0;
/// QEMU's bandwidth limit for a migration that a test interrupts: the 16 MiB of a bare QEMU take two seconds.
pub(crate) const SLOW_MIB_PER_S: u64 = 8;

pub(crate) const MIB: u64 = 1 << 20;

/// The lab's hosts and its switch, without a guest.
pub(crate) fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// Held by tests that need both CPUs, or that count what the kernel counts for the whole machine.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count in a record or an event.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no count: {value}"))
}

/// A time in a record or an event, which may lie before the record's start.
pub(crate) fn signed_number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no integer: {value}"))
}

/// The payload bytes that a record counted from the source to the destination.
pub(crate) fn sent_payload_bytes(record: &Value) -> u64 {
    number(&record["traffic"]["total"]["tx"]["payload_bytes"])
}

/// By how much the record's realtime clock was ahead of its monotonic clock.
pub(crate) fn clock_offset_ns(record: &Value) -> i64 {
    signed_number(&record["observers"][0]["clock"]["offset_ns"])
}

/// A time of the record, which counts from its start, on the monotonic clock.
pub(crate) fn monotonic_ns_of(record: &Value, at_ns: i64) -> i64 {
    signed_number(&record["start"]["realtime_ns"]) - clock_offset_ns(record) + at_ns
}

/// Checks that a recording ended with this code, and that its log is complete and replays into its record. Returns that.
pub(crate) fn assert_recorded(recorded: &Recorded, code: i32) -> Value {
    assert_eq!(recorded.code, Some(code), "{}", recorded.stderr);
    let record = assert_replays(recorded);
    let last = recorded.events().unwrap().pop().unwrap();
    assert_eq!(last["event"], "log_end");
    record
}
