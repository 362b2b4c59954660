//! The toolchain for the eBPF target, its linker, and the lints.

use std::env;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use migtrace_toolchain::{DEBIAN, OVERRIDE, Toolchain, find_program};

use super::{Action, Missing, find_library, first_line, is_root};
use crate::{apt, paths};

/// The release of bpf-linker that is installed where none works.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM versions that this release can be built with.
const BPF_LINKER_LLVM: RangeInclusive<u32> = 21..=23;
/// The LLVM of Debian's `rustc-web` 1.96: names the packages before that compiler is installed.
const DEBIAN_LLVM: u32 = 22;
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

pub(super) fn find_toolchain() -> Result<String, Missing> {
    let why = match Toolchain::find() {
        Ok(toolchain) => return Ok(toolchain.to_string()),
        Err(why) => why,
    };
    Err(Missing {
        what: format!("no toolchain can build for the eBPF target ({why})"),
        actions: install_toolchain(),
    })
}

fn install_toolchain() -> Vec<Action> {
    if env::var_os(OVERRIDE).is_some() {
        let advice = format!("unset {OVERRIDE}, or set it to a toolchain of rustup that has rust-src");
        return vec![Action::Advice(advice)];
    }
    let mut actions = Vec::new();
    let rustup = find_program("rustup").is_some();
    if rustup && !(is_root() && apt::is_available()) {
        // This needs neither root nor Debian, but the download is for the person to start.
        actions.push(Action::Advice(
            "rustup toolchain install nightly --profile minimal --component rust-src; or instead:".into(),
        ));
    }
    actions.push(Action::packages(DEBIAN_COMPILER));
    let linked = first_line(Command::new("rustup").args(["run", DEBIAN, "rustc", "-V"])).is_some();
    if rustup && !linked {
        let link = ["rustup", "toolchain", "link", DEBIAN, "/usr"];
        actions.push(Action::run("Linking Debian's compiler into rustup", &link));
    }
    actions
}

pub(super) fn find_bpf_linker() -> Result<String, Missing> {
    let Ok(toolchain) = Toolchain::find() else {
        let what = "not checked: it must fit the compiler, and there is none yet".into();
        return Err(Missing { what, actions: install_bpf_linker(DEBIAN_LLVM) });
    };
    let tried = match find_program("bpf-linker") {
        None => Err("not installed".into()),
        Some(linker) => try_linking(&toolchain, &linker).map(|()| linker),
    };
    match tried {
        Ok(linker) => {
            let version = first_line(Command::new(&linker).arg("--version")).unwrap_or_default();
            Ok(format!("{version} ({})", linker.display()))
        }
        Err(what) => Err(Missing { what, actions: install_bpf_linker(toolchain.llvm) }),
    }
}

/// Links an empty crate. bpf-linker does not report its LLVM version, and one that is older than the compiler's cannot
/// read the compiler's bitcode.
fn try_linking(toolchain: &Toolchain, linker: &Path) -> Result<(), String> {
    let directory = paths::target().join("setup");
    let (source, bitcode, object) =
        (directory.join("empty.rs"), directory.join("empty.bc"), directory.join("empty.o"));
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&source, "#![feature(no_core)]\n#![no_core]\n"))
        .map_err(|error| format!("cannot write {}: {error}", source.display()))?;
    let mut compile = toolchain.command("rustc");
    compile.args(["--target", "bpfel-unknown-none", "--crate-type", "lib", "--emit", "llvm-bc", "-o"]);
    compile.arg(&bitcode).arg(&source);
    let mut link = Command::new(linker);
    link.args(["--target", "bpfel", "--emit", "obj", "-o"]).arg(&object).arg(&bitcode);
    for command in [&mut compile, &mut link] {
        let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let first = errors.lines().find(|line| !line.trim().is_empty()).unwrap_or("no message");
            let linker = linker.display();
            return Err(format!("{linker} does not link what {toolchain} compiles: {}", first.trim()));
        }
    }
    Ok(())
}

