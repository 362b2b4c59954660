//! The connection to a peer: a remote shell that runs `migtrace serve` there.

use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::error::{End, NO_REMOTE_SHELL, PeerError, Said};
use super::protocol::{ClockAnswer, Order, line};
use crate::event::{Event, Fact, LONGEST_LINE_BYTES, Lines, LogErrorKind};
use crate::host::clock;
use crate::ticks::ticks;
use crate::units::MonotonicNs;

/// How often the clock is read while the migration is under way: two clocks may drift apart by 0.12 ms meanwhile.
const READ_CLOCK_EVERY: Duration = Duration::from_millis(100);
/// How often before: the peer must hear that somebody is there.
const SHOW_LIFE_EVERY: Duration = Duration::from_secs(1);
/// A peer answers at least every second. If nothing comes for this long, it is lost.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a remote shell may take to end after its last output.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// A longer line on standard error is cut.
const LONGEST_SAID_BYTES: u64 = 4096;
/// How much news may wait.
const MOST_NEWS: usize = 1024;

/// How to run migtrace on a peer.
#[derive(Clone, Debug)]
pub struct Command {
    /// The remote shell, its options, and the host.
    pub remote_shell: Vec<String>,
    /// How migtrace is run there, as a shell there understands it.
    pub migtrace: String,
    /// The arguments of migtrace.
    pub arguments: Vec<String>,
}

impl Command {
    /// What the shell on the peer is to run.
    fn remote(&self) -> String {
        format!("{} {}", self.migtrace, shell_words::join(&self.arguments))
    }

    fn program(&self) -> &str {
        self.remote_shell.first().map_or("", String::as_str)
    }

    /// Ctrl-C, and the end of a terminal, go to all processes of that. The connection outlives them: what the peer still has
    /// to say is read, and then it is told to end. An ignored signal stays ignored in the program that a shell becomes.
    fn spawn(&self) -> Result<Child, PeerError> {
        let script =
            format!("command -v \"$1\" >/dev/null || exit {NO_REMOTE_SHELL}; trap '' INT HUP; exec \"$@\"");
        let mut shell = tokio::process::Command::new("/bin/sh");
        shell.args(["-c", &script, "sh"]).args(&self.remote_shell).arg(self.remote());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        shell.spawn().map_err(|source| PeerError::Start { program: self.program().to_owned(), source })
    }
}

/// What came from a peer.
#[derive(Debug)]
#[non_exhaustive]
pub enum News {
    /// An event of its log.
    Event(Box<Event>),
    /// Its clock was read.
    Clock(Reading),
    /// A line on its standard error, or on that of the remote shell.
    Said(String),
    /// Nothing more will come; why, unless that was to be.
    Ended(Option<PeerError>),
}

/// A reading of a peer's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// When this host has asked.
    pub asked: MonotonicNs,
    /// What the peer's clock showed after that.
    pub showed: MonotonicNs,
    /// When the answer came.
    pub answered: MonotonicNs,
}

/// The recording on another host. Dropping it ends that.
pub struct Peer {
    news: mpsc::Receiver<News>,
    orders: Option<mpsc::Sender<Order>>,
    read_clock: watch::Sender<bool>,
    /// Dropped first, so the remote shell is killed.
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Starts to record there. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The remote shell cannot be started. What else can go wrong comes as [`News::Ended`].
    pub fn start(command: &Command) -> Result<Self, PeerError> {
        let mut child = command.spawn()?;
        let (news_to, news) = mpsc::channel(MOST_NEWS);
        let (orders, orders_of) = mpsc::channel(4);
        let (read_clock, reads_clock) = watch::channel(false);
        let (begun, has_begun) = oneshot::channel();
        let (said, last_said) = watch::channel(Said::default());
        let mut tasks = JoinSet::new();
        if let Some(stdin) = child.stdin.take() {
            tasks.spawn(write(stdin, orders_of, reads_clock, has_begun));
        }
        let stderr = child.stderr.take();
        let saying = tokio::spawn(say(stderr, news_to.clone(), said));
        let (program, remote) = (command.program().to_owned(), command.migtrace.clone());
        tasks.spawn(async move {
            let heard = read(&mut child, &news_to, begun).await;
            // What it said last explains why it ended.
            let _ = tokio::time::timeout(END_PATIENCE, saying).await;
            let status = tokio::time::timeout(END_PATIENCE, child.wait()).await.ok().and_then(Result::ok);
            let said = last_said.borrow().clone();
            let Heard { begun, complete, silent, broken } = heard;
            let end = End { begun, complete, silent, broken, status, said };
            let _ = news_to.send(News::Ended(end.why(&program, &remote))).await;
        });
        Ok(Self { news, orders: Some(orders), read_clock, _tasks: tasks })
    }

