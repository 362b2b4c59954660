//! A guest that answers echo requests itself, and falls silent for times that it knows exactly.
//!
//! The kernel of its network namespace answers none. So what the responder does is all that happens, and its own
//! stamps of `CLOCK_MONOTONIC` are the truth about every silence.

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

/// Before the sender of requests.
const PRIORITY: u8 = 2;

/// How long it looks for packets at most before it looks at the clock.
const LOOK: Duration = Duration::from_millis(20);

/// How long it goes on after the last silence of a plan.
const AFTERMATH: Duration = Duration::from_millis(100);

/// What becomes of the requests that arrive during a silence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SilenceKind {
    /// They are never answered.
    LosesRequests,
    /// They are answered at its end.
    DelaysReplies,
}

/// A silence to come.
#[derive(Clone, Copy, Debug)]
pub struct PlannedSilence {
    /// Time from the end of the one before.
    pub after: Duration,
    /// For how long.
    pub length: Duration,
    /// What becomes of requests.
    pub silence: SilenceKind,
}

/// A silence as it was. Its ends are known as well as two readings of the clock tell, before and after.
#[derive(Clone, Debug)]
pub struct ActualSilence {
    /// Every request that had arrived by then was answered before, and none that came later. `CLOCK_MONOTONIC`.
    pub from_ns: RangeInclusive<u64>,
    /// The responder began to answer again: what arrived later, or what had been waiting. `CLOCK_MONOTONIC`.
    pub until_ns: RangeInclusive<u64>,
}

/// What became of a plan.
#[derive(Clone, Debug)]
pub struct PlayedPlan {
    /// The silences, in their order.
    pub truths: Vec<ActualSilence>,
    /// When each request since the plan began was read. `CLOCK_MONOTONIC`.
    pub arrivals_ns: Vec<u64>,
}

/// A responder at work. It answers until this goes.
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
        Self::start_far_away(netns, Duration::ZERO)
    }

    /// As [`Self::start`], with replies that are on their way for so long.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_far_away(netns: &NetNs, way: Duration) -> Result<Self> {
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
            let lived = be_punctual(PRIORITY).and_then(|()| Guest::new(socket, way).live(&to_play, &played));
            if let Err(error) = lived {
                // Nobody waits for it any more when the responder has gone.
                let _ = played.send(Err(error));
            }
        })?;
        Ok(Self { plans, played: results })
    }

    /// Begins to fall silent as planned, the first time `after` now.
    ///
    /// # Errors
    ///
    /// When it has failed before.
    pub fn play(&self, plan: Vec<PlannedSilence>) -> Result<()> {
        self.plans.send(plan).map_err(|_| anyhow!("the responder has ended"))
    }

    /// Waits for the end of the plan; what became of it.
    ///
    /// # Errors
    ///
    /// When the socket failed.
    pub fn played(&self) -> Result<PlayedPlan> {
        self.played.recv().context("the responder has ended")?
    }
}

/// Puts the calling thread before every ordinary one: other work on the machine is no silence.
pub(crate) fn be_punctual(priority: u8) -> Result<()> {
    let thread = nix::unistd::gettid().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", &priority.to_string(), &thread]).status();
    if !status.context("cannot start `chrt`")?.success() {
        bail!("`chrt` cannot make a thread a real-time one");
    }
    // A timer of an ordinary thread may fire 50 µs late, so that several wake-ups can be made one.
    nix::sys::prctl::set_timerslack(1).context("cannot make timers punctual")
}

struct Guest {
    socket: UdpSocket,
    waiting: Vec<(Vec<u8>, SocketAddr)>,
    /// How long replies take.
    way: Duration,
    /// Replies, each with the time at which it arrives.
    on_their_way: VecDeque<(u64, Vec<u8>, SocketAddr)>,
    /// Since the latest plan began.
    arrivals_ns: Vec<u64>,
}

impl Guest {
    const fn new(socket: UdpSocket, way: Duration) -> Self {
        Self { socket, waiting: Vec::new(), way, on_their_way: VecDeque::new(), arrivals_ns: Vec::new() }
    }

    /// Ends when nobody can send it plans any more.
    fn live(
        mut self,
        plans: &Receiver<Vec<PlannedSilence>>,
        played: &Sender<Result<PlayedPlan>>,
    ) -> Result<()> {
        loop {
            match plans.try_recv() {
                Ok(plan) => {
                    self.arrivals_ns.clear();
                    let truths = self.play(&plan)?;
                    // The round trips after the last silence are part of what is to be judged.
                    self.answer_until(monotonic_ns() + nanoseconds(AFTERMATH))?;
                    let arrivals_ns = std::mem::take(&mut self.arrivals_ns);
                    let _ = played.send(Ok(PlayedPlan { truths, arrivals_ns }));
                }
                Err(TryRecvError::Empty) => {
                    self.answer_until(monotonic_ns() + nanoseconds(LOOK))?;
                }
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn play(&mut self, plan: &[PlannedSilence]) -> Result<Vec<ActualSilence>> {
        let mut truths = Vec::new();
        let mut awake_since_ns = monotonic_ns();
        for planned in plan {
            let from_ns = self.answer_until(awake_since_ns + nanoseconds(planned.after))?;
            let mut until_ns =
                self.collect_until(from_ns.end() + nanoseconds(planned.length), planned.silence)?;
            let mut waiting = std::mem::take(&mut self.waiting).into_iter();
            if let Some((reply, to)) = waiting.next() {
                let before_ns = monotonic_ns();
                self.send(reply, to)?;
                until_ns = before_ns..=monotonic_ns();
            }
            awake_since_ns = *until_ns.end();
            truths.push(ActualSilence { from_ns, until_ns });
            for (reply, to) in waiting {
                self.send(reply, to)?;
            }
        }
        Ok(truths)
    }

    /// Returns when the time has come and nothing that has arrived is unanswered; when that was.
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

    /// Returns when the time has come and nothing that has arrived is left to read; when that was.
    fn collect_until(&mut self, at_ns: u64, silence: SilenceKind) -> Result<RangeInclusive<u64>> {
        loop {
            let mut looked_ns = monotonic_ns();
            while let Some(request) = self.receive()? {
                if silence == SilenceKind::DelaysReplies {
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

    /// Waits for a packet, or until the time has come. Meanwhile replies arrive.
    fn wait_until(&mut self, at_ns: u64) -> Result<()> {
        while let Some((_, reply, to)) =
            self.on_their_way.pop_front_if(|(due_ns, ..)| *due_ns <= monotonic_ns())
        {
            self.deliver(&reply, to)?;
        }
        let at_ns = self.on_their_way.front().map_or(at_ns, |(due_ns, ..)| at_ns.min(*due_ns));
        let left = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns())).min(LOOK);
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }

    /// The reply to the next request, and whom it is for; none when nothing has arrived.
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
        if self.way.is_zero() {
            return self.deliver(&reply, to);
        }
        self.on_their_way.push_back((monotonic_ns() + nanoseconds(self.way), reply, to));
        Ok(())
    }

    fn deliver(&self, reply: &[u8], to: SocketAddr) -> Result<()> {
        self.socket.send_to(reply, to).map(drop).with_context(|| format!("cannot reply to {to}"))
    }
}

/// The reply to a request: another type, and the checksum that goes with it (RFC 1624).
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
