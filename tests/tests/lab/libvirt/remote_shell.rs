//! The remote shell of the drivers of studies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use migtrace_lab::{Host, LibvirtLab};

/// A remote shell that comes to where the libvirtd of a host sees its files. Only migtrace sees those of the machine, as the
/// kernel's tracing is not there.
pub(super) struct RemoteShell<'a> {
    lab: &'a LibvirtLab,
    path: PathBuf,
}

impl<'a> RemoteShell<'a> {
    /// Writes it into `folder`.
    pub(super) fn write(lab: &'a LibvirtLab, folder: &Path) -> Self {
        let [source, destination] = lab.daemons();
        let machine = lab.remote_shell().unwrap();
        // What runs on a host goes on if the shell is killed, as with ssh.
        let script = format!(
            "#!/bin/sh\ncase $2 in \"migtrace \"*) exec {machine} \"$@\" ;; esac\n\
             case $1 in src) pid={source} ;; dst) pid={destination} ;; esac\nshift\n\
             exec setsid --wait nsenter --target $pid --mount --net --uts --wd=/ \\\n  \
             env PATH=/var/lib/lab/packages/usr/bin:$PATH sh -c \"$*\"\n"
        );
        let path = folder.join("shell");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { lab, path }
    }

    /// The program, as `RSH` names it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command line on a host, which must succeed, and returns what it prints.
    pub(super) fn run(&self, host: &Host, line: &str) -> String {
        let mut shell = Command::new(&self.path);
        let output = self.lab.observer().run(shell.args([host.role(), line])).unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}
