//! How runs end, and what becomes of the study.

use std::fs;
use std::time::{Duration, Instant};

use migtrace::study::run::RunOutcome;

use crate::scene::{Scene, runs, wait_for};

#[test]
fn every_run_leaves_its_record_its_logs_and_what_it_was() {
    let scene = Scene::of_two_cells("repetitions = 2\nwarm_up = 1");
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let names = ["001-small-w", "002-large-w", "003-small-1", "004-large-1", "005-small-2", "006-large-2"];
    assert_eq!(scene.folders(), names);
    for (index, name) in names.iter().enumerate() {
        let run = scene.read_run(name);
        assert_eq!(run.outcome, RunOutcome::Completed);
        assert_eq!((run.number as usize, run.attempt), (index + 1, 1));
        assert_eq!(run.repetition, name[name.len() - 1..].parse().ok());
        assert_eq!(run.cell["size"], name[4..9]);
        assert_eq!(run.variables["NOTE"], format!("of-{}", index + 1));
        assert!(run.migrate_ns.unwrap() >= 100_000_000 && run.run_ns > run.migrate_ns.unwrap());
        for file in ["record.json", "prepare.log", "migrate.log", "clean-up.log", "record.log", "variables"] {
            assert!(scene.run_path(name, file).is_file(), "{name} {file}");
        }
        assert!(scene.run_path(name, "events").is_dir());
        assert!(!scene.run_path(name, "processes").exists());
    }
    assert_eq!(fs::read(scene.path("study/plan.toml")).unwrap(), fs::read(scene.path("plan.toml")).unwrap());
    // What is left is known once a run has completed.
    let begun: Vec<_> = done.stderr.lines().filter(|line| !line.contains("completed")).collect();
    assert_eq!(begun[0], "Run 1 of 6: small, warm-up");
    assert!(begun[1].starts_with("Run 2 of 6: large, warm-up (about ") && begun[1].ends_with(" left)"));
    assert!(done.stderr.ends_with("6 of 6 runs completed, 0 failed\n"), "{done:?}");
}

#[test]
fn a_failed_run_is_kept_tried_again_and_does_not_end_the_study() {
    let scene = Scene::of_two_cells("attempts = 3");
    // The first cell succeeds at its second attempt, the other one never.
    scene.change_plan(
        "$AT_MIGRATE",
        "[ $STUDY_SIZE = small ] && [ $STUDY_ATTEMPT = 2 ] || { echo no route to host-b; exit 7; }",
    );
    let done = scene.run(&[("RECORD_FILE", "completed.json")]);
    assert_eq!(done.code, Some(7), "{done:?}");
    let names = [
        "001-small-1",
        "001-small-1-attempt2",
        "002-large-1",
        "002-large-1-attempt2",
        "002-large-1-attempt3",
    ];
    assert_eq!(scene.folders(), names);
    assert_eq!(scene.why("001-small-1"), "driver.migrate failed (exit code 7): no route to host-b");
    assert_eq!(scene.read_run("001-small-1-attempt2").outcome, RunOutcome::Completed);
    // The record of a migration that failed is kept.
    assert!(scene.run_path("002-large-1", "record.json").is_file());
    assert_eq!(scene.steps().iter().filter(|step| step.starts_with("clean_up")).count(), 5);
    assert!(done.stderr.contains("; it is tried again\n"), "{done:?}");
    let failed = "Failed: large, repetition 1: driver.migrate failed (exit code 7): no route to host-b (see 002-large-1-attempt3)\n\
                  1 of 2 runs completed, 1 failed\nTo try those that failed again: ";
    assert!(done.stderr.contains(failed) && done.stderr.ends_with(" --retry-failed\n"), "{done:?}");

    // Those that failed for good are not repeated unless that is asked for.
    let before = scene.steps().len();
    assert_eq!(scene.run(&[]).code, Some(7));
    assert_eq!(scene.steps().len(), before);
    let again = scene.command().arg("--retry-failed").output().unwrap();
    assert_eq!(again.status.code(), Some(7));
    assert_eq!(scene.folders().len(), 8);
    assert_eq!(scene.read_run("002-large-1-attempt6").attempt, 6);
}

