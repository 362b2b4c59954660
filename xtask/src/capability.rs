//! What the commands need of a machine: how to see whether it is there, and how to get it.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{self, Toolchain};
use crate::{apt, paths, progress};

/// The release of bpf-linker that is installed where none works.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM versions that this release can be built with.
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The LLVM of Debian's `rustc-web` 1.96, needed to name the packages before that compiler is there to be asked.
const DEBIAN_LLVM: u32 = 22;
/// The release of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ_VERSION: &str = "0.13.2";
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The programs that the lab, the tests and the benchmarks call, and the Debian packages that hold them.
const LAB_PROGRAMS: [(&str, &str); 14] = [
    ("busybox", "busybox-static"),
    ("dpkg", "dpkg"),
    ("ethtool", "ethtool"),
    ("fping", "fping"),
    ("iftop", "iftop"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("xz", "xz-utils"),
];

/// For which kind of work a capability is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// To compile.
    Build,
    /// To check the format and the lints.
    Lint,
    /// To run the lab, and the tests that attach programs to the kernel.
    Lab,
    /// To look for inputs that break migtrace.
    Fuzz,
}

/// One line of the table.
pub(crate) struct Capability {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// Says what is there, or what is missing and how to get it.
    pub(crate) probe: fn() -> Result<String, Missing>,
}

/// Something that a machine lacks.
pub(crate) struct Missing {
    pub(crate) what: String,
    /// What to do, in this order.
    pub(crate) actions: Vec<Action>,
}

/// A step towards what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Install these Debian packages.
    Packages(Vec<String>),
    /// Ask the mirrors which packages there are.
    PackageLists,
    /// Run a command that may take long.
    Run {
        /// What the person reads meanwhile.
        what: &'static str,
        environment: Vec<(&'static str, String)>,
        /// The program and its arguments.
        command: Vec<String>,
        as_root: bool,
    },
    /// Only the person can do this.
    Advice(String),
}

/// Everything the commands need, in the order in which one builds upon the other.
pub(crate) const TABLE: [Capability; 10] = [
    Capability { name: "eBPF toolchain", group: Group::Build, probe: probe_toolchain },
    Capability { name: "bpf-linker", group: Group::Build, probe: probe_bpf_linker },
    Capability { name: "rustfmt and clippy", group: Group::Lint, probe: probe_lints },
    Capability { name: "clippy for eBPF", group: Group::Lint, probe: probe_ebpf_clippy },
    Capability { name: "programs of the lab", group: Group::Lab, probe: probe_lab_programs },
    Capability { name: "static C library", group: Group::Lab, probe: probe_static_libc },
    Capability { name: "package lists", group: Group::Lab, probe: probe_package_lists },
    Capability { name: "tracefs", group: Group::Lab, probe: probe_tracefs },
    Capability { name: "C++ compiler", group: Group::Fuzz, probe: probe_cpp_compiler },
    Capability { name: "cargo-fuzz", group: Group::Fuzz, probe: probe_cargo_fuzz },
];

impl Action {
    /// Adds a variable to the environment of a command.
    fn with(mut self, key: &'static str, value: String) -> Self {
        if let Self::Run { environment, .. } = &mut self {
            environment.push((key, value));
        }
        self
    }

