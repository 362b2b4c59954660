//! The answer of a study, in all its formats, and what holds for odd studies.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p migtrace --test study_report`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::study::{self, Folder, Numbers, changed};
use migtrace::report;
use migtrace::study::answer::{Answer, Cell, CheckName, Choice, Figure, answer};
use migtrace::study::plan::Plan;
use serde_json::{Value, json};

fn check(name: &str, got: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/studies").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, got).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == got,
        "{} differs from what the study gives now\n\
         if that is meant: UPDATE_GOLDEN=1 cargo test -p migtrace --test study_report, and read the difference",
        path.display()
    );
}

/// A study of which only the two first runs have ended: short enough to be read as JSON.
fn first_runs() -> Folder {
    let folder = Folder::empty();
    for (at, (run, record)) in study::runs().into_iter().take(2).enumerate() {
        folder.add(&format!("{:03}-x", at + 1), &run, Some(&record));
    }
    folder
}

#[test]
fn a_whole_study_gives_the_answer_beside_it_in_every_format() {
    let answer = Folder::whole().answer();
    check("two-by-two.txt", &report::study::text::render(&answer));
    check("two-by-two.csv", &report::study::csv::render(&answer).unwrap());
    check("first-runs.json", &report::json(&first_runs().answer()).unwrap());
}

fn cell<'a>(answer: &'a Answer, flavour: &str, load: &str) -> &'a Cell {
    answer.cells.iter().find(|cell| cell.at["flavour"] == flavour && cell.at["load"] == load).unwrap()
}

/// A text as one line, so that it does not matter where lines are broken.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_cell_has_the_median_of_its_runs_within_their_bounds() {
    let answer = Folder::whole().answer();
    let mut times: Vec<u64> = [0, 7, 3].map(|jitter| Numbers::of(0, true, jitter).total()).to_vec();
    times.sort_unstable();
    let time = cell(&answer, "t", "loaded").get(Figure::TotalTime).unwrap();
    let [smallest, median, largest] = [0, 1, 2].map(|at| i64::try_from(times[at]).unwrap());
    let error = i64::try_from(study::ERROR).unwrap();
    assert_eq!((time.count, time.smallest, time.largest), (3, smallest, largest));
    assert_eq!(time.median.value, median);
    assert_eq!((time.median.low, time.median.high), (Some(median - error), Some(median + error)));
    assert_eq!((time.lowest, time.highest), (Some(smallest - error), Some(largest + error)));
}

#[test]
fn what_the_old_method_says_is_beside_what_was_measured() {
    let answer = Folder::whole().answer();
    let numbers = Numbers::of(0, false, 3);
    let lost = i64::try_from(numbers.pings_lost() * study::PING_INTERVAL).unwrap();
    let [stop, gap] = [numbers.stop, numbers.stop + numbers.tail].map(|ns| i64::try_from(ns).unwrap());
    let of = |figure| cell(&answer, "t", "unloaded").get(figure).unwrap().median;
    assert_eq!(of(Figure::PingDowntime).value, lost);
    assert_eq!(of(Figure::PingLessStop).value, lost - stop);
    let off = of(Figure::PingLessReachability);
    assert_eq!(
        (off.value, off.low, off.high),
        (lost - gap, Some(lost - gap - 1_000_000), Some(lost - gap + 1_000_000))
    );
    assert_eq!(of(Figure::MeterLessWire).value, 1_000_000);
    assert_eq!(of(Figure::DriverLessTotal).value, 40_000_000);
}

#[test]
fn a_study_without_runs_has_a_report() {
    let folder = Folder::empty();
    let text = folder.text();
    assert!(text.contains("0 of 12 runs done\n"), "{text}");
    assert!(text.contains("Cells without a run that counts"), "{text}");
    assert!(folder.answer().course.is_none());
    assert_eq!(report::study::csv::render(&folder.answer()).unwrap().lines().count(), 1);
}

