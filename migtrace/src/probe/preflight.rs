//! A second of requests before the observation: does the address answer, and does it answer all?

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::report::Preflight;
use super::sender::{Schedule, Sender};
use super::{Options, ProbeError, follow, host, open_socket};
use crate::kernel::echo::{EchoKernel, Session};

/// How many sessions it takes: one to wake the path up, one to measure it.
pub(super) const SESSIONS: u32 = 2;

/// How long the first reply is waited for: the neighbour may have to be found, switches to learn.
const PATIENCE: Duration = Duration::from_secs(3);
const WAKE_INTERVAL: Duration = Duration::from_millis(50);
/// How long the path is measured.
const LENGTH: Duration = Duration::from_secs(1);
/// How long the last replies are waited for.
const LINGER: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);

/// The way to the address.
pub(super) struct Way<'a> {
    pub(super) interface: &'a str,
    pub(super) options: &'a Options,
    /// Of the observation; the pre-flight takes the next ones.
    pub(super) identifier: u16,
}

/// Waits for an answer, then asks for a second at `interval`.
///
/// # Errors
/// Nothing answers, or less than 99 % is answered.
pub(super) async fn check(
    kernel: &mut EchoKernel,
    way: &Way<'_>,
    interval: Duration,
) -> Result<Preflight, ProbeError> {
    wake(kernel, way).await?;
    let number = (LENGTH.as_nanos() / interval.as_nanos().max(1)).clamp(2, u128::from(u32::MAX)) as u64;
    let session = ask(kernel, way, 2, Schedule { interval, count: Some(number) }, |session, asked_for| {
        session.state.sent >= number || asked_for > interval * number as u32 + LINGER
    })
    .await?;
    let (sent, answered) = session.map_or((0, 0), |session| (session.state.sent, session.state.answered));
    if answered * 100 < sent * 99 || sent == 0 {
        // What came through is what a limit lets through in that time; a fifth less is on the safe side.
        let asked_for = session.map_or(LENGTH, |session| {
            let state = &session.state;
            Duration::from_nanos(state.last_request_ns.saturating_sub(state.first_request_ns))
        });
        let suggested = asked_for.mul_f64(1.25) / u32::try_from(answered.max(1)).unwrap_or(u32::MAX);
        let suggested = suggested.max(interval * 2).as_micros().next_multiple_of(100);
        return Err(ProbeError::Lossy {
            target: way.options.target,
            sent,
            answered,
            suggested: Duration::from_micros(u64::try_from(suggested).unwrap_or(u64::MAX)),
        });
    }
    Ok(Preflight { sent, answered })
}

/// Sends until the first reply comes.
async fn wake(kernel: &mut EchoKernel, way: &Way<'_>) -> Result<(), ProbeError> {
    let session =
        ask(kernel, way, 1, Schedule { interval: WAKE_INTERVAL, count: None }, |session, asked_for| {
            session.state.answered > 0 || asked_for > PATIENCE
        })
        .await?;
    if session.is_some_and(|session| session.state.answered > 0) {
        return Ok(());
    }
    let (target, interface) = (way.options.target, way.interface.to_owned());
    Err(match session {
        Some(session) => {
            ProbeError::NoAnswer { target, interface, sent: session.state.sent, patience: PATIENCE }
        }
        None => ProbeError::NotSent { target, interface, patience: PATIENCE },
    })
}

/// Sends with an identifier of its own until `is_over`, or for [`PATIENCE`] while none is seen; then waits for the last
/// replies.
async fn ask(
    kernel: &mut EchoKernel,
    way: &Way<'_>,
    number: u16,
    schedule: Schedule,
    is_over: impl Fn(&Session, Duration) -> bool,
) -> Result<Option<Session>, ProbeError> {
    let socket = open_socket(way.options, way.identifier.wrapping_add(number))?;
    let identifier = socket.identifier();
    follow(kernel, way.options.target, &socket)?;
    let look = |kernel: &EchoKernel| {
        let sessions = kernel.sessions()?;
        Ok::<_, ProbeError>(sessions.into_iter().find(|session| session.identifier == identifier))
    };
    let sender = Sender::start(socket, schedule).map_err(host("start the sending thread"))?;
    let started = Instant::now();
    loop {
        sleep(LOOK).await;
        let session = look(kernel)?;
        let give_up = started.elapsed() > PATIENCE && session.is_none();
        if give_up || session.is_some_and(|session| is_over(&session, started.elapsed())) {
            break;
        }
    }
    let sent = sender.stop().map_err(host("send echo requests"))?;
    let stopped = Instant::now();
    let session = loop {
        let session = look(kernel)?;
        let waits = session.is_some_and(|session| session.state.answered < session.state.sent);
        if !waits || stopped.elapsed() > LINGER {
            break session;
        }
        sleep(LOOK).await;
    };
    match (session, sent.last_refusal) {
        (None, Some(error)) => Err(host("send echo requests")(error)),
        (session, _) => Ok(session),
    }
}
