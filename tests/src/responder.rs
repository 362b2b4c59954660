//! Answers echo requests in place of a guest, and falls silent for known times.
//!
//! The kernel of its network namespace answers none, so its own stamps of `CLOCK_MONOTONIC` are the truth about every
//! silence.

use crate::clock::monotonic_ns;
use crate::netns::NetNs;
use anyhow::{Context as _, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};
use nix::sys::time::TimeSpec;
use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

// RFC 792.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// The real-time priority: above that of the sender of requests.
const PRIORITY: u8 = 2;

/// How long it waits for packets at most before it reads the clock.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// How long it answers after the last silence of a plan, before the plan counts as over.
const AFTERMATH: Duration = Duration::from_millis(100);

/// What happens to the requests that arrive during a silence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SilenceKind {
    /// They are never answered.
    LosesRequests,
    /// They are answered when it ends.
    DelaysReplies,
}

/// A silence of a plan.
#[derive(Clone, Copy, Debug)]
pub struct PlannedSilence {
    /// Time since the end of the silence before.
    pub after: Duration,
    /// How long it lasts.
    pub length: Duration,
    /// What happens to requests.
    pub kind: SilenceKind,
}

/// A silence that was played. Each end lies between two readings of the clock.
#[derive(Clone, Debug)]
pub struct ActualSilence {
    /// When it began: every request that had arrived by then was answered, and no later one was. `CLOCK_MONOTONIC`.
    pub start_ns: RangeInclusive<u64>,
    /// When it ended: from then on later requests were answered, and those that had been waiting. `CLOCK_MONOTONIC`.
    pub end_ns: RangeInclusive<u64>,
}

/// A plan that was played.
#[derive(Clone, Debug)]
pub struct PlayedPlan {
    /// The silences, in their order.
    pub silences: Vec<ActualSilence>,
    /// When each request since the plan began was read. `CLOCK_MONOTONIC`.
    pub arrivals_ns: Vec<u64>,
}

/// A running responder. It answers until this is dropped.
#[derive(Debug)]
pub struct Responder {
    plans: Sender<Vec<PlannedSilence>>,
    played: Receiver<Result<PlayedPlan>>,
}

impl Responder {
    /// Answers echo requests to all IPv4 addresses of a network namespace.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or a raw socket cannot be made (not root).
    pub fn start(netns: &NetNs) -> Result<Self> {
        Self::start_with_delay(netns, Duration::ZERO)
    }

    /// As [`Self::start`], but each reply is sent only after `delay`, as if the network were slow.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_with_delay(netns: &NetNs, delay: Duration) -> Result<Self> {
        let socket = netns.enter(|| -> Result<UdpSocket> {
            let path = "/proc/sys/net/ipv4/icmp_echo_ignore_all";
            fs::write(path, "1").with_context(|| format!("cannot set {path}"))?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)
                .context("cannot open a raw socket")?;
            setsockopt(&socket, RcvBufForce, &(16 << 20)).context("cannot enlarge a socket's buffer")?;
            Ok(UdpSocket::from(socket))
        })??;
        let (plans, to_play) = mpsc::channel();
        let (played, results) = mpsc::channel();
        std::thread::Builder::new().name("responder".into()).spawn(move || {
            let result = make_real_time(PRIORITY)
                .and_then(|()| ResponderThread::new(socket, delay).run(&to_play, &played));
            if let Err(error) = result {
                // Nobody receives it when the responder was dropped.
                let _ = played.send(Err(error));
            }
        })?;
        Ok(Self { plans, played: results })
    }

    /// Begins to play a plan; the `after` of its first silence counts from now.
    ///
    /// # Errors
    ///
    /// When the responder has failed before.
    pub fn play(&self, plan: Vec<PlannedSilence>) -> Result<()> {
        self.plans.send(plan).map_err(|_| anyhow!("the responder has ended"))
    }

    /// Waits until the plan has been played.
    ///
    /// # Errors
    ///
    /// When the socket failed.
    pub fn wait_for_plan(&self) -> Result<PlayedPlan> {
        self.played.recv().context("the responder has ended")?
    }
}

/// Makes the calling thread a real-time one, so that other work on the machine does not delay it.
pub(crate) fn make_real_time(priority: u8) -> Result<()> {
    let thread = nix::unistd::gettid().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", &priority.to_string(), &thread]).status();
    if !status.context("cannot start `chrt`")?.success() {
        bail!("`chrt` cannot make a thread real-time");
    }
    // Timers may fire 50 µs late by default, so that the kernel can combine wake-ups.
    nix::sys::prctl::set_timerslack(1).context("cannot make timers precise")
}

struct ResponderThread {
    socket: UdpSocket,
    /// Replies that wait for the end of a silence.
    waiting: Vec<(Vec<u8>, SocketAddr)>,
    /// How long each reply is held back.
    delay: Duration,
    /// Replies that are held back, each with the time at which it is due.
    delayed: VecDeque<(u64, Vec<u8>, SocketAddr)>,
    /// Arrivals since the latest plan began.
    arrivals_ns: Vec<u64>,
}

impl ResponderThread {
    const fn new(socket: UdpSocket, delay: Duration) -> Self {
        Self { socket, waiting: Vec::new(), delay, delayed: VecDeque::new(), arrivals_ns: Vec::new() }
    }

