//! Which metrics there are.

/// What a metric says.
#[non_exhaustive]
#[derive(Debug, Eq, PartialEq)]
pub struct Definition {
    /// Its name in OpenTelemetry.
    pub name: &'static str,
    /// Its unit, in UCUM's notation.
    pub unit: &'static str,
    /// A sentence about it.
    pub help: &'static str,
    /// How it adds up.
    pub kind: Kind,
}

/// How a metric adds up.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A count that only grows.
    Counter,
    /// The distribution of a size.
    Histogram {
        /// The upper bounds of the classic buckets, in units of [`Bounds`]. The last bucket has none.
        bounds: Bounds,
    },
}

/// The classic buckets of a histogram.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bounds {
    /// For times, in seconds: from 1 ms to 1 h.
    Seconds,
    /// For amounts, in bytes: from 1 KiB to 1 TiB.
    Bytes,
}

const SECONDS: [f64; 20] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    1_000.0, 3_600.0,
];

const BYTES: [f64; 16] = [
    1_024.0,
    16_384.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    34_359_738_368.0,
    68_719_476_736.0,
    137_438_953_472.0,
    274_877_906_944.0,
    1_099_511_627_776.0,
];

impl Bounds {
    /// The upper bounds, ascending.
    #[must_use]
    pub const fn upper(self) -> &'static [f64] {
        match self {
            Self::Seconds => &SECONDS,
            Self::Bytes => &BYTES,
        }
    }
}

impl Definition {
    /// Its name in Prometheus, with the unit and without `_total`: as the OpenTelemetry Collector translates it.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let name = super::label(self.name);
        match self.prometheus_unit() {
            "" => name,
            unit => format!("{name}_{unit}"),
        }
    }

    /// Its unit in Prometheus; empty for a count.
    #[must_use]
    pub fn prometheus_unit(&self) -> &'static str {
        match self.unit {
            "s" => "seconds",
            "By" => "bytes",
            _ => "",
        }
    }
}

/// How many migrations have ended, and how.
pub const MIGRATIONS: Definition = Definition {
    name: "migtrace.migrations",
    unit: "{migration}",
    help: "Live migrations that have ended, by how they ended",
    kind: Kind::Counter,
};

/// How long migrations took.
pub const TOTAL: Definition = Definition {
    name: "migtrace.migration.duration",
    unit: "s",
    help: "From the start of a migration to the end that QEMU reported",
    kind: Kind::Histogram { bounds: Bounds::Seconds },
};

/// How long guests stood still.
pub const STOP: Definition = Definition {
    name: "migtrace.migration.stop",
    unit: "s",
    help: "How long the guest did not run: from the last vCPU that left KVM to the first that entered it again",
    kind: Kind::Histogram { bounds: Bounds::Seconds },
};

/// How long guests did not answer.
pub const REACHABILITY_GAP: Definition = Definition {
    name: "migtrace.migration.reachability_gap",
    unit: "s",
    help: "How long pings of the guest went unanswered around its stop",
    kind: Kind::Histogram { bounds: Bounds::Seconds },
};

/// How long the taps of guests were silent.
pub const NETWORK_GAP: Definition = Definition {
    name: "migtrace.migration.network_gap",
    unit: "s",
    help: "From the guest's last frame at the source's tap to its first at the destination's",
    kind: Kind::Histogram { bounds: Bounds::Seconds },
};

/// What crossed the wire.
pub const WIRE_BYTES: Definition = Definition {
    name: "migtrace.migration.wire",
    unit: "By",
    help: "What a migration sent from the source to the destination in one phase, on the wire: headers and \
           retransmissions included",
    kind: Kind::Histogram { bounds: Bounds::Bytes },
};

/// All of them.
pub(super) const ALL: [&Definition; 6] =
    [&MIGRATIONS, &TOTAL, &STOP, &REACHABILITY_GAP, &NETWORK_GAP, &WIRE_BYTES];
