//! The HTML page of a study: well-formed, safe, with all that the text report says, and as a browser shows it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use common::browser::Browser;
use common::page::{HOSTILE, check, parsed, text_of, words};
use common::study::{self, Folder, changed};
use migtrace::report;
use migtrace::study::answer::{Answer, Choice};
use serde_json::{Value, json};

/// Whole, empty, without bounds and with what is not known, and with names from outside.
fn answers() -> Vec<(&'static str, Answer)> {
    let odd = changed(|number, run, record| {
        record["downtime"]["stop"]["high_ns"] = Value::Null;
        if number % 4 == 1 {
            run["outcome"] = json!({ "is": "failed", "why": "the driver ended with exit code 1" });
        }
        if number % 4 == 2 {
            record["downtime"]["reachability"] = Value::Null;
        }
        if number % 4 == 3 {
            run["old_method"]["pings"]["lost"] = json!(0);
        }
    });
    vec![
        ("whole", Folder::whole().answer()),
        ("empty", Folder::empty().answer()),
        ("odd", odd.answer()),
        ("hostile", hostile()),
    ]
}

fn hostile() -> Answer {
    let mut answer = changed(|number, run, record| {
        record["phases"][1]["name"] = json!(HOSTILE);
        record["downtime"]["parts"][0]["name"] = json!(HOSTILE);
        record["downtime"]["contradictions"] = json!([HOSTILE]);
        record["vm"]["name"] = json!(HOSTILE);
        if number == 12 {
            run["outcome"] = json!({ "is": "failed", "why": HOSTILE });
        }
    })
    .answer();
    (answer.title, answer.description) = (HOSTILE.to_owned(), HOSTILE.to_owned());
    for axis in &mut answer.axes {
        axis.title = HOSTILE.to_owned();
        axis.values.iter_mut().for_each(|value| value.title = HOSTILE.to_owned());
    }
    answer.published.as_mut().unwrap().source = HOSTILE.to_owned();
    answer.problems.push(HOSTILE.to_owned());
    answer
}

#[test]
fn every_page_is_well_formed_and_fetches_nothing() {
    for (name, answer) in answers() {
        println!("{name}");
        check(&report::html::study::render(&answer));
    }
}

#[test]
fn all_that_the_text_report_says_is_in_the_page() {
    for (name, answer) in answers().into_iter().take(3) {
        let page = text_of(&report::html::study::render(&answer));
        let page = words(&page);
        let said = report::study::text::render(&answer);
        let missing: Vec<_> =
            said.split_whitespace().filter(|word| *word != "-" && !page.contains(word)).collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

/// An axis with a single value is no condition: it is named once, and in the formats for programs everywhere.
#[test]
fn what_is_the_same_in_all_cells_is_said_once() {
    let storage = "[[axis]]\nname = \"storage\"\ntitle = \"Storage\"\nvalues = [\"block\"]\n[runs]";
    let plan = study::PLAN.replace("[runs]", storage);
    let answer =
        changed(|_, run, _| run["cell"]["storage"] = json!("block")).answer_to(&plan, &Choice::default());
    let whole = report::study::text::render(&Folder::whole().answer());
    let text = report::study::text::render(&answer);
    assert_eq!(text.replacen("Storage: block\n", "", 1), whole);
    let page = report::html::study::render(&answer);
    assert_eq!(
        page.matches("block").count(),
        report::html::study::render(&Folder::whole().answer()).matches("block").count() + 1
    );
    assert!(report::study::csv::render(&answer).unwrap().contains("axis_storage"));
    assert!(report::json(&answer).unwrap().contains("\"storage\": \"block\""));
}

/// Whoever reads a chart of steps tells them apart: in a chart each looks different, and in every chart as in the others.
#[test]
fn a_step_looks_the_same_in_every_chart_and_unlike_the_others() {
    for (name, answer) in answers().into_iter().filter(|(name, _)| *name != "empty") {
        let page = report::html::study::render(&answer);
        let document = parsed(&page);
        let legends = document.descendants().filter(|node| {
            node.attribute("class") == Some("legend")
                && node
                    .descendants()
                    .any(|node| node.attribute("class").is_some_and(|class| class.contains(" stacked ")))
        });
        let mut looks = BTreeMap::new();
        let mut charts = 0;
        for legend in legends {
            charts += 1;
            let of_chart: BTreeMap<String, Vec<&str>> = legend
                .children()
                .map(|item| {
                    let look = item.descendants().filter(|node| node.has_tag_name("rect"));
                    let words = item.descendants().filter_map(|node| node.text()).collect();
                    (words, look.filter_map(|shape| shape.attribute("class")).collect())
                })
                .collect();
            assert_eq!(
                of_chart.values().collect::<BTreeSet<_>>().len(),
                of_chart.len(),
                "{name}: {of_chart:?}"
            );
            for (step, look) in of_chart {
                assert_eq!(
                    looks.entry(step.clone()).or_insert_with(|| look.clone()),
                    &look,
                    "{name}: {step}"
                );
            }
        }
        assert_eq!(charts, 3, "{name}");
    }
}

/// Everything that is wrong with the page as it is shown.
fn faults(browser: &mut Browser, page: &str, answer: &Answer) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    fs::write(&file, page).unwrap();
    let mut faults = Vec::new();
    for (width, scheme) in [(360, "light"), (1_200, "dark"), (1_200, "light")] {
        browser.set_screen(width, scheme);
        browser.show(&file);
        for question in ["overflowing", "overlapping", "silent", "tips", "unexplained", "misaligned"] {
            let found = browser.ask(question);
            let found = found.as_array().unwrap_or_else(|| panic!("{question}: {found}"));
            faults.extend(found.iter().map(|fault| format!("{question} at {width}: {fault}")));
        }
        let faint = browser.ask("faint");
        faults.extend(faint["found"].as_array().unwrap().iter().map(|fault| format!("faint: {fault}")));
    }
    let complained = browser.events.iter().filter(|event| event["method"] == "Log.entryAdded");
    faults.extend(complained.map(Value::to_string));
    let answer = serde_json::to_value(answer).unwrap();
    // The run below the study is the only record of the page, and its numbers are in it.
    let with_record = json!({ "0": answer["course"]["record"], "cells": answer["cells"], "published": answer["published"] });
    faults.extend(wrong_items(&browser.ask("items"), &with_record));
    faults.extend(common::page_numbers::check_cells(&browser.ask("cells"), &with_record));
    browser.set_paper(794);
    let closed = browser.ask("closed");
    faults.extend((closed != 0).then(|| format!("closed on paper: {closed}")));
    let cut = browser.ask("cut");
    faults.extend(cut.as_array().unwrap().iter().map(|table| format!("cut on paper: {table}")));
    faults
}

/// What is drawn of the study, and is not where the answer says.
fn wrong_items(items: &Value, answer: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let items = items.as_array().unwrap().iter();
    for item in items.filter(|item| !item["of"].as_str().unwrap().starts_with("/0/")) {
        let (of, tip) = (item["of"].as_str().unwrap(), &item["tip"]);
        let number = |name: &str| answer.pointer(&format!("{of}/{name}")).and_then(Value::as_f64);
        if of.is_empty() {
            let says_so = ["unknown", "no run"].iter().any(|word| tip.as_str().unwrap().contains(word));
            faults.extend((!says_so).then(|| format!("neither a value nor unknown: {tip}")));
            continue;
        }
        for pair in item["values"].as_str().unwrap().split(';').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap();
            if number(name) != value.parse().ok() {
                faults.push(format!("{of}/{name} is {:?}, and the page says {value}", number(name)));
            }
        }
        let value = number("value").or_else(|| answer.pointer(of).and_then(Value::as_f64)).unwrap();
        let (from, to) = (item["from"].as_f64().unwrap(), item["to"].as_f64().unwrap());
        let length = if value < 0.0 { from - to } else { to - from };
        if (length - value).abs() > 1e-6 * value.abs() + 1e-9 {
            faults.push(format!("{tip} is drawn from {from} to {to}, and is {value}"));
        }
        let figure = answer.pointer(&format!("{of}/figure")).and_then(Value::as_str).unwrap_or_default();
        if !figure.contains("_less_") {
            faults.extend(wrong_bars(item, number("low"), number("high")));
        }
    }
    faults
}

