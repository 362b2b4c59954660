//! The counting programs in the kernel, on packets that are built here (`BPF_PROG_TEST_RUN`). Nothing is attached.

mod opening;

use std::net::Ipv4Addr;
use std::process::Command;

use super::frames::{DESTINATION, DESTINATION_6, Header, Packet, SOURCE, SOURCE_6, TCP, Truth, UDP};
use super::frames::{ipv4, ipv6, outer_ipv4, outer_ipv6, tcp};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use migtrace_ebpf::abi::EGRESS as OUT;
use migtrace_ebpf::abi::INGRESS as IN;

use super::flows::purpose;
use super::messages::Body;
use super::{FlowState, Kernel, Settings, tc};
use crate::ports::PortRanges;
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::{Lost, Purpose};

/// Interfaces of the namespace that each test gets: loopback and two more.
const INTERFACE: u32 = 1;
const ANOTHER: u32 = 2;

/// The first and the last port of the default range.
const FIRST: u16 = 49152;
const LAST: u16 = 49215;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Offsets in a frame of the commonest shape.
const IP_VERSION: usize = 14;
const IP_PROTOCOL: usize = 14 + 9;
const IP_END: usize = 14 + 20;
const TCP_LENGTH: usize = IP_END + 12;
const TCP_FLAGS: usize = IP_END + 13;

/// The programs, loaded and attached to nothing.
struct Bench(Kernel);

/// Runs `test` with freshly loaded programs in a network namespace of its own; says so and does nothing without root.
fn with_kernel(settings: &Settings, test: impl FnOnce(&mut Bench) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: loading eBPF programs needs root");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            let ip =
                Command::new("ip").args(["link", "add", "type", "veth"]).output().expect("iproute2's ip");
            assert!(ip.status.success(), "{}", String::from_utf8_lossy(&ip.stderr));
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _inside = runtime.enter();
            test(&mut Bench(Kernel::load_detached(settings).expect("programs that the kernel accepts")));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// As [`with_kernel`], with default settings.
fn with_default_kernel(test: impl FnOnce(&mut Bench) + Send) {
    with_kernel(&Settings::default(), test);
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) with the fields that a test run takes.
fn context(ifindex: u32, gso_size: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    context
}

impl Bench {
    fn program(&self, direction: u8) -> &SchedClassifier {
        let name = if direction == OUT { tc::EGRESS } else { tc::INGRESS };
        tc::program(&self.0.ebpf, name).expect("the program")
    }

    /// Passes bytes to a program, which must always let the next one decide. `false`: the kernel makes no packet of
    /// them, as some do when an IP header is cut off.
    #[track_caller]
    fn try_run(&self, direction: u8, bytes: &[u8], ifindex: u32, gso_size: u32) -> bool {
        let context = context(ifindex, gso_size);
        let options =
            TestRunOptions { data_in: Some(bytes), ctx_in: Some(&context), ..TestRunOptions::default() };
        match self.program(direction).test_run(options) {
            Ok(result) => {
                assert_eq!(result.return_value.cast_signed(), -1, "not TC_ACT_UNSPEC");
                true
            }
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                false
            }
            Err(error) => panic!("no test run: {error}"),
        }
    }

    #[track_caller]
    fn run(&self, direction: u8, bytes: &[u8], ifindex: u32, gso_size: u32) {
        assert!(self.try_run(direction, bytes, ifindex, gso_size), "the kernel refuses these bytes");
    }

    #[track_caller]
    fn pass_at(&self, direction: u8, packet: &Packet, ifindex: u32) {
        self.run(direction, &packet.bytes(), ifindex, packet.metadata().gso_size);
    }

    #[track_caller]
    fn pass(&self, direction: u8, packet: &Packet) {
        self.pass_at(direction, packet, INTERFACE);
    }

    /// Counts a connection from now on that is open already.
    #[track_caller]
    fn adopt(&self, flow: Flow) {
        assert!(self.0.adopt(flow).expect("a program that takes commands"), "no room for {flow}");
    }

    /// What was counted of every flow that has moved.
    fn flows(&self) -> Vec<FlowState> {
        let mut flows = self.0.flows().expect("the flow table");
        flows.retain(|flow| flow.first.is_some());
        flows
    }

    #[track_caller]
    fn only_flow(&self) -> FlowState {
        let [flow] = &self.flows()[..] else { panic!("not one flow: {:?}", self.flows()) };
        flow.clone()
    }

    fn fragments(&self) -> Option<FlowState> {
        self.flows().into_iter().find(FlowState::is_fragments)
    }

    fn connection(&self) -> Option<FlowState> {
        self.flows().into_iter().find(|flow| !flow.is_fragments())
    }

    fn lost(&self) -> Lost {
        self.0.lost().expect("the loss counters")
    }

    fn strays(&self) -> u64 {
        self.0.strays().expect("the counter")
    }

    /// The ring buffer's messages since the last call.
    fn said(&mut self) -> Vec<Body> {
        self.0.pending_messages().into_iter().map(|message| message.body).collect()
    }
}

