//! The Linux capabilities of this thread.

use std::fmt;
use std::fs;
use std::io;

/// The capabilities of Linux by number (`include/uapi/linux/capability.h`), without their prefix `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability; its text is its name, as `CAP_BPF`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Capability(u8);

impl Capability {
    /// Read and list any file: `tracefs`, other users' `/proc/PID/fd`.
    pub const DAC_READ_SEARCH: Self = Self(2);
    /// Attach programs to interfaces, load TC programs.
    pub const NET_ADMIN: Self = Self(12);
    /// Open raw sockets.
    pub const NET_RAW: Self = Self(13);
    /// Look into other users' processes: their namespaces, their open files.
    pub const SYS_PTRACE: Self = Self(19);
    /// Nearly everything; includes [`Self::BPF`] and [`Self::PERFMON`].
    pub const SYS_ADMIN: Self = Self(21);
    /// Load tracing programs, open tracepoints and kprobes.
    pub const PERFMON: Self = Self(38);
    /// Create maps, load programs.
    pub const BPF: Self = Self(39);

    /// What migtrace needs to record.
    pub const NEEDED: [Self; 5] =
        [Self::BPF, Self::PERFMON, Self::NET_ADMIN, Self::DAC_READ_SEARCH, Self::SYS_PTRACE];
    /// What migtrace needs to probe.
    pub const NEEDED_TO_PROBE: [Self; 3] = [Self::BPF, Self::NET_ADMIN, Self::NET_RAW];
    /// What migtrace needs to follow other programs' echo requests.
    pub const NEEDED_TO_LISTEN: [Self; 2] = [Self::BPF, Self::NET_ADMIN];
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => write!(f, "CAP_{name}"),
            None => write!(f, "capability {}", self.0),
        }
    }
}

/// The effective capabilities of a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted, or has no line `CapEff`.
    pub fn read() -> io::Result<Self> {
        let path = "/proc/thread-self/status";
        let status = fs::read_to_string(path)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot read {path}: {error}")))?;
        Self::parse(&status)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} has no line CapEff")))
    }

    fn parse(status: &str) -> Option<Self> {
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(Self)
    }

    /// Whether the thread may do what needs `capability`. The kernel accepts `CAP_SYS_ADMIN` in place of `CAP_BPF` and
    /// `CAP_PERFMON`, which were once part of it (`bpf_capable`, `perfmon_capable`).
    #[must_use]
    pub fn allow(self, capability: Capability) -> bool {
        let implied = [Capability::BPF, Capability::PERFMON].contains(&capability);
        self.holds(capability) || implied && self.holds(Capability::SYS_ADMIN)
    }

    const fn holds(self, capability: Capability) -> bool {
        self.0 >> capability.0 & 1 == 1
    }

    /// Those of `needed` that are not allowed, in that order.
    #[must_use]
    pub fn missing(self, needed: &[Capability]) -> Vec<Capability> {
        needed.iter().copied().filter(|&capability| !self.allow(capability)).collect()
    }

    /// All that are held, by number.
    pub fn held(self) -> impl Iterator<Item = Capability> {
        (0..64).map(Capability).filter(move |&capability| self.holds(capability))
    }
}

/// What to do about missing capabilities; `None` when none is missing.
#[must_use]
pub fn advice(missing: &[Capability]) -> Option<String> {
    if missing.is_empty() {
        return None;
    }
    let names = |separator: &str| missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator);
    Some(format!(
        "{} missing; run as root, or give the binary what it needs: setcap {}=ep $(command -v migtrace)",
        names(", "),
        names(",").to_lowercase(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mask: &str) -> Capabilities {
        Capabilities::parse(&format!("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask}\n")).unwrap()
    }

    #[test]
    fn capabilities_have_the_names_of_the_kernel() {
        // Some numbers from either half, so that a name missing from the table is noticed.
        assert_eq!(Capability(0).to_string(), "CAP_CHOWN");
        assert_eq!(Capability::NET_ADMIN.to_string(), "CAP_NET_ADMIN");
        assert_eq!(Capability::NET_RAW.to_string(), "CAP_NET_RAW");
        assert_eq!(Capability::SYS_PTRACE.to_string(), "CAP_SYS_PTRACE");
        assert_eq!(Capability::SYS_ADMIN.to_string(), "CAP_SYS_ADMIN");
        assert_eq!(Capability::PERFMON.to_string(), "CAP_PERFMON");
        assert_eq!(Capability::BPF.to_string(), "CAP_BPF");
        assert_eq!(Capability(40).to_string(), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(Capability(63).to_string(), "capability 63");
    }

    #[test]
    fn root_has_every_capability_and_nobody_has_none() {
        assert_eq!(of("000001ffffffffff").missing(&Capability::NEEDED), []);
        assert_eq!(of("0000000000000000").missing(&Capability::NEEDED), Capability::NEEDED);
        assert_eq!(of("0000000000000000").held().count(), 0);
        assert_eq!(of("000001ffffffffff").held().count(), 41);
    }

    #[test]
    fn one_capability_is_one_bit() {
        let capabilities = of("0000008000001000");
        assert_eq!(capabilities.held().collect::<Vec<_>>(), [Capability::NET_ADMIN, Capability::BPF]);
        assert_eq!(
            capabilities.missing(&Capability::NEEDED),
            [Capability::PERFMON, Capability::DAC_READ_SEARCH, Capability::SYS_PTRACE]
        );
    }

    #[test]
    fn sys_admin_includes_bpf_and_perfmon_but_not_net_admin() {
        let capabilities = of("0000000000200000");
        assert_eq!(
            capabilities.missing(&[Capability::BPF, Capability::PERFMON, Capability::NET_ADMIN]),
            [Capability::NET_ADMIN]
        );
    }

    #[test]
    fn advice_names_what_is_missing() {
        assert_eq!(advice(&[]), None);
        assert_eq!(
            advice(&[Capability::BPF, Capability::NET_ADMIN]).unwrap(),
            "CAP_BPF, CAP_NET_ADMIN missing; run as root, or give the binary what it needs: \
             setcap cap_bpf,cap_net_admin=ep $(command -v migtrace)"
        );
    }

    #[test]
    fn a_thread_reads_its_own_capabilities() {
        let root = nix::unistd::geteuid().is_root();
        assert!(root || Capabilities::read().unwrap().held().count() == 0);
        assert!(Capabilities::parse("Name:\tx\n").is_none());
    }
}
