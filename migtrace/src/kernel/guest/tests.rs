//! The program in the kernel, on frames that are built here (`BPF_PROG_TEST_RUN`). Nothing is attached.

#[path = "../../../../migtrace-ebpf/tests/announcements/mod.rs"]
mod announcements;

use std::io::IoSlice;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use announcements::{FRAMES, tagged};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, TracePoint};
use migtrace_ebpf::abi::GUEST_PORTS_MAX;
use migtrace_ebpf::abi::TAPS;
use migtrace_ebpf::abi::announcement::{NONE, RARP};
use migtrace_ebpf::budget::ANNOUNCEMENTS;
use nix::sys::socket::{MsgFlags, sendmsg};

use super::*;
use crate::kernel::{Body, Settings};
use crate::vocabulary::Announcement;

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
    assert!(kernel.watch_port(std::process::id(), LOOPBACK).unwrap());
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
fn the_next_frame_is_told_again_after_whatever_its_process_says_and_nothing_is_forgotten() {
    with_tap(|kernel| {
        let (_, frame, _) = FRAMES[4];
        let told = |kernel: &mut Kernel| {
            let told = pass(kernel, &frame());
            told.into_iter().filter(|body| *body == Body::GuestFrame { ifindex: LOOPBACK }).count()
        };
        assert_eq!(told(kernel), 1);
        assert_eq!(told(kernel), 0);
        attach_to_sendmsg(kernel);
        say(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#);
        assert_eq!(told(kernel), 0, "nobody traces this process");
        kernel.trace(std::process::id()).unwrap();
        say(br#"{"return": {}}"#);
        assert_eq!(told(kernel), 0, "that is no event");
        say(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#);
        // Nobody has read the line yet, nor armed anything.
        assert_eq!(told(kernel), 1);
        assert_eq!(told(kernel), 0);
        assert_eq!(kernel.guest_port(LOOPBACK).unwrap().unwrap().frames, 6);
    });
}

/// Reads what traced processes say with `sendmsg`, by the hook that every kernel has.
fn attach_to_sendmsg(kernel: &mut Kernel) {
    let program = kernel.ebpf.program_mut("sendmsg_tracepoint").unwrap();
    let program: &mut TracePoint = program.try_into().unwrap();
    program.load().unwrap();
    program.attach("syscalls", "sys_enter_sendmsg").unwrap();
}

/// Writes a line as QEMU writes to a monitor.
fn say(line: &[u8]) {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let pieces = [IoSlice::new(line)];
    sendmsg::<()>(ours.as_raw_fd(), &pieces, &[], MsgFlags::empty(), None).unwrap();
}

#[test]
fn every_tap_of_a_process_is_armed_and_those_of_others_are_not() {
    with_tap(|kernel| {
        let (this, other) = (std::process::id(), 1);
        kernel.detach_tap(this, LOOPBACK).unwrap();
        let ports = 101..101 + TAPS as u32;
        for port in ports.clone() {
            assert!(kernel.watch_port(this, port).unwrap());
        }
        assert!(!kernel.watch_port(this, 999).unwrap(), "there is no room for more");
        assert_eq!(kernel.guest_port(999).unwrap(), None);
        kernel.detach_tap(this, 105).unwrap();
        assert!(kernel.watch_port(this, LOOPBACK).unwrap(), "one has made room");
        assert!(kernel.watch_port(other, 500).unwrap());
        assert_eq!(kernel.taps_of(this).unwrap().interfaces[TAPS - 1], LOOPBACK);

        for port in ports.filter(|port| *port != 105).chain([LOOPBACK, 500]) {
            maps::set(&mut kernel.ebpf, PORTS, port, GuestPort::default()).unwrap();
        }
        attach_to_sendmsg(kernel);
        kernel.trace(this).unwrap();
        say(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#);
        for (port, awaited) in [(101, 1), (131, 1), (LOOPBACK, 1), (500, 0)] {
            assert_eq!(kernel.guest_port(port).unwrap().unwrap().awaited, awaited, "{port}");
        }
    });
}

#[test]
fn a_flood_of_announcements_is_counted_but_not_told_and_a_pause_ends_the_silence() {
    with_tap(|kernel| {
        let (_, frame, _) = FRAMES[2];
        let told_of = Body::Announcement { ifindex: LOOPBACK, kind: Announcement::GratuitousArp };
        let pass_many = |kernel: &mut Kernel, count: u64| {
            let told = (0..count).flat_map(|_| pass(kernel, &frame()));
            told.filter(|body| *body == told_of).count() as u64
        };
        let began = Instant::now();
        let told = pass_many(kernel, ANNOUNCEMENTS.at_once + 10);
        // A part of a second brings one back.
        let back = 1 + began.elapsed().as_nanos() as u64 / ANNOUNCEMENTS.token_ns;
        assert!((ANNOUNCEMENTS.at_once..=ANNOUNCEMENTS.at_once + back).contains(&told), "{told}");
        std::thread::sleep(Duration::from_nanos(3 * ANNOUNCEMENTS.token_ns));
        assert!(pass_many(kernel, 10) >= 3);
        let port = kernel.guest_port(LOOPBACK).unwrap().unwrap();
        assert_eq!(port.announcements, ANNOUNCEMENTS.at_once + 20);
    });
}

#[test]
fn frames_at_other_interfaces_are_nothing() {
    with_tap(|kernel| {
        kernel.detach_tap(std::process::id(), LOOPBACK).unwrap();
        for (_, frame, _) in FRAMES {
            assert_eq!(pass(kernel, &frame()), []);
        }
        assert_eq!(kernel.guest_port(LOOPBACK).unwrap(), None);
    });
}

#[test]
fn a_full_table_of_taps_says_so() {
    with_tap(|kernel| {
        // That of the loopback interface has an entry; a process has a few taps.
        for index in 2..=u32::try_from(GUEST_PORTS_MAX).unwrap() {
            assert!(kernel.watch_port(1_000_000 + index, index).unwrap());
        }
        let refused = kernel.watch_port(4_000_000, 9_999).unwrap_err();
        assert_eq!(refused.to_string(), "the table of watched taps is full: it has room for 1024");
        assert!(kernel.watch_port(1_000_002, 2).unwrap(), "it is there");
    });
}
