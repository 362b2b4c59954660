//! The tarball, for every other distribution: the same files, to be unpacked over `/`, or anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::tree::Layout;
use super::{Release, output};

const LAYOUT: Layout = Layout { zsh: "usr/share/zsh/site-functions", licences: true };

/// Makes it, and returns where it is.
pub(super) fn make(release: &Release, work: &Path, to: &Path) -> Result<PathBuf> {
    let name = format!("migtrace-{}-x86_64-linux-gnu", release.version);
    release.install(&work.join(&name), LAYOUT)?;
    let tarball = to.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.args(["--mtime", &format!("@{}", release.time), "--use-compress-program", "gzip --best --no-name"]);
    tar.arg("--file").arg(&tarball).arg("--directory").arg(work).arg(&name);
    output(&mut tar)?;
    Ok(tarball)
}
