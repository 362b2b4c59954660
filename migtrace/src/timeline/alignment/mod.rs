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
//! Between packets the clocks drift, but not faster than [`MOST_DRIFT_PPM`]. How fast is not guessed from the packets
//! before: NTP may begin to slew a clock at any time. The handshake and the closing of each connection cross empty queues,
//! so the bounds are tightest there, and the closing of the memory stream is where the guest moves.

pub(super) mod crossings;
#[cfg(test)]
mod tests;

use crate::units::MonotonicNs;

/// How fast the difference of two monotonic clocks may change, in millionths. Each is off by at most 100 itself, and NTP
/// slews it by at most 500 more.
pub(super) const MOST_DRIFT_PPM: i64 = 1_200;

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
}

/// By how much the clocks can have drifted apart in `ns`, rounded up.
fn drift(ns: i64) -> i64 {
    scaled(ns.saturating_abs(), i128::from(MOST_DRIFT_PPM), MILLION, Rounding::Up)
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
    pub(super) fn of(mut there: Vec<Pair>, mut back: Vec<Pair>) -> Result<Self, NotAligned> {
        if there.is_empty() || back.is_empty() {
            return Err(NotAligned::NoPackets);
        }
        there.sort_unstable();
        back.sort_unstable();
        if contradict(&there, &back) {
            return Err(NotAligned::Contradiction);
        }
        Ok(Self { there, back })
    }

    /// The other host's clock less the record's, when the record's shows `at`.
    pub(super) fn offset_at(&self, at: MonotonicNs) -> Bounded {
        let high = |pair: &Pair| pair.offset().saturating_add(drift(at.since(pair.record)));
        let low = |pair: &Pair| pair.offset().saturating_sub(drift(at.since(pair.record)));
        Bounded {
            low: self.back.iter().map(low).max().unwrap_or(i64::MIN),
            high: self.there.iter().map(high).min().unwrap_or(i64::MAX),
        }
    }

    /// What the record's clock shows when the other shows `at`, in nanoseconds since `origin`.
    pub(super) fn record_time(&self, at: MonotonicNs, origin: MonotonicNs) -> Bounded {
        let (slowest, fastest) = (MILLION - i128::from(MOST_DRIFT_PPM), MILLION + i128::from(MOST_DRIFT_PPM));
        // The other clock showed no more than the stamp of the arrival, so at least this much has passed since.
        let low = |pair: &Pair| {
            let since = at.since(pair.other);
            let rate = if since >= 0 { fastest } else { slowest };
            pair.record.since(origin).saturating_add(scaled(since, MILLION, rate, Rounding::Down))
        };
        // It showed no less than the stamp of the sending.
        let high = |pair: &Pair| {
            let since = at.since(pair.other);
            let rate = if since >= 0 { slowest } else { fastest };
            pair.record.since(origin).saturating_add(scaled(since, MILLION, rate, Rounding::Up))
        };
        Bounded {
            low: self.there.iter().map(low).max().unwrap_or(i64::MIN),
            high: self.back.iter().map(high).min().unwrap_or(i64::MAX),
        }
    }
}

/// Whether no pair of clocks explains the packets, which are in the order of the record's stamps: one from the other host
/// shows an offset that one to it excludes, even if the clocks drifted as fast as they can in between.
fn contradict(there: &[Pair], back: &[Pair]) -> bool {
    is_excluded(there.iter(), back.iter(), |earlier, later| earlier.record <= later.record)
        || is_excluded(there.iter().rev(), back.iter().rev(), |earlier, later| earlier.record >= later.record)
}

/// Whether a packet back comes before one there in this order, and the two contradict each other.
fn is_excluded<'p>(
    there: impl Iterator<Item = &'p Pair>,
    back: impl Iterator<Item = &'p Pair>,
    is_before: impl Fn(&Pair, &Pair) -> bool,
) -> bool {
    let mut back = back.peekable();
    // The packet back whose bound is highest by now.
    let mut tightest: Option<Pair> = None;
    let bound = |pair: &Pair, at: MonotonicNs| pair.offset().saturating_sub(drift(at.since(pair.record)));
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
