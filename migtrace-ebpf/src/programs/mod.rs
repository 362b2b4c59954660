//! What the programs do, one file a subject.

pub(crate) mod control;
pub(crate) mod dirty_log;
pub(crate) mod echo;
mod flow;
mod maps;
pub(crate) mod process;
pub(crate) mod qmp;
pub(crate) mod retransmission;
mod skb;
mod socket;
pub(crate) mod tap;
pub(crate) mod vcpu;
pub(crate) mod wire;
