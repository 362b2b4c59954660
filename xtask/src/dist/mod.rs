//! `cargo xtask dist`: makes the packages of a release, and checks them.

mod binary;
mod deb;
mod rpm;
mod tarball;
mod third_party;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::prerequisites::Group;
use crate::{paths, setup};
use third_party::ThirdParty;
use tree::Layout;

#[derive(Args)]
pub(crate) struct Options {
    /// Where to put the packages [default: target/packages]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// Package this command, instead of building one for every distribution; for tests of the packages
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Who to ask about the packages.
const MAINTAINER: &str = "The migtrace developers <migtrace@migtrace.invalid>";
const HOMEPAGE: &str = "https://github.com/migtrace/migtrace";
const SUMMARY: &str = "measures what live migrations of KVM virtual machines really cost";

/// What every package is made from.
#[derive(Clone)]
struct Release {
    version: String,
    binary: PathBuf,
    /// Seconds since 1970 of what is packaged, for the times in the packages: the same source makes the same packages.
    time: String,
    third_party: ThirdParty,
}

/// Makes a `.deb`, an `.rpm` and a tarball.
///
/// # Errors
/// When the machine lacks something, or a package cannot be made, or the command is too large or needs a newer C library
/// than it may.
pub(crate) fn run(options: &Options) -> Result<()> {
    let release = match &options.binary {
        Some(binary) => {
            setup::ensure(&[Group::Packages])?;
            Release::of(binary.clone(), None)?
        }
        None => {
            setup::ensure(&[Group::Build, Group::Packages, Group::Portable])?;
            let release = Release::of(binary::build()?, Some(&binary::zig()?))?;
            binary::check(&release.binary)?;
            release
        }
    };
    let output = options.output.clone().unwrap_or_else(|| paths::target().join("packages"));
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let work = paths::target().join("packages-work");
    for package in [deb::make, rpm::make, tarball::make] {
        empty(&work)?;
        let made = package(&release, &work, &output)?;
        println!("{}  {} KiB", made.display(), fs::metadata(&made)?.len() / 1024);
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}

/// Makes the packages for Debian of an earlier release and of this one, in a directory, for a test.
///
/// # Errors
/// When the command is none, or a package cannot be made.
pub(crate) fn debian_packages(binary: &Path, directory: &Path) -> Result<[PathBuf; 2]> {
    let release = Release::of(binary.to_owned(), None)?;
    let earlier = Release { version: "0.0.1".into(), ..release.clone() };
    let make = |release: &Release| {
        let work = directory.join(&release.version);
        empty(&work)?;
        deb::make(release, &work, directory)
    };
    // Most of it is compression, on one CPU.
    thread::scope(|scope| {
        let earlier = scope.spawn(|| make(&earlier));
        let release = make(&release)?;
        Ok([earlier.join().map_err(|_| anyhow!("the earlier package was not made"))??, release])
    })
}

impl Release {
    /// `zig` is what has linked the command, if it is known.
    fn of(binary: PathBuf, zig: Option<&Path>) -> Result<Self> {
        let said = output(Command::new(&binary).arg("--version"))?;
        let version = said.trim().strip_prefix("migtrace ").with_context(|| {
            format!("{} is not migtrace: asked for its version, it says {said:?}", binary.display())
        })?;
        let mut log = Command::new("git");
        log.args(["log", "-1", "--format=%ct"]).current_dir(paths::root());
        let (time, third_party) = (output(&mut log)?.trim().into(), ThirdParty::of(&binary, zig)?);
        Ok(Self { version: version.into(), binary, time, third_party })
    }

    /// Puts all files where they are once installed, below `root`.
    fn install(&self, root: &Path, layout: Layout) -> Result<()> {
        tree::install(self, root, layout)
    }
}

/// An empty directory at this path.
fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

/// What a command prints. It has to succeed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, errors.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} does not print text"))
}
