//! Follows all migrations of this host, and sends each record, as a line of JSON, to a TCP address: a `socket` source of Vector, a
//! `tcp` input of Fluent Bit or Logstash.
//!
//! `cargo run --example watch -- 127.0.0.1:9000 unsent.jsonl`, as root.
//!
//! - The watcher never waits for the sink. Records go through a channel to a task of their own.
//! - A sink that is away is tried again, after 1 s, 2 s, ... up to 30 s. Meanwhile up to 1,000 records wait.
//! - When there is no more room, or the end has come, records go to the file. Nothing is lost without a word.
//! - SIGTERM and SIGINT: no new migration is taken on, those under way have 30 s to end, then what waits is sent for at most 10 s.
//!
//! TCP alone does not say what the other side has read. Where a record must never be lost, send it to what answers, such as an
//! OpenTelemetry collector (`migtrace::export::otlp`).

use std::env;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use migtrace::event::EndReason;
use migtrace::record::Record;
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::tracer::Tracer;
use migtrace::watch::{News, Watcher};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// How many records may wait for the sink.
const WAITING: usize = 1_000;
/// How long migrations that are under way may take to end, once this program is to end.
const GRACE: Duration = Duration::from_secs(30);
/// How long the sink may take what still waits at the end.
const LAST_TRY: Duration = Duration::from_secs(10);
/// How long a sink may take a connection or a line.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether the program is about to end.
type Ending = watch::Receiver<bool>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, unsent] = &arguments[..] else {
        eprintln!("usage: watch ADDRESS:PORT UNSENT.jsonl");
        process::exit(2);
    };
    let (records, taken) = mpsc::channel(WAITING);
    let (end, ending) = watch::channel(false);
    let address = address.clone();
    let sink = Sink { address, unsent: unsent.into(), connection: None, ending, last_try: LAST_TRY };
    let sink = tokio::spawn(sink.run(taken));
    // Whatever ends the watch: the sink gets its time, and what it does not take goes to the file.
    let watched = follow(&records, Path::new(unsent)).await;
    end.send_replace(true);
    drop(records);
    sink.await??;
    watched
}

/// Watches until a signal comes and nothing is under way any more.
async fn follow(records: &Sender<String>, unsent: &Path) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Nothing is missed from here on, however many migrations run at once.
    let mut watcher = Watcher::new(Tracer::builder().start()?, Selection::default());
    eprintln!("watching");
    let mut end: Option<Instant> = None;
    let watched = loop {
        tokio::select! {
            news = watcher.next() => match news {
                Ok(news) => hand_over(news, records, unsent)?,
                // The kernel cannot be read any more. What was seen until now is still worth a record.
                Err(error) => break Err(error.into()),
            },
            _ = terminate.recv(), if end.is_none() => end = Some(Instant::now() + GRACE),
            _ = interrupt.recv(), if end.is_none() => end = Some(Instant::now() + GRACE),
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => break Ok(()),
        }
        if end.is_some() {
            watcher.decline();
            if watcher.is_idle() {
                break Ok(());
            }
        }
    };
    // What is still under way is finished as interrupted.
    for news in watcher.finish(EndReason::Interrupted)? {
        hand_over(news, records, unsent)?;
    }
    watched
}

/// Hands the records of a finished migration over to the sink, without waiting for it.
fn hand_over(news: News, records: &Sender<String>, unsent: &Path) -> io::Result<()> {
    match news {
        News::Begun { journal } => eprintln!("migration {journal} has begun"),
        News::Finished(finished) => {
            for record in &finished.records {
                eprintln!("{}", report::line(record));
                if let Err(full_or_closed) = records.try_send(line(record)?) {
                    keep(unsent, &full_or_closed.into_inner())?;
                }
            }
        }
        // The events of each migration come here, too: written down, they are its log.
        _ => {}
    }
    Ok(())
}

