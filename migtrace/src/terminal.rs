//! Makes text from outside safe to print on a terminal.
//!
//! Anybody can choose VM names, host names, file names and the errors of a QEMU. Control characters in them would control the
//! reader's terminal, and invisible or bidirectional characters would make them look like other text. Both are shown as
//! escapes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// Characters that show nothing or reorder what is shown: format characters (Cf), line and paragraph separators, and the rest
/// of Default_Ignorable_Code_Point in Unicode 16. Sorted.
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

/// One line of text from outside. Everything that a reader would not see as it is becomes an escape: `\n`, `\u{1b}`.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden, |c| c.escape_default().to_string())
}

/// As [`clean`], for text whose line breaks are our own.
#[must_use]
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_hidden(c), |c| c.escape_default().to_string())
}

/// JSON with the same meaning, safe for a terminal. JSON escapes control characters only up to U+001F, and no invisible ones;
/// they occur only within its strings.
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
    // The other controls are C1.
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
    fn control_and_invisible_characters_become_escapes() {
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
    fn visible_text_stays_as_it_is() {
        for text in ["web-1", "± 25 µs │ █·●", "Größe, naïve, 東京, नमस्ते, עברית", "C:\\u{1b}\"'` $(rm)", ""]
        {
            assert!(matches!(clean(text), Cow::Borrowed(same) if same == text), "{text}");
            assert!(matches!(clean_json(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn line_breaks_of_a_layout_stay() {
        assert_eq!(clean_lines("one\ntwo\u{7}\n"), "one\ntwo\\u{7}\n");
    }

    #[test]
    fn cleaned_json_keeps_its_meaning() {
        let hostile = "\u{1b}[1m \u{9b}31m \u{7f} \u{202e}gnp.exe \u{e0041} \n fine \u{1f680}".to_owned();
        let json = serde_json::to_string_pretty(&[&hostile]).unwrap();
        assert_ne!(clean_json(&json), json);
        assert!(clean_json(&json).chars().all(|c| c == '\n' || !is_hidden(c)));
        assert_eq!(serde_json::from_str::<[String; 1]>(&clean_json(&json)).unwrap(), [hostile]);
    }
}
