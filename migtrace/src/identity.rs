//! This host's names.

use std::io;

/// The names that a log carries for its host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    /// The host's name, as `uname -n` gives it.
    pub(crate) host: String,
    /// The kernel's release, as `uname -r` gives it.
    pub(crate) kernel: String,
}

impl Identity {
    /// Asks the kernel (`uname`). The name is that of the calling process's UTS namespace.
    ///
    /// # Errors
    /// The system call's.
    pub(crate) fn read() -> io::Result<Self> {
        let uname = nix::sys::utsname::uname()?;
        Ok(Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_proc() {
        let identity = Identity::read().unwrap();
        let proc = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        assert_eq!(identity.host, proc("hostname").trim_end());
        assert_eq!(identity.kernel, proc("osrelease").trim_end());
    }
}
