//! A person and a program can read the record.

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::violations::Violations;
use crate::export;
use crate::record::Record;
use crate::report;

/// A person and a program can read it.
pub(super) fn rendered(record: &Record, found: &mut Violations) {
    let text = report::text::render(record);
    for line in text.lines() {
        found.unless(line.width() <= usize::from(report::text::WIDTH), || {
            format!("text: {} columns: {line:?}", line.width())
        });
        found.unless(!line.chars().any(steers), || format!("text: it would steer the terminal: {line:?}"));
    }
    html(record, found);
    traces(record, found);
    let again = report::json(record).and_then(|json| serde_json::from_str::<Record>(&json));
    match again {
        Ok(again) => found.unless(again == *record, || "JSON: it reads back as another record".to_owned()),
        Err(error) => found.0.push(format!("JSON: it does not read back: {error}")),
    }
}

/// As a page: nothing steers the reader or leaves its place, and every drawing has a size.
fn html(record: &Record, found: &mut Violations) {
    let page = report::html::render(std::slice::from_ref(record));
    found.unless(!page.chars().any(|c| c != '\n' && steers(c)), || {
        "HTML: it would steer the reader".to_owned()
    });
    for number in ["NaN", "inf"] {
        let is_drawn = |start: &str| page.contains(&format!("{start}{number}"));
        found.unless(!["=\"", "=\"-", "d=\"M", "left:", "width:"].into_iter().any(is_drawn), || {
            format!("HTML: {number} is drawn")
        });
    }
    // Names, however they are chosen, open no element.
    let body = page.split_once("</style>").map_or(&*page, |(_, body)| body);
    let (opened, closed) = (body.matches('<').count(), body.matches('>').count());
    found.unless(opened == closed, || format!("HTML: {opened} elements are opened, and {closed} closed"));
}

/// As a trace: JSON that steers nobody, and nothing in it lies before its beginning.
fn traces(record: &Record, found: &mut Violations) {
    #[cfg(feature = "perfetto")]
    found.unless(!export::perfetto::render(std::slice::from_ref(record)).is_empty(), || {
        "Perfetto: the trace is empty".to_owned()
    });
    let trace = export::chrome::render(std::slice::from_ref(record));
    found.unless(!trace.chars().any(|c| c != '\n' && steers(c)), || {
        "Chrome's trace: it would steer the reader".to_owned()
    });
    let events = match serde_json::from_str::<Value>(&trace) {
        Ok(mut trace) => trace["traceEvents"].take(),
        Err(error) => return found.0.push(format!("Chrome's trace: it is not JSON: {error}")),
    };
    for event in events.as_array().into_iter().flatten() {
        let is_negative = |name: &str| event[name].as_f64().is_some_and(|value| value < 0.0);
        found.unless(!is_negative("ts") && !is_negative("dur"), || {
            format!("Chrome's trace: an event before its beginning: {event}")
        });
    }
}

/// Whether a character steers a terminal instead of being shown in its place: a control, a line break, a mark that turns
/// the writing direction.
pub(super) fn steers(c: char) -> bool {
    let breaks_line = matches!(c, '\u{2028}' | '\u{2029}');
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || breaks_line || turns
}
