//! The HTML page as a browser shows it: nothing is fetched, nothing overflows, every text can be read, and every number and
//! every bar is the record's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::browser::Browser;
use common::page_numbers::{check_cells, check_curves, check_items};
use common::{demo, merged};
use migtrace::record::Record;
use migtrace::report;
use serde_json::Value;

/// A phone, and a desk.
const WIDTHS: [u32; 2] = [360, 1_200];

/// What is looked at: every outcome, one side alone and both, several records, and names from outside.
fn pages() -> Vec<(&'static str, Vec<Record>)> {
    let merged = |name| (name, merged::merge(&merged::all(name)).unwrap());
    let canned = |name| (name, common::replay(name));
    let several = ["precopy-7.2", "postcopy-7.2", "cancelled-7.2", "unix-socket-7.2", "observed-7.2"];
    let several = several.into_iter().flat_map(|name| merged(name).1).collect();
    vec![
        ("demo", demo()),
        merged("disk-copy-7.2"),
        merged("postcopy-recovered-10.0"),
        merged("cancelled-10.0"),
        merged("link-cut-at-switchover-7.2"),
        merged("multifd-8-7.2"),
        merged("three-taps-7.2"),
        merged("domjobinfo-7.2"),
        canned("hostile-name"),
        canned("failed-in-setup"),
        canned("destination-listened-long"),
        canned("requests-lost-without-a-gap"),
        canned("facts-lost-later"),
        ("several", several),
    ]
}

/// Shows a page in a window of this width.
fn show(browser: &mut Browser, page: &str, width: u32, scheme: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    fs::write(&file, page).unwrap();
    browser.set_screen(width, scheme);
    browser.show(&file);
}

/// What a page has asked for beyond itself, and what the browser has complained about.
fn complaints(browser: &Browser) -> Vec<String> {
    let of = |method: &'static str| browser.events.iter().filter(move |event| event["method"] == method);
    let requests = of("Network.requestWillBeSent").map(|event| &event["params"]["request"]["url"]);
    let urls: BTreeSet<_> = requests.map(|url| url.as_str().unwrap().to_owned()).collect();
    let foreign = urls.into_iter().filter(|url| !url.starts_with("file:///") || !url.ends_with("/page.html"));
    let said = of("Log.entryAdded").map(|event| event["params"]["entry"]["text"].to_string());
    let thrown = of("Runtime.exceptionThrown").chain(of("Runtime.consoleAPICalled"));
    foreign.chain(said).chain(thrown.map(Value::to_string)).collect()
}

/// Everything that is wrong with a page.
fn faults(browser: &mut Browser, page: &str, records: &[Record]) -> Vec<String> {
    let mut faults = Vec::new();
    for width in WIDTHS {
        show(browser, page, width, "light");
        faults.extend(complaints(browser));
        for question in ["overflowing", "overlapping", "silent", "tips", "unexplained", "misaligned"] {
            let found = browser.ask(question);
            let found = found.as_array().unwrap_or_else(|| panic!("{question}: {found}"));
            faults.extend(found.iter().map(|fault| format!("{question} at {width}: {fault}")));
        }
    }
    for scheme in ["light", "dark"] {
        browser.set_screen(1_200, scheme);
        let faint = browser.ask("faint");
        assert!(faint["seen"].as_u64() > Some(20), "{faint}");
        let found = faint["found"].as_array().unwrap();
        faults.extend(found.iter().map(|fault| format!("faint in the {scheme}: {fault}")));
    }
    let records = serde_json::to_value(records).unwrap();
    faults.extend(check_items(&browser.ask("items"), &records));
    faults.extend(check_cells(&browser.ask("cells"), &records));
    faults.extend(check_curves(&browser.ask("curves"), &records));
    browser.set_paper(794);
    for (question, none) in [("closed", Value::from(0)), ("overflowing", Value::Array(Vec::new()))] {
        let found = browser.ask(question);
        if found != none {
            faults.push(format!("{question} on paper: {found}"));
        }
    }
    faults
}

#[test]
fn every_page_is_sound_as_a_browser_shows_it() {
    let mut browser = Browser::start();
    for (name, records) in pages() {
        let page = report::html::render(&records);
        let faults = faults(&mut browser, &page, &records);
        assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
    }
}

/// Otherwise the other test would prove nothing.
#[test]
fn a_page_that_was_broken_is_noticed() {
    let mut browser = Browser::start();
    let records = demo();
    let page = report::html::render(&records);
    let broken = |from: &str, to: &str| {
        assert!(page.contains(from), "{from}");
        page.replacen(from, to, 1)
    };
    let stop = records[0].downtime.stop.as_ref().unwrap();
    let value = format!("value_ns={}", stop.value_ns);
    let cell = "data-of=\"/0/downtime/stop/low_ns\" data-values=\"\">";
    let cases = [
        (
            "page.html",
            broken("<main>", "<main><img src=\"http://192.0.2.1/x.png\" alt=\"\"/>"),
            "Content Security Policy",
        ),
        ("a script", broken("<main>", "<main><script>1</script>"), "Content Security Policy"),
        ("an overflow", broken("<main>", "<main><p style=\"width:500px\">wide</p>"), "overflowing at 360"),
        ("a faint text", broken("--soft: #57606a", "--soft: #a0a8b0"), "faint in the light"),
        ("a faint text in the dark", broken("--soft: #a9b3bd", "--soft: #4d565f"), "faint in the dark"),
        ("a wrong value", broken(&value, &format!("value_ns={}", stop.value_ns + 1)), "value_ns"),
        ("a wrong cell", broken(cell, &format!("{cell}9")), "its cell says 9"),
        (
            "a wrong tip",
            page.replace("stop: 329.1 ms ± 16.5 ms; at", "stop: 330.1 ms ± 16.5 ms; at"),
            "330.1 ms",
        ),
        (
            "a drawing without a name",
            broken("role=\"img\" aria-label=\"stop", "role=\"img\" title=\"stop"),
            "silent",
        ),
        (
            "signs without a legend",
            broken("<ul class=\"legend\">", "<ul class=\"other\">"),
            "is drawn and not explained",
        ),
        ("a number on the left", broken("<td class=\"right\">", "<td class=\"\">"), "misaligned"),
        (
            "a table that stays closed",
            broken("details::details-content", "details::other"),
            "closed on paper",
        ),
    ];
    for (what, page, says) in cases {
        let faults = faults(&mut browser, &page, &records);
        assert!(faults.iter().any(|fault| fault.contains(says)), "{what} was not noticed: {faults:#?}");
    }
}

/// `cargo xtask picture --page` asks for it.
#[test]
#[ignore = "draws a picture for the documentation"]
fn the_picture_in_the_documentation_is_drawn() {
    let mut browser = Browser::start();
    let page = report::html::render(&demo());
    show(&mut browser, &page, 1_000, "light");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/page.png");
    fs::write(file, browser.picture(1_000, 720)).unwrap();
}
