//! What `cargo xtask dist` needs.

use super::{Missing, find_all_programs};

/// The programs that make and examine packages, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 4] =
    [("dpkg-deb", "dpkg"), ("objdump", "binutils"), ("rpmbuild", "rpm"), ("tar", "tar")];

pub(super) fn find_programs() -> Result<String, Missing> {
    find_all_programs(&PROGRAMS)
}
