//! What is said beside a slice: names and values. What is not known is not there.

use crate::record::Estimate;
use crate::terminal;
use crate::units::{Counters, Directions};

/// A named value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::export) struct Note {
    pub(in crate::export) name: String,
    pub(in crate::export) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::export) enum Value {
    Unsigned(u64),
    Signed(i64),
    Text(String),
    Bool(bool),
    List(Vec<String>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Anybody can choose a name: what would steer a reader becomes an escape.
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(terminal::clean(value).into_owned())
    }
}

pub(super) fn note(name: impl Into<String>, value: impl Into<Value>) -> Note {
    Note { name: name.into(), value: value.into() }
}

/// The note of several texts; none without any.
pub(super) fn list<'a>(name: &str, texts: impl IntoIterator<Item = &'a str>) -> Option<Note> {
    let texts: Vec<_> = texts.into_iter().map(|text| terminal::clean(text).into_owned()).collect();
    (!texts.is_empty()).then(|| Note { name: name.to_owned(), value: Value::List(texts) })
}

/// The note of a value that may be unknown.
pub(super) fn known<V: Into<Value>>(name: &str, value: Option<V>) -> Option<Note> {
    value.map(|value| note(name, value))
}

/// A figure with its bounds and its method.
pub(super) fn estimate(figure: &Estimate) -> Vec<Note> {
    let mut notes = vec![note("value_ns", figure.value_ns), note("low_ns", figure.low_ns)];
    notes.extend(known("high_ns", figure.high_ns));
    notes.push(note("method", figure.method.as_str()));
    notes
}

/// As [`estimate`], for a figure beside others.
pub(super) fn named_estimate(name: &str, figure: Option<&Estimate>) -> Vec<Note> {
    let notes = figure.map(estimate).unwrap_or_default();
    notes.into_iter().map(|each| Note { name: format!("{name}.{}", each.name), ..each }).collect()
}

/// What crossed the wire. Sent is what went from the source to the destination.
pub(super) fn traffic(traffic: &Directions<Counters>) -> Vec<Note> {
    let of = |direction: &str, counters: &Counters| {
        let Counters { wire_bytes, payload_bytes, segments, .. } = *counters;
        [("wire_bytes", wire_bytes), ("payload_bytes", payload_bytes), ("segments", segments)]
            .map(|(what, count)| note(format!("{direction}.{what}"), count))
    };
    of("sent", &traffic.tx).into_iter().chain(of("received", &traffic.rx)).collect()
}
