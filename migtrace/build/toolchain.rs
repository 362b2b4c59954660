//! Which Rust toolchain builds the eBPF programs. Shared by the build script of `migtrace` and by xtask, so that what
//! `cargo xtask setup` prepares is what a plain `cargo build` uses.
//!
//! The eBPF target has no precompiled `core`, so a toolchain is usable only with its `rust-src`, and only if it allows
//! unstable features: a nightly does by itself, any other does with `RUSTC_BOOTSTRAP=1`.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the toolchain to use, as rustup knows it, instead of the one that would be found.
pub(crate) const OVERRIDE: &str = "MIGTRACE_EBPF_TOOLCHAIN";

/// The name under which `cargo xtask setup` links Debian's compiler into rustup.
pub(crate) const DEBIAN: &str = "debian-web";

/// A toolchain that can build the eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// rustup's name of it; `None` where there is no rustup, then it is the one in `PATH`.
    pub(crate) name: Option<String>,
    /// Whether unstable features have to be allowed with `RUSTC_BOOTSTRAP=1`.
    pub(crate) bootstrap: bool,
    /// Where it is installed.
    pub(crate) sysroot: PathBuf,
    /// The compiler's release, as in `1.96.0`.
    pub(crate) release: String,
    /// The major version of its LLVM; bpf-linker has to understand this one's bitcode.
    pub(crate) llvm: u32,
}

impl Toolchain {
    /// Finds the toolchain: the one that `MIGTRACE_EBPF_TOOLCHAIN` names, else rustup's nightly, else Debian's compiler
    /// as linked by `cargo xtask setup`; without rustup the compiler in `PATH`.
    ///
    /// # Errors
    /// When none of them is usable: a sentence for each that says why.
    pub(crate) fn find() -> Result<Self, String> {
        if let Some(name) = env::var(OVERRIDE).ok().filter(|name| !name.is_empty()) {
            return Self::probe(Some(&name)).map_err(|why| format!("{OVERRIDE}={name}: {why}"));
        }
        if find_program("rustup").is_none() {
            return Self::probe(None).map_err(|why| format!("no rustup in PATH, and its rustc: {why}"));
        }
        let mut refused = Vec::new();
        for name in ["nightly", DEBIAN] {
            match Self::probe(Some(name)) {
                Ok(toolchain) => return Ok(toolchain),
                Err(why) => refused.push(format!("{name}: {why}")),
            }
        }
        Err(refused.join("; "))
    }

    fn probe(name: Option<&str>) -> Result<Self, String> {
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
        let bootstrap = !release.contains("nightly");
        Ok(Self { name: name.map(Into::into), bootstrap, sysroot, release: release.into(), llvm })
    }

    /// A command that runs `program` (`cargo`, `rustc`) of this toolchain, unstable features allowed.
    #[allow(dead_code, reason = "the build script leaves the calling to aya-build")]
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = command(self.name.as_deref(), program);
        if self.bootstrap {
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

/// The program `name` in `PATH`, or where cargo installs, or where those for administration are: a user's `PATH` often
/// lacks these two.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
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
    // Cargo tells its children which compiler it runs with itself; this may be another one. And rustup adds a
    // backtrace to its error if asked to.
    for key in ["CARGO", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(key);
    }
    command.env("RUST_BACKTRACE", "0");
    command
}

/// What `command` prints, or the first line of its complaint.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let first = complaint.lines().next().unwrap_or("it failed without a word");
    Err(first.trim_start_matches("error: ").to_owned())
}

/// The `y` of a release `1.y.z`.
fn minor(release: &str) -> u32 {
    release.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}
