//! How an observation ends: as a report of its own, or as the last facts of a recording.

use std::time::Duration;

use migtrace_ebpf::abi::ECHO_SESSIONS;
use tokio::time::Instant;

use super::error::host;
use super::sender::Sent;
use super::{ProbeError, Prober, ended_streams, figures, nanoseconds, seen_gaps};
use crate::event::{EchoEnd, Fact};
use crate::host::clock;
use crate::probe::{EchoStream, ProbeEndReason, ProbeReport, SCHEMA, Sending};
use crate::timeline::removals;
use crate::units::MonotonicNs;
use crate::vocabulary::NotMeasured;

/// How long to wait for replies after the last request.
const LINGER: Duration = Duration::from_secs(1);
/// How often to check whether all replies have come.
const LINGER_LOOK: Duration = Duration::from_millis(10);

impl Prober {
    /// Stops sending, waits up to a second for the last replies, and reports.
    ///
    /// # Errors
    /// The kernel side cannot be read any more.
    pub async fn finish(mut self, reason: ProbeEndReason) -> Result<ProbeReport, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let duration_ns = now.0.saturating_sub(self.start.monotonic_ns);
        self.stop().await?;
        let (mut streams, unlisted) = std::mem::take(&mut self.ended).into_streams();
        for session in self.sessions()? {
            streams.push(self.stream(&session)?);
        }
        let mut not_measured = self.not_measured(&streams)?;
        not_measured.extend(self.attachment_failures());
        not_measured.extend(not_listed(self.seen.unlisted(), unlisted));
        let refused = self.sent.as_ref().map_or(0, |sent| sent.refused);
        let min_gap_ns = self.options.min_gap_ns();
        Ok(ProbeReport {
            schema: SCHEMA.into(),
            migtrace: env!("CARGO_PKG_VERSION").into(),
            host: self.identity.host,
            kernel: self.identity.kernel,
            target: self.options.target,
            interface: self.interface,
            attach: self.attach,
            sending: self.options.interval.map(|interval| Sending {
                interval_ns: nanoseconds(interval),
                data_bytes: self.options.data_bytes,
                refused,
            }),
            min_gap_ns,
            start: self.start,
            duration_ns,
            end: reason,
            preflight: self.preflight,
            streams,
            not_measured,
        })
    }

    /// Stops sending and waits up to a second for the last replies. Returns the last facts of the observation. Cancel-safe.
    pub(crate) async fn end(&mut self) -> Result<Vec<Fact>, ProbeError> {
        self.stop().await?;
        let mut facts: Vec<_> = self.seen.take_new().into_iter().map(Fact::EchoGap).collect();
        let session = self.sessions()?.pop();
        let mut end = EchoEnd { echo: None, open: None };
        let mut streams = Vec::new();
        if let Some(session) = &session {
            let state = &session.state;
            facts.extend(self.unsettled(state).map(Fact::EchoGap));
            end.open = self.open_gap(state)?.map(|(seen, _)| seen);
            let echo = figures::echo(session, &self.kernel.round_trips(session.slot)?);
            end.echo = Some(echo.clone());
            streams.push(EchoStream { echo, gaps: Vec::new() });
        }
        facts.extend(self.not_measured(&streams)?.into_iter().map(Fact::NotMeasured));
        facts.append(&mut self.attachments);
        facts.push(Fact::EchoEnd(end));
        Ok(facts)
    }

    /// Stops sending, and waits up to a second for the last replies. Cancel-safe: called again, it waits anew.
    async fn stop(&mut self) -> Result<(), ProbeError> {
        if let Some(sender) = self.sender.take() {
            self.sent = Some(sender.stop().map_err(host("send echo requests"))?);
        }
        let deadline = Instant::now() + LINGER;
        while self.options.interval.is_some() && Instant::now() < deadline && self.is_waiting()? {
            tokio::time::sleep(LINGER_LOOK).await;
        }
        let pending = self.kernel.pending_gaps();
        self.take(pending);
        self.look_after_attachments();
        Ok(())
    }

    fn is_waiting(&self) -> Result<bool, ProbeError> {
        Ok(self.sessions()?.iter().any(|session| session.state.answered < session.state.sent))
    }

    /// What was not measured, as far as the kernel and the sender know.
    fn not_measured(&self, streams: &[EchoStream]) -> Result<Vec<NotMeasured>, ProbeError> {
        let mut list = Vec::new();
        let mut add = |what: &str, why: String| list.push(NotMeasured { what: what.into(), why });
        let (untracked, unreported) = self.kernel.lost()?;
        if untracked > 0 {
            add(
                "some streams of requests",
                format!(
                    "{untracked} packets belong to more streams than can be followed at once ({ECHO_SESSIONS})"
                ),
            );
        }
        if unreported > 0 {
            add("some gaps", format!("{unreported} found no room in the ring buffer"));
        }
        if streams.iter().all(|stream| stream.echo.sent == 0) {
            let whose = if self.options.interval.is_some() { "" } else { " from anybody" };
            add("gaps", format!("no echo request{whose} to {} was seen", self.options.target));
        }
        for stream in streams.iter().filter(|stream| stream.echo.sent > 0 && stream.echo.answered == 0) {
            let (target, peer) = (stream.echo.target, stream.echo.peer);
            add("gaps", format!("{target} answered none of the requests of {peer}: it was never reached"));
        }
        list.extend(self.sent.as_ref().and_then(refusal));
        Ok(list)
    }

    /// What was missed because others had removed the programs.
    fn attachment_failures(&self) -> impl Iterator<Item = NotMeasured> {
        let start = MonotonicNs(self.start.monotonic_ns);
        self.attachments.iter().filter_map(move |fact| match fact {
            Fact::TcRemoved(removed) => Some(removals::described(removed, start, "the observation")),
            Fact::NotMeasured(entry) => Some(entry.clone()),
            _ => None,
        })
    }
}

