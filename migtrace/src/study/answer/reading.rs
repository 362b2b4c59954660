//! The figures of one run, each with its bounds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::{Estimate, PartName, Phase, PhaseName, Record, Traffic};
use crate::study::run::Run;
use crate::units::{Counters, Directions};
use crate::vocabulary::Purpose;

/// What is measured of a migration, one number each.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// How long the migration took.
    TotalTime,
    /// How long its setup took.
    SetupTime,
    /// How long the guest did not run.
    Stop,
    /// The share of the stop in the total time.
    StopShare,
    /// How long the guest's taps were silent.
    Network,
    /// How long the guest did not answer echo requests.
    Reachability,
    /// What of that came after the stop.
    Tail,
    /// The longest round trip of an echo request while the guest answered.
    WorstRoundTrip,
    /// Bytes on the wire from the source to the destination.
    WireBytes,
    /// Those of the connections that carry memory.
    MemoryBytes,
    /// Those of the connections that carry disks.
    DiskBytes,
    /// TCP payload in the bytes on the wire.
    PayloadBytes,
    /// Segments that were sent again.
    RetransmittedSegments,
    /// TCP payload that was sent again.
    RetransmittedBytes,
    /// Rounds of copying memory.
    Passes,
    /// How long the driver's command took.
    DriverTime,
    /// That less the total time.
    DriverLessTotal,
    /// Lost echo requests times their interval.
    PingDowntime,
    /// That less the reachability gap.
    PingLessReachability,
    /// The same less the stop.
    PingLessStop,
    /// What an interface counted, in the direction in which it counted more.
    MeterBytes,
    /// That less the bytes on the wire.
    MeterLessWire,
}

/// In what a figure is given.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Bytes.
    Bytes,
    /// A number of things.
    Count,
    /// Millionths.
    Ppm,
}

impl Unit {
    /// How it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Ppm => "ppm",
        }
    }
}

impl Figure {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 22] = [
        Self::TotalTime,
        Self::SetupTime,
        Self::Stop,
        Self::StopShare,
        Self::Network,
        Self::Reachability,
        Self::Tail,
        Self::WorstRoundTrip,
        Self::WireBytes,
        Self::MemoryBytes,
        Self::DiskBytes,
        Self::PayloadBytes,
        Self::RetransmittedSegments,
        Self::RetransmittedBytes,
        Self::Passes,
        Self::DriverTime,
        Self::DriverLessTotal,
        Self::PingDowntime,
        Self::PingLessReachability,
        Self::PingLessStop,
        Self::MeterBytes,
        Self::MeterLessWire,
    ];

    /// In what it is given.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::WireBytes
            | Self::MemoryBytes
            | Self::DiskBytes
            | Self::PayloadBytes
            | Self::RetransmittedBytes
            | Self::MeterBytes
            | Self::MeterLessWire => Unit::Bytes,
            Self::RetransmittedSegments | Self::Passes => Unit::Count,
            Self::StopShare => Unit::Ppm,
            _ => Unit::Ns,
        }
    }

    /// Its name in JSON and CSV.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TotalTime => "total_time",
            Self::SetupTime => "setup_time",
            Self::Stop => "stop",
            Self::StopShare => "stop_share",
            Self::Network => "network",
            Self::Reachability => "reachability",
            Self::Tail => "tail",
            Self::WorstRoundTrip => "worst_round_trip",
            Self::WireBytes => "wire_bytes",
            Self::MemoryBytes => "memory_bytes",
            Self::DiskBytes => "disk_bytes",
            Self::PayloadBytes => "payload_bytes",
            Self::RetransmittedSegments => "retransmitted_segments",
            Self::RetransmittedBytes => "retransmitted_bytes",
            Self::Passes => "passes",
            Self::DriverTime => "driver_time",
            Self::DriverLessTotal => "driver_less_total",
            Self::PingDowntime => "ping_downtime",
            Self::PingLessReachability => "ping_less_reachability",
            Self::PingLessStop => "ping_less_stop",
            Self::MeterBytes => "meter_bytes",
            Self::MeterLessWire => "meter_less_wire",
        }
    }
}