#[test]
fn a_study_that_goes_on_shows_what_is_there() {
    let folder = Folder::empty();
    for (at, (run, record)) in study::runs().into_iter().take(5).enumerate() {
        folder.add(&format!("{at:03}-x"), &run, Some(&record));
    }
    fs::create_dir_all(folder.path().join("runs/006-s-unloaded-2/events")).unwrap();
    fs::create_dir_all(folder.path().join("runs/005-s-unloaded-2-cut-off")).unwrap();
    let text = folder.text();
    assert!(text.contains("5 of 12 runs done, 1 under way, 1 cut off\n"), "{text}");
    assert!(text.contains("2 runs"), "{text}");
    let text = flat(&text);
    let said = "Migration time, Stop, Data transferred: it cannot be said whether 4 pairs of cells differ";
    assert!(text.contains(said), "{text}");
    assert_eq!(text.matches("cannot be said").count(), 1, "{text}");
}

#[test]
fn one_run_has_no_spread() {
    let folder = Folder::empty();
    let (run, record) = study::runs().remove(0);
    folder.add("001-x", &run, Some(&record));
    let text = flat(&folder.text());
    assert!(text.contains("unloaded 3.170 s ± 1.0 ms no run 1 run loaded no run no run"), "{text}");
    assert!(!text.contains("Spearman"), "{text}");
    let said = "With one run a cell at most, it cannot be said which cells differ by more than their spread.";
    assert!(text.contains(said), "{text}");
    assert_eq!(text.matches("differ by more than their spread").count(), 1, "{text}");
}

#[test]
fn failed_runs_are_listed_and_count_for_nothing() {
    let folder = changed(|_, run, _| {
        run["outcome"] = json!({ "is": "failed", "why": "driver.migrate ended with exit code 1" });
    });
    let answer = folder.answer();
    assert_eq!(answer.progress.failed, 12);
    assert!(
        answer
            .cells
            .iter()
            .all(|cell| cell.runs.is_empty() && cell.left_out.len() == 3 && cell.figures.is_empty())
    );
    assert!(
        flat(&folder.text()).contains("run 12 (s, loaded): failed: driver.migrate ended with exit code 1")
    );
    assert!(
        report::study::csv::render(&answer)
            .unwrap()
            .contains("no,failed: driver.migrate ended with exit code 1,")
    );
}

#[test]
fn a_run_whose_record_is_incomplete_does_not_count_and_says_why() {
    let folder = changed(|number, run, record| match number {
        1 => record["lost"]["ring_buffer"] = json!(3),
        2 => record["start"]["seen"] = json!(false),
        3 => record["migration"]["outcome"] = json!("interrupted"),
        4 => run["repetition"] = Value::Null,
        5 => run["cell"]["load"] = json!("heavy"),
        6 => record["schema"] = json!("migtrace.record/2"),
        _ => {}
    });
    fs::remove_file(folder.path().join("runs/007-x/record.json")).unwrap();
    fs::write(folder.path().join("runs/008-x/run.json"), "{").unwrap();
    let answer = folder.answer();
    let why = |number| answer.runs.iter().find(|run| run.number == number).unwrap().left_out.clone().unwrap();
    assert_eq!(why(1), "incomplete: events were lost, so its figures are only lower bounds");
    assert_eq!(why(2), "incomplete: the migration began before the recording");
    assert_eq!(why(3), "incomplete: the recording ended before the migration");
    assert_eq!(why(4), "a warm-up");
    assert_eq!(why(5), "the plan has no such cell");
    assert!(why(6).starts_with("no record: record.json: its schema is `migtrace.record/2`"), "{}", why(6));
    assert!(why(7).starts_with("no record: record.json: No such file"), "{}", why(7));
    assert!(answer.problems[0].contains("runs/008-x/run.json: EOF"), "{:?}", answer.problems);
    let text = flat(&folder.text());
    assert!(text.contains("run 1 (t, unloaded): incomplete: events were lost"), "{text}");
    assert!(text.contains("Not readable - /"), "{text}");
    assert_eq!(cell(&answer, "t", "unloaded").runs, [9]);
}

