//! Records as a trace of [Perfetto](https://perfetto.dev): open it at <https://ui.perfetto.dev>, which reads it in the browser
//! and sends nothing, or ask it in SQL with `trace_processor`.
//!
//! Each QEMU is a folder of tracks, with its phases, its vCPUs, its parts of the stop and its marks; so is the guest, with how
//! long it was gone. The bounds and the method of a figure are the arguments of its slice.

mod messages;

use prost::Message as _;

use self::messages::{
    AnnotationValue, ChildTracksOrdering, Clock, ClockSnapshot, CounterDescriptor, CounterUnit, Data,
    DebugAnnotation, EventType, Trace, TracePacket, TrackDescriptor, TrackEvent,
};
use super::scene::{Content, Migration, Note, Scene, Slice, Track, Unit, Value};
use crate::record::Record;

/// The trace of several records, each at its wall time.
#[must_use]
pub fn render(records: &[Record]) -> Vec<u8> {
    let scene = Scene::of(records);
    let mut writer = Writer::new(&scene);
    for (index, migration) in scene.migrations.iter().enumerate() {
        writer.migration(index, migration);
    }
    writer.trace.encode_to_vec()
}

/// The clocks that are named in a trace.
const REALTIME: u32 = 1;
const BOOTTIME: u32 = 6;
/// What precedes a packet on its sequence need not be known to read it.
const INCREMENTAL_STATE_CLEARED: u32 = 1;

struct Writer {
    trace: Trace,
    /// What is taken off each time, since none may be negative.
    origin_ns: i64,
    last_uuid: u64,
}

impl Writer {
    fn new(scene: &Scene) -> Self {
        let origin_ns = if scene.has_wall_time { 0 } else { scene.begin_ns };
        let mut writer = Self { trace: Trace::default(), origin_ns, last_uuid: 0 };
        if scene.has_wall_time {
            // Times in a trace are of the boot clock. Several hosts have several, so it is the wall clock, under that name.
            let at = writer.timestamp(scene.begin_ns);
            let clock = |clock_id| Clock { clock_id: Some(clock_id), timestamp: Some(at) };
            let snapshot = ClockSnapshot { clocks: vec![clock(BOOTTIME), clock(REALTIME)] };
            writer.packet(Some(at), Data::ClockSnapshot(snapshot));
        }
        writer
    }

    fn timestamp(&self, at_ns: i64) -> u64 {
        u64::try_from(at_ns.saturating_sub(self.origin_ns)).unwrap_or(0)
    }

    fn packet(&mut self, timestamp: Option<u64>, data: Data) {
        let is_first = self.trace.packet.is_empty();
        self.trace.packet.push(TracePacket {
            timestamp,
            trusted_packet_sequence_id: Some(1),
            sequence_flags: is_first.then_some(INCREMENTAL_STATE_CLEARED),
            data: Some(data),
        });
    }

    /// Introduces a track, and returns its number.
    fn describe(&mut self, descriptor: TrackDescriptor) -> u64 {
        self.last_uuid += 1;
        let uuid = self.last_uuid;
        self.packet(None, Data::TrackDescriptor(TrackDescriptor { uuid: Some(uuid), ..descriptor }));
        uuid
    }

    fn migration(&mut self, index: usize, migration: &Migration) {
        let parent = self.folder(None, index, &migration.name);
        for (index, group) in migration.groups.iter().enumerate() {
            let parent = self.folder(Some(parent), index, &group.name);
            for (index, track) in group.tracks.iter().enumerate() {
                self.track(parent, index, track);
            }
        }
    }

    /// A track that holds others. To Perfetto it is no process: that would need a number, and no record has QEMU's.
    fn folder(&mut self, parent_uuid: Option<u64>, index: usize, name: &str) -> u64 {
        self.describe(TrackDescriptor {
            name: Some(name.to_owned()),
            parent_uuid,
            child_ordering: Some(ChildTracksOrdering::Explicit.into()),
            sibling_order_rank: Some(rank(index)),
            ..TrackDescriptor::default()
        })
    }

    fn track(&mut self, parent: u64, index: usize, track: &Track) {
        let counter = match track.content {
            Content::Slices(_) => None,
            Content::Counter(unit, _) => Some(counter(unit)),
        };
        let uuid = self.describe(TrackDescriptor {
            name: Some(track.name.clone()),
            parent_uuid: Some(parent),
            counter,
            sibling_order_rank: Some(rank(index)),
            ..TrackDescriptor::default()
        });
        match &track.content {
            Content::Slices(slices) => slices.iter().for_each(|slice| self.slice(uuid, slice)),
            Content::Counter(_, points) => points.iter().for_each(|(at_ns, value)| {
                let value = TrackEvent { double_counter_value: Some(*value), ..TrackEvent::default() };
                self.event(uuid, *at_ns, EventType::Counter, value);
            }),
        }
    }

    fn slice(&mut self, track: u64, slice: &Slice) {
        let event = TrackEvent {
            name: Some(slice.name.clone()),
            debug_annotations: slice.notes.iter().map(annotation).collect(),
            flow_ids: slice.leaving.clone(),
            terminating_flow_ids: slice.arriving.clone(),
            ..TrackEvent::default()
        };
        let Some(to_ns) = slice.to_ns else {
            return self.event(track, slice.from_ns, EventType::Instant, event);
        };
        self.event(track, slice.from_ns, EventType::SliceBegin, event);
        slice.inner.iter().for_each(|inner| self.slice(track, inner));
        self.event(track, to_ns, EventType::SliceEnd, TrackEvent::default());
    }

    fn event(&mut self, track: u64, at_ns: i64, kind: EventType, event: TrackEvent) {
        let event = TrackEvent { r#type: Some(kind.into()), track_uuid: Some(track), ..event };
        self.packet(Some(self.timestamp(at_ns)), Data::TrackEvent(event));
    }
}

fn rank(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

fn counter(unit: Unit) -> CounterDescriptor {
    match unit {
        Unit::Bytes => CounterDescriptor { unit: Some(CounterUnit::SizeBytes.into()), unit_name: None },
        Unit::BitsPerS => CounterDescriptor { unit: None, unit_name: Some("bit/s".to_owned()) },
    }
}

fn annotation(note: &Note) -> DebugAnnotation {
    let text = |text: &String| AnnotationValue::Text(text.clone());
    let value = match &note.value {
        Value::List(texts) => {
            let each = |each| DebugAnnotation { value: Some(text(each)), ..DebugAnnotation::default() };
            let array_values = texts.iter().map(each).collect();
            return DebugAnnotation {
                name: Some(note.name.clone()),
                array_values,
                ..DebugAnnotation::default()
            };
        }
        Value::Unsigned(value) => AnnotationValue::Uint(*value),
        Value::Signed(value) => AnnotationValue::Int(*value),
        Value::Text(said) => text(said),
        Value::Bool(value) => AnnotationValue::Bool(*value),
    };
    DebugAnnotation { name: Some(note.name.clone()), value: Some(value), array_values: Vec::new() }
}
