//! A migration between this machine and a virtual machine, and what must hold of its record.

use super::GUEST;
use super::truth::{Bounds, ClockWatch, Truth};
use crate::support::{GUEST_PATIENCE, MIGRATION_PORT, keep, monotonic_ns_of, signed_number};
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::vm::{self, VmHost};
use migtrace_lab::{Action, Lab, Migrated, Migration, Outcome, Qmp, Side, monotonic_ns};
use serde_json::{Value, json};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const MIB: u64 = 1 << 20;
/// QEMU's limit of the bandwidth, for a guest of which 16 MiB are not empty.
const MIB_PER_S: u64 = 8;
/// QEMU's stamps are in whole microseconds.
const STAMP_NS: i64 = 1_000;
/// How well the other clock is known at worst, by packets and by readings. An emulated CPU on a busy machine takes its time,
/// and the more so where user space answers.
const WIDEST_NS: [i64; 2] = [100_000_000, 2_000_000_000];
/// What the record calls the two.
pub(super) const PACKETS: &str = "tcp";
pub(super) const READINGS: &str = "control-connection";
/// How far the monotonic clocks are apart at least: the virtual machine has just booted.
const APART_NS: i64 = 60_000_000_000;

/// A journey that is about to begin.
#[derive(Clone, Copy)]
pub(super) struct Trip<'a> {
    pub(super) lab: &'a Lab,
    pub(super) vm: &'a VmHost,
    /// Which side the virtual machine is.
    pub(super) vm_side: Side,
}

/// A migration as the test saw it, and what both hosts recorded.
pub(super) struct Journey {
    vm_side: Side,
    migrated: Migrated,
    truth: Truth,
    /// The events of the source and of the destination.
    pub(super) logs: [Vec<Value>; 2],
    /// The record that the recording itself made.
    json: String,
}

/// Slews the clocks of the virtual machine from now on.
fn slew(vm: &VmHost, ppm: i64) {
    // A tick has 10,000 us, so each us is a hundred millionths. The frequency is in 2^-16 millionths.
    let (tick, frequency) = (10_000 + ppm / 100, (ppm % 100) << 16);
    vm.run(&format!("adjtimex -q -t {tick} -f {frequency}")).unwrap();
}

impl Trip<'_> {
    /// Moves the guest while both hosts record. The clocks of the virtual machine run at the first rate until half of the
    /// guest is there, and then at the second.
    pub(super) fn make(&self, source: &mut Qmp, destination: &mut Qmp, slews_ppm: [i64; 2]) -> Journey {
        let Self { lab, vm, vm_side } = *self;
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        let [first_ppm, second_ppm] = slews_ppm;
        slew(vm, first_ppm);
        let clocks = ClockWatch::start(vm);
        let shell = vm.remote_shell().unwrap();
        let options =
            ["--peer", VmHost::NAME, "--rsh", &shell, "--events", logs.to_str().unwrap(), "--vm", GUEST];
        let mut recording = Recording::begin(lab.source(), &options).unwrap();
        recording.wait_for_line("ready", GUEST_PATIENCE).unwrap();
        let to: IpAddr = if vm_side == Side::Destination { vm.address() } else { lab.source().ipv4().into() };
        let max_bandwidth_bytes_per_s = MIB_PER_S * MIB;
        let migration =
            Migration { ram_port: MIGRATION_PORT, max_bandwidth_bytes_per_s, ..Migration::default() };
        let mut is_slewed = false;
        let migrated = vm::migrate(source, destination, to, &migration, |progress| {
            if !is_slewed && progress.transferred_bytes > 8 * MIB {
                slew(vm, second_ppm);
                is_slewed = true;
            }
            Action::Continue
        });
        let migrated = migrated.unwrap();
        assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
        assert!(is_slewed);
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let truth = clocks.finish(first_ppm.abs().max(second_ppm.abs()));
        let mut logs = ["local.jsonl", "vm.jsonl"].map(|name| events(&logs.join(name)));
        if vm_side == Side::Source {
            logs.reverse();
        }
        Journey { vm_side, migrated, truth, logs, json: recorded.json }
    }
}

