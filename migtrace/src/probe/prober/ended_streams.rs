//! Streams of somebody else's requests that are over: their slots are needed for others.

use std::time::Duration;

use migtrace_ebpf::abi::EchoSession;

use super::{EchoStream, ProbeStatus, nanoseconds};
use crate::units::MonotonicNs;

/// A stream is over after this long without a request or a reply.
const IDLE: Duration = Duration::from_secs(300);
/// The same while more than half of the slots are taken. A stream with longer intervals gets more time: that of
/// [`INTERVALS`] requests.
const IDLE_IN_A_CROWD: Duration = Duration::from_secs(10);
const INTERVALS: u64 = 10;
/// How many of them a report lists: strangers can begin any number.
pub(super) const MOST_STREAMS: usize = 1_000;

/// Whether a stream is over.
pub(super) fn is_over(state: &EchoSession, now: MonotonicNs, is_crowded: bool) -> bool {
    let quiet_ns = now.0.saturating_sub(state.last_request_ns.max(state.last_reply_ns));
    let mut patience_ns = nanoseconds(IDLE);
    if is_crowded {
        let own_ns = state.longest_interval_ns.saturating_mul(INTERVALS);
        patience_ns = patience_ns.min(own_ns.max(nanoseconds(IDLE_IN_A_CROWD)));
    }
    state.sent > 0 && quiet_ns >= patience_ns
}

/// The streams that are over.
#[derive(Debug, Default)]
pub(super) struct EndedStreams {
    streams: Vec<EchoStream>,
    /// How many more there were.
    unlisted: u64,
    sum: ProbeStatus,
}

impl EndedStreams {
    /// Adds a stream with this number of certain gaps. If there are too many streams, those with the fewest requests are not
    /// listed.
    pub(super) fn add(&mut self, stream: EchoStream, gaps: usize) {
        self.sum.sent += stream.echo.sent;
        self.sum.answered += stream.echo.answered;
        self.sum.gaps += gaps;
        self.streams.push(stream);
        if self.streams.len() > MOST_STREAMS {
            let sent = |(_, stream): &(usize, &EchoStream)| stream.echo.sent;
            // The latest of these, so that a full list of such streams does not change.
            let fewest = self.streams.iter().enumerate().rev().min_by_key(sent).map(|(index, _)| index);
            fewest.map(|index| self.streams.remove(index));
            self.unlisted += 1;
        }
    }

    /// All of them together.
    pub(super) const fn sum(&self) -> ProbeStatus {
        self.sum
    }

    /// The listed ones in the order in which they ended, and how many more there were.
    pub(super) fn into_streams(self) -> (Vec<EchoStream>, u64) {
        (self.streams, self.unlisted)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::vocabulary::Echo;

    const SECOND_NS: u64 = 1_000_000_000;

    fn last_seen(last_request_ns: u64, last_reply_ns: u64) -> EchoSession {
        EchoSession { sent: 3, last_request_ns, last_reply_ns, ..EchoSession::default() }
    }

    fn stream(sent: u64) -> EchoStream {
        let address = IpAddr::from([192, 0, 2, 1]);
        let echo = Echo {
            target: address,
            peer: address,
            identifier: 7,
            sent,
            answered: 1,
            lost: sent - 1,
            late: 0,
            duplicate: 0,
            interval_ns: None,
            longest_interval_ns: 0,
            round_trip: None,
            worst_since_last_gap_ns: None,
        };
        EchoStream { echo, gaps: Vec::new() }
    }

    #[test]
    fn a_stream_is_over_after_five_minutes_without_request_or_reply() {
        let at = |seconds: u64| MonotonicNs(seconds * SECOND_NS);
        let unanswered = last_seen(100 * SECOND_NS, 0);
        assert!(!is_over(&unanswered, at(399), false) && is_over(&unanswered, at(400), false));
        let answered = last_seen(100 * SECOND_NS, 110 * SECOND_NS);
        assert!(!is_over(&answered, at(409), false) && is_over(&answered, at(410), false));
        assert!(!is_over(&EchoSession::default(), at(9_999), true), "its first request is on its way");
    }

    #[test]
    fn in_a_crowd_a_stream_is_over_after_ten_seconds_or_ten_of_its_intervals() {
        let at = |seconds: u64| MonotonicNs(seconds * SECOND_NS);
        let over_at = |longest_interval_ns| {
            let state = EchoSession { longest_interval_ns, ..last_seen(0, 0) };
            (0..).find(|seconds| is_over(&state, at(*seconds), true)).unwrap()
        };
        assert_eq!([0, SECOND_NS, 6 * SECOND_NS, 60 * SECOND_NS].map(over_at), [10, 10, 60, 300]);
    }

    #[test]
    fn the_streams_with_the_most_requests_are_listed_and_all_are_counted() {
        let mut ended = EndedStreams::default();
        ended.add(stream(5), 2);
        for _ in 0..MOST_STREAMS {
            ended.add(stream(1), 0);
        }
        ended.add(stream(9), 1);
        let all = MOST_STREAMS as u64 + 2;
        assert_eq!((ended.sum().sent, ended.sum().answered, ended.sum().gaps), (all + 12, all, 3));
        let (streams, unlisted) = ended.into_streams();
        assert_eq!((streams.len(), unlisted), (MOST_STREAMS, 2));
        assert_eq!((streams[0].echo.sent, streams.last().unwrap().echo.sent), (5, 9));
    }
}
