//! Finds the Rust toolchain that builds the eBPF programs.
//!
//! The build script of `migtrace` and `cargo xtask` both ask here, so that `cargo xtask setup` prepares what a plain
//! `cargo build` uses. It is a package of its own because a build script cannot depend on xtask, and xtask must build
//! before migtrace can.
//!
//! The eBPF target has no precompiled `core`, so a toolchain is usable only with its `rust-src`, and only if it allows
//! unstable features: a nightly does so by itself, any other with `RUSTC_BOOTSTRAP=1`.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variable that names, as rustup knows it, the toolchain to use.
pub const OVERRIDE: &str = "MIGTRACE_EBPF_TOOLCHAIN";

/// The name under which `cargo xtask setup` links Debian's compiler into rustup.
pub const DEBIAN: &str = "debian-web";

/// A toolchain that can build the eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Its name in rustup; `None` without rustup, where it is the one in `PATH`.
    pub name: Option<String>,
    /// Whether it allows unstable features only with `RUSTC_BOOTSTRAP=1`.
    pub needs_bootstrap: bool,
    /// Where it is installed.
    pub sysroot: PathBuf,
    /// The compiler's release, as in `1.96.0`.
    pub release: String,
    /// The major version of its LLVM. bpf-linker must be able to read the bitcode of this version.
    pub llvm: u32,
}

impl Toolchain {
    /// Finds the toolchain: the one that `MIGTRACE_EBPF_TOOLCHAIN` names, else rustup's nightly, else Debian's compiler
    /// as linked by `cargo xtask setup`. Without rustup, it is the compiler in `PATH`.
    ///
    /// # Errors
    /// When none of them is usable: gives the reason for each.
    pub fn find() -> Result<Self, String> {
        if let Some(name) = env::var(OVERRIDE).ok().filter(|name| !name.is_empty()) {
            return Self::examine(Some(&name)).map_err(|why| format!("{OVERRIDE}={name}: {why}"));
        }
        if find_program("rustup").is_none() {
            return Self::examine(None).map_err(|why| format!("no rustup in PATH, and its rustc: {why}"));
        }
        let mut refused = Vec::new();
        for name in ["nightly", DEBIAN] {
            match Self::examine(Some(name)) {
                Ok(toolchain) => return Ok(toolchain),
                Err(why) => refused.push(format!("{name}: {why}")),
            }
        }
        Err(refused.join("; "))
    }

    fn examine(name: Option<&str>) -> Result<Self, String> {
        let version = output(command(name, "rustc").arg("-vV"))?;
        let field = |label| version.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
        let release = field("release:").ok_or("`rustc -vV` names no release")?;
        let llvm = field("LLVM version:")
            .and_then(|llvm| llvm.split('.').next())
            .and_then(|major| major.parse().ok())
            .ok_or("`rustc -vV` names no LLVM version")?;
        let oldest = env!("CARGO_PKG_RUST_VERSION");
        if minor(release) < minor(oldest) {
            return Err(format!("rustc {release} is older than {oldest}"));
        }
        let sysroot = PathBuf::from(output(command(name, "rustc").args(["--print", "sysroot"]))?.trim_end());
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
            return Err("lacks rust-src".into());
        }
        let needs_bootstrap = !release.contains("nightly");
        Ok(Self { name: name.map(Into::into), needs_bootstrap, sysroot, release: release.into(), llvm })
    }

    /// A command that runs `program` (`cargo`, `rustc`) of this toolchain, with unstable features allowed.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = command(self.name.as_deref(), program);
        if self.needs_bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (rustc {}, LLVM {})", self.release, self.llvm),
            None => write!(f, "{} (rustc {}, LLVM {})", self.sysroot.display(), self.release, self.llvm),
        }
    }
}

/// Finds the program `name` in `PATH`, in cargo's folder of installed programs, or in the `sbin` folders. A user's
/// `PATH` often lacks the last two.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn command(toolchain: Option<&str>, program: &str) -> Command {
    let mut command = match toolchain {
        Some(name) => {
            let mut rustup = Command::new(find_program("rustup").unwrap_or_else(|| "rustup".into()));
            rustup.args([OsStr::new("run"), name.as_ref(), program.as_ref()]);
            rustup
        }
        None => Command::new(program),
    };
    // Cargo names its own compiler in its children's environment; this one may be another.
    for key in ["CARGO", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(key);
    }
    // Else rustup may add a backtrace to its error, of which we show the first line.
    command.env("RUST_BACKTRACE", "0");
    command
}

/// What `command` prints, or the first line of its error.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().next().unwrap_or("it failed without a message");
    Err(first.trim_start_matches("error: ").to_owned())
}

/// The `y` of a release `1.y.z`.
fn minor(release: &str) -> u32 {
    release.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_minor_number() {
        assert_eq!(minor("1.96.0"), 96);
        assert_eq!(minor("1.97.0-nightly"), 97);
        assert_eq!(minor("unknown"), 0);
    }

    #[test]
    fn a_program_is_found_in_the_path_and_a_missing_one_is_not() {
        assert!(find_program("sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(find_program("there-is-no-such-program"), None);
    }
}
