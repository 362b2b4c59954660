//! Processes that call themselves QEMU and are not traced, and what is reported of them. There may be thousands, with any
//! names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::host::qemu::{Distrust, Pretender, shown};
use crate::tracer::queue::EventQueue;
use crate::units::MonotonicNs;

/// So many executables are named. Of the rest only the processes are counted.
const MOST_NAMED: usize = 5;

const WHAT_TO_DO: &str = "if it is a QEMU, name that executable with --qemu-binary";

/// The pretenders that were seen so far.
#[derive(Debug, Default)]
pub(super) struct Pretenders {
    named: BTreeSet<(PathBuf, Distrust)>,
    /// The most processes of other executables that were there at once, and how many of these were reported.
    more: usize,
    reported: usize,
}

impl Pretenders {
    /// Reports why processes that call themselves QEMU are not traced.
    pub(super) fn report(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, seen: Vec<Pretender>) {
        for Pretender { pid, executable, why } in self.take(seen) {
            let executable = shown(&executable);
            events.not_measured(
                at_ns,
                &format!("process {pid} and others that run {executable}"),
                format!("they call themselves QEMU, but run an executable {why}: {WHAT_TO_DO}"),
            );
        }
        self.report_rest(events, at_ns, false);
    }

    /// Reports those that were not named, if that is due.
    pub(super) fn report_rest(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, is_over: bool) {
        if let Some(more) = self.unreported(is_over) {
            events.not_measured(
                at_ns,
                &format!("{more} more processes that call themselves QEMU"),
                format!(
                    "they run other executables that are not known to be QEMU's: {WHAT_TO_DO}; --pid shows why a \
                     process is not traced"
                ),
            );
        }
    }

    /// Takes in those that were seen at once. Returns the ones to name.
    fn take(&mut self, seen: Vec<Pretender>) -> Vec<Pretender> {
        let mut new = Vec::new();
        let mut more = 0;
        for pretender in seen {
            let key = (pretender.executable.clone(), pretender.why.clone());
            if self.named.contains(&key) {
                continue;
            }
            if self.named.len() < MOST_NAMED {
                self.named.insert(key);
                new.push(pretender);
            } else {
                more += 1;
            }
        }
        self.more = self.more.max(more);
        new
    }

    /// How many more processes there were, if that is to be reported: when there are some for the first time, and at the
    /// end.
    fn unreported(&mut self, is_over: bool) -> Option<usize> {
        let is_new = self.more > self.reported && (self.reported == 0 || is_over);
        is_new.then(|| {
            self.reported = self.more;
            self.more
        })
    }
}

/// Why this process is not traced.
pub(super) fn why_not_traced(Pretender { executable, why, .. }: &Pretender) -> String {
    format!("it calls itself QEMU, but runs {}, {why}: {WHAT_TO_DO}", shown(executable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pretender(pid: u32, executable: &str) -> Pretender {
        Pretender { pid, executable: executable.into(), why: Distrust::Name }
    }

    fn pids(pretenders: &[Pretender]) -> Vec<u32> {
        pretenders.iter().map(|pretender| pretender.pid).collect()
    }

    #[test]
    fn an_executable_is_named_once_however_many_processes_run_it() {
        let mut pretenders = Pretenders::default();
        let sleeping = |pid| pretender(pid, "/bin/sleep");
        assert_eq!(pids(&pretenders.take((1..1_000).map(sleeping).collect())), [1]);
        assert_eq!(pretenders.take(vec![sleeping(1_000)]), []);
        let writable = Pretender { why: Distrust::File, ..sleeping(7) };
        assert_eq!(pids(&pretenders.take(vec![writable])), [7], "for another reason");
        assert_eq!(pretenders.unreported(false), None);
        assert_eq!(pretenders.unreported(true), None);
    }

    #[test]
    fn a_few_of_many_executables_are_named_and_the_processes_of_the_rest_are_counted() {
        let mut pretenders = Pretenders::default();
        let each = |number| pretender(number, &format!("/home/{number}/kvm"));
        assert_eq!(pids(&pretenders.take((0..100).map(each).collect())), [0, 1, 2, 3, 4]);
        assert_eq!(pretenders.unreported(false), Some(95));
        pretenders.take((0..300).map(each).collect());
        assert_eq!(pretenders.unreported(false), None, "once, whatever comes");
        assert_eq!(pretenders.unreported(true), Some(295), "and the most that there were, at the end");
        assert_eq!(pretenders.unreported(true), None);
    }
}
