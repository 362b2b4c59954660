//! The program in the kernel, on frames that are built here (`BPF_PROG_TEST_RUN`). Nothing is attached.

#[path = "../../../../migtrace-ebpf/tests/announcements/mod.rs"]
mod announcements;

use announcements::{FRAMES, tagged};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use migtrace_ebpf::abi::announcement::{NONE, RARP};
use migtrace_ebpf::abi::{ANNOUNCEMENTS_TOLD, GUEST_PORTS_MAX, GuestPort};

use super::*;
use crate::event::Announcement;
use crate::kernel::{Body, Settings};

/// Test runs see the loopback interface of whoever runs them.
const LOOPBACK: u32 = 1;

/// Runs `test` with freshly loaded programs that watch the interface of test runs; says so and does nothing without
/// root.
fn with_tap(test: impl FnOnce(&mut Kernel)) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: loading eBPF programs needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut kernel = Kernel::load_detached(&Settings::default()).unwrap();
    kernel.await_frame(LOOPBACK, GuestPort::default()).unwrap();
    test(&mut kernel);
}

/// Passes a frame, which the program must always leave to the next one; returns what it told.
fn pass(kernel: &mut Kernel, frame: &[u8]) -> Vec<Body> {
    let program: &SchedClassifier = kernel.ebpf.program("migtrace_guest").unwrap().try_into().unwrap();
    let result =
        program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() }).unwrap();
    assert_eq!(result.return_value.cast_signed(), -1, "not TC_ACT_UNSPEC");
    kernel.pending_messages().into_iter().map(|message| message.body).collect()
}

#[test]
fn each_announcement_is_told_and_only_the_first_frame_of_the_guest() {
    with_tap(|kernel| {
        let mut frames = 0;
        for (name, frame, announcement) in FRAMES {
            for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
                let told = pass(kernel, &tagged(&frame(), tags));
                let told_announcement = told.iter().any(|body| matches!(body, Body::Announcement { .. }));
                assert_eq!(told_announcement, announcement != NONE, "{name}: {told:?}");
                let told_frame = told.contains(&Body::GuestFrame { ifindex: LOOPBACK });
                assert_eq!(told_frame, announcement != RARP && frames == 0, "{name}: {told:?}");
                frames += u64::from(announcement != RARP);
            }
        }
        let port = kernel.guest_port(LOOPBACK).unwrap().unwrap();
        assert_eq!((port.frames, port.announcements, port.awaited), (frames, 12, 0));
        assert!(port.last_frame_ns > 0);
    });
}

#[test]
fn the_next_frame_is_told_again_once_it_is_awaited_and_nothing_is_forgotten() {
    with_tap(|kernel| {
        let (_, frame, _) = FRAMES[4];
        let first = vec![Body::GuestFrame { ifindex: LOOPBACK }];
        assert_eq!(pass(kernel, &frame()), first);
        assert_eq!(pass(kernel, &frame()), []);
        kernel.await_next_frame(LOOPBACK).unwrap();
        assert_eq!(pass(kernel, &frame()), first);
        assert_eq!(kernel.guest_port(LOOPBACK).unwrap().unwrap().frames, 3);
    });
}

#[test]
fn a_flood_of_announcements_is_counted_but_not_told() {
    with_tap(|kernel| {
        let (_, frame, _) = FRAMES[2];
        let told_of = Body::Announcement { ifindex: LOOPBACK, kind: Announcement::GratuitousArp };
        let mut told = 0;
        for _ in 0..ANNOUNCEMENTS_TOLD + 10 {
            told += pass(kernel, &frame()).into_iter().filter(|body| *body == told_of).count() as u64;
        }
        assert_eq!(told, ANNOUNCEMENTS_TOLD);
        let port = kernel.guest_port(LOOPBACK).unwrap().unwrap();
        assert_eq!(port.announcements, ANNOUNCEMENTS_TOLD + 10);
    });
}

#[test]
fn frames_at_other_interfaces_are_nothing() {
    with_tap(|kernel| {
        kernel.detach_tap(LOOPBACK).unwrap();
        for (_, frame, _) in FRAMES {
            assert_eq!(pass(kernel, &frame()), []);
        }
        assert_eq!(kernel.guest_port(LOOPBACK).unwrap(), None);
    });
}

#[test]
fn a_full_table_of_taps_says_so() {
    with_tap(|kernel| {
        // That of the loopback interface has an entry.
        for index in 2..=u32::try_from(GUEST_PORTS_MAX).unwrap() {
            kernel.await_frame(index, GuestPort::default()).unwrap();
        }
        let refused = kernel.await_frame(9_999, GuestPort::default()).unwrap_err();
        assert_eq!(refused.to_string(), "the table of watched taps is full: it has room for 1024");
        kernel.await_next_frame(LOOPBACK).unwrap();
    });
}
