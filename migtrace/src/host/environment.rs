//! What this kernel, and the container if there is one, allow tracing to do.

use std::io;
use std::path::{Path, PathBuf};

/// Inode of the initial PID namespace (`PROC_PID_INIT_INO`, the same since Linux 3.8).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Inode of the initial user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// What decides which instruments can work.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Environment {
    /// The kind of container that this seems to be (`docker`, `podman`, `lxc`, ...); `None` without signs of one.
    pub container: Option<String>,
    /// Whether process ids here differ from those that the kernel programs see.
    pub foreign_pid_namespace: bool,
    /// Whether root here is not root of the host.
    pub foreign_user_namespace: bool,
    /// Whether the kernel's tracepoints can be used.
    pub tracefs: Tracefs,
    /// Whether the kernel has kprobes for `perf_event_open`.
    pub kprobes: bool,
    /// Whether the kernel has its own type information (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// What the kernel denies even to root.
    pub lockdown: Lockdown,
}

/// The state of tracefs.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Tracefs {
    /// Mounted here and readable.
    At(PathBuf),
    /// Mounted here, but not readable by this process.
    Closed(PathBuf),
    /// Not mounted.
    Missing,
}

/// The kernel's lockdown mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Lockdown {
    /// Off, or not built in.
    None,
    /// Root may not change the running kernel. Tracing works.
    Integrity,
    /// Root may not read the kernel's memory either: no kprobes, no tracefs, no `bpf_probe_read_kernel`.
    Confidentiality,
}

/// Something that is missing.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Shortfall {
    /// What is missing, and what that means.
    pub lacking: String,
    /// What to do about it.
    pub fix: String,
}

impl Environment {
    /// Reads `/proc` and `/sys`. A file that cannot be read counts as missing.
    #[must_use]
    pub fn read() -> Self {
        Self::read_under(Path::new("/"))
    }

    fn read_under(root: &Path) -> Self {
        let exists = |path: &str| root.join(path).exists();
        let foreign = |namespace: &str, initial: &str| {
            // A kernel without this kind of namespace has no such link.
            std::fs::read_link(root.join("proc/self/ns").join(namespace))
                .is_ok_and(|link| link != Path::new(initial))
        };
        Self {
            container: container(root),
            foreign_pid_namespace: foreign("pid", INITIAL_PID_NAMESPACE),
            foreign_user_namespace: foreign("user", INITIAL_USER_NAMESPACE),
            tracefs: Tracefs::find(root),
            kprobes: exists("sys/bus/event_source/devices/kprobe/type"),
            btf: exists("sys/kernel/btf/vmlinux"),
            lockdown: Lockdown::parse(
                &std::fs::read_to_string(root.join("sys/kernel/security/lockdown")).unwrap_or_default(),
            ),
        }
    }

    /// Everything that is missing, the most serious first.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<Shortfall> {
        let mut shortfalls = Vec::new();
        let mut lacks = |lacking: &str, fix: &str| {
            shortfalls.push(Shortfall { lacking: lacking.to_owned(), fix: fix.to_owned() });
        };
        let container = self.container.as_deref().unwrap_or("a container");
        if self.foreign_user_namespace {
            lacks(
                &format!(
                    "this is a user namespace ({container}): root here may not load programs into the kernel"
                ),
                "run migtrace on the host itself, or in a container without a user namespace (podman: as root)",
            );
        }
        if self.foreign_pid_namespace {
            lacks(
                &format!(
                    "this is a PID namespace ({container}): the kernel programs see other process ids than /proc \
                     shows here, so QEMUs cannot be identified"
                ),
                "run migtrace on the host itself, or give the container the host's processes: --pid=host",
            );
        }
        match &self.tracefs {
            Tracefs::At(_) => {}
            Tracefs::Closed(path) => lacks(
                &format!("this process may not read tracefs at {}: no tracepoints", path.display()),
                "run as root, or with CAP_DAC_READ_SEARCH",
            ),
            Tracefs::Missing => {
                lacks("tracefs is not mounted: no tracepoints", "mount -t tracefs nodev /sys/kernel/tracing");
            }
        }
        if self.lockdown == Lockdown::Confidentiality {
            lacks(
                "the kernel is locked down (confidentiality): no kprobes, no tracepoints, no reading of kernel memory",
                "boot with lockdown=integrity, or without Secure Boot; packets are counted in any case",
            );
        }
        if !self.kprobes {
            lacks(
                "the kernel has no kprobes: other hooks stand in, some of which slow down every system call",
                "use a kernel with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS, as all distributions build it",
            );
        }
        if !self.btf {
            lacks(
                "the kernel has no type information (BTF): its structures cannot be read",
                "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it since 2021",
            );
        }
        shortfalls
    }
}

impl Tracefs {
    fn find(root: &Path) -> Self {
        // Its own mount point, and the one inside debugfs on older systems.
        for path in ["sys/kernel/tracing", "sys/kernel/debug/tracing"] {
            let path = root.join(path);
            match std::fs::read_dir(path.join("events")) {
                Ok(_) => return Self::At(path),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Self::Closed(path),
                Err(_) => {}
            }
        }
        Self::Missing
    }