#[test]
fn a_run_counts_once_however_often_it_was_tried() {
    let folder = Folder::whole();
    let (mut run, mut record) = study::runs().remove(0);
    run["attempt"] = json!(2);
    record["total_time"]["value_ns"] = json!(9_000_000_000_u64);
    folder.add("001-x-attempt2", &run, Some(&record));
    let answer = folder.answer();
    assert_eq!(answer.progress.ended, 12);
    let first = cell(&answer, "t", "unloaded");
    assert_eq!(first.get(Figure::TotalTime).unwrap().count, 3);
    assert_eq!(first.get(Figure::TotalTime).unwrap().largest, 9_000_000_000);
    assert_eq!(first.left_out[0].why, "repeated: attempt 2 counts");
}

#[test]
fn what_is_not_known_is_unknown_and_never_0() {
    let folder = changed(|_, run, record| {
        for figure in ["stop", "network", "reachability", "tail", "brownout"] {
            record["downtime"][figure] = Value::Null;
        }
        record["downtime"]["parts"] = json!([]);
        record["traffic"]["total"] = Value::Null;
        record["traffic"]["retransmitted_segments"] = Value::Null;
        run["old_method"] = json!({ "pings": null, "meter": null });
    });
    let answer = folder.answer();
    for figure in [
        Figure::Stop,
        Figure::StopShare,
        Figure::Tail,
        Figure::WireBytes,
        Figure::DiskBytes,
        Figure::PingLessStop,
        Figure::MeterLessWire,
        Figure::RetransmittedSegments,
    ] {
        assert_eq!(cell(&answer, "t", "loaded").get(figure), None, "{figure:?}");
    }
    let text = folder.text();
    assert!(!text.contains("Lost pings"), "{text}");
    assert!(text.contains("measured unknown"), "{text}");
    assert!(
        flat(&text).contains("The stop is not longer than the reachability gap: could not be checked"),
        "{text}"
    );
}

#[test]
fn a_figure_that_only_some_runs_know_says_in_how_many() {
    let folder = changed(|number, _, record| {
        if number <= 4 {
            record["downtime"]["stop"] = Value::Null;
        }
        if number == 2 || number == 6 || number == 10 {
            record["downtime"]["stop"] = Value::Null;
        }
    });
    let text = folder.text();
    assert!(text.contains("2 of 3 runs"), "{text}");
    let downtime = flat(text.split("Downtime").nth(1).unwrap());
    assert!(downtime.contains("loaded unknown"), "{downtime}");
}

#[test]
fn without_upper_bounds_nothing_is_bounded_from_above() {
    let folder = changed(|_, _, record| record["downtime"]["stop"]["high_ns"] = Value::Null);
    let answer = folder.answer();
    let stop = cell(&answer, "t", "loaded").get(Figure::Stop).unwrap();
    assert_eq!((stop.median.high, stop.highest), (None, None));
    assert_eq!(cell(&answer, "t", "loaded").get(Figure::PingLessStop).unwrap().median.low, None);
    let of_stop = answer.findings.differences.iter().find(|found| found.figure == Figure::Stop).unwrap();
    assert!(of_stop.apart.is_empty());
    let text = flat(&folder.text());
    assert!(text.contains("353.0 ms or longer (at least 352.0 ms)"), "{text}");
    assert!(text.contains("2.31 (without bounds) times as long at t"), "{text}");
}

