//! A wall clock that is set while a guest moves: only a machine of one's own can be treated so.

use super::{has_tcx, in_vm};
use crate::support::{GUEST_PATIENCE, MIGRATION_PORT, SLOW_MIB_PER_S, network, number, signed_number};
use migtrace_lab::watch_command::{Watch, wait_for_pairs};
use migtrace_lab::{BareQemu, migtrace_command, monotonic_ns};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::Value;
use std::fs;

const HOUR_NS: i64 = 3_600_000_000_000;

fn wall_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).unwrap().num_nanoseconds()
}

/// A wall clock that is ahead until this is dropped.
struct Ahead;

impl Ahead {
    fn by_an_hour() -> Self {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(wall_ns() + HOUR_NS)).unwrap();
        Self
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let _ = clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(wall_ns() - HOUR_NS));
    }
}

#[test]
fn a_wall_clock_that_is_set_during_a_migration_is_in_its_log_and_changes_no_length() {
    // Kernels do not differ in this.
    if !in_vm() || !has_tcx() {
        return;
    }
    let lab = network();
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::start(lab.source(), folder.path(), &[]).unwrap();
    let _destination = BareQemu::incoming(lab.destination(), "stepped", MIGRATION_PORT).unwrap();
    let mut source = BareQemu::start(lab.source(), "stepped").unwrap();
    let (begun_ns, begun_wall_ns) = (monotonic_ns(), wall_ns());
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", GUEST_PATIENCE).unwrap();
    let active_ns = monotonic_ns();
    let ahead = Ahead::by_an_hour();
    source.wait_for_status("completed", GUEST_PATIENCE).unwrap();
    let took_ns = monotonic_ns() - begun_ns;
    drop(ahead);
    let pair = wait_for_pairs(folder.path(), 1, GUEST_PATIENCE).unwrap().remove(0);
    let total = &pair.record["total_time"];
    let (low_ns, high_ns) = (number(&total["low_ns"]), number(&total["high_ns"]));
    // It was still under way when the clock was set.
    assert!(low_ns > active_ns - begun_ns && high_ns < took_ns, "{total} of {took_ns}");
    // Nor is any bound as wide as that.
    let stop = &pair.record["downtime"]["stop"];
    assert!(number(&stop["value_ns"]) < took_ns, "{stop}");
    let start_ns = signed_number(&pair.record["start"]["realtime_ns"]);
    assert!((begun_wall_ns..begun_wall_ns + took_ns.cast_signed()).contains(&start_ns), "{start_ns}");
    let log = fs::read_to_string(&pair.log).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let clocks = events.iter().filter(|event| event["event"] == "clock");
    let offsets: Vec<_> = clocks.map(|clock| signed_number(&clock["offset_ns"])).collect();
    let steps: Vec<_> = offsets.windows(2).map(|two| (two[1] - two[0] + HOUR_NS / 2) / HOUR_NS).collect();
    assert!(steps.contains(&1), "{offsets:?}");
    let mut report = migtrace_command::command(&["report", "--format", "json"]).unwrap();
    let replayed = report.arg(&pair.log).output().unwrap();
    assert_eq!(String::from_utf8(replayed.stdout).unwrap(), pair.json);
    assert_eq!(watch.stop(GUEST_PATIENCE).unwrap().code, Some(0));
}