/// What the kernel refused to send.
fn refusal(sent: &Sent) -> Option<NotMeasured> {
    let error = sent.last_refusal.as_ref()?;
    Some(NotMeasured {
        what: format!("{} of the requests", sent.refused),
        why: format!("the kernel refused to send them, the last one because: {error}"),
    })
}

/// What a report does not list because there was too much of it.
fn not_listed(silences: u64, streams: u64) -> impl Iterator<Item = NotMeasured> {
    let silences = (silences > 0).then(|| NotMeasured {
        what: "some silences that may have been gaps".into(),
        why: format!("there were {silences} more than the {} that are listed", seen_gaps::MOST_DOUBTFUL),
    });
    let streams = (streams > 0).then(|| NotMeasured {
        what: "some streams of requests that ended".into(),
        why: format!(
            "there were {streams} more than the {} that are listed, with fewer requests",
            ended_streams::MOST_STREAMS
        ),
    });
    silences.into_iter().chain(streams)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::host::testing::{block_on, ip, ip_in};
    use crate::probe::ProbeOptions;
    use crate::probe::prober::testing::beside_a_neighbour;

    /// Observes a neighbour that is silent for a while. Then this host refuses to send for a while, and at the end the
    /// neighbour is silent again.
    async fn observe_and_end(neighbour: &str) {
        let answers = |whether: &str| ip_in(neighbour, &format!("addr {whether} 192.0.2.9/24 dev answering"));
        let a_while = || tokio::time::sleep(Duration::from_millis(400));
        let options = ProbeOptions {
            preflight: false,
            min_gap: Some(Duration::from_millis(150)),
            ..ProbeOptions::new(IpAddr::from([192, 0, 2, 9]))
        };
        let mut prober = Prober::start(options).await.unwrap();
        a_while().await;
        answers("del");
        a_while().await;
        answers("add");
        a_while().await;
        ip("route del 192.0.2.0/24 dev asking");
        tokio::time::sleep(Duration::from_millis(50)).await;
        ip("route add 192.0.2.0/24 dev asking");
        a_while().await;
        answers("del");
        a_while().await;

        for patience_ms in [0, 1, 50] {
            let ending = tokio::time::timeout(Duration::from_millis(patience_ms), prober.end());
            assert!(ending.await.is_err(), "it waits for replies, and is dropped while it does");
        }
        let facts = prober.end().await.unwrap();
        let count = |is_it: fn(&Fact) -> bool| facts.iter().filter(|fact| is_it(fact)).count();
        assert_eq!(count(|fact| matches!(fact, Fact::EchoGap(_))), 1, "{facts:#?}");
        let refused =
            |fact: &Fact| matches!(fact, Fact::NotMeasured(entry) if entry.what.ends_with("of the requests"));
        assert_eq!(count(refused), 1, "{facts:#?}");
        assert_eq!(count(|fact| matches!(fact, Fact::EchoEnd(_))), 1, "{facts:#?}");
        let Some(Fact::EchoEnd(EchoEnd { echo: Some(echo), open: Some(_) })) = facts.last() else {
            panic!("{facts:#?}")
        };
        assert!(echo.answered > 0 && echo.lost > 0, "{echo:?}");
    }

    #[test]
    fn an_end_that_is_dropped_midway_and_called_again_reports_everything_once() {
        beside_a_neighbour(|neighbour| block_on(observe_and_end(neighbour)));
    }
}