/// The bar of a figure ends at its lower bound, and what is possible at its upper bound.
fn wrong_bars(item: &Value, low: Option<f64>, high: Option<f64>) -> Option<String> {
    let drawn = item["drawn"].as_array().unwrap();
    let [bar, possible] = ["bar", "possible"].map(|kind| drawn.iter().find(|shape| shape["kind"] == kind));
    let (bar, possible) = (bar?, possible?);
    if item["alone"] != true || item["of"].as_str()?.contains("/phases/") {
        return None;
    }
    let axis = [0, 1].map(|end| item["axis"][end].as_f64().unwrap());
    let share = |at: f64| ((at - axis[0]) / (axis[1] - axis[0])).clamp(0.0, 1.0);
    let ends = [bar, possible].map(|shape| shape["place"][1].as_f64().unwrap());
    let belong = [low.map_or(0.0, share), high.map_or(1.0, share)];
    let is_off = (0..2).any(|end| (ends[end] - belong[end]).abs() > 0.002);
    is_off.then(|| format!("{}: the bars end at {ends:?}, and belong to {belong:?}", item["tip"]))
}

#[test]
fn every_page_is_sound_as_a_browser_shows_it() {
    let mut browser = Browser::start();
    for (name, answer) in answers() {
        let page = report::html::study::render(&answer);
        let faults = faults(&mut browser, &page, &answer);
        assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
    }
}

/// Otherwise the other test would prove nothing.
#[test]
fn a_page_that_was_broken_is_noticed() {
    let mut browser = Browser::start();
    let answer = Folder::whole().answer();
    let page = report::html::study::render(&answer);
    let stop = answer.cells[0].figures[2].summary.median.value;
    let cases = [
        (
            "cut on paper",
            "<main>".to_owned(),
            "<main><div class=\"scroll\"><table style=\"width:900px\"><tr><td>wide</td></tr></table></div>"
                .to_owned(),
        ),
        ("overflowing at 360", "<main>".to_owned(), "<main><p style=\"width:500px\">wide</p>".to_owned()),
        ("the page says", format!("value={stop};"), format!("value={};", stop + 1)),
        ("is drawn from", format!("data-to=\"{stop}\""), format!("data-to=\"{}\"", stop * 2)),
        ("Content Security Policy", "<main>".to_owned(), "<main><script>1</script>".to_owned()),
    ];
    for (fault, from, to) in cases {
        assert!(page.contains(&from), "{from}");
        let faults = faults(&mut browser, &page.replacen(&from, &to, 1), &answer);
        assert!(faults.iter().any(|found| found.contains(fault)), "{fault}: {faults:#?}");
    }
}