#[test]
fn what_does_not_fit_is_listed_with_its_run() {
    let folder = changed(|number, _, record| match number {
        1 => record["traffic"]["total"]["tx"]["wire_bytes"] = json!(1),
        2 => {
            record["total_time"] =
                json!({ "value_ns": 9, "low_ns": 9, "high_ns": 9, "method": "qmp-events" });
        }
        3 => {
            record["downtime"]["reachability"] =
                json!({ "value_ns": 9, "low_ns": 9, "high_ns": 9, "method": "open" });
        }
        4 => record["downtime"]["contradictions"] = json!(["the stop is longer than the total"]),
        _ => {}
    });
    let answer = folder.answer();
    let misfits = |name| {
        let check = answer.checks.iter().find(|check| check.name == name).unwrap();
        check.misfits.iter().flat_map(|misfit| misfit.runs.clone()).collect::<Vec<_>>()
    };
    assert_eq!(misfits(CheckName::PhasesAddUp), [1]);
    assert_eq!(misfits(CheckName::WithinLinkRate), [2]);
    assert_eq!(misfits(CheckName::StopWithinReachability), [3]);
    assert_eq!(misfits(CheckName::NoContradictions), [4]);
    let text = flat(&folder.text());
    assert!(text.contains("NOT true in 1 of 12 runs run 1 (t, unloaded): 290.87 MiB, against 1 B"), "{text}");
    assert!(text.contains("run 4 (s, loaded): the stop is longer than the total"), "{text}");
}

#[test]
fn a_load_that_grows_no_passes_does_not_fit() {
    let folder = changed(|_, run, record| {
        if run["cell"] == json!({ "flavour": "t", "load": "loaded" }) {
            record["phases"]
                .as_array_mut()
                .unwrap()
                .retain(|phase| phase["pass"].as_u64().is_none_or(|pass| pass == 1));
        }
    });
    let answer = folder.answer();
    let check = answer.checks.iter().find(|check| check.name == CheckName::LoadGrowsPasses).unwrap();
    assert_eq!((check.checked, check.misfits.len()), (2, 1));
    assert_eq!((check.misfits[0].measured, check.misfits[0].limit), (1, 1));
    assert!(flat(&folder.text()).contains("NOT true in 1 of 2 pairs of cells"), "{}", folder.text());
}

#[test]
fn a_link_that_is_hardly_used_does_not_fit() {
    let folder = Folder::whole();
    let answer = folder.answer_to(&study::PLAN.replace("1gbit", "10gbit"), &Choice::default());
    let check = answer.checks.iter().find(|check| check.name == CheckName::LinkIsUsed).unwrap();
    assert_eq!((check.checked, check.misfits.len()), (12, 12));
    let unknown = folder.answer_to(&study::PLAN.replace("1gbit", "fast"), &Choice::default());
    let check = unknown.checks.iter().find(|check| check.name == CheckName::LinkIsUsed).unwrap();
    assert_eq!((check.checked, check.not_checked), (0, 12));
}

