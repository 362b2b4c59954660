//! The steps that bring what a machine lacks.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use migtrace_lab::{Download, libvirt};

use super::is_root;
use crate::{apt, progress};

/// A step towards what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Install these Debian packages.
    Packages(Vec<String>),
    /// Update the package lists from the mirrors.
    PackageLists,
    /// Download and unpack libvirt for the lab.
    Libvirt,
    /// Download and unpack programs of others.
    Download(Download),
    /// Run a command that may take long.
    Run {
        /// What is shown meanwhile.
        what: &'static str,
        environment: Vec<(&'static str, String)>,
        /// The program and its arguments.
        command: Vec<String>,
        needs_root: bool,
    },
    /// Only a person can do this.
    Advice(String),
}

impl Action {
    /// Installs these Debian packages.
    pub(super) fn packages<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::Packages(names.into_iter().map(Into::into).collect())
    }

    /// Runs `command`, which does not need root.
    pub(super) fn run(what: &'static str, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.into()).collect();
        Self::Run { what, environment: Vec::new(), command, needs_root: false }
    }

    /// Adds a variable to the environment of a command.
    pub(super) fn with(mut self, key: &'static str, value: String) -> Self {
        if let Self::Run { environment, .. } = &mut self {
            environment.push((key, value));
        }
        self
    }

    /// Whether this process can do it.
    pub(crate) fn is_possible(&self) -> bool {
        match self {
            Self::Packages(_) | Self::PackageLists => is_root() && apt::is_available(),
            Self::Libvirt => apt::is_available(),
            Self::Download(Download::Prometheus) => apt::is_available(),
            Self::Download(Download::Debian) => is_root() && apt::is_available(),
            Self::Download(_) => true,
            Self::Run { needs_root, .. } => !needs_root || is_root(),
            Self::Advice(_) => false,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When it fails, or only a person can do it.
    pub(crate) fn perform(&self) -> Result<()> {
        match self {
            Self::Packages(packages) => apt::install(packages),
            Self::PackageLists => apt::update(),
            Self::Libvirt => download_libvirt(),
            Self::Download(wanted) => download(*wanted),
            Self::Run { what, environment, command, .. } => {
                let (program, arguments) = command.split_first().context("an empty command")?;
                let log = what.to_lowercase().replace(' ', "-");
                let mut command = Command::new(program);
                command.args(arguments).envs(environment.iter().map(|(key, value)| (key, value)));
                progress::run(what, &log, &mut command)
            }
            Self::Advice(advice) => bail!("{advice}"),
        }
    }

    /// What a person would type, or do.
    pub(crate) fn by_hand(&self) -> String {
        match self {
            Self::Packages(packages) if apt::is_available() => {
                format!("as root: {}", apt::by_hand(packages))
            }
            Self::Packages(packages) => {
                format!("install what Debian calls {} (there is no apt-get here)", packages.join(" "))
            }
            Self::PackageLists => "as root: apt-get update".into(),
            Self::Libvirt => "cargo xtask setup, where there is apt-get".into(),
            Self::Download(_) => "cargo xtask setup, where there is a network".into(),
            Self::Run { environment, command, needs_root, .. } => {
                let mut words: Vec<_> =
                    environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
                words.extend(command.iter().cloned());
                format!("{}{}", if *needs_root { "as root: " } else { "" }, words.join(" "))
            }
            Self::Advice(advice) => advice.clone(),
        }
    }
}

fn download(wanted: Download) -> Result<()> {
    eprintln!("Downloading {wanted:?} ...");
    wanted.fetch().map(drop)
}

fn download_libvirt() -> Result<()> {
    eprintln!("Downloading libvirt for the lab ...");
    if libvirt::fetch().is_ok() {
        return Ok(());
    }
    // Usually the lists are older than the mirror, and the version that they name is gone.
    apt::update()?;
    libvirt::fetch().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_person_types_it() {
        let action = Action::run("Building", &["cargo", "install"]);
        let action = action.with("LLVM_PREFIX", "/usr/lib/llvm-22".into());
        assert_eq!(action.by_hand(), "LLVM_PREFIX=/usr/lib/llvm-22 cargo install");
    }
}