fn counters(packets: &[&Packet]) -> Counters {
    let mut sum = Counters::default();
    for packet in packets {
        let Truth { wire_bytes, payload_bytes, segments } = packet.truth();
        sum += Counters { wire_bytes, payload_bytes, segments, skbs: 1 };
    }
    sum
}

/// A connection of the default addresses, seen from the side that sends.
fn flow(local_port: u16, remote_port: u16) -> Flow {
    Flow { local: (SOURCE, local_port).into(), remote: (DESTINATION, remote_port).into() }
}

/// As [`flow`], seen from the side that receives.
fn flow_in(local_port: u16, remote_port: u16) -> Flow {
    Flow { local: (DESTINATION, local_port).into(), remote: (SOURCE, remote_port).into() }
}

/// The connections that the shapes of headers belong to, as they go out and as they come in.
fn all_ends() -> [Flow; 4] {
    let (source, destination) = ((SOURCE_6, 40000).into(), (DESTINATION_6, FIRST).into());
    [
        flow(40000, FIRST),
        flow_in(FIRST, 40000),
        Flow { local: source, remote: destination },
        Flow { local: destination, remote: source },
    ]
}

/// A packet of the commonest shape.
fn plain(source_port: u16, destination_port: u16) -> Packet {
    Packet::new([Header::Ethernet, ipv4(), tcp(source_port, destination_port)], [0x5a; 500])
}

/// A packet over IPv4 with its addresses exchanged.
fn reversed(packet: Packet) -> Packet {
    let back = Header::Ipv4 { source: DESTINATION, destination: SOURCE, option_words: 0, fragment: 0 };
    let is_ipv4 = |header: &Header| matches!(header, Header::Ipv4 { .. });
    let headers = packet.headers.iter().map(|header| if is_ipv4(header) { back } else { *header });
    Packet { headers: headers.collect(), ..packet }
}

fn ipv4_with(option_words: u8, fragment: u16) -> Header {
    Header::Ipv4 { source: SOURCE, destination: DESTINATION, option_words, fragment }
}

