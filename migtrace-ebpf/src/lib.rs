//! The border between the kernel programs of migtrace and its user space.
//!
//! This library is plain Rust without `std`. The same code runs in the kernel and in a test on the host. The programs
//! themselves are the binary of this package (`src/main.rs` and `src/programs/`): each file there has its arithmetic
//! here.
//!
//! ```text
//! hook                          program            arithmetic here                   result
//! ────────────────────────────  ─────────────────  ────────────────────────────────  ─────────────────────────
//! TC ingress, egress            wire, handshake    packet, handshake, stream         counters of flows
//! TC ingress, egress            milestone          milestone                         crossings of milestones
//! TC ingress, egress            echo               packet::echo, echo_session        round trips, gaps
//! TC ingress of a tap           tap                packet::announcement, budget      frames, announcements
//! sendmsg, accept               qmp, ownership     qmp_write, budget                 QMP events, flows' owners
//! tracepoint tcp_retransmit_skb retransmission     retransmission                    retransmitted bytes
//! inet_sock_set_state           opening            beginning                         connections that open in a sleep
//! KVM_RUN, kvm_userspace_exit   vcpu               vcpu_state                        stops and runs of the VM
//! KVM_GET_DIRTY_LOG             dirty_log                                            beginnings of passes
//! sched_process_exec/fork/exit  process                                              QEMUs that come and go
//! BPF_PROG_TEST_RUN             control            abi::Command                      what user space asks for
//! ```
//!
//! - [`abi`]: the keys, counters and events that cross the border; [`word`]: the words in maps that both sides access.
//! - [`packet`]: from a frame's bytes to its flow and to what it costs on the wire.
//! - [`handshake`]: how a connection begins; [`stream`]: how one of its directions goes on; [`milestone`]: the packets of
//!   it that both hosts stamp, so that their clocks can be compared.
//! - [`beginning`]: what a connection carries, from its first bytes.
//! - [`retransmission`]: what a host has retransmitted, from its socket's counters.
//! - [`echo_session`]: round trips and gaps, from the stamps of echo requests and replies.
//! - [`qmp_write`]: whether a write to a monitor carries an event.
//! - [`vcpu_state`]: when a VM stopped and runs again, from its vCPUs' entries into KVM and exits.
//! - [`budget`]: limits of what others can cause to be emitted.
//! - `testing` (feature `testing`): frames with known costs, and checks, for the tests of this crate and of its users.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    allow(internal_features, reason = "core_intrinsics is one")
)]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod abi;
pub mod beginning;
pub mod budget;
pub mod echo_session;
pub mod handshake;
pub mod milestone;
pub mod packet;
pub mod qmp_write;
pub mod retransmission;
pub mod stream;
#[cfg(feature = "testing")]
pub mod testing;
pub mod vcpu_state;
pub mod word;
