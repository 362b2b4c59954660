//! Which libraries the command is made of, and the licences in their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::dist::{binary, output};
use crate::paths;

/// A library that is linked into the command or into its eBPF programs.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) name: String,
    pub(super) version: String,
    /// Under which licences it is, as SPDX writes it.
    pub(super) expression: String,
    /// What its sources say about that.
    pub(super) texts: Vec<String>,
}

/// The target of the programs, which the command contains.
const PROGRAMS: &str = "bpfel-unknown-none";

/// How files begin that say something of licences and of who holds the rights.
const BEGINNINGS: [&str; 6] = ["licen", "unlicen", "copying", "copyright", "notice", "authors"];
/// Among those, the ones that can be a licence.
const LICENCES: [&str; 3] = ["licen", "unlicen", "copying"];

/// A licence whose text is the same whoever grants it. This repository has it, for libraries whose sources do not.
const STANDARD: &str = "Apache-2.0";
const STANDARD_TEXT: &str = "LICENSE-APACHE";

/// All of them but our own, sorted by name.
pub(super) fn linked() -> Result<Vec<Library>> {
    let command = ["--package", "migtrace", "--features", binary::FEATURES, "--target", binary::TARGET];
    let programs = ["--package", "migtrace-ebpf", "--target", PROGRAMS];
    let mut names = tree(&command)?;
    names.append(&mut tree(&programs)?);
    let mut packages = packages()?;
    let libraries = names.into_iter().filter_map(|name| {
        let Some(package) = packages.remove(&name) else {
            return Some(Err(anyhow!("cargo does not say where the sources of {} {} are", name.0, name.1)));
        };
        // Ours are not from a registry.
        (!package["source"].is_null()).then(|| library(name, &package))
    });
    libraries.collect()
}

/// What Zig adds when it links a command: what the CPU cannot do itself, and how to unwind the stack.
pub(super) fn of_zig(zig: &Path) -> Result<Vec<Library>> {
    let version = output(Command::new(zig).arg("version"))?.trim().to_owned();
    let folder = zig.parent().unwrap_or(Path::new(""));
    let parts = [
        ("Zig's compiler-rt", "MIT", "LICENSE"),
        ("LLVM's libunwind, with Zig", "Apache-2.0 WITH LLVM-exception", "lib/libunwind/LICENSE.TXT"),
    ];
    let library = |(name, expression, file): (&str, &str, &str)| {
        let file = folder.join(file);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Library {
            name: name.into(),
            version: version.clone(),
            expression: expression.into(),
            texts: vec![text],
        })
    };
    parts.into_iter().map(library).collect()
}

/// The names and versions of what is linked: neither macros nor what only builds or tests need.
fn tree(of: &[&str]) -> Result<BTreeSet<(String, String)>> {
    let mut cargo = paths::cargo();
    cargo.args([
        "tree",
        "--locked",
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let listed = output(cargo.args(of))?;
    let pair = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
    };
    let lines = listed.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| pair(line).with_context(|| format!("`cargo tree` says {line:?}"))).collect()
}

/// What cargo knows of each package, by name and version.
fn packages() -> Result<BTreeMap<(String, String), Value>> {
    let mut cargo = paths::cargo();
    cargo.args(["metadata", "--locked", "--format-version=1"]);
    cargo.args(["--filter-platform", binary::TARGET, "--filter-platform", PROGRAMS]);
    let metadata: Value =
        serde_json::from_str(&output(&mut cargo)?).context("cannot read cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata has no packages")?;
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let named = |package: &Value| ((text(package, "name"), text(package, "version")), package.clone());
    Ok(packages.iter().map(named).collect())
}

fn library((name, version): (String, String), package: &Value) -> Result<Library> {
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    let folder = Path::new(manifest).parent().unwrap_or(Path::new(""));
    let expression = package["license"].as_str().map(normal);
    let expression = expression.filter(|expression| !expression.is_empty()).with_context(|| {
        format!("{name} {version} does not say under which licence it is: ask its authors, or replace it")
    })?;
    let texts = texts(folder, &expression).with_context(|| format!("{name} {version}"))?;
    Ok(Library { name, version, expression, texts })
}

