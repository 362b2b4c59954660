//! Debian packages, downloaded with apt and unpacked. Nothing is installed.
//!
//! They come from this machine's package sources, or from another suite at the mirrors that this machine uses, with package
//! lists of the lab's own, so that the machine's sources stay as they are. apt checks the signatures of all of them.

use crate::programs;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The keys of all of Debian's suites, which may be missing from the machine's own keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The labels of Debian's archives.
pub(crate) const MAIN: &str = "Debian";
pub(crate) const SECURITY: &str = "Debian-Security";

/// A place from which apt takes packages.
#[derive(Default)]
pub(crate) struct Apt {
    /// Options that replace this machine's configuration.
    options: Vec<String>,
}

impl Apt {
    /// A suite of Debian, with its own package lists in `directory`, updated from the mirror.
    ///
    /// # Errors
    ///
    /// When this machine has no source of that archive, or its mirror does not serve the suite.
    pub(crate) fn of_suite(suite: &str, archive: &str, directory: &Path) -> Result<Self> {
        let uri = mirror(archive)?;
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let path = |name: &str| directory.join(name).display().to_string();
        let sources = path("suite.sources");
        fs::write(&sources, source(&uri, suite, Path::new(KEYRING).exists()))
            .with_context(|| format!("cannot write {sources}"))?;
        let apt = Self {
            options: vec![
                format!("Dir::Etc::SourceList={sources}"),
                "Dir::Etc::SourceParts=-".into(),
                format!("Dir::State::Lists={}", path("lists")),
                format!("Dir::Cache={}", path("cache")),
                // Without this, parts of a kernel that is installed here would count as parts that the mirror has.
                "Dir::State::Status=/dev/null".into(),
            ],
        };
        apt.query("apt-get", &["--quiet=2", "update"])?;
        Ok(apt)
    }

    /// Downloads packages and unpacks them into `directory`.
    ///
    /// # Errors
    ///
    /// When the mirror does not have one of them, or its signature does not match.
    pub(crate) fn unpack(&self, packages: &[String], directory: &Path) -> Result<()> {
        let mut download = self.command("apt-get")?;
        download.args(["--quiet=2", "download"]).args(packages).current_dir(directory);
        programs::output(&mut download, "")
            .with_context(|| format!("cannot download {}; try `apt-get update` first", packages.join(" ")))?;
        for archive in programs::files(directory, "deb")? {
            programs::run("dpkg", ["-x".as_ref(), archive.as_os_str(), directory.as_os_str()])?;
            fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        }
        Ok(())
    }

    /// Runs a program of apt's, and returns what it prints.
    ///
    /// # Errors
    ///
    /// When it fails. The message has its standard error.
    pub(crate) fn query(&self, program: &str, arguments: &[&str]) -> Result<String> {
        programs::output(self.command(program)?.args(arguments), "")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(programs::find(program)?);
        // The cache belongs to root, so apt's unprivileged user could not write there.
        let sandbox = "APT::Sandbox::User=root".to_owned();
        for option in self.options.iter().chain([&sandbox]) {
            command.args(["-o", option]);
        }
        Ok(command)
    }
}

/// Where this machine gets the packages of an archive from.
///
/// # Errors
///
/// When it has no source of that archive.
pub(crate) fn mirror(archive: &str) -> Result<String> {
    let targets =
        Apt::default().query("apt-get", &["indextargets", "--format", TARGET, "Created-By: Packages"])?;
    let Some(uri) = uri_of(archive, &targets) else {
        bail!("no package source of this machine is labelled {archive}");
    };
    Ok(uri.to_owned())
}

/// What `apt-get indextargets` prints for each list, in whatever format the sources are.
const TARGET: &str = "$(LABEL) $(REPO_URI)";

/// The first URI of an archive among lines of [`TARGET`].
fn uri_of<'a>(archive: &str, targets: &'a str) -> Option<&'a str> {
    targets.lines().find_map(|line| line.strip_prefix(archive)?.strip_prefix(' '))
}

/// A package source with one suite, of which only the lists of packages are downloaded.
fn source(uri: &str, suite: &str, has_keyring: bool) -> String {
    let keys = if has_keyring { format!("Signed-By: {KEYRING}\n") } else { String::new() };
    // The signature of a suite that is no longer maintained has expired.
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\nTargets: Packages\n\
         Check-Valid-Until: no\n{keys}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_found_by_its_label() {
        let targets = "Other http://other.invalid/debian/\nDebian-Security http://mirror.invalid/security/\n\
                       Debian http://mirror.invalid/debian/\nDebian Backports http://elsewhere.invalid/\n";
        assert_eq!(uri_of("Debian", targets), Some("http://mirror.invalid/debian/"));
        assert_eq!(uri_of("Debian-Security", targets), Some("http://mirror.invalid/security/"));
        assert_eq!(uri_of("Debian", "$(LABEL) http://mirror.invalid/debian/\n"), None);
    }
}
