//! Python packages, downloaded with pip and unpacked. Nothing is installed.

use crate::programs;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A wheel of PyPI's.
pub(crate) struct Wheel {
    /// Its name and version, as pip has them: `perfetto==0.59.1`.
    pub(crate) requirement: &'static str,
    pub(crate) sha256: &'static str,
    /// What it was built for. It is said, so that the same file is taken whatever Python there is.
    pub(crate) built_for: Target,
}

/// What a wheel was built for.
pub(crate) enum Target {
    /// It has no machine code.
    Any,
    /// It is a program, which needs no Python.
    Program { platform: &'static str },
    /// It is a module of `CPython` 3.11.
    Python { platform: &'static str, abi: &'static str },
}

impl Target {
    /// As options of pip's.
    fn options(&self) -> Vec<&'static str> {
        match self {
            Self::Any => vec!["--platform", "any"],
            Self::Program { platform } => vec!["--platform", platform],
            Self::Python { platform, abi } => {
                let python = ["--python-version", "3.11", "--implementation", "cp", "--abi", abi];
                [["--platform", platform].as_slice(), &python].concat()
            }
        }
    }
}

/// Downloads wheels and unpacks them into `directory`.
///
/// # Errors
///
/// When there is no pip, the index does not have one of them, or it has another content.
pub(crate) fn unpack(wheels: &[Wheel], directory: &Path) -> Result<()> {
    for wheel in wheels {
        let list = directory.join("requirements.txt");
        fs::write(&list, format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256))
            .with_context(|| format!("cannot write {}", list.display()))?;
        let mut download = python(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])?;
        download.args(["--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement"]).arg(&list);
        download.args(wheel.built_for.options()).arg("--dest").arg(directory);
        programs::output(&mut download, "")
            .with_context(|| format!("cannot download {}", wheel.requirement))?;
        fs::remove_file(&list).with_context(|| format!("cannot remove {}", list.display()))?;
    }
    for archive in programs::files(directory, "whl")? {
        programs::output(python(["-m", "zipfile", "-e"])?.args([archive.as_path(), directory]), "")?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    }
    Ok(())
}

fn python<const N: usize>(arguments: [&str; N]) -> Result<Command> {
    let mut command = Command::new(programs::find("python3")?);
    command.args(arguments);
    Ok(command)
}