/// The texts in a library's sources. Where they have none, the standard one if the expression permits that.
fn texts(folder: &Path, expression: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    find(folder, &mut found)?;
    found.sort();
    let is_licence = |file: &PathBuf| file.parent() == Some(folder) && is_named(file, &LICENCES);
    if !found.iter().any(is_licence) {
        if !expression.split(" OR ").any(|choice| choice == STANDARD) {
            bail!(
                "its sources in {} have no text of its licence, {expression}, which is not the same whoever grants it: \
                 ask its authors, or replace it",
                folder.display()
            );
        }
        found.push(paths::root().join(STANDARD_TEXT));
    }
    let read = |file: &PathBuf| {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    found.iter().map(read).collect()
}

/// The files about licences in a folder, and in those below it: sources of others that a library brings have their own.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let what = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(what)? {
        let entry = entry.with_context(what)?;
        let (kind, path) = (entry.file_type().with_context(what)?, entry.path());
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if kind.is_dir() && !is_hidden {
            find(&path, found)?;
        } else if kind.is_file() && is_named(&path, &BEGINNINGS) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_named(file: &Path, beginnings: &[&str]) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    !name.ends_with(".rs") && beginnings.iter().any(|beginning| name.starts_with(beginning))
}

/// The expression as SPDX has it today. Older packages write a slash for `OR`.
fn normal(expression: &str) -> String {
    let choices: Vec<_> = expression.split('/').map(str::trim).collect();
    choices.join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(folder: &Path, licence: Option<&str>) -> Result<Library> {
        let package = json!({ "manifest_path": folder.join("Cargo.toml"), "license": licence });
        library(("x".into(), "1.0.0".into()), &package)
    }

    #[test]
    fn what_is_linked_is_listed_with_its_licences_and_nothing_else() {
        let libraries = linked().unwrap();
        let find = |name: &str| libraries.iter().find(|library| library.name == name);
        // Of the command, of its programs, and of code in another language.
        for name in ["tokio", "aya-ebpf", "ring"] {
            assert!(!find(name).unwrap().texts.is_empty(), "{name}");
        }
        // Our own; macros; what tests need; what the build needs; what other systems need.
        for name in ["migtrace", "serde_derive", "proptest", "aya-build", "windows-sys"] {
            assert!(find(name).is_none(), "{name}");
        }
        let ring = find("ring").unwrap();
        assert_eq!(ring.expression, "Apache-2.0 AND ISC");
        let has = |text: &str| ring.texts.iter().any(|found| found.contains(text));
        assert!(has("fiat-crypto authors") && has("Permission to use, copy, modify"), "{ring:?}");
    }

    #[test]
    fn files_about_licences_are_found_also_in_folders_but_no_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("vendor/.git")).unwrap();
        for name in
            ["LICENSE-MIT", "COPYRIGHT", "license.rs", "vendor/NOTICE", "vendor/.git/LICENSE", "README"]
        {
            fs::write(path.join(name), name).unwrap();
        }
        let found = package(path, Some("MIT/Apache-2.0")).unwrap();
        assert_eq!(found.texts, ["COPYRIGHT", "LICENSE-MIT", "vendor/NOTICE"]);
        assert_eq!(found.expression, "MIT OR Apache-2.0");
    }

    #[test]
    fn a_library_without_a_text_has_the_standard_one_if_it_may_and_is_an_error_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("AUTHORS"), "somebody").unwrap();
        let found = package(folder.path(), Some("MIT OR Apache-2.0")).unwrap();
        assert!(found.texts.len() == 2 && found.texts[1].contains("Apache License"), "{found:?}");
        for (licence, why) in [
            (Some("MIT"), "have no text of its licence, MIT"),
            (Some("Apache-2.0 AND ISC"), "have no text of its licence"),
            (Some(""), "x 1.0.0 does not say under which licence it is"),
            (None, "x 1.0.0 does not say under which licence it is"),
        ] {
            let error = format!("{:#}", package(folder.path(), licence).unwrap_err());
            assert!(error.starts_with("x 1.0.0") && error.contains(why), "{licence:?}: {error}");
        }
    }
}
