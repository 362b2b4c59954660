//! Streams of somebody else's requests that are over: their numbers are wanted for others.

use std::time::Duration;

use migtrace_ebpf::abi::EchoSession;

use super::{Live, Stream, nanoseconds};
use crate::units::MonotonicNs;

/// How long nothing may have been asked or answered before a stream is over.
const IDLE: Duration = Duration::from_secs(300);
/// Likewise while more than half of the numbers are taken. Whoever asks less often than that is given more time: as long as
/// he takes for [`INTERVALS`] requests.
const IDLE_IN_A_CROWD: Duration = Duration::from_secs(10);
const INTERVALS: u64 = 10;
/// How many of them a report lists: strangers can begin as many as they like.
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
pub(super) struct Ended {
    streams: Vec<Stream>,
    /// How many there were besides.
    unlisted: u64,
    sum: Live,
}

impl Ended {
    /// Adds a stream with as many gaps for sure. Of too many, those with the fewest requests are not listed.
    pub(super) fn add(&mut self, stream: Stream, gaps: usize) {
        self.sum.sent += stream.echo.sent;
        self.sum.answered += stream.echo.answered;
        self.sum.gaps += gaps;
        self.streams.push(stream);
        if self.streams.len() > MOST_STREAMS {
            let sent = |(_, stream): &(usize, &Stream)| stream.echo.sent;
            // The latest of these: a list that is full of them stays as it is.
            let fewest = self.streams.iter().enumerate().rev().min_by_key(sent).map(|(index, _)| index);
            fewest.map(|index| self.streams.remove(index));
            self.unlisted += 1;
        }
    }

    /// What they were all together.
    pub(super) const fn sum(&self) -> Live {
        self.sum
    }

    /// Those that are listed, in the order in which they ended, and how many there were besides.
    pub(super) fn into_streams(self) -> (Vec<Stream>, u64) {
        (self.streams, self.unlisted)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::vocabulary::Echo;

    const SECOND_NS: u64 = 1_000_000_000;

    fn asked_until(last_request_ns: u64, last_reply_ns: u64) -> EchoSession {
        EchoSession { sent: 3, last_request_ns, last_reply_ns, ..EchoSession::default() }
    }

    fn stream(sent: u64) -> Stream {
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
        Stream { echo, gaps: Vec::new() }
    }

    #[test]
    fn a_stream_is_over_when_nothing_was_asked_or_answered_for_minutes() {
        let at = |seconds: u64| MonotonicNs(seconds * SECOND_NS);
        let asked = asked_until(100 * SECOND_NS, 0);
        assert!(!is_over(&asked, at(399), false) && is_over(&asked, at(400), false));
        let answered = asked_until(100 * SECOND_NS, 110 * SECOND_NS);
        assert!(!is_over(&answered, at(409), false) && is_over(&answered, at(410), false));
        assert!(!is_over(&EchoSession::default(), at(9_999), true), "its first request is on its way");
    }

    #[test]
    fn in_a_crowd_a_stream_is_over_sooner_but_not_between_its_own_requests() {
        let at = |seconds: u64| MonotonicNs(seconds * SECOND_NS);
        let over_at = |longest_interval_ns| {
            let state = EchoSession { longest_interval_ns, ..asked_until(0, 0) };
            (0..).find(|seconds| is_over(&state, at(*seconds), true)).unwrap()
        };
        assert_eq!([0, SECOND_NS, 6 * SECOND_NS, 60 * SECOND_NS].map(over_at), [10, 10, 60, 300]);
    }

    #[test]
    fn of_too_many_streams_those_with_the_most_requests_are_listed_and_all_are_counted() {
        let mut ended = Ended::default();
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
