//! A second of requests before the observation: does the address answer, and does it answer all of them?

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::host;
use super::sender::{Schedule, Sender};
use super::socket::{follow, open_socket};
use super::{Preflight, ProbeError, ProbeOptions};
use crate::kernel::echo::{EchoKernel, Session};

/// How often the path is measured until all is answered. A guest that stood still for a moment answers the next time; what
/// limits pings does so again.
const MEASUREMENTS: u16 = 2;
/// How many sessions it takes: one to wake the path up, and those that measure it.
pub(super) const SESSIONS: u32 = 1 + MEASUREMENTS as u32;

/// How long to wait for the first reply: neighbour discovery and switches take time.
const PATIENCE: Duration = Duration::from_secs(3);
const WAKE_INTERVAL: Duration = Duration::from_millis(50);
/// How long to measure the path.
const LENGTH: Duration = Duration::from_secs(1);
/// How long to wait for the last replies.
const LINGER: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);

/// The route to the address.
pub(super) struct Route<'a> {
    pub(super) interface: &'a str,
    pub(super) options: &'a ProbeOptions,
    /// That of the observation; the pre-flight takes the next ones.
    pub(super) identifier: u16,
}

/// Waits for an answer, then sends for a second at `interval`; once more if less than 99 % is answered.
///
/// # Errors
/// Nothing answers, or less than 99 % is answered again.
pub(super) async fn check(
    kernel: &mut EchoKernel,
    route: &Route<'_>,
    interval: Duration,
) -> Result<Preflight, ProbeError> {
    wake(kernel, route).await?;
    let mut measurement = 1;
    loop {
        let measured = measure(kernel, route, interval, 1 + measurement).await;
        if measurement == MEASUREMENTS || !matches!(measured, Err(ProbeError::Lossy { .. })) {
            return measured;
        }
        measurement += 1;
    }
}

/// Sends for a second at `interval`, in a session with an identifier of its own.
async fn measure(
    kernel: &mut EchoKernel,
    route: &Route<'_>,
    interval: Duration,
    session: u16,
) -> Result<Preflight, ProbeError> {
    let number = (LENGTH.as_nanos() / interval.as_nanos().max(1)).clamp(2, u128::from(u32::MAX)) as u64;
    let session =
        send_until(kernel, route, session, Schedule { interval, count: Some(number) }, |session, elapsed| {
            session.state.sent >= number || elapsed > interval * number as u32 + LINGER
        })
        .await?;
    let (sent, answered) = session.map_or((0, 0), |session| (session.state.sent, session.state.answered));
    if answered * 100 < sent * 99 || sent == 0 {
        // As many as came through are within a rate limit; a fifth less is on the safe side.
        let elapsed = session.map_or(LENGTH, |session| {
            let state = &session.state;
            Duration::from_nanos(state.last_request_ns.saturating_sub(state.first_request_ns))
        });
        let suggested = elapsed.mul_f64(1.25) / u32::try_from(answered.max(1)).unwrap_or(u32::MAX);
        let suggested = suggested.max(interval * 2).as_micros().next_multiple_of(100);
        return Err(ProbeError::Lossy {
            target: route.options.target,
            sent,
            answered,
            suggested: Duration::from_micros(u64::try_from(suggested).unwrap_or(u64::MAX)),
        });
    }
    Ok(Preflight { sent, answered })
}

/// Sends until the first reply comes.
async fn wake(kernel: &mut EchoKernel, route: &Route<'_>) -> Result<(), ProbeError> {
    let session = send_until(
        kernel,
        route,
        1,
        Schedule { interval: WAKE_INTERVAL, count: None },
        |session, elapsed| session.state.answered > 0 || elapsed > PATIENCE,
    )
    .await?;
    if session.is_some_and(|session| session.state.answered > 0) {
        return Ok(());
    }
    let (target, interface) = (route.options.target, route.interface.to_owned());
    Err(match session {
        Some(session) => {
            ProbeError::NoAnswer { target, interface, sent: session.state.sent, patience: PATIENCE }
        }
        None => ProbeError::NotSent { target, interface, patience: PATIENCE },
    })
}

/// Sends with an identifier of its own until `is_over`, or for [`PATIENCE`] if no request is seen. Then waits for the last
/// replies.
async fn send_until(
    kernel: &mut EchoKernel,
    route: &Route<'_>,
    number: u16,
    schedule: Schedule,
    is_over: impl Fn(&Session, Duration) -> bool,
) -> Result<Option<Session>, ProbeError> {
    let socket = open_socket(route.options, route.identifier.wrapping_add(number))?;
    let identifier = socket.identifier();
    follow(kernel, route.options.target, &socket)?;
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