/// Every shape of headers, with its name.
fn shapes() -> Vec<(&'static str, Vec<Header>)> {
    let ports = tcp(40000, FIRST);
    let bare = Header::Tcp { source_port: 40000, destination_port: FIRST, flags: ACK, option_words: 0 };
    let full = Header::Tcp { source_port: 40000, destination_port: FIRST, flags: ACK, option_words: 10 };
    let link = Header::Ethernet;
    let extensions = [
        Header::HopByHop { more: 1 },
        Header::Routing { more: 2 },
        Header::Fragment { field: 1 },
        Header::Authentication { check_words: 3 },
        Header::DestinationOptions { more: 0 },
        Header::DestinationOptions { more: 1 },
    ];
    vec![
        ("IPv4", vec![link, ipv4(), ports]),
        ("IPv4, TCP without options", vec![link, ipv4(), bare]),
        ("IPv4, TCP with all options", vec![link, ipv4(), full]),
        ("IPv4 with one word of options", vec![link, ipv4_with(1, 0), ports]),
        ("IPv4 with all options, TCP too", vec![link, ipv4_with(10, 0x4000), full]),
        ("IPv6", vec![link, ipv6(), ports]),
        ("IPv6 with one extension header", vec![link, ipv6(), extensions[3], ports]),
        ("IPv6 with six extension headers", [&[link, ipv6()], &extensions[..], &[full]].concat()),
        ("IPv6, BIG TCP's jumbo header", vec![link, ipv6(), Header::Jumbo, ports]),
        ("a VLAN tag among the bytes", vec![link, Header::Tag(0x8100), ipv4(), ports]),
        ("QinQ", vec![link, Header::Tag(0x88a8), Header::Tag(0x8100), ipv4_with(3, 0), full]),
        (
            "QinQ, IPv6",
            [&[link, Header::Tag(0x88a8), Header::Tag(0x8100), ipv6()], &extensions[..2], &[ports]].concat(),
        ),
    ]
}

/// The shapes inside tunnels.
fn tunnelled() -> Vec<(&'static str, Vec<Header>)> {
    let vxlan = [Header::Udp { port: 4789 }, Header::Vxlan];
    let linux_vxlan = [Header::Udp { port: 8472 }, Header::Vxlan];
    let geneve = [Header::Udp { port: 6081 }, Header::Geneve { option_words: 0 }];
    let geneve_options = [Header::Udp { port: 6081 }, Header::Geneve { option_words: 63 }];
    let inside = [Header::Ethernet, ipv4(), tcp(40000, FIRST)];
    let inside_tagged =
        [Header::Ethernet, Header::Tag(0x8100), ipv6(), Header::HopByHop { more: 0 }, tcp(40000, FIRST)];
    let link = Header::Ethernet;
    let tag = Header::Tag(0x8100);
    vec![
        ("VXLAN", [&[link, outer_ipv4()], &vxlan[..], &inside].concat()),
        ("VXLAN over IPv6", [&[link, outer_ipv6()], &linux_vxlan[..], &inside].concat()),
        (
            "VXLAN in a VLAN, tagged IPv6 inside",
            [&[link, tag, outer_ipv4()], &vxlan[..], &inside_tagged].concat(),
        ),
        ("Geneve", [&[link, outer_ipv4()], &geneve[..], &inside].concat()),
        ("Geneve with all options", [&[link, outer_ipv6()], &geneve_options[..], &inside_tagged].concat()),
    ]
}

fn both_tunnels() -> Settings {
    Settings { vxlan: true, geneve: true, ..Settings::default() }
}

#[test]
fn every_shape_of_headers_is_counted_as_it_is_cut_in_both_directions() {
    with_kernel(&both_tunnels(), |bench| {
        all_ends().into_iter().for_each(|flow| bench.adopt(flow));
        for (name, headers) in [shapes(), tunnelled()].concat() {
            let mut passed = Vec::new();
            for (payload, segment_size) in
                [(0, None), (6, None), (700, None), (1448, Some(1448)), (2500, Some(290)), (2500, Some(1))]
            {
                let packet = Packet::new(headers.clone(), vec![0x5a; payload]);
                passed.push(Packet { segment_size, ..packet });
            }
            let before = bench.flows();
            for packet in &passed {
                bench.pass(OUT, packet);
                bench.pass(IN, packet);
            }
            let expected = counters(&passed.iter().collect::<Vec<_>>());
            let is_ip = |header: &&Header| matches!(header, Header::Ipv4 { .. } | Header::Ipv6 { .. });
            let innermost = headers.iter().rev().find(is_ip);
            let (source, destination) = if matches!(innermost, Some(Header::Ipv6 { .. })) {
                ((SOURCE_6, 40000).into(), (DESTINATION_6, FIRST).into())
            } else {
                ((SOURCE, 40000).into(), (DESTINATION, FIRST).into())
            };
            // What comes in with these addresses is another flow than what goes out: its local end is the destination.
            let after = bench.flows();
            let grown = |flow: Flow, counters_of: fn(&FlowState) -> Counters| {
                let of = |flows: &[FlowState]| flows.iter().find(|state| state.flow == flow).map(counters_of);
                of(&after).unwrap_or_default().since(&of(&before).unwrap_or_default())
            };
            let sent = grown(Flow { local: source, remote: destination }, |state| state.counters.tx);
            let received = grown(Flow { local: destination, remote: source }, |state| state.counters.rx);
            assert_eq!(sent, expected, "{name}, sent");
            assert_eq!(received, expected, "{name}, received");
            assert_eq!(after.iter().filter(|state| state.is_fragments()).count(), 0, "{name}");
        }
        assert_eq!(bench.lost(), Lost::default());
    });
}

