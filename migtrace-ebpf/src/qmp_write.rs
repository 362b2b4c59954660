//! How a write to a monitor begins, and whether it carries an event.
//!
//! QEMU flushes a monitor's output at each end of a line. So an event is one write, and so is a reply. But at a
//! monitor with `pretty=on` each line is one write: `{`, then `"timestamp": {`, and so on until `}`. All lines except
//! the first and the last are indented.

/// How many bytes of a write are looked at.
pub const LOOKED_AT: usize = 32;

/// The first key of every event. No reply begins with it.
const KEY: [u8; 11] = *b"\"timestamp\"";

/// How a write begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beginning {
    /// Like an event.
    Event,
    /// Like the second line of an event at a `pretty` monitor.
    SecondLine,
    /// Like another object, or the first line of any object at a `pretty` monitor.
    Object,
    /// Like the last line of an object at a `pretty` monitor.
    LastLine,
    /// In another way.
    Other,
}

/// What a write carries of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// All of it; other events may follow.
    Whole,
    /// Its second line.
    SecondLine,
    /// A later line.
    Line,
    /// Its last line.
    LastLine,
}

impl Beginning {
    /// How the write with these first bytes begins; a shorter one is followed by zeros.
    #[inline(always)]
    #[must_use]
    pub fn of(bytes: &[u8; LOOKED_AT]) -> Self {
        let is_object = bytes[0] == b'{';
        let mut at = usize::from(is_object);
        while at < LOOKED_AT - KEY.len() && matches!(bytes[at], b' ' | b'\t' | b'\r' | b'\n') {
            at += 1;
        }
        // Not `==` of slices: in the kernel that is a call with a loop over a number of bytes that the verifier does
        // not know.
        let is_key = KEY.iter().enumerate().all(|(index, byte)| bytes[at + index] == *byte);
        match (is_object, is_key) {
            (true, true) => Self::Event,
            (true, false) => Self::Object,
            (false, true) if at > 0 => Self::SecondLine,
            _ if bytes[0] == b'}' => Self::LastLine,
            _ => Self::Other,
        }
    }

    /// What the write carries of an event, if anything. `is_inside`: lines of an event were written to this
    /// descriptor, but not its last one.
    #[inline(always)]
    #[must_use]
    pub const fn content(self, is_inside: bool) -> Option<Content> {
        match self {
            Self::Event => Some(Content::Whole),
            Self::LastLine if is_inside => Some(Content::LastLine),
            Self::SecondLine | Self::Other if is_inside => Some(Content::Line),
            Self::SecondLine => Some(Content::SecondLine),
            // No line of an event begins like this. If the event's last line was missed, this ends the event.
            Self::Object | Self::LastLine | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn beginning(text: &str) -> Beginning {
        let mut bytes = [0; LOOKED_AT];
        let copied = text.len().min(LOOKED_AT);
        bytes[..copied].copy_from_slice(&text.as_bytes()[..copied]);
        Beginning::of(&bytes)
    }

    #[test]
    fn an_event_is_recognised_however_it_is_spaced() {
        for text in [
            r#"{"timestamp": {"seconds": 1"#,
            r#"{"timestamp""#,
            r#"{ "timestamp":{"#,
            "{\r\n    \"timestamp\": {\r\n",
            "{\n\t\"timestamp\"",
            "{                    \"timestamp\"",
        ] {
            assert_eq!(beginning(text), Beginning::Event, "{text}");
        }
    }

    #[test]
    fn replies_and_commands_are_not_events() {
        for text in [
            r#"{"return": {"timestamp": 1}}"#,
            r#"{"id": "timestamp"}"#,
            r#"{"QMP": {}}"#,
            "{\r\n",
            "{",
            r#"{"timestamps": 1}"#,
            r#"{"timestam"#,
            // More white space than is skipped.
            "{                     \"timestamp\"",
        ] {
            assert_eq!(beginning(text), Beginning::Object, "{text}");
        }
    }

    #[test]
    fn other_bytes_are_recognised_as_nothing() {
        for text in ["", "\0\0", "\"timestamp\": {", "x{\"timestamp\"", "[", "\u{7f}"] {
            assert_eq!(beginning(text), Beginning::Other, "{text:?}");
        }
    }

    /// What these writes to one descriptor carry.
    fn contents(writes: &[&str]) -> Vec<Option<Content>> {
        let mut is_inside = false;
        let contents = writes.iter().map(|text| {
            let content = beginning(text).content(is_inside);
            is_inside = matches!(content, Some(Content::SecondLine | Content::Line));
            content
        });
        contents.collect()
    }

    #[test]
    fn the_lines_of_a_pretty_event_are_found_and_those_of_a_reply_are_not() {
        let lines = [
            "{\r\n",
            "    \"timestamp\": {\r\n",
            "        \"seconds\": 1\r\n",
            "    },\r\n",
            "    \"data\": {\r\n",
            "        \"timestamp\": 3\r\n",
            "    }\r\n",
            "}\r\n",
        ];
        let mut expected = vec![None, Some(Content::SecondLine)];
        expected.extend([Some(Content::Line); 5]);
        expected.push(Some(Content::LastLine));
        assert_eq!(contents(&lines), expected);
        assert_eq!(contents(&["{\r\n", "    \"return\": {\r\n", "    }\r\n", "}\r\n"]), [None; 4]);
    }

    #[test]
    fn an_event_whose_last_line_was_missed_does_not_swallow_the_next_reply() {
        let writes = ["    \"timestamp\": {\r\n", "{\r\n", "    \"return\": 1\r\n", "}\r\n"];
        assert_eq!(contents(&writes), [Some(Content::SecondLine), None, None, None]);
    }
}
