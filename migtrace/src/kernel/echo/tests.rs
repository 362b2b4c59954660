//! Runs the programs in the kernel (`BPF_PROG_TEST_RUN`) on packets that are built here. They are attached to
//! nothing.

use std::net::IpAddr;
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use migtrace_ebpf::testing::frames::{
    BuiltPacket, DESTINATION, DESTINATION_6, Header, SOURCE, SOURCE_6, tcp,
};

use super::*;
use crate::host::testing::block_on;
use crate::kernel::testing::may_load;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Longer than a busy machine lets a test wait for its CPU.
const MIN_GAP_NS: u64 = 200_000_000;

/// Runs `test` with freshly loaded programs; not without root.
fn with_programs(sessions: u32, test: impl FnOnce(&mut EchoKernel)) {
    if may_load() {
        block_on(async { test(&mut EchoKernel::load(sessions, MIN_GAP_NS).unwrap()) });
    }
}

/// Passes a packet to one of the programs, which must always leave it to the next one.
fn pass(kernel: &EchoKernel, direction: &str, packet: &BuiltPacket) {
    let program = kernel.ebpf.program(&format!("migtrace_echo_{direction}")).unwrap();
    let program: &SchedClassifier = program.try_into().unwrap();
    let bytes = packet.bytes();
    let options = TestRunOptions { data_in: Some(&bytes), ..TestRunOptions::default() };
    let result = program.test_run(options).unwrap();
    assert_eq!(result.return_value.cast_signed(), -1, "not TC_ACT_UNSPEC");
}

fn message(kind: u8, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.resize(64, 0);
    message
}

/// The IP header from the sender to the target, or back.
fn ip(is_ipv6: bool, is_reply: bool, option_words: u8) -> Header {
    match (is_ipv6, is_reply) {
        (false, false) => {
            Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words, fragment: 0 }
        }
        (false, true) => Header::Ipv4 { source: DESTINATION, destination: SOURCE, option_words, fragment: 0 },
        (true, false) => Header::Ipv6 { source: SOURCE_6, destination: DESTINATION_6 },
        (true, true) => Header::Ipv6 { source: DESTINATION_6, destination: SOURCE_6 },
    }
}

/// A request or a reply, with `extensions` between the IP header and the message.
fn echo(
    tags: &[Header],
    ip: Header,
    extensions: &[Header],
    is_reply: bool,
    message_of: (u16, u16),
) -> BuiltPacket {
    let (icmp, kind) = match (&ip, is_reply) {
        (Header::Ipv4 { .. }, false) => (ICMP, 8),
        (Header::Ipv4 { .. }, true) => (ICMP, 0),
        (_, false) => (ICMPV6, 128),
        (_, true) => (ICMPV6, 129),
    };
    let headers = [&[Header::Ethernet], tags, &[ip], extensions, &[Header::RestOf(icmp)]].concat();
    BuiltPacket::new(headers, message(kind, message_of.0, message_of.1))
}

fn plain(is_reply: bool, identifier: u16, sequence: u16) -> BuiltPacket {
    echo(&[], ip(false, is_reply, 0), &[], is_reply, (identifier, sequence))
}

fn target() -> IpAddr {
    IpAddr::from(DESTINATION)
}

fn only_session(kernel: &EchoKernel) -> Session {
    let sessions = kernel.sessions().unwrap();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    sessions[0]
}

#[test]
fn every_shape_of_request_and_reply_is_followed_in_the_kernel() {
    let tag = Header::Tag(0x8100);
    let long =
        [Header::HopByHop { more: 1 }, Header::Routing { more: 2 }, Header::DestinationOptions { more: 0 }];
    let shapes: [(&[Header], bool, u8, &[Header]); 8] = [
        (&[], false, 0, &[]),
        (&[], false, 10, &[]),
        (&[tag], false, 0, &[]),
        (&[Header::Tag(0x88a8), tag], false, 3, &[]),
        (&[], true, 0, &[]),
        (&[tag], true, 0, &[]),
        (&[], true, 0, &long),
        (&[], true, 0, &[Header::Fragment { field: 1 }]),
    ];
    for (tags, is_ipv6, option_words, extensions) in shapes {
        with_programs(1, |kernel| {
            let (target, peer): (IpAddr, IpAddr) = if is_ipv6 {
                (DESTINATION_6.into(), SOURCE_6.into())
            } else {
                (DESTINATION.into(), SOURCE.into())
            };
            kernel.follow(target, None, None).unwrap();
            for (direction, is_reply) in [("egress", false), ("ingress", true)] {
                let ip = ip(is_ipv6, is_reply, option_words);
                pass(kernel, direction, &echo(tags, ip, extensions, is_reply, (7, 1)));
            }
            let session = only_session(kernel);
            assert_eq!((session.target, session.peer, session.identifier), (target, peer, 7));
            assert_eq!((session.state.sent, session.state.answered), (1, 1), "{tags:?} {extensions:?}");
            assert_eq!(kernel.round_trips(0).unwrap().iter().sum::<u64>(), 1);
        });
    }
}

