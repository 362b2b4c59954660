//! What `cargo xtask fuzz` needs.

use std::process::Command;

use super::{Action, Missing, first_line};
use crate::paths;

/// The release of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// The fuzzing engine is written in C++, and is built together with the first target.
pub(super) fn find_cpp_compiler() -> Result<String, Missing> {
    first_line(Command::new("c++").arg("--version")).ok_or_else(|| Missing {
        what: "`c++` does not run".into(),
        actions: vec![Action::packages(["g++"])],
    })
}

pub(super) fn find_cargo_fuzz() -> Result<String, Missing> {
    let version = first_line(paths::cargo().args(["fuzz", "--version"]));
    version.ok_or_else(|| {
        let install = ["cargo", "install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked"];
        Missing {
            what: "`cargo fuzz` does not run".into(),
            actions: vec![Action::run("Building cargo-fuzz", &install)],
        }
    })
}
