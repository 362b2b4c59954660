//! The package for Fedora, RHEL, SUSE and their kin.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::tree::{CONFIGURATION, Layout, all_files};
use super::{HOMEPAGE, MAINTAINER, Release, SUMMARY, output};

const LAYOUT: Layout = Layout { zsh: "usr/share/zsh/site-functions", licences: true };

/// What the macros of systemd's packages do. Whether the service is enabled is up to the distribution's presets.
const SCRIPTS: &str = "\
%post
if [ $1 -eq 1 ] && [ -x /usr/bin/systemctl ]; then
    systemctl --no-reload preset migtrace.service || :
fi

%preun
if [ $1 -eq 0 ] && [ -x /usr/bin/systemctl ]; then
    systemctl --no-reload disable --now migtrace.service || :
    # On a kernel without TCX a killed one leaves filters behind.
    migtrace cleanup >/dev/null || :
fi

%postun
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ $1 -ge 1 ]; then systemctl try-restart migtrace.service || :; fi
fi
";

const OUR_LICENCES: &str = "(MIT OR Apache-2.0) AND GPL-2.0-only";
const GLIBC: &str = "glibc >= 2.28";
/// What unpacks a package and runs its scripts.
const OF_RPM_ITSELF: [&str; 2] = ["rpmlib(", "/bin/sh"];

/// Makes it, and returns where it is.
pub(super) fn make(release: &Release, work: &Path, to: &Path) -> Result<PathBuf> {
    let root = work.join("rpm");
    release.install(&root, LAYOUT)?;
    let spec = work.join("migtrace.spec");
    fs::write(&spec, specification(release, &root)?)
        .with_context(|| format!("cannot write {}", spec.display()))?;
    let made = work.join("rpms");
    let mut build = Command::new("rpmbuild");
    build.args(["-bb", "--target", "x86_64-linux", "--quiet"]).env("SOURCE_DATE_EPOCH", &release.time);
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    build.args(define("_topdir", &work.join("rpmbuild").display().to_string()));
    build.args(define("_rpmdir", &made.display().to_string()));
    // Not that of the machine: the same source makes the same package.
    build.args(define("_buildhost", "localhost"));
    build.args(define("_build_name_fmt", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"));
    output(build.arg("--buildroot").arg(work.join("buildroot")).arg(&spec))?;
    let name = format!("migtrace-{}-1.x86_64.rpm", release.version);
    let package = to.join(&name);
    fs::copy(made.join(&name), &package).with_context(|| format!("cannot copy {name}"))?;
    check(&package, &root)?;
    Ok(package)
}

/// Asks the package what it holds and needs: all files below `root`, the C library, and nothing that was found by itself.
fn check(package: &Path, root: &Path) -> Result<()> {
    let ask = |what: &str| output(Command::new("rpm").args(["--query", what, "--package"]).arg(package));
    let inside = |file: &PathBuf| format!("/{}", file.strip_prefix(root).unwrap_or(file).display());
    let expected: BTreeSet<_> = all_files(root)?.iter().map(inside).collect();
    let listed: BTreeSet<_> = ask("--list")?.lines().map(str::to_owned).collect();
    ensure!(listed == expected, "{} holds {listed:?}, and not {expected:?}", package.display());
    let needed = ask("--requires")?;
    let needed: Vec<_> =
        needed.lines().filter(|need| !OF_RPM_ITSELF.iter().any(|of| need.starts_with(of))).collect();
    ensure!(needed == [GLIBC], "{} needs {needed:?}, and not {GLIBC:?}", package.display());
    Ok(())
}

fn specification(release: &Release, root: &Path) -> Result<String> {
    let Release { version, .. } = release;
    // What is built is built already: nothing is to be stripped, compressed or looked into for dependencies.
    let mut spec = format!(
        "%global __os_install_post %{{nil}}\n%global debug_package %{{nil}}\n%global _build_id_links none\n\
         %global use_source_date_epoch_as_buildtime 1\n%global clamp_mtime_to_source_date_epoch 1\n\
         Name: migtrace\nVersion: {version}\nRelease: 1\nSummary: {SUMMARY}\nLicense: {OUR_LICENCES} AND {}\n\
         URL: {HOMEPAGE}\nPackager: {MAINTAINER}\nAutoReqProv: no\n\
         Requires: {GLIBC}\n\n\
         %description\n\
         eBPF programs in the kernel of a compute host count every byte of a migration as\n\
         it is on the wire, stamp QEMU's phases and the stop of each vCPU, and find the\n\
         gaps in which the guest does not answer. Guest, QEMU and libvirt stay untouched.\n\
         The service records every migration of the host.\n\n\
         %install\nmkdir -p %{{buildroot}}\ncp -a {root}/. %{{buildroot}}/\n\n{SCRIPTS}\n%files\n",
        release.third_party.expression,
        root = root.display(),
    );
    for file in all_files(root)? {
        let path = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let kind = if path == CONFIGURATION { "%config(noreplace) " } else { "" };
        writeln!(spec, "%attr(-, root, root) {kind}/{path}").context("cannot write to a text")?;
    }
    Ok(spec)
}
