//! The directories /etc, /var and /run of a host with libvirtd.

use crate::host::Host;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where libvirtd and QEMU find the files of the lab, inside the host's mount namespace.
pub(super) const PACKAGES: &str = "/var/lib/lab/packages";
pub(super) const KERNEL: &str = "/var/lib/lab/vmlinuz";
pub(super) const INITRAMFS: &str = "/var/lib/lab/initramfs";
pub(super) const IMAGE: &str = "/var/lib/libvirt/images/guest.qcow2";
pub(super) const CONSOLE: &str = "/var/log/libvirt/console.log";
const LOG: &str = "/var/log/libvirt/libvirtd.log";
const SOCKET: &str = "/run/libvirt/libvirt-sock";
const CACHE: &str = "/var/cache/libvirt";
/// Where QEMU looks for certificates. The driver does not start without this directory.
const CERTIFICATES: &str = "/etc/pki/qemu";

/// The directories that are bound to /etc, /var and /run.
pub(super) const BOUND: [&str; 3] = ["etc", "var", "run"];

/// The files of one host, seen from outside.
#[derive(Debug, Clone)]
pub(super) struct HostFiles {
    home: PathBuf,
}

impl HostFiles {
    /// Writes the configuration of a host into `home`.
    pub(super) fn write(home: &Path, host: &Host, hosts: &[&Host]) -> Result<Self> {
        let files = Self { home: home.into() };
        let directories = [
            "/etc/libvirt",
            CERTIFICATES,
            "/var/cache",
            "/var/tmp",
            "/var/lib/libvirt/images",
            "/var/log/libvirt",
            "/run/lock",
            PACKAGES,
        ];
        for directory in directories {
            let path = files.path(directory);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        for (link, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
            let path = files.path(link);
            symlink(target, &path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let mut names = "127.0.0.1 localhost\n".to_owned();
        for host in hosts {
            names += &format!("{} {}\n", host.ipv4(), host.role());
        }
        for (path, text) in [
            ("/etc/hosts", names.as_str()),
            // libvirtd looks up its usual user and group, whatever qemu.conf says.
            ("/etc/passwd", "root:x:0:0::/var/tmp:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/false\n"),
            ("/etc/group", "root:x:0:\nlibvirt-qemu:x:64055:\n"),
            ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            ("/etc/libvirt/libvirtd.conf", &libvirtd_conf(host)),
            ("/etc/libvirt/qemu.conf", &qemu_conf(host)),
            // What is bound to these needs a file to be bound to.
            (KERNEL, ""),
            (INITRAMFS, ""),
        ] {
            let path = files.path(path);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(files)
    }

    /// Where a path of the host is for this process.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.home.join(inside.trim_start_matches('/'))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path(SOCKET)
    }

    pub(super) fn certificates(&self) -> PathBuf {
        self.path(CERTIFICATES)
    }

    /// What libvirtd knows about this machine's QEMUs. To ask them takes it many seconds.
    pub(super) fn cache(&self) -> PathBuf {
        self.path(CACHE)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.path(IMAGE)
    }

    /// What libvirtd wrote to its log, from the byte `from` on.
    pub(super) fn log(&self, from: usize) -> String {
        let log = read(&self.path(LOG));
        log.get(from..).unwrap_or_default().to_owned()
    }

    /// What the guest wrote to its serial console while it ran here.
    pub(super) fn console(&self) -> String {
        read(&self.path(CONSOLE))
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Both hosts are this machine, with its SMBIOS UUID: libvirt would not migrate between them, so each has a UUID of its own.
/// The log has what libvirtd and QEMU say to each other.
fn libvirtd_conf(host: &Host) -> String {
    let address = host.ipv4();
    let number = address.octets()[3];
    format!(
        "host_uuid = \"aaaaaaaa-0000-4000-8000-{number:012}\"\n\
         listen_tls = 0\n\
         listen_tcp = 1\n\
         listen_addr = \"{address}\"\n\
         auth_tcp = \"none\"\n\
         auth_unix_ro = \"none\"\n\
         auth_unix_rw = \"none\"\n\
         log_level = 3\n\
         log_filters = \"2:qemu.qemu_monitor\"\n\
         log_outputs = \"2:file:{LOG}\"\n"
    )
}

/// QEMU stays in the namespaces of libvirtd, as root, without cgroups, AppArmor and other daemons.
fn qemu_conf(host: &Host) -> String {
    let address = host.ipv4();
    format!(
        "user = \"root\"\n\
         group = \"root\"\n\
         dynamic_ownership = 0\n\
         remember_owner = 0\n\
         security_driver = \"none\"\n\
         namespaces = []\n\
         cgroup_controllers = []\n\
         stdio_handler = \"file\"\n\
         seccomp_sandbox = 0\n\
         clear_emulator_capabilities = 0\n\
         migration_host = \"{address}\"\n\
         migration_address = \"{address}\"\n\
         migrate_tls_x509_cert_dir = \"{CERTIFICATES}\"\n\
         migrate_tls_x509_verify = 1\n"
    )
}
