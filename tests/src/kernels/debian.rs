//! Debian's packages with kernels.

use crate::apt::{Apt, MAIN, SECURITY};
use anyhow::Result;
use std::collections::BTreeMap;

/// The name of a package with a kernel has these around the release.
const PACKAGE_PREFIX: &str = "linux-image-";
const PACKAGE_SUFFIX: &str = "-cloud-amd64";

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
/// A kernel that can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Like `6.1.0-56`.
    pub(crate) release: String,
    /// The package with its name, and those into which newer kernels are split.
    pub(crate) parts: Vec<String>,
}

#[cfg(test)]
impl Package {
    pub(crate) fn whole(release: &str) -> Self {
        let name = format!("{PACKAGE_PREFIX}{release}{PACKAGE_SUFFIX}");
        Self { release: release.into(), parts: vec![name] }
    }
}

/// Debian's cloud kernels where `apt` finds packages, without those of which the mirror has only a part.
///
/// # Errors
///
/// When apt does not answer.
pub(crate) fn kernels(apt: &Apt) -> Result<Vec<Package>> {
    let pattern = format!("^{PACKAGE_PREFIX}[0-9].*{PACKAGE_SUFFIX}$");
    let found = apt.query("apt-cache", &["search", "--names-only", &pattern])?;
    let names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let depends = apt.query("apt-cache", &[&["depends"], &names[..]].concat())?;
    Ok(parse_depends(&depends))
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
}
