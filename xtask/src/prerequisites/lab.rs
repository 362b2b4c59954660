//! What the lab needs, and the tests that attach programs to the kernel.

use std::fs;

use migtrace_lab::libvirt;

use super::{Action, Missing, find_all_programs, find_library};
use crate::apt;

/// The programs that the lab, the tests and the benchmarks call, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 14] = [
    ("busybox", "busybox-static"),
    ("dpkg", "dpkg"),
    ("ethtool", "ethtool"),
    ("fping", "fping"),
    ("iftop", "iftop"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("ping", "iputils-ping"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("xz", "xz-utils"),
];

pub(super) fn find_programs() -> Result<String, Missing> {
    find_all_programs(&PROGRAMS)
}

/// The init of the guests is one static program.
pub(super) fn find_static_libc() -> Result<String, Missing> {
    find_library("libc.a").map(|path| path.display().to_string()).ok_or_else(|| Missing {
        what: "the C compiler finds no libc.a".into(),
        actions: vec![Action::packages(["gcc", "libc6-dev"])],
    })
}

/// The kernel of the guests is downloaded as a Debian package: that needs the lists, and no installation.
pub(super) fn check_package_lists() -> Result<String, Missing> {
    const KERNEL: &str = "linux-image-cloud-amd64";
    if !apt::is_available() {
        return Ok(
            "no apt-get here: the guests of the lab need a kernel that was downloaded elsewhere".into()
        );
    }
    if apt::offers(KERNEL) {
        return Ok(format!("they have {KERNEL}"));
    }
    Err(Missing { what: format!("they do not have {KERNEL}"), actions: vec![Action::PackageLists] })
}

/// The tests with libvirt unpack it rather than install it, so that no daemon starts here.
pub(super) fn find_libvirt() -> Result<String, Missing> {
    match libvirt::fetched() {
        Ok(Some(directory)) => Ok(directory.display().to_string()),
        Ok(None) if !apt::is_available() => {
            Ok("no apt-get here: the tests with libvirt need a folder that was filled elsewhere".into())
        }
        Ok(None) => Err(Missing { what: "not downloaded yet".into(), actions: vec![Action::Libvirt] }),
        Err(error) => Err(Missing { what: format!("{error:#}"), actions: vec![Action::Libvirt] }),
    }
}

pub(super) fn check_tracefs() -> Result<String, Missing> {
    const MOUNT_POINT: &str = "/sys/kernel/tracing";
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // Looking inside would need root.
    let mounted = mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([MOUNT_POINT, "tracefs"]));
    if mounted {
        return Ok(MOUNT_POINT.into());
    }
    let command = ["mount", "-t", "tracefs", "nodev", MOUNT_POINT].map(Into::into).into();
    let mount = Action::Run { what: "Mounting tracefs", environment: Vec::new(), command, needs_root: true };
    Err(Missing { what: format!("not mounted at {MOUNT_POINT}"), actions: vec![mount] })
}
