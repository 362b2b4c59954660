//! A study goes on where it stopped, however that was.

use nix::sys::signal::Signal;

use crate::scene::{Scene, runs, send, wait_for};

/// Kills a study at each of its steps, and lets it go on.
#[test]
fn a_study_that_was_killed_cleans_up_and_makes_the_run_again() {
    for step in ["prepare", "record", "migrate", "report", "clean_up"] {
        let scene = Scene::of_two_cells("");
        let mut child = scene.start_and_stop_at(step);
        let stopped = scene.stopped();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stopped.iter().all(|pid| runs(*pid)), "{step}: what was started goes on without it");
        let before = scene.steps().len();

        let done = scene.run(&[]);
        assert_eq!(done.code, Some(0), "{step}: {done:?}");
        assert!(done.stderr.contains("001-small-1 was cut off: cleaning up after it"), "{step}: {done:?}");
        wait_for("the killed study's processes are gone", || stopped.iter().all(|pid| !runs(*pid)));
        let expected = ["001-small-1", "001-small-1-cut-off", "002-large-1"];
        assert_eq!(scene.folders(), expected, "{step}");
        assert!(!scene.run_path("001-small-1-cut-off", "run.json").exists());
        // It does not count as an attempt.
        assert_eq!(scene.read_run("001-small-1").attempt, 1);
        let steps = scene.steps().split_off(before);
        let run = ["prepare", "record", "migrate", "report", "clean_up"];
        let of = |number| run.map(|step| format!("{step} {number}"));
        let expected: Vec<_> = ["clean_up 1".to_owned()].into_iter().chain(of(1)).chain(of(2)).collect();
        assert_eq!(steps, expected, "{step}");
    }
}

#[test]
fn ctrl_c_ends_what_runs_cleans_up_and_says_how_to_go_on() {
    for step in ["prepare", "record", "migrate", "report"] {
        let scene = Scene::of_two_cells("");
        let child = scene.start_and_stop_at(step);
        let stopped = scene.stopped();
        send(&child, Signal::SIGINT);
        let done: crate::scene::Done = child.wait_with_output().unwrap().into();
        assert_eq!(done.code, Some(3), "{step}: {done:?}");
        assert!(stopped.iter().all(|pid| !runs(*pid)), "{step}: a child was left");
        assert_eq!(scene.steps().last().unwrap(), "clean_up 1", "{step}");
        assert_eq!(scene.folders(), ["001-small-1-cut-off"], "{step}");
        let again = format!(
            "To go on: migtrace study run {} --output {}\n",
            scene.path("plan.toml").display(),
            scene.path("study").display()
        );
        assert!(done.stderr.ends_with(&again), "{done:?}");

        let done = scene.run(&[]);
        assert_eq!(done.code, Some(0), "{step}: {done:?}");
        assert!(!done.stderr.contains("was cut off"), "it was cleaned up: {done:?}");
        assert_eq!(scene.folders(), ["001-small-1", "001-small-1-cut-off", "002-large-1"], "{step}");
    }
}

#[test]
fn a_second_ctrl_c_leaves_the_clean_up_to_the_next_call() {
    let scene = Scene::of_two_cells("");
    let child = scene.start_and_stop_at("clean_up");
    send(&child, Signal::SIGINT);
    // The clean-up is called again; it stops only once.
    let done: crate::scene::Done = child.wait_with_output().unwrap().into();
    assert_eq!(done.code, Some(3), "{done:?}");

    let scene = Scene::of_two_cells("");
    scene.change_plan("step clean_up\"", "[ -z \\\"$HANG\\\" ] || { : > hanging; sleep 1000; }\"");
    let child = scene.command().env("HANG", "1").spawn().unwrap();
    wait_for("it cleans up", || scene.path("hanging").exists());
    std::fs::remove_file(scene.path("hanging")).unwrap();
    send(&child, Signal::SIGINT);
    wait_for("it cleans up again", || scene.path("hanging").exists());
    send(&child, Signal::SIGINT);
    let done: crate::scene::Done = child.wait_with_output().unwrap().into();
    assert_eq!(done.code, Some(3), "{done:?}");
    assert_eq!(scene.folders(), ["001-small-1"]);
    let done = scene.run(&[]);
    assert!(done.code == Some(0) && done.stderr.contains("001-small-1 was cut off"), "{done:?}");
}

#[test]
fn completed_runs_stay_and_the_others_are_made() {
    let scene = Scene::of_two_cells("repetitions = 2");
    scene.change_plan("$AT_MIGRATE", "[ $STUDY_RUN != 3 ] || [ -z \\\"$STOP\\\" ] || kill -9 $PPID");
    let done = scene.run(&[("STOP", "1")]);
    assert_eq!(done.code, None, "it was killed: {done:?}");
    let first = std::fs::read(scene.run_path("001-small-1", "run.json")).unwrap();
    let before = scene.steps().len();
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.starts_with("Going on: 2 of 4 runs completed, 0 failed\n"), "{done:?}");
    assert_eq!(std::fs::read(scene.run_path("001-small-1", "run.json")).unwrap(), first);
    let again = &scene.steps()[before..];
    assert!(again.iter().all(|step| step.ends_with('3') || step.ends_with('4')), "{again:?}");
    // Once more: there is nothing to do.
    let before = scene.steps().len();
    assert_eq!(scene.run(&[]).code, Some(0));
    assert_eq!(scene.steps().len(), before);
}
