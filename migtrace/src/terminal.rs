//! Text from outside, made fit for a terminal.
//!
//! VM names, errors of QEMU, host and file names are whatever somebody made them. A control character among them would
//! steer the terminal of whoever reads it, and an invisible or bidirectional one would make it look like other text.
//! Both are shown as escapes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// What shows nothing, or changes the order of what is shown: the format characters (Cf), the separators of lines and
/// paragraphs, and what else Unicode 16 lists as Default_Ignorable_Code_Point. In order.
const INVISIBLE: [RangeInclusive<char>; 25] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// One line of text from outside, with everything that a reader would not see as it is made visible: `\n`, `\u{1b}`.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden, |c| c.escape_default().to_string())
}

/// As [`clean`], of a text whose lines are our own.
#[must_use]
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_hidden(c), |c| c.escape_default().to_string())
}

/// JSON that means the same and is fit for a terminal. JSON itself escapes no control character above U+001F and none
/// that is invisible; outside of its strings there are none.
#[must_use]
pub fn clean_json(json: &str) -> Cow<'_, str> {
    escaped(json, |c| c > '\u{1f}' && is_hidden(c), json_escape)
}

fn json_escape(c: char) -> String {
    let mut escape = String::new();
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(escape, "\\u{unit:04x}");
    }
    escape
}

fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    // C1 is the rest of the controls.
    c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c))
}

fn escaped(text: &str, must_be: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.chars().any(&must_be) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if must_be(c) {
            escaped.push_str(&escape(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_and_what_cannot_be_seen_are_made_visible() {
        assert_eq!(clean("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(clean("two\nlines\tand\r"), "two\\nlines\\tand\\r");
        let named = [
            ('\0'..='\u{1f}'),
            ('\u{7f}'..='\u{9f}'),
            ('\u{200b}'..='\u{200f}'),
            ('\u{2028}'..='\u{202e}'),
            ('\u{2060}'..='\u{2069}'),
            ('\u{61c}'..='\u{61c}'),
            ('\u{feff}'..='\u{feff}'),
            ('\u{e0001}'..='\u{e007f}'),
        ];
        for c in named.into_iter().flatten() {
            let shown = clean(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(shown.len() > 1 && shown.bytes().all(|byte| byte.is_ascii_graphic()), "{c:?}: {shown}");
        }
    }

    #[test]
    fn what_can_be_seen_stays_as_it_is() {
        for text in ["web-1", "± 25 µs │ █·●", "Größe, naïve, 東京, नमस्ते, עברית", "C:\\u{1b}\"'` $(rm)", ""]
        {
            assert!(matches!(clean(text), Cow::Borrowed(same) if same == text), "{text}");
            assert!(matches!(clean_json(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn the_lines_of_a_layout_stay_lines() {
        assert_eq!(clean_lines("one\ntwo\u{7}\n"), "one\ntwo\\u{7}\n");
    }

    #[test]
    fn json_means_the_same_as_before() {
        let hostile = "\u{1b}[1m \u{9b}31m \u{7f} \u{202e}gnp.exe \u{e0041} \n fine \u{1f680}".to_owned();
        let json = serde_json::to_string_pretty(&[&hostile]).unwrap();
        assert_ne!(clean_json(&json), json);
        assert!(clean_json(&json).chars().all(|c| c == '\n' || !is_hidden(c)));
        assert_eq!(serde_json::from_str::<[String; 1]>(&clean_json(&json)).unwrap(), [hostile]);
    }
}
