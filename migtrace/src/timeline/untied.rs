//! What a flow had carried before it was tied to a process: the counters that are read with QEMU's events lack it.

use crate::event::Crossed;
use crate::units::{Counters, Directions, MonotonicNs};

/// A time in which nothing crossed, and what had crossed before.
#[derive(Clone, Copy, Debug)]
struct Pause {
    from: MonotonicNs,
    until: MonotonicNs,
    crossed: Directions<Counters>,
}

impl Pause {
    const fn has_payload(&self) -> bool {
        self.crossed.tx.payload_bytes > 0 || self.crossed.rx.payload_bytes > 0
    }
}

/// The pauses of a flow before its owner was known. Most flows have one: after their handshake and before their
/// process sends for the first time.
#[derive(Clone, Debug, Default)]
pub(super) struct Untied(Vec<Pause>);

impl Untied {
    /// Notes what had crossed at `at`: since the last packet of that, nothing has.
    pub(super) fn push(&mut self, at: MonotonicNs, crossed: Crossed) {
        let pause = Pause { from: crossed.last_ns, until: at, crossed: crossed.counters };
        // The stream of a process that is never found is counted for as long as it lasts.
        match self.0.last_mut() {
            Some(last) if last.has_payload() => *last = pause,
            _ => self.0.push(pause),
        }
    }

    /// What had crossed until `at`, if that is known.
    pub(super) fn at(&self, at: MonotonicNs) -> Option<Directions<Counters>> {
        self.0.iter().find(|pause| (pause.from..=pause.until).contains(&at)).map(|pause| pause.crossed)
    }
}
