//! Why a peer's events do not come, or do not come any more.

use std::io;
use std::process::ExitStatus;

use crate::event::LogErrorKind;

/// How the shell that runs the remote shell says that there is none.
pub(super) const NO_REMOTE_SHELL: i32 = 125;
/// How `ssh` says that it, and not what it ran, has failed.
const SSH_FAILED: i32 = 255;
/// How a shell says that it does not know a command, or may not run it.
const NOT_FOUND: i32 = 127;
const NOT_ALLOWED: i32 = 126;
/// How a command says that it does not know an option or subcommand.
const WRONG_USAGE: i32 = 2;

/// Why a peer's events do not come, or do not come any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The remote shell cannot be started.
    #[error("cannot run `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// There is no remote shell on this host.
    #[error("cannot run `{program}`: there is no such program on this host")]
    NoRemoteShell {
        /// The program.
        program: String,
    },
    /// `ssh` cannot reach the host.
    #[error("it cannot be reached{said}")]
    Unreachable {
        /// What was said about it.
        said: Said,
    },
    /// The host has no migtrace.
    #[error(
        "there is no `{command}` on it{said}; install migtrace there, or say with --peer-command how to run it"
    )]
    NotInstalled {
        /// How it should be run there.
        command: String,
        /// What was said about it.
        said: Said,
    },
    /// The host's migtrace does not know how to serve another one, or writes other events.
    #[error("its migtrace is of another version{said}; install the same version on all hosts")]
    OtherVersion {
        /// What was said about it.
        said: Said,
    },
    /// Something else than events came.
    #[error(
        "it wrote something else than events: {what}; does a shell there print something when it starts?"
    )]
    NotEvents {
        /// What is wrong.
        what: String,
    },
    /// It could not begin to record, or go on.
    #[error("it could not record{said}")]
    Failed {
        /// What was said about it.
        said: Said,
    },
    /// It has not begun in time.
    #[error("it has not begun to record within {seconds} s{said}")]
    TooLate {
        /// How long was waited.
        seconds: u64,
        /// What was said about it.
        said: Said,
    },
    /// Its recording has ended, although nobody here has told it to.
    #[error("its recording was ended there")]
    EndedThere,
    /// The connection broke off.
    #[error("the connection broke off{said}")]
    Lost {
        /// What was said about it.
        said: Said,
    },
}

/// What came on standard error to explain a failure: the last error message or, without one, the last line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Said(pub Option<String>);

impl Said {
    /// How error messages begin: migtrace's, and those about its command line.
    const ERRORS: [&str; 2] = ["migtrace: ", "error: "];

    fn is_error(line: &str) -> bool {
        Self::ERRORS.iter().any(|lead| line.starts_with(lead))
    }

    /// Takes a line instead, unless the one before explains more. Returns whether it did.
    pub(super) fn replace_with(&mut self, line: &str) -> bool {
        let explains_less = self.0.as_deref().is_some_and(Self::is_error) && !Self::is_error(line);
        if !explains_less {
            self.0 = Some(line.to_owned());
        }
        !explains_less
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(line) => {
                let bare = Self::ERRORS.iter().find_map(|lead| line.strip_prefix(lead));
                write!(f, ": {}", bare.unwrap_or(line))
            }
            None => Ok(()),
        }
    }
}

/// How the connection ended.
pub(super) struct End {
    /// The first event had come.
    pub(super) begun: bool,
    /// The last line of the log had come.
    pub(super) complete: bool,
    /// Nothing came for too long.
    pub(super) silent: bool,
    /// What was wrong with a line.
    pub(super) broken: Option<LogErrorKind>,
    /// How the remote shell ended; none if it had to be killed.
    pub(super) status: Option<ExitStatus>,
    pub(super) said: Said,
}

impl End {
    /// Why there are no more events; none if there were to be no more.
    pub(super) fn why(self, program: &str, command: &str) -> Option<PeerError> {
        let Self { begun, complete, silent, broken, status, said } = self;
        let code = status.and_then(|status| status.code());
        if complete {
            return None;
        }
        Some(match (begun, broken, code) {
            (_, Some(LogErrorKind::UnknownSchema(_)), _) => PeerError::OtherVersion { said: Said::default() },
            (_, Some(LogErrorKind::NotALog(what) | LogErrorKind::Corrupt(what)), _) => {
                PeerError::NotEvents { what }
            }
            (true, _, Some(1)) => PeerError::Failed { said },
            (true, ..) if silent => {
                PeerError::Lost { said: Said(Some("nothing came for half a minute".into())) }
            }
            (true, _, Some(SSH_FAILED)) => PeerError::Lost { said },
            // What it said while it recorded is no reason.
            (true, ..) => PeerError::Lost { said: Said::default() },
            (false, _, Some(NO_REMOTE_SHELL)) => PeerError::NoRemoteShell { program: program.to_owned() },
            (false, _, Some(SSH_FAILED)) => PeerError::Unreachable { said },
            (false, _, Some(NOT_FOUND | NOT_ALLOWED)) => {
                PeerError::NotInstalled { command: command.to_owned(), said }
            }
            (false, _, Some(WRONG_USAGE)) => PeerError::OtherVersion { said },
            (false, ..) => PeerError::Failed { said },
        })
    }
}
