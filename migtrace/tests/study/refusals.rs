//! What is refused, with one clear error.

use std::fs;

use crate::scene::Scene;

/// What is said of a plan that cannot be run.
fn error_of(plan: &str) -> String {
    let scene = Scene::of_two_cells("");
    scene.write_plan(plan);
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(1), "{plan}: {done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    assert!(!scene.path("study").exists(), "nothing was begun");
    let begin = format!("migtrace: {}: ", scene.path("plan.toml").display());
    done.stderr.strip_prefix(&begin).unwrap_or_else(|| panic!("{done:?}")).trim_end().to_owned()
}

const PLAIN: &str = "title = \"A\"\n[[axis]]\nname = \"size\"\nvalues = [\"small\", \"large\"]\n[driver]\nmigrate = \"true\"\n";

#[test]
fn a_plan_that_is_none_is_refused_with_the_place() {
    for (plan, words) in [
        ("title = ", "line 1, column 9: "),
        ("title = \"A\"\n  colour = 1\n", "line 2, column 3: unknown field `colour`"),
        (
            &PLAIN.replace("migrate", "migarte"),
            "line 6, column 1: unknown field `migarte`, expected one of `prepare`, `migrate`",
        ),
        (&PLAIN.replace("\"small\"", "7"), "line 4, column 10: a value of an axis is its name, or { name = "),
        (
            &format!("{PLAIN}[limits]\nmigrate = \"5\"\n"),
            "`5` is not a length of time; write for example 30s or 2m",
        ),
        (
            &format!("{PLAIN}[convergence]\naction = \"pray\"\n"),
            "unknown variant `pray`, expected one of `auto-converge`",
        ),
        ("title = \"A\"\n", "missing field `axis`"),
    ] {
        assert_refused(plan, words);
    }
}

fn axis(name: &str, values: &str) -> String {
    format!("[[axis]]\nname = \"{name}\"\nvalues = [{values}]\n")
}

/// A plan with this at its end.
fn with(more: &str) -> String {
    format!("{PLAIN}{more}")
}

/// A plan with this before its driver.
fn before(more: &str) -> String {
    PLAIN.replace("[driver]", &format!("{more}[driver]"))
}

fn assert_refused(plan: &str, words: &str) {
    let error = error_of(plan);
    assert!(error.contains(words), "{plan}: {error}");
}

#[test]
fn axes_that_make_no_sense_are_refused_with_what_to_do() {
    for (plan, words) in [
        (before(&axis("size", "\"a\"")), "axis `size`: it is there twice; remove or rename one"),
        (
            before(&(axis("a-b", "\"x\"") + &axis("a_b", "\"x\""))),
            "axis `a_b`: it and axis `a-b` both give the variable STUDY_A_B",
        ),
        (before(&axis("Load", "\"a\"")), "axis `Load`: its name must begin with a small letter"),
        (
            before(&axis("run", "\"a\"")),
            "axis `run`: its variable would be STUDY_RUN, which has another meaning",
        ),
        (before(&axis("load", "")), "axis `load`: it has no values"),
        (before(&axis("load", "\"a\", \"a\"")), "axis `load`, value `a`: it is there twice"),
        (before(&axis("load", "\"\"")), "a value has an empty name"),
        (
            before(&axis("load", "{ name = \"a\", set = { \"A B\" = 1 } }")),
            "`A B` is not the name of an environment variable",
        ),
        (before(&axis("load", "{ name = \"a\", set = { STUDY_X = 1 } }")), "`STUDY_X` begins with STUDY_"),
        (
            before(
                &(axis("a", "{ name = \"x\", set = { RAM = 1 } }")
                    + &axis("b", "{ name = \"y\", set = { RAM = 2 } }")),
            ),
            "axis `b`, value `y`: it sets RAM, as axis `a` does",
        ),
    ] {
        assert_refused(&plan, words);
    }
}

#[test]
fn names_that_nothing_has_are_refused_with_those_that_there_are() {
    for (plan, words) in [
        (with("[variables]\nA-B = 1\n"), "[variables]: `A-B` is not the name"),
        (
            with("[[except]]\ncolour = \"red\"\n"),
            "[[except]], the 1st: there is no axis `colour`; the axes are size",
        ),
        (
            with("[[except]]\nsize = \"small\"\n[[except]]\nsize = \"huge\"\n"),
            "[[except]], the 2nd: axis `size` has no value `huge`; its values are small, large",
        ),
        (with("[[except]]\n"), "[[except]], the 1st: it names no axis"),
        (
            with("[[except]]\nsize = \"small\"\n[[except]]\nsize = \"large\"\n"),
            "[[except]]: nothing is left to run",
        ),
        (
            with("[published]\nsource = \"B\"\ncells = [{ size = \"tiny\", time_s = 1 }]\n"),
            "published.cells, the 1st: axis `size` has no value `tiny`",
        ),
        (with("[report]\nrows = \"load\"\n"), "report.rows: there is no axis `load`"),
        (
            with("[report]\nrows = \"size\"\ncolumns = \"size\"\n"),
            "[report]: rows and columns are the same axis",
        ),
    ] {
        assert_refused(&plan, words);
    }
}