#[test]
fn padding_of_a_short_frame_is_on_the_wire_but_no_payload() {
    with_default_kernel(|bench| {
        bench.adopt(flow_in(FIRST, 40000));
        let bare = Header::Tcp { source_port: 40000, destination_port: FIRST, flags: ACK, option_words: 0 };
        let packet = Packet::new([Header::Ethernet, ipv4(), bare], []).padded(6);
        bench.pass(IN, &packet);
        let counted = bench.only_flow().counters.rx;
        assert_eq!(counted, counters(&[&packet]));
        assert_eq!((counted.wire_bytes, counted.payload_bytes), (60, 0));
    });
}

#[test]
fn further_packets_add_to_their_own_direction_of_the_flow() {
    with_default_kernel(|bench| {
        bench.adopt(flow(40000, FIRST));
        let (there, back) = (plain(40000, FIRST), reversed(plain(FIRST, 40000)));
        let large = Packet { payload: vec![0; 2896], ..plain(40000, FIRST) }.cut_at(1448);
        for packet in [&there, &large, &there] {
            bench.pass(OUT, packet);
        }
        bench.pass(IN, &back);
        let state = bench.only_flow();
        assert_eq!(state.flow, flow(40000, FIRST));
        assert_eq!(state.counters.tx, counters(&[&there, &large, &there]));
        assert_eq!(state.counters.rx, counters(&[&back]));
        let first = state.first.expect("packets");
        assert_eq!(first.ifindex, INTERFACE);
        assert!(first.at_ns < state.last_ns);
    });
}

#[test]
fn a_port_of_the_range_is_watched_at_either_end_and_its_neighbours_are_not() {
    with_default_kernel(|bench| {
        let pairs = |port| [(40000, port), (port, 40000)];
        for (local, remote) in [FIRST - 1, LAST + 1, 22, 0, 65535].into_iter().flat_map(pairs) {
            bench.adopt(flow(local, remote));
            bench.pass(OUT, &plain(local, remote));
        }
        assert_eq!(bench.flows(), []);
        assert_eq!(bench.said(), []);
        for (local, remote) in [FIRST, LAST].into_iter().flat_map(pairs) {
            bench.adopt(flow(local, remote));
            bench.pass(OUT, &plain(local, remote));
            assert!(bench.flows().iter().any(|state| state.flow == flow(local, remote)));
        }
        assert_eq!(bench.flows().len(), 4);
    });
}

#[test]
fn all_eight_ranges_are_watched() {
    let ports: PortRanges = "1,3,5,7-8,10,12,14,65535".parse().expect("eight ranges");
    let settings = Settings { ports: ports.clone(), ..Settings::default() };
    with_kernel(&settings, |bench| {
        for port in (0..=16).chain([65534, 65535]) {
            let before = bench.flows().len();
            bench.adopt(flow(40000, port));
            bench.pass(OUT, &plain(40000, port));
            assert_eq!(bench.flows().len() > before, ports.contains(port), "port {port}");
        }
    });
}