/// A number with its bounds. The true one lies between them.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Reading {
    /// The best single value.
    pub value: i64,
    /// Not less than this; null when nothing bounds it from below.
    pub low: Option<i64>,
    /// Not more than this; null when nothing bounds it from above.
    pub high: Option<i64>,
}

impl Reading {
    /// A number that is known exactly.
    pub(super) fn exact(value: u64) -> Self {
        let value = signed(value);
        Self { value, low: Some(value), high: Some(value) }
    }

    /// A count of which some may have been missed.
    fn at_least(value: u64) -> Self {
        Self { high: None, ..Self::exact(value) }
    }

    /// A number of which no bound is known.
    const fn unbounded(value: i64) -> Self {
        Self { value, low: None, high: None }
    }

    /// How much more it is than another.
    fn less(self, other: Self) -> Self {
        let less = |a: Option<i64>, b: Option<i64>| Some(a?.saturating_sub(b?));
        Self {
            value: self.value.saturating_sub(other.value),
            low: less(self.low, other.high),
            high: less(self.high, other.low),
        }
    }

    /// Its share of another, in millionths; none of nothing.
    pub(super) fn share_of(self, whole: Self) -> Option<Self> {
        let share = |part: i64, whole: i64, up: i128| {
            let millionths = i128::from(part) * 1_000_000;
            let whole = i128::from(whole);
            (whole > 0).then(|| i64::try_from((millionths + up * (whole - 1)) / whole).unwrap_or(i64::MAX))
        };
        let low = whole.high.zip(self.low).and_then(|(whole, part)| share(part, whole, 0));
        Some(Self {
            value: share(self.value, whole.value, 0)?,
            low: Some(low.unwrap_or(0)),
            high: whole.low.zip(self.high).and_then(|(whole, part)| share(part, whole, 1)),
        })
    }
}

