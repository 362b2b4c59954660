//! When a vCPU, and its VM, stopped and runs again, as seen from its entries into KVM and its exits.
//!
//! A halted vCPU stays in KVM for as long as it likes, so only an exit can show a stop. But a signal makes a vCPU
//! leave without any stop. And to finish an I/O access, QEMU enters KVM with `immediate_exit` set: that run ends with
//! EINTR before the guest has executed anything.

use core::sync::atomic::{
    Ordering::{Acquire, Release},
    compiler_fence,
};

use crate::abi::{Vcpu, Vcpus, inside, shared};

/// The guest was halted and waits in user space: there is no interrupt controller in the kernel.
const KVM_EXIT_HLT: u32 = 5;
/// A signal ended the run.
const KVM_EXIT_INTR: u32 = 10;
const EINTR: i32 = 4;

/// A VM is not stopped while its vCPUs are all outside of KVM for less than this: they work on I/O.
pub const PAUSE_NS: u64 = 1_000_000;

/// A run that a signal ended sooner than this may have been one with `immediate_exit`. KVM leaves the exit reason of
/// the run before in place, and that was a signal if the VM was stopped.
const DOUBTFUL_NS: u64 = 100_000;

/// While the first run of a vCPU after a stop is shorter than this, it does not show that the stop is over: the vCPU
/// may leave without having run.
const STARTING_NS: u64 = 100_000_000;

/// How a run ended that was reported to user space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// The guest may have run, or the run was not reported.
    Run,
    /// The guest did not run.
    Void,
    /// The guest ran for at most a moment.
    Doubtful,
}

impl Vcpu {
    /// A new one, outside of KVM.
    #[inline(always)]
    #[must_use]
    pub fn new(tgid: u32, claim: u32) -> Self {
        Self { tgid, claim, ..Self::default() }
    }
}

/// Only the vCPU's own thread writes, while others read. `inside` is cleared last: whoever reads that a vCPU is
/// outside also reads when it left. Whether a run was reported is never read apart from it: a vCPU that seemed to be in an
/// unreported run would keep the others' runs from being reported, and then its own may turn out to be none.
impl shared::Vcpu {
    /// Whether it has been outside of KVM for so long that the whole VM may have been stopped.
    #[inline(always)]
    pub fn paused(&self, now_ns: u64) -> bool {
        now_ns >= self.left_ns.get() + PAUSE_NS
    }

    /// It enters KVM; `reported`: this run was reported to user space.
    #[inline(always)]
    pub fn enter(&self, now_ns: u64, reported: bool) {
        self.entered_ns.set(now_ns);
        compiler_fence(Release);
        self.inside.set(if reported { inside::REPORTED } else { inside::YES });
        if reported {
            compiler_fence(Release);
            self.resuming.set(1);
        }
    }

    /// It leaves KVM with an exit reason, and an error or 0.
    #[inline(always)]
    pub fn leave(&self, now_ns: u64, reason: u32, error: i32) -> Left {
        let reported = self.inside.get() == inside::REPORTED;
        let interrupted = error == -EINTR || error == EINTR;
        let (left, ran) = if interrupted && reason != KVM_EXIT_INTR {
            (if reported { Left::Void } else { Left::Run }, false)
        } else if interrupted && reported && now_ns - self.entered_ns.get() < DOUBTFUL_NS {
            (Left::Doubtful, false)
        } else {
            (Left::Run, true)
        };
        self.exited_ns.set(now_ns);
        if ran {
            self.left_ns.set(now_ns);
            self.resuming.set(0);
            self.halted.set((reason == KVM_EXIT_HLT) as u32);
        }
        compiler_fence(Release);
        self.inside.set(inside::NO);
        left
    }

    /// A copy.
    #[inline(always)]
    pub fn load(&self) -> Vcpu {
        let inside = self.inside.get();
        compiler_fence(Acquire);
        Vcpu {
            inside,
            entered_ns: self.entered_ns.get(),
            left_ns: self.left_ns.get(),
            exited_ns: self.exited_ns.get(),
            tgid: self.tgid.get(),
            halted: self.halted.get(),
            resuming: self.resuming.get(),
            claim: self.claim.get(),
        }
    }
}

/// The vCPUs of a VM, added one after the other.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Survey {
    /// What is reported to user space.
    pub vcpus: Vcpus,
    /// When the last of those that are not about to end a stop left KVM.
    pub active_ns: u64,
}

