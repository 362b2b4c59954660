//! Runs the counting programs in the kernel (`BPF_PROG_TEST_RUN`) on packets that are built here. They are
//! attached to nothing.

mod connection;
mod counting;
mod fragments;
mod handshake;
mod interfaces;
mod lifetime;
mod malformed;
mod milestones;
mod reports;
mod shapes;

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use migtrace_ebpf::abi::EGRESS as OUT;
use migtrace_ebpf::abi::INGRESS as IN;
use migtrace_ebpf::testing::frames::{
    BuiltPacket, DESTINATION, DESTINATION_6, Header, SOURCE, SOURCE_6, TCP, UDP, WireCost,
};
use migtrace_ebpf::testing::frames::{ipv4, ipv6, outer_ipv4, tcp};

use super::messages::Body;
use super::{FlowState, Kernel, Settings, Tunnel, programs, purpose, tc};
use crate::host::testing::{block_on, in_new_netns, ip};
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

/// Runs `test` with freshly loaded programs in a network namespace of its own; not without root.
fn with_bench(settings: &Settings, test: impl FnOnce(&mut Bench) + Send) {
    in_new_netns(|| {
        ip("link add type veth");
        block_on(async {
            test(&mut Bench(Kernel::load_detached(settings).expect("programs that the kernel accepts")));
        });
    });
}

/// As [`with_bench`], with default settings.
fn with_default_bench(test: impl FnOnce(&mut Bench) + Send) {
    with_bench(&Settings::default(), test);
}

/// Settings that look into every tunnel.
fn all_tunnels() -> Settings {
    Settings::default().tunnels(Tunnel::ALL)
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) with two of the fields that a test run takes.
fn context(ifindex: u32, gso_size: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    context
}

impl Bench {
    fn program(&self, direction: u8) -> &SchedClassifier {
        let name = if direction == OUT { tc::EGRESS } else { tc::INGRESS };
        programs::tc(&self.0.ebpf, name).expect("the program")
    }

    /// Passes bytes to a program, which must always leave the packet to the next one. False when the kernel
    /// makes no packet of them, as some kernels do with a truncated IP header.
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
    fn pass_at(&self, direction: u8, packet: &BuiltPacket, ifindex: u32) {
        self.run(direction, &packet.bytes(), ifindex, packet.metadata().gso_size);
    }

    #[track_caller]
    fn pass(&self, direction: u8, packet: &BuiltPacket) {
        self.pass_at(direction, packet, INTERFACE);
    }

    /// Counts a connection that is already open.
    #[track_caller]
    fn adopt(&self, flow: Flow) {
        assert!(self.0.adopt(flow).expect("a program that takes commands"), "no room for {flow}");
    }

    /// What was counted of every flow that has any packet.
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

    /// The messages in the ring buffer since the last call.
    fn messages(&mut self) -> Vec<Body> {
        self.0.pending_messages().into_iter().map(|message| message.body).collect()
    }
}

fn counters(packets: &[&BuiltPacket]) -> Counters {
    let mut sum = Counters::default();
    for packet in packets {
        let WireCost { wire_bytes, payload_bytes, segments } = packet.wire_cost();
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
fn plain(source_port: u16, destination_port: u16) -> BuiltPacket {
    BuiltPacket::new([Header::Ethernet, ipv4(), tcp(source_port, destination_port)], [0x5a; 500])
}

/// A packet over IPv4 with its addresses exchanged.
fn reversed(packet: BuiltPacket) -> BuiltPacket {
    let back = Header::Ipv4 { source: DESTINATION, destination: SOURCE, option_words: 0, fragment: 0 };
    let is_ipv4 = |header: &Header| matches!(header, Header::Ipv4 { .. });
    let headers = packet.headers.iter().map(|header| if is_ipv4(header) { back } else { *header });
    BuiltPacket { headers: headers.collect(), ..packet }
}