#[test]
fn user_space_is_told_of_a_flows_first_payload_once_in_each_direction() {
    with_default_kernel(|bench| {
        let sent = flow(40000, FIRST);
        bench.adopt(sent);
        let flow = bench.0.flows().expect("the flow table").iter().map(FlowState::opened).next_back();
        let flow = flow.expect("the flow, behind its bucket");
        assert_eq!(flow.flow, sent);
        let mut first = plain(40000, FIRST);
        first.payload = b"QEVM\0\0\0\x03".to_vec();
        bench.pass(OUT, &first);
        first.payload = b"other".to_vec();
        bench.pass(OUT, &first);
        let first_bytes = u32::from_be_bytes(*b"QEVM");
        assert_eq!(bench.said(), [Body::FlowPayload { flow, first_bytes }]);
        assert_eq!(purpose(first_bytes), Some(Purpose::Ram));

        let mut greeting = reversed(plain(FIRST, 40000));
        greeting.payload = b"NBDMAGIC".to_vec();
        bench.pass(IN, &greeting);
        bench.pass(IN, &greeting);
        let first_bytes = u32::from_be_bytes(*b"NBDM");
        assert_eq!(bench.said(), [Body::FlowPayload { flow, first_bytes }]);
    });
}

#[test]
fn the_first_payload_is_read_behind_every_shape_of_headers() {
    with_kernel(&both_tunnels(), |bench| {
        for (index, (name, mut headers)) in [shapes(), tunnelled()].concat().into_iter().enumerate() {
            // A flow of its own.
            let port = 1000 + index as u16;
            if let Some(Header::Tcp { source_port, .. }) = headers.last_mut() {
                *source_port = port;
            }
            for ends in all_ends() {
                bench.adopt(Flow { local: (ends.local.ip(), port).into(), ..ends });
            }
            bench.pass(OUT, &Packet::new(headers, *b"\x11\x22\x33\x44\0\0\0\x01"));
            let said = bench.said();
            assert!(
                matches!(said[..], [Body::FlowPayload { first_bytes: 0x1122_3344, .. }]),
                "{name}: {said:?}"
            );
        }
    });
}

#[test]
fn fragments_are_billed_to_their_pair_of_addresses_once_a_watched_flow_has_opened_it() {
    with_default_kernel(|bench| {
        let rest = |protocol| {
            Packet::new([Header::Ethernet, ipv4_with(0, 100), Header::RestOf(protocol)], [0x5a; 300])
        };
        bench.pass(OUT, &rest(TCP));
        assert_eq!(bench.flows(), []);

        bench.adopt(flow(40000, FIRST));
        // The first fragment carries the ports.
        let first = Packet::new([Header::Ethernet, ipv4_with(0, 0x2000), tcp(40000, FIRST)], [0x5a; 800]);
        bench.pass(OUT, &first);
        bench.pass(OUT, &rest(TCP));
        bench.pass(OUT, &rest(TCP));
        bench.pass(OUT, &rest(UDP));
        bench.pass(IN, &rest(TCP));
        let connection = bench.connection().expect("the flow");
        assert_eq!(connection.counters.tx, counters(&[&first]));
        let fragments = bench.fragments().expect("the bucket");
        assert_eq!(fragments.flow, flow(0, 0));
        assert_eq!(fragments.counters.tx, counters(&[&rest(TCP), &rest(TCP)]));
        assert_eq!(fragments.counters.rx, Counters::default());

        let rest_6 = [Header::Ethernet, ipv6(), Header::Fragment { field: 800 }, Header::RestOf(TCP)];
        let rest_6 = Packet::new(rest_6, [0x5a; 300]);
        bench.pass(OUT, &rest_6);
        assert_eq!(bench.flows().len(), 2, "nobody has opened that bucket");
        bench.adopt(all_ends()[2]);
        let first_6 = Packet::new(
            [Header::Ethernet, ipv6(), Header::Fragment { field: 1 }, tcp(40000, FIRST)],
            [0x5a; 800],
        );
        bench.pass(OUT, &first_6);
        bench.pass(OUT, &rest_6);
        let flows = bench.flows();
        let bucket = flows.iter().find(|state| state.is_fragments() && state.flow.local.is_ipv6());
        assert_eq!(bucket.expect("the bucket").counters.tx, counters(&[&rest_6]));
    });
}