    /// The next news; none after [`News::Ended`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<News>> {
        self.news.poll_recv(context)
    }

    /// Reads its clock often from now on.
    pub fn read_clock(&self) {
        self.read_clock.send_if_modified(|reads| !std::mem::replace(reads, true));
    }

    /// The migration is over: it ends once nothing more is awaited there.
    pub fn conclude(&self) {
        if let Some(orders) = &self.orders {
            // Only if it does not read any more: then it ends anyway.
            let _ = orders.try_send(Order::Conclude);
        }
    }

    /// It ends now. Its last events still come.
    pub fn stop(&mut self) {
        self.orders = None;
    }
}

/// Asks for the clock, and hands on orders, until there are to be no more.
async fn write(
    mut stdin: ChildStdin,
    mut orders: mpsc::Receiver<Order>,
    mut reads_clock: watch::Receiver<bool>,
    has_begun: oneshot::Receiver<()>,
) {
    let (mut often, mut seldom) = (ticks(READ_CLOCK_EVERY), ticks(SHOW_LIFE_EVERY));
    // Before that a remote shell may be asking for a password. An order that comes before, or the end, is the last.
    let first = tokio::select! {
        Ok(()) = has_begun => None,
        order = orders.recv() => match order {
            Some(order) => Some(order),
            None => return,
        },
        else => return,
    };
    let mut next = first;
    loop {
        let order = match next.take() {
            Some(order) => order,
            None => tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => order,
                    None => return,
                },
                _ = often.tick(), if *reads_clock.borrow_and_update() => Order::Clock(MonotonicNs::default()),
                _ = seldom.tick(), if !*reads_clock.borrow() => Order::Clock(MonotonicNs::default()),
                Ok(()) = reads_clock.changed() => continue,
            },
        };
        let order = match (order, clock::now()) {
            (Order::Clock(_), Ok(now)) => Order::Clock(now),
            (order, _) => order,
        };
        if stdin.write_all(&line(&order)).await.is_err() {
            return;
        }
    }
}

/// What was heard of a peer.
#[derive(Default)]
struct Heard {
    begun: bool,
    complete: bool,
    silent: bool,
    broken: Option<LogErrorKind>,
}

/// Hands on events and readings of the clock, until something else comes.
async fn read(child: &mut Child, news: &mpsc::Sender<News>, begun: oneshot::Sender<()>) -> Heard {
    let mut heard = Heard::default();
    let Some(stdout) = child.stdout.take() else { return heard };
    let (mut stdout, mut lines) = (BufReader::new(stdout), Lines::default());
    let mut begun = Some(begun);
    loop {
        let next = next_line(&mut stdout, LONGEST_LINE_BYTES + 1);
        // Before it has begun, a remote shell may be asking for a password.
        let line = if heard.begun {
            let Ok(line) = tokio::time::timeout(SILENCE, next).await else {
                heard.silent = true;
                return heard;
            };
            line
        } else {
            next.await
        };
        let answered = clock::now();
        let is_clock = serde_json::from_slice::<ClockAnswer>(&line).ok().zip(answered.ok());
        let next = match is_clock {
            Some((ClockAnswer { asked_ns: asked, showed_ns: showed }, answered)) => {
                News::Clock(Reading { asked, showed, answered })
            }
            None => match lines.event(&line) {
                Ok(Some(event)) => {
                    heard.complete = matches!(event.fact, Fact::LogEnd { .. });
                    heard.begun = true;
                    if let Some(begun) = begun.take() {
                        let _ = begun.send(());
                    }
                    News::Event(Box::new(event))
                }
                Ok(None) | Err(LogErrorKind::Empty | LogErrorKind::Truncated) => return heard,
                Err(error) => {
                    heard.broken = Some(error);
                    return heard;
                }
            },
        };
        if news.send(next).await.is_err() {
            return heard;
        }
    }
}

/// Hands on what is said on standard error.
async fn say(stderr: Option<impl AsyncRead + Unpin>, news: mpsc::Sender<News>, last: watch::Sender<Said>) {
    let Some(stderr) = stderr else { return };
    let mut stderr = BufReader::new(stderr);
    loop {
        let line = next_line(&mut stderr, LONGEST_SAID_BYTES).await;
        if line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        last.send_if_modified(|last| last.replace_with(&line));
        if news.send(News::Said(line)).await.is_err() {
            return;
        }
    }
}

/// The next line, with its end, or what there is of it up to `most_bytes`; empty at the end, or when it cannot be read.
async fn next_line(from: &mut BufReader<impl AsyncRead + Unpin>, most_bytes: u64) -> Vec<u8> {
    let mut line = Vec::new();
    match from.take(most_bytes).read_until(b'\n', &mut line).await {
        Ok(_) => line,
        Err(_) => Vec::new(),
    }
}
