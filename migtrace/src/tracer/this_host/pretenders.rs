//! Processes that are called as QEMU is and are not traced: what is said of them. There may be thousands, with any names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::host::clock;
use crate::host::qemu::{self, Distrust, Kind, Pretender, shown};
use crate::tracer::{Tracer, TracerError, host};
use crate::units::MonotonicNs;

/// So many executables are named; of the rest only the processes are counted.
const MOST_NAMED: usize = 5;

const WHAT_TO_DO: &str = "if it is a QEMU, name that executable with --qemu-binary";

/// What is known of them.
#[derive(Debug, Default)]
pub(in crate::tracer) struct Pretenders {
    named: BTreeSet<(PathBuf, Distrust)>,
    /// The most processes of other executables that were there at once, and how many of these were told of.
    more: usize,
    told: usize,
}

impl Pretenders {
    /// Takes in those that were seen at once. Gives the ones that are to be named.
    fn take(&mut self, seen: Vec<Pretender>) -> Vec<Pretender> {
        let mut news = Vec::new();
        let mut more = 0;
        for pretender in seen {
            let key = (pretender.executable.clone(), pretender.why.clone());
            if self.named.contains(&key) {
                continue;
            }
            if self.named.len() < MOST_NAMED {
                self.named.insert(key);
                news.push(pretender);
            } else {
                more += 1;
            }
        }
        self.more = self.more.max(more);
        news
    }

    /// How many processes more there were, if that is to be told: at once when there are some, and when all is over.
    fn untold(&mut self, is_over: bool) -> Option<usize> {
        let is_news = self.more > self.told && (self.told == 0 || is_over);
        is_news.then(|| {
            self.told = self.more;
            self.more
        })
    }
}

impl Tracer {
    /// Says of processes that are called as QEMU is why they are not traced.
    pub(in crate::tracer) fn tell_pretenders(&mut self, at_ns: MonotonicNs, seen: Vec<Pretender>) {
        for Pretender { pid, executable, why } in self.pretenders.take(seen) {
            let executable = shown(&executable);
            self.tell_not_measured(
                at_ns,
                &format!("process {pid} and others that run {executable}"),
                format!("they are called as QEMU is, but run an executable {why}: {WHAT_TO_DO}"),
            );
        }
        self.tell_more_pretenders(at_ns, false);
    }

    fn tell_more_pretenders(&mut self, at_ns: MonotonicNs, is_over: bool) {
        if let Some(more) = self.pretenders.untold(is_over) {
            self.tell_not_measured(
                at_ns,
                &format!("{more} processes more that are called as QEMU is"),
                format!(
                    "they run other executables that are not known to be QEMU's: {WHAT_TO_DO}, and --pid says why a \
                     process is not traced"
                ),
            );
        }
    }

    /// Says how many of them there were in the end.
    pub(in crate::tracer) fn count_pretenders(&mut self) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        self.tell_more_pretenders(now, true);
        Ok(())
    }

    /// Why a process that is called as QEMU is is not traced; none: it is not called so, or is traced.
    #[must_use]
    pub fn why_not_traced(&self, pid: u32) -> Option<String> {
        match qemu::identify(pid, &self.binaries) {
            Kind::Pretender(Pretender { executable, why, .. }) => {
                Some(format!("it is called as QEMU is, but runs {}, {why}: {WHAT_TO_DO}", shown(&executable)))
            }
            _ => None,
        }
    }
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
        assert_eq!(pretenders.untold(false), None);
        assert_eq!(pretenders.untold(true), None);
    }

    #[test]
    fn of_many_executables_a_few_are_named_and_the_processes_of_the_rest_counted() {
        let mut pretenders = Pretenders::default();
        let each = |number| pretender(number, &format!("/home/{number}/kvm"));
        assert_eq!(pids(&pretenders.take((0..100).map(each).collect())), [0, 1, 2, 3, 4]);
        assert_eq!(pretenders.untold(false), Some(95));
        pretenders.take((0..300).map(each).collect());
        assert_eq!(pretenders.untold(false), None, "once, whatever comes");
        assert_eq!(pretenders.untold(true), Some(295), "and what it came to in the end");
        assert_eq!(pretenders.untold(true), None);
    }
}