#[test]
fn a_fragment_at_another_interface_is_not_counted_twice() {
    with_default_kernel(|bench| {
        bench.adopt(flow(40000, FIRST));
        let rest = Packet::new([Header::Ethernet, ipv4_with(0, 100), Header::RestOf(TCP)], [0x5a; 300]);
        bench.pass(OUT, &plain(40000, FIRST));
        bench.pass(OUT, &rest);
        bench.pass_at(OUT, &rest, ANOTHER);
        let fragments = bench.fragments().expect("the bucket");
        assert_eq!(fragments.counters.tx, counters(&[&rest]));
        assert_eq!(fragments.elsewhere_skbs, 1);
    });
}

#[test]
fn tunnels_are_looked_into_only_when_asked_for() {
    for (vxlan, geneve) in [(false, false), (true, false), (false, true)] {
        with_kernel(&Settings { vxlan, geneve, ..Settings::default() }, |bench| {
            all_ends().into_iter().for_each(|flow| bench.adopt(flow));
            for (name, headers) in tunnelled() {
                let before = bench.flows();
                bench.pass(OUT, &Packet::new(headers.clone(), [0x5a; 100]));
                let asked_for = if name.starts_with("VXLAN") { vxlan } else { geneve };
                assert_eq!(bench.flows() != before, asked_for, "{name}, VXLAN {vxlan}, Geneve {geneve}");
            }
        });
    }
}

#[test]
fn a_full_ring_buffer_loses_messages_that_are_counted_and_nothing_else() {
    // The ring holds a MiB; a message is 80 bytes with the ring's own header.
    let flows = 14_000_u16;
    with_kernel(&Settings { flow_capacity: 32768, ..Settings::default() }, |bench| {
        let mut bytes = plain(0, FIRST).bytes();
        for port in 1..=flows {
            bench.adopt(flow(port, FIRST));
            bytes[IP_END..IP_END + 2].copy_from_slice(&port.to_be_bytes());
            bench.run(OUT, &bytes, INTERFACE, 0);
        }
        let lost = bench.lost();
        let told = bench.said().len() as u64;
        assert!(lost.ring_buffer > 0);
        assert_eq!(told + lost.ring_buffer, u64::from(flows));
        assert_eq!(Lost { ring_buffer: 0, ..lost }, Lost::default());
        let counted = bench.flows();
        assert_eq!(counted.len(), usize::from(flows));
        assert!(counted.iter().all(|state| state.counters.tx.skbs == 1));
    });
}

#[test]
fn a_packet_seen_again_at_another_interface_is_not_counted_twice() {
    with_default_kernel(|bench| {
        bench.adopt(flow(40000, FIRST));
        let packet = plain(40000, FIRST);
        bench.pass_at(OUT, &packet, ANOTHER);
        bench.pass_at(OUT, &packet, INTERFACE);
        bench.pass_at(OUT, &packet, ANOTHER);
        bench.pass_at(OUT, &packet, INTERFACE);
        let state = bench.only_flow();
        assert_eq!(state.first.expect("packets").ifindex, ANOTHER);
        assert_eq!(state.counters.tx, counters(&[&packet, &packet]));
        assert_eq!(state.elsewhere_skbs, 2);
    });
}

#[test]
fn tagged_frames_are_left_to_the_vlan_device_where_there_is_one() {
    with_default_kernel(|bench| {
        bench.adopt(flow(40000, FIRST));
        bench.adopt(flow(40001, FIRST));
        bench.0.leave_tagged(ANOTHER).expect("a map that can be written");
        let tagged = |fragment, last| {
            Packet::new([Header::Ethernet, Header::Tag(0x8100), ipv4_with(0, fragment), last], [0x5a; 100])
        };
        bench.pass_at(OUT, &tagged(0, tcp(40000, FIRST)), ANOTHER);
        assert_eq!(bench.flows(), []);
        let untagged = plain(40000, FIRST);
        bench.pass_at(OUT, &untagged, ANOTHER);
        bench.pass_at(OUT, &tagged(100, Header::RestOf(TCP)), ANOTHER);
        let state = bench.only_flow();
        assert_eq!(state.counters.tx, counters(&[&untagged]));
        assert_eq!(state.elsewhere_skbs, 0);
        // Another interface has no such device.
        let other = tagged(0, tcp(40001, FIRST));
        bench.pass_at(OUT, &other, INTERFACE);
        assert_eq!(bench.flows().len(), 2);
    });
}

