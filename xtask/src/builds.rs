//! What more than one command builds.

use std::process::Command;

use crate::paths;

/// Builds the command, and the example, that the tests in the lab run: with the profile and the features of tests, so that
/// cargo builds the library for both only once.
pub(crate) fn command_under_test() -> Command {
    let mut cargo = paths::cargo();
    cargo.args([
        "build",
        "--profile",
        "test",
        "--workspace",
        "--bins",
        "--example",
        "watch",
        "--test",
        "lab",
    ]);
    cargo
}
