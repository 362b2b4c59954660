//! Records in the trace event format of Chrome, which many viewers read: Perfetto, Speedscope, `chrome://tracing`.
//!
//! It has neither a wall clock nor units nor tracks within tracks; `perfetto` has all that. Times are in microseconds since the
//! first instant, whose wall time is in `otherData`. Each process of the trace is a QEMU or the guest, each thread a track.

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};

use super::scene::{Content, Group, Note, Scene, Slice, Unit, Value};
use crate::record::Record;
use crate::terminal::clean_json;

/// The trace of several records, as JSON that ends with a newline.
#[must_use]
pub fn render(records: &[Record]) -> String {
    let scene = Scene::of(records);
    let mut writer = Writer { events: Vec::new(), origin_ns: scene.begin_ns };
    let groups = scene
        .migrations
        .iter()
        .flat_map(|migration| migration.groups.iter().map(move |group| (migration, group)));
    for (index, (migration, group)) in groups.enumerate() {
        writer.group(index + 1, &format!("{}, {}", group.name, migration.name), group);
    }
    let mut other = Map::from_iter([("migtrace".to_owned(), json!(env!("CARGO_PKG_VERSION")))]);
    if let Some(start) = wall_time(&scene) {
        other.insert("start".to_owned(), json!(start));
    }
    // One event a line, so that a person can read it.
    let lines: Vec<_> = writer.events.iter().map(Json::to_string).collect();
    let other = Json::Object(other);
    let trace = format!(
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{other},\"traceEvents\":[\n{}\n]}}\n",
        lines.join(",\n")
    );
    clean_json(&trace).into_owned()
}

fn wall_time(scene: &Scene) -> Option<String> {
    let start = Timestamp::from_nanosecond(scene.begin_ns.into()).ok();
    start.filter(|_| scene.has_wall_time).map(|start| start.to_string())
}

/// Where an event belongs.
#[derive(Clone, Copy)]
struct Place {
    pid: usize,
    tid: usize,
}

struct Writer {
    events: Vec<Json>,
    origin_ns: i64,
}

impl Writer {
    fn group(&mut self, pid: usize, name: &str, group: &Group) {
        self.metadata(Place { pid, tid: 0 }, "process_name", &json!({ "name": name }));
        self.metadata(Place { pid, tid: 0 }, "process_sort_index", &json!({ "sort_index": pid }));
        for (index, track) in group.tracks.iter().enumerate() {
            let place = Place { pid, tid: index + 1 };
            match &track.content {
                Content::Slices(slices) => {
                    self.metadata(place, "thread_name", &json!({ "name": track.name }));
                    self.metadata(place, "thread_sort_index", &json!({ "sort_index": place.tid }));
                    slices.iter().for_each(|slice| self.slice(place, slice));
                }
                Content::Counter(unit, points) => {
                    let unit = match unit {
                        Unit::Bytes => "bytes",
                        Unit::BitsPerS => "bit/s",
                    };
                    points.iter().for_each(|(at_ns, value)| {
                        self.event(place, *at_ns, "C", &track.name, json!({ "args": { unit: value } }));
                    });
                }
            }
        }
    }

    fn slice(&mut self, place: Place, slice: &Slice) {
        let args = arguments(&slice.notes);
        match slice.to_ns {
            Some(to_ns) => {
                let length = microseconds(to_ns.saturating_sub(slice.from_ns));
                self.event(place, slice.from_ns, "X", &slice.name, json!({ "dur": length, "args": args }));
            }
            None => self.event(place, slice.from_ns, "i", &slice.name, json!({ "s": "t", "args": args })),
        }
        let arrows =
            slice.leaving.iter().map(|id| ("s", id)).chain(slice.arriving.iter().map(|id| ("f", id)));
        for (kind, id) in arrows {
            self.event(
                place,
                slice.from_ns,
                kind,
                "leads to",
                json!({ "cat": "arrow", "id": id, "bp": "e" }),
            );
        }
        slice.inner.iter().for_each(|inner| self.slice(place, inner));
    }

    fn event(&mut self, place: Place, at_ns: i64, kind: &str, name: &str, mut more: Json) {
        more["ph"] = json!(kind);
        more["name"] = json!(name);
        more["pid"] = json!(place.pid);
        more["tid"] = json!(place.tid);
        more["ts"] = microseconds(at_ns.saturating_sub(self.origin_ns));
        self.events.push(more);
    }

    fn metadata(&mut self, place: Place, name: &str, args: &Json) {
        self.events
            .push(json!({ "ph": "M", "name": name, "pid": place.pid, "tid": place.tid, "args": args }));
    }
}

/// With all digits: a trace of some years is exact to the nanosecond.
#[expect(clippy::cast_precision_loss, reason = "exact up to 104 days, and then to the nearest double")]
fn microseconds(ns: i64) -> Json {
    json!(ns as f64 / 1e3)
}

fn arguments(notes: &[Note]) -> Map<String, Json> {
    let value = |note: &Note| match &note.value {
        Value::Unsigned(value) => json!(value),
        Value::Signed(value) => json!(value),
        Value::Text(text) => json!(text),
        Value::Bool(value) => json!(value),
        Value::List(texts) => json!(texts),
    };
    notes.iter().map(|note| (note.name.clone(), value(note))).collect()
}
