//! Runs the program in the kernel (`BPF_PROG_TEST_RUN`) on frames that are built here. It is attached to
//! nothing.

use std::io::IoSlice;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, TracePoint};
use migtrace_ebpf::abi::GUEST_PORTS_MAX;
use migtrace_ebpf::abi::TAPS;
use migtrace_ebpf::abi::announcement::{NONE, RARP};
use migtrace_ebpf::budget::ANNOUNCEMENTS;
use migtrace_ebpf::testing::announcements::{FRAMES, tagged};
use nix::sys::socket::{MsgFlags, sendmsg};

use super::*;
use crate::kernel::testing::with_kernel;
use crate::kernel::{Body, Settings};
use crate::vocabulary::Announcement;

/// Test runs happen at the loopback interface of the caller's network namespace.
const LOOPBACK: u32 = 1;

/// Runs `test` with freshly loaded programs that watch the interface of test runs; not without root.
fn with_tap(test: impl FnOnce(&mut Kernel)) {
    with_kernel(&Settings::default(), |kernel| {
        assert!(kernel.watch_port(std::process::id(), LOOPBACK).unwrap());
        test(kernel);
    });
}

/// Passes a frame, which the program must always leave to the next one; returns what the program reported.
fn pass(kernel: &mut Kernel, frame: &[u8]) -> Vec<Body> {
    let program: &SchedClassifier = kernel.ebpf.program("migtrace_guest").unwrap().try_into().unwrap();
    let result =
        program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() }).unwrap();
    assert_eq!(result.return_value.cast_signed(), -1, "not TC_ACT_UNSPEC");
    kernel.pending_messages().into_iter().map(|message| message.body).collect()
}

#[test]
fn each_announcement_is_reported_but_only_the_first_frame_of_the_guest() {
    with_tap(|kernel| {
        let mut frames = 0;
        for (name, frame, announcement) in FRAMES {
            for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
                let reported = pass(kernel, &tagged(&frame(), tags));
                let has_announcement = reported.iter().any(|body| matches!(body, Body::Announcement { .. }));
                assert_eq!(has_announcement, announcement != NONE, "{name}: {reported:?}");
                let has_frame = reported.contains(&Body::GuestFrame { ifindex: LOOPBACK });
                assert_eq!(has_frame, announcement != RARP && frames == 0, "{name}: {reported:?}");
                frames += u64::from(announcement != RARP);
            }
        }
        let port = kernel.guest_port(LOOPBACK).unwrap().unwrap();
        assert_eq!((port.frames, port.announcements, port.awaited), (frames, 12, 0));
        assert!(port.last_frame_ns > 0);
    });
}

