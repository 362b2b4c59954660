//! What a record does not tell, and why.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::facts::Facts;
use super::migration::{MigrationFacts, Opening};
use super::phases::Unknown;
use super::probe_target::Probing;
use super::removals;
use super::wording::spoken;
use crate::event::{InstrumentStatus, TcProgram, TcRemoved};
use crate::record::{MarkName, Method, Mode, Outcome, Record, Role};
use crate::vocabulary::{Lost, NotMeasured};

/// As many names are listed.
const MOST_NAMES: usize = 10;
/// As many entries are taken over from the recording; few ever have more than one or two.
const MOST_ENTRIES: usize = 100;

/// Everything that is missing from a record, each with its reason; the instruments of this host first.
pub(super) fn list(
    facts: &Facts,
    migration: &MigrationFacts<'_>,
    record: &Record,
    probing: Probing<'_>,
    unknown_bytes: Option<Unknown>,
) -> Vec<NotMeasured> {
    let mut list = List::default();
    instruments(facts, &mut list);
    while_recording(facts, &mut list);
    gone_interfaces(facts, migration, &mut list);
    removed_programs(facts, migration, probing, &mut list);
    not_understood(facts, &mut list);
    recording(facts, record.lost, &mut list);
    start(migration, &mut list);
    events(facts, migration, &mut list);
    flows(migration, record, &mut list);
    phase_bytes(record, unknown_bytes, &mut list);
    arrival(facts, migration, &mut list);
    downtime(migration, record, &mut list);
    reachability(record, probing, &mut list);
    list.entries
}

/// Each entry once, in the order in which they came.
#[derive(Default)]
struct List {
    entries: Vec<NotMeasured>,
    known: HashSet<NotMeasured>,
}

impl List {
    fn push(&mut self, what: &str, why: String) {
        let entry = NotMeasured { what: what.to_owned(), why };
        if self.known.insert(entry.clone()) {
            self.entries.push(entry);
        }
    }
}

/// What was found while recording.
fn while_recording(facts: &Facts, list: &mut List) {
    for entry in facts.not_measured.iter().take(MOST_ENTRIES) {
        list.push(&entry.what, entry.why.clone());
    }
    if let Some(more) = facts.not_measured.len().checked_sub(MOST_ENTRIES).filter(|more| *more > 0) {
        list.push(
            &format!("{more} things more that the recording found to be missing"),
            "they are too many for a record: the event log names each of them (`not_measured`)".to_owned(),
        );
    }
}

/// The interfaces that vanished while the migration was under way.
fn gone_interfaces(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    let gone = facts.gone_interfaces.between(migration.start, migration.end.at());
    let count = gone.len();
    let named: Vec<&str> = gone.take(MOST_NAMES).map(|(_, interface)| interface.as_str()).collect();
    let named = named.join(", ");
    let (what, which) = match count {
        0 => return,
        1 => (named, "the interface"),
        2..=MOST_NAMES => (named, "the interfaces"),
        all => (format!("{named} and {} others", all - MOST_NAMES), "the interfaces"),
    };
    list.push(
        &format!("packets on {what}"),
        format!("{which} vanished during the recording: what crossed before is counted"),
    );
}

/// The TC programs that somebody removed while the migration was under way, as far as they saw what is of it.
fn removed_programs(facts: &Facts, migration: &MigrationFacts<'_>, probing: Probing<'_>, list: &mut List) {
    let taps = migration.process.and_then(|p| p.qemu.as_ref()).map_or(&[][..], |qemu| &qemu.taps);
    let concerns = |removed: &&TcRemoved| match removed.program {
        TcProgram::Count => true,
        TcProgram::Guest => taps.contains(&removed.interface),
        TcProgram::Echo => matches!(probing, Probing::Probed(_)),
    };
    let removals = facts.removals.between(migration.start, migration.end.at());
    for removed in removals.filter(concerns).take(MOST_ENTRIES) {
        let NotMeasured { what, why } = removals::told(removed, migration.start, "the migration");
        list.push(&what, why);
    }
}

fn not_understood(facts: &Facts, list: &mut List) {
    for (kind, count) in facts.not_understood.iter().take(MOST_NAMES) {
        let events = if *count == 1 { "1 event".to_owned() } else { format!("{count} events") };
        list.push(
            &format!("what {events} of the kind `{kind}` told"),
            "this version of migtrace does not know that kind: read the log with the one that wrote it"
                .to_owned(),
        );
    }
    if let Some(more) = facts.not_understood.len().checked_sub(MOST_NAMES).filter(|more| *more > 0) {
        list.push(
            &format!("what events of {more} other kinds told"),
            "this version of migtrace does not know them: read the log with the one that wrote it".to_owned(),
        );
    }
}

