//! The recording on another host, whose events come over `ssh` or anything like it.
//!
//! ```text
//!  this host                                      the peer
//!  Peer ──▶ RSH HOST "migtrace serve ..." ──▶ sshd ──▶ migtrace serve
//!       ── requests: clock, conclude ────────────────▶ Caller
//!       ◀─ its event log, and readings of its clock ──
//! ```
//!
//! The peer writes its event log to standard output as it is observed, line by line. In between it answers questions for its
//! clock at once: they relate the two clocks, whatever the migration's packets show. It ends when it is told to, when its
//! standard input ends, or when it has heard nothing for half a minute; so nothing stays behind.
//!
//! A peer is trusted with its own facts only. What it writes becomes events of its host, or an error.

mod caller;
mod connection;
mod error;
mod protocol;

pub use caller::{Caller, Gone, Request};
pub use connection::{Command, News, Peer, Reading};
pub use error::{PeerError, Said};
