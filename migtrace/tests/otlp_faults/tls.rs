//! Real handshakes, with certificates that openssl has made.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migtrace::export::otlp::send::Answer;
use migtrace_lab::Authority;

use super::server::{Reply, Server, Speaks, tls};
use super::{PROTOCOL, TIMEOUT, accepted, request, send};

/// An authority with the files of one host, `127.0.0.1`.
struct Pki(tempfile::TempDir);

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("ca")).unwrap();
        authority.issue("collector", [127, 0, 0, 1].into(), folder.path()).unwrap();
        Self(folder)
    }

    fn directory(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }
}

const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const CLIENT_KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
const CLIENT_CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";

/// Sends over TLS to a name of this host, with these files.
fn send_with(server: &Server, speaks: Speaks, host: &str, files: &[(&str, PathBuf)]) -> Answer {
    let files: Vec<_> = files.iter().map(|(name, path)| (*name, path.to_str().unwrap())).collect();
    let variables = [&[(PROTOCOL, speaks.protocol()), (TIMEOUT, "3000")], &files[..]].concat();
    let begun = Instant::now();
    let answer = send(&format!("https://{host}:{}", server.port), &variables);
    assert!(begun.elapsed() < Duration::from_secs(2), "{speaks:?}: {:?}: {answer:?}", begun.elapsed());
    answer
}

fn assert_fails(answer: &Answer, why: &str) {
    let Answer::TryAgain { after: None, why: got } = answer else { panic!("{answer:?}") };
    assert_eq!(got.matches(why).count(), 1, "{got}");
}

#[test]
fn a_collector_of_an_own_authority_is_trusted_and_one_of_another_is_not() {
    let (own, other) = (Pki::new(), Pki::new());
    for speaks in [Speaks::Grpc, Speaks::Http] {
        let server = || {
            let config = tls(speaks, own.directory(), None);
            Server::start(speaks, Some(config), [Reply::Takes(Vec::new())])
        };
        let trusting = server();
        let files = [(CERTIFICATE, own.file("ca-cert.pem"))];
        assert_eq!(send_with(&trusting, speaks, "127.0.0.1", &files), accepted());
        assert_eq!(trusting.received(), [request()]);
        let doubting = server();
        let wrong = [(CERTIFICATE, other.file("ca-cert.pem"))];
        let trust = "; OTEL_EXPORTER_OTLP_CERTIFICATE names the certificates to trust";
        for (files, why) in [
            // It has the same name, and another key.
            (&wrong[..], "invalid peer certificate: BadSignature"),
            // The system's authorities do not know it.
            (&[], "invalid peer certificate: UnknownIssuer"),
        ] {
            let answer = send_with(&doubting, speaks, "127.0.0.1", files);
            assert_fails(&answer, &format!(": {why}{trust}"));
        }
        assert_fails(&send_with(&doubting, speaks, "localhost", &files), "certificate not valid for name");
        assert!(doubting.received().is_empty());
    }
}

#[test]
fn a_client_shows_who_it_is_where_the_collector_wants_that() {
    let (own, other) = (Pki::new(), Pki::new());
    let trusted = (CERTIFICATE, own.file("ca-cert.pem"));
    let client = |pki: &Pki| {
        [(CLIENT_KEY, pki.file("client-key.pem")), (CLIENT_CERTIFICATE, pki.file("client-cert.pem"))]
    };
    for speaks in [Speaks::Grpc, Speaks::Http] {
        let config = tls(speaks, own.directory(), Some(&own.file("ca-cert.pem")));
        let server = Server::start(speaks, Some(config), [Reply::Takes(Vec::new())]);
        let with = |more: &[(&str, PathBuf)]| {
            send_with(&server, speaks, "127.0.0.1", &[std::slice::from_ref(&trusted), more].concat())
        };
        assert_eq!(with(&client(&own)), accepted());
        assert_fails(&with(&[]), "OTEL_EXPORTER_OTLP_CLIENT_KEY");
        let answer = with(&client(&other));
        assert!(matches!(answer, Answer::TryAgain { after: None, .. }), "{answer:?}");
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn tls_where_there_is_none_and_none_where_there_is_tls_end_soon() {
    let own = Pki::new();
    for speaks in [Speaks::Grpc, Speaks::Http] {
        let plain = Server::start(speaks, None, [Reply::Takes(Vec::new())]);
        let files = [(CERTIFICATE, own.file("ca-cert.pem"))];
        let answer = send_with(&plain, speaks, "127.0.0.1", &files);
        assert_fails(&answer, "nothing speaks TLS there");
        let config = tls(speaks, own.directory(), None);
        let encrypted = Server::start(speaks, Some(config), [Reply::Takes(Vec::new())]);
        let begun = Instant::now();
        let answer = send(&encrypted.url(), &[(PROTOCOL, speaks.protocol()), (TIMEOUT, "1000")]);
        assert!(matches!(answer, Answer::TryAgain { .. }), "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(plain.received().is_empty() && encrypted.received().is_empty());
    }
}
