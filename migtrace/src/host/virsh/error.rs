//! Why libvirt could not be asked.

use std::io;
use std::time::Duration;

/// Why libvirt could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VirshError {
    /// There is no such program, or it may not be run.
    #[error("cannot run `{program}`; --virsh COMMAND says how to run virsh here")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// It runs, but not as virsh does.
    #[error("`{program} --version` failed{}; --virsh COMMAND says how to run virsh here", reason(.said))]
    NotVirsh {
        /// The program.
        program: String,
        /// What it said.
        said: String,
    },
    /// It could not say what was asked.
    #[error("virsh failed{}", reason(.said))]
    Failed {
        /// What it said.
        said: String,
    },
    /// It took too long, and was killed.
    #[error("virsh has not answered within {} s", limit.as_secs())]
    Silent {
        /// How long it was given.
        limit: Duration,
    },
    /// Its output cannot be that of `virsh domjobinfo --rawstats`.
    #[error("virsh answered with something else than statistics: {what}")]
    NotStatistics {
        /// What is wrong with it.
        what: String,
    },
}

fn reason(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}