#[test]
fn what_fails_is_named_with_its_last_words() {
    let recorded = |file, why| ("./record.sh", "./record.sh", vec![("RECORD_FILE", file)], why);
    for (from, to, variables, why) in [
        (
            "step prepare;",
            "step prepare; echo; echo no space >&2; exit 1;",
            vec![],
            "driver.prepare failed (exit code 1): no space",
        ),
        (
            "NOTE=of",
            "export NOTE=of",
            vec![],
            "$STUDY_VARIABLES, line 1: `export NOTE` is not the name of a variable",
        ),
        ("$AT_MIGRATE", "kill -9 $$", vec![], "driver.migrate failed (killed by SIGKILL)"),
        (
            "./record.sh",
            "./no-such-program",
            vec![],
            "cannot run ./no-such-program; see [record] of the plan: No such file or directory (os error 2)",
        ),
        ("./record.sh", "./record.sh $GUEST", vec![], "`$GUEST` is set by no axis"),
        (
            "./record.sh",
            "./record.sh",
            vec![("RECORDS", "broken")],
            "the recording did not begin: cannot load the programs",
        ),
        recorded("failed.json", "by its record, the migration has failed"),
        recorded("no-such-file", "the recording left no record; see record.log"),
        recorded("steps.sh", "cannot read record.json: expected value"),
        recorded(
            "study/study.json",
            "cannot read record.json: its schema is `migtrace.study/1`; this migtrace reads only `migtrace.record/1`",
        ),
    ] {
        let scene = Scene::of_two_cells("");
        scene.change_plan(from, to);
        let done = scene.run(&variables);
        assert_eq!(done.code, Some(7), "{why}: {done:?}");
        let found = scene.why("001-small-1");
        assert!(found.starts_with(why), "{found}");
        // The next one is tried all the same, and each was cleaned up.
        assert_eq!(scene.folders(), ["001-small-1", "002-large-1"]);
        assert_eq!(scene.steps().iter().filter(|step| step.starts_with("clean_up")).count(), 2, "{why}");
    }
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    for step in ["prepare", "migrate", "clean_up"] {
        let scene = Scene::of_two_cells("[limits]\nprepare = \"1s\"\nmigrate = \"1s\"\nclean_up = \"1s\"");
        let started = Instant::now();
        let done = scene.run(&[("STOP_AT", step)]);
        assert!(started.elapsed() < Duration::from_secs(45), "{step}");
        wait_for("its processes are gone", || scene.stopped().iter().all(|pid| !runs(*pid)));
        let why = format!("driver.{step} did not end within 1s and was killed");
        if step == "clean_up" {
            // The migration was measured all the same.
            assert_eq!(done.code, Some(0), "{done:?}");
            assert_eq!(scene.read_run("001-small-1").clean_up_failed.as_ref(), Some(&why));
            assert!(done.stderr.contains(&format!("Warning: {why}\n")), "{done:?}");
        } else {
            assert_eq!(done.code, Some(7), "{done:?}");
            assert_eq!(scene.why("001-small-1"), why);
            assert_eq!(scene.read_run("002-large-1").outcome, RunOutcome::Completed, "it goes on");
        }
    }
}

#[test]
fn what_a_command_leaves_behind_lasts_as_long_as_its_run() {
    let scene = Scene::of_two_cells("");
    scene.change_plan("step prepare;", "step prepare; sleep 1000 & echo $! > load; ");
    scene.change_plan("$AT_MIGRATE", "kill -0 $(cat load)");
    scene.change_plan("step clean_up", "step clean_up; kill -0 $(cat load)");
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stderr.contains("Warning"), "it was there until the end: {done:?}");
    let load = fs::read_to_string(scene.path("load")).unwrap().trim().parse().unwrap();
    // A killed process has ended once it has been on a processor again.
    wait_for("and not longer", || !runs(load));
}

#[test]
fn a_recording_that_does_not_end_is_interrupted_and_its_report_kept() {
    let scene = Scene::of_two_cells("[[except]]\nsize = \"large\"");
    scene.change_plan("$AT_MIGRATE", "exit 1");
    let done = scene.run(&[("RECORDS", "forever")]);
    assert_eq!(done.code, Some(7), "{done:?}");
    assert_eq!(scene.why("001-small-1"), "driver.migrate failed (exit code 1)");
    assert!(scene.run_path("001-small-1", "record.json").is_file());
}

/// A migration that ends only when it is made to.
fn endless(action: &str) -> Scene {
    let scene = Scene::of_two_cells(&format!("[convergence]\naction = \"{action}\"\nafter = \"500ms\""));
    scene.change_plan(
        "step migrate; sleep 0.1;",
        "step migrate; [ $STUDY_SIZE = small ] || while [ ! -e $STUDY_DIRECTORY/ended ]; do sleep 0.05; done; ",
    );
    scene.change_plan("[record]", "converge = \". ./steps.sh; step converge; env | grep STUDY_CONV; : > $STUDY_DIRECTORY/ended\"\n[record]");
    scene
}

#[test]
fn a_migration_that_does_not_converge_is_made_to_when_that_is_due() {
    let scene = endless("suspend");
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(scene.read_run("001-small-1").converged_after_ns, None);
    let run = scene.read_run("002-large-1");
    let after = run.converged_after_ns.unwrap();
    assert!(500_000_000 <= after && after < run.migrate_ns.unwrap(), "{run:?}");
    let said = fs::read_to_string(scene.run_path("002-large-1", "converge.log")).unwrap();
    assert!(
        said.contains("STUDY_CONVERGENCE=suspend\n") && said.contains("STUDY_CONVERGENCE_AFTER_S=0.5\n"),
        "{said}"
    );
    assert_eq!(scene.steps().iter().filter(|step| step.starts_with("converge")).count(), 1);
}

#[test]
fn an_aborted_migration_is_a_failed_run_and_a_converge_that_fails_is_said() {
    let scene = endless("abort");
    scene.change_plan("$AT_MIGRATE", "[ ! -e $STUDY_DIRECTORY/ended ]");
    assert_eq!(scene.run(&[]).code, Some(7));
    let why = scene.why("002-large-1");
    assert!(
        why.starts_with("the migration did not end within ") && why.ends_with("as the plan says"),
        "{why}"
    );

    let scene = endless("postcopy");
    scene.change_plan(
        "env | grep STUDY_CONV;",
        "echo not permitted; (sleep 0.2; : > $STUDY_DIRECTORY/ended) & exit 1;",
    );
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(scene.read_run("002-large-1").converged_after_ns, None);
    assert!(
        done.stderr.contains("Warning: driver.converge failed (exit code 1): not permitted\n"),
        "{done:?}"
    );
}
