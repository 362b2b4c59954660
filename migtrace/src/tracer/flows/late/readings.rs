//! What a socket has counted beyond what the programs have, from several readings of both.
//!
//! A packet that leaves is counted by the socket first, one that comes is counted by the programs first. In between it makes
//! a reading too high or too low. So of readings at which nothing moved the lowest holds for what is sent, the highest for
//! what is received, and one is trusted when others agree, or when nothing had moved for a while before.

use std::time::Duration;

use tokio::time::Instant;

use crate::host::sockets::{OneWay, SocketCounts};
use crate::kernel::FlowState;
use crate::units::{Counters, Directions};

/// What was counted longer ago than this has reached its socket, or has left it.
const ON_ITS_WAY: Duration = Duration::from_millis(2);
/// So many readings that agree are trusted. They are that far apart.
const AGREEING: u32 = 3;
const APART: Duration = Duration::from_millis(20);

/// A reading of a socket, and of the programs' counters just before and just after it.
pub(super) struct Reading<'a> {
    pub(super) before: &'a FlowState,
    pub(super) counts: SocketCounts,
    pub(super) after: &'a FlowState,
    pub(super) at: Instant,
}

/// How much more a socket has counted than the programs. It may be less, since a socket does not count every SYN.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Excess {
    pub(super) segments: i64,
    pub(super) payload_bytes: i64,
}

impl Excess {
    fn of(socket: OneWay, counted: Counters) -> Self {
        Self {
            segments: socket.segments.cast_signed().wrapping_sub(counted.segments.cast_signed()),
            payload_bytes: socket
                .payload_bytes
                .cast_signed()
                .wrapping_sub(counted.payload_bytes.cast_signed()),
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            segments: self.segments.min(other.segments),
            payload_bytes: self.payload_bytes.min(other.payload_bytes),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            segments: self.segments.max(other.segments),
            payload_bytes: self.payload_bytes.max(other.payload_bytes),
        }
    }
}

/// The bytes of a segment that are not payload, as far as they were seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Headers {
    /// The fewest of any segments; `None` before any.
    pub(super) least: Option<u64>,
    /// Not all segments had the same number.
    pub(super) vary: bool,
}

impl Headers {
    fn take(&mut self, more: Counters) {
        let bytes = more.wire_bytes.saturating_sub(more.payload_bytes);
        let Some(each) = bytes.checked_div(more.segments) else { return };
        let is_same = bytes.is_multiple_of(more.segments) && self.least.is_none_or(|least| least == each);
        self.vary |= !is_same;
        self.least = Some(self.least.map_or(each, |least| least.min(each)));
    }
}

/// The readings of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// The best of the readings at which nothing moved, how many agree with it, and when the last one was made.
    best: Option<(Excess, u32, Instant)>,
    is_exact: bool,
    /// What is certain of all readings.
    bounds: Option<(Excess, Excess)>,
    /// What was counted at the last reading.
    counted: Option<(Counters, Instant)>,
    /// What was counted when the headers were last looked at.
    looked_at: Counters,
    pub(super) headers: Headers,
}

impl Way {
    /// `is_sent`: what leaves is counted by the socket first.
    pub(super) fn take(
        &mut self,
        is_sent: bool,
        socket: OneWay,
        before: Counters,
        after: Counters,
        at: Instant,
    ) {
        let (low, high) = (Excess::of(socket, after), Excess::of(socket, before));
        let narrower = self.bounds.map_or((low, high), |(least, most)| (least.most(low), most.least(high)));
        let is_possible = narrower.0 == narrower.0.least(narrower.1);
        // What comes twice later makes a reading too low.
        if is_possible || self.bounds.is_none() {
            self.bounds = Some(narrower);
        }
        if before == after {
            let was_still = self
                .counted
                .is_some_and(|(counted, since)| counted == before && at.duration_since(since) >= ON_ITS_WAY);
            self.agree(is_sent, low, at, was_still);
        }
        if self.counted.is_none_or(|(counted, _)| counted != after) {
            self.counted = Some((after, at));
        }
    }

    /// Looks at the headers of what was counted since the last time.
    pub(super) fn look_at(&mut self, counted: Counters, has_syn: bool) {
        // A SYN has other options than what follows.
        if !has_syn {
            self.headers.take(counted.since(&self.looked_at));
        }
        self.looked_at = counted;
    }

    fn agree(&mut self, is_sent: bool, excess: Excess, at: Instant, was_still: bool) {
        let is_better = |best: Excess| if is_sent { excess < best } else { excess > best };
        match &mut self.best {
            Some((best, agreeing, last)) if *best == excess => {
                if at.duration_since(*last) >= APART {
                    (*agreeing, *last) = (*agreeing + 1, at);
                    self.is_exact |= *agreeing >= AGREEING;
                }
            }
            Some((best, ..)) if !is_better(*best) => {}
            best => {
                *best = Some((excess, 1, at));
                self.is_exact = false;
            }
        }
        if was_still && self.best.is_some_and(|(best, ..)| best == excess) {
            self.is_exact = true;
        }
    }

    /// The least and the most that crossed before.
    pub(super) fn excess(&self) -> Option<(Excess, Excess)> {
        match self.best {
            Some((best, ..)) if self.is_exact => Some((best, best)),
            _ => self.bounds,
        }
    }
}

/// The readings of a connection.
#[derive(Debug)]
pub(super) struct Readings {
    pub(super) by_this_host: bool,
    pub(super) tx: Way,
    pub(super) rx: Way,
    /// The first reading.
    pub(super) first: Option<SocketCounts>,
    /// In each direction, whether a SYN was counted by the programs.
    pub(super) opening_counted: Directions<bool>,
    /// What was sent again before; `None` when that is not counted.
    pub(super) retransmitted: Option<Excess>,
}

impl Readings {
    pub(super) fn new(by_this_host: bool) -> Self {
        Self {
            by_this_host,
            tx: Way::default(),
            rx: Way::default(),
            first: None,
            opening_counted: Directions::default(),
            retransmitted: None,
        }
    }

    /// Looks at what was counted.
    pub(super) fn look_at(&mut self, state: &FlowState) {
        let has_syn =
            |of: fn(Directions<bool>) -> bool| of(state.opening_counted) && !of(self.opening_counted);
        let (sent_syn, received_syn) = (has_syn(|of| of.tx), has_syn(|of| of.rx));
        self.tx.look_at(state.counters.tx, sent_syn);
        self.rx.look_at(state.counters.rx, received_syn);
        self.opening_counted = state.opening_counted;
    }

    pub(super) fn take(&mut self, Reading { before, counts, after, at }: Reading<'_>) {
        self.first.get_or_insert(counts);
        self.look_at(after);
        let (sent, received) = (counts.ways.tx, counts.ways.rx);
        self.tx.take(true, sent, before.counters.tx, after.counters.tx, at);
        self.rx.take(false, received, before.counters.rx, after.counters.rx, at);
        if before.retransmitted == after.retransmitted {
            self.retransmitted = after.retransmitted.map(|counted| Excess {
                segments: counts.retransmitted.segments.saturating_sub(counted.segments).cast_signed(),
                payload_bytes: counts
                    .retransmitted
                    .payload_bytes
                    .saturating_sub(counted.payload_bytes)
                    .cast_signed(),
            });
        }
    }

    /// Whether more readings will show nothing more.
    pub(super) fn are_exact(&self) -> bool {
        let are_headers_known = self.tx.headers.least.or(self.rx.headers.least).is_some();
        self.tx.is_exact && self.rx.is_exact && are_headers_known
    }
}
