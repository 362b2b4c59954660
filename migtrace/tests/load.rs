//! Long logs: what they cost grows no faster than they do, whatever it is that they have much of.
//!
//! What is measured is this thread's own time on a CPU: a busy machine changes little of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::time::Duration;

use common::fold;
use common::log_builder::{Log, MS, T0, counters};
use migtrace::event::Event;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Makes a log with so many of something.
type Made = fn(u64) -> String;

/// What a log has `n` of. Code that compares each of them with all others is too slow for a long log.
const MUCH: [(&str, Made); 21] = [
    ("counters of a flow", |n| {
        Log::begun().of_one_migration(|log| {
            (0..n).for_each(|i| log.counted(T0 + i * MS, 0, T0 - 2 * MS, i, false));
            T0 + n * MS
        })
    }),
    ("rounds of copying", |n| {
        Log::begun().of_one_migration(|log| {
            (0..n).for_each(|i| log.qmp(T0 + i * MS, 7, "MIGRATION_PASS", json!({ "pass": i + 1 }), i));
            T0 + n * MS
        })
    }),
    ("stamps in reverse", |n| {
        Log::begun().of_one_migration(|log| {
            for i in (0..n).rev() {
                log.qmp(T0 + i * MS, 7, "MIGRATION_PASS", json!({ "pass": i + 1 }), i);
            }
            T0 + n * MS
        })
    }),
    ("pauses", |n| {
        Log::begun().of_one_migration(|log| {
            for i in 0..n {
                log.qmp(T0 + i * MS, 7, if i % 2 == 0 { "STOP" } else { "RESUME" }, Value::Null, i);
            }
            T0 + n * MS
        })
    }),
    ("interfaces that vanish", |n| {
        Log::begun().of_one_migration(|log| {
            for i in 0..n {
                log.add(T0 + i * MS, "interface_gone", json!({ "interface": format!("veth{i}") }));
            }
            T0 + n * MS
        })
    }),
    ("block jobs, and migrations after them", |n| {
        let mut log = Log::begun();
        for i in 0..n {
            let created = json!({ "id": format!("job{i}"), "status": "created" });
            log.qmp(T0 + i, 7, "JOB_STATUS_CHANGE", created, 0);
        }
        (1..n).for_each(|i| log.migration(T0 + i * MS, 7));
        log.ended(T0 + n * MS)
    }),
    ("processes", |n| {
        let mut log = Log::begun();
        for pid in 10..10 + n {
            log.qemu(T0 + pid * MS, pid, "web-2");
            log.add(T0 + pid * MS + 1, "qemu_gone", json!({ "pid": pid }));
        }
        log.migration(T0 + 2 * n * MS, 7);
        log.ended(T0 + 3 * n * MS)
    }),
    ("processes of one pid", |n| {
        let mut log = Log::begun();
        for i in 0..n {
            log.add(T0 + i * MS, "qemu_gone", json!({ "pid": 7 }));
            log.qemu(T0 + i * MS + 1, 7, "web-1");
        }
        log.migration(T0 + n * MS, 7);
        log.ended(T0 + 2 * n * MS)
    }),
    ("gaps", |n| {
        Log::begun().of_one_migration(|log| {
            log.probed(T0);
            (1..=n).for_each(|i| log.gap(T0 + i * 10 * MS));
            T0 + n * 10 * MS
        })
    }),
    ("gaps around a stop, and rounds of copying after it", |n| {
        Log::begun().of_one_migration(|log| {
            log.probed(T0 - 2 * MS);
            log.stop(T0, 7);
            (0..n).for_each(|i| log.gap(T0 + MS / 2 + i));
            (0..n).for_each(|i| log.qmp(T0 + MS + i, 7, "MIGRATION_PASS", json!({ "pass": i + 1 }), i));
            T0 + 2 * MS
        })
    }),
    ("gaps, a migration around each", |n| {
        let mut log = Log::begun();
        log.probed(T0);
        for i in 1..=n {
            let at_ns = T0 + i * 20_000 * MS;
            log.migration(at_ns, 7);
            log.gap(at_ns + 10 * MS);
        }
        log.ended(T0 + (n + 2) * 20_000 * MS)
    }),
    ("migrations", |n| {
        let mut log = Log::begun();
        (0..n).for_each(|i| log.migration(T0 + i * MS, 7));
        log.ended(T0 + n * MS)
    }),
    ("migrations at the same time, and losses and vanished interfaces in them", |n| {
        let mut log = Log::begun();
        for pid in 10..10 + n {
            log.qemu(T0, pid, "web-2");
            log.status(T0 + pid, pid, "setup", 0);
        }
        for i in 1..=n {
            log.add(T0 + MS + i, "interface_gone", json!({ "interface": format!("veth{i}") }));
            log.add(
                T0 + MS + i,
                "lost",
                json!({ "ring_buffer": i, "flows": 0, "hook_calls": 0, "since_ns": T0 + i }),
            );
        }
        (10..10 + n).for_each(|pid| log.status(T0 + 2 * MS + pid, pid, "completed", 0));
        log.ended(T0 + 3 * MS)
    }),
    ("migrations of a VM beside one that goes on", |n| {
        let mut log = Log::begun();
        log.qemu(T0, 8, "web-1");
        log.status(T0, 7, "setup", 0);
        (0..n).for_each(|i| log.migration(T0 + i * MS, 8));
        log.ended(T0 + n * MS)
    }),
    ("taps", |n| {
        Log::begun().of_one_migration(|log| {
            log.stop(T0, 7);
            for i in 0..n {
                let tap = format!("tap{i}");
                log.add(T0 + i, "guest_frame", json!({ "pid": 7, "interface": tap }));
                let frames =
                    json!({ "pid": 7, "interface": tap, "frames": 1, "last_ns": T0, "announcements": 0 });
                log.add(T0 + i, "guest_frames", frames);
            }
            T0 + n
        })
    }),
    ("taps at which a guest arrives", |n| {
        let mut log = Log::begun();
        let qemu = json!({ "pid": 9, "taps": ["tap0"], "incoming": true });
        log.add(2, "qemu_seen", qemu).status(T0, 9, "active", 0);
        log.status(T0 + 1, 9, "completed", 0);
        for i in 0..n {
            let tap = format!("tap{i}");
            log.add(T0 + MS + i, "guest_frame", json!({ "pid": 9, "interface": tap }));
            log.add(T0 + MS + i, "announcement", json!({ "pid": 9, "interface": tap, "kind": "rarp" }));
        }
        log.ended(T0 + 2 * MS + n)
    }),
    ("migrations that stop the guest, and runs that were none", |n| {
        let mut log = Log::begun();
        for i in 0..n {
            let at_ns = T0 + i * MS;
            log.status(at_ns, 7, "setup", 0);
            log.stop(at_ns + 1, 7);
            let frames =
                json!({ "pid": 7, "interface": "tap0", "frames": i, "last_ns": at_ns, "announcements": 0 });
            log.add(at_ns + 2, "guest_frames", frames);
            log.status(at_ns + 3, 7, "failed", 0);
        }
        for at_ns in (0..n).map(|i| T0 + (n + i) * MS) {
            log.add(at_ns, "guest_run", json!({ "pid": 7, "vcpus": { "known": 2, "inside": 0 } }));
            log.add(at_ns + 1, "guest_run_void", json!({ "pid": 7, "entered_ns": at_ns, "certain": true }));
        }
        log.ended(T0 + 2 * n * MS)
    }),
    ("flows that are tied late, and events before", |n| {
        let mut log = Log::begun();
        log.status(T0, 7, "setup", 0);
        for i in 0..n {
            log.flow_seen(T0 + i, i);
            log.counted(T0 + i + 20, i, T0 + i, 0, false);
        }
        for i in 0..n {
            log.qmp(T0 + (i + 1) * MS, 7, "MIGRATION_PASS", json!({ "pass": i + 1 }), i);
            log.flow_owner(T0 + n * MS + i, i);
        }
        log.status(T0 + 2 * n * MS, 7, "completed", 0);
        log.ended(T0 + 3 * n * MS)
    }),
    ("counts of a flow that is tied late", |n| {
        let mut log = Log::begun();
        log.status(T0, 7, "setup", 0);
        log.flow_seen(T0, 0);
        for i in 1..=n {
            log.counted(T0 + i * MS, 0, T0, 0, false);
            log.qmp(T0 + i * MS + MS / 2, 7, "MIGRATION_PASS", json!({ "pass": i }), i);
        }
        log.flow_owner(T0 + (n + 1) * MS, 0);
        log.status(T0 + (n + 2) * MS, 7, "completed", 0);
        log.ended(T0 + (n + 3) * MS)
    }),
    ("things that are not measured, and migrations", |n| {
        let mut log = Log::begun();
        for i in 0..n {
            log.add(T0, "not_measured", json!({ "what": format!("thing {i}"), "why": "it cannot be" }));
        }
        (0..n / 4).for_each(|i| log.migration(T0 + i * MS, 7));
        log.ended(T0 + n * MS)
    }),
    ("addresses with fragments, and flows", |n| {
        let mut log = Log::begun();
        log.status(T0, 7, "setup", 0);
        for i in 0..n {
            let local = format!("10.1.{}.{}", i / 256, i % 256);
            let fragments = json!({ "local": local, "remote": "192.0.3.2", "counters": counters(i) });
            log.add(T0 + i, "fragments", fragments);
            log.flow_seen(T0 + i, i);
            log.flow_owner(T0 + i, i);
        }
        log.status(T0 + n * MS, 7, "completed", 0);
        log.ended(T0 + 2 * n * MS)
    }),
];

