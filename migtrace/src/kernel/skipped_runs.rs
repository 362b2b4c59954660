//! How often the kernel has skipped a program. It takes one system call; `/proc/self/fdinfo` would take ten.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::bpf_syscall::bpf;

/// The command (include/uapi/linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `union bpf_attr`, as this command has it.
#[repr(C)]
struct Query {
    fd: u32,
    info_bytes: u32,
    info: u64,
}

/// `struct bpf_prog_info`. The zeros request none of its optional lists.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    other: [u64; 26],
    /// Linux 5.12 and later.
    recursion_misses: u64,
}

/// How often a program did not run because one was already running on that CPU; `None` where the kernel does
/// not report it.
pub(super) fn of(program: BorrowedFd<'_>) -> Option<u64> {
    let mut info = ProgramInfo::default();
    let mut query = Query {
        fd: program.as_raw_fd().cast_unsigned(),
        info_bytes: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: `Query` is laid out as the kernel expects for this command. It holds the size of `info`, which
    // outlives the call, and the kernel writes to nothing else.
    let result = unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut query) };
    // An older kernel has written less.
    let is_reported = result.is_ok() && query.info_bytes as usize == size_of::<ProgramInfo>();
    is_reported.then_some(info.recursion_misses)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::kernel::offsets::Offsets;
    use crate::kernel::{Settings, object, testing};

    #[test]
    fn the_count_is_the_one_in_the_descriptors_fdinfo() {
        if !testing::may_load() {
            return;
        }
        let ebpf = object::load(&Settings::default(), &Offsets::default()).unwrap();
        let programs: Vec<_> = ebpf.programs().filter_map(|(_, program)| program.fd().ok()).collect();
        assert!(!programs.is_empty());
        for program in programs {
            let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
            let info = fs::read_to_string(path).unwrap();
            let shown = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
            assert_eq!(of(program.as_fd()), shown.map(|count| count.trim().parse().unwrap()), "{info}");
        }
    }
}
