//! What a socket counts itself: `struct tcp_info` (include/uapi/linux/tcp.h).

use crate::units::Directions;

/// Offsets of its fields.
mod offset {
    pub(super) const OPTIONS: usize = 5;
    pub(super) const RCV_MSS: usize = 20;
    pub(super) const SACKED: usize = 28;
    pub(super) const LOST: usize = 32;
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const SEGS_OUT: usize = 136;
    pub(super) const SEGS_IN: usize = 140;
    pub(super) const BYTES_SENT: usize = 200;
    pub(super) const BYTES_RETRANS: usize = 208;
    pub(super) const REORD_SEEN: usize = 220;
    pub(super) const RCV_OOOPACK: usize = 224;
}

/// The options that both ends have agreed on, if those of Linux' SYN are among them: timestamps, selective acknowledgements,
/// window scale (`TCPI_OPT_*`).
const USUAL_OPTIONS: u8 = 1 | 2 | 4;
/// `TCPI_OPT_SYN_DATA`
const SYN_DATA: u8 = 32;

/// What a socket has sent, or received.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct OneWay {
    /// Segments, those without payload and those that were sent again among them. A socket that was connected to does not
    /// count the SYN with which it has answered.
    pub(crate) segments: u64,
    /// Payload. What was sent again counts again; what was received again does not.
    pub(crate) payload_bytes: u64,
}

/// What a socket has counted since its connection began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SocketCounts {
    pub(crate) ways: Directions<OneWay>,
    /// Segments and payload that it has sent again.
    pub(crate) retransmitted: OneWay,
    /// The payload of the largest segments that it has received.
    pub(crate) receive_mss: u64,
    /// Whether both ends have agreed on the options with which Linux opens a connection, and sent no data with it.
    pub(crate) has_usual_options: bool,
    /// In each direction, whether something was sent again or came in another order, as far as it knows.
    pub(crate) is_troubled: Directions<bool>,
}

impl SocketCounts {
    /// Reads a `struct tcp_info`; `None` before Linux 5.4, which reports less.
    pub(super) fn of(info: &[u8]) -> Option<Self> {
        let long = |at| long(info, at);
        let word = |at: usize| info.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let sent =
            OneWay { segments: word(offset::SEGS_OUT)?.into(), payload_bytes: long(offset::BYTES_SENT)? };
        let received =
            OneWay { segments: word(offset::SEGS_IN)?.into(), payload_bytes: long(offset::BYTES_RECEIVED)? };
        let retransmitted = OneWay {
            segments: word(offset::TOTAL_RETRANS)?.into(),
            payload_bytes: long(offset::BYTES_RETRANS)?,
        };
        let is_any = |at: usize| Some(word(at)? > 0);
        let options = *info.get(offset::OPTIONS)?;
        Some(Self {
            ways: Directions { tx: sent, rx: received },
            retransmitted,
            receive_mss: word(offset::RCV_MSS)?.into(),
            has_usual_options: options & (USUAL_OPTIONS | SYN_DATA) == USUAL_OPTIONS,
            is_troubled: Directions {
                tx: retransmitted.segments > 0
                    || is_any(offset::SACKED)?
                    || is_any(offset::LOST)?
                    || is_any(offset::REORD_SEEN)?,
                rx: is_any(offset::RCV_OOOPACK)?,
            },
        })
    }

    /// The payload that it has sent and received; what crossed more than once counts once.
    pub(crate) const fn carried(&self) -> Directions<u64> {
        let Directions { tx: sent, rx: received } = self.ways;
        let tx = sent.payload_bytes.saturating_sub(self.retransmitted.payload_bytes);
        Directions { tx, rx: received.payload_bytes }
    }
}

/// The payload that a socket has sent, as far as it was acknowledged, and received; 0 if the kernel does not report it.
pub(super) fn acknowledged_and_received(info: &[u8]) -> Directions<u64> {
    let long = |at| long(info, at).unwrap_or(0);
    Directions { tx: long(offset::BYTES_ACKED), rx: long(offset::BYTES_RECEIVED) }
}

fn long(info: &[u8], at: usize) -> Option<u64> {
    info.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}
