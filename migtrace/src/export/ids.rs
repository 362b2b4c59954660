//! The identifiers of a migration's trace and of its spans. Both hosts derive the same from what each knows alone, and they
//! are the same each time, so nothing is doubled by being sent again.

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::record::{Observer, Record, Vantage};

/// The identifier of a trace.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TraceId(pub [u8; 16]);

/// The identifier of a span.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SpanId(pub [u8; 8]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// What a span is about.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpanKind {
    /// The whole migration, as one side has seen it.
    Migration,
    /// A phase.
    Phase,
    /// The stop.
    Stop,
    /// A part of the stop.
    Part,
    /// The network gap.
    NetworkGap,
    /// A gap in the replies of the guest.
    ReachabilityGap,
}

impl SpanKind {
    /// The name of its spans, or what their names begin with.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migration => "migration",
            Self::Phase => "phase",
            Self::Stop => "stop",
            Self::Part => "part",
            Self::NetworkGap => "network gap",
            Self::ReachabilityGap => "reachability gap",
        }
    }
}

/// How a trace got its identifier.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TraceIdSource {
    /// It is the migration's UUID.
    MigrationId,
    /// The record has no UUID of the migration. It is made of what is known: the other host's half has another.
    Start,
}

/// The identifiers in the trace of one migration.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    /// Of the trace.
    pub trace: TraceId,
    /// How that was made.
    pub source: TraceIdSource,
}

impl Ids {
    /// Those of a record's migration.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let id = record.migration.id.as_deref().and_then(|id| Uuid::try_parse(id).ok());
        match id.filter(|id| !id.is_nil()) {
            Some(id) => Self { trace: TraceId(*id.as_bytes()), source: TraceIdSource::MigrationId },
            None => Self { trace: trace_of_start(record), source: TraceIdSource::Start },
        }
    }

    /// The identifier of a span: of one side, about one thing, counted from 0 among those.
    #[must_use]
    pub fn span(&self, side: Vantage, kind: SpanKind, index: usize) -> SpanId {
        let mut hash = Sha256::new();
        hash.update(self.trace.0);
        for word in [side.as_str(), kind.as_str(), &index.to_string()] {
            hash.update(word);
            hash.update([0]);
        }
        SpanId(first(&hash.finalize()))
    }

    /// The span of the whole migration, as a record's own side has seen it.
    #[must_use]
    pub fn migration(&self, record: &Record) -> SpanId {
        self.span(side_of(record), SpanKind::Migration, 0)
    }
}

/// The host whose clock is the record's.
pub(crate) fn own_observer(record: &Record) -> Option<&Observer> {
    record.observers.iter().find(|observer| observer.alignment.is_none()).or_else(|| record.observers.first())
}

/// The side whose view a record is.
pub(crate) fn side_of(record: &Record) -> Vantage {
    own_observer(record).map_or(Vantage::Observer, |observer| observer.role)
}

fn trace_of_start(record: &Record) -> TraceId {
    let mut hash = Sha256::new();
    let start = record.start.realtime_ns.map(|ns| ns.to_string());
    let host = own_observer(record).map(|observer| observer.host.clone());
    for part in [&record.migration.id, &record.vm.uuid, &record.vm.name, &start, &host] {
        hash.update(part.as_deref().unwrap_or_default());
        hash.update([0]);
    }
    TraceId(first(&hash.finalize()))
}

/// The first bytes of a hash. All zeros would be no identifier.
fn first<const N: usize>(hash: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&hash[..N]);
    if bytes == [0; N] {
        bytes[N - 1] = 1;
    }
    bytes
}
