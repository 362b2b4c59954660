//! How long a guest was gone in a real migration, compared between all places where that can be seen.

use crate::support::guest_absence;
use migtrace_lab::{Migration, shared_lab};

#[test]
fn the_stop_is_no_longer_than_the_network_gap_and_that_no_longer_than_the_reachability_gap() {
    let mut lab = shared_lab().unwrap();
    for migration in [Migration::default(), Migration::like_libvirt()] {
        let absence = guest_absence::measure(&mut lab, &migration, "1ms");
        let has = |marks: &[String], wanted: &[&str]| {
            wanted.iter().all(|name| marks.iter().any(|mark| mark == name))
        };
        let wanted = ["last-guest-frame", "stop", "last-byte", "completed", "last-packet", "first-reply"];
        assert!(has(&absence.source_marks, &wanted), "{:?}", absence.source_marks);
        let wanted =
            ["last-byte", "last-packet", "first-announcement", "resume", "completed", "first-guest-frame"];
        assert!(has(&absence.destination_marks, &wanted), "{:?}", absence.destination_marks);
        // The source knows when the guest stopped, and by the first reply that it runs again.
        let downtime = &absence.source["downtime"];
        assert_eq!(downtime["stop"]["method"], "qmp-event-to-first-reply", "{downtime:#}");
        assert!(downtime["tail"].is_object(), "{downtime:#}");
        let bound = |name: &str| downtime["stop"][name].as_i64().unwrap();
        let stop = absence.anatomy.stop;
        assert!(bound("high_ns") >= stop.low_ns, "{downtime:#} {stop:#?}");
        // The guest runs once its last byte has arrived, or later, when its manager continues it.
        assert!(bound("low_ns") <= stop.value_ns, "{downtime:#} {stop:#?}");
        eprintln!("from the source only {} to {} ns", bound("low_ns"), bound("high_ns"));
        assert_eq!(downtime["budget_ns"], 300_000_000_u64, "{downtime:#}");
    }
}