fn events(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Journey {
    /// Checks the record of those events of both logs that `is_kept`.
    pub(super) fn assert_true_with(&self, method: &str, is_kept: &dyn Fn(&Value) -> bool) {
        let directory = tempfile::tempdir().unwrap();
        let paths = [0, 1].map(|host| -> PathBuf {
            let path = directory.path().join(format!("{host}.jsonl"));
            let kept = self.logs[host].iter().filter(|event| is_kept(event));
            fs::write(&path, kept.map(|event| format!("{event}\n")).collect::<String>()).unwrap();
            path
        });
        let merge = |logs: [&Path; 2]| {
            let merged = migtrace_command::merge(&logs).unwrap();
            assert_eq!(merged.code, Some(0), "{}", merged.stderr);
            merged.stdout
        };
        let [source, destination] = paths.each_ref().map(PathBuf::as_path);
        let text = merge([source, destination]);
        assert_eq!(merge([destination, source]), text, "the order does not matter");
        let all = self.logs.iter().flatten().all(is_kept);
        assert!(!all || text == self.json, "the logs give another record: {text}\n{}", self.json);
        self.assert_true(&serde_json::from_str(&text).unwrap(), method);
    }

    /// Checks the clock of the other host, and every figure that needs it.
    fn assert_true(&self, record: &Value, method: &str) {
        assert_consistent(record);
        let alignment = &record["observers"][1]["alignment"];
        assert_eq!(alignment["method"], method, "{alignment}");
        let [low, high] = ["low_ns", "high_ns"].map(|bound| signed_number(&alignment[bound]));
        let found = Bounds { low, high };
        let truth = self.alignment();
        assert!(found.overlaps(truth), "{found:?}, not {truth:?}: {alignment}");
        let widest = WIDEST_NS[usize::from(method == READINGS)];
        assert!(found.width() < widest, "{alignment}");
        assert!(low.abs() > APART_NS, "{alignment}");

        let (stop, resume) = (self.stopped(), self.resumed());
        // The record's clock may be slewed, but a stop is short.
        let truth = resume.less(stop);
        let truth = truth.widened(truth.high / 100);
        let length = &record["downtime"]["stop"];
        assert_eq!(length["method"], "qmp-events", "{length}");
        let [low, value] = ["low_ns", "value_ns"].map(|figure| signed_number(&length[figure]));
        assert!(low <= truth.high, "{length}, not {truth:?}");
        assert!(truth.widened(found.width()).contains(value), "{length}, not {truth:?} to {}", found.width());
        // What is not certain is when QEMU resumed the guest, between its own stamp and the kernel's, and the clock.
        let uncertain = resume.width() + found.width();
        assert!(value - low <= uncertain, "{length}: at most {uncertain} between");

        let marks = record["downtime"]["marks"].as_array().unwrap();
        let mark =
            marks.iter().find(|mark| mark["name"] == "resume" && mark["role"] == "destination").unwrap();
        let at = monotonic_ns_of(record, signed_number(&mark["at_ns"]));
        let error = signed_number(&mark["error_ns"]);
        let truth = self.on_record(resume);
        assert!(Bounds { low: at - error, high: at + error }.overlaps(truth), "{mark}, not {truth:?}");
    }

    /// What the other host's clock showed less the record's, while the guest was stopped.
    fn alignment(&self) -> Bounds {
        let vm_less_here =
            self.truth.offset_at(self.stopped().low).hull(self.truth.offset_at(self.resumed().high));
        if self.vm_side == Side::Destination { vm_less_here } else { vm_less_here.negated() }
    }

    fn stopped(&self) -> Bounds {
        self.instant(Side::Source, "STOP")
    }

    fn resumed(&self) -> Bounds {
        self.instant(Side::Destination, "RESUME")
    }

    /// When QEMU wrote an event, on this machine's clock: it stamps it just before.
    fn instant(&self, side: Side, name: &str) -> Bounds {
        let event = self.migrated.event(side, name).unwrap();
        let received = event.received_ns.cast_signed();
        let built = if side == self.vm_side {
            let stamp_ns = (event.qemu_realtime_us * 1_000).cast_signed();
            self.truth.instant_of_wall(stamp_ns, received).low
        } else {
            event.built_ns(wall_clock_offset_ns())
        };
        Bounds { low: built - STAMP_NS, high: received }
    }

    /// What the record's clock showed at an instant of this machine's.
    fn on_record(&self, at: Bounds) -> Bounds {
        if self.vm_side == Side::Destination {
            return at;
        }
        let [low, high] = [at.low, at.high].map(|at| self.truth.offset_at(at));
        Bounds { low: at.low + low.low, high: at.high + high.high }
    }

    /// Keeps the logs, and with them what aligns the clocks.
    pub(super) fn keep(&self, name: &str) {
        if let Some(folder) = keep::pair(name, self.logs.clone()) {
            let Bounds { low, high } = self.alignment();
            let truth = json!({ "low_ns": low, "high_ns": high });
            fs::write(folder.join("clock.json"), format!("{truth}\n")).unwrap();
        }
    }
}

/// By how much this machine's wall clock is ahead of its monotonic clock, at most.
fn wall_clock_offset_ns() -> i64 {
    let monotonic_ns = monotonic_ns().cast_signed();
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(wall.as_nanos()).unwrap() - monotonic_ns
}