impl Survey {
    /// Adds a vCPU of the VM, as it is now.
    #[inline(always)]
    pub fn add(&mut self, vcpu: &Vcpu, now_ns: u64) {
        let vcpus = &mut self.vcpus;
        vcpus.known += 1;
        if vcpu.inside != inside::NO {
            vcpus.inside += 1;
            if vcpu.inside == inside::REPORTED && now_ns < vcpu.entered_ns + STARTING_NS {
                vcpus.starting += 1;
            }
            return;
        }
        if vcpu.halted != 0 {
            vcpus.halted += 1;
            return;
        }
        // If it ran for at most a moment between two stops, the second one began for it when it left.
        let stopped_ns = if vcpu.resuming != 0 { vcpu.exited_ns } else { vcpu.left_ns };
        if stopped_ns != 0 && (vcpus.first_left_ns == 0 || stopped_ns < vcpus.first_left_ns) {
            vcpus.first_left_ns = stopped_ns;
        }
        vcpus.last_left_ns = vcpus.last_left_ns.max(vcpu.exited_ns);
        let active_ns = if vcpu.resuming != 0 { vcpu.left_ns } else { vcpu.exited_ns };
        self.active_ns = self.active_ns.max(active_ns);
    }

    /// Whether a vCPU that enters KVM now ends a stop of the VM, as far as KVM shows it: no vCPU is in KVM or has
    /// recently been, except those that may end the same stop, and not all of them just wait for an interrupt.
    #[inline(always)]
    #[must_use]
    pub const fn stopped(&self, now_ns: u64) -> bool {
        let vcpus = &self.vcpus;
        let idle = vcpus.halted != 0 && vcpus.halted == vcpus.known;
        vcpus.inside == vcpus.starting && !idle && now_ns >= self.active_ns + PAUSE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM_EXIT_IO: u32 = 2;
    const MS: u64 = 1_000_000;

    fn new() -> shared::Vcpu {
        shared::Vcpu::default()
    }

    fn survey(vcpus: &[shared::Vcpu], now_ns: u64) -> Survey {
        let mut survey = Survey::default();
        for vcpu in vcpus {
            survey.add(&vcpu.load(), now_ns);
        }
        survey
    }

    /// A vCPU that was in KVM from 1 ms to `left_ns`.
    fn ran(left_ns: u64, reason: u32, error: i32) -> shared::Vcpu {
        let vcpu = new();
        vcpu.enter(MS, false);
        assert_eq!(vcpu.leave(left_ns, reason, error), Left::Run);
        vcpu
    }

    #[test]
    fn a_stop_begins_when_the_first_vcpu_leaves_and_is_complete_with_the_last() {
        let vcpus = [
            ran(5 * MS, KVM_EXIT_INTR, -EINTR),
            ran(4 * MS, KVM_EXIT_IO, 0),
            ran(6 * MS, KVM_EXIT_INTR, -EINTR),
        ];
        let survey = survey(&vcpus, 7 * MS);
        assert_eq!((survey.vcpus.first_left_ns, survey.vcpus.last_left_ns), (4 * MS, 6 * MS));
        assert!(survey.stopped(7 * MS));
        assert!(!survey.stopped(7 * MS - 1), "they may work on I/O");
    }

    #[test]
    fn a_vcpu_that_is_halted_in_kvm_is_not_stopped() {
        let halted = new();
        halted.enter(MS, false);
        let survey = survey(&[halted, ran(5 * MS, KVM_EXIT_IO, 0)], 900 * MS);
        assert!(!survey.stopped(900 * MS));
    }

    #[test]
    fn a_vm_whose_vcpus_are_all_halted_in_user_space_is_idle() {
        let idle = [ran(5 * MS, KVM_EXIT_HLT, 0), ran(6 * MS, KVM_EXIT_HLT, 0)];
        assert!(!survey(&idle, 900 * MS).stopped(900 * MS));
        let stopped = survey(&[ran(5 * MS, KVM_EXIT_HLT, 0), ran(700 * MS, KVM_EXIT_INTR, -EINTR)], 900 * MS);
        assert!(stopped.stopped(900 * MS));
        assert_eq!(stopped.vcpus.first_left_ns, 700 * MS, "the other one halted long before");
    }

    #[test]
    fn an_immediate_exit_does_not_count_as_a_run() {
        let vcpu = ran(5 * MS, KVM_EXIT_IO, 0);
        vcpu.enter(6 * MS, true);
        assert_eq!(vcpu.leave(6 * MS + 2_000, KVM_EXIT_IO, -EINTR), Left::Void);
        assert_eq!((vcpu.load().left_ns, vcpu.load().inside), (5 * MS, inside::NO), "it has not run since");
        vcpu.enter(7 * MS, false);
        assert_eq!(vcpu.leave(7 * MS + 2_000, KVM_EXIT_IO, -EINTR), Left::Run, "it was not reported");
        assert_eq!(vcpu.load().left_ns, 5 * MS);
    }

    #[test]
    fn a_run_that_a_signal_ends_at_once_after_a_stop_is_doubtful() {
        let vcpu = ran(5 * MS, KVM_EXIT_INTR, -EINTR);
        vcpu.enter(60 * MS, true);
        assert_eq!(vcpu.leave(60 * MS + 3_000, KVM_EXIT_INTR, -EINTR), Left::Doubtful);
        assert_eq!(vcpu.load().left_ns, 5 * MS, "so that the next run is reported too");
        vcpu.enter(61 * MS, true);
        assert_eq!(vcpu.leave(62 * MS, KVM_EXIT_INTR, -EINTR), Left::Run);
        assert_eq!(vcpu.load().left_ns, 62 * MS);
    }

    #[test]
    fn a_vcpu_that_a_signal_kicks_is_no_stop_while_another_runs() {
        let other = new();
        other.enter(2 * MS, false);
        let kicked = ran(5 * MS, KVM_EXIT_INTR, -EINTR);
        assert!(kicked.paused(6 * MS) && !kicked.paused(6 * MS - 1));
        assert!(!survey(&[kicked, other], 6 * MS).stopped(6 * MS));
    }

    #[test]
    fn a_first_run_that_may_be_void_does_not_hide_the_other_vcpus() {
        let stopped = ran(5 * MS, KVM_EXIT_INTR, -EINTR);
        let first = ran(5 * MS, KVM_EXIT_INTR, -EINTR);
        first.enter(60 * MS, true);
        let vcpus = [first, stopped];
        let during = survey(&vcpus, 60 * MS + 5_000);
        assert_eq!((during.vcpus.inside, during.vcpus.starting), (1, 1));
        assert!(during.stopped(60 * MS + 5_000), "the other one's run is reported too");
        assert!(!survey(&vcpus, 161 * MS).stopped(161 * MS), "a guest that halts in KVM runs too");
    }

    #[test]
    fn a_first_run_that_begins_or_ends_while_others_look_hides_nothing() {
        const TIMES: u64 = 2_000_000;
        let first = ran(5 * MS, KVM_EXIT_INTR, -EINTR);
        std::thread::scope(|scope| {
            let vcpu = scope.spawn(|| {
                for time in 0..TIMES {
                    first.enter(60 * MS + time, true);
                    assert_eq!(first.leave(60 * MS + time, KVM_EXIT_INTR, -EINTR), Left::Doubtful);
                }
            });
            while !vcpu.is_finished() {
                let seen = survey(core::slice::from_ref(&first), 60 * MS + TIMES);
                assert!(seen.stopped(60 * MS + TIMES), "another vCPU's run would not be reported: {seen:?}");
            }
        });
    }

    #[test]
    fn a_second_stop_begins_when_a_vcpu_that_hardly_ran_leaves() {
        let vcpu = ran(5 * MS, KVM_EXIT_INTR, -EINTR);
        vcpu.enter(60 * MS, true);
        assert_eq!(vcpu.leave(60 * MS + 50_000, KVM_EXIT_INTR, -EINTR), Left::Doubtful);
        let stop = survey(core::slice::from_ref(&vcpu), 61 * MS).vcpus;
        assert_eq!((stop.first_left_ns, stop.last_left_ns), (60 * MS + 50_000, 60 * MS + 50_000));
        assert!(
            survey(core::slice::from_ref(&vcpu), 60 * MS + 60_000).stopped(60 * MS + 60_000),
            "and its next run is reported"
        );
    }

    #[test]
    fn an_immediate_exit_widens_the_stop_to_the_run_before() {
        let vcpu = ran(5 * MS, KVM_EXIT_IO, 0);
        vcpu.enter(7 * MS, false);
        vcpu.leave(7 * MS + 2_000, KVM_EXIT_IO, -EINTR);
        let stop = survey(core::slice::from_ref(&vcpu), 8 * MS).vcpus;
        assert_eq!((stop.first_left_ns, stop.last_left_ns), (5 * MS, 7 * MS + 2_000));
    }
}