fn events(log: &str) -> Vec<Event> {
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// This thread's time on a CPU while it does something.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = now();
    work();
    now() - before
}

#[test]
fn a_log_four_times_as_long_takes_at_most_eight_times_as_long() {
    const FEW: u64 = 250;
    const TIMES: u64 = 4;
    /// What is linear takes 4 times as long, and what is quadratic 16 times.
    const ALLOWED: u32 = 8;
    /// A busy machine slows one down more than the other, but not each time.
    const ATTEMPTS: u32 = 10;
    /// In less time, the clock's steps and the allocator outweigh the work.
    const NOTICEABLE: Duration = Duration::from_millis(25);
    let mut slow = Vec::new();
    for (what, log) in MUCH {
        let (few, many) = (events(&log(FEW)), events(&log(FEW * TIMES)));
        assert!(!fold(&few).is_empty(), "{what}: no migration");
        let times = |events| (0..ATTEMPTS).map(move |_| cpu_time(|| drop(fold(events))));
        let is_little = |(few, many): &(Duration, Duration)| *many <= NOTICEABLE || *many <= *few * ALLOWED;
        let mut measured = Vec::new();
        if !times(&few).zip(times(&many)).inspect(|both| measured.push(*both)).any(|both| is_little(&both)) {
            slow.push(format!("{what}: {measured:?} for {FEW}, and for {TIMES} times as many"));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

#[test]
fn showing_a_migration_as_it_runs_costs_little_beside_taking_in_its_events() {
    /// A look after each so many events.
    const EVERY: usize = 100;
    let log = Log::begun().of_one_migration(|log| {
        let (rounds, much) = (2_000, 8_000);
        (0..rounds).for_each(|i| log.qmp(T0 + i, 7, "MIGRATION_PASS", json!({ "pass": i + 1 }), i));
        // Most events are of these kinds: they only change counts.
        for i in 0..much {
            let at_ns = T0 + MS + i * MS;
            match i % 8 {
                0 => log.gap(at_ns),
                1 => drop(log.add(
                    at_ns,
                    "guest_run",
                    json!({ "pid": 7, "vcpus": { "known": 2, "inside": 0 } }),
                )),
                2 => log.qmp(at_ns, 7, "RTC_CHANGE", json!({ "offset": i }), i),
                _ => log.counted(at_ns, 0, T0 - 2 * MS, i, false),
            }
        }
        T0 + (much + 1) * MS
    });
    let events = events(&log);
    let (rounds, others) = events.split_at(events.len() - 8_000);
    let pushed = |look: &dyn Fn(&Timeline, MonotonicNs)| {
        let mut timeline = Timeline::new(Selection::default());
        rounds.iter().for_each(|event| timeline.push(event));
        for (i, event) in others.iter().enumerate() {
            timeline.push(event);
            if i % EVERY == 0 {
                look(&timeline, event.at_ns);
            }
        }
    };
    let unseen = cpu_time(|| pushed(&|_, _| {}));
    let seen = cpu_time(|| pushed(&|timeline, at| drop((timeline.live(at), timeline.ended()))));
    assert!(
        seen < unseen * 3 + Duration::from_millis(50),
        "{unseen:?} without a look, {seen:?} with {}",
        events.len() / EVERY
    );
}