    /// Whether this process can do it.
    pub(crate) fn is_possible(&self) -> bool {
        match self {
            Self::Packages(_) | Self::PackageLists => is_root() && apt::is_available(),
            Self::Run { as_root, .. } => !as_root || is_root(),
            Self::Advice(_) => false,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When it fails, or only a person can do it.
    pub(crate) fn perform(&self) -> Result<()> {
        match self {
            Self::Packages(packages) => apt::install(packages),
            Self::PackageLists => apt::update(),
            Self::Run { what, environment, command, .. } => {
                let (program, arguments) = command.split_first().context("an empty command")?;
                let log = what.to_lowercase().replace(' ', "-");
                let mut command = Command::new(program);
                command.args(arguments).envs(environment.iter().map(|(key, value)| (key, value)));
                progress::run(what, &log, &mut command)
            }
            Self::Advice(advice) => bail!("{advice}"),
        }
    }

    /// What a person would type, or do.
    pub(crate) fn by_hand(&self) -> String {
        match self {
            Self::Packages(packages) if apt::is_available() => {
                format!("as root: {}", apt::by_hand(packages))
            }
            Self::Packages(packages) => {
                format!("install what Debian calls {} (there is no apt-get here)", packages.join(" "))
            }
            Self::PackageLists => "as root: apt-get update".into(),
            Self::Run { environment, command, as_root, .. } => {
                let mut words: Vec<_> =
                    environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
                words.extend(command.iter().cloned());
                format!("{}{}", if *as_root { "as root: " } else { "" }, words.join(" "))
            }
            Self::Advice(advice) => advice.clone(),
        }
    }
}

/// Whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    // The owner of a process's folder in /proc is its effective user.
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn packages<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Action {
    Action::Packages(names.into_iter().map(Into::into).collect())
}

fn run(what: &'static str, command: &[&str]) -> Action {
    let command = command.iter().map(|&word| word.into()).collect();
    Action::Run { what, environment: Vec::new(), command, as_root: false }
}

/// The first line that the command prints, if it succeeds.
fn answer(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(Into::into)
}

fn probe_toolchain() -> Result<String, Missing> {
    let why = match Toolchain::find() {
        Ok(toolchain) => return Ok(toolchain.to_string()),
        Err(why) => why,
    };
    let mut actions = Vec::new();
    if env::var_os(toolchain::OVERRIDE).is_some() {
        actions.push(Action::Advice(format!(
            "unset {} or set it to a toolchain of rustup's that has rust-src",
            toolchain::OVERRIDE
        )));
    } else {
        let rustup = toolchain::find_program("rustup").is_some();
        if rustup && !(is_root() && apt::is_available()) {
            // Either this or the packages; this needs neither root nor Debian, but a download that is not ours to start.
            actions.push(Action::Advice(
                "rustup toolchain install nightly --profile minimal --component rust-src; or instead:".into(),
            ));
        }
        actions.push(packages(DEBIAN_COMPILER));
        let linked = answer(Command::new("rustup").args(["run", toolchain::DEBIAN, "rustc", "-V"])).is_some();
        if rustup && !linked {
            let link = ["rustup", "toolchain", "link", toolchain::DEBIAN, "/usr"];
            actions.push(run("Linking Debian's compiler into rustup", &link));
        }
    }
    Err(Missing { what: format!("no toolchain can build for the eBPF target ({why})"), actions })
}

fn probe_bpf_linker() -> Result<String, Missing> {
    let Ok(toolchain) = Toolchain::find() else {
        let what = "not looked for, as there is no compiler yet that it could fit".into();
        return Err(Missing { what, actions: install_bpf_linker(DEBIAN_LLVM) });
    };
    let tried = match toolchain::find_program("bpf-linker") {
        None => Err("not installed".into()),
        Some(linker) => try_linking(&toolchain, &linker).map(|()| linker),
    };
    match tried {
        Ok(linker) => {
            let version = answer(Command::new(&linker).arg("--version")).unwrap_or_default();
            Ok(format!("{version} ({})", linker.display()))
        }
        Err(what) => Err(Missing { what, actions: install_bpf_linker(toolchain.llvm) }),
    }
}

/// Links an empty crate: bpf-linker does not tell which LLVM it has, and one that is older than the compiler's cannot
/// read what the compiler writes.
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
            let complaint = String::from_utf8_lossy(&output.stderr);
            let first = complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or("no message");
            return Err(format!(
                "{} does not link what {toolchain} compiles: {}",
                linker.display(),
                first.trim()
            ));
        }
    }
    Ok(())
}

fn install_bpf_linker(llvm: u32) -> Vec<Action> {
    if !BPF_LINKER_LLVM.contains(&llvm) {
        return vec![Action::Advice(format!(
            "bpf-linker {BPF_LINKER_VERSION} knows LLVM {} to {}, the compiler has {llvm}: install a release of \
             bpf-linker for it, or choose another compiler with {}",
            BPF_LINKER_LLVM.start(),
            BPF_LINKER_LLVM.end(),
            toolchain::OVERRIDE
        ))];
    }
    let mut actions = Vec::new();
    let mut needed = Vec::new();
    let given = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let prefix = given.clone().unwrap_or_else(|| format!("/usr/lib/llvm-{llvm}").into());
    if given.is_none() {
        // Named by the compiler's own LLVM: a newer one reads the bitcode too, but Debian seldom has two.
        for (file, package) in [
            ("lib/libLLVM.so", format!("llvm-{llvm}-dev")),
            ("lib/libPolly.a", format!("libpolly-{llvm}-dev")),
        ] {
            if !prefix.join(file).exists() {
                needed.push(package);
            }
        }
    }
    if library("libstdc++.so").is_none() {
        needed.push("g++".into());
    }
    if !needed.is_empty() {
        actions.push(Action::Packages(needed));
    }
    let feature = format!("llvm-{llvm}");
    let mut install = vec!["cargo", "install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"];
    // --force: one that is there but does not work is replaced, even if it is of the same release.
    install.extend(["--force", "--no-default-features", "--features", &feature]);
    actions.push(run("Building bpf-linker", &install).with("LLVM_PREFIX", prefix.display().to_string()));
    actions
}

fn probe_lints() -> Result<String, Missing> {
    let versions: Vec<_> =
        ["fmt", "clippy"].iter().map(|tool| answer(paths::cargo().args([tool, "--version"]))).collect();
    if let [Some(fmt), Some(clippy)] = &versions[..] {
        return Ok(format!("{fmt}, {clippy}"));
    }
    let action = if toolchain::find_program("rustup").is_some() {
        run("Adding rustfmt and clippy", &["rustup", "component", "add", "rustfmt", "clippy"])
    } else {
        packages(["rustfmt-web", "rust-web-clippy"])
    };
    Err(Missing { what: "`cargo fmt` or `cargo clippy` does not run".into(), actions: vec![action] })
}

