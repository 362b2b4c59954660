//! The keys and certificates of connections with TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::Target;

/// A file with a key or certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} for TLS: {why}", path.display())]
pub struct BadFile {
    path: PathBuf,
    why: String,
}

impl BadFile {
    fn new(path: &Path, why: &impl ToString) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BadFile> {
    fs::read(path).map_err(|error| BadFile::new(path, &error))
}

/// The certificates of a file in PEM.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let read = read.map_err(|error| BadFile::new(path, &error))?;
    if read.is_empty() {
        return Err(BadFile::new(path, &"it has no certificate in PEM"));
    }
    Ok(read)
}

/// Whom to trust, and who to be.
pub(super) fn configuration(target: &Target) -> Result<ClientConfig, BadFile> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BadFile::new(Path::new("the TLS library"), &error))?;
    let builder = match &target.certificate {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| BadFile::new(path, &error))?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder
            .with_native_roots()
            .map_err(|error| BadFile::new(Path::new("the system's certificates"), &error))?,
    };
    let Some(client) = &target.client else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(&read(&client.key)?)
        .map_err(|error| BadFile::new(&client.key, &error))?;
    builder
        .with_client_auth_cert(certificates(&client.certificate)?, key)
        .map_err(|error| BadFile::new(&client.certificate, &error))
}
