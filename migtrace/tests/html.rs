//! The HTML page of every record: well-formed, safe, and with all that the text report says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::merged;
use common::page::{HOSTILE, check, parsed, text_of, words};
use migtrace::record::Record;
use migtrace::report;
use migtrace_fuzz::events;
use proptest::prelude::*;

/// The records of all canned logs, and of all logs of several hosts.
fn all_records() -> Vec<(String, Vec<Record>)> {
    let canned = common::log_names().into_iter().map(|name| (name.clone(), common::replay(&name)));
    let merged = merged::names().into_iter().map(|name| {
        let records = merged::merge(&merged::all(&name)).unwrap();
        (name, records)
    });
    canned.chain(merged).collect()
}

#[test]
fn every_page_is_well_formed_and_fetches_nothing() {
    for (name, records) in all_records() {
        println!("{name}");
        check(&report::html::render(&records));
    }
}

#[test]
fn all_that_the_text_report_says_is_in_the_page() {
    for (name, records) in all_records() {
        let page = text_of(&report::html::render(&records));
        let page = words(&page);
        for record in &records {
            let text = report::text::render(record);
            // What letters draw is drawn in the page, and the heading of what was not measured ends with a colon.
            let is_drawn = |word: &&&str| word.chars().all(|c| "█●·-".contains(c)) || **word == "measured:";
            let is_broken = |word: &str| word.len() > 60;
            let missing: Vec<_> = words(&text)
                .iter()
                .filter(|word| !is_drawn(word) && !is_broken(word) && !page.contains(**word))
                .copied()
                .map(str::to_owned)
                .collect();
            assert!(missing.is_empty(), "{name}: {missing:?}");
        }
    }
}

#[test]
fn each_of_several_migrations_has_its_place() {
    let records: Vec<Record> = all_records().into_iter().flat_map(|(_, records)| records).take(9).collect();
    let page = report::html::render(&records);
    check(&page);
    let document = parsed(&page);
    let articles: Vec<_> = document.descendants().filter(|node| node.has_tag_name("article")).collect();
    assert_eq!(articles.len(), records.len());
    let linked = document.descendants().filter_map(|node| node.attribute("href")).collect::<Vec<_>>();
    for article in articles {
        let link = format!("#{}", article.attribute("id").unwrap());
        assert!(linked.contains(&&*link), "{link}");
    }
}

#[test]
fn no_name_from_outside_leaves_its_place() {
    for (name, mut records) in all_records() {
        for record in &mut records {
            let hostile = || Some(HOSTILE.to_owned());
            (record.vm.name, record.vm.uuid, record.migration.id) = (hostile(), hostile(), hostile());
            (record.migration.error, record.qemu.version) = (hostile(), hostile());
            record.qemu.accelerator = hostile();
            for observer in &mut record.observers {
                (observer.host, observer.kernel, observer.migtrace) =
                    (HOSTILE.to_owned(), HOSTILE.to_owned(), HOSTILE.to_owned());
            }
            record.phases.iter_mut().for_each(|phase| phase.name = HOSTILE.into());
            record.traffic.flows.iter_mut().for_each(|flow| flow.interface = HOSTILE.to_owned());
            let downtime = &mut record.downtime;
            downtime
                .marks
                .iter_mut()
                .for_each(|mark| (mark.name, mark.host) = (HOSTILE.into(), HOSTILE.to_owned()));
            downtime.parts.iter_mut().for_each(|part| part.name = HOSTILE.into());
            downtime.taps.iter_mut().for_each(|tap| tap.interface = HOSTILE.to_owned());
            downtime.announcements.iter_mut().for_each(|seen| seen.interface = HOSTILE.to_owned());
            downtime.first_signs.iter_mut().for_each(|sign| sign.name = HOSTILE.into());
            downtime.remarks.push(HOSTILE.to_owned());
            downtime.contradictions.push(HOSTILE.to_owned());
            let lengths = [&mut record.total_time, &mut record.setup_time, &mut downtime.stop];
            lengths.into_iter().flatten().for_each(|length| length.method = HOSTILE.into());
            record.gaps.iter_mut().for_each(|gap| gap.length.method = HOSTILE.into());
            for entry in &mut record.not_measured {
                (entry.what, entry.why) = (HOSTILE.to_owned(), HOSTILE.to_owned());
            }
            record.libvirt.iter_mut().for_each(|libvirt| libvirt.host = HOSTILE.to_owned());
        }
        println!("{name}");
        let page = report::html::render(&records);
        check(&page);
        let said = text_of(&page);
        assert!(said.contains("<script>alert(1)</script>"), "{name}: it is shown as it is");
        assert!(said.contains("\\u{202e}\\u{200b}\\u{1b}[31m\\u{0}\\u{7f}"), "{name}: {said}");
    }
}

proptest! {
    #[test]
    fn any_events_give_a_sound_page(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let records = common::fold(&events::from_bytes(&bytes));
        check(&report::html::render(&records));
    }
}