impl From<&Estimate> for Reading {
    fn from(estimate: &Estimate) -> Self {
        Self {
            value: signed(estimate.value_ns),
            low: Some(signed(estimate.low_ns)),
            high: estimate.high_ns.map(signed),
        }
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A figure of one run.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Measured {
    /// Which.
    pub figure: Figure,
    /// What it is.
    #[serde(flatten)]
    pub reading: Reading,
}

/// A phase of the migration or a part of the stop, in one run. All passes of a phase are one.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// How long it took. A phase has no bounds.
    pub time_ns: Reading,
    /// What the source sent in it; null when that is not known, or the source had no part in it.
    pub wire_bytes: Option<Reading>,
}

/// The figures of a run that are known. Without a record there are only those of the driver and of the old method.
pub(super) fn figures(run: &Run, record: Option<&Record>) -> Vec<Measured> {
    let known = Figure::ALL
        .into_iter()
        .filter_map(|figure| Some(Measured { figure, reading: reading(figure, run, record)? }));
    known.collect()
}

fn reading(figure: Figure, run: &Run, record: Option<&Record>) -> Option<Reading> {
    let old_method = &run.old_method;
    let of = |other| reading(other, run, record);
    match figure {
        Figure::DriverTime => run.migrate_ns.map(Reading::exact),
        Figure::PingDowntime => old_method.pings.as_ref().map(|pings| Reading::exact(pings.downtime_ns())),
        Figure::MeterBytes => {
            old_method.meter.as_ref().map(|meter| Reading::exact(meter.tx_bytes.max(meter.rx_bytes)))
        }
        Figure::StopShare => of(Figure::Stop)?.share_of(of(Figure::TotalTime)?),
        Figure::DriverLessTotal => Some(of(Figure::DriverTime)?.less(of(Figure::TotalTime)?)),
        Figure::PingLessReachability => Some(of(Figure::PingDowntime)?.less(of(Figure::Reachability)?)),
        Figure::PingLessStop => Some(of(Figure::PingDowntime)?.less(of(Figure::Stop)?)),
        Figure::MeterLessWire => Some(of(Figure::MeterBytes)?.less(of(Figure::WireBytes)?)),
        _ => of_record(figure, record?),
    }
}

fn of_record(figure: Figure, record: &Record) -> Option<Reading> {
    let (traffic, downtime) = (&record.traffic, &record.downtime);
    let time = |estimate: &Option<Estimate>| estimate.as_ref().map(Reading::from);
    match figure {
        Figure::TotalTime => time(&record.total_time),
        Figure::SetupTime => time(&record.setup_time),
        // A guest that was certainly not stopped was stopped for no time.
        Figure::Stop if downtime.never_stopped() => Some(Reading::exact(0)),
        Figure::Stop => time(&downtime.stop),
        Figure::Network => time(&downtime.network),
        Figure::Reachability => time(&downtime.reachability),
        Figure::Tail => time(&downtime.tail),
        Figure::WorstRoundTrip => {
            let brownout = downtime.brownout.as_ref()?;
            let worst = [&brownout.before, &brownout.after].map(|time| time.worst_round_trip_ns);
            worst.into_iter().flatten().max().map(Reading::exact)
        }
        Figure::WireBytes => traffic.total.map(|total| counted(traffic, total.tx.wire_bytes)),
        Figure::PayloadBytes => traffic.total.map(|total| counted(traffic, total.tx.payload_bytes)),
        Figure::MemoryBytes => carried(traffic, |purpose| {
            matches!(purpose, Purpose::Ram | Purpose::Multifd | Purpose::PostcopyPreempt)
        }),
        Figure::DiskBytes => carried(traffic, |purpose| purpose == Purpose::Nbd),
        Figure::RetransmittedSegments => traffic.retransmitted_segments.map(Reading::exact),
        Figure::RetransmittedBytes => traffic.retransmitted_payload_bytes.map(Reading::exact),
        Figure::Passes => record.phases.iter().filter_map(|phase| phase.pass).max().map(Reading::exact),
        _ => None,
    }
}

/// A number of bytes: a lower bound where the beginning of a flow was not seen.
fn counted(traffic: &Traffic, bytes: u64) -> Reading {
    if traffic.flows.iter().all(|flow| flow.from_start) {
        Reading::exact(bytes)
    } else {
        Reading::at_least(bytes)
    }
}

/// The bytes of the flows of some purposes; none where it is not known what a flow carries.
fn carried(traffic: &Traffic, is_meant: impl Fn(Purpose) -> bool) -> Option<Reading> {
    traffic.total?;
    let flows = &traffic.flows;
    if flows.iter().any(|flow| matches!(flow.purpose, Purpose::Tls | Purpose::Unknown)) {
        return None;
    }
    let bytes = flows.iter().filter(|flow| is_meant(flow.purpose)).map(|flow| flow.counters.tx.wire_bytes);
    Some(counted(traffic, bytes.fold(0, u64::saturating_add)))
}

/// The phases of a migration, each once. The time in which a destination only listened is before the migration.
pub(super) fn phases(record: &Record) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for phase in record.phases.iter().filter(|phase| phase.name != PhaseName::Listening) {
        let (length, sent) = (length_ns(phase), phase.traffic.map(sent));
        let earlier = steps.iter_mut().find(|step| step.name == phase.name.as_str());
        if let Some(step) = earlier {
            step.time_ns = Reading::unbounded(step.time_ns.value.saturating_add(length));
            let both = step.wire_bytes.zip(sent);
            step.wire_bytes = both.map(|(a, b)| Reading::exact(of_exact(a).saturating_add(of_exact(b))));
        } else {
            let time_ns = Reading::unbounded(length);
            steps.push(Step { name: phase.name.as_str().to_owned(), time_ns, wire_bytes: sent });
        }
    }
    // The last one is only an instant.
    steps.retain(|step| step.time_ns.value > 0 || step.wire_bytes.is_some_and(|sent| sent.value > 0));
    steps
}

pub(super) fn length_ns(phase: &Phase) -> i64 {
    phase.end_ns.saturating_sub(phase.start_ns)
}

fn sent(traffic: Directions<Counters>) -> Reading {
    Reading::exact(traffic.tx.wire_bytes)
}

fn of_exact(reading: Reading) -> u64 {
    reading.value.unsigned_abs()
}

/// The parts of the stop, each once.
pub(super) fn parts(record: &Record) -> Vec<Step> {
    let step = |name: &PartName, time_ns, wire_bytes: Option<u64>| Step {
        name: name.as_str().to_owned(),
        time_ns,
        wire_bytes: wire_bytes.map(Reading::exact),
    };
    let parts = record.downtime.parts.iter();
    parts.map(|part| step(&part.name, Reading::from(&part.length), part.wire_bytes)).collect()
}
