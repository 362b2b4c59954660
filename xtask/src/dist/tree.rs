//! The files of a package, where they are once it is installed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::third_party::ThirdParty;
use super::{Release, output};
use crate::paths;

/// Where distributions differ.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Where zsh looks for completions of packages.
    pub(super) zsh: &'static str,
    /// Whether the licences are beside the documentation. Debian has them in one place for all packages.
    pub(super) licences: bool,
}

/// The configuration, which belongs to the administrator once it is installed.
pub(super) const CONFIGURATION: &str = "etc/migtrace/migtrace.toml";
pub(super) const UNIT: &str = "usr/lib/systemd/system/migtrace.service";
/// Files for the tracing stacks that people have.
const STACKS: &str = "usr/share/migtrace";

const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "migtrace-ebpf/LICENSE-GPL2"];
const BASH: &str = "usr/share/bash-completion/completions";
const FISH: &str = "usr/share/fish/vendor_completions.d";
const MANUAL: &str = "usr/share/man/man1";
pub(super) const DOCUMENTATION: &str = "usr/share/doc/migtrace";
/// The licences of what the command contains of others, below that.
pub(super) const THIRD_PARTY: [&str; 2] = ["THIRD-PARTY", "rust-standard-library.html"];

/// Installs everything below `root`.
pub(super) fn install(release: &Release, root: &Path, layout: Layout) -> Result<()> {
    let ours = paths::root().join("migtrace/dist");
    put(&release.binary, &root.join("usr/bin/migtrace"), 0o755)?;
    put(&ours.join("migtrace.toml"), &root.join(CONFIGURATION), 0o644)?;
    put(&ours.join("migtrace.service"), &root.join(UNIT), 0o644)?;
    for folder in folders(&ours)? {
        let name = folder.file_name().unwrap_or_default();
        for file in files(&folder)? {
            let to = root.join(STACKS).join(name).join(file.file_name().unwrap_or_default());
            put(&file, &to, 0o644)?;
        }
    }
    let licences: &[_] = if layout.licences { &LICENCES } else { &[] };
    for file in licences.iter().chain(&["CHANGELOG.md", "README.md"]) {
        let from = paths::root().join(file);
        let to = root.join(DOCUMENTATION).join(from.file_name().unwrap_or_default());
        put(&from, &to, 0o644)?;
    }
    put_third_party(&release.third_party, &root.join(DOCUMENTATION))?;
    put_generated(release, root, layout)
}

fn put_third_party(third_party: &ThirdParty, folder: &Path) -> Result<()> {
    let [notice, standard_library] = THIRD_PARTY.map(|name| folder.join(name));
    write(&notice, &third_party.notice, 0o644)?;
    put(&third_party.standard_library, &standard_library, 0o644)
}

/// Installs the manual pages and the completions, which the command makes.
fn put_generated(release: &Release, root: &Path, layout: Layout) -> Result<()> {
    let made = root.with_extension("generated");
    super::empty(&made)?;
    output(Command::new(&release.binary).arg("generate").arg(&made))?;
    for file in files(&made)? {
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let folder = match name {
            "migtrace.bash" => root.join(BASH).join("migtrace"),
            "_migtrace" => root.join(layout.zsh).join(name),
            "migtrace.fish" => root.join(FISH).join(name),
            _ => root.join(MANUAL).join(name),
        };
        put(&file, &folder, 0o644)?;
    }
    for page in files(&root.join(MANUAL))? {
        compress(&page)?;
    }
    fs::remove_dir_all(&made).with_context(|| format!("cannot remove {}", made.display()))
}

/// Replaces a file by a compressed one, without the time in it, so that the same source makes the same package.
pub(super) fn compress(file: &Path) -> Result<()> {
    output(Command::new("gzip").args(["--best", "--no-name"]).arg(file)).map(drop)
}

pub(super) fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    fs::write(path, content).with_context(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(what)
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(what)?;
    fs::copy(from, to).with_context(what)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(what)
}

/// The files below a directory, sorted.
pub(super) fn all_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = files(directory)?;
    for folder in folders(directory)? {
        all.extend(all_files(&folder)?);
    }
    all.sort();
    Ok(all)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(directory)?.into_iter().filter(|path| path.is_file()).collect())
}

fn folders(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(directory)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("cannot list {}", directory.display());
    let entries = fs::read_dir(directory).with_context(what)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(what)?;
    paths.sort();
    Ok(paths)
}
