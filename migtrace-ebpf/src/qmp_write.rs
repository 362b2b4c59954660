//! How a write to a monitor begins, and what that says of it.
//!
//! QEMU flushes a monitor's output at each end of a line. So an event is one write, and so is a reply. But at a monitor
//! with `pretty=on` each line is one: `{`, then `"timestamp": {`, and so on until `}`, all but these two indented.

/// As many bytes of a write are looked at.
pub const LOOKED_AT: usize = 32;

/// The first key of every event, and of no reply.
const KEY: [u8; 11] = *b"\"timestamp\"";

/// How a write begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beginning {
    /// As an event.
    Event,
    /// As the second line of an event at a `pretty` monitor.
    SecondLine,
    /// As another object, or as the first line of any at a `pretty` monitor.
    Object,
    /// As the last line of an object at a `pretty` monitor.
    LastLine,
    /// In another way.
    Other,
}

/// What a write is of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// All of it; other events may follow.
    Whole,
    /// The second of its lines.
    SecondLine,
    /// A later one of its lines.
    Line,
    /// The last of its lines.
    LastLine,
}

impl Beginning {
    /// Of the first bytes of a write; there are zeros behind a shorter one.
    #[inline(always)]
    #[must_use]
    pub fn of(bytes: &[u8; LOOKED_AT]) -> Self {
        let is_object = bytes[0] == b'{';
        let mut at = usize::from(is_object);
        while at < LOOKED_AT - KEY.len() && matches!(bytes[at], b' ' | b'\t' | b'\r' | b'\n') {
            at += 1;
        }
        // No `==` of slices: in the kernel that is a call, and a loop over bytes whose number the verifier does not know.
        let is_key = KEY.iter().enumerate().all(|(index, byte)| bytes[at + index] == *byte);
        match (is_object, is_key) {
            (true, true) => Self::Event,
            (true, false) => Self::Object,
            (false, true) if at > 0 => Self::SecondLine,
            _ if bytes[0] == b'}' => Self::LastLine,
            _ => Self::Other,
        }
    }

    /// What the write is of an event, if anything. `is_inside`: lines of an event were written to this descriptor, and
    /// not its last.
    #[inline(always)]
    #[must_use]
    pub const fn part(self, is_inside: bool) -> Option<Part> {
        match self {
            Self::Event => Some(Part::Whole),
            Self::LastLine if is_inside => Some(Part::LastLine),
            Self::SecondLine | Self::Other if is_inside => Some(Part::Line),
            Self::SecondLine => Some(Part::SecondLine),
            // No line of an event begins so: if its last one was missed, this ends it.
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
    fn an_event_begins_with_its_stamp_however_it_is_spaced() {
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
    fn replies_and_commands_are_objects_and_nothing_more() {
        for text in [
            r#"{"return": {"timestamp": 1}}"#,
            r#"{"id": "timestamp"}"#,
            r#"{"QMP": {}}"#,
            "{\r\n",
            "{",
            r#"{"timestamps": 1}"#,
            r#"{"timestam"#,
            // More white space than is looked through.
            "{                     \"timestamp\"",
        ] {
            assert_eq!(beginning(text), Beginning::Object, "{text}");
        }
    }

    #[test]
    fn bytes_of_anything_else_are_nothing() {
        for text in ["", "\0\0", "\"timestamp\": {", "x{\"timestamp\"", "[", "\u{7f}"] {
            assert_eq!(beginning(text), Beginning::Other, "{text:?}");
        }
    }

    /// The parts of these writes to one descriptor.
    fn parts(writes: &[&str]) -> Vec<Option<Part>> {
        let mut is_inside = false;
        let parts = writes.iter().map(|text| {
            let part = beginning(text).part(is_inside);
            is_inside = matches!(part, Some(Part::SecondLine | Part::Line));
            part
        });
        parts.collect()
    }

    #[test]
    fn the_lines_of_a_pretty_event_are_its_parts_and_those_of_a_reply_are_none() {
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
        let mut expected = vec![None, Some(Part::SecondLine)];
        expected.extend([Some(Part::Line); 5]);
        expected.push(Some(Part::LastLine));
        assert_eq!(parts(&lines), expected);
        assert_eq!(parts(&["{\r\n", "    \"return\": {\r\n", "    }\r\n", "}\r\n"]), [None; 4]);
    }

    #[test]
    fn an_event_whose_last_line_was_missed_does_not_swallow_the_reply_behind_it() {
        let writes = ["    \"timestamp\": {\r\n", "{\r\n", "    \"return\": 1\r\n", "}\r\n"];
        assert_eq!(parts(&writes), [Some(Part::SecondLine), None, None, None]);
    }
}
