//! How long a guest was gone in a migration, seen from four places: its vCPUs (or QEMU's events), both taps, the network.

use super::GUEST_PATIENCE;
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::record_checks::mark_names;
use migtrace_lab::{DowntimeAnatomy, Lab, Migrated, Migration, Outcome, Side};
use serde_json::Value;

/// What the recordings on both hosts contain about it.
pub(crate) struct GuestAbsence {
    pub(crate) source: Value,
    pub(crate) source_marks: Vec<String>,
    pub(crate) destination_marks: Vec<String>,
    pub(crate) anatomy: DowntimeAnatomy,
}

/// When the machine stalls for as long as the guest is gone, nothing of the absence can be seen: then it is moved again.
const ATTEMPTS: usize = 3;

/// Migrates the guest while both hosts record and the source probes it, and prints its absence as each place saw it.
pub(crate) fn measure(lab: &mut Lab, migration: &Migration, probe_interval: &str) -> GuestAbsence {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let (migrated, source, destination) = record(lab, migration, probe_interval);
        if let Some(anatomy) = DowntimeAnatomy::of(&source, &destination) {
            return compare(&migrated, source, &destination, anatomy);
        }
        eprintln!("a mark or a gap is missing: once more");
        last = Some((source, destination));
    }
    let (source, destination) = last.unwrap();
    panic!("some mark was always missing:\n{:#}\n{:#}", source["downtime"], destination["downtime"])
}

fn record(lab: &mut Lab, migration: &Migration, probe_interval: &str) -> (Migrated, Value, Value) {
    let guest = lab.guest().ipv4.to_string();
    let spare = lab.qemu().unwrap().spare_qmp_socket();
    let options = ["--probe", &guest, "--probe-interval", probe_interval, "--qmp", spare.to_str().unwrap()];
    let source = Recording::start(lab.guest_host(), &options).unwrap();
    let destination = Recording::start(lab.other_host(), &[]).unwrap();
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let [source, destination] = [source, destination].map(|recording| {
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        migtrace_lab::record_checks::assert_replays(&recorded);
        recorded.record().unwrap()
    });
    (migrated, source, destination)
}

fn compare(
    migrated: &Migrated,
    source: Value,
    destination: &Value,
    anatomy: DowntimeAnatomy,
) -> GuestAbsence {
    let ms = |ns: Option<u64>| {
        ns.map_or("unknown".to_owned(), |ns| format!("{}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000))
    };
    // A manager subtracts its own stamps of the two events.
    let managed = migrated.event(Side::Destination, "RESUME").zip(migrated.event(Side::Source, "STOP"));
    let managed = managed.map(|(resume, stop)| resume.received_ns - stop.received_ns);
    eprintln!("QEMU's own figure    {}", ms(source["downtime"]["qemu_reported_ns"].as_u64()));
    eprintln!("the manager's stamps {}", ms(managed));
    eprintln!("T_stop               {} ({} to {})", anatomy.stop, anatomy.stop_marks.0, anatomy.stop_marks.1);
    eprintln!("T_net                {}", anatomy.network);
    eprintln!("T_reach              {}", anatomy.reachability);
    assert!(anatomy.is_ordered(), "{anatomy:#?}\n{:#}\n{:#}", source["downtime"], source["gaps"]);
    for record in [&source, destination] {
        assert_eq!(
            record["downtime"]["contradictions"].as_array().unwrap().len(),
            0,
            "{:#}",
            record["downtime"]
        );
    }
    GuestAbsence {
        source_marks: mark_names(&source),
        destination_marks: mark_names(destination),
        source,
        anatomy,
    }
}