#[test]
fn the_next_frame_after_an_event_of_its_process_is_reported_and_counts_go_on() {
    with_tap(|kernel| {
        let (_, frame, _) = FRAMES[4];
        let reports = |kernel: &mut Kernel| {
            let messages = pass(kernel, &frame());
            messages.into_iter().filter(|body| *body == Body::GuestFrame { ifindex: LOOPBACK }).count()
        };
        assert_eq!(reports(kernel), 1);
        assert_eq!(reports(kernel), 0);
        attach_to_sendmsg(kernel);
        write_line(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#);
        assert_eq!(reports(kernel), 0, "this process is not traced");
        kernel.trace(std::process::id()).unwrap();
        write_line(br#"{"return": {}}"#);
        assert_eq!(reports(kernel), 0, "a reply is not an event");
        write_line(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#);
        // User space has not even read the line yet.
        assert_eq!(reports(kernel), 1);
        assert_eq!(reports(kernel), 0);
        assert_eq!(kernel.guest_port(LOOPBACK).unwrap().unwrap().frames, 6);
    });
}

/// Reads what traced processes write with `sendmsg`, at the hook that every kernel has.
fn attach_to_sendmsg(kernel: &mut Kernel) {
    let program = kernel.ebpf.program_mut("sendmsg_tracepoint").unwrap();
    let program: &mut TracePoint = program.try_into().unwrap();
    program.load().unwrap();
    program.attach("syscalls", "sys_enter_sendmsg").unwrap();
}

/// Writes a line as QEMU writes it to a monitor.
fn write_line(line: &[u8]) {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let pieces = [IoSlice::new(line)];
    sendmsg::<()>(ours.as_raw_fd(), &pieces, &[], MsgFlags::empty(), None).unwrap();
}

#[test]
fn an_event_arms_every_tap_of_its_process_and_no_other() {
    with_tap(|kernel| {
        let (this, other) = (std::process::id(), 1);
        kernel.detach_tap(this, LOOPBACK).unwrap();
        let ports = 101..101 + TAPS as u32;
        for port in ports.clone() {
            assert!(kernel.watch_port(this, port).unwrap());
        }
        assert!(!kernel.watch_port(this, 999).unwrap(), "no more taps of this process fit");
        assert_eq!(kernel.guest_port(999).unwrap(), None);
        kernel.detach_tap(this, 105).unwrap();
        assert!(kernel.watch_port(this, LOOPBACK).unwrap(), "a tap that is no longer watched makes room");
        assert!(kernel.watch_port(other, 500).unwrap());
        assert_eq!(kernel.taps_of(this).unwrap().interfaces[TAPS - 1], LOOPBACK);

        for port in ports.filter(|port| *port != 105).chain([LOOPBACK, 500]) {
            maps::set(&mut kernel.ebpf, PORTS, port, GuestPort::default()).unwrap();
        }
        attach_to_sendmsg(kernel);
        kernel.trace(this).unwrap();
        write_line(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#);
        for (port, awaited) in [(101, 1), (131, 1), (LOOPBACK, 1), (500, 0)] {
            assert_eq!(kernel.guest_port(port).unwrap().unwrap().awaited, awaited, "{port}");
        }
    });
}

#[test]
fn a_flood_of_announcements_is_counted_but_not_reported_until_it_pauses() {
    with_tap(|kernel| {
        let (_, frame, _) = FRAMES[2];
        let report = Body::Announcement { ifindex: LOOPBACK, kind: Announcement::GratuitousArp };
        let pass_many = |kernel: &mut Kernel, count: u64| {
            let messages = (0..count).flat_map(|_| pass(kernel, &frame()));
            messages.filter(|body| *body == report).count() as u64
        };
        let began = Instant::now();
        let reported = pass_many(kernel, ANNOUNCEMENTS.at_once + 10);
        // The time that the flood takes allows some more.
        let more = 1 + began.elapsed().as_nanos() as u64 / ANNOUNCEMENTS.token_ns;
        assert!((ANNOUNCEMENTS.at_once..=ANNOUNCEMENTS.at_once + more).contains(&reported), "{reported}");
        std::thread::sleep(Duration::from_nanos(3 * ANNOUNCEMENTS.token_ns));
        assert!(pass_many(kernel, 10) >= 3);
        let port = kernel.guest_port(LOOPBACK).unwrap().unwrap();
        assert_eq!(port.announcements, ANNOUNCEMENTS.at_once + 20);
    });
}

#[test]
fn frames_at_an_unwatched_interface_are_ignored() {
    with_tap(|kernel| {
        kernel.detach_tap(std::process::id(), LOOPBACK).unwrap();
        for (_, frame, _) in FRAMES {
            assert_eq!(pass(kernel, &frame()), []);
        }
        assert_eq!(kernel.guest_port(LOOPBACK).unwrap(), None);
    });
}

#[test]
fn a_full_table_of_taps_is_an_error_that_says_so() {
    with_tap(|kernel| {
        // The loopback interface has one entry already. Each tap is another process', because a process may
        // have only a few.
        for index in 2..=u32::try_from(GUEST_PORTS_MAX).unwrap() {
            assert!(kernel.watch_port(1_000_000 + index, index).unwrap());
        }
        let refused = kernel.watch_port(4_000_000, 9_999).unwrap_err();
        assert_eq!(refused.to_string(), "the table of watched taps is full: it has room for 1024");
        assert!(kernel.watch_port(1_000_002, 2).unwrap(), "it is watched already");
    });
}