#[test]
fn only_the_requests_that_were_asked_for_are_followed() {
    with_programs(2, |kernel| {
        kernel.follow(target(), Some(7), None).unwrap();
        pass(kernel, "egress", &plain(false, 8, 1));
        pass(kernel, "egress", &BuiltPacket::new([Header::Ethernet, ip(false, false, 0), tcp(1, 2)], [0; 8]));
        // The other way round: the target sends the request.
        pass(kernel, "ingress", &echo(&[], ip(false, true, 0), &[], false, (7, 1)));
        // A reply without a request.
        pass(kernel, "ingress", &plain(true, 7, 1));
        assert_eq!(kernel.sessions().unwrap().len(), 0);
        pass(kernel, "egress", &plain(false, 7, 1));
        assert_eq!(only_session(kernel).state.sent, 1);
        kernel.follow(target(), None, None).unwrap();
        pass(kernel, "egress", &plain(false, 8, 1));
        assert_eq!(kernel.sessions().unwrap().len(), 2);
        pass(kernel, "egress", &plain(false, 9, 1));
        assert_eq!(kernel.sessions().unwrap().len(), 2, "there are only two slots");
        assert_eq!(kernel.lost().unwrap(), (1, 0));
    });
}

#[test]
fn requests_of_another_socket_than_the_followed_one_are_ignored() {
    with_programs(1, |kernel| {
        // Test runs have sockets of their own, with cookies that count from 1.
        kernel.follow(target(), Some(7), Some(u64::MAX)).unwrap();
        pass(kernel, "egress", &plain(false, 7, 1));
        assert_eq!(kernel.sessions().unwrap().len(), 0);
        assert_eq!(kernel.lost().unwrap(), (0, 0));
    });
}

#[test]
fn a_freed_slot_belongs_to_the_next_session_from_its_first_request_on() {
    with_programs(1, |kernel| {
        kernel.follow(target(), None, None).unwrap();
        for sequence in 0..5 {
            pass(kernel, "egress", &plain(false, 7, sequence));
        }
        for sequence in 0..3 {
            pass(kernel, "ingress", &plain(true, 7, sequence));
        }
        let first = only_session(kernel);
        kernel.retire(&first).unwrap();
        pass(kernel, "ingress", &plain(true, 7, 3));
        pass(kernel, "egress", &plain(false, 8, 0));
        let retired = only_session(kernel);
        assert_eq!(retired.state, first.state, "a retired session no longer counts");
        assert_eq!(kernel.lost().unwrap(), (1, 0), "and its slot is not free yet");
        assert_eq!(kernel.round_trips(0).unwrap().iter().sum::<u64>(), 3);

        kernel.free(first.slot).unwrap();
        assert_eq!(kernel.sessions().unwrap().len(), 0);
        pass(kernel, "egress", &plain(false, 8, 0));
        // The session before has sent these requests.
        pass(kernel, "ingress", &plain(true, 8, 3));
        pass(kernel, "ingress", &plain(true, 8, 4));
        pass(kernel, "ingress", &plain(true, 8, 0));
        let second = only_session(kernel);
        assert_eq!((second.slot, second.identifier), (0, 8));
        assert!(second.id() > first.id());
        let state = second.state;
        assert_eq!((state.sent, state.answered, state.unasked, state.duplicate), (1, 1, 2, 0));
        assert_eq!(kernel.round_trips(0).unwrap().iter().sum::<u64>(), 1);
    });
}

#[test]
fn a_sender_whose_session_was_retired_gets_a_new_one() {
    with_programs(2, |kernel| {
        kernel.follow(target(), None, None).unwrap();
        pass(kernel, "egress", &plain(false, 7, 1));
        let first = only_session(kernel);
        kernel.retire(&first).unwrap();
        pass(kernel, "egress", &plain(false, 7, 2));
        pass(kernel, "ingress", &plain(true, 7, 2));
        let sessions = kernel.sessions().unwrap();
        let [old, new] = &sessions[..] else { panic!("{sessions:?}") };
        assert_eq!((old.state.sent, old.state.answered), (1, 0));
        assert_eq!((new.slot, new.state.sent, new.state.answered), (1, 1, 1));
        kernel.free(old.slot).unwrap();
        pass(kernel, "egress", &plain(false, 7, 3));
        let session = only_session(kernel);
        assert_eq!((session.slot, session.state.sent), (1, 2), "it keeps its own slot");
    });
}

#[test]
fn a_flood_of_sessions_does_not_use_up_the_slots() {
    with_programs(4, |kernel| {
        kernel.follow(target(), None, None).unwrap();
        for round in 0..3 {
            for identifier in 0..8 {
                pass(kernel, "egress", &plain(false, 100 * round + identifier, 1));
            }
            let sessions = kernel.sessions().unwrap();
            assert_eq!(sessions.len(), 4);
            sessions.iter().for_each(|session| kernel.retire(session).unwrap());
            sessions.iter().for_each(|session| kernel.free(session.slot).unwrap());
            pass(kernel, "egress", &plain(false, 7, 1));
            pass(kernel, "ingress", &plain(true, 7, 1));
            let session = only_session(kernel);
            assert_eq!((session.identifier, session.state.sent, session.state.answered), (7, 1, 1));
            kernel.retire(&session).unwrap();
            kernel.free(session.slot).unwrap();
        }
    });
}