fn instruments(facts: &Facts, list: &mut List) {
    let Some(observation) = &facts.observation else { return };
    for instrument in &observation.instruments {
        let lost = match (instrument.status, &instrument.lost) {
            (InstrumentStatus::Ok, _) | (InstrumentStatus::Fallback, None) => continue,
            (InstrumentStatus::Missing | InstrumentStatus::Fallback, Some(lost)) => lost.clone(),
            (InstrumentStatus::Missing, None) => {
                format!("the instrument `{}` is not attached", instrument.name)
            }
        };
        let why = instrument.why.as_ref().map_or_else(String::new, |why| format!("; {why}"));
        list.push(&instrument.observes, format!("{lost}{why}"));
    }
}

fn recording(facts: &Facts, lost: Lost, list: &mut List) {
    if facts.end.is_none() {
        list.push(
            "the end of the recording",
            "the recording was cut off: what came after the last line of the event log is missing, and the bytes \
             are those counted last before it"
                .to_owned(),
        );
    }
    if lost != Lost::default() {
        let mut counts = format!(
            "ring buffer full: {}, flow table full: {}, hook calls skipped: {}",
            lost.ring_buffer, lost.flows, lost.hook_calls
        );
        for (what, count) in [("lines of QMP not read", lost.qmp_lines), ("vCPU table full", lost.vcpus)] {
            if count > 0 {
                let _ = write!(counts, ", {what}: {count}");
            }
        }
        list.push("everything", format!("facts were lost ({counts}): every figure is a lower bound"));
    }
    if facts.clocks.at(facts.latest).is_none() {
        list.push("wall time", "the event log holds no clock sample".to_owned());
    }
}

fn start(migration: &MigrationFacts<'_>, list: &mut List) {
    if !migration.start_seen && migration.opening != Opening::Transfer {
        list.push(
            "the start",
            "the migration had begun before the recording: its first part is missing from every time and count"
                .to_owned(),
        );
    }
}

fn events(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    if migration.opening != Opening::Transfer {
        return;
    }
    let why = if migration.process.is_none() {
        "the QEMU of these flows is not in this network namespace: run migtrace in QEMU's"
    } else if !facts.hears_qemu() {
        "QEMU's events cannot be read on this host (see above)"
    } else if migration.flows.iter().all(|f| f.purpose == crate::vocabulary::Purpose::Nbd) {
        "only a copy of disks was seen; QEMU has not said that a migration began"
    } else {
        "QEMU told no migration states: its migration capability `events` is off (libvirt always turns it on); \
         turn it on before the migration with QMP migrate-set-capabilities {\"capabilities\": \
         [{\"capability\": \"events\", \"state\": true}]}"
    };
    list.push("phases", why.to_owned());
}

fn flows(migration: &MigrationFacts<'_>, record: &Record, list: &mut List) {
    if migration.flows.is_empty() {
        list.push(
            "traffic",
            "no flow of this migration was seen: its port is not among those watched, or it crosses an interface \
             that is not counted, a Unix socket, RDMA or a tunnel"
                .to_owned(),
        );
    }
    if !migration.flows_owned && migration.process.is_some() {
        list.push(
            "the owner of the flows",
            "no process was seen to send on them; they are counted as this VM's because no other migrates here"
                .to_owned(),
        );
    }
    for flow in &migration.flows {
        if !flow.from_start {
            list.push(
                &format!("the first bytes of {}", flow.flow),
                "the connection is older than the recording".to_owned(),
            );
        }
        let Some(counters) = &flow.last else {
            list.push(&format!("the bytes of {}", flow.flow), "its counters were never read".to_owned());
            continue;
        };
        if counters.elsewhere_skbs > 0 {
            list.push(
                &format!("a part of {}", flow.flow),
                format!(
                    "{} packets crossed another interface than {}: the route changed, and the bytes are a lower \
                     bound",
                    counters.elsewhere_skbs, flow.interface
                ),
            );
        }
    }
    if record.traffic.fragments.is_some() {
        list.push(
            "the flow of IP fragments",
            "fragments carry no port: those between the two hosts are shown apart and are not in the total"
                .to_owned(),
        );
    }
}

fn phase_bytes(record: &Record, unknown: Option<Unknown>, list: &mut List) {
    let Some(unknown) = unknown else { return };
    if record.phases.iter().all(|p| p.traffic.is_some()) {
        return;
    }
    let why = match unknown {
        Unknown::NoSnapshot => "this kernel cannot read the counters together with QEMU's events",
        Unknown::NotOwned => "the counters read with QEMU's events are not those of flows without an owner",
        Unknown::OwnedLate => "a flow was tied to this QEMU only after it had carried bytes",
        Unknown::Contradiction => "the counters read with QEMU's events contradict those of the flows",
        Unknown::CutOff => "the event log ends before the flows were counted for the last time",
    };
    list.push("the bytes of some phases", why.to_owned());
}

