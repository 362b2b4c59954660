//! What the state of one stream of requests, as the kernel keeps it, says of silences.

use migtrace_ebpf::abi::EchoSession;

use crate::event::EchoGap;
use crate::units::MonotonicNs;

/// For how long the address has been silent: since the first request that has waited longer than replies take.
pub(super) fn silent_ns(state: &EchoSession, now: MonotonicNs, min_gap_ns: u64) -> Option<u64> {
    let patience_ns = state.longest_latest_round_trip_ns() + min_gap_ns;
    let silent_ns = now.0.saturating_sub(state.first_waiting_ns);
    (state.first_waiting_ns != 0 && silent_ns > patience_ns).then_some(silent_ns)
}

/// The silence at the end of a session; none if its last request was answered, or no request ever.
pub(super) fn open_gap(state: &EchoSession) -> Option<EchoGap> {
    let is_open = state.answered > 0 && state.first_waiting_ns > state.answered_request_ns;
    is_open.then(|| EchoGap {
        answered_request_ns: MonotonicNs(state.answered_request_ns),
        last_reply_ns: MonotonicNs(state.last_reply_ns),
        first_waiting_ns: MonotonicNs(state.first_waiting_ns),
        before_resumed_ns: MonotonicNs(state.last_request_ns),
        resuming_request_ns: MonotonicNs(state.last_request_ns),
        resumed_ns: MonotonicNs(state.last_request_ns),
        round_trip_before_ns: state.longest_latest_round_trip_ns(),
        round_trip_after_ns: 0,
        requests: state.sent.saturating_sub(state.answered_count),
        overtaken: 0,
        waited: 0,
        prompt: 0,
        duplicate: 0,
        worst_round_trip_ns: state.worst_round_trip_ns,
        may_be: false,
        shortest_round_trip_ns: 0,
        longest_interval_ns: 0,
        disordered: 0,
    })
}
