//! Certificates for tests with TLS: those with which QEMUs encrypt a migration, or a collector and its client.

use crate::programs;
use anyhow::{Context as _, Result};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A certificate authority of one lab, or one test.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes an authority, with its files in `directory`.
    ///
    /// # Errors
    ///
    /// When openssl is not installed, or fails.
    pub fn create(directory: &Path) -> Result<Self> {
        make_directory(directory)?;
        let authority = Self { directory: directory.into() };
        let (key, certificate) = (authority.file("ca-key.pem"), authority.file("ca-cert.pem"));
        let request = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=lab",
            "-addext",
            "basicConstraints=critical,CA:true",
        ];
        let usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", &certificate];
        openssl(&[&request[..], &new_key(&key), &usage].concat())?;
        Ok(authority)
    }

    /// Writes the files that QEMU reads (`x509` in its documentation of TLS) into `directory`, for the host with this name and
    /// address: `ca-cert.pem`, and `-key.pem` and `-cert.pem` of `server` and `client`, which are the same.
    ///
    /// # Errors
    ///
    /// When openssl fails, or a file cannot be written.
    pub fn issue(&self, name: &str, address: IpAddr, directory: &Path) -> Result<()> {
        make_directory(directory)?;
        let path = |name: &str| directory.join(name).display().to_string();
        let (request, extensions) = (self.file("request.pem"), self.file("extensions"));
        let key = path("server-key.pem");
        let subject = format!("/CN={name}");
        openssl(&[&["req", "-subj", &subject, "-out", &request][..], &new_key(&key)].concat())?;
        // Both ends of a connection check the other end. libvirt names the destination by its address.
        let text = format!(
            "subjectAltName=DNS:{name},IP:{address}\nbasicConstraints=critical,CA:false\n\
             keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n",
        );
        fs::write(&extensions, text).with_context(|| format!("cannot write {extensions}"))?;
        let (ca, ca_key) = (self.file("ca-cert.pem"), self.file("ca-key.pem"));
        let certificate = path("server-cert.pem");
        let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &request, "-out", &certificate];
        openssl(&[&sign[..], &["-CA", &ca, "-CAkey", &ca_key, "-extfile", &extensions]].concat())?;
        for (from, to) in [(&ca, "ca-cert.pem"), (&certificate, "client-cert.pem"), (&key, "client-key.pem")]
        {
            fs::copy(from, directory.join(to)).with_context(|| format!("cannot copy {from}"))?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

/// Options of `openssl req` for a new key on the curve P-256, without a password.
fn new_key(path: &str) -> [&str; 7] {
    ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]
}

fn openssl(arguments: &[&str]) -> Result<()> {
    programs::run("openssl", arguments).map(drop)
}
