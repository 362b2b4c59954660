//! Builds the eBPF programs, for the feature that needs them.

#[cfg(feature = "trace")]
mod programs;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "trace")]
    if let Err(error) = programs::build() {
        println!("cargo::error={error}");
        return ExitCode::FAILURE;
    }
    #[cfg(not(feature = "trace"))]
    println!("cargo::rerun-if-changed=build");
    ExitCode::SUCCESS
}
