//! How far the clock of another host is from the record's, and between which bounds.
//!
//! Both hosts stamp the same packets of the migration's connections. A packet cannot arrive before it was sent. So a
//! packet to the other host bounds that host's clock from above: it shows no more than the stamp of the arrival when the
//! record's clock shows that of the sending. A packet from the other host bounds it from below. Nothing is assumed about
//! how long packets take: delay in a queue, loss, and packets that the kernel joins only widen the bounds.
//!
//! ```text
//!  other clock less            ╲    │         ╱            each packet there: below its ╲│╱
//!  the record's                 ╲   ●        ╱
//!    │            ●╲___          ╲_/ ╲______●              the bounds at any instant: as far apart as the clocks can
//!    │            true offset ─ ─ ─ ─ ─ ─ ─ ─ ─            drift since the nearest packets
//!    │            ●╱‾‾‾╲___●___╱‾‾‾‾●╲
//!    └──────────────────────────────────▶ the record's clock
//! ```
//!
//! Between packets the clocks drift, but not faster than [`most_drift_ppm`]. How fast is not guessed from the packets
//! before: NTP may begin to slew a clock at any time. The handshake and the closing of each connection cross empty queues,
//! so the bounds are tightest there, and the closing of the memory stream is where the guest moves.

pub(super) mod crossings;
pub(super) mod readings;
pub(super) mod relation;
#[cfg(test)]
mod tests;

use crate::units::{MOST_CRYSTAL_PPM, MOST_SLEW_PPM, MonotonicNs};

/// How fast the difference of two monotonic clocks may change, in millionths, if each was slewed by no more than NTP does
/// or by what its host has noticed.
pub(super) fn most_drift_ppm(fastest_slews_ppm: [u64; 2]) -> u32 {
    let of_one = |slew: u64| slew.max(MOST_SLEW_PPM) + MOST_CRYSTAL_PPM;
    let [a, b] = fastest_slews_ppm.map(|slew| of_one(slew.min(MOST_SENSIBLE_PPM)));
    u32::try_from(a + b).unwrap_or(u32::MAX)
}

/// No kernel slews a clock by more than a tenth.
const MOST_SENSIBLE_PPM: u64 = 100_000;

const MILLION: i128 = 1_000_000;

/// The stamps of one packet, or of the same milestone: by the record's host and by the other.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Pair {
    pub(super) record: MonotonicNs,
    pub(super) other: MonotonicNs,
}

impl Pair {
    /// The other stamp less the record's.
    const fn offset(self) -> i64 {
        self.other.since(self.record)
    }
}

/// The clock of another host, as packets bound it.
#[derive(Clone, Debug)]
pub(super) struct Alignment {
    /// Packets to the other host.
    there: Vec<Pair>,
    /// Packets from the other host.
    back: Vec<Pair>,
    drift: Drift,
}

/// Why clocks cannot be aligned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotAligned {
    /// No packet of the same connection was stamped by both hosts in each direction.
    NoPackets,
    /// A packet seems to have arrived before it was sent, whatever the clocks show.
    Contradiction,
}

/// Something between two bounds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bounded {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Bounded {
    /// The best single value.
    pub(super) const fn value(self) -> i64 {
        self.low.midpoint(self.high)
    }

    /// How far the bounds are apart.
    const fn width(self) -> i64 {
        self.high.saturating_sub(self.low)
    }

    /// With bounds that are further apart, by `ns` on each side.
    const fn widened(self, ns: i64) -> Self {
        Self { low: self.low.saturating_sub(ns), high: self.high.saturating_add(ns) }
    }
}

/// How fast the difference of the clocks may change, in millionths.
#[derive(Clone, Copy, Debug)]
struct Drift(i128);

impl Drift {
    /// By how much the clocks can have drifted apart in `ns`, rounded up.
    fn within(self, ns: i64) -> i64 {
        scaled(ns.saturating_abs(), self.0, MILLION, Rounding::Up)
    }

