//! The initramfs of the test VM: everything that the lab and its tests run, and nothing else.

use std::path::{Path, PathBuf};

use anyhow::Result;
use migtrace_lab::kernels::{self, Kernel};
use migtrace_lab::vm::Initramfs;

/// The modules that the lab needs of a cloud kernel.
const MODULES: [&str; 18] = [
    "kvm_amd",
    "tun",
    "veth",
    "bridge",
    "8021q",
    "vxlan",
    "geneve",
    "sch_tbf",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    "act_gact",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "nft_numgen",
];

/// The modules that the lab needs of older kernels only.
const FORMER_MODULES: [&str; 1] = [
    // A part of nf_tables since Linux 5.17.
    "nft_counter",
];

/// The kernel series of the guests inside: the lab's default.
const GUEST_KERNEL: &str = "6.1";

/// The lab's programs that not every machine has, and their paths inside.
const PROGRAMS: [(&str, &str); 3] =
    [("tc", "usr/sbin/tc"), ("ethtool", "usr/sbin/ethtool"), ("nft", "usr/sbin/nft")];

/// The tests of the library's kernel side whose outcome may depend on the kernel: frames of every shape and random ones,
/// handshakes, filters. Each loads all programs, which takes seconds on an emulated CPU.
const KERNEL_TESTS: [&str; 7] = [
    "every_shape_of_request_and_reply_is_followed_in_the_kernel",
    "every_shape_of_headers_is_counted_as_on_the_wire_in_both_directions",
    "the_first_payload_is_read_after_every_shape_of_headers",
    "every_packet_goes_on_to_the_next_program",
    "a_handshake_opens_a_flow_at_either_end_with_its_first_packet",
    "a_new_connection_between_the_same_ends_is_a_new_flow",
    "the_next_start_removes_the_filters_of_killed_runs_and_no_others",
];

/// The programs under test.
pub(super) struct Binaries {
    /// `migtrace`.
    pub(super) migtrace: PathBuf,
    /// The unit tests of the library, with those of its kernel side.
    pub(super) kernel_tests: PathBuf,
    /// The tests in the lab.
    pub(super) lab_tests: PathBuf,
}

/// Writes the initramfs of a VM that boots `kernel` to `path`.
///
/// # Errors
/// When a part of it is missing or cannot be read: names it.
pub(super) fn write(kernel: &Kernel, binaries: &Binaries, path: &Path) -> Result<()> {
    let mut modules = MODULES.to_vec();
    for former in FORMER_MODULES {
        if kernel.has_module(former)? {
            modules.push(former);
        }
    }
    let mut image = Initramfs::new(kernel, &modules)?;
    for (program, target) in PROGRAMS {
        image.installed(program, target)?;
    }
    image.program(&binaries.migtrace, "usr/bin/migtrace")?;
    image.program(&binaries.kernel_tests, "tests/kernel")?;
    image.file("tests/kernel.names", 0o644, KERNEL_TESTS.join("\n").as_bytes());
    image.program(&binaries.lab_tests, "tests/lab")?;
    add_guest(&mut image)?;
    image.write(path)
}

/// The kernel and the init of the guests, laid out as in the cache of the lab.
fn add_guest(image: &mut Initramfs) -> Result<()> {
    image.copy(&migtrace_lab::init()?, "lab/init", 0o755)?;
    let kernel = kernels::fetch(GUEST_KERNEL)?;
    let root = format!("lab/kernel-{GUEST_KERNEL}");
    image.copy(&kernel.image, &format!("{root}/boot/vmlinuz-{}", kernel.release), 0o644)?;
    let modules = format!("{root}/lib/modules/{}", kernel.release);
    image.copy(&kernel.modules.join("modules.builtin"), &format!("{modules}/modules.builtin"), 0o644)?;
    for module in kernel.modules(&migtrace_lab::GUEST_MODULES)? {
        image.file(&format!("{modules}/{}.ko", module.name), 0o644, &module.content);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    #[test]
    fn every_kernel_test_that_the_vm_runs_exists() {
        rules::assert_tests_exist(&KERNEL_TESTS);
    }
}