fn probe_ebpf_clippy() -> Result<String, Missing> {
    let toolchain = Toolchain::find();
    if let Ok(toolchain) = &toolchain
        && let Some(version) = answer(toolchain.command("cargo").args(["clippy", "--version"]))
    {
        return Ok(version);
    }
    let action = match toolchain.ok().and_then(|toolchain| toolchain.name) {
        Some(name) if name != toolchain::DEBIAN => run(
            "Adding clippy to the eBPF toolchain",
            &["rustup", "component", "add", "clippy", "--toolchain", &name],
        ),
        _ => packages(["rust-web-clippy"]),
    };
    Err(Missing { what: "the eBPF toolchain has no clippy".into(), actions: vec![action] })
}

fn probe_lab_programs() -> Result<String, Missing> {
    let (found, lacking): (Vec<_>, Vec<_>) =
        LAB_PROGRAMS.iter().partition(|(program, _)| toolchain::find_program(program).is_some());
    let names =
        |list: &[&(&str, &str)]| list.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(" ");
    if lacking.is_empty() {
        return Ok(names(&found));
    }
    let actions = vec![packages(lacking.iter().map(|(_, package)| *package))];
    Err(Missing { what: format!("not in PATH: {}", names(&lacking)), actions })
}

/// The guests' init is one static program.
fn probe_static_libc() -> Result<String, Missing> {
    library("libc.a").map(|path| path.display().to_string()).ok_or_else(|| Missing {
        what: "the C compiler finds no libc.a".into(),
        actions: vec![packages(["gcc", "libc6-dev"])],
    })
}

/// Where the C compiler finds a library.
fn library(file: &str) -> Option<PathBuf> {
    let path = answer(Command::new("cc").arg(format!("-print-file-name={file}")))?;
    // It repeats the bare name of what it does not find.
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

/// The guests' kernel is downloaded as a Debian package, which takes no more than the lists.
fn probe_package_lists() -> Result<String, Missing> {
    const KERNEL: &str = "linux-image-cloud-amd64";
    if !apt::is_available() {
        return Ok("no apt-get here: the lab's guests need a kernel that it has downloaded elsewhere".into());
    }
    if apt::offers(KERNEL) {
        return Ok(format!("they have {KERNEL}"));
    }
    Err(Missing { what: format!("they do not have {KERNEL}"), actions: vec![Action::PackageLists] })
}

fn probe_tracefs() -> Result<String, Missing> {
    const MOUNT_POINT: &str = "/sys/kernel/tracing";
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // Looking inside would need root.
    let mounted = mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([MOUNT_POINT, "tracefs"]));
    if mounted {
        return Ok(MOUNT_POINT.into());
    }
    let command = ["mount", "-t", "tracefs", "nodev", MOUNT_POINT].map(Into::into).into();
    let mount = Action::Run { what: "Mounting tracefs", environment: Vec::new(), command, as_root: true };
    Err(Missing { what: format!("not mounted at {MOUNT_POINT}"), actions: vec![mount] })
}

/// The engine is written in C++, and built with the first target.
fn probe_cpp_compiler() -> Result<String, Missing> {
    answer(Command::new("c++").arg("--version"))
        .ok_or_else(|| Missing { what: "`c++` does not run".into(), actions: vec![packages(["g++"])] })
}

fn probe_cargo_fuzz() -> Result<String, Missing> {
    let version = answer(paths::cargo().args(["fuzz", "--version"]));
    version.ok_or_else(|| {
        let install = ["cargo", "install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked"];
        Missing {
            what: "`cargo fuzz` does not run".into(),
            actions: vec![run("Building cargo-fuzz", &install)],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_built_for_the_compilers_llvm() {
        let actions = install_bpf_linker(22);
        let by_hand = actions.last().unwrap().by_hand();
        assert!(by_hand.contains("cargo install bpf-linker --version 0.13.0"), "{by_hand}");
        assert!(by_hand.ends_with("--no-default-features --features llvm-22"), "{by_hand}");
    }

    #[test]
    fn an_llvm_that_the_linker_does_not_know_is_left_to_the_person() {
        let actions = install_bpf_linker(99);
        assert!(matches!(&actions[..], [Action::Advice(advice)] if advice.contains("the compiler has 99")));
        assert!(!actions[0].is_possible());
    }

    #[test]
    fn a_command_is_shown_as_a_person_types_it() {
        let action = Action::Run {
            what: "Building",
            environment: vec![("LLVM_PREFIX", "/usr/lib/llvm-22".into())],
            command: vec!["cargo".into(), "install".into()],
            as_root: false,
        };
        assert_eq!(action.by_hand(), "LLVM_PREFIX=/usr/lib/llvm-22 cargo install");
    }

    #[test]
    fn root_is_told_from_the_effective_user() {
        let id = Command::new("id").arg("-u").output().unwrap();
        assert_eq!(is_root(), id.stdout == b"0\n");
    }
}
