//! The time that must pass before a place that was taken from the programs is used again: a program on
//! another CPU may still use it for its current packet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most that a program may take for one packet.
const LENGTH: Duration = Duration::from_millis(200);

/// What was taken from the programs and is not free yet, the oldest first.
#[derive(Debug)]
pub(crate) struct GracePeriod<T>(VecDeque<(Instant, T)>);

impl<T> Default for GracePeriod<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> GracePeriod<T> {
    /// Begins the grace period of something that programs cannot find any more.
    pub(crate) fn begin(&mut self, what: T) {
        self.0.push_back((Instant::now(), what));
    }

    /// Takes what no program can be using any more.
    pub(crate) fn take_free(&mut self) -> Vec<T> {
        let free = self.0.partition_point(|(since, _)| since.elapsed() >= LENGTH);
        self.0.drain(..free).map(|(_, what)| what).collect()
    }

    /// What a program may still be using.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_free_once_after_its_grace_period() {
        let mut items = GracePeriod::default();
        items.begin(1);
        items.begin(2);
        assert!(items.take_free().is_empty());
        assert_eq!(items.iter().collect::<Vec<_>>(), [&1, &2]);
        std::thread::sleep(LENGTH);
        items.begin(3);
        assert_eq!(items.take_free(), [1, 2]);
        assert_eq!(items.iter().collect::<Vec<_>>(), [&3]);
    }
}