/// A guest that has arrived here and did not run as long as the recording went on.
fn arrival(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    if facts.end.is_some() && facts.hears_qemu() && migration.may_still_run() {
        let waited = spoken(facts.latest.0.saturating_sub(migration.end.at().0));
        list.push(
            "when the guest runs",
            format!("the guest did not run within {waited} after its migration had ended"),
        );
    }
}

/// What is not known of the guest's absence. A migration that did not get so far has none.
fn downtime(migration: &MigrationFacts<'_>, record: &Record, list: &mut List) {
    let moved = matches!(record.migration.outcome, Outcome::Completed | Outcome::Unknown)
        || record.migration.mode == Mode::Postcopy
        || record.downtime.marks.iter().any(|m| m.name == MarkName::Stop);
    if !moved || record.downtime.stopped == Some(false) {
        return;
    }
    let other = match migration.role {
        Role::Source => "the guest runs again on the destination: the destination's record is needed",
        Role::Destination => "the guest stops on the source: the source's record is needed",
    };
    let downtime = &record.downtime;
    let from_below_only = downtime.stop.as_ref().is_some_and(|stop| stop.method.is_from_below());
    if downtime.stop.is_none() {
        list.push("stop (how long the guest did not run)", other.to_owned());
    } else if from_below_only {
        list.push("when the guest ran again after the last byte", other.to_owned());
    }
    vcpus(migration, record, list);
    if downtime.network.is_none() {
        let both_ends =
            !from_below_only && downtime.stop.as_ref().is_some_and(|stop| !stop.method.takes_a_reply());
        let qemu = migration.process.and_then(|p| p.qemu.as_ref());
        let why = if qemu.is_some_and(|qemu| qemu.taps.is_empty()) {
            "this QEMU holds no tap of this network namespace: frames of a guest with vhost-user, SR-IOV, macvtap or \
             user-mode networking cannot be seen"
        } else if both_ends {
            "no frame of the guest was seen at its taps before it stopped or after it ran again"
        } else {
            other
        };
        list.push("network (how long the guest's tap was silent)", why.to_owned());
    }
}

/// Why the stop, where it is known, is known from QEMU's words only.
fn vcpus(migration: &MigrationFacts<'_>, record: &Record, list: &mut List) {
    let is_marked = |name: MarkName| record.downtime.marks.iter().any(|m| m.name == name);
    let stopped = is_marked(MarkName::FirstVcpuStopped);
    if stopped || is_marked(MarkName::FirstVcpuRun) {
        if stopped && !is_marked(MarkName::AllVcpusStopped) {
            list.push(
                "when the last vCPU stopped",
                "some of the VM's vCPUs were not seen to leave KVM; QEMU's STOP stands in".to_owned(),
            );
        }
        return;
    }
    let accelerator = migration.process.and_then(|p| p.qemu.as_ref()).and_then(|q| q.accelerator.as_deref());
    if let Some(accelerator) = accelerator.filter(|name| *name != "kvm") {
        list.push(
            "when the vCPUs stop and run",
            format!(
                "this guest's accelerator is {accelerator}: it has no vCPUs in KVM, and QEMU's STOP and RESUME stand in"
            ),
        );
    }
}

/// Why it is not known whether the guest answered.
fn reachability(record: &Record, probing: Probing<'_>, list: &mut List) {
    let what = "reachability (how long the guest did not answer)";
    let probe = match probing {
        Probing::Probed(probe) => probe,
        Probing::Nobody => return list.push(what, "nobody asked it; --probe ADDRESS does".to_owned()),
        Probing::Another(target) => {
            let why = format!("nobody asked it: the echo requests went to {target}, which another VM has");
            return list.push(what, why);
        }
        Probing::Doubtful(target) => {
            let why = format!(
                "there are several VMs here, and it is not known which of them has the address {target} that was \
                 asked; --vm or --pid tells it"
            );
            return list.push(what, why);
        }
    };
    if probe.echo.is_none() {
        let why = if probe.ended { "no echo request to the guest was seen to leave" } else { CUT_OFF };
        return list.push(what, why.to_owned());
    }
    if record.gaps.iter().any(|gap| gap.length.method == Method::Open) {
        list.push("the end of a gap", "the guest did not answer again before the recording ended".to_owned());
    }
    if record.downtime.reachability.is_none() && record.downtime.stopped != Some(false) {
        let ends = [MarkName::Stop, MarkName::FirstVcpuRun, MarkName::Resume];
        let why = if record.downtime.marks.iter().any(|mark| ends.contains(&mark.name)) {
            "the echo requests do not cover the time in which the guest stopped and ran again"
        } else {
            "it was not seen when the guest stopped or ran again, so no gap is known to be that"
        };
        list.push(what, why.to_owned());
    }
}

const CUT_OFF: &str = "the recording was cut off before it was told what the echo requests saw as a whole";
