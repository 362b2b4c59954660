//! How long a guest was gone in a real migration, from every place where it can be seen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

mod vantage;

use migtrace_lab::{Migration, shared};

#[test]
fn the_network_misses_the_guest_for_no_less_than_its_tap_and_its_tap_for_no_less_than_its_vcpus() {
    let mut lab = shared().unwrap();
    for migration in [Migration::default(), Migration::like_libvirt()] {
        let seen = vantage::migrate(&mut lab, &migration, "1ms");
        let has = |marks: &[String], wanted: &[&str]| {
            wanted.iter().all(|name| marks.iter().any(|mark| mark == name))
        };
        let wanted = ["last-guest-frame", "stop", "last-byte", "completed", "last-packet", "first-reply"];
        assert!(has(&seen.source_marks, &wanted), "{:?}", seen.source_marks);
        let wanted =
            ["last-byte", "last-packet", "first-announcement", "resume", "completed", "first-guest-frame"];
        assert!(has(&seen.destination_marks, &wanted), "{:?}", seen.destination_marks);
        // The source alone knows when the guest stopped, and that it runs again by the first reply.
        let downtime = &seen.source["downtime"];
        assert_eq!(downtime["stop"]["method"], "qmp-event-to-first-reply", "{downtime:#}");
        assert!(downtime["tail"].is_object(), "{downtime:#}");
        let bound = |name: &str| downtime["stop"][name].as_i64().unwrap();
        let stop = seen.anatomy.stop;
        assert!(bound("high_ns") >= stop.low_ns, "{downtime:#} {stop:#?}");
        // The guest runs as soon as its last byte has arrived, or when its manager lets it.
        assert!(bound("low_ns") <= stop.value_ns, "{downtime:#} {stop:#?}");
        eprintln!("by the source alone  {} to {} ns", bound("low_ns"), bound("high_ns"));
        assert_eq!(downtime["budget_ns"], 300_000_000_u64, "{downtime:#}");
    }
}
