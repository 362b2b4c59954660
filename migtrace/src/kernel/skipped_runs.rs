//! How often the kernel has skipped a program, asked with one system call: to read the same in `/proc/self/fdinfo` takes ten.

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

/// `struct bpf_prog_info`. Zeros ask for none of the lists that may go with it.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    other: [u64; 26],
    /// Linux 5.12 and later.
    recursion_misses: u64,
}

/// How often this program did not run because one ran already on that CPU. `None`: this kernel does not tell.
pub(super) fn of(program: BorrowedFd<'_>) -> Option<u64> {
    let mut info = ProgramInfo::default();
    let mut query = Query {
        fd: program.as_raw_fd().cast_unsigned(),
        info_bytes: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: `query` says how long `info` is, and the kernel writes to nothing else.
    let result = unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut query) };
    // A kernel that knows less of a program has written less.
    let is_told = result.is_ok() && query.info_bytes as usize == size_of::<ProgramInfo>();
    is_told.then_some(info.recursion_misses)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::kernel::{RetransmitOffsets, Settings, SocketOffsets, load_object};

    #[test]
    fn it_is_what_the_kernel_says_of_the_descriptor() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: loading eBPF programs needs root");
            return;
        }
        let offsets = (SocketOffsets::default(), RetransmitOffsets::default());
        let ebpf = load_object(&Settings::default(), &offsets.0, &offsets.1, 0).unwrap();
        let programs: Vec<_> = ebpf.programs().filter_map(|(_, program)| program.fd().ok()).collect();
        assert!(!programs.is_empty());
        for program in programs {
            let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
            let info = fs::read_to_string(path).unwrap();
            let told = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
            assert_eq!(of(program.as_fd()), told.map(|told| told.trim().parse().unwrap()), "{info}");
        }
    }
}
