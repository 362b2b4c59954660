//! Items in the order of their stamps.

use std::sync::OnceLock;

use crate::units::MonotonicNs;

/// Items in the order of their stamps; those with the same stamp in the order of arrival. They may arrive in any
/// order: two threads of QEMU can be stamped in one order and reach the ring buffer in the other.
///
/// They nearly always arrive in order, and are kept as they arrived. If one was late, they are sorted when somebody
/// reads them, not on each arrival: a log may be long, and in reverse.
#[derive(Clone, Debug)]
pub(super) struct Stamped<T> {
    /// In the order of arrival.
    items: Vec<(MonotonicNs, T)>,
    /// Whether an item arrived after one with a later stamp.
    mixed: bool,
    /// The places in `items` in the order of the stamps, if the items are mixed; dropped with each new item.
    order: OnceLock<Vec<usize>>,
}

impl<T> Default for Stamped<T> {
    fn default() -> Self {
        Self { items: Vec::new(), mixed: false, order: OnceLock::new() }
    }
}

impl<T> Stamped<T> {
    pub(super) fn insert(&mut self, at: MonotonicNs, item: T) {
        self.mixed |= self.items.last().is_some_and(|(last, _)| at < *last);
        self.items.push((at, item));
        self.order.take();
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.places(0, self.items.len()).map(|(_, item)| item)
    }

    /// The items in reverse order of arrival, whatever their stamps.
    pub(super) fn latest_arrivals(&self) -> impl Iterator<Item = &T> {
        self.items.iter().rev().map(|(_, item)| item)
    }

    /// The items from `from` to `to`, both included; none when `to` is before `from`.
    pub(super) fn between(
        &self,
        from: MonotonicNs,
        to: MonotonicNs,
    ) -> impl DoubleEndedIterator<Item = (MonotonicNs, &T)> + ExactSizeIterator {
        let first = self.count_until(|at| at < from);
        self.places(first, self.count_until(|at| at <= to).max(first))
    }

    /// The items from `from` on.
    pub(super) fn since(
        &self,
        from: MonotonicNs,
    ) -> impl DoubleEndedIterator<Item = (MonotonicNs, &T)> + ExactSizeIterator {
        self.places(self.count_until(|at| at < from), self.items.len())
    }

    /// How many items come before the first whose stamp is not `early`.
    fn count_until(&self, early: impl Fn(MonotonicNs) -> bool) -> usize {
        match self.order() {
            Some(order) => order.partition_point(|&place| early(self.items[place].0)),
            None => self.items.partition_point(|(at, _)| early(*at)),
        }
    }

    /// The items from the `first` in the order of the stamps to the one before `end`.
    fn places(
        &self,
        first: usize,
        end: usize,
    ) -> impl DoubleEndedIterator<Item = (MonotonicNs, &T)> + ExactSizeIterator {
        let order = self.order();
        (first..end).map(move |nth| {
            let (at, item) = &self.items[order.map_or(nth, |order| order[nth])];
            (*at, item)
        })
    }

    /// None when the items arrived in order.
    fn order(&self) -> Option<&[usize]> {
        self.mixed.then(|| {
            self.order
                .get_or_init(|| in_order(&self.items.iter().map(|(at, _)| *at).collect::<Vec<_>>()))
                .as_slice()
        })
    }
}

/// The places of these stamps in their order, and of equal ones in that of arrival. What is stamped does not matter, so that
/// the code is there once.
fn in_order(stamps: &[MonotonicNs]) -> Vec<usize> {
    let mut order: Vec<_> = (0..stamps.len()).collect();
    order.sort_by_key(|&place| stamps[place]);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(items: &[(u64, char)]) -> Stamped<char> {
        let mut stamped = Stamped::default();
        for (at, item) in items {
            stamped.insert(MonotonicNs(*at), *item);
        }
        stamped
    }

    fn text<'a>(items: impl Iterator<Item = (MonotonicNs, &'a char)>) -> String {
        items.map(|(_, item)| item).collect()
    }

    #[test]
    fn items_are_in_the_order_of_their_stamps_and_then_of_arrival() {
        for items in [
            &[(1, 'a'), (2, 'b'), (2, 'c'), (3, 'd')][..],
            &[(3, 'd'), (2, 'b'), (2, 'c'), (1, 'a')],
            &[(2, 'b'), (1, 'a'), (2, 'c'), (3, 'd')],
        ] {
            let stamped = stamped(items);
            assert_eq!(stamped.iter().collect::<String>(), "abcd");
            assert_eq!(stamped.iter().rev().collect::<String>(), "dcba");
            assert_eq!(text(stamped.between(MonotonicNs(2), MonotonicNs(2))), "bc");
            assert_eq!(stamped.between(MonotonicNs(2), MonotonicNs(9)).len(), 3);
            assert_eq!(text(stamped.between(MonotonicNs(3), MonotonicNs(1))), "");
            assert_eq!(text(stamped.since(MonotonicNs(3))), "d");
            assert_eq!(stamped.latest_arrivals().next(), items.last().map(|(_, item)| item));
        }
    }

    #[test]
    fn an_item_that_arrives_after_a_read_is_in_the_next() {
        let mut stamped = stamped(&[(2, 'b'), (1, 'a')]);
        assert_eq!(stamped.iter().collect::<String>(), "ab");
        stamped.insert(MonotonicNs(0), '0');
        assert_eq!(stamped.iter().collect::<String>(), "0ab");
        stamped.insert(MonotonicNs(9), 'z');
        assert_eq!(stamped.iter().collect::<String>(), "0abz");
    }
}