    /// How long something takes by the record's clock that takes `ns`, which is not negative, by the other.
    fn record_length(self, ns: i64) -> Bounded {
        Bounded {
            low: scaled(ns, MILLION, MILLION + self.0, Rounding::Down),
            high: scaled(ns, MILLION, MILLION - self.0, Rounding::Up),
        }
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Rounding {
    Up,
    Down,
}

/// `ns * numerator / denominator`, for a positive denominator.
fn scaled(ns: i64, numerator: i128, denominator: i128, rounding: Rounding) -> i64 {
    let product = i128::from(ns) * numerator;
    let quotient = match rounding {
        Rounding::Up => -(-product).div_euclid(denominator),
        Rounding::Down => product.div_euclid(denominator),
    };
    i64::try_from(quotient).unwrap_or(if quotient < 0 { i64::MIN } else { i64::MAX })
}

impl Alignment {
    /// The clock that packets `there` and `back` allow.
    pub(super) fn of(
        mut there: Vec<Pair>,
        mut back: Vec<Pair>,
        most_drift_ppm: u32,
    ) -> Result<Self, NotAligned> {
        let drift = Drift(most_drift_ppm.into());
        if there.is_empty() || back.is_empty() {
            return Err(NotAligned::NoPackets);
        }
        there.sort_unstable();
        back.sort_unstable();
        if contradict(&there, &back, drift) {
            return Err(NotAligned::Contradiction);
        }
        Ok(Self { there, back, drift })
    }

    /// The other host's clock less the record's, when the record's shows `at`.
    pub(super) fn offset_at(&self, at: MonotonicNs) -> Bounded {
        let high = |pair: &Pair| pair.offset().saturating_add(self.drift.within(at.since(pair.record)));
        let low = |pair: &Pair| pair.offset().saturating_sub(self.drift.within(at.since(pair.record)));
        Bounded {
            low: self.back.iter().map(low).max().unwrap_or(i64::MIN),
            high: self.there.iter().map(high).min().unwrap_or(i64::MAX),
        }
    }

    /// What the record's clock shows when the other shows `at`, in nanoseconds since `origin`.
    pub(super) fn record_time(&self, at: MonotonicNs, origin: MonotonicNs) -> Bounded {
        // How much later than the packet that is by the record's clock. Earlier is a negative length.
        let since = |pair: &Pair| {
            let since = at.since(pair.other);
            let length = self.drift.record_length(since.saturating_abs());
            if since >= 0 { length } else { Bounded { low: -length.high, high: -length.low } }
        };
        // The other clock showed no more than the stamp of the arrival, so at least this much has passed since.
        let low = |pair: &Pair| pair.record.since(origin).saturating_add(since(pair).low);
        // It showed no less than the stamp of the sending.
        let high = |pair: &Pair| pair.record.since(origin).saturating_add(since(pair).high);
        Bounded {
            low: self.there.iter().map(low).max().unwrap_or(i64::MIN),
            high: self.back.iter().map(high).min().unwrap_or(i64::MAX),
        }
    }
}

/// Whether no pair of clocks explains the packets, which are in the order of the record's stamps: one from the other host
/// shows an offset that one to it excludes, even if the clocks drifted as fast as they can in between.
fn contradict(there: &[Pair], back: &[Pair], drift: Drift) -> bool {
    is_excluded(there.iter(), back.iter(), drift, |earlier, later| earlier.record <= later.record)
        || is_excluded(there.iter().rev(), back.iter().rev(), drift, |earlier, later| {
            earlier.record >= later.record
        })
}

/// Whether a packet back comes before one there in this order, and the two contradict each other.
fn is_excluded<'p>(
    there: impl Iterator<Item = &'p Pair>,
    back: impl Iterator<Item = &'p Pair>,
    drift: Drift,
    is_before: impl Fn(&Pair, &Pair) -> bool,
) -> bool {
    let mut back = back.peekable();
    // The packet back whose bound is highest by now.
    let mut tightest: Option<Pair> = None;
    let bound =
        |pair: &Pair, at: MonotonicNs| pair.offset().saturating_sub(drift.within(at.since(pair.record)));
    for packet in there {
        while let Some(next) = back.next_if(|next| is_before(next, packet)) {
            if tightest.is_none_or(|so_far| bound(next, next.record) >= bound(&so_far, next.record)) {
                tightest = Some(*next);
            }
        }
        if tightest.is_some_and(|tightest| bound(&tightest, packet.record) > packet.offset()) {
            return true;
        }
    }
    false
}
