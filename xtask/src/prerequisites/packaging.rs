//! What `cargo xtask dist` needs, and the test of the packages.

use super::{Missing, find_all_programs};

/// The programs that make and examine packages, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 4] =
    [("dpkg-deb", "dpkg"), ("objdump", "binutils"), ("rpmbuild", "rpm"), ("tar", "tar")];

pub(super) fn find_programs() -> Result<String, Missing> {
    find_all_programs(&PROGRAMS)
}

/// What makes the disk of a virtual machine in which packages are installed, and the Debian packages that hold it.
const INSTALLERS: [(&str, &str); 2] = [("mke2fs", "e2fsprogs"), ("mmdebstrap", "mmdebstrap")];

pub(super) fn find_installers() -> Result<String, Missing> {
    find_all_programs(&INSTALLERS)
}
