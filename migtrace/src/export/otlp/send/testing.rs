//! A collector for tests, over HTTP: it answers what it is told, and keeps what it was sent.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does with a request.
#[derive(Clone, Debug)]
pub(in crate::export::otlp) enum Reply {
    /// Answers with this status, these more headers (each with its end) and this body.
    With(u16, &'static str, Vec<u8>),
    /// Takes this long before it accepts.
    Slowly(Duration),
    /// Never answers.
    Never,
    /// Closes the connection.
    Close,
}

impl Reply {
    pub(in crate::export::otlp) const fn status(status: u16) -> Self {
        Self::With(status, "", Vec::new())
    }
}

/// A request as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::export::otlp) struct Received {
    pub(in crate::export::otlp) path: String,
    pub(in crate::export::otlp) headers: Vec<(String, String)>,
    pub(in crate::export::otlp) body: Vec<u8>,
}

impl Received {
    pub(in crate::export::otlp) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The collector. It ends with the test.
pub(in crate::export::otlp) struct Collector {
    pub(in crate::export::otlp) url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    /// Gives each request the next of these replies, and the last one to all that follow.
    pub(in crate::export::otlp) fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<_>>()));
        let kept = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, replies) = (Arc::clone(&kept), Arc::clone(&replies));
                thread::spawn(move || serve(&stream, &kept, &replies));
            }
        });
        Self { url, received }
    }

    pub(in crate::export::otlp) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Those to this path.
    pub(in crate::export::otlp) fn received_at(&self, path: &str) -> Vec<Received> {
        self.received().into_iter().filter(|received| received.path == path).collect()
    }
}

fn serve(stream: &TcpStream, kept: &Mutex<Vec<Received>>, replies: &Mutex<VecDeque<Reply>>) {
    let mut reader = BufReader::new(stream);
    while let Some(received) = read(&mut reader) {
        kept.lock().unwrap().push(received);
        let reply = {
            let mut replies = replies.lock().unwrap();
            if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
        };
        let (status, headers, body) = match reply.unwrap_or(Reply::status(200)) {
            Reply::With(status, headers, body) => (status, headers, body),
            Reply::Slowly(time) => {
                thread::sleep(time);
                (200, "", Vec::new())
            }
            Reply::Never => {
                thread::sleep(Duration::from_mins(10));
                return;
            }
            Reply::Close => return,
        };
        let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n", body.len());
        let mut stream = stream;
        if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Received> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { path, headers, body })
}
