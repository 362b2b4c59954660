//! `watch --otlp`, with the collector Rotel on the observer: there, away and back.

use super::{SmallDisk, directory, merged, merged_directory, named_watch, whole_pairs};
use crate::support::rotel::{Rotel, Span};
use crate::support::{FAST, GUEST_PATIENCE, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::watch_command::{Pair, Watch, file_names};
use migtrace_lab::{BareQemu, Migration, Outcome, migtrace_command, shared_lab};
use std::collections::BTreeSet;
use std::path::Path;

/// Checks that these are the spans of one migration, from both of its hosts, each once: one root, and all else below it.
fn assert_one_trace(spans: &[Span], pairs: [&Pair; 2]) {
    let trace = pairs[0].record["migration"]["id"].as_str().unwrap().replace('-', "");
    assert!(spans.iter().all(|span| span.trace == trace), "{trace}: {spans:#?}");
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len(), "a span came twice: {spans:#?}");
    let roots: Vec<_> = spans.iter().filter(|span| !ids.contains(&span.parent)).collect();
    assert_eq!(roots.len(), 1, "{spans:#?}");
    let halves: Vec<_> = spans.iter().filter(|span| span.name == "migration").collect();
    assert!(halves.len() == 2 && halves.iter().any(|half| half.parent == roots[0].id), "{halves:#?}");
    let phases = pairs.map(|pair| pair.record["phases"].as_array().unwrap().len());
    assert_eq!(spans.iter().filter(|span| span.name.starts_with("phase ")).count(), phases[0] + phases[1]);
}

fn waiting(queue: &Path) -> usize {
    file_names(queue).unwrap().iter().filter(|name| name.ends_with(".otlp")).count()
}

#[test]
fn both_halves_of_each_migration_reach_a_collector_once_also_if_it_was_away_during_one() {
    let mut lab = shared_lab().unwrap();
    let observer = lab.observer().clone();
    let kept = directory();
    let queues = [directory(), directory()];
    let ends =
        [(lab.guest_host(), "first", 4318, &queues[0]), (lab.other_host(), "second", 4317, &queues[1])];
    let mut watches = ends.map(|(host, name, port, queue)| {
        let (endpoint, queue) =
            (format!("http://{}:{port}", observer.ipv4()), queue.path().to_str().unwrap());
        named_watch(host, name, kept.path(), &["--otlp", &endpoint, "--otlp-queue", queue])
    });
    let mut there = Vec::new();
    for is_away in [false, true] {
        let rotel = (!is_away).then(|| Rotel::start_at(&observer, observer.ipv4()));
        assert_eq!(lab.migrate(&Migration::default()).unwrap().outcome, Outcome::Completed);
        if is_away {
            for (watch, queue) in watches.iter_mut().zip(&queues) {
                watch.wait_until_said("OTLP: traces cannot be sent now", GUEST_PATIENCE).unwrap();
                assert_eq!(waiting(queue.path()), 1);
            }
        }
        let rotel = rotel.unwrap_or_else(|| Rotel::start_at(&observer, observer.ipv4()));
        there.push(rotel.wait_for_migrations(2));
    }
    let pairs = whole_pairs(kept.path(), 4);
    let of = |number: usize| [&pairs[2 * number], &pairs[2 * number + 1]];
    for (number, spans) in there.iter().enumerate() {
        assert_one_trace(spans, of(number));
    }
    // Both hosts have written into one directory. All of its logs at once give the records of its pairs.
    let fleet = merged_directory(kept.path());
    assert_eq!(fleet, [merged(of(0)), merged(of(1))]);
    for (watch, queue) in watches.into_iter().zip(&queues) {
        let watched = watch.stop(PATIENCE).unwrap();
        assert_eq!((watched.code, watched.lines.len()), (Some(0), 2), "{}", watched.stderr);
        assert!(watched.stderr.contains("OTLP: traces can be sent again"), "{}", watched.stderr);
        assert!(
            watched.stderr.ends_with("2 migrations (2 completed); traces sent: 2\n"),
            "{}",
            watched.stderr
        );
        assert_eq!(waiting(queue.path()), 0);
    }
}

#[test]
fn a_queue_that_is_full_costs_the_oldest_traces_and_never_a_line() {
    let lab = network();
    // There is room for the traces of one or two migrations.
    let (folder, disk) = (directory(), SmallDisk::mount(8));
    let queue = disk.path().to_str().unwrap();
    let options = ["--otlp", "http://127.0.0.1:9", "--otlp-queue", queue];
    let mut watch = named_watch(lab.source(), "host-a", folder.path(), &options);
    for number in 0..4 {
        let _destination = BareQemu::incoming(lab.destination(), "queued", MIGRATION_PORT).unwrap();
        let mut source = BareQemu::start(lab.source(), "queued").unwrap();
        source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
        assert!(watch.next_line(PATIENCE).unwrap().contains("completed"), "{number}");
    }
    watch.wait_until_said("had to make room for later ones", PATIENCE).unwrap();
    whole_pairs(folder.path(), 4);
    let watched = watch.stop(PATIENCE).unwrap();
    let (kept, stderr) = (waiting(disk.path()), &watched.stderr);
    assert!(watched.code == Some(0) && (1..3).contains(&kept), "{stderr}");
    assert_eq!(stderr.matches("traces cannot be sent now").count(), 1, "{stderr}");
    let end = format!("4 migrations (4 completed); traces lost: {}\n", 4 - kept);
    assert!(stderr.ends_with(&end), "{stderr}");
}

#[test]
fn a_sink_that_cannot_be_had_is_one_error_before_anything_is_attached() {
    let lab = network();
    let (first, second, queue) = (directory(), directory(), directory());
    let queue = queue.path().to_str().unwrap();
    let taken = "127.0.0.1:9464";
    let options = ["--prometheus", taken, "--otlp", "--otlp-queue", queue];
    let watch = Watch::start(lab.source(), first.path(), &options).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["--prometheus", taken], "cannot serve metrics at 127.0.0.1:9464: Address already in use"),
        (&["--prometheus", "192.0.2.1:9464"], "this host has no such address"),
        (&["--textfile", "/tmp/metrics.txt"], "node_exporter reads only files whose names end in .prom"),
        (&["--textfile", "/no/such/metrics.prom"], "cannot write /no/such/metrics.prom: No such file"),
        (&["--otlp", "localhost:4318"], "--otlp: `localhost:4318` has neither the scheme http nor https"),
        (&["--otlp", "--otlp-queue", queue], "another migtrace uses it"),
        (&["--otlp", "--otlp-queue", "/proc/queue"], "cannot keep what is to be sent in /proc/queue"),
    ];
    for (options, why) in cases {
        let directory = second.path().to_str().unwrap();
        let refused =
            migtrace_command::run(lab.source(), &[&["watch", "--directory", directory], options].concat());
        let refused = refused.unwrap();
        assert_eq!(refused.code, Some(1), "{options:?}: {refused:?}");
        assert!(refused.stderr.contains(why), "{options:?}: {refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{options:?}: {refused:?}");
    }
    assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
}