#[test]
fn what_began_before_there_was_a_vlan_device_goes_on_where_it_began() {
    with_default_kernel(|bench| {
        bench.adopt(flow(40000, FIRST));
        let headers = [Header::Ethernet, Header::Tag(0x8100), ipv4(), tcp(40000, FIRST)];
        let (tagged, untagged) = (Packet::new(headers, [0x5a; 100]), plain(40000, FIRST));
        bench.pass_at(OUT, &tagged, ANOTHER);
        bench.0.leave_tagged(ANOTHER).expect("a map that can be written");
        bench.pass_at(OUT, &untagged, INTERFACE);
        bench.pass_at(OUT, &tagged, ANOTHER);
        let state = bench.only_flow();
        assert_eq!(state.counters.tx, counters(&[&tagged, &tagged]));
        assert_eq!(state.elsewhere_skbs, 1);
    });
}

#[test]
fn the_tags_that_frames_get_below_an_interface_are_counted() {
    with_default_kernel(|bench| {
        bench.0.add_tags(ANOTHER, 8).expect("a map that can be written");
        bench.adopt(flow(40000, FIRST));
        let large = Packet { payload: vec![0; 2896], ..plain(40000, FIRST) }.cut_at(1448);
        bench.pass_at(OUT, &large, ANOTHER);
        let without = counters(&[&large]);
        let expected = Counters { wire_bytes: without.wire_bytes + 2 * 8, ..without };
        assert_eq!(bench.only_flow().counters.tx, expected);
    });
}

#[test]
fn no_packet_is_ever_withheld_from_the_next_program() {
    with_kernel(&both_tunnels(), |bench| {
        // `try_run` asserts the verdict.
        let mut cut_off = 0;
        for (_, headers) in [shapes(), tunnelled()].concat() {
            let bytes = Packet::new(headers, [0x5a; 20]).bytes();
            for length in 14..bytes.len() {
                cut_off += u32::from(bench.try_run(IN, &bytes[..length], INTERFACE, 0));
                cut_off += u32::from(bench.try_run(OUT, &bytes[..length], INTERFACE, 1448));
            }
        }
        assert!(cut_off > 1000, "only {cut_off} were run");

        let packet = plain(40000, FIRST);
        for offset in [IP_VERSION, IP_PROTOCOL, TCP_LENGTH] {
            for value in 0..=255 {
                let mut bytes = packet.bytes();
                bytes[offset] = value;
                bench.run(IN, &bytes, INTERFACE, 290);
            }
        }

        // xorshift32: any stream of bytes will do, but always the same.
        let mut state = 0x2545_f491_u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        for _ in 0..1000 {
            let length = 54 + random() as usize % 200;
            let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            let ethertypes = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]];
            bytes[12..14].copy_from_slice(&ethertypes[random() as usize % 4]);
            bench.run(IN, &bytes, INTERFACE, random() % 2000);
        }
    });
}

#[test]
fn a_packet_that_ends_before_its_tcp_flags_is_no_flow() {
    with_default_kernel(|bench| {
        bench.adopt(flow(40000, FIRST));
        let bytes = plain(40000, FIRST).bytes();
        for length in IP_END..=TCP_FLAGS {
            bench.run(OUT, &bytes[..length], INTERFACE, 0);
        }
        assert_eq!(bench.flows(), []);
        bench.run(OUT, &bytes[..=TCP_FLAGS], INTERFACE, 0);
        assert_eq!(bench.flows().len(), 1);
    });
}
