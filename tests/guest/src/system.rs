//! The first tasks of an init: file systems and modules.

use std::error::Error;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

/// Mounts `/proc`, `/sys` and `/dev`.
pub(crate) fn mount_filesystems() -> Result<(), Box<dyn Error>> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target).map_err(|error| format!("cannot make {target}: {error}"))?;
        let kind = CString::new(kind)?;
        let path = CString::new(target)?;
        // SAFETY: three valid C strings, and no file system here reads the null data argument.
        let result = unsafe {
            libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), libc::MS_NOSUID, std::ptr::null())
        };
        check(result).map_err(|error| format!("cannot mount {target}: {error}"))?;
    }
    Ok(())
}

/// Loads `/modules/*`, which the lab has numbered so that each module follows its dependencies.
pub(crate) fn load_modules() -> Result<(), Box<dyn Error>> {
    let mut paths: Vec<_> =
        fs::read_dir("/modules")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path)?;
        const NO_PARAMETERS: &CStr = c"";
        // SAFETY: the descriptor is open for the whole call, the parameters are a C string.
        let result = unsafe {
            libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), NO_PARAMETERS.as_ptr(), 0 as libc::c_int)
        };
        check(result as libc::c_int).map_err(|error| format!("cannot load {}: {error}", path.display()))?;
    }
    Ok(())
}

/// The error of a system call that returned a negative number.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
