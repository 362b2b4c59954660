//! Answers Prometheus' scrapes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Dialect, Exporter};

/// Connections at once. One more ends the oldest of them.
const MOST_CONNECTIONS: usize = 16;
/// Within this time a client has to have asked.
const ASKING: Duration = Duration::from_secs(5);
/// Within this time it has to have read the answer, and gone.
const WHOLE: Duration = Duration::from_secs(20);
/// For the head of a request; the least that hyper takes.
const MOST_HEAD_BYTES: usize = 8_192;
/// After an error of the listening socket, such as that no descriptor is left.
const PAUSE: Duration = Duration::from_millis(200);

/// The address cannot be served at.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {error}{}", help(error))]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

fn help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: choose another port",
        io::ErrorKind::AddrNotAvailable => "; this host has no such address",
        _ => "",
    }
}

/// Serves `GET /metrics`. A connection is for one request.
pub struct Server {
    listener: TcpListener,
    exporter: Exporter,
}

impl Server {
    /// Listens at an address. Port 0 means any that is free.
    ///
    /// # Errors
    /// When the address is taken, or not this host's.
    pub async fn bind(address: SocketAddr, exporter: Exporter) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|error| BindError { address, error })?;
        Ok(Self { listener, exporter })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped: spawn it as a task of its own. No client can hold it up.
    pub async fn run(self) {
        let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            connections.retain(|connection| !connection.is_finished());
            // An honest client is done in milliseconds. Whoever has been here longest is not one.
            if connections.len() >= MOST_CONNECTIONS
                && let Some(oldest) = connections.pop_front()
            {
                oldest.abort();
            }
            let serving = timeout(WHOLE, serve(stream, self.exporter.clone()));
            connections.push_back(tokio::spawn(async move { drop(serving.await) }));
        }
    }
}

async fn serve(stream: TcpStream, exporter: Exporter) {
    let service = service_fn(move |request| {
        let response = answer(&request, &exporter);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(ASKING);
    connection.max_buf_size(MOST_HEAD_BYTES).keep_alive(false);
    // The client has gone, or has sent no request: its own business.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, exporter: &Exporter) -> Response<Full<Bytes>> {
    let status = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => StatusCode::OK,
        ("/metrics", _) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    exporter.count_scrape(status.as_u16());
    let dialect = asked(request.headers());
    let (kind, text) = match status {
        StatusCode::OK => (dialect.content_type(), exporter.text(dialect)),
        StatusCode::METHOD_NOT_ALLOWED => (PLAIN, "only GET and HEAD\n".to_owned()),
        _ => (PLAIN, "the metrics are at /metrics\n".to_owned()),
    };
    // hyper leaves out the body of an answer to HEAD, and keeps its length.
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// OpenMetrics, if the client says that it knows it.
fn asked(headers: &HeaderMap) -> Dialect {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let knows = ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_it =
            parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
        let refuses = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        is_it && !parts.any(refuses)
    });
    if knows { Dialect::OpenMetrics } else { Dialect::Classic }
}