fn install_bpf_linker(llvm: u32) -> Vec<Action> {
    if !BPF_LINKER_LLVM.contains(&llvm) {
        return vec![Action::Advice(format!(
            "bpf-linker {BPF_LINKER_VERSION} supports LLVM {} to {}, the compiler has {llvm}: install a release of \
             bpf-linker for it, or choose another compiler with {OVERRIDE}",
            BPF_LINKER_LLVM.start(),
            BPF_LINKER_LLVM.end(),
        ))];
    }
    let mut actions = Vec::new();
    let mut needed = Vec::new();
    let given = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let prefix = given.clone().unwrap_or_else(|| format!("/usr/lib/llvm-{llvm}").into());
    if given.is_none() {
        // The compiler's own LLVM version. A newer one could read the bitcode too, but Debian seldom has two.
        for (file, package) in [
            ("lib/libLLVM.so", format!("llvm-{llvm}-dev")),
            ("lib/libPolly.a", format!("libpolly-{llvm}-dev")),
        ] {
            if !prefix.join(file).exists() {
                needed.push(package);
            }
        }
    }
    if find_library("libstdc++.so").is_none() {
        needed.push("g++".into());
    }
    if !needed.is_empty() {
        actions.push(Action::Packages(needed));
    }
    let feature = format!("llvm-{llvm}");
    let mut install = vec!["cargo", "install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"];
    // --force replaces one that is there and does not work, even of the same release.
    install.extend(["--force", "--no-default-features", "--features", &feature]);
    let build = Action::run("Building bpf-linker", &install);
    actions.push(build.with("LLVM_PREFIX", prefix.display().to_string()));
    actions
}

pub(super) fn find_lints() -> Result<String, Missing> {
    let versions: Vec<_> =
        ["fmt", "clippy"].iter().map(|tool| first_line(paths::cargo().args([tool, "--version"]))).collect();
    if let [Some(fmt), Some(clippy)] = &versions[..] {
        return Ok(format!("{fmt}, {clippy}"));
    }
    let action = if find_program("rustup").is_some() {
        Action::run("Adding rustfmt and clippy", &["rustup", "component", "add", "rustfmt", "clippy"])
    } else {
        Action::packages(["rustfmt-web", "rust-web-clippy"])
    };
    Err(Missing { what: "`cargo fmt` or `cargo clippy` does not run".into(), actions: vec![action] })
}

pub(super) fn find_ebpf_clippy() -> Result<String, Missing> {
    let toolchain = Toolchain::find();
    if let Ok(toolchain) = &toolchain
        && let Some(version) = first_line(toolchain.command("cargo").args(["clippy", "--version"]))
    {
        return Ok(version);
    }
    let action = match toolchain.ok().and_then(|toolchain| toolchain.name) {
        Some(name) if name != DEBIAN => Action::run(
            "Adding clippy to the eBPF toolchain",
            &["rustup", "component", "add", "clippy", "--toolchain", &name],
        ),
        _ => Action::packages(["rust-web-clippy"]),
    };
    Err(Missing { what: "the eBPF toolchain has no clippy".into(), actions: vec![action] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_built_for_the_llvm_of_the_compiler() {
        let actions = install_bpf_linker(22);
        let by_hand = actions.last().unwrap().by_hand();
        assert!(by_hand.contains("cargo install bpf-linker --version 0.13.0"), "{by_hand}");
        assert!(by_hand.ends_with("--no-default-features --features llvm-22"), "{by_hand}");
    }

    #[test]
    fn an_llvm_that_the_linker_does_not_support_is_left_to_the_person() {
        let actions = install_bpf_linker(99);
        assert!(matches!(&actions[..], [Action::Advice(advice)] if advice.contains("the compiler has 99")));
        assert!(!actions[0].is_possible());
    }
}
