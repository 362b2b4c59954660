//! A person and a program can read the record.

use unicode_width::UnicodeWidthStr as _;

use super::violations::Violations;
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
    let again = report::json(record).and_then(|json| serde_json::from_str::<Record>(&json));
    match again {
        Ok(again) => found.unless(again == *record, || "JSON: it reads back as another record".to_owned()),
        Err(error) => found.0.push(format!("JSON: it does not read back: {error}")),
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
