//! Items in the order of their stamps.

use std::collections::BTreeMap;

use crate::units::MonotonicNs;

/// Items in the order of their stamps, and those of one stamp in the order in which they came. They may come in any
/// order: two threads of QEMU can be stamped in one and reach the ring buffer in the other.
#[derive(Clone, Debug)]
pub(super) struct Stamped<T> {
    items: BTreeMap<(MonotonicNs, usize), T>,
}

impl<T> Default for Stamped<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new() }
    }
}

impl<T> Stamped<T> {
    pub(super) fn insert(&mut self, at: MonotonicNs, item: T) {
        self.items.insert((at, self.items.len()), item);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.items.values()
    }

    /// Those not before `from` and not after `to`; none when `to` is before `from`.
    pub(super) fn between(
        &self,
        from: MonotonicNs,
        to: MonotonicNs,
    ) -> impl DoubleEndedIterator<Item = (MonotonicNs, &T)> {
        let ordered = (from, 0)..=(to.max(from), usize::MAX);
        self.items.range(ordered).map(|((at, _), item)| (*at, item)).filter(move |(at, _)| *at <= to)
    }

    /// Those not before `from`.
    pub(super) fn since(&self, from: MonotonicNs) -> impl DoubleEndedIterator<Item = (MonotonicNs, &T)> {
        self.between(from, MonotonicNs(u64::MAX))
    }
}
