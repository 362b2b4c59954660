//! The rules of this repository that no lint knows.

use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::CommandFactory as _;

use crate::{Cli, paths};

/// The longest source file allowed. Longer ones are about more than one thing.
const MOST_LINES: usize = 500;
/// Folders whose files nobody writes by hand.
const SKIPPED_FOLDERS: [&str; 3] = [".git", "target", "corpus"];

/// The files of the repository whose name ends with `.EXTENSION`.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![paths::root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                let skipped = SKIPPED_FOLDERS.iter().any(|name| entry.file_name() == *name);
                folders.extend((!skipped).then_some(path));
            } else if path.extension() == Some(OsStr::new(extension)) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Fails if one of these functions is nowhere in the sources: it has been renamed, and nothing runs it by its old name.
pub(crate) fn assert_tests_exist(names: &[&str]) {
    let sources = files("rs").into_iter().map(|path| fs::read_to_string(path).unwrap());
    let sources = sources.collect::<String>();
    for name in names {
        assert!(sources.contains(&format!("fn {name}()")), "no test {name}");
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(paths::root()).unwrap_or(path).display().to_string()
}

/// The folder of the package that a file belongs to.
fn package_of(path: &Path) -> &Path {
    path.ancestors().skip(1).find(|folder| folder.join("Cargo.toml").is_file()).unwrap()
}

/// The path without `.` and `..`, whether it exists or not.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// The targets of the links in a Markdown text, outside of its code blocks.
fn links(markdown: &str) -> Vec<&str> {
    // Every other piece between fences is code.
    let prose = markdown.split("```").step_by(2);
    let after_brackets = prose.flat_map(|text| text.split("](").skip(1));
    after_brackets.filter_map(|rest| rest.split([')', ' ', '\n']).next()).collect()
}

#[test]
fn the_links_of_a_text_are_those_outside_of_its_code() {
    let text = "See [a](docs/a.md) and [b](https://b.org/x \"B\").\n```text\n[no](link)\n```\n[c](#c)\n";
    assert_eq!(links(text), ["docs/a.md", "https://b.org/x", "#c"]);
}

#[test]
fn no_source_file_is_longer_than_a_reader_can_follow() {
    let lengths = files("rs").into_iter().map(|path| {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        (lines, relative(&path))
    });
    let long: Vec<_> = lengths.filter(|(lines, _)| *lines > MOST_LINES).collect();
    assert!(long.is_empty(), "split these by subject (at most {MOST_LINES} lines): {long:#?}");
}

#[test]
fn no_package_compiles_the_source_of_another() {
    let mut borrowed = Vec::new();
    for path in files("rs") {
        let text = fs::read_to_string(&path).unwrap();
        let attributes = text.lines().filter_map(|line| line.trim().strip_prefix("#[path = \""));
        for target in attributes.filter_map(|rest| rest.split('"').next()) {
            let target = normal(&path.with_file_name(target));
            if package_of(&target) != package_of(&path) {
                borrowed.push(format!("{}: {}", relative(&path), relative(&target)));
            }
        }
    }
    assert!(borrowed.is_empty(), "make a package of what is shared: {borrowed:#?}");
}

#[test]
fn every_relative_link_in_the_documentation_leads_to_a_file() {
    let mut dead = Vec::new();
    for path in files("md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap_or_default();
            let target = path.with_file_name(file);
            if !file.is_empty() && !target.exists() {
                dead.push(format!("{}: {link}", relative(&path)));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// What a text sets as code, on one line.
fn code(markdown: &str) -> Vec<&str> {
    let prose = markdown.split("```").step_by(2);
    prose.flat_map(str::lines).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn the_code_of_a_text_is_what_stands_between_backticks() {
    assert_eq!(code("See `a.rs` and `b`.\n```text\n`c`\n```\nor `d.rs`\n"), ["a.rs", "b", "d.rs"]);
}

#[test]
fn every_source_file_that_the_documentation_names_exists() {
    let sources: Vec<_> = files("rs").iter().map(|path| format!("/{}", relative(path))).collect();
    let mut missing = Vec::new();
    for path in files("md") {
        let text = fs::read_to_string(&path).unwrap();
        // `SUBJECT.rs` stands for the name that a reader gives it.
        let is_name = |word: &&str| {
            word.ends_with(".rs") && !word.contains(|c: char| c.is_uppercase() || "{* ".contains(c))
        };
        for name in code(&text).into_iter().filter(is_name) {
            if !sources.iter().any(|source| source.ends_with(&format!("/{name}"))) {
                missing.push(format!("{}: {name}", relative(&path)));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_command_and_option_is_explained_to_contributors() {
    let text = fs::read_to_string(paths::root().join("docs/CONTRIBUTING.md")).unwrap();
    let commands = command_names().into_iter().map(|name| format!("cargo xtask {name}"));
    let cli = Cli::command();
    let options = cli.get_subcommands().flat_map(|command| {
        command.get_arguments().filter(|option| !option.is_hide_set()).filter_map(|option| option.get_long())
    });
    let options = options.map(|option| format!("--{option}"));
    let missing: Vec<_> = commands.chain(options).filter(|words| !text.contains(words)).collect();
    assert!(missing.is_empty(), "docs/CONTRIBUTING.md does not name {missing:?}");
}

#[test]
fn every_command_that_a_text_or_a_workflow_names_exists() {
    let names = command_names();
    let mut unknown = Vec::new();
    for path in ["md", "yml"].into_iter().flat_map(files) {
        let text = fs::read_to_string(&path).unwrap();
        for rest in text.split("cargo xtask ").skip(1) {
            let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if !word.is_empty() && !names.contains(&word) {
                unknown.push(format!("{}: cargo xtask {word}", relative(&path)));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

fn command_names() -> Vec<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}
