//! Why QEMU could not be asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why QEMU could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// There is no such socket, or it may not be opened.
    #[error("cannot connect to the QMP socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// QEMU serves one client per socket, and this socket has one already (libvirt, for its own VMs).
    #[error(
        "the QMP socket {} gives no greeting: another client (libvirt?) uses it, or QEMU hangs; \
         give QEMU a second QMP socket (-qmp unix:PATH,server=on,wait=off)",
        path.display()
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The other end does not speak QMP.
    #[error("{} does not speak QMP: {what}", path.display())]
    NotQmp {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {command} within {} ms", limit.as_millis())]
    Silent {
        /// The command.
        command: String,
        /// How long it was given.
        limit: Duration,
    },
    /// QEMU has ended, or closed the connection.
    #[error("QEMU closed the QMP connection during {command}")]
    Closed {
        /// The command.
        command: String,
    },
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error: `CommandNotFound`, `GenericError`, ...
        class: String,
        /// QEMU's explanation.
        description: String,
    },
    /// The connection broke.
    #[error("the QMP connection broke during {command}")]
    Broken {
        /// The command.
        command: String,
        /// What the system says.
        source: io::Error,
    },
}