#[test]
fn duplicates_and_unasked_replies_are_counted_also_where_sequence_numbers_wrap_around() {
    with_programs(1, |kernel| {
        kernel.follow(target(), None, None).unwrap();
        for sequence in [65_534, 65_535, 0, 1] {
            pass(kernel, "egress", &plain(false, 7, sequence));
            pass(kernel, "ingress", &plain(true, 7, sequence));
        }
        pass(kernel, "ingress", &plain(true, 7, 0));
        pass(kernel, "ingress", &plain(true, 7, 900));
        pass(kernel, "egress", &plain(false, 7, 2));
        let state = only_session(kernel).state;
        assert_eq!((state.sent, state.answered, state.duplicate, state.unasked), (5, 4, 1, 1));
        assert_eq!(state.first_waiting_ns, state.last_request_ns);
        assert_eq!(state.answered_count, 4);
    });
}

#[test]
fn a_gap_is_reported_once_when_the_round_trips_after_it_are_known() {
    with_programs(1, |kernel| {
        kernel.follow(target(), None, None).unwrap();
        let mut sequence = 0;
        let mut answered = |kernel: &EchoKernel, number: u16| {
            for _ in 0..number {
                pass(kernel, "egress", &plain(false, 7, sequence));
                pass(kernel, "ingress", &plain(true, 7, sequence));
                sequence += 1;
            }
            sequence
        };
        let lost = answered(kernel, 20);
        for offset in 0..10 {
            pass(kernel, "egress", &plain(false, 7, lost + offset));
            std::thread::sleep(Duration::from_millis(50));
        }
        sequence = lost + 10;
        let mut answered = |number: u16| {
            for _ in 0..number {
                pass(kernel, "egress", &plain(false, 7, sequence));
                pass(kernel, "ingress", &plain(true, 7, sequence));
                sequence += 1;
            }
        };
        answered(8);
        let state = only_session(kernel).state;
        assert_eq!(
            (state.gaps, state.gap.is_unsettled()),
            (1, true),
            "the first reply ends the gap, seven follow"
        );
        answered(1);
        answered(20);
        let state = only_session(kernel).state;
        let gaps = kernel.pending_gaps();
        let [settled] = &gaps[..] else { panic!("{gaps:?}") };
        assert_eq!((settled.session, settled.number), (only_session(kernel).id(), 1));
        assert_eq!(settled.gap, state.gap.into(), "the report holds what was counted");
        assert_eq!((settled.gap.requests, settled.gap.prompt + settled.gap.waited), (11, 1));
        assert!(settled.gap.resumed_ns.since(settled.gap.answered_request_ns) >= 500_000_000);
        assert_eq!(state.gap.round_trips_after, 8);
    });
}

#[test]
fn requests_that_are_overtaken_and_never_answered_may_be_a_gap() {
    with_programs(1, |kernel| {
        kernel.follow(target(), None, None).unwrap();
        let ask = |kernel: &EchoKernel, sequence| pass(kernel, "egress", &plain(false, 7, sequence));
        let answer = |kernel: &EchoKernel, sequence| pass(kernel, "ingress", &plain(true, 7, sequence));
        let wait = || std::thread::sleep(Duration::from_millis(250));
        // Round trips take longer than the smallest gap.
        ask(kernel, 0);
        wait();
        answer(kernel, 0);
        // Two are lost.
        ask(kernel, 1);
        wait();
        ask(kernel, 2);
        ask(kernel, 3);
        answer(kernel, 3);
        let unsettled: Vec<_> = only_session(kernel).state.unsettled(MIN_GAP_NS).collect();
        wait();
        wait();
        ask(kernel, 4);
        answer(kernel, 4);
        let state = only_session(kernel).state;
        let gaps = kernel.pending_gaps();
        let [settled] = &gaps[..] else { panic!("{gaps:#?}") };
        assert_eq!((settled.session, settled.number), (only_session(kernel).id(), 1));
        assert_eq!((state.reported, state.gaps), (1, 0));
        let gap = settled.gap;
        assert!(gap.may_be);
        assert_eq!((gap.requests, gap.prompt, gap.waited), (3, 1, 0));
        assert!(gap.resumed_ns.since(gap.answered_request_ns) >= 500_000_000);
        assert_eq!(unsettled.len(), 1, "it is known before it is reported");
        assert_eq!(unsettled[0].resumed_ns, gap.resumed_ns.0);

        // One is overtaken, and answered in time.
        ask(kernel, 5);
        ask(kernel, 6);
        answer(kernel, 6);
        answer(kernel, 5);
        wait();
        wait();
        ask(kernel, 7);
        answer(kernel, 7);
        assert_eq!(kernel.pending_gaps(), []);
    });
}
