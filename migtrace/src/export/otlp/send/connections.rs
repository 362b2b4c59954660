//! Connections to a collector: with TLS or without, for HTTP/1.1 and, as gRPC has it, HTTP/2.

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::body::Body;

use super::tls::{self, BadFile};
use super::{CONNECT, Target};

/// Makes them when they are needed, and keeps them. One type for both versions, so that the code is there once.
pub(super) type Connections = legacy::Client<HttpsConnector<HttpConnector>, Body>;

/// What is spoken on a connection.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads the certificates that are needed. Nothing is connected yet.
pub(super) fn to(target: &Target, version: Version) -> Result<Connections, BadFile> {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls::configuration(target)?).https_or_http();
    let connector = match version {
        Version::Http1 => connector.enable_http1().wrap_connector(tcp),
        Version::Http2 => connector.enable_http2().wrap_connector(tcp),
    };
    let mut client = legacy::Client::builder(TokioExecutor::new());
    Ok(client.http2_only(version == Version::Http2).build(connector))
}