    /// Where it can be read; `None` when it cannot.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::At(path) => Some(path),
            Self::Closed(_) | Self::Missing => None,
        }
    }
}

impl Lockdown {
    /// The kernel puts the current mode in brackets: `none [integrity] confidentiality`.
    fn parse(text: &str) -> Self {
        if text.contains("[confidentiality]") {
            Self::Confidentiality
        } else if text.contains("[integrity]") {
            Self::Integrity
        } else {
            Self::None
        }
    }
}

/// The container engine, by signs that it leaves. No sign is certain, so only the wording of messages depends on them.
fn container(root: &Path) -> Option<String> {
    if let Ok(name) = std::fs::read_to_string(root.join("run/systemd/container")) {
        return Some(name.trim().to_owned());
    }
    // The engines set it for the first process of the container.
    let environment = std::fs::read(root.join("proc/1/environ")).unwrap_or_default();
    let engine =
        environment.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(b"container="));
    if let Some(name) = engine {
        return Some(String::from_utf8_lossy(name).into_owned());
    }
    let marks = [(".dockerenv", "docker"), ("run/.containerenv", "podman")];
    marks.iter().find(|(path, _)| root.join(path).exists()).map(|(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up `/` with empty files at `files` and these namespaces.
    fn root(files: &[&str], pid: &str, user: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let namespaces = root.path().join("proc/self/ns");
        fs::create_dir_all(&namespaces).unwrap();
        symlink(pid, namespaces.join("pid")).unwrap();
        symlink(user, namespaces.join("user")).unwrap();
        for file in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        root
    }

    const FULL: [&str; 3] = [
        "sys/kernel/tracing/events/enable",
        "sys/bus/event_source/devices/kprobe/type",
        "sys/kernel/btf/vmlinux",
    ];

    #[test]
    fn a_host_with_everything_has_no_shortfalls() {
        let root = root(&FULL, INITIAL_PID_NAMESPACE, INITIAL_USER_NAMESPACE);
        let environment = Environment::read_under(root.path());
        assert_eq!(
            environment,
            Environment {
                container: None,
                foreign_pid_namespace: false,
                foreign_user_namespace: false,
                tracefs: Tracefs::At(root.path().join("sys/kernel/tracing")),
                kprobes: true,
                btf: true,
                lockdown: Lockdown::None,
            }
        );
        assert_eq!(environment.shortfalls(), []);
    }

    #[test]
    fn each_missing_thing_is_listed_with_what_to_do() {
        let root = root(&[".dockerenv"], "pid:[4026532211]", "user:[4026532212]");
        let lacking: Vec<String> =
            Environment::read_under(root.path()).shortfalls().into_iter().map(|each| each.lacking).collect();
        let expected = [
            "user namespace (docker)",
            "PID namespace (docker)",
            "tracefs is not mounted",
            "no kprobes",
            "BTF",
        ];
        assert_eq!(lacking.len(), expected.len(), "{lacking:?}");
        for (lacking, expected) in lacking.iter().zip(expected) {
            assert!(lacking.contains(expected), "{lacking} / {expected}");
        }
    }

    #[test]
    fn tracefs_inside_debugfs_is_found() {
        let root =
            root(&["sys/kernel/debug/tracing/events/enable"], INITIAL_PID_NAMESPACE, INITIAL_USER_NAMESPACE);
        let tracefs = Environment::read_under(root.path()).tracefs;
        assert_eq!(tracefs.path(), Some(root.path().join("sys/kernel/debug/tracing").as_path()));
    }

    #[test]
    fn a_container_is_known_by_what_its_engine_leaves() {
        let of = |file: &str, content: &str| {
            let root = root(&[file], INITIAL_PID_NAMESPACE, INITIAL_USER_NAMESPACE);
            fs::write(root.path().join(file), content).unwrap();
            container(root.path())
        };
        assert_eq!(of("proc/1/environ", "PATH=/bin\0container=lxc\0").as_deref(), Some("lxc"));
        assert_eq!(of("run/systemd/container", "systemd-nspawn\n").as_deref(), Some("systemd-nspawn"));
        assert_eq!(of("run/.containerenv", "").as_deref(), Some("podman"));
        assert_eq!(of("proc/1/environ", "PATH=/bin\0").as_deref(), None);
    }

    #[test]
    fn the_lockdown_mode_is_the_one_in_brackets() {
        assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(Lockdown::parse("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(Lockdown::parse("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        assert_eq!(Lockdown::parse(""), Lockdown::None);
    }

    #[test]
    fn a_new_pid_namespace_differs_from_the_hosts() {
        // It is for a child process only, so other tests are not affected.
        if Environment::read().foreign_pid_namespace || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root in the initial PID namespace");
            return;
        }
        let script = "mount -t proc proc /proc && readlink /proc/self/ns/pid";
        let output = std::process::Command::new("unshare")
            .args(["--pid", "--fork", "--mount", "sh", "-c", script])
            .output()
            .unwrap();
        let link = String::from_utf8(output.stdout).unwrap();
        assert!(link.starts_with("pid:["), "{link} {}", String::from_utf8_lossy(&output.stderr));
        assert_ne!(link.trim(), INITIAL_PID_NAMESPACE);
    }
}
