//! Packages with kernels, from this machine's package sources and from Debian's other suites.
//!
//! Other suites come from the mirrors that this machine uses, with package lists of the lab's own, so the machine's sources
//! stay as they are. apt checks the signatures of all of them.

use crate::programs;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of a package with a kernel has these around the release.
const PACKAGE_PREFIX: &str = "linux-image-";
const PACKAGE_SUFFIX: &str = "-cloud-amd64";

/// The keys of all of Debian's suites, which may be missing from the machine's own keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites that have kernels, each with the label that identifies its archive. Those with short lists come first.
pub(crate) const SUITES: [(&str, &str); 9] = [
    ("bullseye-security", SECURITY),
    ("bookworm-security", SECURITY),
    ("trixie-security", SECURITY),
    ("trixie-backports", MAIN),
    ("bullseye", MAIN),
    ("bookworm", MAIN),
    ("trixie", MAIN),
    ("forky", MAIN),
    ("sid", MAIN),
];
const MAIN: &str = "Debian";
const SECURITY: &str = "Debian-Security";

/// A kernel that can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Like `6.1.0-56`.
    pub(crate) release: String,
    /// The package with its name, and those into which newer kernels are split.
    parts: Vec<String>,
}

#[cfg(test)]
impl Package {
    pub(crate) fn whole(release: &str) -> Self {
        let name = format!("{PACKAGE_PREFIX}{release}{PACKAGE_SUFFIX}");
        Self { release: release.into(), parts: vec![name] }
    }
}

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
        let targets = Self::default()
            .query("apt-get", &["indextargets", "--format", TARGET, "Created-By: Packages"])?;
        let Some(uri) = uri_of(archive, &targets) else {
            bail!("no package source of this machine is labelled {archive}");
        };
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let path = |name: &str| directory.join(name).display().to_string();
        let sources = path("suite.sources");
        fs::write(&sources, source(uri, suite, Path::new(KEYRING).exists()))
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

    /// Debian's cloud kernels, without those of which the mirror has only a part.
    ///
    /// # Errors
    ///
    /// When apt does not answer.
    pub(crate) fn kernels(&self) -> Result<Vec<Package>> {
        let pattern = format!("^{PACKAGE_PREFIX}[0-9].*{PACKAGE_SUFFIX}$");
        let found = self.query("apt-cache", &["search", "--names-only", &pattern])?;
        let names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let depends = self.query("apt-cache", &[&["depends"], &names[..]].concat())?;
        Ok(parse_depends(&depends))
    }

    /// Downloads a kernel and unpacks it into `directory`.
    ///
    /// # Errors
    ///
    /// When the mirror does not have it, or its signature does not match.
    pub(crate) fn unpack(&self, package: &Package, directory: &Path) -> Result<()> {
        let mut download = self.command("apt-get")?;
        download.args(["--quiet=2", "download"]).args(&package.parts).current_dir(directory);
        programs::output(&mut download, "")
            .context("cannot download a kernel; try `apt-get update` first")?;
        for archive in archives(directory)? {
            programs::run("dpkg", ["-x".as_ref(), archive.as_os_str(), directory.as_os_str()])?;
            fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        }
        Ok(())
    }

    fn query(&self, program: &str, arguments: &[&str]) -> Result<String> {
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

/// The kernels in the output of `apt-cache depends`: the name of a package at the start of a line, and below it its
/// dependencies, in angle brackets if there is no such package.
fn parse_depends(text: &str) -> Vec<Package> {
    let mut packages: BTreeMap<&str, Option<Vec<&str>>> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        if !line.starts_with([' ', '|']) {
            name = line;
            packages.insert(name, Some(vec![name]));
        }
        let (Some(part), Some(release)) = (line.trim().strip_prefix("Depends: "), release(name)) else {
            continue;
        };
        let (part, is_missing) =
            part.strip_prefix('<').map_or((part, false), |part| (part.trim_end_matches('>'), true));
        if part.strip_suffix(PACKAGE_SUFFIX).is_some_and(|part| part.ends_with(&format!("-{release}"))) {
            let parts = packages.entry(name).or_default();
            if is_missing {
                *parts = None;
            } else if let Some(parts) = parts {
                parts.push(part);
            }
        }
    }
    let complete = packages.into_iter().filter_map(|(name, parts)| {
        let parts = parts?.into_iter().map(Into::into).collect();
        Some(Package { release: release(name)?.into(), parts })
    });
    complete.collect()
}

/// `6.1.0-56` for `linux-image-6.1.0-56-cloud-amd64`.
fn release(package: &str) -> Option<&str> {
    package.strip_prefix(PACKAGE_PREFIX)?.strip_suffix(PACKAGE_SUFFIX)
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_a_missing_part_is_left_out() {
        let text = "\
linux-image-6.1.0-56-cloud-amd64
  Depends: kmod
 |Depends: <dracut>
  Depends: <linux-initramfs-tool>
  Suggests: <linux-doc-6.1>
linux-image-6.18.15+deb13-cloud-amd64
  PreDepends: linux-base
  Depends: <linux-base-6.18.15+deb13-cloud-amd64>
linux-image-7.3.4+deb13-cloud-amd64
  PreDepends: linux-base
  Depends: linux-base-7.3.4+deb13-cloud-amd64
  Depends: linux-binary-7.3.4+deb13-cloud-amd64
  Depends: linux-modules-7.3.4+deb13-cloud-amd64
";
        let packages = parse_depends(text);
        let found: Vec<_> =
            packages.iter().map(|package| (package.release.as_str(), package.parts.len())).collect();
        assert_eq!(found, [("6.1.0-56", 1), ("7.3.4+deb13", 4)]);
        assert_eq!(packages[1].parts[3], "linux-modules-7.3.4+deb13-cloud-amd64");
    }

    #[test]
    fn an_archive_is_found_by_its_label() {
        let targets = "Other http://other.invalid/debian/\nDebian-Security http://mirror.invalid/security/\n\
                       Debian http://mirror.invalid/debian/\nDebian Backports http://elsewhere.invalid/\n";
        assert_eq!(uri_of(MAIN, targets), Some("http://mirror.invalid/debian/"));
        assert_eq!(uri_of(SECURITY, targets), Some("http://mirror.invalid/security/"));
        assert_eq!(uri_of(MAIN, "$(LABEL) http://mirror.invalid/debian/\n"), None);
    }
}
