//! A collector that does what it is told: over gRPC or HTTP/1.1, with or without TLS.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use tonic::Status;

/// What it does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Takes it. The body is that of the answer, encoded.
    Takes(Vec<u8>),
    /// Answers with this status, over gRPC.
    Status(Status),
    /// Refuses it over gRPC, with details that are no base64.
    Garbled,
    /// Takes it after this time.
    Slowly(Duration),
    Never,
    /// Answers half, and never the rest.
    Half,
    /// Closes the connection, having read the request.
    Closes,
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Speaks {
    Grpc,
    Http,
}

impl Speaks {
    /// What the environment says to a client that is to speak so.
    pub(crate) const fn protocol(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }
}

/// The server. It ends with the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    received: Arc<Mutex<Vec<Bytes>>>,
}

type Replies = Arc<Mutex<VecDeque<Reply>>>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Server {
    /// Gives each request the next of these replies, and the last one to all that follow.
    pub(crate) fn start(
        speaks: Speaks,
        tls: Option<ServerConfig>,
        replies: impl IntoIterator<Item = Reply>,
    ) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let replies: Replies = Arc::new(Mutex::new(replies.into_iter().collect()));
        let (kept, (tell, told)) = (Arc::clone(&received), mpsc::channel());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                accept(&listener, speaks, tls, &kept, &replies).await;
            });
        });
        Self { port: told.recv().unwrap(), received }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The bodies of the requests so far; those of gRPC without the five bytes before them.
    pub(crate) fn received(&self) -> Vec<Bytes> {
        self.received.lock().unwrap().clone()
    }
}

async fn accept(
    listener: &TcpListener,
    speaks: Speaks,
    tls: Option<ServerConfig>,
    kept: &Arc<Mutex<Vec<Bytes>>>,
    replies: &Replies,
) {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, kept, replies) = (tls.clone(), Arc::clone(kept), Arc::clone(replies));
        tokio::spawn(async move {
            let Some(tls) = tls else { return serve(stream, speaks, kept, replies).await };
            // Without a handshake there is no request.
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, speaks, kept, replies).await;
            }
        });
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    speaks: Speaks,
    kept: Arc<Mutex<Vec<Bytes>>>,
    replies: Replies,
) {
    let closes = Arc::new(Notify::new());
    let close = Arc::clone(&closes);
    let service = service_fn(move |request| {
        let (kept, replies, close) = (Arc::clone(&kept), Arc::clone(&replies), Arc::clone(&close));
        async move { Ok::<_, Infallible>(answer(request, speaks, &kept, &replies, &close).await) }
    });
    let stream = TokioIo::new(stream);
    // What a client does to its connection is its own business.
    match speaks {
        Speaks::Grpc => {
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service);
            tokio::select! { _ = connection => {} () = closes.notified() => {} }
        }
        Speaks::Http => {
            let connection = http1::Builder::new().serve_connection(stream, service);
            tokio::select! { _ = connection => {} () = closes.notified() => {} }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    speaks: Speaks,
    kept: &Mutex<Vec<Bytes>>,
    replies: &Mutex<VecDeque<Reply>>,
    close: &Notify,
) -> Response<Body> {
    let mut body = request.into_body().collect().await.unwrap().to_bytes();
    if speaks == Speaks::Grpc {
        body = body.slice(FRAME..);
    }
    kept.lock().unwrap().push(body);
    let reply = {
        let mut replies = replies.lock().unwrap();
        if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
    };
    match reply.unwrap() {
        Reply::Takes(message) => taken(speaks, message),
        Reply::Status(status) => status.into_http::<Full<Bytes>>().map(BodyExt::boxed_unsync),
        Reply::Garbled => {
            let mut response = Status::internal("garbled").into_http::<Full<Bytes>>();
            let details = HeaderValue::from_static("not base64!");
            response.headers_mut().insert("grpc-status-details-bin", details);
            response.map(BodyExt::boxed_unsync)
        }
        Reply::Slowly(time) => {
            tokio::time::sleep(time).await;
            taken(speaks, Vec::new())
        }
        Reply::Never => pending().await,
        Reply::Half => {
            let never = pending::<Option<Result<HeaderMap, Infallible>>>();
            Response::new(Full::from("\0\0").with_trailers(never).boxed_unsync())
        }
        Reply::Closes => {
            close.notify_one();
            pending().await
        }
    }
}

/// What precedes a message in gRPC.
const FRAME: usize = 5;

fn taken(speaks: Speaks, message: Vec<u8>) -> Response<Body> {
    if speaks == Speaks::Http {
        return Response::new(Full::from(message).boxed_unsync());
    }
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0], &length[..], &message].concat();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let body = Full::from(framed).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// TLS with the server's files in a directory; `clients` is the authority of those that may connect.
pub(crate) fn tls(speaks: Speaks, directory: &Path, clients: Option<&Path>) -> ServerConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let certificate = CertificateDer::from_pem_file(directory.join("server-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server-key.pem")).unwrap();
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![if speaks == Speaks::Grpc { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    config
}