#[test]
fn what_cannot_be_run_is_refused_with_what_to_do() {
    for (plan, words) in [
        (with("[runs]\nrepetitions = 0\n"), "runs.repetitions: it is 0"),
        (with("[runs]\nattempts = 0\n"), "runs.attempts: it is 0"),
        (with("[runs]\nrepetitions = 60000\n"), "are more than 100000 runs"),
        (with("[limits]\nclean_up = \"0s\"\n"), "limits.clean_up: it is zero"),
        (with("[convergence]\naction = \"suspend\"\n"), "[convergence]: suspend after which time?"),
        (
            with("[convergence]\naction = \"suspend\"\nafter = \"1m\"\n"),
            "driver.converge: there is none, so nothing could suspend",
        ),
        (
            with("[convergence]\naction = \"abort\"\nafter = \"1h\"\n"),
            "convergence.after: limits.migrate ends the migration before that",
        ),
        (
            with("[convergence]\naction = \"auto-converge\"\nafter = \"1m\"\n"),
            "convergence.after: with auto-converge",
        ),
        (
            with("converge = \"true\"\n"),
            "driver.converge: there is no [convergence] that says when to run it",
        ),
        (with("[record]\nprobe_from = \"b\"\n"), "record.probe: it says whom to ping"),
        (with("[record]\ncommand = \"sudo 'migtrace\"\n"), "record.command: it is not a command line"),
        (with("[record]\noptions = [\"--output=x\"]\n"), "record.options: --output is set by the study"),
        (with("[record]\nvm = \"$GUEST\"\n"), "record.vm: nothing sets `$GUEST` for small"),
        (
            before(&axis("load", "{ name = \"a\", set = { GUEST = 1 } }, \"b\""))
                + "[old_method]\nping = \"$GUEST\"\n",
            "old_method.ping: nothing sets `$GUEST` for small, b",
        ),
    ] {
        assert_refused(&plan, words);
    }
}

#[test]
fn only_one_study_at_once_has_the_folder() {
    let scene = Scene::of_two_cells("");
    let mut child = scene.start_and_stop_at("migrate");
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("another `migtrace study run` is using"), "{done:?}");
    crate::scene::send(&child, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn runs_of_different_plans_are_not_mixed() {
    let scene = Scene::of_two_cells("");
    assert_eq!(scene.run(&[]).code, Some(0));
    let original = fs::read_to_string(scene.path("plan.toml")).unwrap();
    for (from, to, words) in [
        ("shuffle = false", "shuffle = false\nseed = 2", "runs.seed was 1 and is 2"),
        ("\"small\", \"large\"", "\"small\"", "axis.size.values.large was \"large\" and is not there"),
        ("step migrate", "step  migrate", "driver.migrate was \". ./steps.sh; step migrate"),
        ("[record]", "[limits]\nmigrate = \"90s\"\n[record]", "limits.migrate was \"30m\" and is \"1m 30s\""),
    ] {
        scene.write_plan(&original);
        scene.change_plan(from, to);
        let done = scene.run(&[]);
        assert_eq!(done.code, Some(1), "{words}: {done:?}");
        assert!(done.stderr.contains(&format!("is a study of another plan: {words}")), "{done:?}");
        assert_eq!(fs::read_to_string(scene.path("study/plan.toml")).unwrap(), original);
    }
    // What does not decide the runs may change, and is taken over.
    let changed = original
        .replace("A test", "Another title")
        .replace("name = \"size\"", "name = \"size\" # how large\ntitle = \"Size\"");
    let changed = format!("{changed}[report]\nrows = \"size\"\n[published]\nsource = \"B\"\ncells = []\n");
    scene.write_plan(&changed);
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(fs::read_to_string(scene.path("study/plan.toml")).unwrap(), changed);
}

#[test]
fn a_folder_with_something_else_in_it_is_not_used() {
    let scene = Scene::of_two_cells("");
    fs::create_dir(scene.path("study")).unwrap();
    scene.write("study/thesis.tex", "");
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains("is not empty and holds no study (thesis.tex is in it); name a new folder"),
        "{done:?}"
    );
    // An empty one is, also after a kill at the very beginning.
    fs::remove_file(scene.path("study/thesis.tex")).unwrap();
    scene.write("study/study.json.partial", "{");
    assert_eq!(scene.run(&[]).code, Some(0));
    scene.write("study/runs/001-small-1/run.json", "{\"schema\": \"migtrace.run/9\"}");
    let done = scene.run(&[]);
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains(
            "001-small-1/run.json: its schema is `migtrace.run/9`; this migtrace reads only `migtrace.run/1`"
        ),
        "{done:?}"
    );
}
