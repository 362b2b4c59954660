//! The trace context of a caller (W3C Trace Context): what a migration was a part of.

use crate::export::ids::{SpanId, TraceId};

/// The longest `tracestate` that is passed on.
const LONGEST_STATE: usize = 512;

/// A span of somebody else's trace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// Its trace.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// Its flags: 1 is `sampled`.
    pub flags: u8,
    /// What its tracing systems have noted; empty when there is nothing.
    pub state: String,
}

/// Why a text is no trace context.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}; a traceparent looks like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct BadContext(&'static str);

impl TraceContext {
    /// Parses a `traceparent`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(traceparent: &str) -> Result<Self, BadContext> {
        let fields: Vec<&str> = traceparent.split('-').collect();
        let [version, trace, span, flags, rest @ ..] = &fields[..] else {
            return Err(BadContext("it has fewer than four fields"));
        };
        let [version] = bytes(version).ok_or(BadContext("its version is not two hexadecimal digits"))?;
        // A later version may have more fields; there is no version ff.
        if version == 0xff || (version == 0 && !rest.is_empty()) {
            return Err(BadContext("its version does not exist, or does not have these fields"));
        }
        let trace =
            bytes(trace).ok_or(BadContext("its trace id is not 32 hexadecimal digits in lower case"))?;
        let span = bytes(span).ok_or(BadContext("its span id is not 16 hexadecimal digits in lower case"))?;
        let [flags] = bytes(flags).ok_or(BadContext("its flags are not two hexadecimal digits"))?;
        if trace == [0; 16] || span == [0; 8] {
            return Err(BadContext("an id of zeros is none"));
        }
        Ok(Self { trace: TraceId(trace), span: SpanId(span), flags, state: String::new() })
    }

    /// Adds a `tracestate`. One that is not a list of `key=value` is not added, as the specification wants it.
    #[must_use]
    pub fn with_state(mut self, tracestate: &str) -> Self {
        let is_entry = |entry: &str| entry.trim().is_empty() || entry.split_once('=').is_some_and(is_pair);
        let is_list = tracestate.len() <= LONGEST_STATE
            && tracestate.bytes().all(|byte| (0x20..0x7f).contains(&byte))
            && tracestate.split(',').all(is_entry);
        if is_list {
            tracestate.trim().clone_into(&mut self.state);
        }
        self
    }
}

fn is_pair((key, value): (&str, &str)) -> bool {
    !key.trim().is_empty() && !value.is_empty()
}

/// Bytes in hexadecimal, in lower case.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != 2 * N || !is_hex {
        return None;
    }
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read() {
        let context =
            TraceContext::parse(GOOD).unwrap().with_state("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.span.to_string().as_str(), context.flags), ("00f067aa0ba902b7", 1));
        assert_eq!(context.state, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        assert!(TraceContext::parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_ok());
    }

    #[test]
    fn what_is_no_context_is_refused_with_the_reason() {
        let bad = [
            ("", "it has fewer than four fields"),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "its version does not exist"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", "its version does not exist"),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "its trace id"),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", "an id of zeros"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "an id of zeros"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01", "its span id"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", "its flags"),
            ("0é-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "its version is not"),
        ];
        for (text, why) in bad {
            let error = TraceContext::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_bad_state_is_left_out() {
        for bad in ["rojo", "=1", "rojo=\u{7}", &"a=1,".repeat(200)] {
            assert_eq!(TraceContext::parse(GOOD).unwrap().with_state(bad).state, "", "{bad}");
        }
    }
}