#[test]
fn no_name_from_outside_steers_the_terminal_or_breaks_the_report() {
    let hostile = "=\u{1b}[31mred\u{7}\r\n\u{202e}".to_owned() + &"x".repeat(300);
    let folder = changed(|_, run, record| {
        run["cell"]["load"] = json!(hostile);
        record["phases"][1]["name"] = json!(hostile);
        record["downtime"]["parts"][0]["name"] = json!(hostile);
        record["downtime"]["contradictions"] = json!([hostile]);
        if run["number"] == 12 {
            run["outcome"] = json!({ "is": "failed", "why": hostile });
        }
    });
    let mut plan: toml::Table = toml::from_str(study::PLAN).unwrap();
    let text: toml::Value = hostile.clone().into();
    plan["title"] = text.clone();
    plan["description"] = text.clone();
    plan["axis"][1]["values"] = toml::Value::Array(vec![text.clone()]);
    plan["axis"][0]["title"] = text.clone();
    plan["published"]["source"] = text;
    let plan = plan.try_into().unwrap();
    let answer = answer(&plan, &folder.material(), &Choice::default()).unwrap();
    assert_eq!(answer.cells.iter().map(|cell| cell.runs.len()).sum::<usize>(), 11);
    for line in report::study::text::render(&answer).lines() {
        assert!(line.chars().count() <= usize::from(report::text::WIDTH), "{line}");
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
    let csv = report::study::csv::render(&answer).unwrap();
    assert!(!csv.contains(['\u{1b}', '\u{202e}']));
    assert!(csv.contains(",'=\\u{1b}[31mred"), "{}", &csv[..500]);
    assert!(!csv.contains(",=") && !csv.contains(",\"="));
}

#[test]
fn tables_are_laid_out_as_the_reader_chooses() {
    let folder = Folder::whole();
    let choice = |rows: Option<&str>, columns: Option<&str>| Choice {
        rows: rows.map(str::to_owned),
        columns: columns.map(str::to_owned),
        run: None,
    };
    let layout = |rows, columns| {
        let answer = folder.answer_to(study::PLAN, &choice(rows, columns));
        (answer.layout.rows.unwrap(), answer.layout.columns.unwrap())
    };
    let [flavour, load] = ["flavour", "load"].map(str::to_owned);
    assert_eq!(layout(None, None), (load.clone(), flavour.clone()));
    assert_eq!(layout(Some("flavour"), None), (flavour.clone(), load.clone()));
    assert_eq!(layout(None, Some("load")), (flavour, load));
    let plan = Plan::parse(study::PLAN).unwrap();
    for (rows, columns) in [(Some("size"), None), (None, Some("size")), (Some("load"), Some("load"))] {
        let error = answer(&plan, &folder.material(), &choice(rows, columns)).unwrap_err().to_string();
        assert!(error.ends_with("the study's axes are `flavour`, `load`, each for one of both"), "{error}");
    }
}

#[test]
fn one_axis_alone_and_three_axes_have_tables() {
    let storage = "[[axis]]\nname = \"storage\"\nvalues = [\"block\", \"shared\"]\n[runs]";
    let three = study::PLAN.replace("[runs]", storage);
    let folder = changed(|number, run, _| run["cell"]["storage"] = json!(["block", "shared"][number % 2]));
    let answer = folder.answer_to(&three, &Choice::default());
    let text = report::study::text::render(&answer);
    assert!(text.contains("Migration time: block\n") && text.contains("Migration time: shared\n"), "{text}");
    let load = study::PLAN.find("[[axis]]\nname = \"load\"").unwrap();
    let runs = study::PLAN.find("[runs]").unwrap();
    let published = study::PLAN.find("[published]").unwrap();
    let one = study::PLAN[..load].to_owned() + &study::PLAN[runs..published].replace("rows = \"load\"\n", "");
    let folder = changed(|_, run, _| {
        run["cell"].as_object_mut().unwrap().remove("load");
    });
    let text = report::study::text::render(&folder.answer_to(&one, &Choice::default()));
    assert!(flat(&text).contains("Migration time Flavour t (512 MiB) s (2 GiB) 4.034 s"), "{text}");
}

#[test]
fn many_columns_go_on_below() {
    let plan = study::PLAN.replace(
        "values = [\"unloaded\", \"loaded\"]",
        "values = [\"unloaded\", \"loaded\", \"a\", \"b\", \"c\", \"d\", \"e\"]",
    );
    let choice = Choice { rows: Some("flavour".to_owned()), ..Choice::default() };
    let text = report::study::text::render(&Folder::whole().answer_to(&plan, &choice));
    let table =
        text.split("\n\n").skip_while(|part| !part.starts_with("Migration time")).take(2).collect::<Vec<_>>();
    assert!(table[0].lines().nth(1).unwrap().trim_end().ends_with(" c"), "{table:?}");
    assert!(table[1].lines().next().unwrap().trim_end().ends_with(" e"), "{table:?}");
    let page = report::html::study::render(&Folder::whole().answer_to(&plan, &choice));
    assert!(
        page.contains("<th scope=\"col\" class=\"right\">c</th><th scope=\"col\" class=\"right\">d</th>")
    );
}

#[test]
fn the_course_is_that_of_the_chosen_run_or_of_one_in_the_middle() {
    let folder = Folder::whole();
    // The last cell is s, loaded: runs 4, 8 and 12, of which the last one's time is in the middle.
    assert_eq!(folder.answer().course.unwrap().run, 12);
    let choice = Choice { run: Some(2), ..Choice::default() };
    let course = folder.answer_to(study::PLAN, &choice).course.unwrap();
    assert_eq!((course.run, course.record.traffic.samples.len()), (2, 5));
    let plan = Plan::parse(study::PLAN).unwrap();
    let choice = Choice { run: Some(99), ..Choice::default() };
    let error = answer(&plan, &folder.material(), &choice).unwrap_err();
    assert_eq!(error.to_string(), "run 99 has no record that could be shown");
}

#[test]
fn the_csv_can_be_read_back() {
    let answer = Folder::whole().answer();
    let csv = report::study::csv::render(&answer).unwrap();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let lines: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let stop = lines.iter().find(|line| line["run"] == "4" && line["figure"] == "stop").unwrap();
    let truth = Numbers::of(1, true, 1).stop;
    assert_eq!(stop["value"], truth.to_string());
    assert_eq!((&*stop["axis_flavour"], &*stop["axis_load"], &*stop["unit"]), ("s", "loaded", "ns"));
    let phase = lines.iter().find(|line| line["run"] == "4" && line["step"] == "disk-sync").unwrap();
    assert_eq!((&*phase["figure"], &*phase["low"], &*phase["high"]), ("phase_time", "", ""));
}

/// The plan that asks again what was asked in 2014.
const ORIGINAL: &str = include_str!("../../docs/study/plans/original.toml");

#[test]
fn the_study_of_2014_has_its_three_tables_in_its_own_layout() {
    let answer = Folder::whole().answer_to(ORIGINAL, &Choice::default());
    let text = report::study::text::render(&answer);
    assert!(text.lines().all(|line| line.chars().count() <= usize::from(report::text::WIDTH)), "{text}");
    for title in [
        "Migration time",
        "Downtime (the stop: the guest did not run)",
        "Data transferred (bytes on the wire)",
    ] {
        let table = text.split("\n\n").find(|part| part.starts_with(&format!("{title}\n"))).unwrap();
        let lines: Vec<_> = table.lines().map(flat).collect();
        assert_eq!(lines[1], "Memory load / Flavour t s m l xl");
        let begins = |line: &str| lines.iter().any(|known| known.starts_with(line));
        assert!(begins("unloaded ") && begins("loaded "), "{table}");
        assert!(lines.iter().any(|line| line == "3 runs 3 runs"), "{table}");
    }
    let published = text.split("Published beside it").nth(1).unwrap();
    for number in ["9.4 s", "152.3 s", "115 s", "468 MB", "14700 MB", "31.4 times"] {
        assert!(published.contains(number), "{number}: {published}");
    }
}

/// What `migtrace study report` prints, or its error.
fn command(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    let output = command.args(["study", "report"]).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn the_command_writes_each_format() {
    let folder = Folder::whole().with_plan();
    let directory = folder.path().to_str().unwrap();
    assert_eq!(command(&[directory]).unwrap(), folder.text());
    let csv = folder.path().join("a.csv");
    assert_eq!(command(&[directory, "--output", csv.to_str().unwrap()]).unwrap(), "");
    assert_eq!(fs::read_to_string(csv).unwrap(), report::study::csv::render(&folder.answer()).unwrap());
    let json = command(&[directory, "--format", "json", "--run", "2"]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["course"]["run"], 2);
    let turned = command(&[directory, "--rows", "flavour"]).unwrap();
    assert!(turned.contains(" Flavour / load "), "{turned}");
}

#[test]
fn the_command_says_what_is_wrong() {
    let empty = Folder::empty();
    let directory = empty.path().to_str().unwrap();
    let error = command(&[directory]).unwrap_err();
    assert_eq!(error, format!("migtrace: {directory} is not the folder of a study: it has no study.json\n"));
    let folder = Folder::empty().with_plan();
    let error = command(&[folder.path().to_str().unwrap(), "--rows", "size"]).unwrap_err();
    assert!(error.starts_with("migtrace: `size` cannot be the rows of the tables"), "{error}");
}
