//! The package for Debian and Ubuntu.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::tree::{CONFIGURATION, DOCUMENTATION, Layout, THIRD_PARTY, all_files, compress, write};
use super::{HOMEPAGE, MAINTAINER, Release, SUMMARY, output};
use crate::paths;

const LAYOUT: Layout = Layout { zsh: "usr/share/zsh/vendor-completions", licences: false };

/// What Debian's part of the version counts: packages of the same release.
const REVISION: u32 = 1;

/// Enables and starts the service as other packages of Debian's do: on the first installation, unless the administrator
/// has said otherwise, and again after an upgrade if it ran.
const AFTER_INSTALLATION: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = configure ]; then
    deb-systemd-helper unmask migtrace.service >/dev/null || true
    if deb-systemd-helper --quiet was-enabled migtrace.service; then
        deb-systemd-helper enable migtrace.service >/dev/null || true
    else
        deb-systemd-helper update-state migtrace.service >/dev/null || true
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n \"$2\" ]; then action=restart; else action=start; fi
        deb-systemd-invoke $action migtrace.service >/dev/null || true
    fi
fi
";

const BEFORE_REMOVAL: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop migtrace.service >/dev/null || true
    # On a kernel without TCX a killed one leaves filters behind.
    migtrace cleanup >/dev/null || true
fi
";

/// The records of migrations are data of the administrator's: they go only when the package is purged.
const AFTER_REMOVAL: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ \"$1\" = purge ]; then
    if command -v deb-systemd-helper >/dev/null; then
        deb-systemd-helper purge migtrace.service >/dev/null || true
    fi
    rm -rf /var/lib/private/migtrace /var/lib/migtrace
fi
";

/// Makes it, and returns where it is.
pub(super) fn make(release: &Release, work: &Path, to: &Path) -> Result<PathBuf> {
    let root = work.join("deb");
    release.install(&root, LAYOUT)?;
    add_papers(release, &root.join(DOCUMENTATION))?;
    let control = root.join("DEBIAN");
    fs::create_dir(&control).with_context(|| format!("cannot make {}", control.display()))?;
    let files = all_files(&root)?;
    write(&control.join("md5sums"), &checksums(&root, &files)?, 0o644)?;
    write(&control.join("control"), &description(release, &files)?, 0o644)?;
    write(&control.join("conffiles"), &format!("/{CONFIGURATION}\n"), 0o644)?;
    write(&control.join("postinst"), AFTER_INSTALLATION, 0o755)?;
    write(&control.join("prerm"), BEFORE_REMOVAL, 0o755)?;
    write(&control.join("postrm"), AFTER_REMOVAL, 0o755)?;
    let package = to.join(format!("migtrace_{}_amd64.deb", version(release)));
    let mut build = Command::new("dpkg-deb");
    build.args(["--build", "--root-owner-group", "-Zxz"]).arg(&root).arg(&package);
    output(build.env("SOURCE_DATE_EPOCH", &release.time))?;
    Ok(package)
}

fn version(release: &Release) -> String {
    format!("{}-{REVISION}", release.version)
}

/// The files that Debian's policy has in the documentation of every package, under the names that it gives them.
fn add_papers(release: &Release, folder: &Path) -> Result<()> {
    let upstream = folder.join("changelog");
    fs::rename(folder.join("CHANGELOG.md"), &upstream).context("cannot rename the change log")?;
    compress(&upstream)?;
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", "--date", &format!("@{}", release.time)]).env("LC_ALL", "C");
    let debian = folder.join("changelog.Debian");
    let entry = format!(
        "migtrace ({}) unstable; urgency=medium\n\n  * Release {}. What is new is in changelog.gz.\n\n -- {MAINTAINER}  {}",
        version(release),
        release.version,
        output(&mut date)?
    );
    write(&debian, &entry, 0o644)?;
    compress(&debian)?;
    for file in THIRD_PARTY {
        compress(&folder.join(file))?;
    }
    write(&folder.join("copyright"), &copyright()?, 0o644)
}

/// Who holds the rights, and what they permit, in the form of machine-readable copyright files (1.0).
fn copyright() -> Result<String> {
    let mit = paths::root().join("LICENSE-MIT");
    let mit = fs::read_to_string(&mit).with_context(|| format!("cannot read {}", mit.display()))?;
    let (holder, terms) = mit
        .split_once("Copyright (c) ")
        .and_then(|(_, rest)| rest.split_once("\n\n"))
        .context("LICENSE-MIT does not say who holds the rights")?;
    let terms: String = terms
        .trim_end()
        .lines()
        .map(|line| if line.is_empty() { " .\n".into() } else { format!(" {line}\n") })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: migtrace\n\
         Source: {HOMEPAGE}\n\
         Comment:\n The command contains libraries of others. THIRD-PARTY.gz, beside this file, lists them and has their\n \
         licences; rust-standard-library.html.gz has those of the standard library of Rust.\n\n\
         Files: *\nCopyright: {holder}\nLicense: Expat or Apache-2.0\n\n\
         Files: migtrace-ebpf/*\nCopyright: {holder}\nLicense: (Expat or Apache-2.0) and GPL-2\n\n\
         License: Expat\n{terms}\n\
         License: Apache-2.0\n On Debian systems, the licence is in /usr/share/common-licenses/Apache-2.0.\n\n\
         License: GPL-2\n Version 2 only. On Debian systems, the licence is in /usr/share/common-licenses/GPL-2.\n"
    ))
}

fn description(release: &Release, files: &[PathBuf]) -> Result<String> {
    let mut bytes = 0;
    for file in files {
        bytes += fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
    }
    let version = version(release);
    let size = bytes.div_ceil(1024);
    Ok(format!(
        "Package: migtrace\nVersion: {version}\nArchitecture: amd64\nMaintainer: {MAINTAINER}\nInstalled-Size: {size}\n\
         Depends: libc6 (>= 2.28), init-system-helpers (>= 1.52)\nSection: admin\nPriority: optional\n\
         Homepage: {HOMEPAGE}\nDescription: {SUMMARY}\n \
         eBPF programs in the kernel of a compute host count every byte of a migration\n \
         as it is on the wire, stamp QEMU's phases and the stop of each vCPU, and find\n \
         the gaps in which the guest does not answer. Guest, QEMU and libvirt stay\n \
         untouched. The service records every migration of the host.\n"
    ))
}

/// The list by which `dpkg --verify` finds damaged files.
fn checksums(root: &Path, files: &[PathBuf]) -> Result<String> {
    let mut sums = String::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let sum = output(Command::new("md5sum").arg(file))?;
        let sum = sum.split(' ').next().unwrap_or_default();
        writeln!(sums, "{sum}  {path}").context("cannot write to a text")?;
    }
    Ok(sums)
}
