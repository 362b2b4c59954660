//! What the commands need of a machine: how to see whether it is there, and how to get it.

mod action;
mod browser;
mod compiler;
mod downloads;
mod fuzzing;
mod lab;
mod packaging;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) use action::Action;
use migtrace_toolchain::find_program;

/// The kind of work that needs a prerequisite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// To compile.
    Build,
    /// To check the format and the lints.
    Lint,
    /// To run the tests that need no lab.
    Test,
    /// To run the lab, and the tests that attach programs to the kernel.
    Lab,
    /// To make packages.
    Packages,
    /// To install them in a virtual machine.
    Installation,
    /// To build a command that runs with older C libraries.
    Portable,
    /// To search for inputs that break migtrace.
    Fuzz,
}

/// A program, a library or a setting that a machine may lack.
pub(crate) struct Prerequisite {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// Describes what was found, or what is missing and how to get it.
    pub(crate) find: fn() -> Result<String, Missing>,
}

/// Something that a machine lacks.
pub(crate) struct Missing {
    pub(crate) what: String,
    /// What to do, in this order.
    pub(crate) actions: Vec<Action>,
}

/// Everything that the commands need. Each may depend on those before it.
pub(crate) const TABLE: [Prerequisite; 22] = [
    Prerequisite { name: "eBPF toolchain", group: Group::Build, find: compiler::find_toolchain },
    Prerequisite { name: "bpf-linker", group: Group::Build, find: compiler::find_bpf_linker },
    Prerequisite { name: "rustfmt and clippy", group: Group::Lint, find: compiler::find_lints },
    Prerequisite { name: "clippy for eBPF", group: Group::Lint, find: compiler::find_ebpf_clippy },
    Prerequisite { name: "browser", group: Group::Test, find: browser::find },
    Prerequisite { name: "pip", group: Group::Test, find: downloads::find_pip },
    Prerequisite { name: "Perfetto", group: Group::Test, find: downloads::find_perfetto },
    Prerequisite { name: "receivers of OTLP", group: Group::Test, find: downloads::find_otlp },
    Prerequisite { name: "ClickHouse", group: Group::Test, find: downloads::find_clickhouse },
    Prerequisite { name: "Prometheus", group: Group::Test, find: downloads::find_prometheus },
    Prerequisite { name: "programs of the lab", group: Group::Lab, find: lab::find_programs },
    Prerequisite { name: "static C library", group: Group::Lab, find: lab::find_static_libc },
    Prerequisite { name: "package lists", group: Group::Lab, find: lab::check_package_lists },
    Prerequisite { name: "libvirt of the lab", group: Group::Lab, find: lab::find_libvirt },
    Prerequisite { name: "tracefs", group: Group::Lab, find: lab::check_tracefs },
    Prerequisite {
        name: "programs that make packages",
        group: Group::Packages,
        find: packaging::find_programs,
    },
    Prerequisite {
        name: "programs that install Debian",
        group: Group::Installation,
        find: packaging::find_installers,
    },
    Prerequisite { name: "Debian", group: Group::Installation, find: downloads::find_debian },
    Prerequisite { name: "pip", group: Group::Portable, find: downloads::find_pip },
    Prerequisite { name: "linker for older C libraries", group: Group::Portable, find: downloads::find_zig },
    Prerequisite { name: "C++ compiler", group: Group::Fuzz, find: fuzzing::find_cpp_compiler },
    Prerequisite { name: "cargo-fuzz", group: Group::Fuzz, find: fuzzing::find_cargo_fuzz },
];

/// Whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    // The owner of a process's folder in /proc is its effective user.
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The first line that the command prints, if it succeeds.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(Into::into)
}

/// Programs, each with the Debian package that holds it: those that are there, or a way to get the others.
fn find_all_programs(programs: &[(&str, &str)]) -> Result<String, Missing> {
    let (found, lacking): (Vec<_>, Vec<_>) =
        programs.iter().partition(|(program, _)| find_program(program).is_some());
    let names =
        |list: &[&(&str, &str)]| list.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(" ");
    if lacking.is_empty() {
        return Ok(names(&found));
    }
    let actions = vec![Action::packages(lacking.iter().map(|(_, package)| *package))];
    Err(Missing { what: format!("not in PATH: {}", names(&lacking)), actions })
}

/// Where the C compiler finds a library.
fn find_library(file: &str) -> Option<PathBuf> {
    let path = first_line(Command::new("cc").arg(format!("-print-file-name={file}")))?;
    // If it finds none, it repeats the bare name.
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_recognised_by_the_effective_user() {
        let id = Command::new("id").arg("-u").output().unwrap();
        assert_eq!(is_root(), id.stdout == b"0\n");
    }
}
