//! What the programs must have let go of before its place is another's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a program on another CPU may at most take for a packet that it has begun.
const GRACE: Duration = Duration::from_millis(200);

/// What was taken from the programs, in this order: each is free after a while.
#[derive(Debug)]
pub(crate) struct Grace<T>(VecDeque<(Instant, T)>);

impl<T> Default for Grace<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Grace<T> {
    /// Notes that programs find this no more.
    pub(crate) fn begin(&mut self, what: T) {
        self.0.push_back((Instant::now(), what));
    }

    /// What no program has any more.
    pub(crate) fn take_over(&mut self) -> Vec<T> {
        let over = self.0.partition_point(|(since, _)| since.elapsed() >= GRACE);
        self.0.drain(..over).map(|(_, what)| what).collect()
    }

    /// What a program may still have.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_free_after_a_while_and_only_once() {
        let mut grace = Grace::default();
        grace.begin(1);
        grace.begin(2);
        assert!(grace.take_over().is_empty());
        assert_eq!(grace.iter().collect::<Vec<_>>(), [&1, &2]);
        std::thread::sleep(GRACE);
        grace.begin(3);
        assert_eq!(grace.take_over(), [1, 2]);
        assert_eq!(grace.iter().collect::<Vec<_>>(), [&3]);
    }
}