fn line(record: &Record) -> io::Result<String> {
    report::json_line(record).map_err(io::Error::other)
}

/// Appends a line to the file of what the sink has not taken.
fn keep(unsent: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(unsent)?.write_all(line.as_bytes())
}

/// Where records go.
struct Sink {
    address: String,
    unsent: PathBuf,
    connection: Option<TcpStream>,
    /// Becomes true when the program ends: no pause lasts longer than that.
    ending: Ending,
    /// How long to try after that.
    last_try: Duration,
}

impl Sink {
    /// Sends what comes, in order, until the channel is closed and empty.
    async fn run(mut self, mut records: Receiver<String>) -> io::Result<()> {
        let mut until = None;
        while let Some(line) = records.recv().await {
            let mut pause = Duration::from_secs(1);
            while let Err(error) = self.send(&line, until).await {
                let at = &self.address;
                if until.is_some_and(|until| Instant::now() >= until) {
                    eprintln!("{at}: {error}; the record is in {}", self.unsent.display());
                    keep(&self.unsent, &line)?;
                    break;
                }
                eprintln!("{at}: {error}; {} records wait", records.len() + 1);
                if until.is_some() {
                    sleep(Duration::from_secs(1)).await;
                } else if timeout(pause, self.ending.wait_for(|ending| *ending)).await.is_ok() {
                    until = Some(Instant::now() + self.last_try);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        Ok(())
    }

    /// Sends a line; after `until` it does not try.
    async fn send(&mut self, line: &str, until: Option<Instant>) -> io::Result<()> {
        let patience = Instant::now() + PATIENCE;
        let deadline = until.map_or(patience, |until| until.min(patience));
        let sent = timeout_at(deadline, async {
            let mut stream = match self.connection.take() {
                Some(stream) => stream,
                None => TcpStream::connect(&self.address).await?,
            };
            stream.write_all(line.as_bytes()).await?;
            // It is kept only if all of the line was taken: what follows half a line would be lost, too.
            self.connection = Some(stream);
            Ok(())
        });
        sent.await?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

    use std::fs;
    use std::net::TcpListener;

    use tokio::io::AsyncReadExt as _;
    use tokio::task::JoinHandle;

    use super::*;

    /// A sink to this address, and what feeds and ends it.
    fn start(
        address: String,
        unsent: &Path,
    ) -> (Sender<String>, watch::Sender<bool>, JoinHandle<io::Result<()>>) {
        let (records, taken) = mpsc::channel(WAITING);
        let (end, ending) = watch::channel(false);
        let last_try = Duration::from_millis(200);
        let sink = Sink { address, unsent: unsent.to_owned(), connection: None, ending, last_try };
        (records, end, tokio::spawn(sink.run(taken)))
    }

    fn free_address() -> String {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    #[tokio::test]
    async fn what_waits_for_a_sink_that_is_away_arrives_in_order_once_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let unsent = folder.path().join("unsent.jsonl");
        let address = free_address();
        let (records, _end, sink) = start(address.clone(), &unsent);
        for line in ["1\n", "2\n", "3\n"] {
            records.try_send(line.to_owned()).unwrap();
        }
        sleep(Duration::from_millis(100)).await;
        let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
        let (mut connection, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        drop(records);
        sink.await.unwrap().unwrap();
        let mut got = String::new();
        connection.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "1\n2\n3\n");
        assert!(!unsent.exists());
    }

    #[tokio::test]
    async fn what_a_sink_has_not_taken_by_the_end_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let unsent = folder.path().join("unsent.jsonl");
        let (records, end, sink) = start(free_address(), &unsent);
        for line in ["1\n", "2\n"] {
            records.try_send(line.to_owned()).unwrap();
        }
        end.send_replace(true);
        drop(records);
        sink.await.unwrap().unwrap();
        assert_eq!(fs::read_to_string(&unsent).unwrap(), "1\n2\n");
    }
}
