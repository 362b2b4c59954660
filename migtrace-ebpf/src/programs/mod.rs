//! What the programs do: one file for each subject.
//!
//! ```text
//! a packet at an interface ── wire ─┬─ handshake ── flow      counts what is on the wire
//!                          │        └─ milestone             stamps what both hosts can name
//!                          └─ echo                            follows echo requests and replies
//! a packet at a tap ───────── tap                             notices the guest's frames and announcements
//! sendmsg, accept ─────────── qmp ──── socket ───── ownership reads QMP events, finds whose flow it is
//! tcp_retransmit_skb ──────── retransmission                  counts what is sent again
//! KVM_RUN, exits from KVM ─── vcpu                            notices when the VM stops and runs again
//! KVM_GET_DIRTY_LOG ───────── dirty_log                       notices where a pass begins
//! inet_sock_set_state ─────── opening                         notices connections that open during a sleep
//! exec, fork, exit ────────── process                         notices QEMUs that come and go
//! BPF_PROG_TEST_RUN ───────── control                         does what user space asks for
//! ```
//!
//! All of them share `maps` and `settings`; `skb` reads packets for `wire`, `echo` and `tap`.

pub(crate) mod control;
pub(crate) mod dirty_log;
pub(crate) mod echo;
mod flow;
mod handshake;
mod maps;
mod milestone;
pub(crate) mod opening;
mod ownership;
pub(crate) mod process;
pub(crate) mod qmp;
pub(crate) mod retransmission;
mod settings;
mod skb;
mod socket;
pub(crate) mod tap;
pub(crate) mod vcpu;
pub(crate) mod wire;
