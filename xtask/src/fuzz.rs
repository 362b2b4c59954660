//! `cargo xtask fuzz`: searches for inputs that break migtrace, starting from those that are kept in the repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::prerequisites::Group;
use crate::{paths, setup};

/// The code under test is safe Rust, in which a sanitizer finds nothing. Without one, any toolchain can build it.
const WITHOUT_SANITIZER: [&str; 2] = ["--sanitizer", "none"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// Frames: parsed as the kernel programs do
    Frame,
    /// Lines of QMP: parsed
    QmpLine,
    /// Event logs: read, written again, and folded into records
    EventLog,
    /// Records: shown as text and as JSON
    Record,
    /// Events in any order: folded into records
    Fold,
}

#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs, in seconds
    #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// This target only
    #[arg(long, value_enum, value_name = "NAME")]
    target: Option<Target>,
}

/// Sets up, and runs the targets one after the other. Inputs that were found stay in `target/fuzz`.
///
/// # Errors
/// When the machine lacks something, or an input breaks a target: shows how to replay it.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Fuzz])?;
    let targets = options.target.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    let mut broken = Vec::new();
    for target in targets {
        let before = newest(target)?;
        if !search(target, options.seconds)? {
            let input = newest(target)?.filter(|input| before.as_ref() != Some(input));
            broken.push(finding(target, input.as_deref()));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("an input breaks a target; see its message above:\n{}", broken.join("\n"))
}

impl Target {
    /// The name of its program, its file and its folder.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The inputs that are kept in the repository.
    fn corpus(self) -> PathBuf {
        paths::root().join("migtrace/fuzz/corpus").join(self.name())
    }

    /// The inputs that this machine has found so far.
    fn found(self) -> PathBuf {
        paths::target().join("fuzz/found").join(self.name())
    }

    /// The inputs that break it.
    fn artifacts(self) -> PathBuf {
        paths::target().join("fuzz/broken").join(self.name())
    }

    /// The length limit of its inputs. Longer ones reach no new code, and slow the search down.
    const fn longest_bytes(self) -> u32 {
        match self {
            Self::Frame => 300,
            Self::QmpLine | Self::Fold => 600,
            Self::EventLog | Self::Record => 16_000,
        }
    }
}

fn cargo_fuzz(command: &str) -> Command {
    let mut cargo = paths::cargo();
    cargo.args(["fuzz", command, "--fuzz-dir", "migtrace/fuzz"]).args(WITHOUT_SANITIZER);
    cargo.args(["--features", "targets"]).arg("--target-dir").arg(paths::target().join("fuzz/build"));
    cargo
}

/// Runs a target; false when an input breaks it.
fn search(target: Target, seconds: u64) -> Result<bool> {
    println!("\n== {}", target.name());
    let (found, artifacts) = (target.found(), target.artifacts());
    fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    // A step of its own, so that a compiler error is not taken for a finding.
    let mut build = cargo_fuzz("build");
    build.arg(target.name());
    if !build.status().context("cannot run cargo fuzz")?.success() {
        bail!("the target {} does not build; see cargo's messages above", target.name());
    }
    let mut run = cargo_fuzz("run");
    run.arg(target.name()).arg(&found).arg(target.corpus());
    if target == Target::EventLog {
        run.arg(paths::root().join("migtrace/tests/logs"));
    }
    run.arg("--").arg(format!("-max_total_time={seconds}"));
    run.arg(format!("-max_len={}", target.longest_bytes()));
    run.arg(format!("-artifact_prefix={}/", artifacts.display()));
    Ok(run.status().context("cannot run cargo fuzz")?.success())
}

/// The input that broke a target, and how to replay it.
fn finding(target: Target, input: Option<&Path>) -> String {
    let name = target.name();
    let Some(input) = input else { return format!("  {name}: it failed without naming an input") };
    let mut replay = cargo_fuzz("run");
    replay.arg(&name).arg(input);
    let words: Vec<_> = replay.get_args().map(|word| word.to_string_lossy()).collect();
    let (input, corpus, replay) = (input.display(), target.corpus(), words.join(" "));
    let corpus = corpus.display();
    format!(
        "  {name}: {input}\n    replay it: cargo {replay}\n    \
         once it is fixed, keep it for the tests: cp {input} {corpus}/"
    )
}

/// The newest input that breaks a target, if one was found.
fn newest(target: Target) -> Result<Option<PathBuf>> {
    let folder = target.artifacts();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    newest_in(&folder).with_context(|| format!("cannot read {}", folder.display()))
}

fn newest_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let modified = entry.metadata()?.modified()?;
        newest = newest.max(Some((modified, entry.path())));
    }
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_program_and_its_inputs() {
        let manifest = fs::read_to_string(paths::root().join("migtrace/fuzz/Cargo.toml")).unwrap();
        for target in Target::value_variants() {
            let name = target.name();
            assert!(
                manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")),
                "{name}"
            );
            assert!(target.corpus().read_dir().unwrap().next().is_some(), "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), Target::value_variants().len());
    }

    #[test]
    fn a_finding_is_shown_with_the_command_that_replays_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_in(folder.path()).unwrap(), None);
        let input = folder.path().join("crash-1");
        fs::write(&input, "x").unwrap();
        assert_eq!(newest_in(folder.path()).unwrap(), Some(input.clone()));
        let shown = finding(Target::EventLog, Some(&input));
        assert!(shown.contains(&format!("event_log {}", input.display())), "{shown}");
        assert!(shown.contains("cargo fuzz run --fuzz-dir migtrace/fuzz --sanitizer none"), "{shown}");
        assert!(finding(Target::Fold, None).contains("without naming an input"));
    }
}
