//! When the vCPUs of a VM ran again after a stop, as far as KVM shows it.

use std::collections::{BTreeSet, HashMap};

use super::stamped::Stamped;
use crate::event::Vcpus;
use crate::units::MonotonicNs;

/// The runs that ended a stop of one VM's vCPUs. Some are retracted later: the vCPU left KVM before the guest had
/// run.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// The vCPUs before each.
    all: Stamped<Vcpus>,
    /// The retracted runs, by when they began; true if the retraction is certain.
    void: HashMap<MonotonicNs, bool>,
    /// When each possible run began.
    possible: BTreeSet<MonotonicNs>,
    /// When each certain run began.
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

    /// Retracts the run that began at `at`: `surely`, or perhaps.
    pub(super) fn void(&mut self, at: MonotonicNs, surely: bool) {
        *self.void.entry(at).or_default() |= surely;
        self.certain.remove(&at);
        if surely {
            self.possible.remove(&at);
        }
    }

    /// The run that ended a stop from `at` on: the first possible run, and the first certain one; none until there
    /// was a certain one.
    pub(super) fn first_since(&self, at: MonotonicNs) -> Option<(MonotonicNs, MonotonicNs)> {
        Some((*self.possible.range(at..).next()?, *self.certain.range(at..).next()?))
    }

    /// The vCPUs when one of them first entered KVM from `at` on, whether it then ran or not.
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
    fn the_first_run_that_was_not_retracted_ends_a_stop() {
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
    fn a_run_may_be_retracted_before_it_is_reported() {
        let mut runs = Runs::default();
        runs.void(MonotonicNs(10), true);
        runs.void(MonotonicNs(20), false);
        [10, 20, 30].into_iter().for_each(|at| runs.push(MonotonicNs(at), VCPUS));
        assert_eq!(runs.first_since(MonotonicNs(0)), Some((MonotonicNs(20), MonotonicNs(30))));
    }
}