    /// Answers and plays plans until the [`Responder`] is dropped.
    fn run(
        mut self,
        plans: &Receiver<Vec<PlannedSilence>>,
        played: &Sender<Result<PlayedPlan>>,
    ) -> Result<()> {
        loop {
            match plans.try_recv() {
                Ok(plan) => {
                    self.arrivals_ns.clear();
                    let silences = self.play(&plan)?;
                    // The round trips after the last silence are needed to judge it.
                    self.answer_until(monotonic_ns() + nanoseconds(AFTERMATH))?;
                    let arrivals_ns = std::mem::take(&mut self.arrivals_ns);
                    let _ = played.send(Ok(PlayedPlan { silences, arrivals_ns }));
                }
                Err(TryRecvError::Empty) => {
                    self.answer_until(monotonic_ns() + nanoseconds(MAX_WAIT))?;
                }
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn play(&mut self, plan: &[PlannedSilence]) -> Result<Vec<ActualSilence>> {
        let mut silences = Vec::new();
        let mut answering_since_ns = monotonic_ns();
        for planned in plan {
            let start_ns = self.answer_until(answering_since_ns + nanoseconds(planned.after))?;
            let mut end_ns =
                self.collect_until(start_ns.end() + nanoseconds(planned.length), planned.kind)?;
            let mut waiting = std::mem::take(&mut self.waiting).into_iter();
            if let Some((reply, to)) = waiting.next() {
                let before_ns = monotonic_ns();
                self.send(reply, to)?;
                end_ns = before_ns..=monotonic_ns();
            }
            answering_since_ns = *end_ns.end();
            silences.push(ActualSilence { start_ns, end_ns });
            for (reply, to) in waiting {
                self.send(reply, to)?;
            }
        }
        Ok(silences)
    }

    /// Answers requests until this time has come and every arrived request is answered. Returns when that was.
    fn answer_until(&mut self, at_ns: u64) -> Result<RangeInclusive<u64>> {
        loop {
            let mut looked_ns = monotonic_ns();
            while let Some((reply, to)) = self.receive()? {
                self.send(reply, to)?;
                looked_ns = monotonic_ns();
            }
            let now_ns = monotonic_ns();
            if now_ns >= at_ns {
                return Ok(looked_ns..=now_ns);
            }
            self.wait_until(at_ns)?;
        }
    }

    /// Reads requests without answering them, until this time has come and every arrived request is read. Returns when that
    /// was.
    fn collect_until(&mut self, at_ns: u64, kind: SilenceKind) -> Result<RangeInclusive<u64>> {
        loop {
            let mut looked_ns = monotonic_ns();
            while let Some(request) = self.receive()? {
                if kind == SilenceKind::DelaysReplies {
                    self.waiting.push(request);
                }
                looked_ns = monotonic_ns();
            }
            let now_ns = monotonic_ns();
            if now_ns >= at_ns {
                return Ok(looked_ns..=now_ns);
            }
            self.wait_until(at_ns)?;
        }
    }

    /// Sends the replies that are due, and waits for a packet, the next reply or this time.
    fn wait_until(&mut self, at_ns: u64) -> Result<()> {
        while let Some((_, reply, to)) = self.delayed.pop_front_if(|(due_ns, ..)| *due_ns <= monotonic_ns()) {
            self.deliver(&reply, to)?;
        }
        let at_ns = self.delayed.front().map_or(at_ns, |(due_ns, ..)| at_ns.min(*due_ns));
        let left = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns())).min(MAX_WAIT);
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }

    /// The reply to the next request and its address; none when nothing has arrived.
    fn receive(&mut self) -> Result<Option<(Vec<u8>, SocketAddr)>> {
        let mut packet = [0; 2048];
        loop {
            let (length, from) = match self.socket.recv_from(&mut packet) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot receive echo requests"),
            };
            let header = usize::from(packet[0] & 0xf) * 4;
            let Some(message) = packet.get(header..length).filter(|message| message.len() >= 8) else {
                continue;
            };
            if message[0] == ECHO_REQUEST {
                self.arrivals_ns.push(monotonic_ns());
                return Ok(Some((reply(message), from)));
            }
        }
    }

    fn send(&mut self, reply: Vec<u8>, to: SocketAddr) -> Result<()> {
        if self.delay.is_zero() {
            return self.deliver(&reply, to);
        }
        self.delayed.push_back((monotonic_ns() + nanoseconds(self.delay), reply, to));
        Ok(())
    }

    fn deliver(&self, reply: &[u8], to: SocketAddr) -> Result<()> {
        self.socket.send_to(reply, to).map(drop).with_context(|| format!("cannot reply to {to}"))
    }
}

/// The reply to a request: its type and its checksum (RFC 1624) differ.
fn reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0] = ECHO_REPLY;
    let checksum = u16::from_be_bytes([request[2], request[3]]);
    let sum = u32::from(checksum) + (u32::from(ECHO_REQUEST) << 8);
    let sum = (sum & 0xffff) + (sum >> 16);
    reply[2..4].copy_from_slice(&(sum as u16).to_be_bytes());
    reply
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
