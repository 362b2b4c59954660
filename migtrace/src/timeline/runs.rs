//! When the vCPUs of a VM ran again after a stop, as far as KVM can tell.

use std::collections::{BTreeSet, HashMap};

use super::stamped::Stamped;
use crate::event::Vcpus;
use crate::units::MonotonicNs;

/// The runs that ended a stop of one VM's vCPUs. Some are said later to have been none: KVM was left before the guest
/// had run.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// The vCPUs before each.
    all: Stamped<Vcpus>,
    /// Those that were said to be none, by when they began; true for those of which that is certain.
    void: HashMap<MonotonicNs, bool>,
    /// When those began that may have been one.
    possible: BTreeSet<MonotonicNs>,
    /// When those began that certainly were one.
    certain: BTreeSet<MonotonicNs>,
}

impl Runs {
    /// A vCPU entered KVM.
    pub(super) fn push(&mut self, at: MonotonicNs, vcpus_before: Vcpus) {
        self.all.insert(at, vcpus_before);
        let void = self.void.get(&at);
        if void.is_none() {
            self.certain.insert(at);
        }
        if void != Some(&true) {
            self.possible.insert(at);
        }
    }

    /// The run that began at `at` was none: surely, or perhaps.
    pub(super) fn void(&mut self, at: MonotonicNs, surely: bool) {
        *self.void.entry(at).or_default() |= surely;
        self.certain.remove(&at);
        if surely {
            self.possible.remove(&at);
        }
    }

    /// The run that ended a stop from `at` on: the first that may have been one, and the first that certainly was; none
    /// as long as none was for certain.
    pub(super) fn first_since(&self, at: MonotonicNs) -> Option<(MonotonicNs, MonotonicNs)> {
        Some((*self.possible.range(at..).next()?, *self.certain.range(at..).next()?))
    }

    /// The vCPUs as they were when one of them entered KVM for the first time from `at` on, whether it ran or not.
    pub(super) fn vcpus_since(&self, at: MonotonicNs) -> Option<Vcpus> {
        self.all.since(at).next().map(|(_, vcpus)| *vcpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VCPUS: Vcpus =
        Vcpus { known: 1, inside: 0, starting: 0, halted: 0, first_left_ns: None, last_left_ns: None };

    fn runs(of: &[u64]) -> Runs {
        let mut runs = Runs::default();
        of.iter().for_each(|&at| runs.push(MonotonicNs(at), VCPUS));
        runs
    }

    #[test]
    fn the_first_run_that_was_not_void_ends_a_stop() {
        let mut runs = runs(&[10, 20, 30, 40]);
        let first = |runs: &Runs| runs.first_since(MonotonicNs(5)).map(|(a, b)| (a.0, b.0));
        assert_eq!(first(&runs), Some((10, 10)));
        runs.void(MonotonicNs(10), true);
        runs.void(MonotonicNs(20), false);
        assert_eq!(first(&runs), Some((20, 30)));
        runs.void(MonotonicNs(20), true);
        assert_eq!(first(&runs), Some((30, 30)));
        runs.void(MonotonicNs(30), false);
        runs.void(MonotonicNs(40), false);
        assert_eq!(first(&runs), None, "none is certain");
        assert!(runs.vcpus_since(MonotonicNs(40)).is_some());
    }

    #[test]
    fn what_is_void_may_be_told_before_the_run() {
        let mut runs = Runs::default();
        runs.void(MonotonicNs(10), true);
        runs.void(MonotonicNs(20), false);
        [10, 20, 30].into_iter().for_each(|at| runs.push(MonotonicNs(at), VCPUS));
        assert_eq!(runs.first_since(MonotonicNs(0)), Some((MonotonicNs(20), MonotonicNs(30))));
    }
}
